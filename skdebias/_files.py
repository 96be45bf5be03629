"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

#: How the names of files begin that are not finished.
TEMPORARY = ".partial-"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
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
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
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


def _sync_folder(path: Path) -> None:
    """Put a folder's entries on the disk, where the platform can."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
