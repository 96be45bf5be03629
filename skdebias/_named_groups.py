"""Groups by name: how messages list them, and whether anything can be done by them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skdebias._groups import Groups
from skdebias._warnings import warn_once

# Groups of fewer rows say nothing of how a model does on others like them.
_SMALL_GROUP = 5
# Scores over few groups are read one by one; over so many small ones they mislead.
_MANY_GROUPS = 10
# Numbers of more distinct values than this are taken for measurements.
_CATEGORIES = 20


class UnusableAttributesWarning(UserWarning):
    """Warning that attributes form groups by which nothing can be balanced or judged.

    The attribute does not vary within any class, or has nearly one value per row, or
    a group has fewer than 5 rows. The message names such groups and their sizes. Turn
    it into an error with
    ``warnings.simplefilter("error", UnusableAttributesWarning)``.
    """


@dataclass(frozen=True, eq=False)
class NamedGroups:
    """Groups with the labels and attribute values that their codes stand for.

    Parameters
    ----------
    groups : Groups
    labels : ndarray of shape (n_classes,)
    attribute_values : ndarray of shape (n_values,) or (n_values, n_columns)
    """

    groups: Groups
    labels: np.ndarray
    attribute_values: np.ndarray

    def describe(self, group: int) -> str:
        """Name one group and its size."""
        label, value = self.groups.cells[group]
        count = self.groups.sizes[group]
        return (
            f"(label={_plain(self.labels[label])}, "
            f"attribute={_plain(self.attribute_values[value])}): {count}"
        )

    def unusable_for_training(self, name: str = "attributes") -> str:
        """Return what keeps the attributes from balancing a fit, or nothing.

        Parameters
        ----------
        name : str, default="attributes"

        Returns
        -------
        str
            A sentence that names groups and sizes, or the empty string.
        """
        if self.groups.n_groups == len(np.unique(self.groups.cells[:, 0])):
            return self._constant(name)
        if self._is_scattered:
            return self._scattered(name)
        return self._rare(name) if len(self._small) else ""

    def unusable_for_scores(self, name: str = "attributes") -> str:
        """Return what keeps a score over groups from meaning anything, or nothing.

        A table or a minimum over few groups can be read with their sizes beside it;
        the worst of many groups of a handful of rows is about 0, whatever the model.
        An attribute that does not vary within classes, as in a test set of nothing but
        conflicting rows, is fine; one that has a single value says nothing.

        Parameters
        ----------
        name : str, default="attributes"

        Returns
        -------
        str
            A sentence that names groups and sizes, or the empty string.
        """
        if len(np.unique(self.groups.cells[:, 1])) == 1:
            return self._constant(name)
        return self._scattered(name) if self._is_scattered else ""

    @property
    def _small(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.groups.sizes < _SMALL_GROUP)

    @property
    def _is_scattered(self) -> bool:
        """Whether most groups are small, and there are many."""
        n_small = len(self._small)
        return 2 * n_small > self.groups.n_groups and n_small >= _MANY_GROUPS

    def _listed(self, groups: Iterable[int]) -> str:
        return join_descriptions([self.describe(group) for group in groups])

    def _constant(self, name: str) -> str:
        used = np.unique(self.groups.cells[:, 1])
        if len(used) == 1:
            reason = f"{name} holds one value, {_plain(self.attribute_values[used[0]])}"
        else:
            reason = f"{name} does not vary within any class"
        return (
            f"{reason}, so that the groups are the classes: "
            f"{self._listed(range(self.groups.n_groups))}. Pass an attribute "
            "that varies, or none."
        )

    def _rare(self, name: str) -> str:
        small = self._small
        return (
            f"{name} forms {len(small)} of {self.groups.n_groups} groups with fewer "
            f"than {_SMALL_GROUP} rows: {self._listed(small)}. They decide "
            "as much as the large groups where groups count alike: merge rare values "
            "with others, drop these rows, or get more of them."
        )

    def _scattered(self, name: str) -> str:
        small = self._small
        n_values = len(np.unique(self.groups.cells[:, 1]))
        remedy = "pass what many rows have in common, such as their source"
        if _are_numbers(self.attribute_values) and n_values > _CATEGORIES:
            remedy = (
                "bin numbers that are measured with "
                "sklearn.preprocessing.KBinsDiscretizer(encode='ordinal'), or pass "
                "what many rows have in common"
            )
        return (
            f"{name} has {n_values} values in {len(self.groups.ids)} rows, and "
            f"{len(small)} of {self.groups.n_groups} groups have fewer than "
            f"{_SMALL_GROUP} rows: {self._listed(small)}. Nothing can be learnt or "
            f"said of such groups: {remedy}."
        )


def warn_of_unusable(*reasons: str) -> None:
    """Warn once of attributes that cannot work, if there is anything to say.

    Parameters
    ----------
    *reasons : str
        What `NamedGroups.unusable_for_training` and the like returned.
    """
    texts = [reason for reason in reasons if reason]
    if texts:
        warn_once(" ".join(texts), UnusableAttributesWarning)


def join_descriptions(descriptions: Sequence[str], limit: int = 5) -> str:
    """List some groups, and say how many more there are."""
    text = ", ".join(descriptions[:limit])
    extra = len(descriptions) - limit
    return text if extra <= 0 else f"{text} and {extra} more"


def _plain(value: Any) -> Any:
    """Return a value as Python writes it, crossed columns as a tuple."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:g}" if isinstance(value, float) else value


def _are_numbers(values: np.ndarray) -> bool:
    if values.dtype.kind == "O":
        return all(isinstance(v, (int, float)) for v in values.flat)
    return values.dtype.kind in "iuf"
