"""Writing a cache's rows in formats other tools read.

A file takes its name when it is whole, and then takes the place of an older one: the
same command can be given again after an interruption. The names of the rows go last,
and those of an older file are removed before its rows are: rows beside names are always
of one run, and rows without names are of a run that was interrupted. Rows go to the
file shard by shard, through a map, so that a file may be larger than the memory.
"""

import io
import json
import os
import struct
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from embeddings_cache._errors import MissingExtraError, StoreError
from embeddings_cache._paths import refuse_special, refuse_url
from embeddings_cache.store import _io
from embeddings_cache.store._atomic import sync_file, temporary_beside
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shard_reading import read_keys

SUFFIXES = (".npy", ".safetensors", ".parquet")
_GROUP_BYTES = 64 << 20  # rows of a parquet file that are in memory at a time
_SAFETENSORS = {"float16": "F16", "float32": "F32"}

Fill = Callable[[np.ndarray], None]


def check_output(path: Path) -> None:
    """Refuse, before any work, an output file that could not be written."""
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"path={str(path)!r} must end in one of {', '.join(SUFFIXES)}, "
            "which names the format"
        )
    refuse_url(path, "path")
    refuse_special(path, "path")
    if path.is_dir():
        raise ValueError(f"path={str(path)!r} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"path={str(path)!r}: there is no folder {str(path.parent)!r}; make it "
            "first"
        )
    if path.suffix == ".parquet":
        _pyarrow(path)


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"path={str(path)!r}: parquet files need pyarrow. "
            'Run: pip install "skdebias[parquet]"'
        ) from error
    return pyarrow, parquet


def export_rows(folder: ShardFolder, path: Path) -> tuple[int, int]:
    """Write every item of a folder once, sorted by key; return the shape."""
    check_output(path)
    parts = [read_keys(folder.path, record) for record in folder.records()]
    if not parts:
        raise ValueError(f"{folder.path} holds no embeddings yet")
    keys = np.unique(np.concatenate(parts))
    records, places = folder.find(keys)

    def fill(rows: np.ndarray) -> None:
        if (places < 0).any() or not folder.read(records, places, rows):
            raise StoreError(
                f"some rows of {folder.path} are damaged and were set aside; "
                "export again for the rest"
            )

    shape = len(keys), records[0].columns
    names = (key.item().hex() for key in keys)
    write_rows(path, shape, records[0].dtype, fill, "key", names)
    return shape


def write_rows(
    path: Path,
    shape: tuple[int, int],
    dtype: str,
    fill: Fill,
    label: str,
    names: Iterable[str],
) -> None:
    """Write rows and what each is, in the format the suffix names.

    Parameters
    ----------
    path : Path
        ``.npy`` and ``.safetensors`` get the names, one per line, in
        ``<stem>.<label>s.txt`` beside them; ``.parquet`` has a column of them.
    shape : (int, int)
        Rows and features.
    dtype : {"float16", "float32"}
        Type of the rows; parquet files always have float32, which all their readers
        know.
    fill : callable
        Copies the rows into an array of that shape.
    label : str
        What the names are: "key" or "item".
    names : iterable of str
        One per row.

    Raises
    ------
    StoreError
        If the disk refuses. Older files of these names are there, or without names.
    """
    parameter = {"item": "output", "key": "path"}[label]
    write = _write_table if path.suffix == ".parquet" else _write_pair
    try:
        write(path, shape, dtype, fill, label, names)
    except OSError as error:
        raise StoreError(
            f"{parameter}={str(path)!r} cannot be written ({error}). Make room, or "
            "give a path that this user may write to, and run again: what is in the "
            "cache is not computed again"
        ) from error


def _write_table(
    path: Path,
    shape: tuple[int, int],
    dtype: str,
    fill: Fill,
    label: str,
    names: Iterable[str],
) -> None:
    with temporary_beside(path) as file, temporary_beside(path) as raw:
        rows = _mapped(raw, b"", shape, dtype)
        fill(rows)
        _write_parquet(file, rows, label, names)
        sync_file(file)
        file.replace(path)
        _io.sync_folder(path.parent)


def _write_pair(
    path: Path,
    shape: tuple[int, int],
    dtype: str,
    fill: Fill,
    label: str,
    names: Iterable[str],
) -> None:
    names_path = path.with_suffix(f".{label}s.txt")
    header = _npy_header if path.suffix == ".npy" else _safetensors_header
    with temporary_beside(path) as file, temporary_beside(names_path) as lines:
        rows = _mapped(file, header(shape, dtype), shape, dtype)
        fill(rows)
        rows.flush()
        _write_lines(lines, names)
        for part in (file, lines):
            sync_file(part)
        # One after the other on the disk, too: a reader must never find the names of
        # one run beside the rows of another.
        _io.unlink(names_path)
        _io.sync_folder(path.parent)
        file.replace(path)
        _io.sync_folder(path.parent)
        lines.replace(names_path)
        _io.sync_folder(path.parent)


def _mapped(path: Path, header: bytes, shape: tuple[int, int], dtype: str) -> np.memmap:
    """Create a file with a header and room for rows; return a map of the rows."""
    size = len(header) + shape[0] * shape[1] * np.dtype(dtype).itemsize
    with path.open("xb") as file:
        # A map of a file without blocks is a bus error where the disk is full.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        file.write(header)
    little = np.dtype(dtype).newbyteorder("<")
    return np.memmap(path, little, "r+", offset=len(header), shape=shape)


def _npy_header(shape: tuple[int, int], dtype: str) -> bytes:
    file = io.BytesIO()
    descr = np.dtype(dtype).newbyteorder("<").str
    layout = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.getvalue()


def _safetensors_header(shape: tuple[int, int], dtype: str) -> bytes:
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    entry = {"dtype": _SAFETENSORS[dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"x": entry}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_lines(path: Path, names: Iterable[str]) -> None:
    # Names of files that are not valid text keep their bytes.
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(" ".join(name.splitlines()) + "\n" for name in names)


def _write_parquet(
    path: Path, rows: np.ndarray, label: str, names: Iterable[str]
) -> None:
    pa, parquet = _pyarrow(path)
    embedding = pa.list_(pa.float32(), rows.shape[1])
    schema = pa.schema({label: pa.string(), "embedding": embedding})
    step = max(1, _GROUP_BYTES // (4 * rows.shape[1]))
    remaining = iter(names)
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows), step):
            values = np.ascontiguousarray(rows[start : start + step], dtype=np.float32)
            # Arrow has no place for bytes that are not valid text.
            labels = [
                name.encode(errors="surrogateescape").decode(errors="replace")
                for name in islice(remaining, len(values))
            ]
            vectors = pa.FixedSizeListArray.from_arrays(values.ravel(), rows.shape[1])
            writer.write_table(pa.table([labels, vectors], schema=schema))
