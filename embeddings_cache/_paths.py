"""Paths that are no files: named pipes, sockets, devices, addresses."""

import os
import re
import stat
from pathlib import Path

# pathlib has made one slash of two.
_URL = re.compile(r"(?i)(https?|ftps?|s3|gs|hf|az|abfss?|file):/|data:")


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


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Return the `special_kind` of what a path leads to; None if it leads nowhere.

    Parameters
    ----------
    path : path-like
    """
    try:
        return special_kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None


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
    kind = kind_of(path)
    if kind is not None:
        raise ValueError(
            f"{parameter}={str(path)!r} is {kind}, not a regular file: give a file"
        )


def refuse_special_below(folder: Path, parameter: str) -> None:
    """Raise if a file, or one in a folder, is a named pipe, a socket or a device.

    Parameters
    ----------
    folder : Path
    parameter : str
        Named in the message.

    Raises
    ------
    ValueError
    """
    refuse_special(folder, parameter)
    if folder.is_dir():
        for path in folder.rglob("*"):
            refuse_special(path, parameter)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path reads as the address of something elsewhere.

    Parameters
    ----------
    path : path-like
    """
    return _URL.match(os.fspath(path)) is not None


def refuse_url(path: Path, parameter: str) -> None:
    """Raise if what was given as a path is an address, and no such file is here.

    Parameters
    ----------
    path : Path
    parameter : str
        Named in the message.

    Raises
    ------
    ValueError
    """
    if is_url(path) and not path.exists():
        raise ValueError(
            f"{parameter}={str(path)!r} is an address, and nothing is downloaded or "
            "sent: give a path on this machine"
        )
