"""Any torch.nn.Module as a backbone, if it and its preprocessing can be described."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from embeddings_cache._errors import UndescribableError
from embeddings_cache._fingerprint import jsonable, tensors_digest
from embeddings_cache._images import decoder_description
from embeddings_cache.backbones._base import (
    Backbone,
    BackboneSpec,
    layer_output,
    library_versions,
    pool,
)
from embeddings_cache.backbones._preprocess import crop_fraction, overrides
from embeddings_cache.backbones._weights import load_strictly, read_weights

# Classes of these libraries are known by name and by the versions in the key.
_KNOWN = ("torch", "torchvision", "timm", "open_clip", "transformers")
_IDENTITY = "cache_description"


def build(spec: BackboneSpec) -> Backbone:
    """Wrap a network; nothing of it is changed but the device it is on."""
    network = spec.network
    if network is None:
        raise TypeError("backbone must be a string or a torch.nn.Module, got None")
    if spec.model_kwargs:
        raise ValueError(
            f"model_kwargs={spec.model_kwargs!r}: a torch.nn.Module is built already; "
            "leave model_kwargs=None"
        )
    if spec.weights is not None:
        state = read_weights(spec.weights)
        load_strictly(network, state, spec.weights, spec.label)
    prepare, described = _prepare(spec)
    inner = None if spec.layer is None else layer_output(spec, network)
    return Backbone(
        network=network,
        modality=spec.modality,
        prepare=prepare,
        collate=_collate,
        forward=lambda batch: pool(spec, (inner or network)(batch)),
        description=spec.describe(
            libraries=library_versions("torch", "torchvision"),
            weights={"tensors": tensors_digest(_all_tensors(network))},
            network=_describe_network(network),
            preprocess=described,
        ),
        own_prepare=prepare is spec.preprocess,
    )


def _all_tensors(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and all buffers, those outside the state dict too."""
    return [*network.named_parameters(), *network.named_buffers()]


def _collate(prepared: list[Any]) -> torch.Tensor:
    try:
        return torch.stack([torch.as_tensor(value) for value in prepared])
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"preprocess must return one tensor of one size for every item: {error}"
        ) from error


def _describe_network(network: nn.Module) -> Any:
    """Describe a network's code and settings, or use the identity it carries."""
    given = getattr(network, _IDENTITY, None)
    if given is not None:
        return {"declared": jsonable(given)}
    classes: dict[str, str] = {}
    settings = {}
    for name, module in network.named_modules():
        kind = type(module)
        label = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__.split(".")[0] not in _KNOWN:
            classes[label] = _source_digest(kind)
        simple = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_")
            and key != "training"
            and isinstance(value, bool | int | float | str | tuple | type(None))
        }
        settings[name] = {"class": label, **{k: repr(v) for k, v in simple.items()}}
    return {"source": classes, "modules": settings, "repr": repr(network)}


def _source_digest(kind: type) -> str:
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()
    except (OSError, TypeError) as error:
        raise UndescribableError(
            f"backbone: the code of {kind.__qualname__} cannot be read, so its "
            "embeddings cannot be told from another network's. Put the class into a "
            f"module, or set {_IDENTITY} on the network to a text that changes "
            "whenever its numbers do"
        ) from error


def _prepare(spec: BackboneSpec) -> tuple[Callable[[Any], Any], Any]:
    """Return the preprocessing and its description."""
    image = {"image": decoder_description()} if spec.modality == "image" else {}
    if isinstance(spec.preprocess, dict) and spec.modality == "image":
        transform = _own_transform(spec)
        return transform, {**image, "transform": repr(transform)}
    if not callable(spec.preprocess):
        raise ValueError(
            f"preprocess={spec.preprocess!r}: a torch.nn.Module has no reference "
            "preprocessing. Give a callable from an RGB PIL image (or a text) to a "
            f"tensor, with a {_IDENTITY} attribute, or a dict with at least size"
        )
    return spec.preprocess, {**image, "callable": describe_callable(spec.preprocess)}


def _own_transform(spec: BackboneSpec) -> Any:
    """Build resize, centre crop and normalisation from a dict with at least size."""
    from torchvision import transforms

    given = overrides(spec)
    if "size" not in given:
        raise ValueError(
            f"preprocess={spec.preprocess!r}: for a torch.nn.Module the dict must have "
            "size, in pixels"
        )
    height, width = given["size"]
    fraction = crop_fraction(spec, given.get("crop", 1.0))
    mode = transforms.InterpolationMode(given.get("interpolation", "bicubic"))
    shorter = round(min(height, width) / fraction)
    target: Any = (
        shorter
        if height == width
        else (
            round(height / fraction),
            round(width / fraction),
        )
    )
    return transforms.Compose(
        [
            transforms.Resize(target, interpolation=mode, antialias=True),
            transforms.CenterCrop((height, width)),
            transforms.ToTensor(),
            transforms.Normalize(
                given.get("mean", (0.0, 0.0, 0.0)), given.get("std", (1.0, 1.0, 1.0))
            ),
        ]
    )


def describe_callable(function: Any) -> Any:
    """Describe a preprocessing callable by content, or refuse.

    A ``cache_description`` attribute is taken at its word. Transforms of torchvision
    and timm describe themselves. Anything else is refused: a name says nothing of
    what a function does, and stale embeddings would be returned when it changes.
    """
    given = getattr(function, _IDENTITY, None)
    if given is not None:
        return {"declared": jsonable(given)}
    kind = type(function)
    parts = getattr(function, "transforms", None)
    known = kind.__module__.split(".")[0] in ("torchvision", "timm")
    if known and isinstance(parts, list | tuple):
        return [kind.__qualname__, *(describe_callable(part) for part in parts)]
    # Lambdas hide code, an address changes with every run, chance changes numbers.
    opaque = kind.__name__.startswith(("Lambda", "Random")) or " at 0x" in repr(
        function
    )
    if known and not opaque:
        return {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "repr": repr(function),
            **library_versions(kind.__module__.split(".")[0]),
        }
    name = getattr(function, "__qualname__", None) or kind.__qualname__
    raise UndescribableError(
        f"preprocess: {name} has no description, so embeddings made with it cannot be "
        "told from others and are not cached. Set an attribute that changes whenever "
        f"its numbers do: preprocess.{_IDENTITY} = 'resize 64, scale to [0, 1], v1'"
    )
