"""What whole networks share with the extractor of embeddings, all in one place.

The two packages do not import each other; arrays are what passes between them. A
network that is fine-tuned is the exception: its items have to be read, and prepared for
its backbone, exactly as the extractor does. This module alone knows of it.
"""

from embeddings_cache import (
    EmbeddingExtractor,
    UndescribableError,
    UnreadableItemError,
)
from embeddings_cache._errors import ItemError, PreprocessError
from embeddings_cache._memory import is_out_of_memory
from embeddings_cache._parallel import auto_workers, ordered_map
from embeddings_cache._parameters import check_parameters
from embeddings_cache._progress import Progress
from embeddings_cache._turns import Turns
from embeddings_cache.backbones import build_backbone
from embeddings_cache.backbones._base import (
    Backbone,
    BackboneSpec,
    layer_output,
    pool,
)
from embeddings_cache.backbones._copies import own_copy
from embeddings_cache.backbones._describe import Describer, describe_network
from embeddings_cache.backbones._randomness import OwnGenerator
from embeddings_cache.backbones._transforms import describe_transform
from embeddings_cache.backbones._weights import load_strictly, read_weights
from embeddings_cache.backbones.sentence_transformers._network import quiet_files
from embeddings_cache.compute._device import resolve_precision, to_device
from embeddings_cache.items._item import Item, why_no_file
from embeddings_cache.items._keys import item_keys
from embeddings_cache.items._preparation import Noted, attempt
from embeddings_cache.items._readers import read_items
from embeddings_cache.store._file_hashes import FileMemo
from embeddings_cache.store._io import make_folder

__all__ = [
    "Backbone",
    "BackboneSpec",
    "Describer",
    "EmbeddingExtractor",
    "FileMemo",
    "Item",
    "ItemError",
    "Noted",
    "OwnGenerator",
    "PreprocessError",
    "Progress",
    "Turns",
    "UndescribableError",
    "UnreadableItemError",
    "attempt",
    "auto_workers",
    "build_backbone",
    "check_parameters",
    "describe_network",
    "describe_transform",
    "is_out_of_memory",
    "item_keys",
    "layer_output",
    "load_strictly",
    "make_folder",
    "ordered_map",
    "own_copy",
    "pool",
    "quiet_files",
    "read_items",
    "read_weights",
    "resolve_precision",
    "to_device",
    "why_no_file",
]
