"""Memory maps that may be larger than the memory."""

import mmap
import tempfile

import numpy as np

# Copies of rows of a memory map that take more bytes than this go to a file.
_MEMORY_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 26


def is_mapped(X):
    """Return whether an array is a view of a file.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool
    """
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return True
        X = X.base
    return isinstance(X, mmap.mmap)


def take_rows(X, index):
    """Copy some rows; those of a large memory map into a temporary file.

    Parameters
    ----------
    X : ndarray or torch.Tensor of shape (n_samples, n_features)
    index : ndarray
        Row numbers, or a boolean mask.

    Returns
    -------
    ndarray or torch.Tensor of shape (n_rows, n_features)
        The file of a memory map vanishes together with it.
    """
    if not is_mapped(X):
        return X[index]
    index = np.flatnonzero(index) if index.dtype == bool else index
    row_bytes = X.shape[1] * X.dtype.itemsize
    if len(index) * row_bytes <= _MEMORY_BYTES:
        return np.asarray(X[index])
    with tempfile.TemporaryFile() as file:
        shape = (len(index), X.shape[1])
        copy = np.memmap(file, X.dtype, "w+", shape=shape)
    n_rows = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(index), n_rows):
        where = slice(start, start + n_rows)
        copy[where] = X[index[where]]
    return copy
