"""The networks that can be used, by prefix; each library loads when it is asked for.

Adding a library is one module with ``build(spec) -> Backbone`` and one row in
`_FAMILIES`.
"""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from embeddings_cache._errors import UnknownBackboneError

# Names and modalities are checked without torch.
if TYPE_CHECKING:
    import torch

    from embeddings_cache.backbones._base import Backbone

__all__ = ["build_backbone", "resolve_modality"]


class Family(NamedTuple):
    """A library: its module here, what its networks take, an example for messages."""

    module: str
    modalities: tuple[str, ...]
    example: str


_FAMILIES = {
    "timm": Family("_timm", ("image",), "timm:resnet50"),
    "open_clip": Family(
        "_open_clip", ("image", "text"), "open_clip:ViT-H-14/laion2b_s32b_b79k"
    ),
    "sentence-transformers": Family(
        "_sentence_transformers", ("text",), "sentence-transformers:all-MiniLM-L6-v2"
    ),
    "torchvision": Family("_torchvision", ("image",), "torchvision:resnet50"),
}


def split_name(backbone: str) -> tuple[str, str]:
    """Split ``"<library>:<name>"``, and refuse libraries that are not known."""
    prefix, colon, name = backbone.partition(":")
    if prefix in _FAMILIES and colon and name:
        return prefix, name
    near = difflib.get_close_matches(prefix.lower(), _FAMILIES, n=2, cutoff=0.4)
    examples = [f"{_FAMILIES[other].example!r}" for other in near or _FAMILIES]
    raise UnknownBackboneError(
        f"backbone={backbone!r} must be '<library>:<name>' with a library out of "
        f"{', '.join(_FAMILIES)}, or a torch.nn.Module. "
        f"Did you mean something like {' or '.join(examples)}?"
    )


def resolve_modality(backbone: "str | torch.nn.Module", modality: str) -> str:
    """Return image or text: what is asked for, if the backbone can take it.

    "auto" is text for sentence encoders, else image.
    """
    known: tuple[str, ...] = ("image", "text")
    if isinstance(backbone, str):
        known = _FAMILIES[split_name(backbone)[0]].modalities
    if modality == "auto":
        return known[0]
    if modality not in known:
        raise ValueError(
            f"modality={modality!r}: {backbone} takes {known[0]}s only. Texts go to "
            "'sentence-transformers:...', images to 'timm:...' or 'torchvision:...', "
            "and 'open_clip:...' takes either"
        )
    return modality


def build_backbone(backbone: "str | torch.nn.Module", **settings: Any) -> "Backbone":
    """Build a network with its preprocessing and the description of both.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        ``"<library>:<name>"`` or a network.
    **settings
        The other fields of `BackboneSpec`.
    """
    from embeddings_cache.backbones._base import BackboneSpec

    if isinstance(backbone, str):
        prefix, name = split_name(backbone)
        module = _FAMILIES[prefix].module
        spec = BackboneSpec(prefix, name, **settings)
    else:
        module = "_module"
        spec = BackboneSpec("torch", type(backbone).__name__, **settings)
        spec = spec.with_network(backbone)
    built: Backbone = import_module(f"embeddings_cache.backbones.{module}").build(spec)
    return built
