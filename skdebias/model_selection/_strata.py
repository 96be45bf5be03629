"""What both splitters share: from labels and attributes to numbered groups."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import type_of_target

from skdebias._annotations import read_annotations, refuse_names
from skdebias._attributes import encode_attributes, form_groups, on_host
from skdebias._named_groups import NamedGroups, warn_of_unusable
from skdebias._sklearn import _num_samples

MISSING_ATTRIBUTES = (
    "{name}.split needs the spurious attributes of the samples: pass "
    "attributes=... . Inside GridSearchCV or cross_validate, scikit-learn hands them "
    "on only when metadata routing is on. Add this line before the call: "
    "sklearn.set_config(enable_metadata_routing=True), and pass attributes to fit "
    "(or params={{'attributes': ...}} to cross_validate). Without routing, pass "
    "cv=list(splitter.split(X, y, attributes=...)). To stratify on labels only, use "
    "scikit-learn's own splitter."
)

# What messages call the attribute of rows that have none.
_NOT_ANNOTATED = "not annotated"


def make_strata(X: Any, y: Any, attributes: Any, *, name: str) -> NamedGroups:
    """Validate the arguments of a splitter called `name` and number the groups."""
    if attributes is None:
        raise TypeError(MISSING_ATTRIBUTES.format(name=name))
    if y is None:
        raise ValueError(f"{name}.split needs the labels: pass y.")
    refuse_names(attributes, X)
    check_consistent_length(X, y)
    y = column_or_1d(on_host(y), input_name="y")
    kind = type_of_target(y, input_name="y")
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"y must hold class labels, but its type is {kind!r}. Groups are formed "
            "of labels and attributes, so there is nothing to stratify on."
        )
    array, annotated = read_annotations(attributes, _num_samples(X))
    if not annotated.all():
        array = _with_gaps_as_a_value(array, annotated)
    named = NamedGroups(*form_groups(y, array))
    warn_of_unusable(named.unusable_for_scores())
    return named


def _with_gaps_as_a_value(
    array: np.ndarray, annotated: npt.NDArray[np.bool_]
) -> np.ndarray:
    """Give all rows without attributes one value, so that folds share them evenly."""
    codes, values = encode_attributes(array[annotated])
    names = np.array([str(value) for value in [*values.tolist(), _NOT_ANNOTATED]])
    numbers = np.full(len(array), len(values))
    numbers[annotated] = codes
    return names[numbers]


def rank_by_appearance(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Renumber codes by first appearance, so that names do not matter.

    Returns an array that maps a code to its rank.
    """
    _, first = np.unique(codes, return_index=True)
    return np.argsort(np.argsort(first)).astype(np.int64)
