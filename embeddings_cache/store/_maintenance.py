"""Checking and pruning of shards."""

from dataclasses import dataclass
from pathlib import Path

from embeddings_cache.store import _io
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shard_reading import (
    LEVELS,
    keys_path,
    shard_path,
    verify_shard,
)
from embeddings_cache.store._shards import (
    DamagedShardError,
    ShardRecord,
    check_owner,
    read_record,
)


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
    checked = (
        _verify_one(folder, name, level, quarantine=quarantine)
        for name in _io.list_folder(folder.path / "commits")
    )
    return [damage for damage in checked if damage is not None]


def _verify_one(
    folder: ShardFolder, name: str, level: str, *, quarantine: bool
) -> Damage | None:
    """Check one commit record and its shard."""
    key, shard = folder.path.name, ""
    try:
        record = read_record(folder.path / "commits" / name)
        shard = record.shard
        check_owner(folder.path, record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, DamagedShardError) as error:
        if quarantine:
            folder.committed()  # sets aside what it does not accept
        reason = getattr(error, "reason", f"commit record {name}: {error}")
        return Damage(key, shard, reason)
    try:
        verify_shard(folder.path, record, level)
    except FileNotFoundError as error:
        return Damage(key, shard, f"missing file: {error.filename}")
    except DamagedShardError as error:
        if quarantine:
            folder.quarantine(error)
        return Damage(key, shard, error.reason)
    except OSError as error:
        return Damage(key, shard, f"cannot be read: {error}")
    return None


def prune(
    folders: list[ShardFolder],
    max_bytes: int | None,
    *,
    older_than: float | None,
    grace: float,
) -> PruneReport:
    """Delete shards by age and budget, least recently used first."""
    if not folders:
        return PruneReport(0, 0, 0, 0)
    # Files are stamped by the file system's clock, whatever the clocks of the machines
    # that share it say: what was just written must be seen to be new.
    scratch = folders[0].path / "tmp"
    _io.make_folder(scratch)
    now = _io.clock(scratch)
    shards = sorted(
        (
            (_last_use(folder, record), number, record)
            for number, folder in enumerate(folders)
            for record in folder.records()
        ),
        key=lambda entry: entry[:2],
    )
    total = sum(record.n_bytes for _, _, record in shards)
    doomed: list[list[ShardRecord]] = [[] for _ in folders]
    deleted = 0
    for used, number, record in shards:
        age = now - used
        too_old = older_than is not None and age > older_than
        too_many = max_bytes is not None and total - deleted > max_bytes
        if age >= grace and (too_old or too_many):
            doomed[number].append(record)
            deleted += record.n_bytes
    for folder, records in zip(folders, doomed, strict=True):
        if records:
            _delete(folder, records)
    n_deleted = sum(map(len, doomed))
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


def _delete(folder: ShardFolder, records: list[ShardRecord]) -> None:
    """Delete shards; their records go first, so that no reader trusts half of one."""
    shards = {record.shard for record in records}
    commits = folder.path / "commits"
    for name, record in folder.committed().items():
        if record.shard in shards:
            _io.unlink(commits / name)
    _io.sync_folder(commits)
    for record in records:
        for path in (
            shard_path(folder.path, record),
            keys_path(folder.path, record),
            folder.path / "access" / record.shard,
        ):
            _try_unlink(path)


def _try_unlink(path: Path) -> bool:
    try:
        _io.unlink(path)
    except OSError:
        # Windows keeps what somebody has mapped; without a record nobody trusts the
        # file, and the next prune tries again.
        return False
    return True


def _sweep(folder: ShardFolder, before: float) -> int:
    """Delete old files that belong to no committed shard; say how many."""
    alive = {record.shard for record in folder.records()}
    suffixes = (".safetensors", ".keys")
    alive_names = {
        "commits": {
            name for name, each in folder.committed().items() if each.shard in alive
        },
        "shards": {f"{shard}{suffix}" for shard in alive for suffix in suffixes},
        "access": alive,
        "tmp": set(),
        "quarantine": set(),
    }
    gone = 0
    for name, kept in alive_names.items():
        for entry in set(_io.list_folder(folder.path / name)) - kept:
            path = folder.path / name / entry
            try:
                old = _io.stat(path).st_mtime <= before
            except FileNotFoundError:
                continue
            gone += old and _try_unlink(path)
    return gone
