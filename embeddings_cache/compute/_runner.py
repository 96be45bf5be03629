"""Reader, network, writer: compute what the cache does not have, keep what is done."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from embeddings_cache._errors import (
    BadItem,
    EmbeddingValueError,
    ItemError,
    PreprocessError,
    ShallowImageWarning,
)
from embeddings_cache._parallel import ordered_map
from embeddings_cache._progress import Progress
from embeddings_cache._settings import RunConfig
from embeddings_cache._warnings import warn_caller
from embeddings_cache.backbones._base import Backbone
from embeddings_cache.compute._embedder import Batch, ready
from embeddings_cache.compute._processes import WorkerProcesses, WorkerStartError
from embeddings_cache.items import _images
from embeddings_cache.items._item import Item
from embeddings_cache.items._preparation import Noted, Preparation
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shards import KEY_DTYPE

SHARD_BYTES = 64 << 20
PROCESS_WORKERS = 8  # from here on "auto" means processes ...
PROCESS_ITEMS = 10_000  # ... if so many items are worth their start
FLUSH_SECONDS = 60.0  # what a kill can cost on a slow machine
_AHEAD = 4  # batches read before they are needed


class Runner:
    """Computes items and writes them to a folder in shards.

    Parameters
    ----------
    backbone : Backbone
        On the configured device.
    folder : ShardFolder
        Receives the shards.
    config : RunConfig
        Device, types, batch size and workers.
    progress : Progress
        Shows the bar.

    Attributes
    ----------
    readers : str
        What read the items, for the report.
    n_written : int
        Items that were committed.
    n_truncated : int
        Texts of them that were longer than the network takes.
    """

    def __init__(
        self,
        backbone: Backbone,
        folder: ShardFolder,
        config: RunConfig,
        progress: Progress,
    ) -> None:
        self.backbone = backbone
        self.folder = folder
        self.config = config
        self.progress = progress
        self._keys: list[bytes] = []
        self._rows: list[np.ndarray] = []
        self._bytes = 0
        self._flushed = time.monotonic()
        self.n_written = 0
        self.n_truncated = 0
        self.shallow: list[str] = []
        self.readers = ""

    def compute(
        self, items: Sequence[Item], keys: np.ndarray, indices: np.ndarray
    ) -> list[BadItem]:
        """Compute and commit the items at the given indices.

        Whatever ends the run (an error, Ctrl-C), the rows computed before are
        committed.

        Returns
        -------
        list of BadItem
            Items that could not be read.
        """
        # Similar lengths share a batch, longest first so that a batch that does not
        # fit shows at once. Images have no length and keep their order.
        order = sorted(indices.tolist(), key=lambda i: -items[i].weight)
        bad: list[BadItem] = []
        try:
            with (
                self.progress.bar(len(order), "embedding") as bar,
                ready(self.backbone, self.config) as embedder,
                # Not left to the garbage collector: readers end with the run.
                closing(self._prepared(items, keys, order)) as prepared,
            ):
                batches = self._batches(items, order, prepared, bad)
                for batch, values in embedder.embed(batches):
                    self._collect(keys, batch, values)
                    bar.update(len(values))
                bar.update(len(order) - bar.n)
                bad += [
                    BadItem(index, items[index].name, _TOO_LARGE)
                    for index in embedder.too_large
                ]
        finally:
            self._flush()
            self._warn_of_shallow()
        return bad

    def _warn_of_shallow(self) -> None:
        if self.shallow:
            n_images = len(self.shallow)
            warn_caller(
                f"{n_images} image{'s' * (n_images > 1)} of 16 bits with values below "
                f"4096 only, the first is {self.shallow[0]}. The high byte is read, "
                "and values up to 255 as they are: data of 10 or 12 bits come out "
                "almost black. Save them as 8-bit images if that is not meant.",
                ShallowImageWarning,
            )

    def _prepared(
        self, items: Sequence[Item], keys: np.ndarray, order: list[int]
    ) -> Generator[Any, None, None]:
        """Yield what was prepared of each item, or why it cannot be; read ahead."""
        function = Preparation(self.backbone.prepare)
        tasks = ((items[index], keys[index].tobytes()) for index in order)
        workers = self.config.num_workers
        ahead = _AHEAD * self.config.batch_size
        with ExitStack() as stack:
            processes, refusal = None, self._refusal(items, order)
            if refusal is None:
                limits = partial(_images.set_limits, *_images.limits())
                try:
                    processes = stack.enter_context(
                        WorkerProcesses(function, max(1, workers), limits)
                    )
                except WorkerStartError as error:
                    refusal = str(error)
            if refusal and self.config.worker_type == "process":
                raise ValueError(
                    f"worker_type='process': {refusal}. Use worker_type='thread'"
                )
            if processes is not None:
                self.readers = f"{max(1, workers)} reader processes"
                yield from processes.map(tasks, ahead, _lost)
                return
        self.readers = f"{workers} reader threads" if workers else ""
        if refusal:
            self.readers += f", not processes: {refusal}"
        yield from ordered_map(function, tasks, workers, ahead)

    def _refusal(self, items: Sequence[Item], order: list[int]) -> str | None:
        """Say why items are not read in processes; None if they are, "" if by rule."""
        wanted, workers = self.config.worker_type, self.config.num_workers
        few = workers < PROCESS_WORKERS or len(order) < PROCESS_ITEMS
        # A text is nothing to decode, and tokens are made a batch at a time.
        text = self.backbone.modality == "text"
        if wanted == "thread" or text or (wanted == "auto" and few):
            return ""
        if wanted == "auto" and self.backbone.own_prepare:
            return "preprocess is a function of your own"
        for index in order:
            if not items[index].portable:
                return f"{items[index].name} can be read by this process only"
        return None

    def _batches(
        self,
        items: Sequence[Item],
        order: list[int],
        prepared: Iterable[Any],
        bad: list[BadItem],
    ) -> Iterator[Batch]:
        """Yield the readable items, a batch at a time; note the others."""
        pairs = zip(order, prepared)
        first = True
        while part := list(islice(pairs, self.config.batch_size)):
            part = [(index, self._unwrapped(items[index], v)) for index, v in part]
            if first:
                _raise_if_all_fail([value for _, value in part])
            first = False
            bad += [
                BadItem(index, items[index].name, str(value))
                for index, value in part
                if isinstance(value, ItemError)
            ]
            good = [pair for pair in part if not isinstance(pair[1], ItemError)]
            if good:
                indices, values = zip(*good)
                names = [items[index].name for index in indices]
                yield Batch(list(indices), names, list(values))

    def _unwrapped(self, item: Item, value: Any) -> Any:
        """Return what was prepared of an item; note what there is to say of it."""
        if not isinstance(value, Noted):
            return value
        self.shallow.append(item.name)
        return value.value

    def _collect(self, keys: np.ndarray, batch: Batch, values: np.ndarray) -> None:
        """Add rows to the waiting shard; commit it when it is full or old."""
        rows = checked_rows(values, self.config.storage_dtype, batch.names)
        self._rows.append(rows)
        self._keys.append(keys[batch.indices].tobytes())
        self._bytes += rows.nbytes
        if self.backbone.cuts is not None:
            self.n_truncated += self.backbone.cuts.take(batch.prepared)
        old = time.monotonic() - self._flushed > FLUSH_SECONDS
        if self._bytes >= SHARD_BYTES or old:
            self._flush()

    def _flush(self) -> None:
        """Commit the waiting rows as one shard."""
        keys, rows = self._keys, self._rows
        self._keys, self._rows, self._bytes = [], [], 0
        if keys:
            self.folder.write(
                np.frombuffer(b"".join(keys), dtype=KEY_DTYPE),
                rows,
                columns=rows[0].shape[1],
                dtype=self.config.storage_dtype,
                provenance={
                    "device": str(self.config.device),
                    "batch_size": self.config.batch_size,
                    "channels_last": self.backbone.channels_last,
                    "compile": self.config.compile,
                },
            )
            self.n_written += sum(map(len, rows))
        self._flushed = time.monotonic()


def _raise_if_all_fail(values: list[Any]) -> None:
    """Raise an error of the preprocessing as it is, if no item escapes it."""
    failed = [value for value in values if isinstance(value, PreprocessError)]
    if failed and all(isinstance(value, ItemError) for value in values):
        raise failed[0].error


_TOO_LARGE = "needs more memory than there is, although it was alone in its batch"


def _lost(task: tuple[Item, bytes], reason: str) -> ItemError:
    return ItemError(reason)


def checked_rows(
    values: np.ndarray, storage_dtype: str, names: Sequence[str]
) -> np.ndarray:
    """Convert embeddings to the storage type; refuse what it cannot hold.

    Parameters
    ----------
    values : ndarray of float32, shape (n, n_features)
        Embeddings.
    storage_dtype : {"float16", "float32"}
        Storage type.
    names : sequence of str
        Names of the items, for the message.
    """
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        name = names[int(np.flatnonzero(~finite)[0])]
        raise EmbeddingValueError(
            f"the embedding of {name} has NaN or infinite values. Try "
            "precision='float32'; if they stay, the weights or the preprocessing are "
            "wrong"
        )
    limit = np.finfo(storage_dtype).max
    largest = np.abs(values).max(axis=1, initial=0)
    if (largest > limit).any():
        row = int(np.argmax(largest))
        raise EmbeddingValueError(
            f"storage_dtype={storage_dtype!r} holds values up to {limit:g}; the "
            f"embedding of {names[row]} has {largest[row]:g}. Use "
            "storage_dtype='float32'"
        )
    return values.astype(storage_dtype)
