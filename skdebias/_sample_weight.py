"""Weights of rows: a row of weight w counts as w copies of it, one of 0 as none.

Everything that counts rows counts weights instead: shares of classes and groups, means
of losses, accuracies of a validation set. Rows of weight 0 are left out before anything
is learned, so that all weights that the rest of the package sees are positive.
"""

from collections.abc import Callable
from inspect import signature
from numbers import Number
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from skdebias._attributes import as_attribute_array, on_host
from skdebias._mapped import take_rows
from skdebias._rows import is_device_tensor, refuse_masked
from skdebias._sklearn import _num_samples, _safe_indexing


def check_sample_weight(
    sample_weight: Any, n_rows: int, name: str = "sample_weight"
) -> NDArray[np.float64] | None:
    """Check the weights of rows.

    Parameters
    ----------
    sample_weight : array-like of shape (n_rows,), float or None
    n_rows : int
    name : str, default="sample_weight"
        Name of the argument in error messages.

    Returns
    -------
    ndarray of shape (n_rows,) or None
        Not negative, not all zero. None where every row counts once, for which there
        is nothing to do.

    Raises
    ------
    TypeError, ValueError
        If they are not numbers, of another length, negative, missing or infinite, all
        zero, or so large that their sum is infinite.

    Examples
    --------
    >>> from skdebias._sample_weight import check_sample_weight
    >>> check_sample_weight([2, 0, 1], n_rows=3)
    array([2., 0., 1.])
    >>> check_sample_weight(1.0, n_rows=3) is None
    True
    """
    if sample_weight is None:
        return None
    refuse_masked(sample_weight, name)
    weights = on_host(sample_weight)
    if isinstance(weights, Number):
        weights = np.full(n_rows, weights)
    weights = check_array(
        weights, ensure_2d=False, dtype=np.float64, input_name=name, allow_nd=True
    )
    if weights.shape != (n_rows,):
        raise ValueError(
            f"{name} has shape {weights.shape}, and there are {n_rows} rows: pass one "
            "weight per row, in the order of the rows, or one number for all."
        )
    if weights.min() < 0:
        raise ValueError(
            f"{name} has a negative weight, {weights.min():g}, in row "
            f"{weights.argmin()}: a row counts as so many copies of it, and 0 leaves "
            "it out."
        )
    if not weights.any():
        raise ValueError(
            f"{name} is zero for all {n_rows} rows, so that none is left: give some a "
            "positive weight."
        )
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"{name} has weights of up to {weights.max():.2g}, whose sum is infinite: "
            "divide them by their mean."
        )
    return None if (weights == 1.0).all() else weights


def positive(
    weights: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_] | None]:
    """Return the weights of the rows that are there, and which these are.

    Parameters
    ----------
    weights : ndarray of shape (n_rows,) or None
        As :func:`check_sample_weight` returns them.

    Returns
    -------
    weights : ndarray of shape (n_kept,) or None
        None where all of them are 1.
    kept : ndarray of shape (n_rows,), bool, or None
        None where all rows are.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias._sample_weight import positive
    >>> positive(np.array([1.0, 0.0, 1.0]))
    (None, array([ True, False,  True]))
    """
    if weights is None or weights.all():
        return weights, None
    kept = weights > 0
    rest = weights[kept]
    return (None if (rest == 1.0).all() else rest), kept


def kept_rows(X: Any, kept: NDArray[np.bool_], name: str = "sample_weight") -> Any:
    """Copy the rows, or items, that are there.

    Parameters
    ----------
    X : array-like of shape (n_rows, ...), or None
    kept : ndarray of shape (n_rows,), bool
    name : str, default="sample_weight"
        Name of the weights in error messages.

    Returns
    -------
    array-like or None
        As they were where their number is another one, which is refused elsewhere.

    Raises
    ------
    ValueError
        For a folder of items, named by its path.
    """
    if X is None:
        return None
    if isinstance(X, str | PathLike):
        raise ValueError(
            f"{name} has weights of 0, and the items are a folder, {str(X)!r}: "
            "pass a list of those of its files that are to count."
        )
    if _num_samples(X) != len(kept):
        return X
    if isinstance(X, np.ndarray) or is_device_tensor(X):
        return take_rows(X, kept) if X.ndim == 2 else X[kept]
    return _safe_indexing(X, np.flatnonzero(kept))


def kept_attributes(attributes: Any, kept: NDArray[np.bool_], name: str) -> Any:
    """Return the attributes of the rows that are there.

    Parameters
    ----------
    attributes : array-like or None
    kept : ndarray of shape (n_rows,), bool
    name : str
        Name of the argument in error messages.

    Returns
    -------
    ndarray or None
        As they were where their length is another one, which is refused elsewhere.
    """
    if attributes is None:
        return None
    array = as_attribute_array(attributes, name)
    return array[kept] if array.shape[:1] == kept.shape else attributes


def of_all_rows(values: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """Return what was learned of the rows that are there, over all rows.

    Parameters
    ----------
    values : ndarray of shape (n_kept, ...)
    kept : ndarray of shape (n_rows,), bool

    Returns
    -------
    ndarray of shape (n_rows, ...)
        Of a row of weight 0 it says -1, or NaN for fractions and None for objects.
    """
    missing = {"f": np.nan, "O": None, "U": "", "b": False}.get(values.dtype.kind, -1)
    filled = np.full((len(kept), *values.shape[1:]), missing, dtype=values.dtype)
    filled[kept] = values
    return filled


def refuse_unweighted(fit: Callable[..., Any], name: str) -> None:
    """Refuse a fit that takes no weights.

    Parameters
    ----------
    fit : callable
    name : str
        Parameter with the estimator whose fit it is.

    Raises
    ------
    ValueError
    """
    parameters = signature(fit).parameters.values()
    if any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters):
        return
    raise ValueError(
        f"sample_weight was given, and {name} has a fit that takes none, so that it "
        "would count all rows alike: choose an estimator that takes sample_weight, "
        "such as those of skdebias or sklearn.linear_model.LogisticRegression."
    )
