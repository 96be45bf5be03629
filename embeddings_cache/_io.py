"""Every call of the store to the file system, in one place.

The store reaches the disk only through this module's functions, called as
``_io.write(...)``, so that a test can replace any of them to fail the k-th call,
cut a write short or kill the process.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_BINARY = getattr(os, "O_BINARY", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, for this user only; existing is fine."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not folder.is_dir():
                raise


def open_new(path: Path) -> int:
    """Create a file that must not exist, for this user only."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _CLOEXEC
    return os.open(path, flags, 0o600)


def open_read(path: Path) -> int:
    """Open a file for reading."""
    return os.open(path, os.O_RDONLY | _BINARY | _CLOEXEC)


def write(fd: int, data: bytes | memoryview) -> int:
    """Write some of the bytes and say how many."""
    return os.write(fd, data)


def sync(fd: int) -> None:
    """Put an open file's bytes on the disk."""
    os.fsync(fd)


def close(fd: int) -> None:
    """Close a descriptor; errors of delayed writes surface here."""
    os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Put a finished file under its final name, atomically."""
    os.replace(source, target)


def sync_folder(path: Path) -> None:
    """Put a folder's entries on the disk, where the platform can."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unlink(path: Path) -> None:
    """Remove a file; one that is already gone is fine."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def list_folder(path: Path) -> list[str]:
    """Return the names in a folder, sorted; none where there is no folder."""
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def stat(path: Path) -> os.stat_result:
    """Return size, times and mode of a file."""
    return os.stat(path)


def read_at(fd: int, offset: int, size: int) -> bytearray:
    """Read up to `size` bytes at `offset`; fewer only where the file ends."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        if hasattr(os, "preadv"):
            got = os.preadv(fd, [view[done:]], offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            chunk = os.read(fd, size - done)
            got = len(chunk)
            view[done : done + got] = chunk
        if got == 0:
            break
        done += got
    del view
    return buffer if done == size else buffer[:done]


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file, read-only; the map outlives the file's name."""
    fd = open_read(path)
    try:
        return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    finally:
        close(fd)


def touch(path: Path) -> None:
    """Stamp a file with the current time, creating it empty."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | _CLOEXEC, 0o600)
    try:
        os.utime(path)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all the bytes, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        view = view[write(fd, view) :]


def read_file(path: Path, limit: int) -> bytes:
    """Read a whole small file; more than `limit` bytes is an error."""
    fd = open_read(path)
    try:
        data = read_at(fd, 0, limit + 1)
    finally:
        close(fd)
    if len(data) > limit:
        raise OSError(f"{path} is larger than {limit} bytes")
    return bytes(data)


def hash_blocks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield a file in blocks."""
    fd = open_read(path)
    try:
        offset = 0
        while block := read_at(fd, offset, size):
            yield bytes(block)
            offset += len(block)
    finally:
        close(fd)
