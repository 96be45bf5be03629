"""Passes over the rows of features, in blocks that fit in memory."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Float32 entries of one block of a pass over the rows.
_BLOCK_ENTRIES = 1 << 24
# Largest feature, and the inverse of the smallest difference, that can be squared and
# added up in float32.
_LARGEST = 1e15


class Rows(Protocol):
    """Features that hand out rows: the embeddings, or the activations of a layer."""

    n_rows: int
    n_features: int
    device: torch.device

    def rows(self, index: Tensor) -> Tensor:
        """Gather rows in float32."""
        ...


def blocks(features: Rows, index: NDArray[np.int64], width: int) -> Iterator[slice]:
    """Yield slices of `index` whose rows, `width` entries each, fit a block.

    Parameters
    ----------
    features : Rows
    index : ndarray of shape (n,)
        Row numbers.
    width : int
        Entries that a row takes beside its features.

    Yields
    ------
    slice
    """
    step = max(1, _BLOCK_ENTRIES // (features.n_features + width))
    for start in range(0, len(index), step):
        yield slice(start, min(start + step, len(index)))


def feature_mean(
    features: Rows,
    index: NDArray[np.int64],
    sample_weight: NDArray[np.float64] | None = None,
) -> Tensor:
    """Return the mean of some rows, summed in double precision.

    Parameters
    ----------
    features : Rows
    index : ndarray of shape (n,)
    sample_weight : ndarray of shape (n,), default=None
        Positive weights of these rows.

    Returns
    -------
    Tensor of shape (n_features,)
    """
    total = torch.zeros(
        features.n_features, dtype=torch.float64, device=features.device
    )
    for where in blocks(features, index, 0):
        X = features.rows(torch.from_numpy(index[where]))
        if sample_weight is None:
            total += X.sum(0, dtype=torch.float64)
        else:
            total += torch.from_numpy(sample_weight[where]).to(X.device) @ X.double()
    counted = len(index) if sample_weight is None else sample_weight.sum()
    return (total / counted).float()


def feature_norms(
    features: Rows, sample_weight: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Return the Euclidean norm of every row, centred at the mean of all.

    Parameters
    ----------
    features : Rows
    sample_weight : ndarray of shape (n_rows,), default=None
        Positive weights of the rows in that mean.

    Returns
    -------
    ndarray of shape (n_rows,)
    """
    index = np.arange(features.n_rows)
    center = feature_mean(features, index, sample_weight)
    by_block = [
        (features.rows(torch.from_numpy(index[where])) - center).norm(dim=1)
        for where in blocks(features, index, 0)
    ]
    return torch.cat(by_block).cpu().numpy()


def check_range(features: Rows) -> None:
    """Refuse features whose squares float32 cannot hold; constant ones are fine.

    Parameters
    ----------
    features : Rows

    Raises
    ------
    ValueError
    """
    first = features.rows(torch.zeros(1, dtype=torch.int64))
    spread = largest = 0.0
    for where in blocks(features, np.arange(features.n_rows), 0):
        block = features.rows(torch.arange(where.start, where.stop))
        spread = max(spread, float((block - first).abs().max()))
        largest = max(largest, float(block.abs().max()))
    if largest > _LARGEST or 0 < spread < 1 / _LARGEST:
        raise ValueError(
            f"X cannot be used: its values reach {largest:.2g} and differ by up "
            f"to {spread:.2g}, whose squares float32 does not hold. Standardise X, for "
            "example with sklearn.preprocessing.StandardScaler."
        )


def spread_draws(
    weights: NDArray[np.float64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw positions in proportion to weights, evenly: each within one of its share.

    Parameters
    ----------
    weights : ndarray of shape (n,)
        Positive.
    most : int
        Of so many draws, at most; `n` otherwise.
    rng : numpy Generator

    Returns
    -------
    ndarray of shape (n_draws,)
        Ascending.
    """
    n_drawn, sums = min(len(weights), most), np.cumsum(weights)
    places = (np.arange(n_drawn) + rng.random()) / n_drawn * sums[-1]
    return np.minimum(np.searchsorted(sums, places, side="right"), len(sums) - 1)
