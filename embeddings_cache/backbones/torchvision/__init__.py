"""Image networks of torchvision."""

from embeddings_cache.backbones._registry import OFF, Family, register

FAMILY = register(
    Family(
        prefix="torchvision",
        builder=f"{__name__}._network",
        modalities=("image",),
        example="torchvision:resnet50",
        order=4,
        extra="torchvision",
        distributions=("torchvision",),
        packages={"torchvision": "torchvision"},
        loading_options=dict.fromkeys(
            ("weights", "weights_backbone", "pretrained", "pretrained_backbone"), OFF
        ),
        transforms={
            "torchvision.transforms": "CenterCrop Compose ConvertImageDtype FiveCrop "
            "Grayscale LinearTransformation Normalize PILToTensor Pad Resize TenCrop "
            "ToPILImage ToTensor",
            "torchvision.transforms.v2": "CenterCrop Compose ConvertImageDtype "
            "FiveCrop Grayscale Identity LinearTransformation Normalize PILToTensor "
            "Pad RGB Resize TenCrop ToDtype ToImage ToPILImage ToPureTensor ToTensor",
            "torchvision.transforms._presets": "ImageClassification ObjectDetection "
            "OpticalFlow SemanticSegmentation VideoClassification",
        },
    )
)
