"""Image and text towers of open_clip; the other tower is never built or is dropped."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from embeddings_cache.backbones._base import Backbone, BackboneSpec, Cuts
from embeddings_cache.backbones._building import (
    construct,
    describe_weights,
    library_versions,
    prefers_channels_last,
    random_note,
)
from embeddings_cache.backbones._output import check_pooling, layer_output, pool
from embeddings_cache.backbones._preprocess import crop_fraction, overrides, square
from embeddings_cache.backbones._tokenizers import describe_tokenizer
from embeddings_cache.backbones._weights import load_strictly, read_weights
from embeddings_cache.backbones.open_clip import FAMILY
from embeddings_cache.backbones.open_clip._source import LOCAL, Source, resolve
from embeddings_cache.items._images import decoder_description

# How open_clip can shorten a text: these three draw random numbers.
_RANDOM_REDUCTIONS = ("simple", "random", "shuffle")


def build(spec: BackboneSpec) -> Backbone:
    """Build one tower of ``open_clip:<architecture>[/<pretrained tag>]``.

    ``open_clip:local-dir:<folder>`` has its configuration beside its weights.
    """
    open_clip = FAMILY.require("open_clip")
    source = resolve(spec, open_clip)
    tower = _tower(spec, open_clip, source)
    _load_weights(spec, source, tower.network)
    common: dict[str, Any] = {
        "libraries": library_versions(*FAMILY.distributions, "torch"),
        "weights": describe_weights(spec, tower.network),
        **_describe_source(open_clip, source),
    }
    if spec.modality == "text":
        return _text(spec, open_clip, tower, source, common)
    return _image(spec, open_clip, tower, common)


def _image(
    spec: BackboneSpec, open_clip: Any, tower: "_Tower", common: dict[str, Any]
) -> Backbone:
    transform = _transform(spec, open_clip, tower.config)
    preprocess = {"image": decoder_description(), "transform": repr(transform)}
    if tower.config.fill_color:
        preprocess["fill_color"] = tower.config.fill_color  # its repr leaves it out
    return Backbone(
        network=tower.network,
        modality="image",
        prepare=transform,
        collate=torch.stack,
        forward=_image_forward(spec, tower),
        description=_content(spec.describe(**common, preprocess=preprocess)),
        note=random_note(spec),
        channels_last=prefers_channels_last(tower.network),
    )


def _describe_source(open_clip: Any, source: Source) -> dict[str, Any]:
    """Describe what the name of the network leaves open."""
    if source.has_own_config:
        return {"config": open_clip.get_model_config(source.name)}
    return {"activation": "QuickGELU"} if source.quick_gelu else {}


def _content(described: dict[str, Any]) -> dict[str, Any]:
    """Leave the path of a folder out: its configuration and weights say it all."""
    if described["model"].startswith(LOCAL):
        described["model"] = "by content"
    return described


class _TextTower(nn.Module):
    """The text half of a CLIP model that keeps it in the model itself."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = _first(self.clip.encode_text(tokens))
        return features


class _Tower(NamedTuple):
    """One half of a model: the network, and what the model says around it.

    Attributes
    ----------
    network : torch.nn.Module
    config : open_clip.transform.PreprocessCfg
    normalized : bool
        Whether the model's `encode_image` gives vectors of length one (CoCa).
    context_length : int
    """

    network: nn.Module
    config: Any
    normalized: bool
    context_length: int


def _tower(spec: BackboneSpec, open_clip: Any, source: Source) -> _Tower:
    """Build the tower that is asked for; the other one is let go, or never built."""
    if spec.modality == "image" and _separable(spec, open_clip, source):
        return _vision_tower(spec, open_clip, source)
    weights: dict[str, Any] = {"pretrained_text": False}
    if _published(spec, source):
        weights = {"pretrained": source.tag or None}
    elif source.has_own_config:
        weights["load_weights"] = False
    clip = construct(
        spec,
        lambda: open_clip.create_model_and_transforms(
            source.name, **{**weights, **source.kwargs}
        )[0],
    )
    config = open_clip.transform.PreprocessCfg(**clip.visual.preprocess_cfg)
    normalized = isinstance(clip, open_clip.CoCa)
    length = clip.context_length
    network: nn.Module = clip.visual
    if spec.modality == "text":
        clip.visual = nn.Identity()
        network = _TextTower(clip)
    return _Tower(network, config, normalized, length)


def _published(spec: BackboneSpec, source: Source) -> bool:
    """Return whether the library itself loads the weights."""
    local = source.name.startswith(LOCAL)
    return spec.pretrained and spec.weights is None and not local


def _separable(spec: BackboneSpec, open_clip: Any, source: Source) -> bool:
    """Return whether the vision tower can be built alone; the other may be 1.4 GB."""
    return (
        hasattr(open_clip.model, "_build_vision_tower")
        and not spec.model_kwargs
        and not source.has_own_config
        and not _published(spec, source)
    )


def _vision_tower(spec: BackboneSpec, open_clip: Any, source: Source) -> _Tower:
    """Build the vision tower as the whole model would, without published weights."""
    config = open_clip.get_model_config(source.name)
    quick_gelu = config.get("quick_gelu", False) or source.quick_gelu
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    network = construct(
        spec,
        lambda: open_clip.model._build_vision_tower(
            config["embed_dim"], vision, quick_gelu
        ),
    )
    settings = {
        name.removeprefix("image_"): value
        for name, value in source.kwargs.items()
        if name.startswith("image_")
    }
    preprocess = open_clip.transform.PreprocessCfg(
        size=config["vision_cfg"].get("image_size", 224), **settings
    )
    coca = "multimodal_cfg" in config and config.get("custom_text", False)
    return _Tower(network, preprocess, coca, 0)


def _load_weights(spec: BackboneSpec, source: Source, network: nn.Module) -> None:
    """Load a local file of weights, the one of a ``local-dir:`` included."""
    weights = spec.weights
    if weights is None and spec.pretrained and source.name.startswith(LOCAL):
        weights = source.name.removeprefix(LOCAL)
    if weights is not None:
        state = _tower_state(spec, read_weights(weights))
        load_strictly(network, state, weights, spec.label)


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


def _first(output: Any) -> Any:
    """Return the embedding of a tower that may give its tokens beside it."""
    return output[0] if isinstance(output, tuple) else output


def _embedding(tower: _Tower) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what the model's `encode_image` computes."""
    network = tower.network
    if not tower.normalized and not getattr(network, "output_tokens", False):
        return network

    def forward(batch: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = _first(network(batch))
        return functional.normalize(features, dim=-1) if tower.normalized else features

    return forward


def _image_forward(
    spec: BackboneSpec, tower: _Tower
) -> Callable[[torch.Tensor], torch.Tensor]:
    network: Any = tower.network
    if spec.layer is None:
        check_pooling(spec, ["default"])
        return _embedding(tower)
    if isinstance(spec.layer, str):
        inner = layer_output(spec, network)
        n_prefix = int(_has_class_token(network))
        return lambda batch: pool(spec, inner(batch), n_prefix)
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"layer={spec.layer!r}: {spec.label} has no numbered blocks")

    tokens = {"output_extra_tokens": True} if _has_class_token(network) else {}

    def forward(batch: torch.Tensor) -> torch.Tensor:
        try:
            intermediates = network.forward_intermediates(
                batch, indices=[spec.layer], intermediates_only=True, **tokens
            )
        except (AssertionError, IndexError) as error:
            raise ValueError(
                f"layer={spec.layer!r} is not a block of {spec.label}: {error}"
            ) from error
        prefix = intermediates.get("image_intermediates_prefix")
        if prefix and spec.pooling != "mean":
            first: torch.Tensor = prefix[0][:, 0]
            return first
        return pool(spec, intermediates["image_intermediates"][0])

    return forward


def _has_class_token(network: nn.Module) -> bool:
    return hasattr(network, "class_embedding")


def _text(
    spec: BackboneSpec,
    open_clip: Any,
    tower: _Tower,
    source: Source,
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
    tokenizer = _tokenizer(spec, open_clip, tower, source)
    described = {
        "tokenizer": type(tokenizer).__name__,
        "context_length": getattr(tokenizer, "context_length", None),
        "of": source.name,
    }
    if source.has_own_config:
        described["of"] = describe_tokenizer(getattr(tokenizer, "tokenizer", None))
    cuts = Cuts()
    return Backbone(
        network=tower.network,
        modality="text",
        prepare=str,
        collate=_collate_texts(tokenizer, cuts),
        forward=tower.network,
        description=_content(spec.describe(**common, preprocess=described)),
        note=random_note(spec),
        cuts=cuts,
    )


def _tokenizer(
    spec: BackboneSpec, open_clip: Any, tower: _Tower, source: Source
) -> Any:
    config = open_clip.get_model_config(source.name)["text_cfg"]
    reduction = (config.get("tokenizer_kwargs") or {}).get("reduction_mask")
    if reduction in _RANDOM_REDUCTIONS:
        raise ValueError(
            f"backbone='{spec.label}': its tokenizer (reduction_mask={reduction!r}) "
            "leaves out words of a long text at random, so a text has no one embedding"
        )
    length = {}
    if "force_context_length" in spec.model_kwargs:
        length["context_length"] = tower.context_length
    return construct(spec, lambda: open_clip.get_tokenizer(source.name, **length))


def _collate_texts(tokenizer: Any, cuts: Cuts) -> Callable[[list[str]], torch.Tensor]:
    """Return the function from texts to tokens, which notes texts that do not fit."""
    length = tokenizer.context_length
    padding = tokenizer([""])[0, -1]

    def longer(text: str) -> bool:
        tokens = tokenizer([text], context_length=2 * length)[0]
        return bool((tokens[length:] != padding).any())

    def collate(texts: list[str]) -> torch.Tensor:
        tokens: torch.Tensor = tokenizer(texts)
        for row in torch.nonzero(tokens[:, -1] != padding).flatten().tolist():
            if longer(texts[row]):
                cuts.note(texts[row])
        return tokens

    return collate
