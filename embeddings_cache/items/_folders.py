"""Folders of images: which files are taken, and what is said of the others."""

import mimetypes
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from embeddings_cache._paths import special_kind
from embeddings_cache._warnings import warn_caller
from embeddings_cache.items import _images

# What systems and notebooks put beside the files of a user.
_SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
# Raw files of cameras begin like TIFF; what Pillow finds in them is a thumbnail.
_RAW = frozenset(
    [
        ".3fr",
        ".arw",
        ".cr2",
        ".dcr",
        ".dng",
        ".erf",
        ".fff",
        ".iiq",
        ".kdc",
        ".mef",
        ".mos",
        ".nef",
        ".nrw",
        ".pef",
        ".rw2",
        ".sr2",
        ".srf",
        ".srw",
    ]
)
_HIDDEN = "hidden"
_SHOWN = 5


class LeftOutWarning(UserWarning):
    """A folder holds what may be images, and they are not among the items.

    They are of a format that is not read here, cannot be listed, or lead nowhere. Turn
    it into an error with ``warnings.simplefilter("error", LeftOutWarning)``.
    """


class Paths(list[Path]):
    """Paths of items, and what was left out where they were found.

    Parameters
    ----------
    paths : iterable of Path
    left_out : str, default=""
        One line; empty if nothing was.
    """

    def __init__(self, paths: Iterable[Path], left_out: str = "") -> None:
        super().__init__(paths)
        self.left_out = left_out


def image_files(folder: Path) -> Paths:
    """Return the image files below a folder, in sorted order.

    A file is an image if its suffix or its first bytes say so. Names that begin with a
    dot, and what systems leave behind, are passed over. Links to folders are followed,
    each folder is read once.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Paths

    Raises
    ------
    ValueError
        If there is no image file.

    Warns
    -----
    LeftOutWarning
        If what is left out may be images.
    """
    images: list[Path] = []
    others: Counter[str] = Counter()
    doubtful = False
    for path, problem in _files(folder):
        if problem is None and _is_image(path):
            images.append(path)
            continue
        others[problem or path.suffix.lower() or "without a suffix"] += 1
        doubtful |= _may_be_image(path) if problem is None else problem != _HIDDEN
    left_out = _line(folder, others)
    if not images:
        said = f" ({left_out})" if left_out else ""
        raise ValueError(f"items={str(folder)!r}: no image file in this folder{said}")
    if doubtful:
        warn_caller(
            f"items={str(folder)!r}: {len(images)} image files are read; {left_out}. "
            f"Formats that are read: {', '.join(_images.FORMATS)}.",
            LeftOutWarning,
        )
    return Paths(sorted(images), left_out)


def _line(folder: Path, others: Counter[str]) -> str:
    if not others:
        return ""
    kinds = [f"{number} {kind}" for kind, number in others.most_common(_SHOWN)]
    rest = sum(others.values()) - sum(n for _, n in others.most_common(_SHOWN))
    more = f", {rest} more" if rest else ""
    return f"left out of {str(folder)!r}: {', '.join(kinds)}{more}"


def _files(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield all that is below a folder and no folder, with what rules it out."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    # Links come after all real folders, so that files keep their real names.
    while waiting:
        links: list[Path] = []
        for start in waiting:
            yield from _walk(start, seen, links)
        waiting = sorted(links)


def _walk(
    folder: Path, seen: set[tuple[int, int]], links: list[Path]
) -> Iterator[tuple[Path, str | None]]:
    """Yield the files of a folder and its real sub-folders; note links to others."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield folder, f"cannot be listed ({error.strerror})"
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_NAMES:
                yield path, _HIDDEN
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            # Unlike the method of an entry, this says no of a link to itself.
            elif os.path.isdir(path):
                links.append(path)
            else:
                yield path, _problem(path)


def _problem(path: Path) -> str | None:
    """Return why a path cannot be a file to read, or None."""
    try:
        return special_kind(path.stat().st_mode)
    except OSError as error:
        return f"leads nowhere ({error.strerror})"


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in _images.SUFFIXES:
        return True
    raw = path.suffix.lower() in _RAW
    return not raw and _images.has_signature(_start(path))


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_images.SIGNATURE_BYTES)
    except OSError:
        return b""


def _may_be_image(path: Path) -> bool:
    guess, _ = mimetypes.guess_type(path.name)
    named = bool(guess and guess.startswith("image/"))
    return named or _images.has_signature(_start(path))
