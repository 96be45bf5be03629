"""Paths that are no files: named pipes, sockets, devices."""

import os
import stat
from pathlib import Path


def special_kind(mode: int) -> str | None:
    """Return what a path is that is neither a regular file nor a folder, or None.

    Parameters
    ----------
    mode : int
        ``st_mode`` of its status.

    Returns
    -------
    str or None
        Such as "a named pipe". Reading one could wait, or go on, without an end.
    """
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` replaced by the user's folder, where it stands for it.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Path
    """
    plain = Path(path)
    if not plain.parts or not plain.parts[0].startswith("~"):
        return plain
    try:
        return plain.expanduser()
    except RuntimeError:  # "~draft.jpg" is a name, and nobody is called draft.jpg
        return plain


def refuse_special(path: Path, parameter: str) -> None:
    """Raise if a path is a named pipe, a socket or a device.

    Parameters
    ----------
    path : Path
        It may be missing: whoever opens it says so.
    parameter : str
        Named in the message.

    Raises
    ------
    ValueError
    """
    try:
        kind = special_kind(os.stat(path).st_mode)
    except OSError:
        return
    if kind is not None:
        raise ValueError(
            f"{parameter}={str(path)!r} is {kind}, not a regular file: give a file"
        )
