"""Files of networks: all that is needed to predict, export and fit again is in them."""

import copy
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skdebias import ERMClassifier, LfFClassifier
from skdebias._serialize import NETWORK_FORMAT, read_file, write_file
from skdebias.export import load, save, to_onnx
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._encoder_files import unpacked_encoder

TEXTS = [
    f"{'lovely' if good else 'horrible'} {'food' if place else 'noise'} {number}"
    for number, (good, place) in enumerate((i % 2, i // 2 % 2) for i in range(16))
]
Y = np.arange(16) % 2
IMAGES = np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)


def _model(backbone, **settings):
    given = {"max_iter": 1, "batch_size": 8, "random_state": 0, "device": "cpu"}
    method = settings.pop("method", None) or ERMClassifier()
    return FineTuneClassifier(method, backbone, **(given | settings))


def _tokenizer(folder):
    """Write a tokenizer of a few words, as a library would."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lovely", "horrible", "food", "noise"]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", model_max_length=16,
    )  # fmt: skip
    fast.save_pretrained(folder)


def _encoder(folder, *, plain=False, **changes):
    """Write a small sentence encoder, or a plain transformer without its modules."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=20,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    _tokenizer(folder)
    if plain:
        return folder
    transformer = parts.Transformer(str(folder), max_seq_length=12)
    network = SentenceTransformer(
        modules=[
            transformer,
            parts.Pooling(16, pooling_mode="cls"),
            parts.Dense(16, 6),
            parts.Normalize(),
        ],
        device="cpu",
        **changes,
    )
    shutil.rmtree(folder)
    network.save(str(folder), create_model_card=False)
    return folder


def _in_hub_cache(folder, cache, name):
    """Lay a model's folder out as the cache of the hub has it."""
    home = cache / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)


ENCODERS = {
    "folder": {},
    "prompts": {
        "prompts": {"query": "food noise "}, "default_prompt_name": "query",
    },
    "truncated": {"truncate_dim": 4},
    "plain": {"plain": True},
}  # fmt: skip


def _check_the_same(again, model, items):
    np.testing.assert_array_equal(
        again.predict_proba(items), model.predict_proba(items)
    )
    np.testing.assert_array_equal(again.embed(items), model.embed(items))
    np.testing.assert_array_equal(again.predict(items), model.predict(items))
    again.to_torch()
    clone(again)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("form", ["name", "weights"])
def test_a_text_network_is_its_file(tmp_path, name, form):
    folder = _encoder(tmp_path / "encoder", **ENCODERS[name])
    settings = {"learning_rate": 0.1}
    if form == "name":
        model = _model(f"sentence-transformers:{folder}", **settings)
    else:
        model = _model("sentence-transformers:any", weights=folder, **settings)
    model.fit(TEXTS, Y)
    save(model, tmp_path / "network")
    pickled = pickle.dumps(model)
    shutil.rmtree(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = load(tmp_path / "network")
        _check_the_same(again, model, TEXTS)
        _check_the_same(pickle.loads(pickled), model, TEXTS)
        _check_the_same(copy.deepcopy(model), model, TEXTS)
    again.save(tmp_path / "twice")
    _check_the_same(load(tmp_path / "twice"), model, TEXTS)
    extractor = again.to_extractor(tmp_path / "extractor", progress=False)
    np.testing.assert_allclose(
        extractor.transform(TEXTS), model.embed(TEXTS), atol=1e-3
    )
    for other in (again, clone(load(tmp_path / "network"))):
        with pytest.warns(UserWarning, match="starts from the backbone in the file"):
            other.fit(TEXTS, Y)
        assert not np.array_equal(other.embed(TEXTS), model.embed(TEXTS))


def test_a_text_network_by_hub_name_is_its_file(tmp_path, monkeypatch):
    folder = _encoder(tmp_path / "encoder")
    hub = tmp_path / "hub"
    _in_hub_cache(folder, hub, "some/encoder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(hub))
    model = _model("sentence-transformers:some/encoder").fit(TEXTS, Y)
    model.save(tmp_path / "network")
    shutil.rmtree(hub)
    _check_the_same(FineTuneClassifier.load(tmp_path / "network"), model, TEXTS)


def test_a_text_network_from_scratch(tmp_path):
    pytest.importorskip("sentence_transformers")
    model = _model(
        "sentence-transformers:all-MiniLM-L6-v2",
        pretrained=False,
        model_kwargs={"num_hidden_layers": 1},
    ).fit(TEXTS, Y)
    model.save(tmp_path / "network")
    again = load(tmp_path / "network")
    _check_the_same(again, model, TEXTS)
    _check_the_same(pickle.loads(pickle.dumps(again)), model, TEXTS)
    first = model.predict_proba(TEXTS)
    np.testing.assert_array_equal(again.fit(TEXTS, Y).predict_proba(TEXTS), first)
    with pytest.raises(ValueError, match="trained from scratch"):
        again.to_extractor(tmp_path / "extractor")


def test_a_real_sentence_encoder(sentence_folder, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(sentence_folder, copied)
    model = _model(
        f"sentence-transformers:{copied}", freeze="backbone", layer=2, pooling="mean"
    ).fit(TEXTS, Y)
    model.save(tmp_path / "network")
    shutil.rmtree(copied)
    again = load(tmp_path / "network")
    _check_the_same(again, model, TEXTS)
    size = (tmp_path / "network").stat().st_size
    weights = sum(t.nbytes for t in model.network_.state_dict().values())
    assert size < weights + (4 << 20)  # the tokenizer, and no weights twice


IMAGE_NETWORKS = {
    "timm": ("timm:mobilenetv3_small_050", {}),
    "timm with a tag": ("timm:mobilenetv3_small_050.lamb_in1k", {}),
    "torchvision": ("torchvision:mobilenet_v3_small", {}),
    "torchvision with a tag": ("torchvision:mobilenet_v3_small/IMAGENET1K_V1", {}),
    "open_clip": ("open_clip:ViT-S-32-alt", {}),
}


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_an_image_network_is_its_file(tmp_path, name):
    backbone, settings = IMAGE_NETWORKS[name]
    pytest.importorskip(backbone.partition(":")[0])
    small = {"preprocess": {"size": 32}} if "open_clip" not in backbone else {}
    if small:
        random = _model(backbone, pretrained=False, **small, **settings)
        random.fit(IMAGES, Y)
        random.to_extractor(tmp_path / "weights.safetensors")
        model = _model(
            backbone, weights=tmp_path / "weights.safetensors", **small, **settings
        )
    else:
        model = _model(backbone, pretrained=False, max_iter=1, freeze="backbone")
    model.fit(IMAGES, Y)
    model.save(tmp_path / "network")
    (tmp_path / "weights.safetensors").unlink(missing_ok=True)
    again = load(tmp_path / "network")
    _check_the_same(again, model, IMAGES)
    _check_the_same(pickle.loads(pickle.dumps(again)), model, IMAGES)
    again.to_extractor(tmp_path / "again.safetensors")
    if small:
        with pytest.warns(UserWarning, match=r"weights=.* is not there"):
            again.fit(IMAGES, Y)
        again.set_params(weights=tmp_path / "another")
        with pytest.raises(ValueError, match="another"):
            again.fit(IMAGES, Y)


def _own(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU())


def test_a_module_is_given_and_stays_as_it_is(tmp_path):
    X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    model = _model(_own(), modality="tensor", learning_rate=0.5).fit(X, Y)
    model.save(tmp_path / "network")
    with pytest.raises(ValueError, match=r"^backbone=None: .*backbone of your own"):
        load(tmp_path / "network")
    given = _own(1)
    before = given[0].weight.clone()
    again = FineTuneClassifier.load(tmp_path / "network", backbone=given)
    _check_the_same(again, model, X)
    torch.testing.assert_close(given[0].weight, before)
    same_start = FineTuneClassifier.load(tmp_path / "network", backbone=_own())
    _check_the_same(same_start.fit(X, Y), model, X)
    with pytest.raises(ValueError, match="another architecture"):
        FineTuneClassifier.load(tmp_path / "network", backbone=nn.Linear(5, 4))


def test_a_loaded_network_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    import onnxruntime

    folder = _encoder(tmp_path / "encoder")
    model = _model(f"sentence-transformers:{folder}").fit(TEXTS, Y)
    model.save(tmp_path / "network")
    shutil.rmtree(folder)
    again = load(tmp_path / "network")
    to_onnx(again, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    names = [entry.name for entry in session.get_inputs()]
    batch = again.network_.embedder.collate(TEXTS)
    feed = {name: batch[name].numpy() for name in names}
    (found,) = session.run(["probabilities"], feed)
    np.testing.assert_allclose(found, model.predict_proba(TEXTS), atol=1e-5)


def test_a_method_with_two_networks(tmp_path):
    X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    model = _model(_own(), modality="tensor", method=LfFClassifier()).fit(X, Y)
    model.save(tmp_path / "network")
    again = FineTuneClassifier.load(tmp_path / "network", backbone=_own())
    _check_the_same(again, model, X)
    assert not hasattr(again, "biased_network_")


def _forge(path, change):
    tensors, header = read_file(path, NETWORK_FORMAT, torch=True)
    change(tensors, header)
    write_file(path, tensors, header)


FORGERIES = {
    "file outside": lambda t, h: t.update({"file.../x.json": torch.zeros(1).byte()}),
    "absolute file": lambda t, h: t.update({"file./x.json": torch.zeros(1).byte()}),
    "code": lambda t, h: t.update({"file.x.py": torch.zeros(1).byte()}),
    "pickle": lambda t, h: t.update({"file.x.bin": torch.zeros(1).byte()}),
    "weights outside": lambda t, h: h["files"].update({"../a.safetensors": {}}),
    "no tensor": lambda t, h: h["files"].update({"a.safetensors": {"b": "c"}}),
    "no files": lambda t, h: h.pop("files"),
    "module": lambda t, h: t.update(
        {"file.modules.json": _bytes('[{"idx": 0, "path": "", "type": "os.system"}]')}
    ),
    "head": lambda t, h: h["sizes"].__setitem__(0, 10**9),
    "hidden layers": lambda t, h: h["sizes"].insert(1, 10**9),
    "no sizes": lambda t, h: h.pop("sizes"),
    "nan": lambda t, h: t["network.head.1.weight"].fill_(float("nan")),
    "method": lambda t, h: h["fitted"]["dict"].append(["predict", 1]),
    "shapes": lambda t, h: _set(h["fitted"], "_input_shapes", 5),
    "classes": lambda t, h: _set(h["fitted"], "classes_", 5),
    "n_iter": lambda t, h: _set(h["fitted"], "n_iter_", "x"),
    "no parameters": lambda t, h: h.update(parameters=None),
    "backbone": lambda t, h: _set(h["parameters"], "backbone", "timm:resnet18"),
}


def _bytes(text):
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _set(described, name, value):
    for pair in described["dict"]:
        if pair[0] == name:
            pair[1] = value


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    home = tmp_path_factory.mktemp("encoder")
    model = _model(f"sentence-transformers:{_encoder(home / 'encoder')}").fit(TEXTS, Y)
    model.save(home / "network")
    shutil.rmtree(home / "encoder")
    return home / "network"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_is_refused(encoder_file, tmp_path, name):
    path = tmp_path / "inside" / "network"
    path.parent.mkdir()
    shutil.copyfile(encoder_file, path)
    _forge(path, FORGERIES[name])
    with pytest.raises(ValueError, match="network"):
        load(path)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inside", "network"]


def test_files_that_are_not_data_are_not_written(tmp_path):
    layout = {"a.safetensors": {"x": "network.x"}}
    tensors = {"network.x": torch.ones(2), "file.1_Pooling/config.json": _bytes("{}")}
    with unpacked_encoder(layout, tensors) as folder:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
        assert found == {"a.safetensors", "1_Pooling/config.json"}
    assert not folder.exists()


def test_other_preprocessing_than_in_training_is_said(encoder_file, tmp_path):
    path = tmp_path / "network"
    shutil.copyfile(encoder_file, path)
    _forge(path, lambda t, h: h["prepared"].update(max_length=999))
    with pytest.warns(UserWarning, match=r"max_length was 999 and is 12"):
        load(path)


def test_loading_asks_no_network_and_no_other_file(encoder_file):
    """In a process without a home, a cache or a hub that could be asked."""
    code = f"""
import socket
def refuse(*_, **__): raise AssertionError("asked the network")
socket.socket.connect = refuse
from skdebias.export import load
print(load({str(encoder_file)!r}).predict({TEXTS!r}).tolist())
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.strip() == str(load(encoder_file).predict(TEXTS).tolist())
