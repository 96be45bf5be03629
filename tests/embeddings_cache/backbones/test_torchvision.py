"""torchvision: what enters the last layer, after the transforms of the weights."""

import library_paths
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from embeddings_cache.backbones import build_backbone

models = pytest.importorskip("torchvision.models")

V1, V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
CASES = [
    ("resnet18", V1, {}),
    ("resnet50", V1, {}),
    ("resnet50", V2, {}),
    ("mobilenet_v2", V2, {}),
    ("mobilenet_v2", V1, {"width_mult": 0.5}),
    ("mobilenet_v3_small", V1, {}),
    ("mnasnet0_5", V1, {}),
    ("shufflenet_v2_x0_5", V1, {}),
    ("densenet121", V1, {}),
    ("googlenet", V1, {"transform_input": True}),
    ("regnet_y_400mf", V2, {}),
    ("efficientnet_b0", V1, {}),
    ("efficientnet_b1", V2, {}),
]
HEAVY = [
    ("alexnet", V1, {}),
    ("inception_v3", V1, {"transform_input": True}),
    ("convnext_tiny", V1, {}),
    ("swin_t", V1, {}),
    ("swin_v2_t", V1, {}),
    ("maxvit_t", V1, {}),
    ("vit_b_32", V1, {}),
]


@pytest.mark.parametrize(
    ("name", "entry", "kwargs"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.heavy) for case in HEAVY)],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_rows_equal_the_library_s(make_extractor, tmp_path, name, entry, kwargs):
    torch.manual_seed(3)
    file = tmp_path / "w.safetensors"
    save_file(models.get_model(name, **kwargs).state_dict(), file)
    images = library_paths.photographs(2)
    own = {k: v for k, v in kwargs.items() if k != "transform_input"}
    extractor = make_extractor(
        f"torchvision:{name}/{entry}",
        weights=file,
        model_kwargs=own,
        storage_dtype="float32",
    )
    rows = extractor.transform(images)
    right = library_paths.torchvision(name, entry, file, images, **kwargs)
    scale = np.abs(right).max()
    np.testing.assert_allclose(rows / scale, right / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_networks_that_scale_their_input_have_a_key_of_their_own(make_extractor):
    plain = make_extractor("torchvision:googlenet", pretrained=False)
    assert "transform_input" not in plain.describe()["preprocess"]
    entry = make_extractor(f"torchvision:googlenet/{V1}", pretrained=False)
    assert entry.describe()["preprocess"]["transform_input"]
    off = make_extractor(
        f"torchvision:googlenet/{V1}",
        pretrained=False,
        model_kwargs={"transform_input": False},
    )
    assert "transform_input" not in off.describe()["preprocess"]


def test_the_transforms_of_every_entry():
    from embeddings_cache.backbones._base import BackboneSpec
    from embeddings_cache.backbones.torchvision import _network

    for name in models.list_models(module=models):
        for entry in models.get_model_weights(name):
            spec = BackboneSpec("torchvision", f"{name}/{entry.name}")
            found = _network._transform(spec, entry, None)
            assert repr(found) == repr(entry.transforms())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("squeezenet1_1", {}, "no linear classifier to leave out"),
        ("vgg16/IMAGENET1K_FEATURES", {}, "these weights have no classifier"),
        ("quantized_resnet50", {}, "is not a model of torchvision"),
        ("resnet50_fpn", {}, "is not a model of torchvision"),
        ("r3d_18", {}, "is not a model of torchvision"),
        ("resnet18", {"model_kwargs": {"weights": V1}}, "weights.* decides what"),
    ],
)
def test_refusals(make_extractor, name, changes, message):
    extractor = make_extractor(f"torchvision:{name}", pretrained=False, **changes)
    with pytest.raises(ValueError, match=message):
        extractor.extractor_key()


@pytest.mark.parametrize(
    ("name", "says"),
    [("resnet18", False), (f"resnet50/{V1}", False), ("resnet50", True)],
)
def test_a_file_without_an_entry_says_whose_settings_it_gets(tmp_path, name, says):
    file = tmp_path / "w.safetensors"
    save_file(models.get_model(name.partition("/")[0]).state_dict(), file)
    note = build_backbone(f"torchvision:{name}", weights=str(file)).note
    assert bool(note) == says
    if says:
        assert f"Others need 'torchvision:resnet50/{V1}'" in note
