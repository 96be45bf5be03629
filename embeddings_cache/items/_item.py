"""One thing to embed: its name, the content that identifies it, and how to load it.

Files are read twice when they must be computed, once for the key and once to decode;
the second reading must give the same key.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embeddings_cache._errors import ItemError
from embeddings_cache._paths import expanded, is_url, kind_of, special_kind
from embeddings_cache.items import _images

_FILE_LIMIT = 1 << 30


class Item:
    """One thing to embed.

    There can be millions, so an item has slots and nothing is made before it is used.

    Parameters
    ----------
    name : str
        How messages call it.

    Attributes
    ----------
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
        """Return the value to embed and its identity.

        Returns
        -------
        value : PIL.Image.Image or str
            An RGB image, or a text.
        identity : bytes
            What identifies the content.

        Raises
        ------
        ItemError
            If it cannot be read.
        """
        raise NotImplementedError

    def identity(self) -> bytes:
        """Return the bytes that identify the content.

        Returns
        -------
        bytes
        """
        return self.content()[1]

    def key(self) -> bytes:
        """Return the 32 bytes that name the content.

        Returns
        -------
        bytes
            The SHA-256 of the identity.
        """
        return hashlib.sha256(self.identity()).digest()

    @property
    def portable(self) -> bool:
        """Whether another process can load it, if it is sent there."""
        return False

    def load(self, key: bytes) -> Any:
        """Return the value to embed, if it still is the content of that key.

        Parameters
        ----------
        key : bytes
            As `key` returned it.

        Returns
        -------
        PIL.Image.Image or str

        Raises
        ------
        ItemError
            If it cannot be read, or has another content now.
        """
        value, identity = self.content()
        if hashlib.sha256(identity).digest() != key:
            raise ItemError(
                "changed while it was being read, or without a sign of it; "
                "rehash=True reads every file again"
            )
        return value


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


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; that of a named pipe does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class FileItem(Item):
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


class BytesItem(Item):
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


class PixelItem(Item):
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
    """Return whether an image of PIL was closed before its pixels were read."""
    file = getattr(image, "fp", None)
    lazy = hasattr(image, "tile") and bool(image.tile)
    return lazy and (file is None or bool(getattr(file, "closed", False)))


class TextItem(Item):
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


class RowItem(Item):
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
            return image_item(str(self._index), value)
        except TypeError as error:
            raise ItemError(str(error)) from error

    def identity(self) -> bytes:
        return self._inner().identity()

    def content(self) -> tuple[Any, bytes]:
        return self._inner().content()


def image_item(name: str, value: Any) -> Item:
    if isinstance(value, str | os.PathLike):
        return FileItem(str(expanded(value)))
    if isinstance(value, bytes | bytearray):
        return BytesItem(f"bytes {name}", bytes(value))
    if isinstance(value, dict) and set(value) >= {"bytes", "path"}:
        if value["bytes"] is None and isinstance(value["path"], str | os.PathLike):
            return FileItem(str(expanded(value["path"])))
        if isinstance(value["bytes"], bytes | bytearray):
            label = str(value["path"] or f"bytes {name}")
            return BytesItem(label, bytes(value["bytes"]))
        raise TypeError(
            f"items: item {name} has neither bytes nor a path "
            f"({ {part: type(value[part]).__name__ for part in ('bytes', 'path')} })"
        )
    if isinstance(value, Image.Image):
        label = str(getattr(value, "filename", "") or f"image {name}")
        return PixelItem(label, value, _images.to_rgb)
    if isinstance(value, np.ndarray):
        return PixelItem(f"array {name}", value, _images.from_array)
    raise TypeError(
        f"items: item {name} is of type {type(value).__name__}; images are paths, PIL "
        "images, uint8 arrays or encoded bytes"
    )


def read_keys(items: Sequence[Item]) -> list[bytes | ItemError]:
    """Return the key of each item, or why it cannot be read."""
    keys: list[bytes | ItemError] = []
    for item in items:
        try:
            keys.append(item.key())
        except ItemError as error:
            keys.append(error)
    return keys
