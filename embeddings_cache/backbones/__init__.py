"""The networks that can be used, by prefix; each library loads when it is asked for."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from embeddings_cache._errors import UnknownBackboneError
from embeddings_cache.backbones._registry import Family, families

# Names and modalities are checked without torch.
if TYPE_CHECKING:
    import torch

    from embeddings_cache.backbones._base import Backbone

__all__ = ["build_backbone", "family_of", "resolve_modality", "split_name"]


def split_name(backbone: str) -> tuple[str, str]:
    """Split ``"<library>:<name>"``, and refuse libraries that are not known.

    Parameters
    ----------
    backbone : str

    Returns
    -------
    prefix, name : str

    Raises
    ------
    UnknownBackboneError
    """
    known = families()
    prefix, colon, name = backbone.partition(":")
    if prefix in known and colon and name:
        return prefix, name
    near = difflib.get_close_matches(prefix.lower(), known, n=2, cutoff=0.4)
    examples = [f"{known[other].example!r}" for other in near or known]
    raise UnknownBackboneError(
        f"backbone={backbone!r} must be '<library>:<name>' with a library out of "
        f"{', '.join(known)}, or a torch.nn.Module. "
        f"Did you mean something like {' or '.join(examples)}?"
    )


def family_of(backbone: str) -> Family:
    """Return what is known of the library that a backbone's name begins with.

    Parameters
    ----------
    backbone : str
        ``"<library>:<name>"``.

    Returns
    -------
    Family

    Raises
    ------
    UnknownBackboneError
    """
    return families()[split_name(backbone)[0]]


def resolve_modality(backbone: "str | torch.nn.Module", modality: str) -> str:
    """Return image or text: what is asked for, if the backbone can take it.

    "auto" is text for sentence encoders, else image.
    """
    known: tuple[str, ...] = ("image", "text")
    if isinstance(backbone, str):
        known = family_of(backbone).modalities
    if modality == "auto":
        return known[0]
    if modality not in known:
        texts, images, both = (
            _prefixes(*kinds) for kinds in (("text",), ("image",), ("image", "text"))
        )
        raise ValueError(
            f"modality={modality!r}: {backbone} takes {known[0]}s only. Texts go to "
            f"{texts}, images to {images}, and {both} takes either"
        )
    return modality


def _prefixes(*modalities: str) -> str:
    """Name the libraries that take exactly these."""
    known = families().values()
    names = [f"'{f.prefix}:...'" for f in known if f.modalities == modalities]
    return " or ".join(names)


def build_backbone(backbone: "str | torch.nn.Module", **settings: Any) -> "Backbone":
    """Build a network with its preprocessing and the description of both.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        ``"<library>:<name>"`` or a network.
    **settings
        The other fields of `BackboneSpec`.

    Returns
    -------
    Backbone

    Raises
    ------
    UnknownBackboneError
        If the library, or its network, is not known.
    MissingExtraError
        If the library is not installed.

    Examples
    --------
    >>> from embeddings_cache.networks import build_backbone
    >>> built = build_backbone("timm:test_vit.r160_in1k", pretrained=False)
    >>> type(built.network).__name__, built.modality
    ('VisionTransformer', 'image')
    """
    from embeddings_cache.backbones._base import BackboneSpec

    if isinstance(backbone, str):
        prefix, name = split_name(backbone)
        builder = family_of(backbone).builder
        spec = BackboneSpec(prefix, name, **settings)
    else:
        builder = "embeddings_cache.backbones._module"
        spec = BackboneSpec("torch", type(backbone).__name__, **settings)
        spec = spec.with_network(backbone)
    built: Backbone = import_module(builder).build(spec)
    return built
