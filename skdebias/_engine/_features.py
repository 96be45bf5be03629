"""Row access to the embeddings, whatever holds them."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._engine._threads import thread_pool
from skdebias._engine._workspace import Workspace
from skdebias._mapped import is_mapped

# Bytes of rows that are read ahead where X is a file, or does not fit the device.
_AHEAD_BYTES = 1 << 26
# Reads that wait for a disk at the same time.
_READERS = 8
# Smaller memory maps stay in the page cache: their rows are gathered as in memory.
_STREAMED_BYTES = 1 << 30
# Steps whose row numbers are copied to an accelerator at once: it waits for every copy.
_STEPS_AT_ONCE = 64
# Share of the free device memory that resident embeddings may take.
_RESIDENT_SHARE = 0.6
_CHUNK_ROWS = 16384


class Features:
    """Embeddings that hand out float32 rows on a device.

    Nothing is copied or upcast as a whole: rows are cast as they are gathered. On an
    accelerator the embeddings are moved there once if they fit, in their own precision.
    Those that do not fit, and large memory maps, are streamed: the rows of many steps
    are read at once, in the order of the file, while the steps before them run.

    Parameters
    ----------
    X : ndarray or torch.Tensor of shape (n_samples, n_features)
        Embeddings, float16, float32 or float64; memory maps welcome, and tensors on
        any device.
    device : torch.device
        Where rows are wanted.
    """

    def __init__(self, X: NDArray | torch.Tensor, device: torch.device) -> None:
        # A tensor on "cuda" says that it is on "cuda:0", which is not equal.
        self.device = device = torch.empty(0, device=device).device
        self.n_rows, self.n_features = int(X.shape[0]), int(X.shape[1])
        tensor = X if isinstance(X, torch.Tensor) else _as_tensor(X)
        if tensor.device != device and fits(tensor, device):
            tensor = tensor.to(device)
        self._tensor = tensor
        large = tensor.numel() * tensor.element_size() > _STREAMED_BYTES
        #: Whether the rows lie in a file, perhaps because memory does not hold them.
        self.is_mapped = is_mapped(X)
        self._streamed = tensor.device != device or (large and self.is_mapped)

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the rows are held."""
        return self._tensor.dtype

    def rows(
        self, index: torch.Tensor, workspace: Workspace | None = None
    ) -> torch.Tensor:
        """Gather rows.

        Parameters
        ----------
        index : Tensor of shape (...,)
            Row numbers, on any device.
        workspace : Workspace, default=None
            Holds the rows. None allocates them.

        Returns
        -------
        Tensor of shape (..., n_features)
            float32, on the device.
        """
        flat = index.reshape(-1).to(self._tensor.device)
        shape = (len(flat), self.n_features)
        # Rows that are not resident come by way of memory elsewhere.
        if workspace is None or self._streamed:
            workspace = Workspace(self._tensor.device)
        taken = workspace("rows", *shape, dtype=self.dtype)
        torch.index_select(self._tensor, 0, flat, out=taken)
        if self.dtype != torch.float32:
            taken = workspace("float32 rows", *shape).copy_(taken)
        return taken.to(self.device).view(*index.shape, self.n_features)

    def gathered(
        self, steps: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the rows of one step after the other, as :meth:`rows` gathers them.

        Parameters
        ----------
        steps : iterable of ndarray of shape (...,)
            Row numbers of every step, all of one shape.

        Yields
        ------
        index : Tensor of shape (...,)
            The row numbers, on the device.
        rows : Tensor of shape (..., n_features)
            Valid until the next step is asked for.
        """
        if not self._streamed:
            yield from _one_by_one(self, steps)
            return
        with thread_pool(1) as ahead, thread_pool(_READERS) as readers:
            blocks = self._blocks(steps)
            block = next(blocks, None)
            waiting = block and ahead.submit(self._read, block, readers)
            while block and waiting:
                held, numbers, where = waiting.result()
                block = next(blocks, None)
                waiting = block and ahead.submit(self._read, block, readers)
                for index, position in zip(numbers, where):
                    rows = held.index_select(0, position.flatten()).float()
                    yield index, rows.view(*index.shape, -1)

    def _blocks(
        self, steps: Iterable[NDArray[np.int64]]
    ) -> Iterator[list[NDArray[np.int64]]]:
        """Gather steps into lists whose rows are read at once."""
        size = self.n_features * self._tensor.element_size()
        steps = iter(steps)
        for first in steps:
            further = max(0, _AHEAD_BYTES // (size * first.size) - 1)
            yield [first, *islice(steps, further)]

    def _read(
        self, steps: list[NDArray[np.int64]], readers: Executor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read the distinct rows of some steps; return the numbers and places, too."""
        stacked = np.stack(steps)
        distinct, position = np.unique(stacked, return_inverse=True)
        numbers = torch.from_numpy(stacked).to(self.device)
        where = torch.from_numpy(position.reshape(stacked.shape)).to(self.device)
        held = self._read_rows(torch.from_numpy(distinct), readers)
        return held.to(self.device, non_blocking=held.is_pinned()), numbers, where

    def _read_rows(self, index: torch.Tensor, readers: Executor) -> torch.Tensor:
        if self._tensor.device.type != "cpu":  # another accelerator
            return self._tensor.index_select(0, index.to(self._tensor.device))
        held = torch.empty(
            (len(index), self.n_features),
            dtype=self._tensor.dtype,
            pin_memory=self.device.type == "cuda",
        )
        # Every reader waits for its own pages of the file.
        parts = zip(index.chunk(_READERS), held.chunk(_READERS))
        list(readers.map(self._read_part, *zip(*parts)))
        return held

    def _read_part(self, index: torch.Tensor, out: torch.Tensor) -> None:
        torch.index_select(self._tensor, 0, index, out=out)

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield all rows in order, in float32 blocks on the device.

        Yields
        ------
        where : slice
        block : Tensor of shape (n_block_rows, n_features)
        """
        for start in range(0, self.n_rows, _CHUNK_ROWS):
            where = slice(start, min(start + _CHUNK_ROWS, self.n_rows))
            yield where, self.block(where)

    def block(self, where: slice) -> torch.Tensor:
        """Rows that lie side by side, without a copy where none is needed.

        Parameters
        ----------
        where : slice

        Returns
        -------
        Tensor of shape (n_block_rows, n_features)
            float32, on the device.
        """
        return self._tensor[where].to(device=self.device, dtype=torch.float32)


class JoinedFeatures:
    """Several embeddings of the same rows, side by side; only gathered rows are joined.

    Parameters
    ----------
    parts : sequence of Features or int
        Sources with the same number of rows on the same device. A number stands for
        that many columns of zeros.
    """

    def __init__(self, parts: Sequence[Features | int]) -> None:
        self._parts = list(parts)
        sources = [part for part in parts if isinstance(part, Features)]
        self.device, self.n_rows = sources[0].device, sources[0].n_rows
        widths = [p if isinstance(p, int) else p.n_features for p in parts]
        ends = np.cumsum([0, *widths]).tolist()
        self.n_features = ends[-1]
        self.dtype = torch.float32
        self.is_mapped = any(source.is_mapped for source in sources)
        #: Columns of each part.
        self.columns = [slice(a, b) for a, b in pairwise(ends)]

    def rows(
        self, index: torch.Tensor, workspace: Workspace | None = None
    ) -> torch.Tensor:
        """Gather rows, as :meth:`Features.rows`."""
        workspace = workspace or Workspace(self.device)
        joined = workspace("joined", *index.shape, self.n_features)
        for part, columns in zip(self._parts, self.columns):
            joined[..., columns] = (
                0.0 if isinstance(part, int) else part.rows(index, workspace)
            )
        return joined

    def gathered(
        self, steps: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the rows of one step after the other, as :meth:`Features.gathered`."""
        return _one_by_one(self, steps)

    def chunks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield all rows in order, as :meth:`Features.chunks`."""
        for start in range(0, self.n_rows, _CHUNK_ROWS):
            where = slice(start, min(start + _CHUNK_ROWS, self.n_rows))
            yield where, self.block(where)

    def block(self, where: slice) -> torch.Tensor:
        """Rows that lie side by side, as :meth:`Features.block`."""
        return self.rows(torch.arange(where.start, min(where.stop, self.n_rows)))


class AppendedFeatures:
    """Further rows after those of a matrix; neither is copied.

    Parameters
    ----------
    features, further : Features
        On the same device, with the same number of features.
    """

    def __init__(self, features: Features, further: Features) -> None:
        self._parts = features, further
        self.device, self.n_features = features.device, features.n_features
        self.is_mapped = features.is_mapped
        self.n_rows = features.n_rows + further.n_rows
        self.dtype = torch.float32

    def rows(
        self, index: torch.Tensor, workspace: Workspace | None = None
    ) -> torch.Tensor:
        """Gather rows, as :meth:`Features.rows`."""
        features, further = self._parts
        last = features.n_rows - 1
        # Of both for all of them: to tell which are which, a GPU would be waited for.
        rows = features.rows(index.clamp(max=last), workspace)
        appended = further.rows((index - last - 1).clamp(min=0))
        return torch.where((index > last)[..., None], appended, rows)

    def gathered(
        self, steps: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the rows of one step after the other, as :meth:`Features.gathered`."""
        return _one_by_one(self, steps)


def _one_by_one(
    features: Features | JoinedFeatures | AppendedFeatures,
    steps: Iterable[NDArray[np.int64]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    workspace, steps = Workspace(features.device), iter(steps)
    while block := list(islice(steps, _STEPS_AT_ONCE)):
        for index in torch.from_numpy(np.stack(block)).to(features.device):
            yield index, features.rows(index, workspace)


def fits(tensor: torch.Tensor, device: torch.device) -> bool:
    """Whether there is room for a tensor on a device, and for as much again.

    Parameters
    ----------
    tensor : Tensor
    device : torch.device

    Returns
    -------
    bool
        True for a device whose memory cannot be asked for.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch holds for itself, and would give out again.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return tensor.numel() * tensor.element_size() < _RESIDENT_SHARE * free


def _as_tensor(X: NDArray) -> torch.Tensor:
    if any(stride < 0 for stride in X.strides) or not X.dtype.isnative:
        X = np.ascontiguousarray(X, dtype=X.dtype.newbyteorder("="))
    if not X.flags.writeable:
        X = np.asarray(_Writable(X))
    return torch.from_numpy(X)


class _Writable:
    """The memory of a read-only array, without torch's warning that it is read-only.

    Nothing here ever writes to X. The filters that would hide the warning belong to the
    process, so a fit in a thread could not leave them as they were.
    """

    def __init__(self, array: NDArray) -> None:
        self._array = array  # whose memory it is
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
