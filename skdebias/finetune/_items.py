"""Items as a network takes them: read, prepared and put together in batches."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skdebias.finetune._extraction import (
    Backbone,
    Item,
    ItemError,
    UnreadableItemError,
    ordered_map,
    read_items,
)

_BLOCK = 256  # items that are read ahead of the bar


class Items:
    """Items of one data set, prepared for a backbone.

    Parameters
    ----------
    items : array-like
        As for the extractor, or with the modality "tensor" an array of numbers whose
        first axis counts items.
    modality : {"image", "text", "tensor"}
    """

    def __init__(self, items: Any, modality: str, name: str = "items") -> None:
        self._name = name
        self._modality = modality
        self._tensor: Tensor | None = None
        self._items: Sequence[Item] = []
        if modality == "tensor":
            self._tensor = _as_tensor(items, name)
        else:
            self._items = read_items(items, modality)

    def __len__(self) -> int:
        return len(self._items if self._tensor is None else self._tensor)

    def check(self) -> None:
        """Refuse files that are not there, before anything is trained.

        Raises
        ------
        UnreadableItemError
        """
        missing = [
            (number, item.name, "no such file")
            for number, item in enumerate(self._items)
            if item.path is not None and not os.path.isfile(item.path)
        ]
        if missing:
            raise UnreadableItemError(missing, len(self), cached=False)

    def prepared(self, index: int, tools: Backbone) -> Any:
        """Return one item as `tools.collate` takes it.

        Raises
        ------
        ItemError
            If it cannot be read.
        """
        if self._tensor is not None:
            return self._tensor[index]
        value, _ = self._items[index].content()
        return tools.prepare(value)

    def load(self, tools: Backbone, budget: int, workers: int) -> None:
        """Prepare all items now and keep them, if they are images and fit.

        Parameters
        ----------
        tools : Backbone
        budget : int
            Bytes of memory that they may take.
        workers : int
            Threads that read.

        Raises
        ------
        UnreadableItemError
            Naming all items that cannot be read.
        """
        if self._modality != "image" or not len(self):
            return
        try:
            first = self.prepared(0, tools)
        except ItemError:
            first = None
        if not isinstance(first, Tensor | None):
            return
        if first is not None and first.nbytes * len(self) > budget:
            return

        def read(index: int) -> Any:
            try:
                return self.prepared(index, tools)
            except ItemError as error:
                return index, self._items[index].name, str(error)

        kept: Tensor | None = None
        bad = []
        found = ordered_map(read, range(len(self)), workers, 4 * workers + 1)
        for index, value in enumerate(found):
            if isinstance(value, tuple):
                bad.append(value)
                continue
            if kept is None:
                if value.nbytes * len(self) > budget:
                    return
                kept = value.new_empty(len(self), *value.shape)
            if value.shape != kept.shape[1:]:
                return  # the collation will say what it wants
            kept[index] = value
        if bad:
            raise UnreadableItemError(bad, len(self), cached=False)
        self._tensor = kept

    def batches(
        self,
        tools: Backbone,
        rows: Iterable[tuple[int, NDArray[np.int64]]],
        workers: int = 0,
        augment: Callable[[Any], Any] | None = None,
    ) -> Iterator[Any]:
        """Yield collated batches, on the CPU.

        Parameters
        ----------
        tools : Backbone
        rows : iterable of (seed, ndarray of shape (n_rows,))
            Items of every batch, and the seed of what `augment` does to them.
        workers : int, default=0
            Processes that read ahead.
        augment : callable, default=None
            Of one prepared item.

        Yields
        ------
        Tensor or dict of Tensor

        Raises
        ------
        UnreadableItemError
        """
        whole = tools.collate is torch.stack or self._modality != "text"
        if self._tensor is not None and augment is None and whole:
            for _, index in rows:
                yield self._tensor[torch.from_numpy(index)]
            return
        tasks = (
            [(int(index), seed, place) for place, index in enumerate(batch)]
            for seed, batch in rows
        )
        loader = DataLoader(
            _Prepared(self, tools, augment),
            batch_sampler=_Once(tasks),
            collate_fn=lambda batch: batch,
            num_workers=workers,
            generator=torch.Generator(),  # the process's own is left alone
        )
        for batch in loader:
            bad = [value.args for value in batch if isinstance(value, _BadItemError)]
            if bad:
                raise UnreadableItemError(bad, len(self), cached=False)
            yield tools.collate(batch)

    def digest(self) -> str:
        """Return what tells these items from others, without decoding any."""
        found = hashlib.sha256(self._modality.encode())
        if self._modality == "tensor" and self._tensor is not None:
            found.update(repr((self._tensor.dtype, self._tensor.shape)).encode())
            found.update(np.ascontiguousarray(self._tensor.numpy()))
            return found.hexdigest()
        for item in self._items:
            if item.path is not None:
                state = os.stat(item.path)
                found.update(
                    repr((item.path, state.st_size, state.st_mtime_ns)).encode()
                )
            else:
                found.update(item.key())
        return found.hexdigest()


class _BadItemError(Exception):
    """Position, name and reason of an item that a worker could not read."""


class _Prepared(Dataset):
    """Prepared items, each augmented from a seed of its own."""

    def __init__(
        self, items: Items, tools: Backbone, augment: Callable[[Any], Any] | None
    ) -> None:
        self._items = items
        self._tools = tools
        self._augment = augment

    def __getitem__(self, task: tuple[int, int, int]) -> Any:
        index, seed, place = task
        try:
            value = self._items.prepared(index, self._tools)
        except ItemError as error:
            # An exception that crossed processes would lose what it says.
            return _BadItemError(index, self._items._items[index].name, str(error))
        if self._augment is None:
            return value
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed + place)
            return self._augment(value)


class _Once:
    """A batch sampler that hands out what an iterator has."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


def _as_tensor(items: Any, name: str) -> Tensor:
    if isinstance(items, Tensor):
        tensor = items.detach().cpu()
    else:
        try:
            tensor = torch.from_numpy(np.array(items, copy=None, order="C"))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: modality='tensor' takes an array of numbers, one item per "
                f"row ({error})."
            ) from error
    if tensor.ndim < 2:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}: give one item per row, of shape "
            "(n_samples, ...). Reshape your data with reshape(-1, 1) if it has a "
            "single feature."
        )
    return tensor.float()
