"""Reader, network, writer: compute what the cache does not have, keep what is done."""

import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from embeddings_cache._embedder import Batch, ready
from embeddings_cache._errors import BadItem, EmbeddingValueError, ItemError
from embeddings_cache._folder import ShardFolder
from embeddings_cache._parallel import ordered_map
from embeddings_cache._progress import Progress
from embeddings_cache._readers import Item
from embeddings_cache._settings import Settings
from embeddings_cache._shards import KEY_DTYPE
from embeddings_cache.backbones._base import Backbone

SHARD_BYTES = 64 << 20
FLUSH_SECONDS = 60.0  # what a kill can cost on a slow machine
_AHEAD = 4  # batches read before they are needed


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
        self._bytes = 0
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
                ready(self.backbone, self.settings) as embedder,
                warnings.catch_warnings(),
            ):
                # The limit itself is applied by the decoder; see _images.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                batches = self._batches(items, keys, order, bad)
                for batch, values in embedder.embed(batches):
                    self._keep(keys, batch, values)
                    bar.update(len(values))
                bar.update(len(order) - bar.n)
        finally:
            self._flush()
        return bad

    def _batches(
        self,
        items: Sequence[Item],
        keys: np.ndarray,
        order: list[int],
        bad: list[BadItem],
    ) -> Iterator[Batch]:
        """Read and prepare items ahead; yield the readable ones, a batch at a time."""

        def prepare(index: int) -> tuple[int, Any]:
            try:
                value = items[index].load(bytes(keys[index].item()))
            except ItemError as error:
                return index, error
            return index, self.backbone.prepare(value)

        size = self.settings.batch_size
        workers = self.settings.num_workers
        ready_items = ordered_map(
            prepare, order, workers, ahead=_AHEAD * size, initializer=_one_core
        )
        while part := list(islice(ready_items, size)):
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

    def _keep(self, keys: np.ndarray, batch: Batch, values: np.ndarray) -> None:
        """Add rows to the waiting shard; commit it when it is full or old."""
        rows = checked_rows(values, self.settings.storage_dtype, batch.names)
        self._rows.append(rows)
        self._keys.append(keys[batch.indices].tobytes())
        self._bytes += rows.nbytes
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
                dtype=self.settings.storage_dtype,
                made={
                    "device": str(self.settings.device),
                    "batch_size": self.settings.batch_size,
                    "channels_last": self.backbone.channels_last,
                    "compile": self.settings.compile,
                },
            )
            self.n_written += sum(map(len, rows))
        self._flushed = time.monotonic()


def _one_core() -> None:
    """Keep the readers' small tensor operations off the cores of the network.

    OpenMP counts threads for each thread that asks; torch would set its number again
    at the first operation, so it is asked before.
    """
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")


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
