"""What whole networks share with the extractor of embeddings, all in one place.

The two packages do not import each other; arrays are what passes between them. A
network that is fine-tuned is the exception: its items have to be read, and prepared for
its backbone, exactly as the extractor does. This module alone knows of it, and takes
public names only.
"""

from embeddings_cache import (
    EmbeddingExtractor,
    UndescribableError,
    UnreadableItemError,
)
from embeddings_cache.networks import (
    Backbone,
    BackboneSpec,
    Item,
    ItemError,
    SeededGenerator,
    Turns,
    auto_workers,
    build_backbone,
    check_files,
    content_keys,
    copy_network,
    describe_code,
    describe_network,
    describe_transform,
    is_out_of_memory,
    layer_output,
    load_weights,
    network_settings,
    ordered_map,
    pool,
    prepare_item,
    quiet_files,
    read_items,
    resolve_precision,
    saves_folders,
    to_device,
)

__all__ = [
    "Backbone",
    "BackboneSpec",
    "EmbeddingExtractor",
    "Item",
    "ItemError",
    "SeededGenerator",
    "Turns",
    "UndescribableError",
    "UnreadableItemError",
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
