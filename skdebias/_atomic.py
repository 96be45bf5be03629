"""Files that are written whole or not at all."""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

#: How the names of files begin that are not finished.
TEMPORARY = ".partial-"
# Where process numbers are unique, the number, and chance.
_OWNED = re.compile(r"([0-9a-f]{12})-(\d+)-[0-9a-f]{16}")
# A writer that has not written for so long, on a machine that cannot be asked.
_DEAD_AFTER_S = 24 * 3600.0


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield where to write what `path` is to hold, and put it there at the end.

    An error in between leaves `path` as it was. A kill does, too, and may leave a file
    beside it whose name begins with `TEMPORARY`.

    Parameters
    ----------
    path : Path
        In a folder that exists.

    Yields
    ------
    Path
        An empty file in the same folder, readable to whom the user's umask says.
    """
    temporary = path.parent / f"{TEMPORARY}{new_owner()}"
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, on the disk and for this user only.

    Parameters
    ----------
    path : Path
        It may exist.
    """
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
        # Without this a power loss could take the folder, and all that is below it.
        _sync_folder(folder.parent)


def new_owner() -> str:
    """Return a text that names this process, and is another one in each call."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(8)}"


def is_dead(owner: str) -> bool:
    """Return whether the process that a text names is known to be no more.

    Parameters
    ----------
    owner : str
        What :func:`new_owner` returned, in any process.

    Returns
    -------
    bool
        False if it lives, or ran where this process cannot look.
    """
    parts = _OWNED.fullmatch(owner)
    return parts is not None and parts[1] == _machine() and not _lives(int(parts[2]))


def remove_dead_partials(folder: Path, now: float) -> None:
    """Remove what killed processes left half-written in a folder.

    Files of living processes stay, and those of other machines until they are a day
    old.

    Parameters
    ----------
    folder : Path
    now : float
        Time by the clock of the folder's file system, such as when a file of it was
        last changed, in seconds.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            old = now - path.stat().st_mtime > _DEAD_AFTER_S
            if old or is_dead(path.name.removeprefix(TEMPORARY)):
                path.unlink()


@functools.cache
def _machine() -> str:
    """Return a digest of what a process number is unique in: a boot and a container."""
    known = [platform.node()]
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def _lives(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def _sync_folder(path: Path) -> None:
    """Put a folder's entries on the disk, where the platform can."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
