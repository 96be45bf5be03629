"""Distances between the parts of a step, as averages over their pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor


def kernel_distance(rows: Tensor, shares: Tensor, gammas: Sequence[float]) -> Tensor:
    """Return the mean squared maximum mean discrepancy of the pairs of parts.

    Parameters
    ----------
    rows : Tensor of shape (B, R, width)
    shares : Tensor of shape (B, P, R)
    gammas : sequence of float
        Inverse squared widths of the Gaussian kernels.

    Returns
    -------
    Tensor of shape (B,)
    """
    # A narrow kernel magnifies the rounding of the distances a thousand times.
    exact = rows.double()
    squares = exact.square().sum(-1)
    apart = squares[:, :, None] + squares[:, None] - 2.0 * exact @ exact.mT
    apart = apart.clamp_min(0.0).to(rows.dtype)
    kernel = torch.stack([torch.exp(-gamma * apart) for gamma in gammas]).sum(0)
    inner = shares @ kernel @ shares.mT  # (B, P, P)
    n = shares.any(-1).sum(1)
    within = inner.diagonal(dim1=1, dim2=2).sum(1)
    # sum_{i<j} (inner_ii + inner_jj - 2 inner_ij), over the pairs
    return 2.0 * (n * within - inner.sum((1, 2))) / (n * (n - 1)).clamp_min(1)


def pair_distance(moments: Tensor, present: Tensor) -> Tensor:
    """Return the mean squared difference of the pairs of parts.

    Parameters
    ----------
    moments : Tensor of shape (B, P, n)
    present : Tensor of shape (B, P)
        Parts that count.

    Returns
    -------
    Tensor of shape (B,)
    """
    counts = present[..., None].to(moments.dtype)
    n = counts.sum(1, keepdim=True)
    mean = (counts * moments).sum(1, keepdim=True) / n.clamp_min(1.0)
    squares = (counts * (moments - mean).square()).sum(1)
    # The squared differences of n values sum to n times those from their mean.
    return 2.0 * squares.mean(1) / (n[:, 0, 0] - 1.0).clamp_min(1.0)
