"""All shards of one extractor: which rows exist, reading, writing, setting aside."""

import hashlib
import time
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from embeddings_cache import _io
from embeddings_cache._errors import DamagedShardWarning, StoreError
from embeddings_cache._fingerprint import canonical_json
from embeddings_cache._shard_reading import (
    check_sizes,
    keys_path,
    map_rows,
    read_keys,
    read_rows,
    shard_path,
)
from embeddings_cache._shards import (
    DamagedShardError,
    ShardRecord,
    read_record,
    write_shard,
    write_small,
)

FOLDERS = ("shards", "commits", "tmp", "quarantine", "access")
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
        try:
            if _io.read_file(path, len(text)) == text:
                return
        except OSError:
            pass  # absent, or longer than it may be: written below
        write_small(self.path / "tmp", path, text)

    def records(self) -> list[ShardRecord]:
        """Return the committed shards whose files have the committed sizes.

        A record or shard that fails a check is set aside with a warning; one whose
        files are gone (pruned meanwhile) is passed over.
        """
        found: dict[str, ShardRecord] = {}
        names = _io.list_folder(self.path / "commits")
        for name in names:
            record = self._record(name)
            if record is None or record.shard in found:
                continue
            if self._is_there(record):
                found[record.shard] = record
        self._known = {name: self._known[name] for name in names if name in self._known}
        return list(found.values())

    def _record(self, name: str) -> ShardRecord | None:
        if not name.endswith(".json") or name in self._excluded:
            return None
        if name not in self._known:
            path = self.path / "commits" / name
            try:
                self._known[name] = read_record(path)
            except FileNotFoundError:
                return None
            except ValueError as error:
                self._excluded.add(name)
                self._set_aside([path])
                self._warn(f"commit record {name}: {error}")
                return None
        record = self._known[name]
        return None if record.shard in self._excluded else record

    def _is_there(self, record: ShardRecord) -> bool:
        try:
            check_sizes(self.path, record)
        except FileNotFoundError:
            return False
        except DamagedShardError as error:
            self.quarantine(error)
            return False
        return True

    def whole(self, keys: np.ndarray) -> ShardRecord | None:
        """Return the shard that holds exactly these items in this order, if any."""
        name = hashlib.sha256(keys.tobytes()).hexdigest()
        for commit in _io.list_folder(self.path / "commits"):
            if commit.startswith(name[:32]):
                record = self._record(commit)
                if record and record.keys_sha256 == name and self._is_there(record):
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
        """
        places = np.full((len(keys), 2), -1, dtype=np.int64)
        used: list[ShardRecord] = []
        whole = self.whole(keys) if len(keys) else None
        if whole is not None:
            places[:, 0], places[:, 1] = 0, np.arange(len(keys))
            return [whole], places
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
        try:
            have = read_keys(self.path, record)
        except FileNotFoundError:
            have = np.empty(0, dtype=ordered.dtype)
        except DamagedShardError as error:
            self.quarantine(error)
            have = np.empty(0, dtype=ordered.dtype)
        near = np.minimum(np.searchsorted(ordered, have), len(ordered) - 1)
        rows = np.flatnonzero(ordered[near] == have)
        wanted, first = np.unique(near[rows], return_index=True)
        return wanted, rows[first]

    def read(
        self, records: list[ShardRecord], places: np.ndarray, out: np.ndarray
    ) -> bool:
        """Copy found rows to `out`; False if some shard failed and was set aside."""
        intact = True
        for number, record in enumerate(records):
            positions = np.flatnonzero(places[:, 0] == number)
            rows = places[positions, 1]
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
        """Return a shard as a read-only map."""
        rows = map_rows(self.path, record)
        self.stamp(record)
        return rows

    def write(
        self,
        keys: np.ndarray,
        parts: Iterable[np.ndarray],
        *,
        columns: int,
        dtype: str,
        made: dict[str, Any],
    ) -> ShardRecord:
        """Commit rows as one shard; see `write_shard`.

        Raises
        ------
        StoreError
            If the disk refuses; finished shards are untouched.
        """
        made = {**made, "time": round(time.time(), 3)}
        try:
            record = write_shard(
                self.path, keys, parts, columns=columns, dtype=dtype, made=made
            )
            self.stamp(record)
        except OSError as error:
            raise StoreError(
                f"cache_dir: {len(keys)} rows could not be written below {self.path} "
                f"({error}). The shards finished before are kept: make room (see "
                "`embeddings-cache prune`) or give another cache_dir, and run again"
            ) from error
        self._excluded.discard(record.shard)
        return record

    def stamp(self, record: ShardRecord) -> None:
        """Note that a shard is in use, for `prune`; at most once in ten minutes."""
        path = self.path / "access" / record.shard
        try:
            if time.time() - _io.stat(path).st_mtime < _STAMP_SECONDS:
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
            for name, known in self._known.items()
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
        warnings.warn(
            f"damaged cache entry number {self.n_damaged} of this run: {what}. It was "
            f"moved to {self.path / 'quarantine'} and its items are computed again",
            DamagedShardWarning,
            stacklevel=2,
        )
