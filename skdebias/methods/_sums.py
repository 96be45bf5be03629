"""Sums over rows by a number that each row has."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def add_by_number(sums: Tensor, dim: int, numbers: Tensor, values: Tensor) -> None:
    """Add values to the entries of `sums` that their numbers say, in a fixed order.

    On a GPU `index_add_` adds in whatever order its threads come, and they wait for
    each other where there are few numbers; a product does neither.

    Parameters
    ----------
    sums : Tensor of shape (n_numbers, n) or (n, n_numbers)
        Changed in place.
    dim : {0, 1}
        Axis of the numbers.
    numbers : Tensor of shape (n_rows,), int64
    values : Tensor of shape (n_rows, n) or (n, n_rows)
    """
    if sums.device.type == "cpu":
        sums.index_add_(dim, numbers, values)
        return
    shares = one_hot(numbers, sums.shape[dim]).to(values.dtype)
    sums += shares.T @ values if dim == 0 else torch.mm(values, shares)
