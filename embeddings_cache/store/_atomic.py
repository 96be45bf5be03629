"""Files that are written aside and take their names when they are whole."""

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from embeddings_cache.store import _io


class TemporaryFiles:
    """Files being written; whatever was not published is removed on leaving."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: set[Path] = set()

    def __enter__(self) -> "TemporaryFiles":
        return self

    def __exit__(self, *error: object) -> None:
        for path in self._open:
            try:
                _io.unlink(path)
            except OSError:
                # The first error is the one to report; prune collects leftovers.
                continue

    def write(self, parts: Iterable[bytes | memoryview]) -> Path:
        """Write and sync a new file; a failed sync fails it, never retried."""
        path = self._folder / uuid.uuid4().hex
        # Before it is there: a signal may raise as soon as it is.
        self._open.add(path)
        fd = _io.open_new(path)
        try:
            for part in parts:
                _io.write_all(fd, part)
            _io.sync(fd)
        finally:
            _io.close(fd)
        return path

    def publish(self, path: Path, target: Path) -> None:
        """Give a finished file its final name."""
        _io.rename(path, target)
        self._open.discard(path)


def write_durably(folder: Path, target: Path, data: bytes) -> None:
    """Write a small file under its final name, and on the disk, or not at all.

    Parameters
    ----------
    folder : Path
        Where it is written first, on the same file system.
    target : Path
    data : bytes
    """
    with TemporaryFiles(folder) as temporary:
        temporary.publish(temporary.write([data]), target)
    _io.sync_folder(target.parent)


def write_atomically(target: Path, data: bytes) -> None:
    """Write a file that may be lost or torn by a power cut, under its final name.

    Parameters
    ----------
    target : Path
        In a folder that is made if need be. Whoever reads it checks what it holds.
    data : bytes
    """
    _io.make_folder(target.parent)
    path = target.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        fd = _io.open_new(path)
        try:
            _io.write_all(fd, data)
        finally:
            _io.close(fd)
        _io.rename(path, target)
    except BaseException:
        _io.unlink(path)
        raise


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Yield a name beside a path; a file of that name is gone afterwards.

    Parameters
    ----------
    path : Path
        A file of the user's, with the permissions that his umask says.

    Yields
    ------
    Path
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Put a file's bytes on the disk.

    Parameters
    ----------
    path : Path
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())
