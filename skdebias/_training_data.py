"""What a fit is given, and the weights of its rows."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skdebias._attributes import on_host
from skdebias._sample_weight import (
    check_sample_weight,
    kept_attributes,
    kept_rows,
    positive,
)
from skdebias._sklearn import _num_samples


@dataclass(frozen=True)
class TrainingData:
    """What `fit` was given: X and y validated, the rest untouched.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        Labels, not codes.
    attributes, X_val, y_val, attributes_val : array-like or None
    seed : int
        Drawn from `random_state`, for every stage of the fit.
    models : HeadFactory or alike, default=None
        Where a first stage gets its models. None is heads on X.
    X_student : ndarray or Tensor of shape (n_samples, n_student_features), default=None
        What the first head of a method of several reads instead of X.
    X_unlabeled : ndarray or Tensor of shape (n_unlabeled, n_features), default=None
        Rows without labels, validated.
    sample_weight : ndarray of shape (n_samples,), default=None
        Positive weights of the training rows.
    sample_weight_val : ndarray of shape (n_val,), default=None
        Positive weights of the validation rows.
    kept : ndarray of shape (n_given,), bool, default=None
        Which of the rows that `fit` was given these are, without those of weight 0.
        None is all of them.
    """

    X: Any
    y: np.ndarray
    attributes: Any
    X_val: Any
    y_val: Any
    attributes_val: Any
    seed: int
    models: Any = None
    X_student: Any = None
    X_unlabeled: Any = None
    sample_weight: Any = None
    sample_weight_val: Any = None
    kept: np.ndarray | None = None


def weighed(data, class_weights=None):
    """Check the weights of the rows, and leave out those of weight 0.

    Parameters
    ----------
    data : TrainingData
        With weights as they were given.
    class_weights : callable, default=None
        Returns by what they are multiplied, as `FitHooks._class_weights` does.

    Returns
    -------
    TrainingData
        With positive weights, or None where all rows count once.
    """
    weights = check_sample_weight(data.sample_weight, len(data.y))
    by_class = None if class_weights is None else class_weights(data.y, weights)
    if by_class is not None:
        weights = by_class if weights is None else weights * by_class
        weights = check_sample_weight(weights, len(data.y), "class_weight")
    data = replace(data, **weighed_validation(**vars(data)))
    weights, kept = positive(weights)
    if kept is None:
        return replace(data, sample_weight=weights)
    rows = {name: kept_rows(getattr(data, name), kept) for name in ("X", "X_student")}
    return replace(
        data,
        y=data.y[kept],
        attributes=kept_attributes(data.attributes, kept, "attributes"),
        sample_weight=weights,
        kept=kept,
        **rows,
    )


def weighed_validation(*, X_val, y_val, attributes_val, sample_weight_val, **_):
    """Check the weights of validation rows, and leave out those of weight 0.

    Parameters
    ----------
    X_val, y_val, attributes_val, sample_weight_val : array-like or None
        As `fit` was given them.
    **_ : dict
        Its other arguments.

    Returns
    -------
    dict of str to array-like
        Those that are others, with positive weights.
    """
    if sample_weight_val is None or y_val is None:
        return {}
    y_val = on_host(y_val)
    n_rows = _num_samples(y_val)
    weights = check_sample_weight(sample_weight_val, n_rows, "sample_weight_val")
    weights, kept = positive(weights)
    if kept is None:
        return {"sample_weight_val": weights}
    return {
        "X_val": kept_rows(X_val, kept, "sample_weight_val"),
        "y_val": kept_rows(y_val, kept, "sample_weight_val"),
        "attributes_val": kept_attributes(attributes_val, kept, "attributes_val"),
        "sample_weight_val": weights,
    }


def given_weights(data, validation=True):
    """Return the weights of rows as arguments of the fit of a first stage.

    Parameters
    ----------
    data : TrainingData
    validation : bool, default=True
        Whether the first stage sees the validation rows.

    Returns
    -------
    dict of str to array-like
        Without those that are None: what has no such arguments may be fitted then.
    """
    weights = {"sample_weight": data.sample_weight}
    if validation:
        weights["sample_weight_val"] = data.sample_weight_val
    return {name: value for name, value in weights.items() if value is not None}
