"""Options of a library's constructor: described by content, or refused if they load."""

import functools
import threading

import pytest
import timm
import torch
from torch import nn

from embeddings_cache import UndescribableError
from embeddings_cache._parameters import check_parameters

LOADING = [
    ("timm:test_resnet", {"checkpoint_path": "w.pth"}),
    ("timm:test_resnet", {"pretrained": True}),
    ("timm:test_resnet", {"pretrained_cfg_overlay": {"file": "w.pth"}}),
    ("timm:test_resnet", {"pretrained_cfg_overlay": {"url": "https://e.org/w.pth"}}),
    ("timm:test_resnet", {"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}}),
    ("timm:test_resnet", {"pretrained_cfg": {"file": "w.bin"}}),
    ("timm:test_resnet", {"pretrained_cfg": {"state_dict": {"a": torch.ones(1)}}}),
    ("timm:test_resnet", {"pretrained_cfg": timm.models.PretrainedCfg(file="w.ckpt")}),
    ("timm:test_resnet", {"cache_dir": "folder"}),
    ("torchvision:resnet18", {"weights": "DEFAULT"}),
    ("torchvision:resnet18", {"weights": "IMAGENET1K_V1"}),
    ("torchvision:resnet18", {"pretrained": True}),
    ("torchvision:resnet18", {"weights_backbone": "DEFAULT"}),
    ("open_clip:RN50", {"pretrained": "w.pt"}),
    ("open_clip:RN50", {"pretrained_image": True}),
    ("open_clip:RN50", {"pretrained_image_path": "w.pt"}),
    ("open_clip:RN50", {"pretrained_text_path": "w.pt"}),
    ("open_clip:RN50", {"load_weights": False}),
    ("open_clip:RN50", {"weights_only": False}),
    ("open_clip:RN50", {"vision_cfg": {"timm_model_pretrained": True}}),
    ("open_clip:RN50", {"text_cfg": {"hf_model_pretrained": True}}),
    ("open_clip:RN50", {"cache_dir": "folder"}),
    ("sentence-transformers:a", {"state_dict": {}}),
    ("sentence-transformers:a", {"use_safetensors": False}),
    ("sentence-transformers:a", {"use_safetensors": None}),
    ("sentence-transformers:a", {"gguf_file": "w.gguf"}),
    ("sentence-transformers:a", {"from_tf": True}),
    ("sentence-transformers:a", {"config": "folder"}),
    ("sentence-transformers:a", {"adapter_kwargs": {"peft": "folder"}}),
    ("sentence-transformers:a", {"trust_remote_code": True}),
    ("sentence-transformers:a", {"processor_kwargs": {"trust_remote_code": True}}),
    ("sentence-transformers:a", {"cache_folder": "folder"}),
    ("sentence-transformers:a", {"backend": "onnx"}),
    ("sentence-transformers:a", {"weights_only": False}),
]


@pytest.mark.parametrize(("backbone", "kwargs"), LOADING, ids=str)
@pytest.mark.parametrize("pretrained", [True, False])
def test_what_loads_weights_or_code_is_refused_by_name(
    make_extractor, backbone, kwargs, pretrained
):
    (name,) = kwargs
    extractor = make_extractor(backbone, model_kwargs=kwargs, pretrained=pretrained)
    with pytest.raises((ValueError, ImportError), match=name):
        extractor.extractor_key()


def test_nothing_is_loaded_and_nothing_is_stored(make_extractor, images, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    extractor = make_extractor(
        "timm:test_resnet",
        pretrained=False,
        model_kwargs={"checkpoint_path": str(path)},
    )
    with pytest.raises(ValueError, match="give weights=<safetensors file or folder>"):
        extractor.transform(images)
    assert not extractor.cache_dir.exists()


@pytest.mark.parametrize(
    ("backbone", "kwargs"),
    [
        ("timm:test_resnet", {"checkpoint_path": None}),
        ("timm:test_resnet", {"pretrained_cfg_overlay": {"mean": (0, 0, 0)}}),
        ("timm:test_resnet", {"pretrained_cfg": "r160_in1k"}),
        ("timm:test_resnet", {"in_chans": 3, "drop_rate": 0.5}),
        ("torchvision:resnet18", {"weights": None}),
        ("open_clip:RN50", {"pretrained_image": False}),
        ("open_clip:RN50", {"vision_cfg": {"width": 8, "layers": [1, 1, 1, 1]}}),
        ("sentence-transformers:a", {"use_safetensors": True, "revision": "main"}),
        ("sentence-transformers:a", {"processor_kwargs": {"max_length": 8}}),
    ],
    ids=str,
)
def test_what_loads_nothing_is_taken(make_extractor, backbone, kwargs):
    parameters = make_extractor(backbone, model_kwargs=kwargs).get_params(deep=False)
    assert check_parameters(parameters)["model_kwargs"] == kwargs


class Act(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()

    def forward(self, x):
        return x * 2


def key(make_extractor, **kwargs):
    extractor = make_extractor("timm:test_vit", pretrained=False, model_kwargs=kwargs)
    return extractor.extractor_key()


def test_classes_and_functions_are_described(make_extractor, monkeypatch):
    norm = functools.partial(nn.LayerNorm, eps=1e-3)
    other = functools.partial(nn.LayerNorm, eps=1e-2)
    keys = [
        key(make_extractor),
        key(make_extractor, act_layer=nn.ReLU),
        key(make_extractor, act_layer=nn.Tanh),
        key(make_extractor, norm_layer=norm),
        key(make_extractor, norm_layer=other),
        key(make_extractor, act_layer=Act),
    ]
    assert len(set(keys)) == len(keys)
    again = functools.partial(nn.LayerNorm, eps=1e-3)
    assert key(make_extractor, norm_layer=again) == keys[3]
    monkeypatch.setattr(Act, "forward", lambda _act, x: x * 3)
    assert key(make_extractor, act_layer=Act) not in keys


def test_a_class_that_changed_is_not_remembered(make_extractor, images, monkeypatch):
    """Neither the network at hand nor a remembered description is that of before."""
    settings = {"pretrained": False, "model_kwargs": {"act_layer": Act}}
    extractor = make_extractor("timm:test_vit", **settings)
    first = extractor.transform(images[:2])
    monkeypatch.setattr(Act, "forward", lambda _act, x: x * 3)
    for changed in (extractor, make_extractor("timm:test_vit", **settings)):
        assert abs(changed.transform(images[:2]) - first).max() > 1e-2


def test_what_cannot_be_described_is_refused(make_extractor):
    part = functools.partial(nn.GELU, threading.Lock())
    with pytest.raises(UndescribableError, match=r"model_kwargs\['act_layer'\]\.args"):
        key(make_extractor, act_layer=part)
