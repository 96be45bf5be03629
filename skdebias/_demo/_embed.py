"""Embedding the images, with the shipped network or with one the user names."""

import json
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from skdebias._demo._settings import DemoInputError, DemoSettings

ASSETS = files("skdebias") / "assets"


@dataclass(frozen=True)
class Embeddings:
    """Embeddings (n_samples, n_features) and the facts of the run that made them."""

    X: Any
    backbone: str
    n_found: int
    n_computed: int
    seconds: float


def shipped_backbone() -> dict[str, Any]:
    """Return the description of the network that comes with skdebias."""
    text = (ASSETS / "demo_backbone.json").read_text(encoding="utf-8")
    return json.loads(text)


def describe_backbone(settings: DemoSettings) -> str:
    """Return a sentence on what embeds the images, and where its weights are from."""
    if settings.backbone is None:
        shipped = shipped_backbone()
        text = (
            f"{shipped['backbone']} with the weights that come with skdebias, trained "
            f"by {shipped['trained_by']} on {shipped['trained_on']}; it has never "
            "seen handwriting."
        )
        if settings.images is not None:
            text += (
                " It is made for the digits: for photographs give a network that "
                "knows them, such as --backbone timm:resnet50."
            )
        return text
    if settings.weights is not None:
        return f"{settings.backbone} with the weights of {settings.weights}."
    if settings.no_pretrained:
        return f"{settings.backbone} with seeded random weights (not pretrained)."
    return f"{settings.backbone} with its pretrained weights."


def embed(settings: DemoSettings, items) -> Embeddings:
    """Embed the items, or take them from the cache.

    Parameters
    ----------
    settings : DemoSettings
    items : ndarray of uint8 (n_samples, height, width, 3), or list of path

    Returns
    -------
    Embeddings

    Raises
    ------
    DemoInputError
        If the backbone is unknown, its library is missing, its weights do not fit,
        or an image cannot be read.
    """
    try:
        # The demo is the one place that uses both packages.
        import embeddings_cache as cache
    except ImportError as error:
        raise DemoInputError(f"embeddings_cache cannot be imported: {error}") from error
    wrong_input = (
        cache.MissingExtraError,
        cache.StoreError,
        cache.UnknownBackboneError,
        cache.UnreadableItemError,
        cache.WeightsError,
        OSError,
    )
    start = time.perf_counter()
    try:
        with as_file(ASSETS / "demo_backbone.safetensors") as shipped_weights:
            extractor = cache.EmbeddingExtractor(
                **_choose(settings, shipped_weights),
                cache_dir=settings.cache_folder,
                progress=not settings.quiet,
            )
            X = extractor.transform(items)
    except wrong_input as error:
        raise DemoInputError(str(error)) from error
    run = extractor.last_run_
    seconds = time.perf_counter() - start
    backbone = describe_backbone(settings)
    return Embeddings(X, backbone, run.n_found, run.n_computed, seconds)


def _choose(settings: DemoSettings, shipped_weights) -> dict[str, Any]:
    """Return the extractor's arguments that say which network it is."""
    if settings.backbone is None:
        shipped = shipped_backbone()
        return {
            "backbone": shipped["backbone"],
            "weights": str(shipped_weights),
            "preprocess": shipped["preprocess"],
        }
    return {
        "backbone": settings.backbone,
        "weights": None if settings.weights is None else str(settings.weights),
        "pretrained": not settings.no_pretrained,
    }
