"""Attributes that are known of some rows only, and names where values are expected."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from skdebias._attributes import (
    as_attribute_array,
    check_attributes,
    encode_attributes,
    missing_rows,
)

#: How many rows attributes are missing of.
Missing = Literal["none", "some", "all"]


def read_annotations(
    attributes: Any, n_samples: int, name: str = "attributes"
) -> tuple[np.ndarray, npt.NDArray[np.bool_]]:
    """Check attributes that may be missing for some rows.

    Parameters
    ----------
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        See :func:`skdebias._attributes.check_attributes`. NaN, None, NaT, pandas' NA
        and masked entries are missing; so is a row where one of its columns is.
    n_samples : int
        Number of rows of X and y.
    name : str, default="attributes"
        Name of the argument in error messages.

    Returns
    -------
    array : ndarray of shape (n_samples,) or (n_samples, n_columns)
    annotated : ndarray of shape (n_samples,), bool
        Whether nothing of a row is missing.

    Raises
    ------
    TypeError, ValueError
        As `check_attributes`, or if the values of a column cannot be sorted.
    """
    array = check_attributes(attributes, n_samples, name, allow_missing=True)
    annotated = ~missing_rows(array)
    encode_attributes(array[annotated], name)
    return array, annotated


def count_missing(attributes: Any, name: str = "attributes") -> Missing:
    """Return of how many rows attributes are missing: none, some, or all.

    Parameters
    ----------
    attributes : array-like or None
        None is missing for all rows. What is no array is left to other checks.
    name : str, default="attributes"

    Returns
    -------
    {"none", "some", "all"}
    """
    if attributes is None:
        return "all"
    array = as_attribute_array(attributes, name)
    missing = missing_rows(array) if array.ndim in (1, 2) else np.zeros(1, dtype=bool)
    if not missing.any():
        return "none"
    return "all" if missing.all() else "some"


def plain_values(values: np.ndarray) -> np.ndarray:
    """Return values of objects as the numbers or strings that they are.

    Attributes with gaps come as objects; without the gaps they need not be.

    Parameters
    ----------
    values : ndarray

    Returns
    -------
    ndarray
    """
    if values.dtype.kind != "O" or not values.size:
        return values
    kinds = {family(column) for column in values.reshape(len(values), -1).T}
    if kinds not in ({"numbers"}, {"strings"}):
        return values
    return np.array(values.tolist())


def fill_missing(attributes: Any, inferred: np.ndarray, name: str) -> np.ndarray:
    """Return attributes as they were given, and inferred ones where none were.

    Parameters
    ----------
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns), or None
    inferred : ndarray of the same shape
    name : str
        Of the argument.

    Returns
    -------
    ndarray
    """
    if attributes is None:
        return inferred
    array, annotated = read_annotations(attributes, len(inferred), name)
    given = plain_values(array[annotated]).reshape(-1, *inferred.shape[1:])
    filled = inferred.astype(np.result_type(inferred, given))
    filled[annotated] = given
    return filled


def check_same_kind(attributes: Any, attributes_val: Any) -> None:
    """Refuse attributes of validation rows that cannot be those of the training rows.

    Parameters
    ----------
    attributes, attributes_val : array-like
        Valid each by itself. Rows of which they are missing do not count.

    Raises
    ------
    ValueError
        If they differ in their columns, or hold strings there and numbers here.
    """
    columns, columns_val = map(_columns, (attributes, attributes_val))
    if len(columns_val) != len(columns):
        raise ValueError(
            f"attributes_val has {len(columns_val)} columns and attributes has "
            f"{len(columns)}: pass the same columns in the same order."
        )
    for values, values_val in zip(columns, columns_val, strict=True):
        if not len(values) or not len(values_val):
            continue
        if family(values) != family(values_val):
            raise ValueError(
                f"attributes_val holds {family(values_val)} ({shown(values_val)}) and "
                f"attributes {family(values)} ({shown(values)}): code both in the "
                "same way."
            )


def _columns(attributes: Any) -> list[np.ndarray]:
    array = as_attribute_array(attributes, "attributes")
    array = array[~missing_rows(array)]
    return [array] if array.ndim == 1 else list(array.T)


def family(values: np.ndarray) -> str:
    """Return what kind of values these are, so far as they could be equal to others.

    Parameters
    ----------
    values : ndarray of shape (n_values,)

    Returns
    -------
    str
    """
    if values.dtype.kind in "biuf":
        return "numbers"
    if values.dtype.kind == "U":
        return "strings"
    if values.dtype.kind != "O":
        return f"values of dtype {values.dtype.kind}"
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str) for kind in kinds):
        return "strings"
    if all(issubclass(kind, (bool, int, float, np.number, np.bool_)) for kind in kinds):
        return "numbers"
    return "objects"


def shown(values: np.ndarray) -> str:
    """Return the first values of an array, as messages show them."""
    more = ", ..." if len(values) > 5 else ""
    return f"[{', '.join(map(repr, values[:5].tolist()))}{more}]"


def refuse_names(attributes: Any, X: Any, name: str = "attributes") -> None:
    """Refuse names of columns in the place of their values.

    Parameters
    ----------
    attributes : object
        As the user passed them.
    X : object
        What the user may mean the columns of.
    name : str, default="attributes"
        Of the argument; that of X ends likewise.

    Raises
    ------
    ValueError
        If it is a string, or a list of the names of columns of X.
    """
    is_name = isinstance(attributes, str)
    if not is_name and not (
        isinstance(attributes, (list, tuple))
        and attributes
        and all(isinstance(value, str) for value in attributes)
    ):
        return
    names = [attributes] if is_name else list(attributes)
    columns = [*getattr(X, "columns", ())]
    rows = "X" + name.removeprefix("attributes")
    known = all(column in columns for column in names)
    if not is_name and not (known and len(names) != len(X)):
        return
    shown_names = repr(attributes if is_name else names)
    says = f"{name}={shown_names} names columns" if not is_name else (
        f"{name}={shown_names} is a name"
    )  # fmt: skip
    if known:
        raise ValueError(
            f"{says}, and values are expected, one per sample: pass "
            f"{name}={rows}[{shown_names}], and leave that out of the features, "
            f"{rows}.drop(columns={shown_names}), or the head is trained on it."
        )
    has = f"{rows} has no such column" if columns else f"{rows} is no data frame"
    raise ValueError(
        f"{says}, and values are expected, one per sample ({has}): pass the column "
        f"itself, such as {name}=table[{shown_names}]."
    )
