"""Thread count of a fit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Below this many multiply-adds per step a second thread costs more in barriers than it
# brings, and on a machine whose cores are shared it costs an order of magnitude.
_PARALLEL_WORK = 50_000_000


@contextmanager
def fit_threads(work: int) -> Iterator[None]:
    """Run a block with one thread when its steps are small; restore afterwards.

    Parameters
    ----------
    work : int
        Multiply-adds of one step.
    """
    before = torch.get_num_threads()
    if work < _PARALLEL_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
