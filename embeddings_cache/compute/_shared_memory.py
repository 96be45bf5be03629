"""Shared memory in which processes hand over arrays of one size.

A pipe moves an array in pieces of 64 KiB, each a turn of two processes. The memory
belongs to a descriptor of the parent, which processes open below ``/proc``: it has no
name that a killed run could leave behind, and no limit as ``/dev/shm`` has in
containers. Without it (not Linux), arrays go through the pipe.
"""

import mmap
import os
from typing import NamedTuple

import numpy as np


class Slot(NamedTuple):
    """Room for one array: the memory's path for other processes, and where in it."""

    path: str
    start: int
    size: int


class Filled(NamedTuple):
    """An array in the slot that came with its task."""

    shape: tuple[int, ...]
    dtype: str


class SharedMemoryPool:
    """Slots of one size; none where the system lacks them.

    Parameters
    ----------
    count : int
        Number of slots.
    size : int
        Bytes of a slot.
    """

    def __init__(self, count: int, size: int) -> None:
        self._free: list[Slot] = []
        self._fd = -1
        if not hasattr(os, "memfd_create") or not size:
            return
        self._fd = os.memfd_create("embeddings")
        path = f"/proc/{os.getpid()}/fd/{self._fd}"
        os.ftruncate(self._fd, count * size)
        if os.path.exists(path):
            self._memory = mmap.mmap(self._fd, count * size)
            self._free = [Slot(path, i * size, size) for i in range(count)]

    def take(self) -> Slot | None:
        """Return a slot that nobody uses, None if there is none."""
        return self._free.pop() if self._free else None

    def give_back(self, slot: Slot | None) -> None:
        """Let a slot be taken again."""
        if slot is not None:
            self._free.append(slot)

    def array(self, slot: Slot, filled: Filled) -> np.ndarray:
        """Return a copy of the array in a slot."""
        count = int(np.prod(filled.shape))
        flat = np.frombuffer(self._memory, filled.dtype, count, offset=slot.start)
        return flat.reshape(filled.shape).copy()

    def close(self) -> None:
        """Give the memory back when no process has it mapped any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_mapped: dict[str, mmap.mmap] = {}


def fill(slot: Slot | None, values: np.ndarray) -> Filled | None:
    """Copy an array to a slot of another process; None if it does not fit."""
    if slot is None or values.nbytes > slot.size or values.dtype.hasobject:
        return None
    if slot.path not in _mapped:
        fd = os.open(slot.path, os.O_RDWR)
        try:
            _mapped[slot.path] = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
    count = values.size
    flat = np.frombuffer(_mapped[slot.path], values.dtype, count, offset=slot.start)
    np.copyto(flat.reshape(values.shape), values)
    return Filled(values.shape, values.dtype.str)
