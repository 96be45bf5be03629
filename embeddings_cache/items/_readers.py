"""What `transform` accepts, made into one ordered sequence of items."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from embeddings_cache._errors import BlankTextWarning, ItemError
from embeddings_cache._warnings import warn_caller
from embeddings_cache.items._item import (
    FileItem,
    Item,
    RowItem,
    TextItem,
    image_item,
    read_keys,
)
from embeddings_cache.items._tables import paths_below


class _Items(Sequence[Item]):
    """Items that are made when they are asked for; millions of objects are slow."""

    def __init__(self, values: Any, make: Callable[[str, Any], Item]) -> None:
        self._values = values
        self._make = make

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            numbers = map(str, range(len(self))[index])
            return list(map(self._make, numbers, self._values[index]))
        return self._make(str(index), self._values[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self._make, map(str, count()), self._values)


class Texts(_Items):
    """Texts, whose keys need no object per text."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(texts, TextItem)

    def keys(self, part: slice) -> list[bytes | ItemError]:
        """Return the keys of some texts, as `read_keys` of their items does."""
        sha256 = hashlib.sha256
        try:
            return [sha256(text.encode()).digest() for text in self._values[part]]
        except UnicodeEncodeError:
            return read_keys(self[part])


def _check_texts(texts: Sequence[Any]) -> None:
    if set(map(type, texts)) <= {str}:
        return
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"items: a text backbone takes strings, item {number} is of type "
                f"{type(text).__name__} ({text!r:.40}): leave it out, or fill it if it "
                "is missing"
            )


class FileItems(list[Item]):
    """Items, and what was left out where they were found.

    Parameters
    ----------
    items : iterable of Item or Path
    left_out : str
        One line; empty if nothing was.
    """

    def __init__(self, items: Iterable[Any], left_out: str) -> None:
        super().__init__(
            FileItem(str(item)) if isinstance(item, Path) else item for item in items
        )
        self.left_out = left_out


def _warn_of_blanks(texts: Sequence[str]) -> None:
    blank = [number for number, text in enumerate(texts) if not text.strip()]
    if blank:
        warn_caller(
            f"{len(blank)} of {len(texts)} texts are blank, the first is item "
            f"{blank[0]}: they are embedded as the network embeds no words. Leave them "
            "out if a text is missing there.",
            BlankTextWarning,
        )


def read_items(items: Any, modality: str) -> Sequence[Item]:
    """Make the argument of `transform` a sequence of items, in its order.

    Parameters
    ----------
    items : path-like, sequence or ndarray
        For images: a folder (its image files in sorted order, recursively), a
        ``metadata.csv``, one image path, or a sequence of paths, PIL images,
        uint8 arrays, encoded bytes or ``{"bytes", "path"}`` mappings. For texts: a
        sequence of strings.
    modality : {"image", "text"}
        What the backbone takes.

    Returns
    -------
    sequence of Item

    Raises
    ------
    TypeError, ValueError
        If the argument as a whole makes no sense; single bad images are reported
        when they are read.

    Examples
    --------
    >>> from embeddings_cache.networks import read_items
    >>> [item.name for item in read_items(["a.png", "b.png"], "image")]
    ['a.png', 'b.png']
    """
    if isinstance(items, str | os.PathLike):
        if modality == "text":
            raise TypeError(
                f"items={items!r}: a text backbone takes a list of strings; "
                "for one text give a list with it"
            )
        paths = paths_below(Path(items))
        return FileItems(paths, paths.left_out)
    if isinstance(items, np.ndarray) and items.ndim == 0:
        raise TypeError("items: an array without rows; give a sequence of items")
    if isinstance(items, np.ndarray) and items.dtype != object and items.ndim > 1:
        _check_array(items)
    if not hasattr(items, "__len__") and isinstance(items, Iterable):
        items = list(items)
    if hasattr(items, "iloc"):
        items = items.tolist() if getattr(items, "ndim", 1) == 1 else _refuse(items)
    if not isinstance(items, Sequence | np.ndarray) and not (
        hasattr(items, "__len__") and hasattr(items, "__getitem__")
    ):
        _refuse(items)
    if isinstance(items, dict):
        _refuse(items)
    if modality == "text":
        # Of a data set's column, a row is read once.
        texts = items if isinstance(items, list | tuple) else list(items)
        _check_texts(texts)
        _warn_of_blanks(texts)
        return Texts(texts)
    if isinstance(items, np.ndarray | list | tuple):
        image_items = [
            image_item(str(number), value) for number, value in enumerate(items)
        ]
        return FileItems(image_items, getattr(items, "left_out", ""))
    return [RowItem(items, i) for i in range(len(items))]


def _refuse(items: Any) -> Any:
    raise TypeError(
        f"items of type {type(items).__name__}: give a list of paths, images, arrays "
        "or texts, a folder, a metadata.csv, or one column of a data set"
    )


def _check_array(items: np.ndarray) -> None:
    if items.dtype == np.uint8 and (
        items.ndim == 3 or (items.ndim == 4 and items.shape[3] in (1, 3))
    ):
        return
    raise ValueError(
        f"items: an array of type {items.dtype} and shape {items.shape}; images must "
        "be uint8 of shape (n, height, width) or (n, height, width, 3)"
    )
