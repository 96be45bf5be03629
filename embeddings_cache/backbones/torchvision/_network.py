"""Image networks of torchvision, with the transforms of their weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from embeddings_cache.backbones._base import Backbone, BackboneSpec
from embeddings_cache.backbones._building import (
    construct,
    describe_weights,
    library_versions,
    prefers_channels_last,
    random_note,
    refuse_kwargs,
    settings_note,
    unknown_name,
)
from embeddings_cache.backbones._output import check_pooling, layer_output, pool
from embeddings_cache.backbones._preprocess import crop_fraction, overrides, square
from embeddings_cache.backbones._weights import load_strictly, read_weights
from embeddings_cache.backbones.torchvision import FAMILY
from embeddings_cache.items._images import decoder_description

_HEADS = ("fc", "head", "heads", "classifier")
_NOT_HERE = {
    "weights": "name the weights, as in 'torchvision:resnet50/IMAGENET1K_V1', or give "
    "weights= to the extractor",
    "pretrained": "give pretrained= to the extractor",
}
# These two scale their input by themselves with published weights only.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")
# What the entries of one architecture can disagree on.
_SETTINGS = ("crop_size", "resize_size", "mean", "std", "interpolation")


def build(spec: BackboneSpec) -> Backbone:
    """Build ``torchvision:<name>[/<weights tag>]`` without its classifier."""
    models = FAMILY.require("torchvision.models")
    name, _, tag = spec.name.partition("/")
    names = models.list_models(module=models)
    if name not in names:
        raise unknown_name(spec, names)
    published = _published(spec, models, name, tag)
    refuse_kwargs(spec, _NOT_HERE)
    kwargs = dict(spec.model_kwargs)
    settings: dict[str, Any] = {}
    if spec.pretrained and spec.weights is None:
        kwargs["weights"] = published
    elif tag or spec.weights is not None:
        settings = _settings(name, tag, published)
    network = construct(spec, lambda: models.get_model(name, **{**settings, **kwargs}))
    head = _drop_classifier(spec, network)
    if spec.weights is not None:
        state = read_weights(spec.weights)
        load_strictly(network, state, spec.weights, spec.label, head=[head])
    transform = _transform(spec, published, getattr(network, "image_size", None))
    return Backbone(
        network=network,
        modality="image",
        prepare=transform,
        collate=torch.stack,
        forward=_forward(spec, network),
        description=spec.describe(
            libraries=library_versions(*FAMILY.distributions, "torch"),
            weights=describe_weights(spec, network),
            preprocess={
                "image": decoder_description(),
                "transform": repr(transform),
                **_described(network),
            },
        ),
        note=_note(spec, models, published),
        channels_last=prefers_channels_last(network),
    )


def _published(spec: BackboneSpec, models: Any, name: str, tag: str) -> Any:
    """Return the weights entry: it names the transforms, loaded or not."""
    entries = models.get_model_weights(name)
    if not tag:
        return entries.DEFAULT
    if tag not in entries.__members__:
        raise unknown_name(spec, [f"{name}/{entry}" for entry in entries.__members__])
    if tag == "IMAGENET1K_FEATURES" and spec.layer is None:
        raise ValueError(
            f"backbone='{spec.label}': these weights have no classifier, whose last "
            "layer but one is the embedding; give layer='features' or layer='avgpool'"
        )
    return entries[tag]


def _settings(name: str, tag: str, published: Any) -> dict[str, Any]:
    """Return what the library sets of a network that has these published weights.

    They are the same numbers in a file, so the file needs the same settings.
    """
    if name in _TRANSFORM_INPUT:
        return {"transform_input": True}
    if tag and name.startswith("vit_"):
        return {"image_size": published.transforms().crop_size[0]}
    return {}


def _described(network: Any) -> dict[str, Any]:
    """Describe preprocessing that the network does itself."""
    return {"transform_input": True} if getattr(network, "transform_input", 0) else {}


def _note(spec: BackboneSpec, models: Any, published: Any) -> str | None:
    """Say that weights are random, or that a file gets the default entry's settings."""
    name, _, tag = spec.name.partition("/")
    if spec.weights is None or tag:
        return random_note(spec)
    entries = models.get_model_weights(name)
    return settings_note(
        spec,
        _preset(published),
        {f"{name}/{entry.name}": _preset(entry) for entry in entries},
    )


def _preset(entry: Any) -> dict[str, Any]:
    transforms = entry.transforms()
    return {name: getattr(transforms, name) for name in _SETTINGS}


def _drop_classifier(spec: BackboneSpec, network: nn.Module) -> str:
    """Replace the last linear layer by nothing; return the name of its tensors."""
    for name in _HEADS:
        head = getattr(network, name, None)
        is_heads = name == "heads" and head is not None
        if isinstance(head, nn.Linear) or is_heads:
            setattr(network, name, nn.Identity())
            return name
        if isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear):
            head[-1] = nn.Identity()
            return f"{name}.{len(head) - 1}"
    raise ValueError(
        f"backbone='{spec.label}' has no linear classifier to leave out; pass it as "
        "a torch.nn.Module that returns the embedding"
    )


def _transform(spec: BackboneSpec, published: Any, image_size: int | None) -> Any:
    """Return the transforms of the weights, with the user's overrides.

    A network that takes one size only (a ViT) says which, and it goes before that of
    the published weights, which may have been tuned at another.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    reference = published.transforms()
    changes = overrides(spec)
    if image_size not in (None, reference.crop_size[0]):
        changes = {"size": (image_size, image_size), **changes}
    if not changes:
        return reference
    crop_size, resize_size = reference.crop_size[0], reference.resize_size[0]
    fraction = crop_size / resize_size
    if "crop" in changes:
        fraction = crop_fraction(spec, changes["crop"])
    if "size" in changes:
        crop_size = square(spec, changes["size"])
    interpolation = reference.interpolation
    if "interpolation" in changes:
        interpolation = InterpolationMode(changes["interpolation"])
    return ImageClassification(
        crop_size=crop_size,
        resize_size=round(crop_size / fraction),
        mean=changes.get("mean", tuple(reference.mean)),
        std=changes.get("std", tuple(reference.std)),
        interpolation=interpolation,
        antialias=reference.antialias,
    )


def _forward(
    spec: BackboneSpec, network: nn.Module
) -> Callable[[torch.Tensor], torch.Tensor]:
    n_prefix = int(hasattr(network, "class_token"))
    if spec.layer is None and spec.pooling != "mean":
        check_pooling(spec, ["default", *(["cls", "mean"] if n_prefix else [])])
        return network
    if spec.layer is None:
        # The class token is a ViT's own output; the mean needs all its tokens.
        check_pooling(spec, ["default", *(["cls", "mean"] if n_prefix else [])])
        encoder = layer_output(
            BackboneSpec(spec.family, spec.name, layer="encoder"), network
        )
        return lambda batch: pool(spec, encoder(batch), n_prefix)
    inner = layer_output(spec, network)
    return lambda batch: pool(spec, inner(batch), n_prefix)
