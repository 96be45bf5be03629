"""Tables of candidate attributes: their columns, as codes of a few values."""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from skdebias._annotations import plain_values
from skdebias._attributes import as_attribute_array, check_attributes, missing_rows
from skdebias._groups import factorize

# Numbers of more distinct values than this are taken for measurements.
_CATEGORIES = 20
_N_BINS = 5


class Column(NamedTuple):
    """One candidate attribute.

    Parameters
    ----------
    name : object
    codes : ndarray of shape (n_samples,), int64
        Index into `values` for every row, -1 where the value is missing.
    values : list
        What the codes stand for: values as they are, or the bins, as text.
    binned : bool
    """

    name: object
    codes: np.ndarray
    values: list
    binned: bool


def read_columns(candidates, n_samples):
    """Read a table of candidate attributes.

    Parameters
    ----------
    candidates : data frame, array-like or mapping of names to array-likes
    n_samples : int

    Returns
    -------
    list of Column

    Raises
    ------
    TypeError, ValueError
        If there are no columns, if two have the same name, if one has another number
        of rows, or if values of one cannot be compared.
    """
    columns = []
    for name, values in _named_columns(candidates, n_samples):
        label = f"candidates[{name!r}]"
        named = isinstance(getattr(values, "dtype", None), pd.CategoricalDtype)
        values = check_attributes(values, n_samples, label, allow_missing=True)
        if values.ndim == 2:
            raise ValueError(
                f"{label} has {values.shape[1]} columns: give each a name of its own."
            )
        columns.append(_column(name, values, label, named))
    names = pd.Index([column.name for column in columns])
    if not len(names):
        raise ValueError("candidates has no columns: pass at least one.")
    if not names.is_unique:
        twice = names[names.duplicated()].unique().tolist()
        raise ValueError(
            f"candidates has several columns of the name {twice}: rename them, so that "
            "the rows of the table can be told apart."
        )
    return columns


def _named_columns(candidates, n_samples):
    """Yield the names and the values of the columns."""
    if candidates is None or isinstance(candidates, str):
        raise TypeError(
            f"candidates={candidates!r} is no table: pass a data frame, an array, or a "
            "dict of names and columns, with one row per row of X."
        )
    if isinstance(candidates, Mapping):
        yield from candidates.items()
    elif hasattr(candidates, "columns"):
        for position, name in enumerate(candidates.columns):
            if hasattr(candidates, "iloc"):
                yield name, candidates.iloc[:, position]
            else:
                yield name, candidates[name]
    elif isinstance(candidates, pd.Series):
        yield 0 if candidates.name is None else candidates.name, candidates
    else:
        array = check_attributes(
            as_attribute_array(candidates, "candidates"),
            n_samples,
            "candidates",
            allow_missing=True,
        )
        yield from enumerate(array.reshape(len(array), -1).T)


def _column(name, values, label, named):
    """Encode one column, whose numbers may be names."""
    known = ~missing_rows(values)
    present = plain_values(values[known])
    codes = np.full(len(values), -1, dtype=np.int64)
    if present.dtype.kind == "O" and all(isinstance(v, pd.Timestamp) for v in present):
        present = pd.to_datetime(present, utc=True).tz_localize(None).to_numpy()
    found, codes[known] = factorize(present, label)
    binned = not named and present.dtype.kind in "iufmM" and len(found) > _CATEGORIES
    if not binned:
        return Column(name, codes, found.tolist(), binned)
    edges = _edges(present, found)
    codes[known] = np.searchsorted(edges, present, side="left")
    return Column(name, codes, _bin_names(edges), binned)


def _edges(values, found):
    """Return the inner edges of bins of about as many rows each.

    They are values that occur, so that dates are treated as numbers are. A value that
    many rows have makes bins fewer, but two at least.
    """
    places = np.arange(1, _N_BINS) * len(values) // _N_BINS
    edges = np.unique(np.sort(values)[places])
    edges = edges[edges < found[-1]]
    return edges if len(edges) else found[-2:-1]


def _bin_names(edges):
    """Name the bins, which hold their upper ends."""
    shown = [f"{e:.4g}" if edges.dtype.kind in "iuf" else str(e) for e in edges]
    if len(set(shown)) < len(shown):
        shown = [str(edge) for edge in edges]
    inner = [f"({low}, {high}]" for low, high in pairwise(shown)]
    return [f"<= {shown[0]}", *inner, f"> {shown[-1]}"]
