"""Image networks of timm."""

from collections.abc import Mapping
from typing import Any

from embeddings_cache.backbones._registry import OFF, Family, register


def _check_config(model_kwargs: Mapping[str, Any]) -> None:
    """Refuse settings of weights that are an object, which could hold a file's."""
    config = model_kwargs.get("pretrained_cfg")
    if not isinstance(config, str | dict | None):
        raise ValueError(
            f"model_kwargs['pretrained_cfg']={config!r} must be the tag of published "
            "weights; give weights=<safetensors file> for others"
        )


FAMILY = register(
    Family(
        prefix="timm",
        builder=f"{__name__}._network",
        modalities=("image",),
        example="timm:resnet50",
        order=1,
        extra="timm",
        distributions=("timm", "torchvision"),
        packages={"timm": "timm", "torchvision": "torchvision"},
        loading_options=dict.fromkeys(
            (
                "checkpoint_path", "pretrained", "file", "url", "hf_hub_id",
                "hf_hub_filename", "state_dict", "source", "custom_load", "cache_dir",
            ),
            OFF,
        ),
        check_kwargs=_check_config,
        hub_names=("hf-hub:", "hf_hub:", "local-dir:"),
        transforms={
            "timm.data.transforms": "CenterCropOrPad MaybePILToTensor MaybeToTensor "
            "ResizeKeepRatio ToNumpy ToTensor TrimBorder",
        },
    )
)  # fmt: skip
