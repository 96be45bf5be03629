"""What both splitters share: from labels and attributes to numbered groups."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import type_of_target

from skdebias._attributes import check_attributes, form_groups, on_host
from skdebias._named_groups import NamedGroups
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


def make_strata(X: Any, y: Any, attributes: Any, *, name: str) -> NamedGroups:
    """Validate the arguments of a splitter called `name` and number the groups."""
    if attributes is None:
        raise TypeError(MISSING_ATTRIBUTES.format(name=name))
    if y is None:
        raise ValueError(f"{name}.split needs the labels: pass y.")
    check_consistent_length(X, y)
    y = column_or_1d(on_host(y), input_name="y")
    kind = type_of_target(y, input_name="y")
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"y must hold class labels, but its type is {kind!r}. Groups are formed "
            "of labels and attributes, so there is nothing to stratify on."
        )
    attributes = check_attributes(attributes, _num_samples(X))
    return NamedGroups(*form_groups(y, attributes))


def rank_by_appearance(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Renumber codes by first appearance, so that names do not matter.

    Returns an array that maps a code to its rank.
    """
    _, first = np.unique(codes, return_index=True)
    return np.argsort(np.argsort(first)).astype(np.int64)
