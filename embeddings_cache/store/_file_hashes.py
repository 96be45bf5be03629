"""Which file had which content: a table that spares reading files again.

A file's *state* is a digest of its absolute path, device, inode, size and the times
(in nanoseconds) of its last change, of content and of anything else. The table maps
states to item keys. It is never part of a key, and its loss costs reading only: a
damaged or missing part is ignored.

A file that was changed less than two seconds before it was read is not entered: a
second change within the clock's grain would leave the same state. Whoever can set a
file's times and the system's clock can still deceive the table; `rehash=True` does
not use it.

The table consists of immutable segments, each written aside and renamed. They are not
synced to the disk: a torn one fails its checksum.
"""

import hashlib
import os
import time
import uuid
from pathlib import Path

import numpy as np

from embeddings_cache._fingerprint import KEY_BYTES
from embeddings_cache.store import _io
from embeddings_cache.store._atomic import write_atomically

_MAGIC = b"embeddings-cache files 1\n"
_ROW = np.dtype([("first", "<u8"), ("second", "<u8"), ("key", f"V{KEY_BYTES}")])
_STATE = np.dtype([("first", "<u8"), ("second", "<u8")])
_SEGMENTS = 8  # so many are merged into one
_SETTLED_NS = 2_000_000_000


def memo_folder(root: Path) -> Path:
    """Return the folder of what a cache remembers to save time, beside its shards."""
    return root / "memo"


class FileHashCache:
    """The table of one cache folder.

    Parameters
    ----------
    root : Path
        The cache folder; nothing is made before something is to be written.
    """

    def __init__(self, root: Path) -> None:
        self.folder = memo_folder(root) / "files"
        self._new: dict[bytes, bytes] = {}

    def look_up(self, states: list[bytes | None]) -> list[bytes | None]:
        """Return the item key of each state, None where it is not known."""
        keys: list[bytes | None] = [None] * len(states)
        asked = [number for number, state in enumerate(states) if state is not None]
        if not asked:
            return keys
        wanted = np.frombuffer(
            b"".join(state for state in states if state is not None), dtype=_STATE
        )
        for name in self._names():
            rows = self._segment(name)
            if not len(rows):
                continue
            first = np.ascontiguousarray(rows["first"])
            place = np.searchsorted(first, wanted["first"]).clip(max=len(rows) - 1)
            hit = (first[place] == wanted["first"]) & (
                rows["second"][place] == wanted["second"]
            )
            for number in np.flatnonzero(hit).tolist():
                keys[asked[number]] = rows["key"][place[number]].tobytes()
        return keys

    def learn(self, state: bytes, key: bytes) -> None:
        """Keep the key of a state for `save`."""
        self._new[state] = key

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's content, read only if it is not known.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        (known,) = self.look_up([file_state(path)])
        if known is not None:
            return known.hex()
        state = settled_state(path)
        with path.open("rb") as file:
            key = hashlib.file_digest(file, "sha256").digest()
        if state is not None and file_state(path) == state:
            self.learn(state, key)
        return key.hex()

    def save(self) -> None:
        """Write what was learnt as a segment; many segments become one."""
        if not self._new:
            return
        data = b"".join(state + key for state, key in self._new.items())
        rows = np.frombuffer(data, dtype=_ROW)
        old = self._names()
        old = old if len(old) >= _SEGMENTS else []
        rows = np.concatenate([rows, *(self._segment(name) for name in old)])
        _, chosen = np.unique(rows[["first", "second"]], return_index=True)
        try:
            self._write(rows[chosen])
            for name in old:
                _io.unlink(self.folder / name)
        except OSError:
            # A store that may only be read, or a full disk: files are read again.
            return
        self._new.clear()

    def _write(self, rows: np.ndarray) -> None:
        payload = rows.tobytes()
        data = _MAGIC + hashlib.sha256(payload).digest() + payload
        write_atomically(self.folder / f"{uuid.uuid4().hex}.files", data)

    def _names(self) -> list[str]:
        try:
            names = _io.list_folder(self.folder)
        except OSError:
            return []
        return [name for name in names if name.endswith(".files")]

    def _segment(self, name: str) -> np.ndarray:
        """Return a segment's rows, sorted; none if it is not whole."""
        nothing = np.empty(0, dtype=_ROW)
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            return nothing
        head, payload = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
        if head != _MAGIC + hashlib.sha256(payload).digest():
            return nothing
        return np.frombuffer(payload, dtype=_ROW)


def file_state(path: str | os.PathLike[str]) -> bytes | None:
    """Return the 16 bytes that name a file's state; None if it cannot be told."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return _state(path, status)


def settled_state(path: str | os.PathLike[str]) -> bytes | None:
    """Return a file's state if its content now can be told from any later one.

    None if it was changed so shortly ago (or in the future) that another change
    could leave the same times.
    """
    now = time.time_ns()
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if now - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
        return None
    return _state(path, status)


def _state(path: str | os.PathLike[str], status: os.stat_result) -> bytes:
    numbers = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    text = os.fsencode(os.path.abspath(path)) + b"\0%d %d %d %d %d" % numbers
    return hashlib.blake2b(text, digest_size=16).digest()
