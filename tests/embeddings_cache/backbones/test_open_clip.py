"""open_clip: a tag's preprocessing and activation, however its weights come in."""

import json

import library_paths
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embeddings_cache import UnknownBackboneError
from embeddings_cache.backbones import build_backbone

library = pytest.importorskip("open_clip")
pretrained = pytest.importorskip("open_clip.pretrained")
factory = pytest.importorskip("open_clip.factory")

TEXTS = ["a dog", "a much longer sentence about a dog on the grass", "naïve"]
TEXT = {"width": 16, "heads": 2, "layers": 1, "context_length": 12}
VISION = {"width": 16, "head_width": 8, "layers": 2, "patch_size": 8, "image_size": 32}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}
TIMM = {"timm_model_name": "resnet10t", "image_size": 32, "timm_proj": "linear"}
MULTIMODAL = {"width": 16, "heads": 2, "layers": 1, "context_length": 12}
ARCHITECTURES = {
    "tiny": {"vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-quickgelu": {"vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
    "tiny-resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "tiny-timm": {"vision_cfg": TIMM, "text_cfg": TEXT, "custom_text": True},
    "tiny-custom": {
        "vision_cfg": VISION | {"pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT | {"pool_type": "last", "proj_bias": True, "act_kwargs": {}},
        "custom_text": True,
        "init_logit_bias": -10.0,
    },
    "tiny-coca": {
        "vision_cfg": VISION
        | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": MULTIMODAL,
        "custom_text": True,
    },
    "tiny-wide": {
        "vision_cfg": VISION | {"image_size": [32, 48]},
        "text_cfg": TEXT,
    },
}
HALF = (0.5, 0.5, 0.5)
TAGS = {
    "plain": pretrained._pcfg("u"),
    "quick": pretrained._pcfg("u", quick_gelu=True),
    "siglip": pretrained._slpcfg("u"),
    "clipa": pretrained._apcfg("u"),
    "mobile": pretrained._mccfg("u"),
    "pe": pretrained._pecfg("u"),
    "longest": pretrained._pcfg("u", resize_mode="longest", mean=HALF),
    "bilinear": pretrained._pcfg("u", interpolation="bilinear", std=HALF),
}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    """Give open_clip small architectures, each with every tag."""
    for name, config in ARCHITECTURES.items():
        whole = json.loads(json.dumps({"embed_dim": 16, **config}))
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, whole)
        monkeypatch.setitem(pretrained._PRETRAINED, name, TAGS)


def save(tmp_path, name, **kwargs):
    """Save a network of random weights that are far from zero."""
    torch.manual_seed(3)
    network = library.create_model(name, pretrained=None, **kwargs)
    state = {key: value + 0.1 for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    return tmp_path / "clip.safetensors"


def extractor_of(make_extractor, name, file=None, **settings):
    settings |= {"storage_dtype": "float32", "weights": file}
    return make_extractor(f"open_clip:{name}", **settings)


CASES = [
    *(("tiny", tag, {}) for tag in TAGS),
    ("tiny-quickgelu", "quick", {}),
    ("tiny-quickgelu", "plain", {}),
    ("tiny-resnet", "quick", {}),
    ("tiny-timm", "siglip", {}),
    ("tiny-custom", "quick", {}),
    ("tiny-coca", "plain", {}),
    ("tiny-coca", "siglip", {}),
    ("tiny-wide", "siglip", {}),
    ("tiny-wide", "longest", {}),
    ("tiny", "quick", {"force_quick_gelu": False}),
    ("tiny", "plain", {"force_quick_gelu": True}),
    ("tiny", "siglip", {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.9, 0.8, 0.7)}),
    ("tiny", "siglip", {"image_resize_mode": "shortest"}),
    ("tiny", "plain", {"image_interpolation": "bilinear"}),
    ("tiny", "plain", {"force_patch_dropout": 0.5}),
    ("tiny-resnet", "plain", {"force_image_size": 64}),
]


@pytest.mark.parametrize(("name", "tag", "kwargs"), CASES)
def test_images_by_a_file_of_weights(
    make_extractor, monkeypatch, tmp_path, name, tag, kwargs
):
    sizes = {k: v for k, v in kwargs.items() if k == "force_image_size"}
    file = save(tmp_path, name, **sizes)
    images = library_paths.photographs()
    extractor = extractor_of(make_extractor, f"{name}/{tag}", file, model_kwargs=kwargs)
    rows = extractor.transform(images)
    right = library_paths.open_clip(
        monkeypatch, file, name, tag, items=images, **kwargs
    )
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tag", "kwargs"),
    [
        ("tiny", "plain", {}),
        ("tiny", "quick", {}),
        ("tiny-quickgelu", "plain", {}),
        ("tiny-custom", "quick", {}),
        ("tiny-coca", "plain", {}),
        ("tiny", "quick", {"force_quick_gelu": False}),
        ("tiny", "plain", {"force_context_length": 8}),
        ("tiny", "plain", {"force_custom_text": True}),
    ],
)
def test_texts_by_a_file_of_weights(
    make_extractor, monkeypatch, tmp_path, name, tag, kwargs
):
    others = {k: v for k, v in kwargs.items() if k != "force_quick_gelu"}
    file = save(tmp_path, name, **others)
    extractor = extractor_of(
        make_extractor, f"{name}/{tag}", file, modality="text", model_kwargs=kwargs
    )
    right = library_paths.open_clip(
        monkeypatch, file, name, tag, modality="text", items=TEXTS, **kwargs
    )
    np.testing.assert_allclose(extractor.transform(TEXTS), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tag", ["quick", "siglip", "mobile"])
def test_published_and_local_weights_give_equal_rows(
    make_extractor, monkeypatch, tmp_path, tag
):
    file = save(tmp_path, "tiny")
    images = library_paths.photographs()
    local = extractor_of(make_extractor, f"tiny/{tag}", file)
    monkeypatch.setattr(factory, "download_pretrained", lambda *_, **__: str(file))
    published = extractor_of(make_extractor, f"tiny/{tag}")
    assert published.extractor_key() == local.extractor_key()
    np.testing.assert_array_equal(published.transform(images), local.transform(images))


@pytest.mark.parametrize("tag", TAGS)
def test_random_weights_with_a_tag_have_its_settings(tag):
    backbone = build_backbone(f"open_clip:tiny/{tag}", pretrained=False)
    config = {k: v for k, v in TAGS[tag].items() if k in ("mean", "std")}
    config |= {k: TAGS[tag][k] for k in ("interpolation", "resize_mode")}
    reference = library.transform.image_transform_v2(
        library.transform.PreprocessCfg(size=(32, 32), **config), is_train=False
    )
    assert backbone.description["preprocess"]["transform"] == repr(reference)
    assert ("activation" in backbone.description) == (tag == "quick")


def published_names():
    return [
        (name, tag)
        for name in library.list_models()
        if not name.startswith("tiny")
        for tag in library.list_pretrained_tags_by_model(name)
    ]


def test_the_settings_of_every_published_tag(monkeypatch):
    """What the library's factory would make of each tag, without building it."""
    from embeddings_cache.backbones._base import BackboneSpec
    from embeddings_cache.backbones.open_clip import _network, _source

    monkeypatch.setattr(
        library.model, "_build_vision_tower", lambda _, vision, quick: (vision, quick)
    )
    assert len(published_names()) > 150
    for name, tag in published_names():
        spec = BackboneSpec("open_clip", f"{name}/{tag}", weights="file")
        source = _source.resolve(spec, library)
        tower = _network._tower(spec, library, source)
        settings = pretrained.get_pretrained_cfg(name, tag)
        model = library.get_model_config(name)
        fields = ("mean", "std", "interpolation", "resize_mode")
        for field in fields:
            assert getattr(tower.config, field) == settings[field], (name, tag)
        assert tower.config.size == model["vision_cfg"].get("image_size", 224)
        quick = model.get("quick_gelu", False) or settings.get("quick_gelu", False)
        assert tower.network[1] == quick, (name, tag)


@pytest.mark.parametrize("settings", [{"pretrained": False}, {"weights": "w"}, {}])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_unknown_tags_get_near_names(make_extractor, tmp_path, settings, modality):
    extractor = make_extractor(
        "open_clip:ViT-B-32/laion400m_e33", modality=modality, **settings
    )
    with pytest.raises(UnknownBackboneError, match=r"'laion400m_e33' is not a.*m_e31'"):
        extractor.extractor_key()


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, "image_mean, image_std, image_interpolation, .*force_quick_gelu"),
        ({"modality": "text"}, r"\(force_quick_gelu\)"),
        (
            {"model_kwargs": {"force_quick_gelu": False}},
            "image_mean, image_std, image_interpolation, image_resize_mode",
        ),
        (
            {
                "model_kwargs": {"force_quick_gelu": True, "image_std": HALF},
                "preprocess": {"mean": HALF, "crop": "squash"},
            },
            r"\(image_interpolation\)",
        ),
    ],
)
def test_weights_without_a_tag_need_their_settings(
    make_extractor, tmp_path, settings, missing
):
    file = save(tmp_path, "tiny")
    with pytest.raises(UnknownBackboneError, match=missing):
        extractor_of(make_extractor, "tiny", file, **settings).extractor_key()


def test_weights_without_a_tag_whose_settings_are_stated(
    make_extractor, monkeypatch, tmp_path
):
    file = save(tmp_path, "tiny")
    kwargs = {
        "force_quick_gelu": True, "image_mean": HALF, "image_std": HALF,
        "image_interpolation": "bilinear", "image_resize_mode": "squash",
    }  # fmt: skip
    images = library_paths.photographs()
    rows = extractor_of(make_extractor, "tiny", file, model_kwargs=kwargs)
    right = library_paths.open_clip(
        monkeypatch, file, "tiny", "plain", items=images, **kwargs
    )
    np.testing.assert_allclose(rows.transform(images), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tags", [{}, {"plain": TAGS["plain"]}])
def test_weights_without_a_tag_where_nothing_is_open(
    make_extractor, monkeypatch, tmp_path, tags
):
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    file = save(tmp_path, "tiny")
    model, _, transform = library.create_model_and_transforms("tiny", str(file))
    images = library_paths.photographs()
    right = library_paths.embed_images(model, transform, images, "encode_image")
    rows = extractor_of(make_extractor, "tiny", file).transform(images)
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", "fp16"), ("device", "cuda"), ("jit", True), ("pretrained", "x")],
)
def test_arguments_without_a_place(make_extractor, name, value):
    extractor = extractor_of(
        make_extractor, "tiny/plain", pretrained=False, model_kwargs={name: value}
    )
    with pytest.raises(ValueError, match=f"model_kwargs has '{name}', which has no"):
        extractor.extractor_key()


def local_folder(tmp_path, name, preprocess):
    """Write a folder as open_clip's own `save_for_hf` does."""
    folder = tmp_path / "folder"
    folder.mkdir()
    file = save(tmp_path, name)
    file.rename(folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 16, **ARCHITECTURES[name]}}
    config["preprocess_cfg"] = preprocess
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("name", "preprocess"),
    [
        ("tiny", {}),
        ("tiny-quickgelu", {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}),
        ("tiny-timm", {"std": [0.9, 0.8, 0.7], "interpolation": "bilinear"}),
        ("tiny-coca", {"resize_mode": "longest", "fill_color": 127}),
    ],
)
def test_local_folders_with_their_configuration(
    make_extractor, tmp_path, name, preprocess
):
    folder = local_folder(tmp_path, name, preprocess)
    images = library_paths.photographs()
    model, _, transform = library.create_model_and_transforms(f"local-dir:{folder}")
    right = library_paths.embed_images(model, transform, images, "encode_image")
    extractor = extractor_of(make_extractor, f"local-dir:{folder}")
    rows = extractor.transform(images)
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)
    before = extractor.extractor_key()
    folder.rename(tmp_path / "moved")
    moved = extractor_of(make_extractor, f"local-dir:{tmp_path / 'moved'}")
    assert moved.extractor_key() == before
    tokens = library.get_tokenizer(f"local-dir:{tmp_path / 'moved'}")(TEXTS)
    texts = extractor_of(
        make_extractor, f"local-dir:{tmp_path / 'moved'}", modality="text"
    )
    with torch.inference_mode():
        right = model.encode_text(tokens)
    np.testing.assert_allclose(texts.transform(TEXTS), right, rtol=1e-5, atol=1e-5)


def test_repositories_with_their_configuration(make_extractor, monkeypatch, tmp_path):
    folder = local_folder(tmp_path, "tiny", {"resize_mode": "squash", "mean": HALF})

    def download(_, filename="open_clip_model.safetensors", **__):
        return str(folder / filename)

    monkeypatch.setattr(factory, "download_pretrained_from_hf", download)
    images = library_paths.photographs()
    model, _, transform = library.create_model_and_transforms("hf-hub:some/one")
    right = library_paths.embed_images(model, transform, images, "encode_image")
    extractor = extractor_of(make_extractor, "hf-hub:some/one")
    rows = extractor.transform(images)
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-5)


def test_a_local_folder_is_read_anew_when_it_changes(make_extractor, tmp_path):
    folder = local_folder(tmp_path, "tiny", {"fill_color": 1, "resize_mode": "longest"})
    extractor = extractor_of(make_extractor, f"local-dir:{folder}")
    keys = [extractor.extractor_key()]
    path = folder / "open_clip_config.json"
    path.write_text(path.read_text().replace('"fill_color": 1', '"fill_color": 2'))
    keys.append(extractor.extractor_key())
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    keys.append(extractor.extractor_key())
    assert len(set(keys)) == 3


def test_texts_that_were_cut_are_counted(make_extractor):
    extractor = extractor_of(
        make_extractor, "tiny/plain", pretrained=False, modality="text", batch_size=2
    )
    fits = "dog " * 10  # and two tokens around it
    report = extractor.precompute(["dog", fits, "dog " * 11, "cat " * 90])
    assert report.n_truncated == 2
    assert "2 texts cut at the network's maximum length" in str(report)


def test_tokenizers_that_draw_random_words_are_refused(make_extractor, monkeypatch):
    config = factory._MODEL_CONFIGS["tiny"]
    config["text_cfg"]["tokenizer_kwargs"] = {"reduction_mask": "shuffle"}
    extractor = extractor_of(
        make_extractor, "tiny/plain", pretrained=False, modality="text"
    )
    with pytest.raises(ValueError, match=r"'shuffle'.* leaves out words .* at random"):
        extractor.extractor_key()
