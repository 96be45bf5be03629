"""All shards of one extractor: which rows exist, reading, writing, setting aside."""

import hashlib
import time
import uuid
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from embeddings_cache._errors import DamagedShardWarning, StoreError, store_errors
from embeddings_cache._fingerprint import canonical_json
from embeddings_cache._warnings import warn_caller
from embeddings_cache.store import _io
from embeddings_cache.store._atomic import write_durably
from embeddings_cache.store._shard_reading import (
    check_header,
    check_sizes,
    keys_path,
    map_rows,
    read_keys,
    read_rows,
    shard_path,
)
from embeddings_cache.store._shards import (
    DamagedShardError,
    ShardRecord,
    check_owner,
    read_record,
    write_shard,
)

FOLDERS = ("shards", "commits", "tmp", "quarantine", "access")
_READ_REMEDY = (
    "Nothing was changed: see that this user may read it and that the disk and the "
    "number of open files allow it, and run again"
)
_WRITE_REMEDY = (
    "The shards finished before are kept: make room (see `embeddings-cache prune`) or "
    "give another cache_dir, and run again"
)
_STAMP_SECONDS = 600.0  # an access stamp this fresh is not renewed


class ShardFolder:
    """The folder of one extractor.

    Parameters
    ----------
    path : Path
        ``<root>/v1/<extractor key>``.

    Attributes
    ----------
    n_damaged : int
        Shards and records set aside by this object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_damaged = 0
        self._known: dict[str, ShardRecord] = {}
        self._excluded: set[str] = set()

    def create(self, description: dict[str, Any]) -> None:
        """Make the folder and its description, or check the one that is there."""
        for name in FOLDERS:
            _io.make_folder(self.path / name)
        text = canonical_json(description)
        path = self.path / "extractor.json"
        present: bytes | None = b""
        try:
            present = _io.read_file(path, len(text))
        except FileNotFoundError:
            present = None
        except (OSError, ValueError):
            pass  # longer than it may be, or damaged
        if present == text:
            return
        if present is not None:
            self._set_aside([path])
            self._warn("extractor.json is damaged, or another extractor's")
        write_durably(self.path / "tmp", path, text)

    def records(self) -> list[ShardRecord]:
        """Return the committed shards whose files have the committed sizes.

        A record or shard that fails a check is set aside with a warning; one whose
        files are gone (pruned meanwhile) is passed over.

        Raises
        ------
        StoreError
            If the folder cannot be read.
        """
        with store_errors(f"{self.path} cannot be read", _READ_REMEDY):
            by_shard = {record.shard: record for record in self.committed().values()}
            return [
                record
                for record in by_shard.values()
                if record.shard not in self._excluded and self._is_there(record)
            ]

    def committed(self) -> dict[str, ShardRecord]:
        """Return every commit record that can be read, by file name.

        Returns
        -------
        dict of str to ShardRecord
            Nothing is said about the shards, which may be gone or damaged.
        """
        names = _io.list_folder(self.path / "commits")
        records = {name: self._record(name) for name in names}
        self._known = {name: record for name, record in records.items() if record}
        return self._known

    def _record(self, name: str) -> ShardRecord | None:
        if not name.endswith(".json") or name in self._excluded:
            return None
        if name in self._known:
            return self._known[name]
        path = self.path / "commits" / name
        try:
            record = read_record(path)
            check_owner(self.path, record)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._excluded.add(name)
            self._set_aside([path])
            self._warn(f"commit record {name}: {error}")
            return None
        except DamagedShardError as error:
            self._excluded.add(name)
            shard = error.record
            files = [shard_path(self.path, shard), keys_path(self.path, shard)]
            self._set_aside([path, *files])
            self._warn(str(error))
            return None
        self._known[name] = record
        return record

    def _is_there(self, record: ShardRecord, *, header: bool = False) -> bool:
        try:
            check_sizes(self.path, record)
            if header:
                check_header(self.path, record)
        except FileNotFoundError:
            return False
        except DamagedShardError as error:
            self.quarantine(error)
            return False
        return True

    def exact_shard(self, keys: np.ndarray) -> ShardRecord | None:
        """Return the shard that holds exactly these items in this order, if any."""
        name = hashlib.sha256(keys.tobytes()).hexdigest()
        with store_errors(f"{self.path} cannot be read", _READ_REMEDY):
            for commit in _io.list_folder(self.path / "commits"):
                record = self._record(commit) if commit.startswith(name[:32]) else None
                if (
                    record
                    and record.keys_sha256 == name
                    and record.shard not in self._excluded
                    and self._is_there(record, header=True)
                ):
                    return record
        return None

    def find(self, keys: np.ndarray) -> tuple[list[ShardRecord], np.ndarray]:
        """Look up items.

        Parameters
        ----------
        keys : ndarray of shape (n,), 32-byte void
            Distinct item keys.

        Returns
        -------
        records : list of ShardRecord
            The shards that hold some of them.
        places : ndarray of int64, shape (n, 2)
            Position in `records` and row; -1 where the item is missing.

        Raises
        ------
        StoreError
            If the folder cannot be read.
        """
        places = np.full((len(keys), 2), -1, dtype=np.int64)
        used: list[ShardRecord] = []
        exact = self.exact_shard(keys) if len(keys) else None
        if exact is not None:
            places[:, 0], places[:, 1] = 0, np.arange(len(keys))
            return [exact], places
        order = np.argsort(keys)
        ordered = keys[order]
        left = len(keys)
        for record in self.records():
            if not left:
                break
            wanted, rows = self._match(record, ordered)
            fresh = places[order[wanted], 0] < 0
            wanted, rows = order[wanted[fresh]], rows[fresh]
            if len(wanted):
                places[wanted, 0], places[wanted, 1] = len(used), rows
                used.append(record)
                left -= len(wanted)
        return used, places

    def _match(
        self, record: ShardRecord, ordered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in the sorted keys, and the rows that hold them."""
        have = np.empty(0, dtype=ordered.dtype)
        with store_errors(f"{self.path} cannot be read", _READ_REMEDY):
            try:
                have = read_keys(self.path, record)
            except FileNotFoundError:
                pass  # pruned meanwhile
            except DamagedShardError as error:
                self.quarantine(error)
        # Sorted needles keep the search in the processor's caches.
        by_key = np.argsort(have)
        have = have[by_key]
        near = np.minimum(np.searchsorted(ordered, have), len(ordered) - 1)
        there = np.flatnonzero(ordered[near] == have)
        wanted, first = np.unique(near[there], return_index=True)
        return wanted, by_key[there[first]]

    def read(
        self, records: list[ShardRecord], places: np.ndarray, out: np.ndarray
    ) -> bool:
        """Copy found rows to `out`; False if some shard failed and was set aside.

        Raises
        ------
        StoreError
            If the folder cannot be read.
        """
        intact = True
        # One sort rather than a search of all places for every shard.
        order = np.argsort(places[:, 0], kind="stable")
        edges = np.searchsorted(places[order, 0], np.arange(len(records) + 1))
        for record, (start, stop) in zip(records, pairwise(edges)):
            if start == stop:
                continue
            positions = order[start:stop]
            rows = places[positions, 1]
            with store_errors(f"{self.path} cannot be read", _READ_REMEDY):
                try:
                    read_rows(self.path, record, rows, out, positions)
                except DamagedShardError as error:
                    self.quarantine(error)
                    intact = False
                except FileNotFoundError:
                    intact = False
                else:
                    self.stamp(record)
        return intact

    def map(self, record: ShardRecord) -> np.ndarray:
        """Return a shard as a read-only map.

        Its size was checked, its rows were not: that would read them all.

        Raises
        ------
        StoreError
            If the shard is gone or was changed since it was looked up.
        """
        with store_errors(f"{self.path} cannot be read", _READ_REMEDY):
            try:
                rows = map_rows(self.path, record)
            except DamagedShardError as error:
                self.quarantine(error)
                raise StoreError(
                    f"cache_dir: {error}. It was set aside; run again to compute its "
                    "items again"
                ) from error
        self.stamp(record)
        return rows

    def write(
        self,
        keys: np.ndarray,
        parts: Iterable[np.ndarray],
        *,
        columns: int,
        dtype: str,
        provenance: dict[str, Any],
    ) -> ShardRecord:
        """Commit rows as one shard; see `write_shard`.

        Raises
        ------
        StoreError
            If the disk refuses; finished shards are untouched.
        """
        provenance = {**provenance, "time": round(time.time(), 3)}
        what = f"{len(keys)} rows could not be written below {self.path}"
        with store_errors(what, _WRITE_REMEDY):
            record = write_shard(
                self.path,
                keys,
                parts,
                columns=columns,
                dtype=dtype,
                provenance=provenance,
            )
        self.stamp(record)
        self._excluded.discard(record.shard)
        return record

    def stamp(self, record: ShardRecord) -> None:
        """Note that a shard is in use, for `prune`; at most once in ten minutes."""
        path = self.path / "access" / record.shard
        try:
            # A stamp of the future is that of a clock ahead of this one.
            if 0 <= time.time() - _io.stat(path).st_mtime < _STAMP_SECONDS:
                return
        except OSError:
            pass
        try:
            _io.touch(path)
        except OSError:
            # A store that may only be read serves its rows all the same.
            return

    def quarantine(self, error: DamagedShardError) -> None:
        """Set a damaged shard aside and warn; its items count as missing."""
        record = error.record
        if record.shard in self._excluded:
            return
        self._excluded.add(record.shard)
        commits = [
            self.path / "commits" / name
            for name, known in self.committed().items()
            if known.shard == record.shard
        ]
        shard = [shard_path(self.path, record), keys_path(self.path, record)]
        self._set_aside([*commits, *shard])
        self._warn(str(error))

    def _set_aside(self, paths: list[Path]) -> None:
        tag = uuid.uuid4().hex[:8]
        for path in paths:
            target = self.path / "quarantine" / f"{path.stem}.{tag}{path.suffix}"
            try:
                _io.rename(path, target)
            except OSError:
                # Gone already, or a store that may only be read: it is excluded
                # in this process, and the next one finds the damage again.
                continue

    def _warn(self, what: str) -> None:
        self.n_damaged += 1
        warn_caller(
            f"damaged cache entry number {self.n_damaged} of this run: {what}. It was "
            f"moved to {self.path / 'quarantine'} and its items are computed again",
            DamagedShardWarning,
        )
