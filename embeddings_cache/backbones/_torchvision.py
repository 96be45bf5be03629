"""Image networks of torchvision, with the transforms of their weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from embeddings_cache._images import decoder_description
from embeddings_cache.backbones._base import (
    Backbone,
    BackboneSpec,
    check_pooling,
    construct,
    describe_weights,
    layer_output,
    library_versions,
    pool,
    prefers_channels_last,
    random_note,
    require,
    unknown_name,
)
from embeddings_cache.backbones._preprocess import crop_fraction, overrides, square
from embeddings_cache.backbones._weights import load_strictly, read_weights

_HEADS = ("fc", "head", "heads", "classifier")


def build(spec: BackboneSpec) -> Backbone:
    """Build ``torchvision:<name>[/<weights tag>]`` without its classifier."""
    models = require("torchvision.models", "torchvision")
    name, _, tag = spec.name.partition("/")
    names = models.list_models(module=models)
    if name not in names:
        raise unknown_name(spec, names)
    published = _published(spec, models, name, tag)
    kwargs = dict(spec.model_kwargs)
    if spec.pretrained and spec.weights is None:
        kwargs["weights"] = published
    elif tag and name.startswith("vit_"):
        # Published weights bring their image size; without them it must be said.
        kwargs.setdefault("image_size", published.transforms().crop_size[0])
    network = construct(spec, lambda: models.get_model(name, **kwargs))
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
            libraries=library_versions("torchvision", "torch"),
            weights=describe_weights(spec, network),
            preprocess={"image": decoder_description(), "transform": repr(transform)},
        ),
        note=random_note(spec),
        channels_last=prefers_channels_last(network),
    )


def _published(spec: BackboneSpec, models: Any, name: str, tag: str) -> Any:
    """Return the weights entry: it names the transforms, loaded or not."""
    entries = models.get_model_weights(name)
    if not tag:
        return entries.DEFAULT
    if tag not in entries.__members__:
        raise unknown_name(spec, [f"{name}/{entry}" for entry in entries.__members__])
    return entries[tag]


def _drop_classifier(spec: BackboneSpec, network: nn.Module) -> str:
    """Replace the last linear layer by nothing; return the name of its tensors."""
    for name in _HEADS:
        head = getattr(network, name, None)
        whole = name == "heads" and head is not None
        if isinstance(head, nn.Linear) or whole:
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
    given = overrides(spec)
    if image_size not in (None, reference.crop_size[0]):
        given = {"size": (image_size, image_size), **given}
    if not given:
        return reference
    crop_size, resize_size = reference.crop_size[0], reference.resize_size[0]
    fraction = crop_size / resize_size
    if "crop" in given:
        fraction = crop_fraction(spec, given["crop"])
    if "size" in given:
        crop_size = square(spec, given["size"])
    interpolation = reference.interpolation
    if "interpolation" in given:
        interpolation = InterpolationMode(given["interpolation"])
    return ImageClassification(
        crop_size=crop_size,
        resize_size=round(crop_size / fraction),
        mean=given.get("mean", tuple(reference.mean)),
        std=given.get("std", tuple(reference.std)),
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
