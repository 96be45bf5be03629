"""How the rows of a step are dealt out to processes and passes."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def deal_slots(
    n_slots: int, n_processes: int, rank: int, n_passes: int
) -> list[NDArray[np.int64]]:
    """Deal the slots of a step out in turn, to processes first and passes next.

    Slots are sorted by batch and group, so that every pass of every process is a
    sample of the step: of any batch, and of any group in a batch, two passes hold
    numbers of rows that differ by one at most. Batch normalisation, which sees one pass
    at a time, needs that: with one group to a pass it would remove what tells the
    groups apart.

    Parameters
    ----------
    n_slots : int
        Rows of a step.
    n_processes, rank : int
        Processes, and the number of this one.
    n_passes : int
        Passes that are asked for; there are no more than the process has slots.

    Returns
    -------
    list of ndarray
        Slots of this process, pass by pass; -1 stands for none. Sizes are the same in
        every process.
    """
    padded = np.full(-(-n_slots // n_processes) * n_processes, -1)
    padded[:n_slots] = np.arange(n_slots)
    dealt = padded[rank::n_processes]
    return [dealt[first::n_passes] for first in range(min(n_passes, len(dealt)))]


def position_in_passes(sizes: list[int]) -> NDArray[np.int64]:
    """Return where a process's slots lie if its passes are put one after the other.

    Parameters
    ----------
    sizes : list of int
        Slots of each pass of :func:`deal_slots`.

    Returns
    -------
    ndarray of shape (n_own_slots,)
    """
    dealt = [np.arange(size) * len(sizes) + first for first, size in enumerate(sizes)]
    return np.argsort(np.concatenate(dealt))


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put the buffers of a module back after passes that must not count.

    Running statistics move in every forward pass of the training mode.

    Parameters
    ----------
    module : torch.nn.Module
    """
    kept = [
        (submodule, name, buffer, buffer.detach().clone())
        for submodule in module.modules()
        for name, buffer in submodule.named_buffers(
            recurse=False, remove_duplicate=False
        )
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for submodule, name, buffer, value in kept:
                buffer.copy_(value)
                setattr(submodule, name, buffer)
