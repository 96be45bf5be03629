"""Items: what `transform` accepts, made into one ordered list with content keys.

An item knows its name (for messages), its key (the SHA-256 of its content) and how
to load itself. Files are read twice when they must be computed, once for the key and
once to decode; the second reading must give the same key.
"""

import csv
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embeddings_cache._errors import BlankTextWarning, ItemError, PreprocessError
from embeddings_cache._paths import (
    expanded,
    is_url,
    kind_of,
    refuse_special,
    refuse_url,
    special_kind,
)
from embeddings_cache._thread_limits import own_threads
from embeddings_cache._warnings import warn_caller
from embeddings_cache.items import _images
from embeddings_cache.items._folders import Paths, image_files

_FILE_LIMIT = 1 << 30


class Item:
    """One thing to embed.

    There can be millions, so an item has slots and nothing is made before it is used.

    Attributes
    ----------
    name : str
        How messages call it.
    weight : int
        Rough size, for sorting texts by length.
    path : str or None
        The file whose bytes identify the item, if there is one.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def weight(self) -> int:
        return 0

    @property
    def path(self) -> str | None:
        return None

    def content(self) -> tuple[Any, bytes]:
        """Return the value to embed (an RGB image or a text) and its identity.

        Raises
        ------
        ItemError
            If it cannot be read.
        """
        raise NotImplementedError

    def identity(self) -> bytes:
        """Return the bytes that identify the content."""
        return self.content()[1]

    def key(self) -> bytes:
        """Return the 32 bytes that name the content."""
        return hashlib.sha256(self.identity()).digest()

    @property
    def portable(self) -> bool:
        """Whether another process can load it, if it is sent there."""
        return False

    def load(self, key: bytes) -> Any:
        """Return the value to embed, if it still is the content of that key."""
        value, identity = self.content()
        if hashlib.sha256(identity).digest() != key:
            raise ItemError(
                "changed while it was being read, or without a sign of it; "
                "rehash=True reads every file again"
            )
        return value


class Preparation:
    """Loads an item and prepares it for the network, in any thread or process.

    Parameters
    ----------
    prepare : callable
        From the value to embed to what the network takes.
    """

    def __init__(self, prepare: Callable[[Any], Any]) -> None:
        self.prepare = prepare

    def __call__(self, task: tuple[Item, bytes]) -> Any:
        """Return what was prepared of an item of a key, or the error of reading it."""
        item, key = task
        return attempt(lambda: item.load(key), self.prepare)


class Noted:
    """What was prepared of an item of which there is something to say.

    Parameters
    ----------
    value : object
        As the network takes it.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


def _prepared(value: Any, prepare: Callable[[Any], Any]) -> Any:
    try:
        prepared = prepare(value)
    except (ItemError, MemoryError, RecursionError):
        raise
    # Of libraries and of users: it may fail in any way, for one item or for all.
    except Exception as error:
        return PreprocessError(f"preprocess raised {error!r}", error)
    shallow = isinstance(value, Image.Image) and _images.SHALLOW in value.info
    return Noted(prepared) if shallow else prepared


def attempt(load: Callable[[], Any], prepare: Callable[[Any], Any]) -> Any:
    """Return what was prepared of one item, or what is wrong with that item.

    Parameters
    ----------
    load : callable
        Returns the value to embed.
    prepare : callable
        From that value to what the network takes.

    Returns
    -------
    object, Noted or ItemError
    """
    # What a thread does that reads for itself is what one that only reads does.
    alone = own_threads(1) if "torch" in sys.modules else nullcontext()
    try:
        with alone:
            return _prepared(load(), prepare)
    except ItemError as error:
        return error
    except (MemoryError, RecursionError) as error:
        said = f" ({error})" if str(error) else ""
        return ItemError(f"needs more memory than there is{said}")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; that of a named pipe does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def why_no_file(path: str) -> str:
    """Say what a path is that is not the path of a file.

    Parameters
    ----------
    path : str
    """
    kind = kind_of(path)
    if kind is not None:
        return f"{kind}, not a regular file"
    if os.path.isdir(path):
        return "a folder"
    return "an address, and nothing is downloaded" if is_url(path) else "no such file"


class _FileItem(Item):
    """An image file."""

    __slots__ = ()

    @property
    def path(self) -> str:
        return self.name

    @property
    def portable(self) -> bool:
        return True

    def identity(self) -> bytes:
        try:
            with open(self.name, "rb", opener=_open_at_once) as file:
                kind = special_kind(os.fstat(file.fileno()).st_mode)
                if kind is not None:
                    raise ItemError(f"{kind}, not a regular file")
                # What has no size of its own, such as files of /proc, is bounded too.
                data = file.read(_FILE_LIMIT + 1)
        except (OSError, ValueError) as error:
            if is_url(self.name):
                raise ItemError("an address, and nothing is downloaded") from error
            # A socket cannot even be opened.
            kind = kind_of(self.name)
            said = getattr(error, "strerror", None)
            said = f"{kind}, not a regular file" if kind else said
            raise ItemError(said or str(error)) from error
        if len(data) > _FILE_LIMIT:
            raise ItemError(f"larger than {_FILE_LIMIT} bytes")
        return data

    def content(self) -> tuple[Any, bytes]:
        data = self.identity()
        return _images.decode(data, Path(self.name).suffix), data


class _BytesItem(Item):
    """An encoded image in memory."""

    __slots__ = ("_data",)

    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(name)
        self._data = data

    @property
    def portable(self) -> bool:
        return True

    def identity(self) -> bytes:
        return self._data

    def content(self) -> tuple[Any, bytes]:
        return _images.decode(self._data), self._data


class _PixelItem(Item):
    """A decoded image, identified by its pixels."""

    __slots__ = ("_convert", "_value")

    def __init__(
        self, name: str, value: Any, convert: Callable[[Any], Image.Image]
    ) -> None:
        super().__init__(name)
        self._value = value
        self._convert = convert

    @property
    def portable(self) -> bool:
        # A PIL image may be open, and to send it decodes it.
        return isinstance(self._value, np.ndarray)

    def content(self) -> tuple[Any, bytes]:
        try:
            image = self._convert(self._value)
        except ItemError:
            raise
        # A lazily opened image can fail in any way its decoder likes.
        except Exception as error:
            # Pixels that were read are gone too.
            if _is_closed(self._value) or "closed image" in str(error):
                raise ItemError("an image of PIL that is closed") from error
            raise ItemError(f"damaged or truncated ({error})") from error
        return image, _images.pixel_bytes(image)


def _is_closed(image: Any) -> bool:
    """Whether an image of PIL was closed before its pixels were read."""
    file = getattr(image, "fp", None)
    lazy = hasattr(image, "tile") and bool(image.tile)
    return lazy and (file is None or bool(getattr(file, "closed", False)))


class _TextItem(Item):
    """A text."""

    __slots__ = ("_text",)

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name)
        self._text = text

    @property
    def weight(self) -> int:
        return len(self._text)

    def identity(self) -> bytes:
        try:
            return self._text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ItemError(f"not valid Unicode text ({error.reason})") from error

    def content(self) -> tuple[Any, bytes]:
        return self._text, self.identity()


class _RowItem(Item):
    """An image of a data set column, which decodes when it is indexed."""

    __slots__ = ("_column", "_index")

    def __init__(self, column: Any, index: int) -> None:
        super().__init__(f"row {index}")
        self._column = column
        self._index = index

    def _inner(self) -> Item:
        try:
            value = self._column[self._index]
        # A data set decodes by itself and fails in its own ways.
        except Exception as error:
            raise ItemError(f"the data set cannot give it ({error})") from error
        try:
            return _image_item(str(self._index), value)
        except TypeError as error:
            raise ItemError(str(error)) from error

    def identity(self) -> bytes:
        return self._inner().identity()

    def content(self) -> tuple[Any, bytes]:
        return self._inner().content()


def read_keys(items: Sequence[Item]) -> list[bytes | ItemError]:
    """Return the key of each item, or why it cannot be read."""
    found: list[bytes | ItemError] = []
    for item in items:
        try:
            found.append(item.key())
        except ItemError as error:
            found.append(error)
    return found


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
        super().__init__(texts, _TextItem)

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
            _FileItem(str(item)) if isinstance(item, Path) else item for item in items
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
    """
    if isinstance(items, str | os.PathLike):
        if modality == "text":
            raise TypeError(
                f"items={items!r}: a text backbone takes a list of strings; "
                "for one text give a list with it"
            )
        found = paths_below(Path(items))
        return FileItems(found, found.left_out)
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
        made = [_image_item(str(number), value) for number, value in enumerate(items)]
        return FileItems(made, getattr(items, "left_out", ""))
    return [_RowItem(items, i) for i in range(len(items))]


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


def _image_item(name: str, value: Any) -> Item:
    if isinstance(value, str | os.PathLike):
        return _FileItem(str(expanded(value)))
    if isinstance(value, bytes | bytearray):
        return _BytesItem(f"bytes {name}", bytes(value))
    if isinstance(value, dict) and set(value) >= {"bytes", "path"}:
        if value["bytes"] is None and isinstance(value["path"], str | os.PathLike):
            return _FileItem(str(expanded(value["path"])))
        if isinstance(value["bytes"], bytes | bytearray):
            label = str(value["path"] or f"bytes {name}")
            return _BytesItem(label, bytes(value["bytes"]))
        raise TypeError(
            f"items: item {name} has neither bytes nor a path "
            f"({ {part: type(value[part]).__name__ for part in ('bytes', 'path')} })"
        )
    if isinstance(value, Image.Image):
        label = str(getattr(value, "filename", "") or f"image {name}")
        return _PixelItem(label, value, _images.to_rgb)
    if isinstance(value, np.ndarray):
        return _PixelItem(f"array {name}", value, _images.from_array)
    raise TypeError(
        f"items: item {name} is of type {type(value).__name__}; images are paths, PIL "
        "images, uint8 arrays or encoded bytes"
    )


def paths_below(path: Path) -> Paths:
    """Return the image files that a folder, a table or a single path stands for."""
    path = expanded(path)
    if path.is_dir():
        return image_files(path)
    if path.suffix.lower() == ".csv":
        return Paths(paths_of_table(path))
    refuse_url(path, "items")
    if not path.exists():
        raise FileNotFoundError(f"items={str(path)!r}: no such file or folder")
    return Paths([path])


def separator_hint(names: Sequence[str | None]) -> str:
    """Say that a table of one column seems to have another separator than a comma.

    Parameters
    ----------
    names : sequence of str
        Names of its columns.

    Returns
    -------
    str
        Empty if there is nothing to say.
    """
    found = [sep for sep in ";\t|" if len(names) == 1 and sep in str(names[0])]
    if not found:
        return ""
    return f". It seems to be separated by {found[0]!r}: save it with commas"


def paths_of_table(path: Path) -> list[Path]:
    """Return the image paths of a Waterbirds-style table, relative to its folder.

    The column is ``img_filename``, else the first column whose first value names a
    file beside the table (or an absolute path).
    """
    refuse_special(path, "items")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"items={str(path)!r}: not a table in UTF-8 ({error.reason} at byte "
            f"{error.start}); save it in UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"items={str(path)!r}: not a readable table ({error})") from (
            error
        )
    if not rows:
        raise ValueError(f"items={str(path)!r}: the table has no rows")
    column = "img_filename" if "img_filename" in rows[0] else None
    for name, value in rows[0].items():
        if column is None and isinstance(value, str) and value:
            column = name if (path.parent / value).is_file() else None
    if column is None:
        raise ValueError(
            f"items={str(path)!r}: no column img_filename, and no column whose first "
            f"value is a file below {path.parent}; columns: {', '.join(rows[0])}"
            f"{separator_hint(list(rows[0]))}"
        )
    _check_rows(path, rows, column)
    return [path.parent / row[column] for row in rows]


def _check_rows(path: Path, rows: Sequence[dict[Any, Any]], column: str) -> None:
    """Raise if a row of a table names no file, or has more values than columns."""
    problems = {
        f"no value in {column!r}": [not row[column] for row in rows],
        "too many values": [None in row for row in rows],
    }
    for what, found in problems.items():
        if any(found):
            raise ValueError(
                f"items={str(path)!r}: {sum(found)} of {len(rows)} rows have {what}, "
                f"the first is row {found.index(True) + 1} after the header. Fill or "
                "drop them, and quote values that hold a comma"
            )
