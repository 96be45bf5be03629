"""Items as a network takes them: read, prepared and put together in batches."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skdebias.finetune._augmentation import augmented
from skdebias.finetune._extraction import (
    Backbone,
    Item,
    ItemError,
    UnreadableItemError,
    auto_workers,
    check_files,
    content_keys,
    ordered_map,
    prepare_item,
    read_items,
)


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

    @property
    def in_memory(self) -> bool:
        """Whether all items are prepared, and need only be taken."""
        return self._tensor is not None

    def take(self, index: Tensor) -> Tensor:
        """Return some of the items that are in memory.

        Parameters
        ----------
        index : Tensor of shape (n,)

        Returns
        -------
        Tensor of shape (n, ...)
        """
        tensor: Tensor = self._tensor  # type: ignore[assignment]
        return tensor[index]

    def check(self) -> None:
        """Refuse files that are not there, before anything is trained.

        Raises
        ------
        UnreadableItemError
        """
        check_files(self._items)

    def read(self, index: int, embedder: Backbone) -> Any:
        """Return one item as `embedder.collate` takes it, or what is wrong with it."""
        if self._tensor is not None:
            return self._tensor[index]
        value = prepare_item(self._items[index], embedder.prepare)
        if isinstance(value, ItemError):
            # Returned, for an exception that crosses processes loses what it says.
            return _BadItemError(index, self._items[index].name, str(value))
        return value

    def load(self, embedder: Backbone, budget: int, workers: int) -> None:
        """Prepare all items now and keep them, if they are images and fit.

        Parameters
        ----------
        embedder : Backbone
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
        kept: Tensor | None = None
        bad = []
        read = partial(self.read, embedder=embedder)
        values = ordered_map(read, range(len(self)), workers, 4 * workers + 1)
        for index, value in enumerate(values):
            if isinstance(value, _BadItemError):
                bad.append(value.args)
                continue
            value = torch.as_tensor(value)  # as the collation of a module has it
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
        embedder: Backbone,
        rows: Iterable[tuple[int, NDArray[np.int64]]],
        workers: int = 0,
        augment: Callable[[Any], Any] | None = None,
    ) -> Iterator[Any]:
        """Yield collated batches, on the CPU.

        Parameters
        ----------
        embedder : Backbone
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
        if self.in_memory and augment is None:
            for _, index in rows:
                yield self.take(torch.from_numpy(index))
            return
        read = (
            self._read_ahead(embedder, rows)
            if augment is None and workers == 0
            else self._load(embedder, rows, workers, augment)
        )
        for batch in read:
            bad = [value.args for value in batch if isinstance(value, _BadItemError)]
            if bad:
                raise UnreadableItemError(bad, len(self), cached=False)
            yield embedder.collate(batch)

    def _read_ahead(
        self, embedder: Backbone, rows: Iterable[tuple[int, NDArray[np.int64]]]
    ) -> Iterator[list[Any]]:
        """Yield what was prepared of each batch; images are read by threads."""

        def read(task: tuple[int, NDArray[np.int64]]) -> list[Any]:
            return [self.read(int(index), embedder) for index in task[1]]

        readers = auto_workers(len(self)) if self._modality == "image" else 0
        return ordered_map(read, rows, readers, 2 * readers + 1)

    def _load(
        self,
        embedder: Backbone,
        rows: Iterable[tuple[int, NDArray[np.int64]]],
        workers: int,
        augment: Callable[[Any], Any] | None,
    ) -> Iterator[list[Any]]:
        """Yield what was prepared and augmented of each batch, read by processes."""
        tasks = (
            [(int(index), seed, place) for place, index in enumerate(batch)]
            for seed, batch in rows
        )
        loader = DataLoader(
            _Prepared(self, embedder, augment),
            batch_sampler=_IterableSampler(tasks),
            collate_fn=_identity,
            num_workers=workers,
            generator=torch.Generator(),  # the process's own is left alone
        )
        return iter(loader)

    def digest(self, folder: Path) -> str:
        """Return what tells the content of these items from that of others.

        Parameters
        ----------
        folder : Path
            Where it is kept which file has which content, so that files that have not
            changed are not read again.

        Returns
        -------
        str

        Raises
        ------
        UnreadableItemError
        """
        state = hashlib.sha256(self._modality.encode())
        if self._modality == "tensor" and self._tensor is not None:
            state.update(repr((self._tensor.dtype, self._tensor.shape)).encode())
            state.update(np.ascontiguousarray(self._tensor.numpy()).data)
            return state.hexdigest()
        state.update(content_keys(self._items, folder).tobytes())
        return state.hexdigest()


class AppendedItems(Items):
    """Items, and after them others of the same kind.

    Parameters
    ----------
    first, further : Items
        Of the same modality. Prepared as they are when these are read.
    """

    def __init__(self, first: Items, further: Items) -> None:
        self._modality = first._modality
        self._parts = first, further

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    @property
    def in_memory(self) -> bool:
        """Whether all items are prepared, and need only be taken."""
        return all(part.in_memory for part in self._parts)

    def take(self, index: Tensor) -> Tensor:
        """Return some of the items that are in memory, in the order asked for."""
        first, further = self._parts
        is_first = index < len(first)
        taken = first.take(index[is_first])
        items = taken.new_empty(len(index), *taken.shape[1:])
        items[is_first] = taken
        items[~is_first] = further.take(index[~is_first] - len(first))
        return items

    def read(self, index: int, embedder: Backbone) -> Any:
        """Return one item as `embedder.collate` takes it, or what is wrong with it."""
        first, further = self._parts
        if index < len(first):
            return first.read(index, embedder)
        return further.read(index - len(first), embedder)


class _BadItemError(Exception):
    """Position, name and reason of an item that a worker could not read."""


class _Prepared(Dataset):
    """Prepared items, each augmented from a seed of its own."""

    def __init__(
        self, items: Items, embedder: Backbone, augment: Callable[[Any], Any] | None
    ) -> None:
        self._items = items
        self._embedder = embedder
        self._augment = augment

    def __getitem__(self, task: tuple[int, int, int]) -> Any:
        index, seed, place = task
        value = self._items.read(index, self._embedder)
        if self._augment is None or isinstance(value, _BadItemError):
            return value
        return augmented(value, self._augment, seed + place, index)


def _identity(batch: list[Any]) -> list[Any]:
    return batch


class _IterableSampler:
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
    # Integers are codes: others have been made numbers before.
    return tensor.float() if tensor.is_floating_point() else tensor.long()
