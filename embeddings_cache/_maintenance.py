"""Checking and pruning of shards."""

import time
from dataclasses import dataclass
from pathlib import Path

from embeddings_cache import _io
from embeddings_cache._folder import ShardFolder
from embeddings_cache._shard_reading import (
    LEVELS,
    keys_path,
    shard_path,
    verify_shard,
)
from embeddings_cache._shards import DamagedShardError, ShardRecord, read_record


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was committed."""

    extractor: str
    shard: str
    reason: str


@dataclass(frozen=True)
class PruneReport:
    """What a prune deleted and what is left."""

    n_deleted: int
    bytes_deleted: int
    n_leftovers: int
    bytes_left: int


def verify(folder: ShardFolder, level: str, *, quarantine: bool) -> list[Damage]:
    """Check every commit record of a folder, and its shard at a level."""
    if level not in LEVELS:
        raise ValueError(f"level={level!r} must be one of {', '.join(LEVELS)}")
    damage = []
    key = folder.path.name
    for name in _io.list_folder(folder.path / "commits"):
        try:
            record = read_record(folder.path / "commits" / name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            damage.append(Damage(key, "", f"commit record {name}: {error}"))
            continue
        try:
            verify_shard(folder.path, record, level)
        except FileNotFoundError as error:
            damage.append(Damage(key, record.shard, f"missing file: {error.filename}"))
        except DamagedShardError as error:
            damage.append(Damage(key, record.shard, error.reason))
            if quarantine:
                folder.records()
                folder.quarantine(error)
    return damage


def prune(
    folders: list[ShardFolder],
    max_bytes: int | None,
    *,
    older_than: float | None,
    grace: float,
) -> PruneReport:
    """Delete shards by age and budget, least recently used first."""
    now = time.time()
    shards = sorted(
        (
            (_last_use(folder, record), number, record)
            for number, folder in enumerate(folders)
            for record in folder.records()
        ),
        key=lambda entry: entry[:2],
    )
    total = sum(record.n_bytes for _, _, record in shards)
    n_deleted = deleted = 0
    for used, number, record in shards:
        age = now - used
        too_old = older_than is not None and age > older_than
        too_many = max_bytes is not None and total - deleted > max_bytes
        if age >= grace and (too_old or too_many):
            _delete(folders[number], record)
            n_deleted += 1
            deleted += record.n_bytes
    leftovers = sum(_sweep(folder, now - grace) for folder in folders)
    return PruneReport(n_deleted, deleted, leftovers, total - deleted)


def _last_use(folder: ShardFolder, record: ShardRecord) -> float:
    """Return the time of the last use: the access stamp, else the commit's."""
    times = [0.0]
    stamp = folder.path / "access" / record.shard
    for path in (stamp, shard_path(folder.path, record)):
        try:
            times.append(_io.stat(path).st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def _delete(folder: ShardFolder, record: ShardRecord) -> None:
    """Delete a shard; its records go first, so that no reader trusts half of it."""
    commits = folder.path / "commits"
    for name in _io.list_folder(commits):
        try:
            if read_record(commits / name).shard == record.shard:
                _io.unlink(commits / name)
        except (OSError, ValueError):
            continue
    _io.sync_folder(commits)
    for path in (
        shard_path(folder.path, record),
        keys_path(folder.path, record),
        folder.path / "access" / record.shard,
    ):
        _io.unlink(path)


def _sweep(folder: ShardFolder, before: float) -> int:
    """Delete old files that no commit record names; say how many."""
    alive = {record.shard for record in folder.records()}
    gone = 0
    for name in ("tmp", "shards", "access", "quarantine"):
        for entry in _io.list_folder(folder.path / name):
            path = folder.path / name / entry
            if Path(entry).stem in alive and name in ("shards", "access"):
                continue
            try:
                if _io.stat(path).st_mtime < before:
                    _io.unlink(path)
                    gone += 1
            except OSError:
                continue
    return gone
