"""timm: `create_model`, its data configuration and its transform, for odd options."""

import library_paths
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embeddings_cache.backbones import build_backbone

library = pytest.importorskip("timm")

ODD = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "input_size": (3, 96, 64)}
CASES = [
    ("test_resnet", {}),
    ("test_efficientnet_gn", {}),
    ("test_nfnet", {}),
    ("test_byobnet", {}),
    ("test_convnext", {}),
    ("test_mambaout", {}),
    ("test_resnet", {"global_pool": "max"}),
    ("test_resnet", {"global_pool": "catavgmax"}),
    ("test_resnet", {"output_stride": 8}),
    ("test_resnet", {"pretrained_cfg_overlay": {"crop_mode": "border"}}),
    ("test_resnet", {"pretrained_cfg_overlay": {"crop_mode": "squash"}}),
    ("test_resnet", {"pretrained_cfg_overlay": {"interpolation": "nearest"}}),
    ("test_resnet", {"pretrained_cfg_overlay": {"crop_pct": 0.6}}),
    ("test_resnet", {"pretrained_cfg_overlay": ODD}),
    ("test_vit", {}),
    ("test_vit2", {}),
    ("test_vit3", {}),
    ("test_vit4", {}),
    ("test_vit", {"global_pool": "avg"}),
    ("test_vit", {"global_pool": "avgmax"}),
    ("test_vit", {"global_pool": "map"}),
    ("test_vit", {"class_token": False, "global_pool": "avg"}),
    ("test_vit", {"reg_tokens": 2}),
    ("test_vit", {"fc_norm": True, "init_values": 0.1}),
    ("deit_tiny_distilled_patch16_224", {"depth": 1}),
    ("vit_tiny_patch16_224.augreg_in21k", {"depth": 1}),
    ("mobilenetv3_small_050.lamb_in1k", {}),
]


def save(tmp_path, name, **kwargs):
    torch.manual_seed(3)
    network = library.create_model(name, num_classes=0, **kwargs)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_rows_equal_the_library_s(make_extractor, tmp_path, name, kwargs):
    file = save(tmp_path, name, **kwargs)
    images = library_paths.photographs()
    extractor = make_extractor(
        f"timm:{name}", weights=file, model_kwargs=kwargs, storage_dtype="float32"
    )
    rows = extractor.transform(images)
    right = library_paths.timm(name, file, images, **kwargs)
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [96, (96, 128)])
def test_images_have_the_size_that_the_network_is_built_for(size):
    backbone = build_backbone(
        "timm:vit_tiny_patch16_224",
        pretrained=False,
        model_kwargs={"img_size": size, "depth": 1},
    )
    image = library_paths.photographs(1)[0]
    pair = (size, size) if isinstance(size, int) else size
    assert tuple(backbone.prepare(image).shape) == (3, *pair)


def test_the_configuration_of_every_tag():
    """The transform of a tag, whether its weights are published or random."""
    for name in library.list_pretrained("vit_base_patch16_224*"):
        config = library.data.resolve_data_config(
            pretrained_cfg=library.get_pretrained_cfg(name).to_dict()
        )
        right = library.data.create_transform(**config, is_training=False)
        backbone = build_backbone(
            f"timm:{name}", pretrained=False, model_kwargs={"depth": 0}
        )
        described = backbone.description["preprocess"]
        assert described["transform"] == repr(right)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"in_chans": 1}, r"in_chans=1: images are RGB"),
        ({"features_only": True}, "one map a stage and no vector; give layer="),
        ({"num_classes": 3}, "'num_classes', which is always 0"),
        ({"pretrained": True}, "give pretrained= to the extractor"),
    ],
)
def test_arguments_without_a_place(make_extractor, kwargs, message):
    extractor = make_extractor(
        "timm:test_resnet", pretrained=False, model_kwargs=kwargs
    )
    with pytest.raises(ValueError, match=message):
        extractor.extractor_key()


@pytest.mark.parametrize(
    ("name", "preprocess", "says"),
    [
        ("vit_tiny_patch16_224", None, False),  # its tags agree
        ("vit_small_patch16_224", None, True),
        ("vit_small_patch16_224.dino", None, False),
        ("vit_small_patch16_224", {"mean": (0, 0, 0)}, True),
        ("vit_small_patch16_224", {"mean": (0, 0, 0), "std": (1, 1, 1)}, False),
    ],
)
def test_a_file_without_a_tag_says_whose_settings_it_gets(
    tmp_path, name, preprocess, says
):
    file = save(tmp_path, name, depth=1)
    backbone = build_backbone(
        f"timm:{name}",
        weights=str(file),
        model_kwargs={"depth": 1},
        preprocess=preprocess,
    )
    assert bool(backbone.note) == says
    if says:
        assert "weights= does not say how images were prepared" in backbone.note
        assert "'timm:vit_small_patch16_224." in backbone.note
