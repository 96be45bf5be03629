"""What is part of a key, what is not, and what is refused for want of a description."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from embeddings_cache import EmbeddingStore, UndescribableError
from embeddings_cache._fingerprint import canonical_json, digest, tensors_digest
from embeddings_cache.backbones import build_backbone
from embeddings_cache.items._readers import read_items

TIMM = {"backbone": "timm:resnet18", "pretrained": False}


def key(make_extractor, **changes):
    return make_extractor(**(TIMM | changes)).extractor_key()


def test_folder_is_the_digest_of_its_description(make_extractor, images, tmp_path):
    extractor = make_extractor()
    extractor.transform(images)
    (folder,) = (tmp_path / "cache" / "v1").iterdir()
    text = (folder / "extractor.json").read_bytes()
    assert folder.name == hashlib.sha256(text).hexdigest() == extractor.extractor_key()
    assert json.loads(text) == extractor.describe()


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "timm:resnet34"},
        {"backbone": "torchvision:resnet18"},
        {"layer": 2},
        {"layer": "layer2"},
        {"pooling": "mean"},
        {"precision": "bfloat16"},
        {"storage_dtype": "float32"},
        {"model_kwargs": {"output_stride": 16}},
        {"preprocess": {"mean": (0.5, 0.5, 0.5)}},
        {"preprocess": {"std": (0.5, 0.5, 0.5)}},
        {"preprocess": {"size": 96}},
        {"preprocess": {"crop": 1.0}},
        {"preprocess": {"crop": "squash"}},
        {"preprocess": {"interpolation": "bilinear"}},
    ],
)
def test_whatever_changes_a_number_changes_the_key(make_extractor, changes):
    pytest.importorskip("timm")
    assert key(make_extractor, **changes) != key(make_extractor)


def test_what_changes_no_number_leaves_the_key(make_extractor, tmp_path):
    pytest.importorskip("timm")
    same = {
        "cache_dir": tmp_path / "other",
        "batch_size": 3,
        "num_workers": 2,
        "worker_type": "thread",
        "progress": True,
        "preprocess": {},
        "model_kwargs": {},
        "modality": "image",
        "precision": "float32",
    }
    for name, value in same.items():
        assert key(make_extractor, **{name: value}) == key(make_extractor), name


def test_library_versions_are_in_the_key(make_extractor, monkeypatch):
    pytest.importorskip("timm")
    before = key(make_extractor)
    real = __import__("importlib.metadata").metadata.version
    for name in ("timm", "torchvision", "pillow", "torch"):
        with monkeypatch.context() as patch:
            patch.setattr(
                "embeddings_cache._fingerprint.metadata.version",
                lambda other, name=name: "0.0" if other == name else real(other),
            )
            assert key(make_extractor) != before, name


def test_seeded_weights_are_the_same_every_time(make_extractor):
    pytest.importorskip("timm")
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = build_backbone("timm:resnet18", pretrained=False).network
        digests.add(tensors_digest(network.state_dict().items()))
    assert len(digests) == 1
    assert make_extractor(**TIMM).describe()["weights"]["random_seed"] == 0


def test_weights_of_a_module_are_in_its_key(make_extractor, net):
    before = make_extractor().extractor_key()
    assert make_extractor().extractor_key() == before
    with torch.no_grad():
        net.weight[0, 0] += 1
    assert make_extractor().extractor_key() != before


def test_a_module_changed_between_two_calls_is_not_confused(
    make_extractor, net, images
):
    extractor = make_extractor()
    first = extractor.transform(images)
    with torch.no_grad():
        net.weight *= 2
    np.testing.assert_allclose(extractor.transform(images), 2 * first, rtol=1e-3)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def forward(self, x):
        return x.mean(dim=(2, 3)) * self.factor + self.shift


def test_settings_and_hidden_buffers_of_a_module_are_in_its_key(make_extractor):
    def of(network):
        extractor = make_extractor(network, preprocess={"size": 8})
        return extractor.extractor_key()

    assert of(Scaled(1.0)) == of(Scaled(1.0))
    assert of(Scaled(1.0)) != of(Scaled(2.0))
    shifted = Scaled(1.0)
    shifted.shift += 1
    assert of(shifted) != of(Scaled(1.0))


def test_a_module_without_readable_code_is_refused(make_extractor):
    scope = {"nn": nn}
    exec("class Hidden(nn.Module):\n    def forward(self, x): return x", scope)
    with pytest.raises(UndescribableError, match="set cache_description on the netw"):
        make_extractor(scope["Hidden"](), preprocess={"size": 8}).extractor_key()


def plain_function(image):
    return transforms.functional.to_tensor(image)


@pytest.mark.parametrize(
    "preprocess",
    [
        lambda image: image,
        plain_function,
        transforms.functional.to_tensor,
        transforms.Compose([transforms.ToTensor(), lambda x: 2 * x]),
        transforms.Lambda(plain_function),
        transforms.RandomCrop(4),
    ],
    ids=["lambda", "function", "library function", "compose", "Lambda", "Random"],
)
def test_preprocessing_without_a_description_is_refused(
    make_extractor, preprocess, images
):
    extractor = make_extractor(Scaled(1.0), preprocess=preprocess)
    with pytest.raises(UndescribableError, match=r"preprocess\.cache_description = "):
        extractor.transform(images)
    assert EmbeddingStore(extractor.cache_dir).extractors() == []


def test_torchvision_transforms_describe_themselves(make_extractor):
    def of(size):
        chain = transforms.Compose([transforms.Resize(size), transforms.ToTensor()])
        return make_extractor(Scaled(1.0), preprocess=chain).extractor_key()

    assert of(8) == of(8)
    assert of(8) != of(9)


def test_declared_description_is_in_the_key(make_extractor):
    def of(text):
        def function(image):
            return plain_function(image)

        function.cache_description = text
        return make_extractor(Scaled(1.0), preprocess=function).extractor_key()

    assert of("v1") == of("v1")
    assert of("v1") != of("v2")


def test_a_module_needs_preprocessing(make_extractor):
    with pytest.raises(
        ValueError, match=r"preprocess=None: a torch\.nn\.Module has no re"
    ):
        make_extractor(Scaled(1.0), preprocess=None).extractor_key()


def test_item_keys_are_digests_of_content(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (2, 3), "red").save(path)
    (item,) = read_items([path], "image")
    assert item.key() == hashlib.sha256(path.read_bytes()).digest()
    (text,) = read_items(["naïve"], "text")
    assert text.key() == hashlib.sha256("naïve".encode()).digest()


def test_item_keys_of_pixels_know_the_shape():
    flat = np.zeros((2, 8, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    keys = {read_items([array], "image")[0].key() for array in flat}
    assert len(keys) == 2
    grey = read_items([np.zeros((4, 4), np.uint8)], "image")[0]
    assert grey.key() in keys  # grey is the RGB image it is embedded as


def test_canonical_json_is_one_text_per_value():
    assert canonical_json({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_tensor_digest_sees_names_types_shapes_and_values():
    base = torch.arange(4.0)
    variants = [
        [("a", base)],
        [("b", base)],
        [("a", base.double())],
        [("a", base.reshape(2, 2))],
        [("a", base + 1)],
        [("a", base), ("b", base)],
    ]
    assert len({tensors_digest(variant) for variant in variants}) == len(variants)
    turned = torch.arange(4.0).reshape(2, 2).T.contiguous().T
    assert tensors_digest([("a", turned)]) == tensors_digest(
        [("a", base.reshape(2, 2))]
    )
