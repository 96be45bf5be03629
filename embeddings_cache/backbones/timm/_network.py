"""Image networks of timm, with timm's own preprocessing."""

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
from embeddings_cache.backbones._preprocess import overrides
from embeddings_cache.backbones._weights import load_strictly, read_weights
from embeddings_cache.backbones.timm import FAMILY
from embeddings_cache.items._images import decoder_description

_NOT_HERE = {
    "features_only": "it gives one map a stage and no vector; give layer=, the number "
    "of a stage",
    "out_indices": "give layer=, the number of a stage",
    "pretrained": "give pretrained= to the extractor",
}
# What the pretrained tags of one architecture can disagree on.
_SETTINGS = ("mean", "std", "input_size", "interpolation", "crop_pct", "crop_mode")


def build(spec: BackboneSpec) -> Backbone:
    """Build ``timm:<name>``: pooled features, or an inner block's."""
    timm = FAMILY.require("timm")
    _check_name(spec, timm)
    from_hub = spec.pretrained and spec.weights is None
    network = construct(
        spec,
        lambda: timm.create_model(
            spec.name, pretrained=from_hub, num_classes=0, **spec.model_kwargs
        ),
    )
    if spec.weights is not None:
        head = network.default_cfg.get("classifier") or ()
        load_strictly(
            network,
            read_weights(spec.weights),
            spec.weights,
            spec.label,
            head=(head,) if isinstance(head, str) else head,
        )
    config = _data_config(spec, network)
    transform = timm.data.create_transform(**config, is_training=False)
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
                "config": config,
                "transform": repr(transform),
            },
        ),
        note=_note(spec, timm, network),
        channels_last=prefers_channels_last(network),
    )


def _check_name(spec: BackboneSpec, timm: Any) -> None:
    refuse_kwargs(spec, _NOT_HERE)
    if "num_classes" in spec.model_kwargs:
        raise ValueError(
            "model_kwargs has 'num_classes', which is always 0 here: the embedding is "
            "what comes before the classifier. Leave it out"
        )
    if spec.model_kwargs.get("in_chans", 3) != 3:
        raise ValueError(
            f"model_kwargs has in_chans={spec.model_kwargs['in_chans']!r}: images are "
            "RGB, three channels. Leave it out"
        )
    if spec.name.startswith(("hf-hub:", "hf_hub:")):
        return
    architecture, _, tag = spec.name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name(spec, timm.list_models())
    published = timm.list_pretrained(f"{architecture}.*")
    if tag and spec.name not in published:
        raise unknown_name(spec, published)


def _note(spec: BackboneSpec, timm: Any, network: Any) -> str | None:
    """Say that weights are random, or that a file gets the default tag's settings."""
    architecture, _, tag = spec.name.partition(".")
    if spec.weights is None or tag or ":" in spec.name:
        return random_note(spec)
    names = timm.list_pretrained(f"{architecture}.*")
    configs = {name: timm.get_pretrained_cfg(name).to_dict() for name in names}
    default = {name: network.pretrained_cfg.get(name) for name in _SETTINGS}
    return settings_note(spec, default, configs)


def _data_config(spec: BackboneSpec, network: nn.Module) -> dict[str, Any]:
    """Return timm's resolved preprocessing, with the user's overrides."""
    from timm.data import resolve_data_config

    args: dict[str, Any] = {}
    size = spec.model_kwargs.get("img_size")
    if size is not None:
        args["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
    for name, value in overrides(spec).items():
        if name == "size":
            args["input_size"] = (3, *value)
        elif name == "crop":
            args["crop_mode" if isinstance(value, str) else "crop_pct"] = value
        else:
            args[name] = value
    modes = ("center", "squash", "border")
    if args.get("crop_mode", "center") not in modes:
        raise ValueError(
            f"preprocess['crop']={args['crop_mode']!r} must be a number in (0, 1] or "
            f"one of {', '.join(modes)}"
        )
    config: dict[str, Any] = resolve_data_config(args, model=network)
    return config


def _forward(
    spec: BackboneSpec, network: Any
) -> Callable[[torch.Tensor], torch.Tensor]:
    if spec.layer is None and spec.pooling == "default":
        return network
    n_prefix = int(getattr(network, "num_prefix_tokens", 0))
    check_pooling(spec, ["default", "mean", *(["cls"] if n_prefix else [])])
    if spec.layer is None:
        return lambda batch: pool(
            spec, _channels_first(network, network.forward_features(batch)), n_prefix
        )
    if isinstance(spec.layer, str):
        inner = layer_output(spec, network)
        return lambda batch: pool(spec, inner(batch), n_prefix)
    return _block(spec, network, n_prefix)


def _channels_first(network: Any, x: torch.Tensor) -> torch.Tensor:
    """Return a map with channels first, as pooling wants it; some have them last."""
    last = x.ndim == 4 and x.shape[3] == network.num_features != x.shape[1]
    return x.permute(0, 3, 1, 2) if last else x


def _block(
    spec: BackboneSpec, network: Any, n_prefix: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that gives the output of a numbered block."""
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(
            f"layer={spec.layer!r}: {spec.label} has no numbered blocks; give the name "
            "of a submodule"
        )
    tokens = {"return_prefix_tokens": True} if n_prefix else {}

    def forward(batch: torch.Tensor) -> torch.Tensor:
        try:
            (intermediate,) = network.forward_intermediates(
                batch, indices=[spec.layer], intermediates_only=True, **tokens
            )
        except (AssertionError, IndexError) as error:
            raise ValueError(
                f"layer={spec.layer!r} is not a block of {spec.label}: {error}"
            ) from error
        if not n_prefix:
            return pool(spec, intermediate)
        grid, prefix = intermediate
        if spec.pooling == "mean":
            return pool(spec, grid)
        return prefix[:, 0]

    return forward
