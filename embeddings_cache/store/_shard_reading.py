"""Reading and checking committed shards.

Rows are read with positioned reads rather than through a map, so that a file cut
short or a network file system gives an error instead of a bus error, and every block
that is read is checked against the commit record.
"""

import errno
import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from embeddings_cache._fingerprint import KEY_BYTES
from embeddings_cache.store import _io
from embeddings_cache.store._shards import (
    HEADER_BYTES,
    KEY_DTYPE,
    DamagedShardError,
    ShardRecord,
)

LEVELS = ("size", "block", "full")

_MAX_THREADS = 4  # more do not read faster from memory
_THREAD_BYTES = 4 << 20  # less is read sooner than a thread starts


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
        actual = _io.stat(path).st_size
        if actual != size:
            raise DamagedShardError(
                record, f"{path.suffix} file has {actual} bytes, not {size}"
            )


def read_keys(folder: Path, record: ShardRecord) -> np.ndarray:
    """Return the item keys of a shard, checked against the record."""
    size = record.rows * KEY_BYTES
    with _opened(keys_path(folder, record), record, size) as fd:
        data = _read_exactly(fd, record, 0, size)
    if hashlib.sha256(data.data).hexdigest() != record.keys_sha256:
        raise DamagedShardError(record, "the item keys do not match their digest")
    return data.view(KEY_DTYPE)


@contextmanager
def _opened(path: Path, record: ShardRecord, size: int) -> Iterator[int]:
    """Open a file that must have a size: nothing longer is read or allocated."""
    fd = _io.open_read(path)
    try:
        actual = _io.size_of(fd)
        if actual != size:
            raise DamagedShardError(
                record, f"{path.suffix} file has {actual} bytes, not {size}"
            )
        yield fd
    finally:
        _io.close(fd)


def _read_exactly(fd: int, record: ShardRecord, offset: int, size: int) -> np.ndarray:
    # Not a bytearray, which would be filled with zeros first.
    data = np.empty(size, dtype=np.uint8)
    try:
        done = _io.read_into(fd, offset, data.data)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedShardError(record, "the disk cannot read it") from error
    if done != size:
        raise DamagedShardError(record, "the file ends before its last row")
    return data


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
    edges = np.arange(len(record.blocks) + 1) * record.block_rows
    cuts = np.searchsorted(rows, edges)

    with _opened(shard_path(folder, record), record, record.n_bytes) as fd:
        _compare_header(fd, record)

        def read(block: int) -> None:
            part = slice(cuts[block], cuts[block + 1])
            data = _read_block(fd, record, block)
            _copy_rows(data, rows[part] - edges[block], out, positions[part])

        blocks = np.flatnonzero(np.diff(cuts)).tolist()
        workers = min(_MAX_THREADS, len(rows) * record.row_bytes // _THREAD_BYTES)
        _in_threads(read, blocks, workers)


def _in_threads(
    function: Callable[[int], None], numbers: list[int], workers: int
) -> None:
    """Apply a function in threads; the first error is raised when all have ended."""
    # Without positioned reads, threads would move each other's place in the file.
    several = hasattr(os, "preadv") and hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if several else 1
    workers = min(workers, cores, len(numbers))
    if workers < 2:
        for number in numbers:
            function(number)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="embeddings") as pool:
        for future in [pool.submit(function, number) for number in numbers]:
            future.result()


def _read_block(fd: int, record: ShardRecord, block: int) -> np.ndarray:
    """Return a block's rows, if they have the committed checksum."""
    first = block * record.block_rows
    n_rows = min(record.block_rows, record.rows - first)
    size = record.row_bytes
    data = _read_exactly(fd, record, HEADER_BYTES + first * size, n_rows * size)
    if f"{zlib.crc32(data.data):08x}" != record.blocks[block]:
        raise DamagedShardError(record, f"block {block} fails its checksum")
    little = np.dtype(record.dtype).newbyteorder("<")
    return data.view(little).reshape(n_rows, record.columns)


def _copy_rows(
    data: np.ndarray, rows: np.ndarray, out: np.ndarray, positions: np.ndarray
) -> None:
    """Copy rows of a block to positions of an array, at once where both are runs."""
    source = data[_as_slice(rows)]
    where = _as_slice(positions)
    if isinstance(where, slice):
        _convert(source, out[where])
        return
    converted = np.empty(source.shape, dtype=out.dtype)
    _convert(source, converted)
    out[where] = converted


def _as_slice(index: np.ndarray) -> np.ndarray | slice:
    run = bool((np.diff(index) == 1).all())
    return slice(int(index[0]), int(index[-1]) + 1) if run else index


def _convert(source: np.ndarray, target: np.ndarray) -> None:
    if source.dtype == target.dtype:
        target[:] = source
        return
    # numpy widens float16 a number at a time, torch with vector instructions; to
    # import it takes longer than to widen 10^8 numbers.
    torch = sys.modules.get("torch")
    if torch is None:
        target[:] = source
    else:
        torch.from_numpy(target).copy_(torch.from_numpy(source))


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
    check_header(folder, record)
    sha = hashlib.sha256(record.header)
    with _opened(shard_path(folder, record), record, record.n_bytes) as fd:
        for block in range(len(record.blocks)):
            rows = _read_block(fd, record, block)
            if level == "full":
                sha.update(rows.data)
    if level == "full" and sha.hexdigest() != record.shard:
        raise DamagedShardError(record, "the file's SHA-256 is not its name")


def check_header(folder: Path, record: ShardRecord) -> None:
    """Compare the safetensors header with the one that follows from the record.

    Raises
    ------
    DamagedShardError
        If a byte differs, or the file has another size.
    FileNotFoundError
        If the shard is gone.
    """
    with _opened(shard_path(folder, record), record, record.n_bytes) as fd:
        _compare_header(fd, record)


def _compare_header(fd: int, record: ShardRecord) -> None:
    header = _read_exactly(fd, record, 0, HEADER_BYTES)
    if header.tobytes() != record.header:
        raise DamagedShardError(record, "the header and the commit record differ")


def map_rows(folder: Path, record: ShardRecord) -> np.ndarray:
    """Return the whole shard as a read-only map, without reading it.

    Returns
    -------
    ndarray of shape (rows, columns)
        Of the storage type; pages are read when they are used.
    """
    with _opened(shard_path(folder, record), record, record.n_bytes) as fd:
        mapped = _io.map_file(fd)
    little = np.dtype(record.dtype).newbyteorder("<")
    count = record.rows * record.columns
    array = np.frombuffer(mapped, dtype=little, offset=HEADER_BYTES, count=count)
    return array.reshape(record.rows, record.columns)
