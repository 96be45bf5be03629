"""Embeddings of frozen networks, computed once and kept by content.

The public names load on first use: ``import embeddings_cache`` itself imports
neither torch nor scikit-learn, so that the command line answers at once.

Examples
--------
>>> from embeddings_cache import EmbeddingStore
>>> store = EmbeddingStore("a-folder-that-is-not-there")
>>> store.extractors()
[]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddings_cache._errors import (
        BlankTextWarning,
        CanaryError,
        DamagedShardWarning,
        EmbeddingValueError,
        MissingExtraError,
        ShallowImageWarning,
        StoreError,
        UndescribableError,
        UnknownBackboneError,
        UnreadableItemError,
        WeightsError,
    )
    from embeddings_cache._extractor import EmbeddingExtractor
    from embeddings_cache._settings import RunReport
    from embeddings_cache.items._folders import LeftOutWarning
    from embeddings_cache.store._store import EmbeddingStore

_HOME = {
    "BlankTextWarning": "_errors",
    "CanaryError": "_errors",
    "DamagedShardWarning": "_errors",
    "EmbeddingExtractor": "_extractor",
    "EmbeddingStore": "store._store",
    "EmbeddingValueError": "_errors",
    "LeftOutWarning": "items._folders",
    "MissingExtraError": "_errors",
    "RunReport": "_settings",
    "ShallowImageWarning": "_errors",
    "StoreError": "_errors",
    "UndescribableError": "_errors",
    "UnknownBackboneError": "_errors",
    "UnreadableItemError": "_errors",
    "WeightsError": "_errors",
}

__all__ = [
    "BlankTextWarning",
    "CanaryError",
    "DamagedShardWarning",
    "EmbeddingExtractor",
    "EmbeddingStore",
    "EmbeddingValueError",
    "LeftOutWarning",
    "MissingExtraError",
    "RunReport",
    "ShallowImageWarning",
    "StoreError",
    "UndescribableError",
    "UnknownBackboneError",
    "UnreadableItemError",
    "WeightsError",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its private module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'embeddings_cache' has no attribute {name!r}")
    value = getattr(import_module(f"embeddings_cache.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
