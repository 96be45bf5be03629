"""Items on their way to a network: the same whatever way they take."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from embeddings_cache import EmbeddingExtractor, UnreadableItemError
from skdebias import ERMClassifier, GERNEClassifier, UGCClassifier, ULEClassifier
from skdebias.finetune import FineTuneClassifier

RNG = np.random.default_rng(0)
Y = np.arange(40) % 2
PLACE = np.where(np.arange(40) % 10 == 0, 1 - Y, Y)
IMAGES = RNG.integers(0, 80, (40, 24, 24, 3), dtype=np.uint8)
IMAGES[..., 0] += (PLACE * 120).astype(np.uint8)[:, None, None]
IMAGES[:, :8, :8, 1] += (Y * 60).astype(np.uint8)[:, None, None]


def _cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


def _model(method=None, **settings):
    given = {
        "preprocess": {"size": 24},
        "learning_rate": 0.05,
        "batch_size": 16,
        "max_iter": 2,
        "random_state": 0,
        "device": "cpu",
    }
    method = method or GERNEClassifier(beta=0.2)
    return FineTuneClassifier(method, _cnn(), **(given | settings))


def _flip(image):
    return image.flip(-1) if torch.rand(()) < 0.5 else image


@pytest.fixture
def paths(tmp_path):
    found = []
    for number, image in enumerate(IMAGES):
        found.append(tmp_path / f"{number:02d}.png")
        Image.fromarray(image).save(found[-1])
    return found


def test_arrays_files_and_images_are_the_same_items(paths, tmp_path):
    kinds = [IMAGES, list(IMAGES), [Image.fromarray(i) for i in IMAGES], paths,
             [str(path) for path in paths], tmp_path]  # fmt: skip
    found = [_model().fit(items, Y, PLACE).decision_function(items) for items in kinds]
    for scores in found[1:]:
        np.testing.assert_array_equal(scores, found[0])


@pytest.mark.parametrize("augment", [None, _flip])
def test_memory_and_workers_change_no_number(paths, augment):
    models = [
        _model(augment=augment, memory=memory, num_workers=workers).fit(
            paths, Y, PLACE, X_val=paths[:9], y_val=Y[:9], attributes_val=PLACE[:9]
        )
        for memory, workers in ((1024, 0), (0, 0), (0, 2))
    ]
    whole = models[0].decision_function(paths)
    for model in models[1:]:
        np.testing.assert_array_equal(model.decision_function(paths), whole)
        assert model.loss_curve_ == models[0].loss_curve_
    if augment is not None:
        plain = _model().fit(paths, Y, PLACE).decision_function(paths)
        assert np.abs(plain - whole).max() > 1e-4


@pytest.mark.parametrize("memory", [1024, 0])
def test_what_cannot_be_read_is_named(paths, memory):
    paths[3].write_bytes(b"no image")
    with pytest.raises(UnreadableItemError, match=r"item 3, .*03\.png") as error:
        _model(memory=memory, batch_size=40).fit(paths, Y, PLACE)
    assert "cache" not in str(error.value)
    paths[5].unlink()
    with pytest.raises(UnreadableItemError, match=r"item 5, .*no such file"):
        _model(memory=memory).fit(paths, Y, PLACE)
    with pytest.raises(UnreadableItemError, match=r"item 5, .*no such file"):
        _model().fit(IMAGES, Y, PLACE, X_val=paths, y_val=Y)


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_what_is_no_file_is_told_by_its_kind(paths, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    wrong = {tmp_path / "pipe.png": "a named pipe", "https://host/a.png": "an address"}
    for item, message in wrong.items():
        with pytest.raises(UnreadableItemError, match=message):
            _model().fit([*paths[:-1], item], Y, PLACE)


def test_the_fine_tuned_backbone_feeds_a_cache(paths, tmp_path):
    model = _model().fit(paths, Y, PLACE)
    extractor = model.to_extractor(
        cache_dir=tmp_path / "cache", storage_dtype="float32", progress=False
    )
    rows = extractor.fit_transform(paths)
    np.testing.assert_allclose(rows, model.embed(paths), atol=1e-6)
    assert extractor.last_run_.n_computed == 40
    extractor.fit_transform(IMAGES[:3])
    # Another fit is another network: nothing of the first one is found.
    other = _model(random_state=1).fit(paths, Y, PLACE)
    extractor = other.to_extractor(cache_dir=tmp_path / "cache", progress=False)
    extractor.fit_transform(paths)
    assert extractor.last_run_.n_computed == 40


def _mobilenet(file, method, **settings):
    return FineTuneClassifier(
        method,
        "timm:mobilenetv2_035",
        weights=file,
        model_kwargs={"pad_type": "same", "bn_eps": 1e-3},
        preprocess={"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        random_state=0,
        device="cpu",
        **{"max_iter": 1, "batch_size": 20, "learning_rate": 1e-3, **settings},
    )


def test_a_pretrained_network_by_name(mobilenet_file, tmp_path):
    method = GERNEClassifier(beta=0.2)
    model = _mobilenet(mobilenet_file, method).fit(IMAGES, Y, PLACE)
    before = EmbeddingExtractor(
        "timm:mobilenetv2_035",
        weights=mobilenet_file,
        model_kwargs={"pad_type": "same", "bn_eps": 1e-3},
        preprocess={"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        cache_dir=tmp_path,
        storage_dtype="float32",
        device="cpu",
        progress=False,
    ).fit_transform(IMAGES)
    assert np.abs(before - model.embed(IMAGES)).max() > 1e-4
    frozen = _mobilenet(mobilenet_file, method, freeze="backbone")
    np.testing.assert_allclose(
        frozen.fit(IMAGES, Y, PLACE).embed(IMAGES), before, atol=1e-4
    )
    weights = tmp_path / "tuned.safetensors"
    extractor = model.to_extractor(
        weights, cache_dir=tmp_path, storage_dtype="float32", progress=False
    )
    np.testing.assert_allclose(
        extractor.fit_transform(IMAGES), model.embed(IMAGES), atol=1e-4
    )


def test_statistics_of_trained_networks_stay(mobilenet_file):
    def statistics(**settings):
        model = _mobilenet(mobilenet_file, ERMClassifier(), **settings)
        state = model.fit(IMAGES, Y).network_.state_dict()
        return {k: v for k, v in state.items() if "running_mean" in k}

    kept, frozen, trained = (
        statistics(**own)
        for own in ({}, {"batch_norm": "frozen"}, {"batch_norm": "train"})
    )
    for name, value in kept.items():
        torch.testing.assert_close(value, frozen[name])
    assert any(not torch.equal(trained[name], kept[name]) for name in kept)


@pytest.mark.filterwarnings("ignore::skdebias.attributes.WeakClustersWarning")
def test_texts(sentence_folder, tmp_path):
    texts = [
        f"{'lovely' if good else 'horrible'} {'food' if place else 'noise'}, {number}"
        for number, (good, place) in enumerate(zip(Y, PLACE))
    ]
    settings = {
        "weights": sentence_folder,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "max_iter": 2,
        "batch_size": 16,
        "clip_norm": 1.0,
        "dropout": 0.1,
        "random_state": 0,
        "device": "cpu",
    }
    name = "sentence-transformers:all-MiniLM-L6-v2"
    methods = [
        GERNEClassifier(beta=0.2), ULEClassifier(lam=0.7), UGCClassifier(),
    ]  # fmt: skip
    for method in methods:
        model = FineTuneClassifier(method, name, freeze=["*embeddings*"], **settings)
        model.fit(texts, Y, None if method is methods[-1] else PLACE)
        assert model.score(texts, Y) > 0.7
    model.save(tmp_path / "texts.safetensors")
    again = FineTuneClassifier.load(tmp_path / "texts.safetensors")
    np.testing.assert_array_equal(
        again.predict_proba(texts), model.predict_proba(texts)
    )
    with pytest.raises(TypeError, match="list of strings"):
        model.predict("one text")
