"""Groups: the (label, attribute) cells of a data set, by integer codes."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

# Integers that span at most this range, or the number of entries, are counted.
_SHORT_RANGE = 1 << 16


@dataclass(frozen=True, eq=False)
class Groups:
    """The non-empty (label, attribute) cells of a data set.

    Build it with :meth:`from_labels`. The order of the groups is lexicographic in
    (class code, attribute code), whatever the order of the samples.

    Parameters
    ----------
    ids : ndarray of shape (n_samples,), int64
        Index of every sample's group, a row of `cells`.
    cells : ndarray of shape (n_groups, 2), int64
        Class code and attribute code of every non-empty group.
    counts : ndarray of shape (n_groups,), int64 or float64
        Number of samples of every group, at least 1; where samples have weights, the
        sum of these, as if a sample of weight w were w samples.
    n_classes : int
        Number of classes, those without a sample included.
    n_attributes : int
        Number of attribute values, those without a sample included.
    weights : ndarray of shape (n_samples,), float64, default=None
        Positive weight of every sample. None counts them alike.

    Examples
    --------
    >>> groups = Groups.from_labels([0, 1, 1, 0], [0, 1, 1, 1], 2, 2)
    >>> groups.cells
    array([[0, 0],
           [0, 1],
           [1, 1]])
    >>> groups.ids
    array([0, 2, 2, 1])
    >>> groups.counts
    array([1, 1, 2])
    """

    ids: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    n_classes: int
    n_attributes: int
    weights: npt.NDArray[np.float64] | None = None

    @classmethod
    def from_labels(
        cls,
        y_codes: npt.ArrayLike,
        attribute_codes: npt.ArrayLike,
        n_classes: int,
        n_attributes: int,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> Self:
        """Form the groups of encoded labels and attributes.

        Parameters
        ----------
        y_codes : array-like of shape (n_samples,), int
            Class codes in [0, n_classes).
        attribute_codes : array-like of shape (n_samples,), int
            Attribute codes in [0, n_attributes).
        n_classes, n_attributes : int
            Number of classes and of attribute values.
        weights : ndarray of shape (n_samples,), default=None
            Positive weight of every sample.

        Returns
        -------
        Groups
            The groups of these samples.

        Raises
        ------
        ValueError
            If the lengths differ or a code is out of range.
        """
        labels = _check_codes(y_codes, n_classes, "y_codes")
        attributes = _check_codes(attribute_codes, n_attributes, "attribute_codes")
        if len(labels) != len(attributes):
            raise ValueError(
                f"y_codes has {len(labels)} entries, but attribute_codes has "
                f"{len(attributes)}. Pass one code per sample."
            )
        flat, ids = factorize(labels * n_attributes + attributes, "cells")
        counts = np.bincount(ids, weights, minlength=len(flat))
        return cls(
            ids=ids,
            cells=np.column_stack(np.divmod(flat, max(n_attributes, 1))),
            counts=counts
            if weights is not None
            else counts.astype(np.int64, copy=False),
            n_classes=int(n_classes),
            n_attributes=int(n_attributes),
            weights=weights,
        )

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Return the groups of some of the samples, numbered anew.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,)

        Returns
        -------
        Groups
        """
        cells = self.cells[self.ids[rows]]
        weights = None if self.weights is None else self.weights[rows]
        return self.from_labels(*cells.T, self.n_classes, self.n_attributes, weights)

    def shuffled(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the numbers of the samples, group by group, at random within each.

        Parameters
        ----------
        rng : Generator

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        order = rng.permutation(len(self.ids))
        return order[np.argsort(self.ids[order], kind="stable")]

    @property
    def n_groups(self) -> int:
        """Number of non-empty groups."""
        return len(self.counts)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of samples of every group, whatever their weights."""
        sizes = np.bincount(self.ids, minlength=self.n_groups)
        return sizes.astype(np.int64, copy=False)

    @property
    def y_codes(self) -> npt.NDArray[np.int64]:
        """Class code of every sample."""
        return self.cells[self.ids, 0]


def factorize(array: np.ndarray, name: str) -> tuple[np.ndarray, npt.NDArray[np.int64]]:
    """Return the sorted distinct values of a 1-D array, and the index of each entry.

    What `np.unique` returns, in linear time where integers span a short range.

    Parameters
    ----------
    array : ndarray of shape (n_samples,)
    name : str
        Named in the error message.

    Returns
    -------
    values : ndarray of shape (n_values,)
    codes : ndarray of shape (n_samples,), int64

    Raises
    ------
    TypeError
        If entries cannot be ordered.

    Examples
    --------
    >>> factorize(np.array(["b", "a", "b"]), "y")
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]))
    """
    if len(array) and np.can_cast(array.dtype, np.int64):
        low, high = int(array.min()), int(array.max())
        if high - low <= max(len(array), _SHORT_RANGE):
            shifted = array.astype(np.int64) - low
            present = np.flatnonzero(np.bincount(shifted))
            rank = np.zeros(high - low + 1, dtype=np.int64)
            rank[present] = np.arange(len(present))
            return (present + low).astype(array.dtype), rank[shifted]
    hashed = None
    if array.dtype.kind == "O":
        import pandas as pd

        # Hashing first leaves only the distinct objects to sort: 10 times faster.
        hashed, array = pd.factorize(array)
    try:
        values, inverse = np.unique(array, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in array})
        raise TypeError(
            f"{name} mixes the types {', '.join(kinds)} in one column, which cannot be "
            "sorted. Convert the column to one type, for example with astype(str)."
        ) from error
    if hashed is not None:
        inverse = inverse[hashed]
    return values, inverse.astype(np.int64, copy=False)


def _check_codes(codes: npt.ArrayLike, n_codes: int, name: str) -> np.ndarray:
    array = np.asarray(codes)
    if array.ndim != 1 or (array.dtype.kind not in "iub" and array.size):
        raise ValueError(
            f"{name} must be a 1-D integer array, but has shape {array.shape} and "
            f"dtype {array.dtype}. Encode it first."
        )
    array = array.astype(np.int64, copy=False)
    if array.size and (array.min() < 0 or array.max() >= n_codes):
        raise ValueError(
            f"{name} must lie in [0, {n_codes}), but spans [{array.min()}, "
            f"{array.max()}]."
        )
    return array
