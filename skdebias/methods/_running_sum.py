"""Running sums that do not depend on the order in which threads end."""

import torch
from torch import Tensor


def running_sum(values: Tensor, dim: int) -> Tensor:
    """Sum along a dimension, up to and with each place; the same in every run.

    `torch.cumsum` is that on the CPU alone.

    Parameters
    ----------
    values : Tensor
    dim : int

    Returns
    -------
    Tensor
        Of the shape of `values`.
    """
    if values.device.type == "cpu":
        return values.cumsum(dim)
    size = values.shape[dim]
    upper = torch.ones(size, size, dtype=values.dtype, device=values.device).triu()
    return (values.movedim(dim, -1) @ upper).movedim(-1, dim)
