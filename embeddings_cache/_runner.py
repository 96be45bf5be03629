"""Reader, network, writer: compute what the cache does not have, keep what is done."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from embeddings_cache._device import inference, is_out_of_memory, to_device
from embeddings_cache._errors import BadItem, EmbeddingValueError, ItemError
from embeddings_cache._folder import ShardFolder
from embeddings_cache._progress import Progress
from embeddings_cache._readers import Item
from embeddings_cache._shards import KEY_DTYPE
from embeddings_cache.backbones import Backbone

SHARD_BYTES = 64 << 20
FLUSH_SECONDS = 60.0  # what a kill can cost on a slow machine
_AHEAD = 4  # batches read before they are needed


@dataclass(frozen=True)
class RunReport:
    """What one transform did.

    Parameters
    ----------
    n_items : int
        Items of the call.
    n_found : int
        Items whose embedding was in the cache.
    n_computed : int
        Distinct items computed.
    n_duplicates : int
        Items equal to a computed one of the same call.
    n_unreadable : int
        Items that could not be read.
    n_damaged : int
        Damaged cache entries that were set aside.
    n_features : int
        Length of an embedding; 0 if the call ended before it was known.
    seconds : float
        Wall time.
    """

    n_items: int
    n_found: int
    n_computed: int
    n_duplicates: int
    n_unreadable: int
    n_damaged: int
    n_features: int
    seconds: float

    def __str__(self) -> str:
        text = (
            f"{self.n_items} items: {self.n_found} found in the cache, "
            f"{self.n_computed} computed"
        )
        for number, what in (
            (self.n_duplicates, "duplicates"),
            (self.n_unreadable, "unreadable"),
            (self.n_damaged, "damaged cache entries set aside"),
        ):
            text += f", {number} {what}" if number else ""
        return f"{text} ({self.seconds:.1f} s)"


@dataclass
class Settings:
    """How to run: nothing here changes a number, so nothing here is in a key."""

    device: torch.device
    dtype: torch.dtype
    storage_dtype: str
    batch_size: int
    num_workers: int


def ordered_map(
    function: Callable[[Any], Any], values: Iterable[Any], workers: int, ahead: int
) -> Iterator[Any]:
    """Apply a function in threads and yield the results in order.

    At most `ahead` results wait; leaving the iteration early cancels the rest.
    """
    if workers == 0:
        yield from map(function, values)
        return
    values = iter(values)
    with ThreadPoolExecutor(workers, thread_name_prefix="embeddings") as pool:
        queue: list[Future[Any]] = []
        try:
            queue += [pool.submit(function, value) for value in islice(values, ahead)]
            while queue:
                yield queue.pop(0).result()
                queue += [pool.submit(function, value) for value in islice(values, 1)]
        finally:
            for future in queue:
                future.cancel()


def auto_workers(n_items: int) -> int:
    """Return the number of reader threads for a number of items."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    # The processes that torchrun starts on one machine share its cores.
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if cores < 2 or n_items < 32:
        return 0
    return min(cores, 16)


def item_keys(
    items: Sequence[Item], workers: int, progress: Progress
) -> tuple[np.ndarray, list[BadItem]]:
    """Hash the content of all items.

    Returns
    -------
    keys : ndarray of shape (n,), 32-byte void
        Zero where the item cannot be read.
    bad : list of BadItem
        The items that cannot be read.
    """
    keys = np.zeros(len(items), dtype=KEY_DTYPE)
    bad: list[BadItem] = []

    def key(item: Item) -> bytes | ItemError:
        try:
            return item.key()
        except ItemError as error:
            return error

    results = ordered_map(key, items, workers, ahead=256)
    for index, result in enumerate(progress.track(results, len(items), "reading")):
        if isinstance(result, ItemError):
            bad.append(BadItem(index, items[index].name, str(result)))
        else:
            keys[index] = np.void(result)
    return keys, bad


class Runner:
    """Computes items and writes them to a folder in shards.

    Parameters
    ----------
    backbone : Backbone
        On the settings' device.
    folder : ShardFolder
        Receives the shards.
    settings : Settings
        Device, types, batch size and workers.
    progress : Progress
        Shows the bar.
    """

    def __init__(
        self,
        backbone: Backbone,
        folder: ShardFolder,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.backbone = backbone
        self.folder = folder
        self.settings = settings
        self.progress = progress
        self._keys: list[bytes] = []
        self._rows: list[np.ndarray] = []
        self._flushed = time.monotonic()
        self.n_written = 0

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
                inference(self.backbone, self.settings.device, self.settings.dtype),
                warnings.catch_warnings(),
            ):
                # The limit itself is applied by the decoder; see _images.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                for batch in self._batches(items, keys, order):
                    good = self._sift(items, batch, bad)
                    if good:
                        self._embed(items, keys, good)
                    bar.update(len(batch))
        finally:
            self._flush()
        return bad

    def _batches(
        self, items: Sequence[Item], keys: np.ndarray, order: list[int]
    ) -> Iterator[list[tuple[int, Any]]]:
        """Read and prepare items in threads; yield them in order, a batch at a time."""

        def prepare(index: int) -> tuple[int, Any]:
            try:
                value = items[index].load(bytes(keys[index].item()))
            except ItemError as error:
                return index, error
            return index, self.backbone.prepare(value)

        size = self.settings.batch_size
        ready = ordered_map(
            prepare, order, self.settings.num_workers, ahead=_AHEAD * size
        )
        while batch := list(islice(ready, size)):
            yield batch

    @staticmethod
    def _sift(
        items: Sequence[Item], batch: list[tuple[int, Any]], bad: list[BadItem]
    ) -> list[tuple[int, Any]]:
        good = []
        for index, value in batch:
            if isinstance(value, ItemError):
                bad.append(BadItem(index, items[index].name, str(value)))
            else:
                good.append((index, value))
        return good

    def _embed(
        self, items: Sequence[Item], keys: np.ndarray, batch: list[tuple[int, Any]]
    ) -> None:
        values = self._forward([value for _, value in batch])
        names = [items[index].name for index, _ in batch]
        self._rows.append(checked_rows(values, self.settings.storage_dtype, names))
        self._keys += [bytes(keys[index].item()) for index, _ in batch]
        full = sum(rows.nbytes for rows in self._rows) >= SHARD_BYTES
        if full or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def _forward(self, prepared: list[Any]) -> np.ndarray:
        """Embed prepared items; a batch that does not fit is halved, for good."""
        parts = []
        start = 0
        while start < len(prepared):
            part = prepared[start : start + self.settings.batch_size]
            rows = self._try(part)
            if rows is None:
                # The failed batch's tensors are free by now.
                if self.settings.device.type == "cuda":
                    torch.cuda.empty_cache()
                self.settings.batch_size = (len(part) + 1) // 2
                continue
            parts.append(rows)
            start += len(part)
        return np.concatenate(parts)

    def _try(self, prepared: list[Any]) -> np.ndarray | None:
        """Embed one batch; None if there is not enough memory for it."""
        try:
            batch = to_device(self.backbone.collate(prepared), self.settings.device)
            output = self.backbone.forward(batch)
            if output.ndim != 2 or len(output) != len(prepared):
                raise ValueError(
                    f"the backbone returned shape {tuple(output.shape)} for "
                    f"{len(prepared)} items; an embedding is one vector per item: "
                    "choose layer and pooling, or return (n, n_features)"
                )
            rows: np.ndarray = output.float().cpu().numpy()
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(prepared) == 1:
                raise
            return None
        return rows

    def _flush(self) -> None:
        """Commit the waiting rows as one shard."""
        keys, rows = self._keys, self._rows
        self._keys, self._rows = [], []
        if keys:
            self.folder.write(
                np.frombuffer(b"".join(keys), dtype=KEY_DTYPE),
                rows,
                columns=rows[0].shape[1],
                dtype=self.settings.storage_dtype,
                made={
                    "device": str(self.settings.device),
                    "batch_size": self.settings.batch_size,
                },
            )
            self.n_written += len(keys)
        self._flushed = time.monotonic()


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
