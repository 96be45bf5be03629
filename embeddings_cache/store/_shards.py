"""One shard: a safetensors file of rows, its keys, and the record that commits it.

A shard is immutable and named by the SHA-256 of its bytes. Its header carries its
extractor's key and the digest of its items' keys, so two shards with equal rows of
different extractors or items differ in name, and a shard in the folder of another
extractor is known for a stranger.
A commit record, written last, makes a shard exist for readers; it repeats sizes and
holds a checksum of every block of rows, and one of itself. The header has none: it
follows from the record, byte for byte.
"""

import errno
import hashlib
import json
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embeddings_cache._fingerprint import KEY_BYTES, SCHEMA, canonical_json
from embeddings_cache.store import _io
from embeddings_cache.store._atomic import TemporaryFiles

HEADER_BYTES = 4096  # rows start on a page
_BLOCK_BYTES = 1 << 20
_MAX_BLOCKS = 4096
_MAX_BLOCK_BYTES = 1 << 30  # which is read at once: 4 TiB in a shard
_RECORD_LIMIT = 1 << 20
_NAME_LIMIT = 255  # characters, as of a folder
_PROVENANCE = "made"  # what the record's file calls it
_DTYPES = {"float16": "F16", "float32": "F32"}

KEY_DTYPE = np.dtype(f"V{KEY_BYTES}")


class DamagedShardError(Exception):
    """A shard, its keys or its record is not what was committed (internal)."""

    def __init__(self, record: "ShardRecord", reason: str) -> None:
        super().__init__(f"shard {record.shard[:12]}: {reason}")
        self.record = record
        self.reason = reason


@dataclass(frozen=True)
class ShardRecord:
    """What a commit record says of its shard.

    Attributes
    ----------
    shard : str
        SHA-256 of the safetensors file, which is also its name.
    rows, columns : int
        Shape of the matrix.
    dtype : {"float16", "float32"}
        Storage type, little endian.
    n_bytes : int
        Size of the safetensors file.
    keys_sha256 : str
        SHA-256 of the key file: `rows` item keys of 32 bytes in row order.
    block_rows : int
        Rows per checked block; the last block has what is left.
    blocks : tuple of str
        CRC-32 of each block.
    provenance : dict
        Where the rows came from (device, batch size, ...); not part of any key.
    extractor : str
        Key of the extractor that made the rows, which is the name of its folder; empty
        in records of before this was noted.
    """

    shard: str
    rows: int
    columns: int
    dtype: str
    n_bytes: int
    keys_sha256: str
    block_rows: int
    blocks: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)
    extractor: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.columns * np.dtype(self.dtype).itemsize

    @property
    def header(self) -> bytes:
        """The file's first page: what safetensors wants to know, and the keys."""
        return _header(
            self.rows, self.columns, self.dtype, self.keys_sha256, self.extractor
        )

    def to_json(self) -> bytes:
        """Return the record's file content, with its own checksum."""
        content = {"schema": SCHEMA, **asdict(self), "blocks": list(self.blocks)}
        content[_PROVENANCE] = content.pop("provenance")
        if not self.extractor:
            del content["extractor"]
        content["checksum"] = hashlib.sha256(canonical_json(content)).hexdigest()
        return canonical_json(content) + b"\n"


def parse_record(data: bytes) -> ShardRecord:
    """Read a commit record.

    Raises
    ------
    ValueError
        If the text is not a complete, unaltered record of this schema. No other
        exception leaves this function, whatever the bytes.
    """
    try:
        content = json.loads(data)
        checksum = content.pop("checksum")
        if hashlib.sha256(canonical_json(content)).hexdigest() != checksum:
            raise ValueError("its checksum does not match")
        if content.pop("schema") != SCHEMA:
            raise ValueError("it has another schema")
        if not isinstance(content["blocks"], list):
            raise ValueError("blocks is not a list")
        content["provenance"] = content.pop(_PROVENANCE)
        record = ShardRecord(**{**content, "blocks": tuple(content["blocks"])})
        _check_record(record)
        if record.to_json() != data:
            raise ValueError("it is not in canonical form")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a commit record: {error}") from error
    return record


def check_owner(folder: Path, record: ShardRecord) -> None:
    """Compare the extractor that a record names with the folder it was found in.

    Raises
    ------
    DamagedShardError
        If it is another one, or none: a record that names nobody may be anybody's.
    """
    if record.extractor == folder.name:
        return
    reason = f"it belongs to the extractor {record.extractor[:12]}"
    if not record.extractor:
        reason = "it names no extractor, as earlier versions did, and may be another's"
    raise DamagedShardError(record, reason)


def _check_record(record: ShardRecord) -> None:
    """Refuse records whose numbers contradict each other or name a path."""
    for name in (record.shard, record.keys_sha256):
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise ValueError(f"{name!r} is not a SHA-256")
    sizes = (record.rows, record.columns, record.n_bytes, record.block_rows)
    if any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"sizes must be positive whole numbers, got {sizes}")
    if record.dtype not in _DTYPES:
        raise ValueError(f"dtype {record.dtype!r} is not one of {sorted(_DTYPES)}")
    if record.n_bytes != HEADER_BYTES + record.rows * record.row_bytes:
        raise ValueError("n_bytes does not equal header and rows")
    if record.block_rows > max(record.rows, _BLOCK_BYTES):
        raise ValueError("block_rows are more than a block can have")
    if min(record.block_rows, record.rows) * record.row_bytes > _MAX_BLOCK_BYTES:
        raise ValueError(f"a block has more than {_MAX_BLOCK_BYTES} bytes")
    if not isinstance(record.provenance, dict):
        raise ValueError(f"{_PROVENANCE} is not an object")
    if type(record.extractor) is not str or len(record.extractor) > _NAME_LIMIT:
        raise ValueError("extractor is not a key")
    if any(type(block) is not str or len(block) != 8 for block in record.blocks):
        raise ValueError("blocks must be checksums of 8 digits")
    if len(record.blocks) != -(-record.rows // record.block_rows):
        raise ValueError("the number of blocks does not match the rows")


def _rows_per_block(rows: int, row_bytes: int) -> int:
    """Return rows for about a mebibyte, more where blocks would be too many."""
    return max(1, _BLOCK_BYTES // row_bytes, -(-rows // _MAX_BLOCKS))


def read_record(path: Path) -> ShardRecord:
    """Read the commit record at a path; ValueError as in `parse_record`."""
    try:
        data = _io.read_file(path, _RECORD_LIMIT)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ValueError("not a commit record: the disk cannot read it") from error
    return parse_record(data)


def _header(
    rows: int, columns: int, dtype: str, keys_sha256: str, extractor: str
) -> bytes:
    size = rows * columns * np.dtype(dtype).itemsize
    entry = {
        "dtype": _DTYPES[dtype],
        "shape": [rows, columns],
        "data_offsets": [0, size],
    }
    about = {"keys_sha256": keys_sha256, "schema": str(SCHEMA)}
    if extractor:
        about["extractor"] = extractor
    text = canonical_json({"__metadata__": about, "x": entry})
    length = HEADER_BYTES - 8
    return struct.pack("<Q", length) + text.ljust(length)


class _BlockSummer:
    """CRC-32 of each block of a stream of rows."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._blocks: list[str] = []
        self._crc = self._filled = 0

    def update(self, data: memoryview) -> None:
        while data:
            part = data[: self._block_bytes - self._filled]
            self._crc = zlib.crc32(part, self._crc)
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == self._block_bytes:
                self._close_block()

    def _close_block(self) -> None:
        self._blocks.append(f"{self._crc:08x}")
        self._crc = self._filled = 0

    def finish(self) -> tuple[str, ...]:
        if self._filled:
            self._close_block()
        return tuple(self._blocks)


def write_shard(
    folder: Path,
    keys: np.ndarray,
    parts: Iterable[np.ndarray],
    *,
    columns: int,
    dtype: str,
    provenance: dict[str, Any],
) -> ShardRecord:
    """Write, sync and commit one shard.

    Parameters
    ----------
    folder : Path
        The extractor's folder, named by its key, with `tmp`, `shards` and `commits` in
        it.
    keys : ndarray of shape (rows,), 32-byte void
        Item keys in row order.
    parts : iterable of ndarray of shape (m, columns)
        The rows in consecutive parts, of the storage type.
    columns : int
        Features per row.
    dtype : {"float16", "float32"}
        Storage type.
    provenance : dict
        Where the rows came from.

    Returns
    -------
    ShardRecord
        The committed record.
    """
    key_bytes = np.ascontiguousarray(keys).tobytes()
    keys_sha256 = hashlib.sha256(key_bytes).hexdigest()
    header = _header(len(keys), columns, dtype, keys_sha256, folder.name)
    row_bytes = columns * np.dtype(dtype).itemsize
    block_rows = _rows_per_block(len(keys), row_bytes)
    summer = _BlockSummer(block_rows * row_bytes)
    sha = hashlib.sha256(header)
    n_bytes = len(header)

    def stream() -> Iterator[bytes | memoryview]:
        nonlocal n_bytes
        yield header
        little = np.dtype(dtype).newbyteorder("<")
        for part in parts:
            rows = np.ascontiguousarray(part, dtype=little)
            if rows.ndim != 2 or rows.shape[1] != columns:
                raise ValueError(f"rows of shape {rows.shape}, not (n, {columns})")
            # Not a cast of the buffer, which refuses a part without rows.
            data = rows.reshape(-1).view(np.uint8).data
            summer.update(data)
            sha.update(data)
            n_bytes += len(data)
            yield data

    with TemporaryFiles(folder / "tmp") as temporary:
        payload = temporary.write(stream())
        record = ShardRecord(
            shard=sha.hexdigest(),
            rows=len(keys),
            columns=columns,
            dtype=dtype,
            n_bytes=n_bytes,
            keys_sha256=keys_sha256,
            block_rows=block_rows,
            blocks=summer.finish(),
            provenance=provenance,
            extractor=folder.name,
        )
        _check_record(record)
        _publish(folder, temporary, record, payload, key_bytes)
    return record


def _publish(
    folder: Path,
    temporary: TemporaryFiles,
    record: ShardRecord,
    payload: Path,
    key_bytes: bytes,
) -> None:
    """Give a written shard its names: keys, rows, and last the commit record.

    Before the record is there, nothing of the shard exists for a reader.
    """
    shards, commits = folder / "shards", folder / "commits"
    temporary.publish(temporary.write([key_bytes]), shards / f"{record.shard}.keys")
    temporary.publish(payload, shards / f"{record.shard}.safetensors")
    _io.sync_folder(shards)
    name = f"{record.keys_sha256[:32]}-{uuid.uuid4().hex}.json"
    temporary.publish(temporary.write([record.to_json()]), commits / name)
    _io.sync_folder(commits)
