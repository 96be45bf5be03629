"""What is run while faults happen, and what must hold after each of them.

A workload asks a cache for rows and computes what is missing, straight through the
store (`StoreRun`) or through the extractor (`TransformRun`). It knows the rows of an
undisturbed run, so that anything a cache holds after a fault can be compared with
them bit for bit.
"""

import mmap
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from embeddings_cache import DamagedShardWarning, EmbeddingStore, StoreError
from embeddings_cache.store import _shards
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shard_reading import read_keys, read_rows
from embeddings_cache.store._shards import KEY_DTYPE

SHARD_ROWS = 4


class BrokenInvariantError(AssertionError):
    """Something happened that the store promises never to happen."""


def require(condition: object, what: str) -> None:
    """Raise BrokenInvariantError unless a condition holds."""
    if not condition:
        raise BrokenInvariantError(what)


class Run:
    """A workload of `n_items` items in shards of `SHARD_ROWS` rows.

    Parameters
    ----------
    scratch : Path
        A folder for the undisturbed run; removed afterwards.
    n_items : int
        Items of a run.
    """

    def __init__(self, scratch: Path, n_items: int) -> None:
        self.n_items = n_items
        # Counted in memory that processes forked from this one share.
        self._computed = np.frombuffer(mmap.mmap(-1, 8), dtype=np.int64)
        self.rows = self.rows_of(scratch, range(n_items))
        self._by_key = {
            key: row.tobytes()
            for folder in _folders(scratch)
            for record in folder.records()
            for key, row in zip(*_content(folder, record), strict=True)
        }
        require(len(self._by_key) == n_items, "a run does not store each item once")
        shutil.rmtree(scratch)

    @property
    def computed(self) -> int:
        """Items computed so far, by this process and those forked from it."""
        return int(self._computed[0])

    def count(self, n: int) -> None:
        """Note that items are computed."""
        self._computed[0] += n

    def rows_of(self, root: Path, numbers: "range | list[int]") -> np.ndarray:
        """Return the rows of some items from a cache, computing what is missing."""
        raise NotImplementedError

    def run(self, root: Path, n_items: int | None = None) -> None:
        """Ask for the first items; fail if a row differs from the undisturbed run."""
        n_items = n_items or self.n_items
        with mock.patch.object(_shards, "_BLOCK_BYTES", 4096):
            rows = self.rows_of(root, range(n_items))
        same = rows.tobytes() == self.rows[:n_items].tobytes()
        require(same, "a run returned other rows than an undisturbed one")

    def run_shuffled(self, root: Path, rng: random.Random) -> None:
        """Ask for random items in random order."""
        numbers = rng.sample(range(self.n_items), rng.randint(1, self.n_items))
        rows = self.rows_of(root, numbers)
        same = rows.tobytes() == self.rows[numbers].tobytes()
        require(same, "a run returned other rows than an undisturbed one")

    def check(self, root: Path, level: str = "full") -> int:
        """Check that all that a cache holds is whole and right; say how many items."""
        damage = EmbeddingStore(root).verify(level)
        require(not damage, f"verify found {damage}")
        held = set()
        for folder in _folders(root):
            for record in folder.records():
                for key, row in zip(*_content(folder, record), strict=True):
                    require(self._by_key[key] == row.tobytes(), "a row is wrong")
                    held.add(key)
        return len(held)

    def finish(self, root: Path) -> None:
        """Resume a disturbed run, then prune: the cache is as if nothing happened."""
        with ignore_damage():
            self.run(root)
            before = self.computed
            self.run(root)
            require(self.computed == before, "a finished run computed something again")
            EmbeddingStore(root).prune(grace=0)
        require(self.check(root) == self.n_items, "a finished run lacks items")
        require_live_set(root)


def ignore_damage() -> warnings.catch_warnings:
    """Return a context in which damage is set aside without a warning."""
    return warnings.catch_warnings(action="ignore", category=DamagedShardWarning)


def _folders(root: Path) -> list[ShardFolder]:
    store = EmbeddingStore(root)
    return [store.folder(entry.key) for entry in store.extractors()]


def _content(folder: ShardFolder, record: _shards.ShardRecord) -> tuple[list, list]:
    keys = read_keys(folder.path, record).tolist()
    rows = np.empty((record.rows, record.columns), dtype=record.dtype)
    index = np.arange(record.rows)
    read_rows(folder.path, record, index, rows, index)
    return keys, list(rows)


def require_live_set(root: Path) -> None:
    """Check that a cache has the files of its committed shards and no other."""
    for folder in _folders(root):
        alive = {record.shard for record in folder.records()}
        expected = {folder.path / "extractor.json"}
        for shard in alive:
            expected.add(folder.path / "shards" / f"{shard}.safetensors")
            expected.add(folder.path / "shards" / f"{shard}.keys")
        for name, record in folder.committed().items():
            require(record.shard in alive, f"commit record {name} has no shard")
            expected.add(folder.path / "commits" / name)
        found = {path for path in folder.path.rglob("*") if path.is_file()}
        stamps = {folder.path / "access" / shard for shard in alive}
        require(found - stamps == expected, f"not the live set: {found ^ expected}")


class StoreRun(Run):
    """Straight through the store: no network, no images, no torch.

    Parameters
    ----------
    scratch, n_items
        As for `Run`.
    model : str
        Part of the extractor's description; other models have other rows.
    columns : int
        Features.
    """

    def __init__(
        self, scratch: Path, n_items: int, model: str = "faults", columns: int = 700
    ) -> None:
        self._description = {"schema": 1, "model": model}
        generator = np.random.default_rng(list(model.encode()))
        rows = generator.normal(size=(n_items, columns))
        self._truth = rows.astype(np.float16)
        self._keys = np.frombuffer(generator.bytes(32 * n_items), dtype=KEY_DTYPE)
        super().__init__(scratch, n_items)

    def rows_of(self, root: Path, numbers: "range | list[int]") -> np.ndarray:
        folder = EmbeddingStore(root).open(self._description)
        wanted = np.array(numbers)
        keys = self._keys[wanted]
        rows = np.empty((len(keys), self._truth.shape[1]), dtype=np.float16)
        for _ in range(4):
            records, places = folder.find(keys)
            missing = wanted[places[:, 0] < 0]
            for start in range(0, len(missing), SHARD_ROWS):
                self._write(folder, missing[start : start + SHARD_ROWS])
            if not len(missing) and folder.read(records, places, rows):
                return rows
            rows[:] = np.nan
        raise StoreError("rows kept disappearing")

    def _write(self, folder: ShardFolder, numbers: np.ndarray) -> None:
        self.count(len(numbers))
        rows = self._truth[numbers]
        folder.write(
            self._keys[numbers],
            np.array_split(rows, 2),
            columns=rows.shape[1],
            dtype="float16",
            provenance={},
        )


class TransformRun(Run):
    """Through `EmbeddingExtractor`, with a network whose rows suit no batch better."""

    def __init__(self, scratch: Path, n_items: int, seed: int = 0) -> None:
        import torch

        from embeddings_cache.compute import _runner

        torch.set_num_threads(1)  # processes are forked: no thread may be lost
        # Two batches of two images make a shard.
        _runner.SHARD_BYTES = SHARD_ROWS * _N_FEATURES * 2
        self._net = _network(self.count, seed)
        generator = np.random.default_rng(seed)
        shape = (n_items, 8, 8, 3)
        self._images = generator.integers(0, 256, shape, dtype=np.uint8)
        super().__init__(scratch, n_items)

    def rows_of(self, root: Path, numbers: "range | list[int]") -> np.ndarray:
        from embeddings_cache import EmbeddingExtractor

        extractor = EmbeddingExtractor(
            self._net,
            cache_dir=root,
            preprocess=_to_tensor(),
            batch_size=2,
            num_workers=0,
            progress=False,
            device="cpu",
        )
        rows: np.ndarray = extractor.transform(self._images[np.array(numbers)])
        return rows


_N_FEATURES = 64


def _network(count: Callable[[int], None], seed: int):
    import torch

    class ScaledPixels(torch.nn.Module):
        """Products number by number, which do not depend on the batch."""

        cache_description = f"scaled pixels {seed}"

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.linspace(seed + 1, 2, _N_FEATURES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count(len(x))
            return x.flatten(1)[:, :_N_FEATURES] * self.scale

    return ScaledPixels()


def _to_tensor():
    import torch

    def to_tensor(image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)

    to_tensor.cache_description = "pixels in [0, 1]"
    return to_tensor
