"""What training a whole network shares with the extractor.

Whether a network is frozen or trained, an item is read, prepared and put through it in
the same way: whoever trains one with these functions gets the same numbers from it as
:class:`~embeddings_cache.EmbeddingExtractor`. `skdebias.finetune` is built on them.
"""

from collections.abc import Callable, Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from embeddings_cache._errors import (
    BadItem,
    ItemError,
    PreprocessError,
    UnreadableItemError,
)
from embeddings_cache._extractor import EmbeddingExtractor
from embeddings_cache._memory import is_out_of_memory
from embeddings_cache._parallel import auto_workers, ordered_map
from embeddings_cache._parameters import check_parameters
from embeddings_cache._progress import Progress
from embeddings_cache._turns import Turns
from embeddings_cache.backbones import build_backbone, family_of
from embeddings_cache.backbones._base import Backbone, BackboneSpec
from embeddings_cache.backbones._copies import private_copy
from embeddings_cache.backbones._describe import Describer, describe_network
from embeddings_cache.backbones._output import layer_output, pool
from embeddings_cache.backbones._randomness import SeededGenerator
from embeddings_cache.backbones._transforms import describe_transform
from embeddings_cache.backbones._weights import load_strictly, read_weights
from embeddings_cache.backbones.sentence_transformers._bars import quiet_files
from embeddings_cache.compute._device import resolve_precision, to_device
from embeddings_cache.items._item import Item, why_no_file
from embeddings_cache.items._keys import item_keys
from embeddings_cache.items._preparation import Noted, attempt
from embeddings_cache.items._readers import read_items
from embeddings_cache.store._file_hashes import FileHashCache

__all__ = [
    "Backbone",
    "BackboneSpec",
    "Item",
    "ItemError",
    "SeededGenerator",
    "Turns",
    "auto_workers",
    "build_backbone",
    "check_files",
    "content_keys",
    "copy_network",
    "describe_code",
    "describe_network",
    "describe_transform",
    "is_out_of_memory",
    "layer_output",
    "load_weights",
    "network_settings",
    "ordered_map",
    "pool",
    "prepare_item",
    "quiet_files",
    "read_items",
    "resolve_precision",
    "saves_folders",
    "to_device",
]

_SETTINGS = (
    "pretrained", "weights", "layer", "pooling", "model_kwargs", "preprocess",
    "modality",
)  # fmt: skip


def network_settings(extractor: EmbeddingExtractor) -> dict[str, Any]:
    """Return what an extractor would build its network with, beside the backbone.

    Parameters
    ----------
    extractor : EmbeddingExtractor

    Returns
    -------
    dict of str to object
        Checked, and without "auto": the keyword arguments of `build_backbone`.

    Raises
    ------
    ValueError, TypeError
        For a parameter that cannot be used.

    Examples
    --------
    >>> from embeddings_cache import EmbeddingExtractor
    >>> from embeddings_cache.networks import network_settings
    >>> network_settings(EmbeddingExtractor("timm:resnet18"))["modality"]
    'image'
    """
    checked = check_parameters(extractor.get_params(deep=False))
    return {name: checked[name] for name in _SETTINGS}


def saves_folders(backbone: str) -> bool:
    """Return whether trained networks of a library are folders, not files of weights.

    Parameters
    ----------
    backbone : str
        ``"<library>:<name>"``.

    Returns
    -------
    bool

    Raises
    ------
    UnknownBackboneError
        If there is no such library.

    Examples
    --------
    >>> from embeddings_cache.networks import saves_folders
    >>> saves_folders("sentence-transformers:all-MiniLM-L6-v2")
    True
    >>> saves_folders("timm:resnet50")
    False
    """
    return family_of(backbone).folders


def copy_network(network: nn.Module, why: str) -> nn.Module:
    """Return a copy of a network that computes with nothing of the original.

    Parameters
    ----------
    network : torch.nn.Module
        Only read.
    why : str
        What the copy is for, a sentence for the error.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        If the network cannot be copied.

    Examples
    --------
    >>> from torch import nn
    >>> from embeddings_cache.networks import copy_network
    >>> network = nn.Linear(2, 1)
    >>> copy_network(network, "It is trained.").weight is network.weight
    False
    """
    return private_copy(network, why)[0]


def load_weights(network: nn.Module, weights: str, label: str) -> None:
    """Load a safetensors file into a network; every tensor must have its place.

    Parameters
    ----------
    network : torch.nn.Module
        Receives the tensors.
    weights : str
        The file, or a folder that has one.
    label : str
        What messages call the network.

    Raises
    ------
    WeightsError
        If the file cannot be read, or does not fit.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> from torch import nn
    >>> from embeddings_cache.networks import load_weights
    >>> path = tempfile.mkdtemp() + "/weights.safetensors"
    >>> save_file(nn.Linear(2, 1).state_dict(), path)
    >>> load_weights(nn.Linear(2, 1), path, "torch:Linear")
    """
    load_strictly(network, read_weights(weights), weights, label)


def describe_code(value: Any, name: str, remedy: str) -> Any:
    """Describe a class, a function or a value by the code that would run.

    Parameters
    ----------
    value : object
    name : str
        The parameter that it belongs to, for messages.
    remedy : str
        What to do if it cannot be described, for messages.

    Returns
    -------
    JSON value
        The same in every process.

    Raises
    ------
    UndescribableError
        If it, or a part of it, has no description.

    Examples
    --------
    >>> from embeddings_cache.networks import describe_code
    >>> describe_code(dict, "classes", "Name another class")
    'builtins.dict'
    """
    place = getattr(value, "__qualname__", name)
    return Describer(name, remedy, training=True).whole(value, place)


def check_files(items: Sequence[Item]) -> None:
    """Refuse items whose files are not there, before any is read.

    Parameters
    ----------
    items : sequence of Item

    Raises
    ------
    UnreadableItemError
        Naming each of them, with what its path is instead.

    Examples
    --------
    >>> from embeddings_cache.networks import check_files, read_items
    >>> check_files(read_items(["absent.png"], "image"))
    Traceback (most recent call last):
        ...
    embeddings_cache._errors.UnreadableItemError: 1 of 1 items cannot be read:
      item 0, absent.png: no such file
    Repair or leave out these items and try again.
    """
    missing = [
        BadItem(number, item.name, why_no_file(item.path))
        for number, item in enumerate(items)
        if item.path is not None and not isfile(item.path)
    ]
    if missing:
        raise UnreadableItemError(missing, len(items), cached=False)


def prepare_item(item: Item, prepare: Callable[[Any], Any]) -> Any:
    """Load an item and prepare it for a network.

    What `prepare` raises leaves this function, while what is wrong with the item itself
    is returned: the caller may want to name all items that cannot be read.

    Parameters
    ----------
    item : Item
    prepare : callable
        From an RGB PIL image or a text to what the network takes, as
        ``Backbone.prepare``.

    Returns
    -------
    object or ItemError
        What `prepare` returned, or why the item cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from embeddings_cache.networks import prepare_item, read_items
    >>> (item,) = read_items(np.zeros((1, 8, 6), np.uint8), "image")
    >>> prepare_item(item, lambda image: image.size)
    (6, 8)
    """
    prepared = attempt(lambda: item.content()[0], prepare)
    if isinstance(prepared, PreprocessError):
        raise prepared.error
    return prepared.value if isinstance(prepared, Noted) else prepared


def content_keys(items: Sequence[Item], folder: Path) -> np.ndarray:
    """Return what identifies the content of each item.

    Parameters
    ----------
    items : sequence of Item
    folder : Path
        Where it is remembered which file has which content, so that files that have not
        changed are not read again.

    Returns
    -------
    ndarray of shape (n_items,), 32-byte void
        The SHA-256 of each item's content, whatever it is called.

    Raises
    ------
    UnreadableItemError
        If items cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from embeddings_cache.networks import content_keys, read_items
    >>> items = read_items(["a", "b", "a"], "text")
    >>> keys = content_keys(items, Path(tempfile.mkdtemp()))
    >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
    (True, False)
    """
    keys, bad = item_keys(
        items, auto_workers(len(items)), Progress(False), FileHashCache(folder)
    )
    if bad:
        raise UnreadableItemError(bad, len(items), cached=False)
    return keys
