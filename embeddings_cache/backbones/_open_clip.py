"""Image and text towers of open_clip; the other tower is never built or is dropped."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from embeddings_cache._errors import UnknownBackboneError
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


def build(spec: BackboneSpec) -> Backbone:
    """Build one tower of ``open_clip:<architecture>[/<pretrained tag>]``."""
    open_clip = require("open_clip", "open_clip")
    architecture, _, tag = spec.name.partition("/")
    _check_name(spec, open_clip, architecture, tag)
    if spec.pretrained and spec.weights is None:
        network, config = _published_tower(spec, open_clip, architecture, tag)
    else:
        network, config = _random_tower(spec, open_clip, architecture)
        if spec.weights is not None:
            state = _tower_state(spec, read_weights(spec.weights))
            load_strictly(network, state, spec.weights, spec.label)
    common = {
        "libraries": library_versions("open_clip_torch", "torchvision", "torch"),
        "weights": describe_weights(spec, network),
    }
    if spec.modality == "text":
        return _text(spec, open_clip, network, architecture, common)
    transform = _transform(spec, open_clip, config)
    return Backbone(
        network=network,
        modality="image",
        prepare=transform,
        collate=torch.stack,
        forward=_image_forward(spec, network),
        description=spec.describe(
            **common,
            preprocess={"image": decoder_description(), "transform": repr(transform)},
        ),
        note=random_note(spec),
        channels_last=prefers_channels_last(network),
    )


def _check_name(
    spec: BackboneSpec, open_clip: Any, architecture: str, tag: str
) -> None:
    names = open_clip.list_models()
    if architecture not in names:
        raise unknown_name(dataclasses.replace(spec, name=architecture), names)
    if not spec.pretrained or spec.weights is not None:
        return
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        known = ", ".join(tags) or "none"
        raise UnknownBackboneError(
            f"backbone='{spec.label}': name the pretrained weights, as in "
            f"'open_clip:{architecture}/{tags[0] if tags else 'TAG'}'. "
            f"Tags of {architecture}: {known}"
        )


class _TextTower(nn.Module):
    """The text half of a CLIP model that keeps it in the model itself."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.clip.encode_text(tokens)
        return features


def _tower(spec: BackboneSpec, clip: Any) -> nn.Module:
    """Keep the tower that was asked for and let the other go."""
    if spec.modality == "image":
        visual: nn.Module = clip.visual
        return visual
    clip.visual = nn.Identity()
    return _TextTower(clip)


def _published_tower(
    spec: BackboneSpec, open_clip: Any, architecture: str, tag: str
) -> tuple[nn.Module, Any]:
    clip = construct(
        spec,
        lambda: open_clip.create_model_and_transforms(
            architecture, pretrained=tag, **spec.model_kwargs
        )[0],
    )
    config = open_clip.transform.PreprocessCfg(**clip.visual.preprocess_cfg)
    return _tower(spec, clip), config


def _random_tower(
    spec: BackboneSpec, open_clip: Any, architecture: str
) -> tuple[nn.Module, Any]:
    """Build a tower without published weights; a ViT-H text tower is 1.4 GB saved."""
    config = open_clip.get_model_config(architecture)
    vision_tower = getattr(open_clip.model, "_build_vision_tower", None)
    size = config["vision_cfg"].get("image_size", 224)
    if spec.modality == "image" and vision_tower and not spec.model_kwargs:
        vision = {**config["vision_cfg"], "timm_model_pretrained": False}
        network = construct(
            spec,
            lambda: vision_tower(
                config["embed_dim"], vision, config.get("quick_gelu", False)
            ),
        )
    else:
        clip = construct(
            spec,
            lambda: open_clip.create_model(
                architecture,
                pretrained=None,
                pretrained_text=False,
                **spec.model_kwargs,
            ),
        )
        network = _tower(spec, clip)
    return network, open_clip.transform.PreprocessCfg(size=size)


def _tower_state(
    spec: BackboneSpec, state: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of one tower out of a whole model's or the tower's own."""
    prefix = "visual."
    if spec.modality == "text":
        return {
            f"clip.{name}": tensor
            for name, tensor in state.items()
            if not name.startswith(prefix)
        }
    if not any(name.startswith(prefix) for name in state):
        return state
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _transform(spec: BackboneSpec, open_clip: Any, config: Any) -> Any:
    """Return the tower's reference transform, with the user's overrides."""
    changes: dict[str, Any] = {}
    for name, value in overrides(spec).items():
        if name == "size":
            changes["size"] = square(spec, value)
        elif name == "crop" and isinstance(value, str):
            changes["resize_mode"] = value
        elif name == "crop":
            if crop_fraction(spec, value) != 1:
                raise ValueError(
                    f"preprocess['crop']={value!r}: open_clip resizes the shorter side "
                    "to the size itself; give 1.0, 'shortest', 'longest' or 'squash'"
                )
        else:
            changes[name] = value
    if changes.get("resize_mode", "squash") not in ("shortest", "longest", "squash"):
        raise ValueError(
            f"preprocess['crop']={changes['resize_mode']!r} must be 1.0, 'shortest', "
            "'longest' or 'squash'"
        )
    if changes.get("interpolation", "bicubic") not in ("bicubic", "bilinear"):
        raise ValueError(
            f"preprocess['interpolation']={changes['interpolation']!r}: open_clip "
            "takes bicubic or bilinear"
        )
    config = dataclasses.replace(config, **changes)
    return open_clip.transform.image_transform_v2(config, is_train=False)


def _image_forward(
    spec: BackboneSpec, network: Any
) -> Callable[[torch.Tensor], torch.Tensor]:
    if spec.layer is None:
        check_pooling(spec, ["default"])
        return network
    if isinstance(spec.layer, str):
        inner = layer_output(spec, network)
        n_prefix = int(_has_class_token(network))
        return lambda batch: pool(spec, inner(batch), n_prefix)
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"layer={spec.layer!r}: {spec.label} has no numbered blocks")

    tokens = {"output_extra_tokens": True} if _has_class_token(network) else {}

    def forward(batch: torch.Tensor) -> torch.Tensor:
        try:
            found = network.forward_intermediates(
                batch, indices=[spec.layer], intermediates_only=True, **tokens
            )
        except (AssertionError, IndexError) as error:
            raise ValueError(
                f"layer={spec.layer!r} is not a block of {spec.label}: {error}"
            ) from error
        prefix = found.get("image_intermediates_prefix")
        if prefix and spec.pooling != "mean":
            first: torch.Tensor = prefix[0][:, 0]
            return first
        return pool(spec, found["image_intermediates"][0])

    return forward


def _has_class_token(network: nn.Module) -> bool:
    return hasattr(network, "class_embedding")


def _text(
    spec: BackboneSpec,
    open_clip: Any,
    network: nn.Module,
    architecture: str,
    common: dict[str, Any],
) -> Backbone:
    if spec.layer is not None:
        raise ValueError(
            f"layer={spec.layer!r}: the text tower of {spec.label} gives its projected "
            "embedding only; leave layer=None"
        )
    check_pooling(spec, ["default"])
    overrides_given = overrides(spec)
    if overrides_given:
        raise ValueError(
            f"preprocess={spec.preprocess!r}: a text tower has its tokenizer only; "
            "leave preprocess=None"
        )
    tokenizer = open_clip.get_tokenizer(architecture)
    return Backbone(
        network=network,
        modality="text",
        prepare=str,
        collate=lambda texts: tokenizer(texts),
        forward=network,
        description=spec.describe(
            **common,
            preprocess={
                "tokenizer": type(tokenizer).__name__,
                "context_length": getattr(tokenizer, "context_length", None),
                "of": architecture,
            },
        ),
        note=random_note(spec),
    )
