"""FineTuneClassifier as users meet it: parameters, files, errors."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skdebias import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    LfFClassifier,
    ULEClassifier,
)
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save, to_onnx, to_torch
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._training import NetworkTraining
from skdebias.metrics import worst_group_accuracy_score

X, Y, ATTRIBUTES = make_spurious_classification(1200, random_state=0)
X_TEST, Y_TEST, ATTRIBUTES_TEST = (part[600:] for part in (X, Y, ATTRIBUTES))
X, Y, ATTRIBUTES = (part[:600] for part in (X, Y, ATTRIBUTES))
NAMES = np.array(["cat", "dog"])[Y]


def _backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 12), nn.BatchNorm1d(12), nn.ReLU())


def _model(method=None, backbone=None, **settings):
    given = {
        "modality": "tensor",
        "learning_rate": 0.05,
        "batch_size": 60,
        "max_iter": 3,
        "random_state": 0,
        "device": "cpu",
    }
    method = method or GERNEClassifier(beta=0.2)
    return FineTuneClassifier(method, backbone or _backbone(), **(given | settings))


@pytest.fixture(scope="module")
def fitted():
    return _model().fit(X, NAMES, ATTRIBUTES)


def test_it_debiases():
    def worst(method):
        model = _model(method, max_iter=12).fit(X, Y, ATTRIBUTES)
        predicted = model.predict(X_TEST)
        return worst_group_accuracy_score(Y_TEST, predicted, attributes=ATTRIBUTES_TEST)

    erm = worst(ERMClassifier())
    assert worst(GERNEClassifier(beta=0.5)) > erm + 0.1
    assert worst(GroupDROClassifier(step_size=0.1)) > erm + 0.1


def test_several_attributes_and_classes_of_any_kind():
    labels = np.array(["low", "mid", "high"])[np.digitize(X[:, 0], [-1, 1])]
    crossed = np.column_stack([ATTRIBUTES, X[:, 1] > 0])
    model = _model().fit(X, labels, crossed)
    assert set(model.predict(X)) <= {"low", "mid", "high"}
    assert model.attribute_values_.shape == (4, 2)
    assert len(model.groups_) == len(
        np.unique(np.column_stack([labels, crossed]), axis=0)
    )
    assert model.predict_proba(X).shape == (600, 3)


def test_the_users_module_and_randomness_stay_as_they_are():
    backbone = _backbone()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    method = GERNEClassifier(beta=0.2)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    _model(method, backbone, dropout=0.5).fit(X, Y, ATTRIBUTES)
    torch.testing.assert_close(torch.rand(3), expected)
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert vars(method).keys() == method.get_params().keys()


def test_the_best_epoch_is_kept():
    rng = np.random.default_rng(0)
    noise = rng.permutation(Y)  # what is learnt on noise is soon wrong elsewhere
    judged = {"X_val": X_TEST, "y_val": Y_TEST, "attributes_val": ATTRIBUTES_TEST}
    model = _model(max_iter=6).fit(X, np.where(rng.random(600) < 0.5, Y, noise),
                                   ATTRIBUTES, **judged)  # fmt: skip
    scores = model.history_["validation_score"]
    assert model.best_epoch_ == 1 + int(np.argmax(scores))
    predicted = model.predict(X_TEST)
    kept = worst_group_accuracy_score(Y_TEST, predicted, attributes=ATTRIBUTES_TEST)
    assert kept == pytest.approx(max(scores))
    table = model.history_["validation_group_accuracy"]
    assert table.shape == (6, 4)
    np.testing.assert_allclose(table.min(1), scores)
    last = clone(model).set_params(selection="last").fit(X, Y, ATTRIBUTES, **judged)
    assert last.best_epoch_ == 6


def test_the_network_beside_it_is_of_the_same_epoch(tmp_path):
    judged = {"X_val": X_TEST, "y_val": Y_TEST, "attributes_val": ATTRIBUTES_TEST}
    model = _model(ULEClassifier(lam=0.7), max_iter=8).fit(X, Y, **judged)
    assert 1 < model.best_epoch_ < 8
    short = _model(ULEClassifier(lam=0.7), max_iter=model.best_epoch_).fit(X, Y)
    for name in ("network_", "student_network_"):
        found, wanted = (getattr(m, name).state_dict() for m in (model, short))
        assert all(found[key].equal(wanted[key]) for key in wanted)
    save(model, tmp_path / "ule.safetensors")
    again = FineTuneClassifier.load(tmp_path / "ule.safetensors", backbone=_backbone())
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    model.set_params(estimator=LfFClassifier(), max_iter=1).fit(X, Y)
    assert not hasattr(model, "student_network_")
    assert isinstance(model.biased_network_, nn.Module)


def test_early_stopping():
    # From a head of zeros that does not move, the loss is the same in every epoch.
    model = _model(
        backbone=nn.Identity(),
        max_iter=30,
        early_stopping=True,
        n_iter_no_change=2,
        learning_rate=1e-12,
    ).fit(X, Y, ATTRIBUTES)
    assert model.n_iter_ == 3


@pytest.mark.parametrize("device", ["cpu"])
def test_a_seed_is_a_network(device):
    found = [
        _model(dropout=0.3, random_state=seed, device=device)
        .fit(X, Y, ATTRIBUTES)
        .decision_function(X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_grid_over_beta(fitted):
    grid = GridSearchCV(_model(max_iter=1), {"estimator__beta": [0.0, 0.2]}, cv=2)
    with sklearn.config_context(enable_metadata_routing=True):
        grid.fit(X, NAMES, attributes=ATTRIBUTES)
    assert grid.best_params_["estimator__beta"] in (0.0, 0.2)
    assert grid.best_estimator_.estimator_.beta_ == grid.best_params_["estimator__beta"]


def test_files_and_pickles(fitted, tmp_path):
    path = tmp_path / "network.safetensors"
    save(fitted, path)
    loaded = FineTuneClassifier.load(path, backbone=nn.Sequential(*_backbone()))
    pickled = pickle.loads(pickle.dumps(fitted))
    for again in (loaded, pickled):
        np.testing.assert_array_equal(
            again.decision_function(X_TEST), fitted.decision_function(X_TEST)
        )
        np.testing.assert_array_equal(again.predict(X_TEST), fitted.predict(X_TEST))
        assert again.estimator_.beta_ == 0.2
        np.testing.assert_array_equal(again.groups_, fitted.groups_)
        assert again.loss_curve_ == fitted.loss_curve_
        assert again.get_params()["learning_rate"] == 0.05
    assert not list(tmp_path.glob(".partial*"))


def test_a_file_of_a_named_backbone_needs_nothing_else(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (12, 32, 32), dtype=np.uint8)
    model = FineTuneClassifier(
        ERMClassifier(hidden_layer_sizes=(5,)),
        "timm:resnet18",
        pretrained=False,
        preprocess={"size": 32},
        max_iter=1,
        random_state=0,
        device="cpu",
    ).fit(images, np.arange(12) % 3)
    path = tmp_path / "network.safetensors"
    save(model, path)
    np.testing.assert_array_equal(load(path).predict_proba(images),
                                  model.predict_proba(images))  # fmt: skip
    other = path.with_name("other.safetensors")
    content = path.read_bytes().replace(b"timm:resnet18", b"timm:resnet26", 1)
    other.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|architecture"):
        load(other)


def test_files_of_another_architecture_or_damaged_are_refused(fitted, tmp_path):
    path = tmp_path / "network.safetensors"
    fitted.save(path)
    with pytest.raises(ValueError, match="another architecture"):
        FineTuneClassifier.load(path, backbone=nn.Linear(20, 12))
    with pytest.raises(ValueError, match="backbone of your own"):
        FineTuneClassifier.load(path)
    with pytest.raises(ValueError, match="was not trained with preprocess"):
        FineTuneClassifier.load(path, backbone=_backbone(), preprocess=len)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        FineTuneClassifier.load(path, backbone=_backbone())
    with pytest.raises(FileNotFoundError):
        FineTuneClassifier.load(tmp_path / "nothing")
    head = tmp_path / "head.safetensors"
    save(ERMClassifier(max_iter=1).fit(X, Y), head)
    with pytest.raises(ValueError, match=r"has format .*FineTuneClassifier\.load"):
        FineTuneClassifier.load(head)


@pytest.mark.parametrize("labels", [NAMES, np.digitize(X[:, 0], [-1, 1])])
def test_torch_and_onnx(labels, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = _model().fit(X, labels, ATTRIBUTES)
    probabilities = model.predict_proba(X_TEST)
    rows = torch.from_numpy(X_TEST).float()
    with torch.no_grad():
        logits = to_torch(model)(rows)
    np.testing.assert_allclose(logits.softmax(1), probabilities, atol=1e-5)
    to_onnx(model, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    (found,) = session.run(["probabilities"], {"items": rows.numpy()})
    np.testing.assert_allclose(found, probabilities, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == model.classes_.tolist()


def test_freezing(fitted):
    start = _backbone().state_dict()

    def changed(**settings):
        state = _model(**settings).fit(X, Y, ATTRIBUTES).network_.backbone.state_dict()
        return {k for k, v in state.items() if not torch.equal(v, start[k])}

    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    layers = {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert changed() == layers | statistics
    assert changed(batch_norm="frozen") == layers
    assert changed(freeze=["0"]) == layers - {"0.weight", "0.bias"} | statistics
    assert changed(freeze=["*.bias"]) == {"0.weight", "1.weight"} | statistics
    # A frozen normalisation keeps its statistics too.
    assert changed(freeze=["1"]) == {"0.weight", "0.bias"}
    assert changed(freeze="backbone") == set()


def test_a_linear_head_starts_at_zero_where_it_is_alone():
    def start(backbone, **settings):
        model = _model(backbone=backbone, learning_rate=1e-12, max_iter=1, **settings)
        return model.fit(X, Y, ATTRIBUTES).network_.head[1].weight.detach().abs().max()

    assert start(nn.Identity()) < 1e-6
    assert start(_backbone(), freeze="backbone") < 1e-6
    assert 0.1 < start(_backbone()) < 12**-0.5
    assert start(_backbone(), head_init="zero") < 1e-6
    assert 0.1 < start(nn.Identity(), head_init="random") < 20**-0.5


@pytest.mark.filterwarnings("ignore::skdebias.AntiClassifierWarning")
def test_clipping_bounds_each_network_by_itself():
    # The student of ULE is not affected by its teacher, clipped or not.
    students = []
    for lam in (1.0, 0.3):
        seen = []
        run = NetworkTraining._make_step

        def watched(self, *args, run=run, seen=seen):
            run(self, *args)
            seen.append(self._networks[0].head[1].weight.detach().clone())

        NetworkTraining._make_step = watched
        try:
            _model(ULEClassifier(lam=lam, scale="none"), clip_norm=0.1).fit(X, Y)
        finally:
            NetworkTraining._make_step = run
        students.append(torch.stack(seen))
    torch.testing.assert_close(*students)


def test_no_memory_says_what_to_lower(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("skdebias.finetune._networks.Networks.forward", full)
    with pytest.raises(
        MemoryError, match=r"accumulate \(now 2\).*batch_size \(now 60\)"
    ):
        _model(accumulate=2).fit(X, Y, ATTRIBUTES)


def test_a_loss_that_is_not_finite_says_at_which_beta():
    with pytest.raises(
        FloatingPointError, match=r"beta=0\.2 and c=0\.5.*learning_rate"
    ):
        _model(learning_rate=1e30).fit(X, Y, ATTRIBUTES)
    # The network keeps what it had.
    model = _model().fit(X, Y, ATTRIBUTES)
    before = model.decision_function(X)
    with pytest.raises(FloatingPointError):
        model.set_params(learning_rate=1e30).fit(X, Y, ATTRIBUTES)
    model.set_params(learning_rate=0.05)
    np.testing.assert_array_equal(model.decision_function(X), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": "layer1"}, "must be None, 'backbone', or a list"),
        ({"freeze": ["layer1"]}, "matches no parameter"),
        ({"saliency_layer": "conv"}, "not the name of a submodule"),
        ({"batch_norm": "eval"}, "batch_norm"),
        ({"warmup": 1.0}, "warmup"),
        ({"accumulate": 0}, "accumulate"),
        ({"dropout": 1.0}, "dropout"),
        ({"schedule": "step"}, "schedule"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"precision": "float64"}, "precision"),
        ({"modality": "sound"}, "modality"),
    ],
)
def test_bad_parameters(settings, message):
    with pytest.raises(ValueError, match=message):
        _model(ULEClassifier(), **settings).fit(X, Y)


def test_bad_input():
    with pytest.raises(ValueError, match="600 entries and y has 599"):
        _model().fit(X, Y[1:], ATTRIBUTES)
    with pytest.raises(ValueError, match="1 class"):
        _model().fit(X, np.zeros(600))
    with pytest.raises(ValueError, match="y_val=None"):
        _model().fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="NaN"):
        _model().fit(np.full_like(X, np.nan), Y)
    with pytest.raises(ValueError, match="outside the bounds"):
        _model(GERNEClassifier(beta=1e3)).fit(X, Y, ATTRIBUTES)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        _model().set_params(backbone="timm:resnet18").fit(X, Y)
    with pytest.raises(ValueError, match="one vector per item"):
        _model(backbone=nn.Unflatten(1, (4, 5))).fit(X, Y, ATTRIBUTES)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            GERNEClassifier(learning_rate=0.3),
            "learning_rate.*FineTuneClassifier itself",
        ),
        (GERNEClassifier(solver="adamw"), "optimizer"),
        (LfFClassifier(max_iter=3), "max_iter"),
        (ERMClassifier(warm_start=True), "leave it at False"),
    ],
)
def test_parameters_that_would_be_ignored_are_refused(method, message):
    with pytest.raises(ValueError, match=message):
        _model(method).fit(X, Y, ATTRIBUTES)
    default = type(method)()
    _model(default, max_iter=1).fit(X, Y, ATTRIBUTES)


@pytest.mark.parametrize("method", [AFRClassifier(), DFRClassifier(), nn.Identity()])
def test_methods_for_last_layers_are_refused(method):
    with pytest.raises(TypeError, match="does not train whole networks"):
        _model(method).fit(X, Y, ATTRIBUTES)


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"skdebias\[finetune\]"):
        _model().fit(X, Y, ATTRIBUTES)


def test_lower_precision():
    full = _model().fit(X, Y, ATTRIBUTES)
    half = _model(precision="bfloat16").fit(X, Y, ATTRIBUTES)
    difference = np.abs(full.predict_proba(X) - half.predict_proba(X)).max()
    assert 0 < difference < 0.1
    again = _model().fit(X, Y, ATTRIBUTES)
    np.testing.assert_array_equal(again.decision_function(X), full.decision_function(X))


def test_saliencies_at_a_layer_in_lower_precision():
    # Accelerate returns float32 copies of what a network returns in bfloat16.
    full, half = (
        _model(ULEClassifier(lam=0.7), precision=precision, saliency_layer="0")
        .fit(X, Y, ATTRIBUTES)
        .predict_proba(X)
        for precision in ("float32", "bfloat16")
    )
    assert 0 < np.abs(full - half).max() < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", [GERNEClassifier(beta=0.2), ULEClassifier(lam=0.7)])
def test_on_cuda(method, precision):
    found = [
        _model(
            method,
            device=device,
            precision=precision if device == "cuda" else "float32",
        )
        .fit(X, Y, ATTRIBUTES)
        .predict_proba(X)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*found, atol=1e-3 if precision == "float32" else 0.1)


def test_the_bar_shows_loss_and_score(capsys):
    judged = partial(_model(verbose=1, max_iter=2).fit, X, Y, ATTRIBUTES)
    judged(X_val=X, y_val=Y, attributes_val=ATTRIBUTES)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "worst_group=" in shown
    assert "2/2" in shown
