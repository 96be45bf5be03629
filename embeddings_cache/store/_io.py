"""Every call of the store to the file system, in one place.

The store reaches the disk only through this module's functions, called as
``_io.write(...)``, so that a test can replace any of them to fail the k-th call,
cut a write short or kill the process.
"""

import errno
import mmap
import os
import stat as modes
import uuid
from pathlib import Path

_BINARY = getattr(os, "O_BINARY", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
# A pipe without a writer is opened at once, and then refused.
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


def mkdir(path: Path) -> None:
    """Create a folder for this user only."""
    os.mkdir(path, 0o700)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, on the disk; existing is fine."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            mkdir(folder)
        except FileExistsError:
            if not folder.is_dir():
                raise
        # Without this a power loss could take the folder, and all that is below it.
        sync_folder(folder.parent)


def open_new(path: Path) -> int:
    """Create a file that must not exist, for this user only."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY | _CLOEXEC
    return os.open(path, flags, 0o600)


def open_read(path: Path) -> int:
    """Open a file for reading."""
    return os.open(path, os.O_RDONLY | _BINARY | _CLOEXEC | _NONBLOCK)


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
    try:
        fd = os.open(path, os.O_RDONLY | _CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # A file system without it, or a parent that this user may not list.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


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


def size_of(fd: int) -> int:
    """Return the size of an open file."""
    return os.fstat(fd).st_size


def is_regular(fd: int) -> bool:
    """Return whether an open file is one, and no folder, pipe or device."""
    return modes.S_ISREG(os.fstat(fd).st_mode)


def clock(folder: Path) -> float:
    """Return the time of the file system that a folder is on, in seconds.

    It is what files there are stamped with; that of this machine may differ.
    """
    path = folder / f".clock-{uuid.uuid4().hex}"
    close(open_new(path))
    try:
        return stat(path).st_mtime
    finally:
        unlink(path)


def read_some(fd: int, offset: int, view: memoryview) -> int:
    """Read some bytes at `offset` and say how many; none at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


def map_file(fd: int) -> mmap.mmap:
    """Map a whole open file, read-only; the map outlives its name and descriptor."""
    return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)


def touch(path: Path) -> None:
    """Stamp a file with the current time, creating it empty."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | _CLOEXEC, 0o600)
    try:
        os.utime(path)
    finally:
        close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all the bytes, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        view = view[write(fd, view) :]


def read_into(fd: int, offset: int, view: memoryview) -> int:
    """Fill a buffer from `offset` on and say how far the file reached."""
    done = 0
    while done < len(view):
        got = read_some(fd, offset + done, view[done:])
        if got == 0:
            break
        done += got
    return done


def read_file(path: Path, limit: int) -> bytes:
    """Read a whole small file.

    Raises
    ------
    ValueError
        If it is larger than `limit` bytes, or no regular file; nothing is read then.
    """
    try:
        fd = open_read(path)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a socket
            raise
        raise ValueError(f"{path.name} is not a regular file") from error
    try:
        if not is_regular(fd):
            raise ValueError(f"{path.name} is not a regular file")
        size = size_of(fd)
        if size > limit:
            raise ValueError(f"{path.name} is larger than {limit} bytes")
        data = bytearray(size)
        done = read_into(fd, 0, memoryview(data))
    finally:
        close(fd)
    return bytes(data[:done])
