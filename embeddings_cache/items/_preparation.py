"""From an item to what the network takes, or what is wrong with that item."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from PIL import Image

from embeddings_cache._errors import ItemError, PreprocessError
from embeddings_cache._thread_limits import own_threads
from embeddings_cache.items import _images
from embeddings_cache.items._item import Item


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
    # The same numbers whoever reads, and readers stay off the cores of the network.
    alone = own_threads(1) if "torch" in sys.modules else nullcontext()
    try:
        with alone:
            return _prepared(load(), prepare)
    except ItemError as error:
        return error
    except (MemoryError, RecursionError) as error:
        said = f" ({error})" if str(error) else ""
        return ItemError(f"needs more memory than there is{said}")
