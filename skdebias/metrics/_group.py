"""Accuracy over the (label, attribute) groups of a data set."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pandas.api.types import infer_dtype
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import type_of_target

from skdebias._attributes import (
    Groups,
    check_attributes,
    form_groups,
    on_host,
    refuse_missing,
)
from skdebias._named_groups import NamedGroups, warn_of_unusable
from skdebias._sample_weight import check_sample_weight, positive

MISSING_ATTRIBUTES = (
    "{name} needs the spurious attributes of the samples: pass attributes=... . "
    "Inside GridSearchCV, cross_validate or a Pipeline, scikit-learn hands them on "
    "only when metadata routing is on. Add this line before the call: "
    "sklearn.set_config(enable_metadata_routing=True), and pass attributes to fit "
    "(or params={{'attributes': ...}} to cross_validate). A scorer must request them: "
    "set_score_request replaces what it requested, so name attributes=True there too."
)


class GroupOutcomes(NamedTuple):
    """What happened in every group: the common ground of all group scores.

    Rows of weight 0 are not there. Without weights, those of a group are its rows.

    Parameters
    ----------
    groups : Groups
    correct : ndarray of shape (n_groups,)
        Rows that are predicted correctly.
    labels, attribute_values : ndarray
        What the codes of the groups stand for.
    weights, weights_correct, weights_squared : ndarray of shape (n_groups,)
        Sums of the weights of all rows, of those of correct ones, and of the squares.
    """

    groups: Groups
    correct: npt.NDArray[np.int64]
    labels: np.ndarray
    attribute_values: np.ndarray
    weights: np.ndarray
    weights_correct: np.ndarray
    weights_squared: np.ndarray

    @property
    def accuracies(self) -> npt.NDArray[np.float64]:
        """Accuracy of every group, in the order of the groups."""
        return self.weights_correct / self.weights

    @property
    def effective(self) -> tuple[np.ndarray, np.ndarray]:
        """Correct and all rows of every group, as many as are worth the weighted ones.

        After Kish: a mean of weighted rows varies as that of `sum(w)**2 / sum(w**2)`
        rows that weigh alike.
        """
        scale = self.weights / self.weights_squared
        return self.weights_correct * scale, self.weights * scale

    @property
    def effective_total(self) -> tuple[float, float]:
        """Correct and all rows together, see `effective`."""
        correct, total = self.weights_correct.sum(), self.weights.sum()
        scale = total / self.weights_squared.sum()
        return correct * scale, total * scale


def group_outcomes(
    y_true: Any, y_pred: Any, attributes: Any, sample_weight: Any = None, *, name: str
) -> GroupOutcomes:
    """Count the correct predictions of every group; `name` is the caller's."""
    if attributes is None:
        raise TypeError(MISSING_ATTRIBUTES.format(name=name))
    outcomes = _outcomes(y_true, y_pred, attributes, sample_weight)
    groups, _, labels, values, *_ = outcomes
    named = NamedGroups(groups, labels, values)
    warn_of_unusable(named.unusable_for_scores())
    return outcomes


def _outcomes(
    y_true: Any, y_pred: Any, attributes: Any, sample_weight: Any
) -> GroupOutcomes:
    """Count the correct predictions of every group, or class without attributes."""
    y_true, y_pred = check_labels(y_true, y_pred)
    weights, kept = positive(check_sample_weight(sample_weight, len(y_true)))
    if attributes is not None:
        attributes = check_attributes(attributes, len(y_true))
    if kept is not None:
        y_true, y_pred = y_true[kept], y_pred[kept]
        attributes = None if attributes is None else attributes[kept]
    groups, labels, values = form_groups(y_true, attributes, y_name="y_true")
    hit = y_true == y_pred
    correct = np.bincount(groups.ids[hit], minlength=groups.n_groups)
    sums = [groups.counts, correct, groups.counts]
    if weights is not None:
        sums = [
            np.bincount(groups.ids, weights=w, minlength=groups.n_groups)
            for w in (weights, weights * hit, weights**2)
        ]
    return GroupOutcomes(groups, correct, labels, values, *sums)


def name_columns(attributes: Any, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return attribute values of groups as columns of a table.

    Parameters
    ----------
    attributes : array-like
        As they were passed; a data frame has names for its columns.
    values : ndarray of shape (n_groups,) or (n_groups, n_columns)

    Returns
    -------
    dict of str to ndarray of shape (n_groups,)
    """
    if values.ndim == 1:
        return {"attribute": values}
    names = getattr(attributes, "columns", range(values.shape[1]))
    return {
        f"attribute_{name}": column
        for name, column in zip(names, values.T, strict=True)
    }


def check_labels(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    """Validate labels and predictions as scikit-learn's accuracy does."""
    check_consistent_length(y_true, y_pred)
    y_true, y_pred = check_true_labels(y_true), _labels(y_pred, "y_pred")
    if _holds_strings(y_true) != _holds_strings(y_pred):
        raise ValueError(
            f"y_true has dtype {y_true.dtype} and y_pred has dtype {y_pred.dtype}: "
            "one holds strings, the other numbers, so no prediction could be "
            "correct. Convert both to one type."
        )
    return y_true, y_pred


def check_true_labels(y_true: Any) -> np.ndarray:
    """Validate true labels as scikit-learn's accuracy does."""
    return _labels(y_true, "y_true")


def _labels(y: Any, name: str) -> np.ndarray:
    y = _column(y, name)
    if len(y) == 0:
        raise ValueError(f"{name} is empty: there is no score of 0 samples.")
    refuse_missing(y, name)
    # Looking at every value costs milliseconds, so plain labels skip it.
    if y.dtype.kind not in "biuUS" and infer_dtype(y, skipna=False) != "string":
        kind = type_of_target(y, input_name=name)
        if kind not in ("binary", "multiclass"):
            raise ValueError(
                f"{name} must hold class labels, but its type is {kind!r}. "
                "Pass predicted labels, not scores or probabilities."
            )
    return y


def _column(y: Any, name: str) -> np.ndarray:
    try:
        return column_or_1d(on_host(y), input_name=name)
    except ValueError as error:
        raise ValueError(
            f"{name} must be 1-D, one class label per sample: {error} Take the "
            "argmax of probabilities or scores first."
        ) from error


def _holds_strings(y: np.ndarray) -> bool:
    return y.dtype.kind in "US" or isinstance(y[0], str)


def worst_group_accuracy_score(y_true, y_pred, *, attributes=None, sample_weight=None):
    """Worst-group accuracy: the lowest accuracy of any (label, attribute) group.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels, of any dtype.
    y_pred : array-like of shape (n_samples,)
        Predicted labels. Values that never occur in `y_true` count as errors.
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        Spurious attributes; several columns are crossed. Required.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of rows: accuracies are weighted ones. Rows of weight 0 are not there,
        and a group of such rows alone is none.

    Returns
    -------
    float
        In [0, 1]; higher is better. Groups without samples are not counted.

    Raises
    ------
    TypeError
        If `attributes` is not given, which happens inside scikit-learn's searches
        when metadata routing is off.
    ValueError
        If lengths differ, values are missing, the labels are not classes, or a weight
        is negative or missing.

    See Also
    --------
    group_balanced_accuracy_score : The mean over groups.
    group_accuracy_table : The accuracy of every group, with intervals.

    References
    ----------
    .. [1] S. Sagawa, P. W. Koh, T. B. Hashimoto, P. Liang. Distributionally robust
       neural networks for group shifts. ICLR 2020.

    Examples
    --------
    >>> from skdebias.metrics import worst_group_accuracy_score
    >>> y_true = [0, 0, 0, 1, 1, 1]
    >>> y_pred = [0, 0, 0, 1, 1, 0]
    >>> place = ["land", "land", "water", "water", "land", "land"]
    >>> worst_group_accuracy_score(y_true, y_pred, attributes=place)
    0.5
    """
    outcomes = group_outcomes(
        y_true, y_pred, attributes, sample_weight, name="worst_group_accuracy_score"
    )
    return float(outcomes.accuracies.min())


def group_balanced_accuracy_score(
    y_true, y_pred, *, attributes=None, sample_weight=None
):
    """Group-balanced accuracy: the mean accuracy of the non-empty groups.

    Also called unbiased accuracy: the accuracy on a test set in which all
    (label, attribute) groups have the same size.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels, of any dtype.
    y_pred : array-like of shape (n_samples,)
        Predicted labels. Values that never occur in `y_true` count as errors.
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        Spurious attributes; several columns are crossed. Required.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of rows: accuracies are weighted ones. Rows of weight 0 are not there,
        and a group of such rows alone is none.

    Returns
    -------
    float
        In [0, 1]; higher is better.

    Raises
    ------
    TypeError
        If `attributes` is not given, which happens inside scikit-learn's searches
        when metadata routing is off.
    ValueError
        If lengths differ, values are missing, the labels are not classes, or a weight
        is negative or missing.

    See Also
    --------
    worst_group_accuracy_score : The minimum over groups.

    Examples
    --------
    >>> from skdebias.metrics import group_balanced_accuracy_score
    >>> y_true = [0, 0, 0, 1, 1, 1]
    >>> y_pred = [0, 0, 0, 1, 1, 0]
    >>> place = ["land", "land", "water", "water", "land", "land"]
    >>> group_balanced_accuracy_score(y_true, y_pred, attributes=place)
    0.875
    """
    outcomes = group_outcomes(
        y_true, y_pred, attributes, sample_weight, name="group_balanced_accuracy_score"
    )
    return float(outcomes.accuracies.mean())


def worst_class_accuracy_score(y_true, y_pred, *, sample_weight=None):
    """Worst-class accuracy: the lowest recall of any class.

    The model-selection score for when the spurious attributes of the validation
    set are unknown.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels, of any dtype.
    y_pred : array-like of shape (n_samples,)
        Predicted labels. Values that never occur in `y_true` count as errors.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of rows: accuracies are weighted ones. Rows of weight 0 are not there,
        and a class of such rows alone is none.

    Returns
    -------
    float
        In [0, 1]; higher is better.

    Raises
    ------
    ValueError
        If lengths differ, the labels are not classes, or a weight is negative or
        missing.

    References
    ----------
    .. [1] Y. Yang, H. Zhang, D. Katabi, M. Ghassemi. Change is hard: a closer look
       at subpopulation shift. ICML 2023.

    Examples
    --------
    >>> from skdebias.metrics import worst_class_accuracy_score
    >>> worst_class_accuracy_score(["a", "a", "b", "b"], ["a", "a", "b", "a"])
    0.5
    """
    outcomes = _outcomes(y_true, y_pred, None, sample_weight)
    return float(outcomes.accuracies.min())
