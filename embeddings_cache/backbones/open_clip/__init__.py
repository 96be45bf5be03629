"""Image and text towers of open_clip."""

from embeddings_cache.backbones._registry import OFF, Family, register

FAMILY = register(
    Family(
        prefix="open_clip",
        builder=f"{__name__}._network",
        modalities=("image", "text"),
        example="open_clip:ViT-H-14/laion2b_s32b_b79k",
        order=2,
        extra="open-clip",
        distributions=("open_clip_torch", "torchvision"),
        packages={"open_clip": "open_clip_torch", "torchvision": "torchvision"},
        loading_options={
            **dict.fromkeys(
                (
                    "pretrained_image", "pretrained_text", "pretrained_image_path",
                    "pretrained_text_path", "pretrained_hf", "require_pretrained",
                    "timm_model_pretrained", "hf_model_pretrained", "cache_dir",
                ),
                OFF,
            ),
            "weights_only": (True,),
        },
        hub_names=("hf-hub:", "hf_hub:", "local-dir:"),
        transforms={
            "open_clip.transform": "CenterCropOrPad ResizeKeepRatio ResizeMaxSize "
            "MaybeConvertMode MaybeToTensor _convert_to_rgb",
        },
    )
)  # fmt: skip
