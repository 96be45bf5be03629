"""Every library by name: shapes, reference agreement, weights, and refusals."""

import builtins

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from embeddings_cache import (
    EmbeddingExtractor,
    MissingExtraError,
    UnknownBackboneError,
    WeightsError,
)
from embeddings_cache.backbones import build_backbone

TEXTS = ["a dog", "a much longer sentence about a dog on the grass", "a dog", "naïve"]


@pytest.mark.parametrize(
    ("backbone", "n_features"),
    [
        ("timm:resnet50", 2048),
        ("torchvision:resnet50", 2048),
        ("open_clip:RN50", 1024),
        ("torchvision:mobilenet_v3_small", 1024),
        ("torchvision:densenet121", 1024),
        ("torchvision:efficientnet_b0", 1280),
        ("torchvision:convnext_tiny", 768),
        ("torchvision:vit_b_32", 768),
    ],
)
def test_image_backbones_by_name(make_extractor, images, backbone, n_features):
    pytest.importorskip(backbone.split(":")[0])
    extractor = make_extractor(backbone, pretrained=False, storage_dtype="float32")
    rows = extractor.transform(images[[0, 1, 0]])
    assert rows.shape == (3, n_features)
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows[0], rows[2])
    assert extractor.describe()["weights"]["random_seed"] == 0


@pytest.mark.heavy
def test_vit_h_14_at_full_size(make_extractor, images):
    pytest.importorskip("open_clip")
    extractor = make_extractor("open_clip:ViT-H-14", pretrained=False)
    assert extractor.transform(images[:2]).shape == (2, 1024)
    network = extractor._network.backbone.network
    assert sum(p.numel() for p in network.parameters()) == 632_076_800
    assert extractor.describe()["preprocess"]["transform"].startswith("Compose")


@pytest.mark.heavy
def test_torchvision_vit_h_14_at_full_size(make_extractor, images):
    pytest.importorskip("torchvision")
    extractor = make_extractor("torchvision:vit_h_14", pretrained=False)
    assert extractor.transform(images[:2]).shape == (2, 1280)


def test_bert_at_full_size(make_extractor):
    pytest.importorskip("transformers")
    extractor = make_extractor(
        "sentence-transformers:bert-base-uncased", pretrained=False
    )
    rows = extractor.transform(TEXTS)
    assert rows.shape == (4, 768)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert not np.allclose(rows[0], rows[1], atol=1e-2)
    network = extractor._network.backbone.network
    assert sum(p.numel() for p in network.parameters()) == 109_482_240
    described = extractor.describe()
    assert "not the published one" in described["preprocess"]["tokens"]
    assert described["weights"]["random_seed"] == 0


def test_padding_does_not_change_a_text(make_extractor, tmp_path):
    pytest.importorskip("transformers")
    name = "sentence-transformers:all-MiniLM-L6-v2"
    exact = {"pretrained": False, "storage_dtype": "float32"}
    together = make_extractor(name, **exact).transform(TEXTS)
    alone = make_extractor(name, cache_dir=tmp_path / "b", batch_size=1, **exact)
    np.testing.assert_allclose(alone.transform(TEXTS), together, atol=1e-5)


@pytest.mark.parametrize("changes", [{"pooling": "cls"}, {"layer": -2}, {"layer": 3}])
def test_text_layers_and_pooling_differ(make_extractor, changes):
    pytest.importorskip("transformers")
    name = "sentence-transformers:all-MiniLM-L6-v2"
    plain = make_extractor(name, pretrained=False).transform(TEXTS)
    rows = make_extractor(name, pretrained=False, **changes).transform(TEXTS)
    assert rows.shape == plain.shape
    assert not np.allclose(rows, plain, atol=1e-2)


def test_text_layer_out_of_range(make_extractor):
    pytest.importorskip("transformers")
    extractor = make_extractor(
        "sentence-transformers:all-MiniLM-L6-v2", pretrained=False, layer=7
    )
    with pytest.raises(ValueError, match=r"layer=7 must be a block of .*: 1 to 6"):
        extractor.transform(TEXTS)


def test_clip_text_tower(make_extractor, images):
    pytest.importorskip("open_clip")
    texts = make_extractor("open_clip:RN50", pretrained=False, modality="text")
    assert texts.transform(TEXTS).shape == (4, 1024)
    pictures = make_extractor("open_clip:RN50", pretrained=False)
    assert texts.extractor_key() != pictures.extractor_key()
    assert not hasattr(texts._network.backbone.network.clip.visual, "conv1")


def test_strings_for_an_image_tower_are_paths(make_extractor):
    from embeddings_cache import UnreadableItemError

    pytest.importorskip("open_clip")
    with pytest.raises(UnreadableItemError, match="a dog: No such file"):
        make_extractor("open_clip:RN50", pretrained=False).transform(["a dog"])


@pytest.mark.parametrize(
    ("changes", "n_features"),
    [
        ({"pooling": "cls"}, 192),
        ({"pooling": "mean"}, 192),
        ({"layer": -2}, 192),
        ({"layer": -2, "pooling": "mean"}, 192),
        ({"layer": "blocks.3"}, 192),
    ],
)
def test_timm_layers_and_pooling(make_extractor, images, changes, n_features):
    timm = pytest.importorskip("timm")
    name = "vit_tiny_patch16_224"
    extractor = make_extractor(
        f"timm:{name}", pretrained=False, storage_dtype="float32", **changes
    )
    rows = extractor.transform(images[:2])
    assert rows.shape == (2, n_features)
    backbone = extractor._network.backbone
    with torch.inference_mode():
        x = torch.stack([backbone.prepare(Image.fromarray(a)) for a in images[:2]])
        tokens = x
        network = backbone.network.eval()
        if changes.get("layer") is None:
            tokens = network.forward_features(x)
        else:
            hook = {-2: 10, "blocks.3": 3}[changes["layer"]]
            caught = []
            handle = network.blocks[hook].register_forward_hook(
                lambda m, i, out: caught.append(out)
            )
            network(x)
            handle.remove()
            (tokens,) = caught
    right = tokens[:, 1:].mean(1) if changes.get("pooling") == "mean" else tokens[:, 0]
    np.testing.assert_allclose(rows, right, atol=1e-5)
    assert timm.is_model(name)


def test_torchvision_vit_mean_of_patches(make_extractor, images):
    pytest.importorskip("torchvision")
    name, exact = "torchvision:vit_b_32", {"pretrained": False}
    cls = make_extractor(name, pooling="cls", **exact).transform(images[:2])
    own = make_extractor(name, **exact).transform(images[:2])
    mean = make_extractor(name, pooling="mean", **exact).transform(images[:2])
    np.testing.assert_array_equal(cls, own)
    assert mean.shape == own.shape
    assert not np.allclose(mean, own, atol=1e-2)


def test_clip_inner_block_class_token_and_mean(make_extractor, images):
    pytest.importorskip("open_clip")
    settings = {"pretrained": False, "layer": -2}
    first = make_extractor("open_clip:ViT-B-32", **settings).transform(images[:2])
    mean = make_extractor("open_clip:ViT-B-32", pooling="mean", **settings)
    assert first.shape == (2, 768)
    assert not np.allclose(mean.transform(images[:2]), first, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "cls"}, "pooling='cls' has no meaning for timm:resnet18; use one"),
        ({"layer": 99}, "layer=99 is not a block of timm:resnet18"),
        (
            {"layer": "layer9"},
            "layer='layer9' is not the name of a submodule.*'layer4'",
        ),
        (
            {"model_kwargs": {"wings": 2}},
            "model_kwargs={'wings': 2} is refused by timm",
        ),
        ({"model_kwargs": {"num_classes": 2}}, "'num_classes', which is always 0"),
        ({"modality": "text"}, "timm:resnet18 takes images only"),
        ({"preprocess": {"colour": 1}}, "preprocess has the unknown name 'colour'"),
        ({"preprocess": {"mean": 0.5}}, r"preprocess\['mean'\]=0.5 must be three numb"),
        ({"preprocess": {"std": (1, 1, 0)}}, r"preprocess\['std'\].* above 0"),
        ({"preprocess": {"size": 0}}, r"preprocess\['size'\]=0 must be pixels"),
        (
            {"preprocess": {"crop": 1.5}},
            r"preprocess\['crop'\]=1.5 must be in \(0, 1\]",
        ),
        ({"preprocess": {"crop": "round"}}, r"'round' must be a number in .* squash"),
        ({"preprocess": {"interpolation": "best"}}, "must be one of nearest, bilinear"),
        ({"preprocess": abs}, "for timm:resnet18 give a dict with any of mean, std"),
    ],
)
def test_timm_refusals(make_extractor, images, changes, message):
    pytest.importorskip("timm")
    extractor = make_extractor("timm:resnet18", pretrained=False, **changes)
    with pytest.raises((ValueError, TypeError), match=message):
        extractor.transform(images[:1])


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            "resnet50",
            "must be '<library>:<name>' with a library out of timm, open_clip",
        ),
        ("tim:resnet50", "Did you mean something like 'timm:resnet50'"),
        ("sentence_transformers:x", "'sentence-transformers:all-MiniLM-L6-v2'"),
        (
            "timm:resnet5O",
            "'timm:resnet5O' is not a model of timm. Near names: 'timm:res",
        ),
        ("timm:resnet50.a1_in1", "Near names: 'timm:resnet50.a1_in1k'"),
        ("torchvision:resnet5", "Near names: 'torchvision:resnet50'"),
        ("torchvision:resnet50/V3", "Near names: .*|No name is near it"),
        ("open_clip:ViT-H-41", "Near names: .*'open_clip:ViT-H-14'"),
        ("sentence-transformers:bert-base-uncase", "bert-base-uncased'"),
    ],
)
def test_unknown_names_get_suggestions(make_extractor, backbone, message):
    with pytest.raises(UnknownBackboneError, match=message):
        make_extractor(backbone, pretrained=False).extractor_key()


def test_clip_without_a_tag_lists_the_tags(make_extractor):
    pytest.importorskip("open_clip")
    with pytest.raises(
        UnknownBackboneError, match="open_clip:ViT-H-14/laion2b_s32b_b79k"
    ):
        make_extractor("open_clip:ViT-H-14").extractor_key()


@pytest.mark.parametrize(
    ("backbone", "module", "extra"),
    [
        ("timm:resnet18", "timm", "timm"),
        ("torchvision:resnet18", "torchvision.models", "torchvision"),
        ("open_clip:RN50", "open_clip", "open-clip"),
        ("sentence-transformers:x", "sentence_transformers", "text"),
    ],
)
def test_a_missing_extra_names_the_command(
    make_extractor, monkeypatch, backbone, module, extra
):
    from embeddings_cache.backbones import _registry

    real = _registry.import_module

    def absent(name):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(_registry, "import_module", absent)
    with pytest.raises(MissingExtraError, match=rf'pip install "skdebias\[{extra}\]"'):
        make_extractor(backbone).extractor_key()


def saved(tmp_path, name, **kwargs):
    """Save a timm network with its classifier as safetensors."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    network = timm.create_model(name, pretrained=False, **kwargs).eval()
    path = tmp_path / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return path, network


def test_local_weights_are_used_and_win_over_pretrained(
    make_extractor, images, tmp_path
):
    path, network = saved(tmp_path, "resnet18")
    extractor = make_extractor(
        "timm:resnet18", weights=path, storage_dtype="float32", preprocess={"size": 64}
    )
    rows = extractor.transform(images[:3])
    x = torch.stack(
        [extractor._network.backbone.prepare(Image.fromarray(a)) for a in images[:3]]
    )
    with torch.inference_mode():
        right = network.forward_head(network.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(rows, right, rtol=1e-4, atol=1e-5)
    assert "tensors" in extractor.describe()["weights"]


def test_the_path_of_weights_is_not_in_the_key(make_extractor, tmp_path):
    path, _ = saved(tmp_path, "resnet18")
    before = make_extractor("timm:resnet18", weights=path).extractor_key()
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "other.safetensors")
    folder = str(tmp_path / "folder")
    assert make_extractor("timm:resnet18", weights=folder).extractor_key() == before


def test_replaced_weights_are_loaded_anew(make_extractor, images, tmp_path):
    path, network = saved(tmp_path, "resnet18")
    extractor = make_extractor("timm:resnet18", weights=path, preprocess={"size": 32})
    before = extractor.extractor_key()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["conv1.weight"] += 1
    save_file(state, path)
    assert extractor.extractor_key() != before


def test_weights_of_another_architecture_are_refused(make_extractor, tmp_path):
    path, _ = saved(tmp_path, "resnet18")
    with pytest.raises(WeightsError) as caught:
        make_extractor("timm:resnet50", weights=path).extractor_key()
    message = str(caught.value)
    assert "are not weights of timm:resnet50" in message
    assert "missing (layer1.0.bn3.bias, " in message
    assert "of another shape (layer1.0.conv1.weight (64, 64, 3, 3) for" in message
    path, _ = saved(tmp_path, "resnet34")
    with pytest.raises(WeightsError, match=r"unexpected \(layer1.2.bn1.bias, "):
        make_extractor("timm:resnet18", weights=path).extractor_key()


def test_torchvision_local_weights(make_extractor, images, tmp_path):
    models = pytest.importorskip("torchvision.models")
    network = models.mobilenet_v3_small(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    extractor = make_extractor(
        "torchvision:mobilenet_v3_small",
        weights=tmp_path / "w.safetensors",
        storage_dtype="float32",
    )
    rows = extractor.transform(images[:2])
    x = torch.stack(
        [extractor._network.backbone.prepare(Image.fromarray(a)) for a in images[:2]]
    )
    with torch.inference_mode():
        right = network.classifier[:3](network.avgpool(network.features(x)).flatten(1))
    np.testing.assert_allclose(rows, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_clip_local_weights(make_extractor, images, tmp_path, modality):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(3)
    clip = open_clip.create_model("RN50", pretrained=None, force_quick_gelu=True).eval()
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    extractor = make_extractor(
        "open_clip:RN50/openai",
        weights=tmp_path / "clip.safetensors",
        modality=modality,
        storage_dtype="float32",
    )
    items = images[:2] if modality == "image" else TEXTS[:2]
    rows = extractor.transform(items)
    with torch.inference_mode():
        if modality == "image":
            prepare = extractor._network.backbone.prepare
            x = torch.stack([prepare(Image.fromarray(array)) for array in items])
            right = clip.encode_image(x)
        else:
            right = clip.encode_text(open_clip.get_tokenizer("RN50")(items))
    np.testing.assert_allclose(rows, right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.ckpt"])
def test_pickled_checkpoints_are_refused(make_extractor, tmp_path, name):
    torch.save({"a": torch.zeros(1)}, tmp_path / name)
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(WeightsError, match="pickled"):
            make_extractor("timm:resnet18", weights=place).extractor_key()


def test_files_that_are_no_safetensors_are_refused(make_extractor, tmp_path):
    pytest.importorskip("timm")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="is not a whole safetensors file"):
        make_extractor(
            "timm:resnet18", weights=tmp_path / "w.safetensors"
        ).extractor_key()
    with pytest.raises(WeightsError, match="no such file or folder"):
        make_extractor("timm:resnet18", weights=tmp_path / "absent").extractor_key()


def test_without_a_network_pretrained_says_what_to_do(make_extractor, monkeypatch):
    timm = pytest.importorskip("timm")

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        OSError, match=r"pretrained=True: .* give weights=.* pretrained=F"
    ):
        make_extractor("timm:resnet18").extractor_key()


def test_published_weights_go_through_the_libraries_own_calls(
    make_extractor, monkeypatch
):
    """The download itself cannot run here; the calls that make it are checked."""
    timm = pytest.importorskip("timm")
    real, calls = timm.create_model, []

    def record(name, **kwargs):
        calls.append((name, kwargs))
        return real(name, **(kwargs | {"pretrained": False}))

    monkeypatch.setattr(timm, "create_model", record)
    described = make_extractor(
        "timm:resnet18.a1_in1k", model_kwargs={"output_stride": 16}
    ).describe()
    assert calls == [
        (
            "resnet18.a1_in1k",
            {"pretrained": True, "num_classes": 0, "output_stride": 16},
        )
    ]
    assert "tensors" in described["weights"]


def test_pretrained_mobilenet_and_its_settings(make_extractor, mobilenet_file, images):
    pytest.importorskip("timm")
    settings = {
        "backbone": "timm:mobilenetv2_035",
        "weights": mobilenet_file,
        "preprocess": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    }
    right = {"pad_type": "same", "bn_eps": 1e-3}
    extractor = make_extractor(**settings, model_kwargs=right)
    rows = extractor.transform(images[:4])
    assert rows.shape == (4, 1280)
    keys = {extractor.extractor_key(), make_extractor(**settings).extractor_key()}
    assert len(keys) == 2
    wrong = make_extractor(**settings).transform(images[:4])
    assert not np.allclose(wrong, rows, atol=0.1)  # the settings reach the network


def test_local_sentence_encoder(make_extractor, sentence_folder, monkeypatch):
    library = pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = f"sentence-transformers:{sentence_folder}"
    by_name = make_extractor(name, storage_dtype="float32")
    rows = by_name.transform(TEXTS)
    right = library.SentenceTransformer(str(sentence_folder), device="cpu").encode(
        TEXTS
    )
    np.testing.assert_allclose(rows, right, atol=1e-5)
    # Near meanings are near: this is the trained network.
    animals = by_name.transform(["a cat", "a kitten", "quarterly tax return"])
    assert animals[0] @ animals[1] > animals[0] @ animals[2] + 0.3
    by_weights = make_extractor(
        "sentence-transformers:mine", weights=sentence_folder, storage_dtype="float32"
    )
    np.testing.assert_array_equal(by_weights.transform(TEXTS), rows)
    assert by_weights.last_run_.n_found == 4
    cls = make_extractor(name, pooling="cls", storage_dtype="float32").transform(TEXTS)
    assert not np.allclose(cls, rows, atol=1e-2)


def test_sentence_folder_with_pickled_weights_only(make_extractor, tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="Pickled checkpoints are not loaded"):
        make_extractor(f"sentence-transformers:{tmp_path}").extractor_key()


def test_a_module_of_wrong_output_shape(make_extractor, images):
    network = torch.nn.Conv2d(3, 2, 1)
    extractor = make_extractor(network, preprocess={"size": 8})
    assert extractor.transform(images[:2]).shape == (2, 2)  # maps are averaged
    flat = torch.nn.Flatten(0)
    with pytest.raises(ValueError, match=r"torch:Flatten gives shape \(384,\)"):
        make_extractor(flat, preprocess={"size": 8}).transform(images[:2])


def test_random_weights_leave_every_seed_alone():
    pytest.importorskip("timm")
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_backbone("timm:resnet18", pretrained=False)
    assert torch.equal(torch.rand(3), expected)


def test_random_weights_are_announced(tmp_path, images, capfd):
    pytest.importorskip("timm")
    extractor = EmbeddingExtractor(
        "timm:resnet18", pretrained=False, cache_dir=tmp_path, preprocess={"size": 32}
    )
    extractor.transform(images[:1])
    assert "timm:resnet18: seeded random weights (pretrained=False)" in (
        capfd.readouterr().err
    )


def test_no_unsafe_loader_in_the_package():
    """The sources call no pickle, torch.load, joblib.load or eval."""
    import ast
    from pathlib import Path

    import embeddings_cache

    forbidden = {"pickle", "joblib", "marshal", "shelve", "dill", "yaml"}
    calls = {"eval", "exec", "compile", "__import__"}
    assert calls <= set(dir(builtins))
    for path in Path(embeddings_cache.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & forbidden, path
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                # What reader processes are sent goes through pipes, never a file.
                piped = path.name == "_processes.py" and module.startswith(
                    "joblib.externals.loky."
                )
                # How many cores there are, and nothing that loads.
                counted = [(module, a.name) for a in node.names] == [
                    ("joblib", "cpu_count")
                ]
                allowed = piped or counted
                assert allowed or module.split(".")[0] not in forbidden, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in calls, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), path


def test_published_clip_weights_go_through_open_clip(
    make_extractor, images, monkeypatch
):
    open_clip = pytest.importorskip("open_clip")
    real, calls = open_clip.create_model_and_transforms, []

    def record(name, pretrained=None, **kwargs):
        calls.append((name, pretrained))
        return real(name, pretrained=None, **kwargs)

    monkeypatch.setattr(open_clip, "create_model_and_transforms", record)
    extractor = make_extractor("open_clip:RN50/yfcc15m", batch_size=1)
    assert extractor.transform(images[:1]).shape == (1, 1024)
    assert calls == [("RN50", "yfcc15m")]
    assert "tensors" in extractor.describe()["weights"]
    reference = real("RN50")[2]
    assert extractor.describe()["preprocess"]["transform"] == repr(reference)


def test_published_torchvision_weights_bring_their_transforms(
    make_extractor, images, monkeypatch
):
    models = pytest.importorskip("torchvision.models")
    real, calls = models.get_model, []

    def record(name, weights=None, **kwargs):
        calls.append((name, weights))
        return real(name, **kwargs)

    monkeypatch.setattr(models, "get_model", record)
    extractor = make_extractor("torchvision:resnet18/IMAGENET1K_V1")
    entry = models.ResNet18_Weights.IMAGENET1K_V1
    assert extractor.describe()["preprocess"]["transform"] == repr(entry.transforms())
    assert calls == [("resnet18", entry)]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": 64}, "resize_size=[73]"),  # the reference keeps 224 of 256
        ({"size": 64, "crop": 1.0}, "resize_size=[64]"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean=[0.5, 0.5, 0.5]"),
        ({"interpolation": "bicubic"}, "InterpolationMode.BICUBIC"),
    ],
)
def test_torchvision_overrides(make_extractor, changes, text):
    pytest.importorskip("torchvision")
    extractor = make_extractor(
        "torchvision:resnet18/IMAGENET1K_V1", pretrained=False, preprocess=changes
    )
    found = extractor.describe()["preprocess"]["transform"]
    assert text in found.replace("\n", " ").replace(
        "(0.5, 0.5, 0.5)", "[0.5, 0.5, 0.5]"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (64, 32)}, "takes square images"),
        ({"crop": 0.5}, "resizes the shorter side to the size itself"),
        ({"crop": "round"}, "must be 1.0, 'shortest', 'longest' or 'squash'"),
        ({"interpolation": "nearest"}, "open_clip takes bicubic or bilinear"),
    ],
)
def test_clip_override_refusals(make_extractor, changes, message):
    pytest.importorskip("open_clip")
    extractor = make_extractor("open_clip:RN50", pretrained=False, preprocess=changes)
    with pytest.raises(ValueError, match=message):
        extractor.extractor_key()


def test_preprocessing_follows_a_changed_image_size(make_extractor, images):
    pytest.importorskip("timm")
    timm_vit = make_extractor(
        "timm:vit_tiny_patch16_224", pretrained=False, model_kwargs={"img_size": 64}
    )
    assert timm_vit.transform(images[:1]).shape == (1, 192)
    other = make_extractor(
        "torchvision:vit_b_32", pretrained=False, model_kwargs={"image_size": 64}
    )
    assert other.transform(images[:1]).shape == (1, 768)


def test_reduced_precision_is_near_full_precision(make_extractor, images):
    pytest.importorskip("timm")
    settings = {"pretrained": False, "preprocess": {"size": 64}}
    full = make_extractor("timm:resnet18", **settings).transform(images[:4])
    half = make_extractor("timm:resnet18", precision="bfloat16", **settings)
    rows = half.transform(images[:4])
    assert half.last_run_.n_computed == 4
    assert 0 < np.abs(rows - full).max() < 0.05 * np.abs(full).max()


@pytest.mark.gpu
def test_on_a_cuda_device(make_extractor, images):
    pytest.importorskip("timm")
    settings = {"pretrained": False, "storage_dtype": "float32"}
    cpu = make_extractor("timm:resnet18", **settings).transform(images)
    gpu = make_extractor("timm:resnet18", device="auto", **settings)
    assert gpu.describe()["compute"]["dtype"] in ("bfloat16", "float16")
    rows = gpu.transform(images)
    cosine = (rows * cpu).sum(1) / np.linalg.norm(rows, axis=1)
    np.testing.assert_array_less(0.999, cosine / np.linalg.norm(cpu, axis=1))


def test_dinov2_through_timm(make_extractor, images):
    pytest.importorskip("timm")
    settings = {"pretrained": False, "model_kwargs": {"img_size": 28}}
    name = "timm:vit_small_patch14_reg4_dinov2"
    own = make_extractor(name, **settings)
    rows = own.transform(images[:2])
    assert rows.shape == (2, 384)
    network = own._network.backbone.network
    assert network.num_prefix_tokens == 5  # the class token and four registers
    mean = make_extractor(name, pooling="mean", storage_dtype="float32", **settings)
    found = mean.transform(images[:2])
    x = torch.stack(
        [own._network.backbone.prepare(Image.fromarray(a)) for a in images[:2]]
    )
    with torch.inference_mode():
        right = network.forward_features(x)[:, 5:].mean(dim=1)
    np.testing.assert_allclose(found, right, atol=1e-4)


def test_swag_linear_keeps_its_own_preprocessing(make_extractor, images):
    pytest.importorskip("torchvision")
    name = "torchvision:vit_b_16/IMAGENET1K_SWAG_LINEAR_V1"
    extractor = make_extractor(name, pretrained=False)
    assert extractor.transform(images[:1]).shape == (1, 768)
    text = extractor.describe()["preprocess"]["transform"]
    assert "crop_size=[224]" in text
    assert "BICUBIC" in text


def test_a_plain_folder_of_transformers(make_extractor, tmp_path):
    """A folder without sentence-transformers' own files is mean-pooled by it."""
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "grass"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.BertModel(config).eval()
    network.save_pretrained(tmp_path)
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    texts = ["a dog", "a dog on grass a dog on grass", "grass"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = network(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    right = {"mean": (hidden * mask).sum(1) / mask.sum(1), "cls": hidden[:, 0]}
    for pooling, rows in right.items():
        extractor = make_extractor(
            f"sentence-transformers:{tmp_path}", pooling=pooling,
            storage_dtype="float32", batch_size=2,
        )  # fmt: skip
        np.testing.assert_allclose(extractor.transform(texts), rows, atol=1e-5)
