"""Approximate Hessians of all linear heads on the same rows: where L-BFGS starts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._features import Features, JoinedFeatures

# One row of so many is sampled, and at most so many rows per feature.
_SAMPLED = 8
_MOST_PER_FEATURE = 3
# Parts of the columns: products of one with those before it are left out.
_PARTS = 4


class Curvature:
    """Hessians of the mean loss at zero weights, by their Cholesky factors.

    They are `kappa E[x x^T]` and the weight decay, with `kappa` 1/4 for a single logit
    and `1 / n_logits` for several. The second moments are those of sampled rows, shrunk
    towards their diagonal. What they have of a problem is its weight decay: nothing
    depends on which problems are solved together.

    Parameters
    ----------
    X : Tensor of shape (n_sampled, n_features)
        Sampled rows.
    row_weights : Tensor of shape (n_sampled,)
        Their sum is 1.
    n_out : int
        Logits of a head.
    weight_decay : ndarray of shape (n_problems,)
    decayed : Tensor of shape (n_features + 1,)
        1 where weight decay applies. The bias is last.
    """

    def __init__(
        self,
        X: Tensor,
        row_weights: Tensor,
        n_out: int,
        weight_decay: NDArray[np.float64],
        decayed: Tensor,
    ) -> None:
        n_sampled, n_features = X.shape
        moments = _moments(X, row_weights)
        moments *= 0.25 if n_out == 1 else 1.0 / n_out
        diagonal = moments.diagonal().clone()
        # A feature that no sampled row has may still be in others.
        diagonal = torch.where(diagonal > 0, diagonal, diagonal.mean())
        shrinkage = n_features / (n_features + n_sampled)
        moments *= 1.0 - shrinkage
        moments.diagonal().copy_(diagonal)
        # It may be rough: a few factors serve many weight decays, and a single one all
        # that are small beside the shrinkage.
        least = shrinkage * float(diagonal.min())
        powers = np.round(np.log10(np.maximum(weight_decay, least)))
        levels, position = np.unique(powers, return_inverse=True)
        self._factors = [
            torch.linalg.cholesky(
                moments + torch.diag(10.0**level * decayed.to(moments))
            )
            for level in levels.tolist()
        ]
        self._position = torch.from_numpy(position).to(X.device)

    def select(self, problems: Tensor) -> None:
        """Forget all but the problems of a mask."""
        self._position = self._position[problems]

    def solve(self, x: Tensor) -> Tensor:
        """Multiply by the inverse Hessians.

        Parameters
        ----------
        x : Tensor of shape (n_problems, n_parameters)

        Returns
        -------
        Tensor of shape (n_problems, n_parameters)
        """
        solved = torch.zeros_like(x)
        for number, factor in enumerate(self._factors):
            members = self._position == number
            columns = x[members].view(-1, len(factor)).to(factor.dtype).T
            columns = torch.cholesky_solve(columns, factor).T
            solved[members] = columns.to(x.dtype).reshape(-1, x.shape[1])
        return solved


def sampled_curvature(
    features: Features | JoinedFeatures,
    strata: NDArray[np.int64],
    rows: NDArray[np.int64] | None,
    dtype: torch.dtype,
    n_out: int,
    weight_decay: NDArray[np.float64],
    decayed: Tensor,
    draw_weights: NDArray[np.float64] | None = None,
) -> Curvature | None:
    """Sample the rows, evenly over the strata and within them.

    All strata count the same: heads stay unsure of the rows of small ones, which thus
    matter to the Hessian, whatever their weights in the objective.

    Parameters
    ----------
    features : Features
    strata : ndarray of shape (n_rows,)
        Of the rows of the problems.
    rows : ndarray of shape (n_rows,), default=None
        Their numbers. None is all.
    dtype : torch.dtype
        Precision of the factors.
    n_out, weight_decay, decayed
        As of :class:`Curvature`.
    draw_weights : ndarray of shape (n_rows,), default=None
        Of the rows within their strata, as plans have them.

    Returns
    -------
    Curvature or None
        None if there are so few rows per feature that passes cost less than this.
    """
    n_features = features.n_features
    n_sampled = min(len(strata) // _SAMPLED, _MOST_PER_FEATURE * n_features)
    if n_sampled < n_features:
        return None
    sample, row_weights = _sample(strata, n_sampled, draw_weights)
    index = torch.from_numpy(sample if rows is None else rows[sample])
    X = features.rows(index).to(dtype)
    return Curvature(
        X, torch.from_numpy(row_weights).to(X), n_out, weight_decay, decayed
    )


def _sample(
    strata: NDArray[np.int64],
    n_sampled: int,
    draw_weights: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions of at most so many rows, and their weights."""
    counts = np.bincount(strata)
    order = np.argsort(strata, kind="stable")
    taken = np.minimum(counts, -(-n_sampled // len(counts)))
    positions = [
        start + np.arange(some) * count // some
        for start, count, some in zip(np.cumsum(counts) - counts, counts, taken)
    ]
    row_weights = np.repeat(1.0 / (len(counts) * taken), taken)
    sample = order[np.concatenate(positions)]
    if draw_weights is not None:
        drawn, stratum = draw_weights[sample], strata[sample]
        row_weights *= drawn * (taken / np.bincount(stratum, drawn))[stratum]
    return sample, row_weights


def _moments(X: Tensor, row_weights: Tensor) -> Tensor:
    """Second moments of features and bias; above the diagonal they are incomplete."""
    n_features = X.shape[1]
    moments = X.new_zeros(n_features + 1, n_features + 1)
    moments[-1, :-1] = row_weights @ X
    moments[-1, -1] = 1.0
    scaled = X * row_weights.sqrt()[:, None]
    width = -(-n_features // _PARTS)
    for start in range(0, n_features, width):
        part = slice(start, min(start + width, n_features))
        moments[start:-1, part] = scaled[:, start:].T @ scaled[:, part]
    return moments
