"""Reading and checking committed shards.

Rows are read with positioned reads rather than through a map, so that a file cut
short or a network file system gives an error instead of a bus error, and every block
that is read is checked against the commit record.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from embeddings_cache import _io
from embeddings_cache._fingerprint import KEY_BYTES
from embeddings_cache._shards import (
    HEADER_BYTES,
    KEY_DTYPE,
    DamagedShardError,
    ShardRecord,
)

LEVELS = ("size", "block", "full")

_SPAN_BYTES = 32 << 20  # read at once
_GAP_BYTES = 1 << 20  # a wider gap between wanted rows is skipped


def shard_path(folder: Path, record: ShardRecord) -> Path:
    """Return the path of a record's safetensors file."""
    return folder / "shards" / f"{record.shard}.safetensors"


def keys_path(folder: Path, record: ShardRecord) -> Path:
    """Return the path of a record's key file."""
    return folder / "shards" / f"{record.shard}.keys"


def check_sizes(folder: Path, record: ShardRecord) -> None:
    """Compare file sizes with the record: the check made at every open.

    Raises
    ------
    FileNotFoundError
        If a file is gone, as after a prune by another process.
    DamagedShardError
        If a size differs.
    """
    expected = {
        shard_path(folder, record): record.n_bytes,
        keys_path(folder, record): record.rows * KEY_BYTES,
    }
    for path, size in expected.items():
        found = _io.stat(path).st_size
        if found != size:
            raise DamagedShardError(
                record, f"{path.suffix} file has {found} bytes, not {size}"
            )


def read_keys(folder: Path, record: ShardRecord) -> np.ndarray:
    """Return the item keys of a shard, checked against the record."""
    size = record.rows * KEY_BYTES
    fd = _io.open_read(keys_path(folder, record))
    try:
        data = _io.read_at(fd, 0, size)
    finally:
        _io.close(fd)
    if hashlib.sha256(data).hexdigest() != record.keys_sha256:
        raise DamagedShardError(record, "the item keys do not match their digest")
    return np.frombuffer(data, dtype=KEY_DTYPE)


def read_rows(
    folder: Path,
    record: ShardRecord,
    rows: np.ndarray,
    out: np.ndarray,
    positions: np.ndarray,
) -> None:
    """Copy rows of a shard to positions of an array, checking what is read.

    Parameters
    ----------
    folder : Path
        The extractor's folder.
    record : ShardRecord
        The shard.
    rows : ndarray of int, shape (m,)
        Rows to read.
    out : ndarray of shape (n, columns)
        Receives the rows, converted to its type.
    positions : ndarray of int, shape (m,)
        Where in `out` each row goes.

    Raises
    ------
    DamagedShardError
        If a block does not match its checksum, or the file ends early.
    FileNotFoundError
        If the shard is gone.
    """
    order = np.argsort(rows, kind="stable")
    rows, positions = rows[order], positions[order]
    little = np.dtype(record.dtype).newbyteorder("<")
    fd = _io.open_read(shard_path(folder, record))
    try:
        for part in _spans(rows, record.row_bytes):
            first, last = int(rows[part][0]), int(rows[part][-1]) + 1
            data = _checked_read(fd, record, first, last)
            block = np.frombuffer(data, dtype=little).reshape(-1, record.columns)
            out[positions[part]] = block[rows[part] - first]
    finally:
        _io.close(fd)


def _spans(rows: np.ndarray, row_bytes: int) -> Iterator[slice]:
    """Cut sorted rows into slices that are near each other and not too long."""
    start = 0
    limit = max(1, _SPAN_BYTES // row_bytes)
    gaps = np.flatnonzero(np.diff(rows) > max(1, _GAP_BYTES // row_bytes)) + 1
    for stop in [*gaps.tolist(), len(rows)]:
        while start < stop:
            end = int(np.searchsorted(rows[start:stop], rows[start] + limit)) + start
            yield slice(start, end)
            start = end


def _checked_read(fd: int, record: ShardRecord, first: int, last: int) -> memoryview:
    """Read rows [first, last) with the whole blocks around them, and check these."""
    size = record.block_bytes
    begin = HEADER_BYTES + first * record.row_bytes
    end = HEADER_BYTES + last * record.row_bytes
    block, stop = begin // size, -(-end // size)
    offset = block * size
    wanted = min(stop * size, record.n_bytes) - offset
    data = memoryview(_io.read_at(fd, offset, wanted))
    if len(data) != wanted:
        raise DamagedShardError(record, "the file ends before its last row")
    _check_blocks(record, data, block)
    return data[begin - offset : end - offset]


def _check_blocks(record: ShardRecord, data: memoryview, block: int) -> None:
    """Check data that starts at a block's edge; a short end fails its block."""
    expected = -(-len(data) // record.block_bytes)
    for number in range(block, block + expected):
        start = (number - block) * record.block_bytes
        part = data[start : start + record.block_bytes]
        if f"{zlib.crc32(part):08x}" != record.blocks[number]:
            raise DamagedShardError(record, f"block {number} fails its checksum")


def verify_shard(folder: Path, record: ShardRecord, level: str) -> None:
    """Check a shard at one of the levels size, block or full.

    Raises
    ------
    DamagedShardError
        If anything differs from the commit record.
    FileNotFoundError
        If a file is gone.
    """
    check_sizes(folder, record)
    if level == "size":
        return
    read_keys(folder, record)
    sha = hashlib.sha256()
    for block, data in enumerate(
        _io.hash_blocks(shard_path(folder, record), record.block_bytes)
    ):
        _check_blocks(record, memoryview(data), block)
        if block == 0:
            _check_header(record, data)
        if level == "full":
            sha.update(data)
    if level == "full" and sha.hexdigest() != record.shard:
        raise DamagedShardError(record, "the file's SHA-256 is not its name")


def _check_header(record: ShardRecord, data: bytes) -> None:
    """Check that the safetensors header says what the record says."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        shape, keys = header["x"]["shape"], header["__metadata__"]["keys_sha256"]
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise DamagedShardError(record, f"unreadable header ({error})") from error
    if (shape, keys) != ([record.rows, record.columns], record.keys_sha256):
        raise DamagedShardError(record, "the header and the commit record differ")


def map_rows(folder: Path, record: ShardRecord) -> np.ndarray:
    """Return the whole shard as a read-only map, without reading it.

    Returns
    -------
    ndarray of shape (rows, columns)
        Of the storage type; pages are read when they are used.
    """
    check_sizes(folder, record)
    little = np.dtype(record.dtype).newbyteorder("<")
    array = np.frombuffer(
        _io.map_file(shard_path(folder, record)),
        dtype=little,
        offset=HEADER_BYTES,
        count=record.rows * record.columns,
    )
    return array.reshape(record.rows, record.columns)
