"""One transform: keys, look-up, computing what is missing, and reading back."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from embeddings_cache._errors import BadItem, StoreError, UnreadableItemError
from embeddings_cache._progress import Progress
from embeddings_cache._settings import RunReport
from embeddings_cache.items._item import Item
from embeddings_cache.items._keys import item_keys
from embeddings_cache.store._export import write_rows
from embeddings_cache.store._file_hashes import FileHashCache
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shards import ShardRecord

if TYPE_CHECKING:
    from embeddings_cache.compute._runner import Runner

_ATTEMPTS = 4
_GATHER_BYTES = 32 << 20

T = TypeVar("T")


class _ShardLostError(Exception):
    """A shard failed while its rows were copied; look up and compute again."""


class Job:
    """The work of one call of `EmbeddingExtractor.transform`.

    Parameters
    ----------
    items : sequence of Item
        In the order of the result.
    folder : ShardFolder
        The extractor's shards.
    make_runner : callable
        Returns what computes items; called only if some are not in the folder, so
        that a network is not built for nothing.
    modality : {"image", "text"}
        What the items are.
    storage_dtype : {"float16", "float32"}
        Type of the shards.
    num_workers : int
        Threads that read items for their keys.
    file_hashes : FileHashCache or None
        Keys of known files; None reads every file.
    progress : Progress
        Shows what goes on.
    """

    def __init__(
        self,
        items: Sequence[Item],
        folder: ShardFolder,
        make_runner: "Callable[[], Runner]",
        *,
        modality: str,
        storage_dtype: str,
        num_workers: int,
        file_hashes: FileHashCache | None,
        progress: Progress,
    ) -> None:
        self.items = items
        self.folder = folder
        self.make_runner = make_runner
        self.modality = modality
        self.storage_dtype = storage_dtype
        self.num_workers = num_workers
        self.file_hashes = file_hashes
        self.progress = progress
        self.n_found = self.n_computed = self.n_duplicates = self.n_features = 0
        self.n_truncated = 0
        self.readers = ""
        self.bad: list[BadItem] = []
        self._counted = False

    def fill(self) -> None:
        """Compute and commit what is missing; copy no row."""
        self._read_keys()
        self._complete()

    def array(self) -> np.ndarray:
        """Return the rows as float32, computing what is missing."""

        def copy(records: list[ShardRecord], places: np.ndarray) -> np.ndarray:
            rows = np.empty((len(places), self.n_features), dtype=np.float32)
            self._copy(records, places, rows)
            return rows

        self._read_keys()
        return self._with_all_rows(copy)

    def mapped(self) -> np.ndarray:
        """Return a map of one shard that holds the items in their order."""
        self._read_keys()
        record = self._exact_shard()
        if record is None:
            record = self._with_all_rows(self._gather)
        return self.folder.map(record)

    def _exact_shard(self) -> ShardRecord | None:
        """Return a shard that holds the items in their order, if there is one.

        To ask for it takes one hash of all keys; they need not be told apart.
        """
        record = None if self.bad else self.folder.exact_shard(self.keys)
        if record is not None:
            self._count(n_found=len(self.items))
            self.n_features = record.columns
        return record

    def save(self, path: Path) -> None:
        """Write the rows, in the order of the items, to a file of the user's."""

        def write(records: list[ShardRecord], places: np.ndarray) -> None:
            write_rows(
                path,
                (len(places), self.n_features),
                self.storage_dtype,
                lambda rows: self._copy(records, places, rows),
                "item",
                (self._label(item) for item in self.items),
            )

        self._read_keys()
        self._with_all_rows(write)

    def _label(self, item: Item) -> str:
        """Return what tells a reader which item it is: the text, or the path."""
        return item.identity().decode() if self.modality == "text" else item.name

    def _with_all_rows(self, act: Callable[[list[ShardRecord], np.ndarray], T]) -> T:
        """Act on where the items' rows are, once all are there.

        Rows can vanish under the action, damaged or pruned by another process; then
        they are computed and the action starts again.
        """
        for _ in range(_ATTEMPTS):
            record = self._exact_shard()
            if record is not None:
                rows = np.arange(len(self.keys))
                with suppress(_ShardLostError):
                    return act([record], np.column_stack([np.zeros_like(rows), rows]))
            records, places = self._complete()
            if (places < 0).any():
                continue
            with suppress(_ShardLostError):
                return act(records, places[self.inverse])
        raise self._unstable()

    def _copy(
        self, records: list[ShardRecord], places: np.ndarray, out: np.ndarray
    ) -> None:
        if not self.folder.read(records, places, out):
            raise _ShardLostError

    def report(self, seconds: float) -> RunReport:
        """Return what was done, also after an error."""
        return RunReport(
            n_items=len(self.items),
            n_found=self.n_found,
            n_computed=self.n_computed,
            n_duplicates=self.n_duplicates,
            n_unreadable=len(self.bad),
            n_damaged=self.folder.n_damaged,
            n_features=self.n_features,
            seconds=seconds,
            readers=self.readers,
            n_truncated=self.n_truncated,
            left_out=getattr(self.items, "left_out", ""),
        )

    def _read_keys(self) -> None:
        """Hash all items."""
        workers, file_hashes = self.num_workers, self.file_hashes
        if self.modality == "text":
            # No files, and hashing a text is less work than handing it to a thread.
            workers, file_hashes = 0, None
        self.keys, self.bad = item_keys(self.items, workers, self.progress, file_hashes)
        self.unique: np.ndarray | None = None

    def _deduplicate(self) -> np.ndarray:
        """Return the distinct keys in order of first appearance."""
        if self.unique is not None:
            return self.unique
        readable = np.ones(len(self.keys), dtype=bool)
        readable[[entry.index for entry in self.bad]] = False
        index = np.flatnonzero(readable)
        values, first, inverse = np.unique(
            self.keys[index], return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        self.unique = values[order]
        self.first = index[first[order]]
        self.inverse = rank[inverse.ravel()]
        self.readable = index
        return self.unique

    def _complete(self) -> tuple[list[ShardRecord], np.ndarray]:
        """Look up the items, compute and commit the missing ones, look up again."""
        unique = self._deduplicate()
        records, places = self.folder.find(unique)
        missing = np.flatnonzero(places[:, 0] < 0)
        n_items = int(np.isin(self.inverse, missing).sum())
        n_found = len(self.inverse) - n_items
        self._count(n_found=n_found, n_duplicates=n_items - len(missing))
        bad: list[BadItem] = []
        if len(missing):
            bad = self._compute(self.first[missing])
            records, places = self.folder.find(unique)
        if records:
            self.n_features = records[0].columns
        self.bad += self._with_duplicates(bad)
        if self.bad:
            raise UnreadableItemError(sorted(self.bad), len(self.items))
        return records, places

    def _compute(self, indices: np.ndarray) -> list[BadItem]:
        runner = self.make_runner()
        try:
            return runner.compute(self.items, self.keys, indices)
        finally:
            self.n_computed += runner.n_written
            self.n_truncated += runner.n_truncated
            self.readers = runner.readers

    def _with_duplicates(self, bad: list[BadItem]) -> list[BadItem]:
        """Name every item that has the content of an unreadable one."""
        reasons = {self.keys[entry.index].item(): entry.reason for entry in bad}
        duplicates = []
        for index in self.readable.tolist() if reasons else []:
            reason = reasons.get(self.keys[index].item())
            if reason is not None:
                duplicates.append(BadItem(index, self.items[index].name, reason))
        self.n_duplicates = max(0, self.n_duplicates - (len(duplicates) - len(bad)))
        return duplicates

    def _gather(self, records: list[ShardRecord], places: np.ndarray) -> ShardRecord:
        """Write the rows, in the order of the items, as one new shard."""
        columns, dtype = self.n_features, self.storage_dtype
        step = max(1, _GATHER_BYTES // records[0].row_bytes)

        def parts() -> Iterator[np.ndarray]:
            for start in range(0, len(places), step):
                part = places[start : start + step]
                rows = np.empty((len(part), columns), dtype=dtype)
                self._copy(records, part, rows)
                yield rows

        provenance = {"gathered": len(records)}
        return self.folder.write(
            self.keys, parts(), columns=columns, dtype=dtype, provenance=provenance
        )

    def _count(self, n_found: int, n_duplicates: int = 0) -> None:
        # Only the first look-up tells what was in the cache before the call.
        if not self._counted:
            self.n_found, self.n_duplicates = n_found, n_duplicates
        self._counted = True

    def _unstable(self) -> StoreError:
        return StoreError(
            f"rows below {self.folder.path} kept disappearing while they were read "
            f"({_ATTEMPTS} attempts): another process prunes this cache, or its disk "
            "returns damaged data. Run `embeddings-cache verify`, or give another "
            "cache_dir"
        )
