"""Spurious attributes and the groups that they form with the labels.

A *group* is a (label, attribute) cell. This module is the only place that decides
what an attribute value and a group are: fits, metrics, scores of searches and
splitters form theirs by :func:`form_groups`, or by :func:`form_groups_of_codes` where
the classes are known already.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from skdebias._groups import Groups, factorize

# What to do about missing values, and about missing attributes.
_OF_ANY = "Drop these rows, or give missing values a value of their own."
_REMEDIES = (
    "Drop these rows, give missing values a value of their own, or fill them before "
    "with skdebias.attributes.SSAPseudoAttributes."
)


def check_attributes(
    attributes: Any,
    n_samples: int,
    name: str = "attributes",
    *,
    allow_missing: bool = False,
) -> np.ndarray:
    """Validate the spurious attributes of `n_samples` samples.

    Parameters
    ----------
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        One value per sample, or several columns that are crossed. Any dtype that
        can be compared within a column: numbers, strings, booleans, objects; lists,
        arrays, data frames, categoricals and torch tensors.
    n_samples : int
        Number of rows of X and y.
    name : str, default="attributes"
        Name of the argument in error messages.
    allow_missing : bool, default=False
        Whether values may be missing: NaN, None, NaT, pandas' NA, masked.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_columns)
        The values, not copied where numpy can view them.

    Raises
    ------
    TypeError
        If values cannot be hashed or compared, such as dicts.
    ValueError
        If the length differs from `n_samples`, if there are missing values or no
        columns, or if `attributes` is not 1-D or 2-D, or a sparse matrix.

    Examples
    --------
    >>> check_attributes(["water", "land"], n_samples=2)
    array(['water', 'land'], dtype='<U5')
    """
    array = as_attribute_array(attributes, name)
    if array.ndim not in (1, 2):
        if array.ndim == 0:
            is_name = isinstance(attributes, str)
            kind = "a name" if is_name else "no array (it has shape ())"
            such = f", such as {name}=X[{attributes!r}]" if is_name else ""
            raise ValueError(
                f"{name}={_shortened(attributes)} is {kind}: pass one value, or one "
                f"row of values, per sample{such}."
            )
        raise ValueError(
            f"{name} must have shape (n_samples,) or (n_samples, n_columns), but has "
            f"shape {array.shape}. Pass one value, or one row of values, per sample."
        )
    if array.shape[0] != n_samples:
        raise ValueError(
            f"{name} has {array.shape[0]} rows, but there are {n_samples} samples. "
            f"Pass one row of {name} per row of X and y, in the same order."
        )
    if array.ndim == 2 and array.shape[1] == 0:
        raise ValueError(
            f"{name} has no columns (shape {array.shape}). Pass at least one column, "
            f"or {name}=None if none are known."
        )
    if not allow_missing:
        refuse_missing(array, name, _REMEDIES)
    _refuse_unhashable(array, name)
    return array


def encode_attributes(
    attributes: Any, name: str = "attributes"
) -> tuple[npt.NDArray[np.int64], np.ndarray]:
    """Encode attributes as integers; several columns are crossed.

    Parameters
    ----------
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        See :func:`check_attributes`.
    name : str, default="attributes"
        Name of the argument in error messages.

    Returns
    -------
    codes : ndarray of shape (n_samples,), int64
        Index into `values` for every sample.
    values : ndarray of shape (n_values,) or (n_values, n_columns)
        The sorted distinct values; 1-D for one column. For several columns, only the
        combinations that occur, in lexicographic order.

    Examples
    --------
    >>> codes, values = encode_attributes([["b", "x"], ["a", "y"], ["b", "x"]])
    >>> codes
    array([1, 0, 1])
    >>> values
    array([['a', 'y'],
           ['b', 'x']], dtype='<U1')
    """
    array = as_attribute_array(attributes, name)
    n_samples = array.shape[0] if array.ndim else 0
    array = check_attributes(array, n_samples, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        values, codes = factorize(array, name)
        return codes, values
    codes = np.zeros(n_samples, dtype=np.int64)
    for column in array.T:
        column_values, column_codes = factorize(column, name)
        # Compressing after every column keeps the product far from overflow.
        _, codes = factorize(codes * len(column_values) + column_codes, name)
    _, first = np.unique(codes, return_index=True)
    return codes, array[first]


def form_groups(
    y: Any,
    attributes: Any = None,
    *,
    y_name: str = "y",
    name: str = "attributes",
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[Groups, np.ndarray, np.ndarray]:
    """Form the groups of labels and attributes.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels, of any dtype.
    attributes : array-like, default=None
        See :func:`check_attributes`. None is one value for all samples, so that the
        groups are the classes.
    y_name, name : str
        Names of the arguments in error messages.
    weights : ndarray of shape (n_samples,), default=None
        Positive weight of every sample.

    Returns
    -------
    groups : Groups
    labels : ndarray of shape (n_classes,)
        The sorted distinct labels, which class codes are indices into.
    values : ndarray of shape (n_values,) or (n_values, n_columns)
        Likewise of the attributes, see :func:`encode_attributes`.

    Examples
    --------
    >>> groups, labels, values = form_groups(["cat", "dog", "dog"], ["in", "in", "out"])
    >>> [(str(labels[c]), str(values[a])) for c, a in groups.cells]
    [('cat', 'in'), ('dog', 'in'), ('dog', 'out')]
    """
    y_codes, labels = encode_attributes(y, y_name)
    groups, values = form_groups_of_codes(
        y_codes, len(labels), attributes, name, weights
    )
    return groups, labels, values


def form_groups_of_codes(
    y_codes: npt.NDArray[np.int64],
    n_classes: int,
    attributes: Any = None,
    name: str = "attributes",
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[Groups, np.ndarray]:
    """Form the groups of encoded labels and of attributes as the user passed them.

    Parameters
    ----------
    y_codes : ndarray of shape (n_samples,), int64
        Class codes in [0, n_classes).
    n_classes : int
    attributes, name, weights
        See :func:`form_groups`.

    Returns
    -------
    groups : Groups
    values : ndarray of shape (n_values,) or (n_values, n_columns)
        See :func:`encode_attributes`.
    """
    codes, values = np.zeros(len(y_codes), dtype=np.int64), np.zeros(1, np.int64)
    if attributes is not None:
        attributes = check_attributes(attributes, len(y_codes), name)
        codes, values = encode_attributes(attributes, name)
    groups = Groups.from_labels(y_codes, codes, n_classes, len(values), weights)
    return groups, values


def on_host(values: Any) -> Any:
    """Return a torch tensor, on whatever device, as an array, and all else as it is.

    Parameters
    ----------
    values : object
        Labels, attributes or weights, as a user may pass them.

    Returns
    -------
    object
    """
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    exotic = str(values.dtype) == "torch.bfloat16"
    return (values.float() if exotic else values).numpy()


def as_attribute_array(attributes: Any, name: str) -> np.ndarray:
    """Convert anything array-like, keeping missing values recognisable.

    Parameters
    ----------
    attributes : array-like
    name : str
        Named in error messages.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        For ragged lists and sparse matrices.
    """
    attributes = on_host(attributes)
    if isinstance(attributes, np.ma.MaskedArray):
        # np.asarray would show what lies under the mask.
        if not np.ma.is_masked(attributes):
            return attributes.data
        values = attributes.data.astype(object)
        return np.where(np.ma.getmaskarray(attributes), None, values)
    if hasattr(attributes, "__array__"):
        return np.asarray(attributes)
    if hasattr(attributes, "toarray"):
        raise ValueError(
            f"{name} is a sparse matrix: pass {name}.toarray(), or one value per "
            "sample."
        )
    try:
        array = np.asarray(attributes)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be read as an array: {error}. Pass one value per sample, "
            "or rows of equal length."
        ) from error
    if array.dtype.kind in "US":
        # numpy writes None and NaN between strings as the words "None" and "nan".
        objects = np.asarray(attributes, dtype=object)
        if not all(isinstance(value, (str, bytes)) for value in objects.flat):
            return objects
    return array


def missing_rows(array: np.ndarray) -> npt.NDArray[np.bool_]:
    """Return which rows of an array hold NaN, None, NaT or pandas' NA."""
    if array.dtype.kind == "O":
        import pandas as pd  # knows None, NaN, NaT and pandas' own NA

        missing = pd.isna(array)
    elif array.dtype.kind in "fcmM":
        missing = np.isnan(array)
    else:
        return np.zeros(len(array), dtype=bool)
    return missing if missing.ndim == 1 else missing.any(axis=1)


def refuse_missing(array: np.ndarray, name: str, remedies: str = _OF_ANY) -> None:
    """Raise ValueError if rows of an array have a missing value."""
    rows = np.flatnonzero(missing_rows(array))
    if len(rows):
        raise ValueError(
            f"{name} has missing values in {len(rows)} rows (the first is row "
            f"{rows[0]}). {remedies}"
        )


def _refuse_unhashable(array: np.ndarray, name: str) -> None:
    """Raise TypeError for entries that are containers, not values."""
    if array.dtype.kind not in "OV":
        return
    kinds = {"record"} if array.dtype.kind == "V" else set()
    for value in array.flat:
        if array.dtype.kind == "O" and isinstance(value, (dict, list, set, np.ndarray)):
            kinds.add(type(value).__name__)
    if kinds:
        raise TypeError(
            f"{name} holds values of type {', '.join(sorted(kinds))}, which cannot be "
            "compared: pass a number, a string or a boolean per sample, or one per "
            "column."
        )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
