"""Memory that steps write to instead of allocating their own."""

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Named pieces of memory, the same for every step of a loop.

    The page faults of fresh megabytes cost up to a third of a step of hundreds of heads
    on a CPU. What is written here is valid until the next step asks for the same name.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}
        self._views: dict[tuple[str, torch.dtype, tuple[int, ...]], Tensor] = {}

    def __call__(
        self, name: str, *shape: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return memory to write to.

        Parameters
        ----------
        name : str
        *shape : int
        dtype : torch.dtype, default=torch.float32
            Another type is another piece of memory.

        Returns
        -------
        Tensor of shape `shape`
            Whatever the last step left.
        """
        view = self._views.get((name, dtype, shape))
        if view is None:
            key, size = (name, dtype), prod(shape)
            memory = self._memory.get(key)
            if memory is None or len(memory) < size:
                memory = torch.empty(size, dtype=dtype, device=self._device)
                self._memory[key] = memory
                # Views of the memory that was too small would keep it alive.
                self._views = {k: v for k, v in self._views.items() if k[:2] != key}
            view = self._views[name, dtype, shape] = memory[:size].view(shape)
        return view
