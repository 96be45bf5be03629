"""Any torch.nn.Module as a backbone, if it and its preprocessing can be described."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from embeddings_cache._memory import is_out_of_memory
from embeddings_cache.backbones._base import Backbone, BackboneSpec
from embeddings_cache.backbones._building import library_versions
from embeddings_cache.backbones._declared import IDENTITY
from embeddings_cache.backbones._describe import describe_network
from embeddings_cache.backbones._output import layer_output, pool
from embeddings_cache.backbones._preprocess import crop_fraction, overrides
from embeddings_cache.backbones._transforms import describe_transform
from embeddings_cache.backbones._weights import load_strictly, read_weights
from embeddings_cache.items._images import decoder_description

_LIBRARIES = ("torch", "torchvision")


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
    prepare = _prepare(spec)
    inner = None if spec.layer is None else layer_output(spec, network)
    return Backbone(
        network=network,
        modality=spec.modality,
        prepare=prepare,
        collate=_collate,
        forward=lambda batch: pool(spec, (inner or network)(batch)),
        description=lambda: _describe(spec, network, prepare),
        own_prepare=prepare is spec.preprocess,
    )


def _describe(
    spec: BackboneSpec, network: nn.Module, prepare: Callable[[Any], Any]
) -> dict[str, Any]:
    described = describe_network(network)
    preprocess: dict[str, Any] = {}
    if spec.modality == "image":
        preprocess["image"] = decoder_description()
    preprocess["callable"] = describe_transform(prepare)
    return spec.describe(
        **described
        | {"libraries": described["libraries"] | library_versions(*_LIBRARIES)},
        preprocess=preprocess,
    )


def _collate(prepared: list[Any]) -> torch.Tensor:
    try:
        return torch.stack([torch.as_tensor(value) for value in prepared])
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"preprocess must return one tensor of one size for every item: {error}"
        ) from error


def _prepare(spec: BackboneSpec) -> Callable[[Any], Any]:
    if isinstance(spec.preprocess, dict) and spec.modality == "image":
        transform: Callable[[Any], Any] = _own_transform(spec)
        return transform
    if not callable(spec.preprocess):
        raise ValueError(
            f"preprocess={spec.preprocess!r}: a torch.nn.Module has no reference "
            "preprocessing. Give a callable from an RGB PIL image (or a text) to a "
            f"tensor, with a {IDENTITY} attribute, or a dict with at least size"
        )
    prepare: Callable[[Any], Any] = spec.preprocess
    return prepare


def _own_transform(spec: BackboneSpec) -> Any:
    """Build resize, centre crop and normalisation from a dict with at least size."""
    from torchvision import transforms

    settings = overrides(spec)
    if "size" not in settings:
        raise ValueError(
            f"preprocess={spec.preprocess!r}: for a torch.nn.Module the dict must have "
            "size, in pixels"
        )
    height, width = settings["size"]
    fraction = crop_fraction(spec, settings.get("crop", 1.0))
    mode = transforms.InterpolationMode(settings.get("interpolation", "bicubic"))
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
                settings.get("mean", (0.0, 0.0, 0.0)),
                settings.get("std", (1.0, 1.0, 1.0)),
            ),
        ]
    )
