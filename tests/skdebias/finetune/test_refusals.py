"""What a network is not trained on, nor with: right, or refused by name."""

import pickle
import threading
import types
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from skdebias import ERMClassifier
from skdebias.finetune import FineTuneClassifier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = np.arange(60) % 2
X[:, 0] += 2 * Y
CODES = RNG.integers(0, 10, (60, 3))
IMAGES = RNG.integers(0, 255, (60, 3, 4, 4))


def _mlp(*further):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), *further)


def _embedding():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten())


def _conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())


def _model(backbone=None, method=None, **parameters):
    settings = {"modality": "tensor", "max_iter": 2, "batch_size": 20, "device": "cpu",
                "random_state": 0, "learning_rate": 0.05}  # fmt: skip
    method = ERMClassifier() if method is None else method
    backbone = _mlp(nn.ReLU()) if backbone is None else backbone
    return FineTuneClassifier(method, backbone, **settings | parameters)


@dataclass
class Output:
    hidden: torch.Tensor


class Returns(nn.Module):
    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 4)
        self.change = change

    def forward(self, x):
        return self.change(self.linear(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: (z, z), "returned a tuple of 2"),
        (lambda z: [z], "returned a list of 1"),
        (lambda z: {"x": z}, "returned a dict with 'x'"),
        (lambda z: Output(z), "returned a Output with 'hidden'"),
        (lambda _: None, "returned None"),
        (lambda z: torch.complex(z, z), "complex64"),
        (lambda z: z.argmax(1, keepdim=True), "int64"),
        (lambda z: z.reshape(1, -1), "1 rows for 20 items"),
        (lambda z: torch.cat([z, z]), "2 rows for 1 items"),
        (lambda z: z[:, 0], "one vector per item"),
        (lambda z: z[:, None], "one vector per item"),
        (lambda z: z[:, :0], "without any feature"),
    ],
)
def test_outputs_that_are_no_embedding(change, message):
    with pytest.raises(ValueError, match=rf"backbone returned .*{message}|{message}"):
        _model(Returns(change)).fit(X, Y)


class _Under(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.mode = mode

    def forward(self, x):
        with self.mode():
            return self.linear(x)


def test_backbones_that_get_no_gradient_say_so():
    for backbone in (_Under(torch.no_grad), Returns(torch.detach)):
        with pytest.warns(UserWarning, match="the head alone is trained"):
            _model(backbone).fit(X, Y)
    with pytest.raises(ValueError, match="inference_mode"):
        _model(_Under(torch.inference_mode)).fit(X, Y)


def _with_hook():
    backbone = _mlp()
    backbone[0].weight.register_hook(torch.zeros_like)
    return backbone


def _with_lock():
    backbone = _mlp()
    backbone.lock = threading.Lock()
    return backbone


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (_with_hook, ValueError, "'0.weight' has a hook"),
        (_with_lock, TypeError, "lock"),
    ],
)
def test_backbones_that_no_copy_is_like(make, kind, message):
    """Neither a fit nor a clone, which a search makes, loses a part in silence."""
    with pytest.raises(kind, match=f"backbone.*{message}"):
        _model(make()).fit(X, Y)
    with pytest.raises(kind, match=f"backbone.*{message}"):
        clone(_model(make()))


class _Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def _replaced(forward):
    backbone = _mlp()
    before = backbone.forward
    backbone.forward = forward(backbone, before)
    return backbone


@pytest.mark.parametrize(
    "forward",
    [
        lambda _, before: lambda x: 2 * before(x),
        lambda own, before: types.MethodType(lambda _, x: 2 * before(x), own),
        lambda own, _: lambda x: 2 * own[0](x),
    ],
)
def test_what_was_put_on_a_module_runs_on_the_copy(forward):
    """Else the original's weights would be used, and those of the copy never move."""
    expected = _model(_Doubled(*_mlp())).fit(X, Y).decision_function(X)
    backbone = _replaced(forward)
    for model in (_model(backbone), clone(_model(backbone))):
        np.testing.assert_array_equal(model.fit(X, Y).decision_function(X), expected)
    assert all(p.grad is None for p in backbone.parameters())


def test_a_fit_leaves_the_generator_of_the_process_alone():
    backbone = Returns(lambda z: z + torch.randn(z.shape))
    before = torch.get_rng_state()
    _model(backbone).fit(X, Y, X_val=X[:20], y_val=Y[:20])
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_of_ones_own_are_judged_on_validation_items():
    """Where one may draw random numbers, and dropout is off."""
    model = _model(Returns(torch.relu), dropout=0.5)
    model.fit(X, Y, X_val=X[:20], y_val=Y[:20])
    assert len(model.history_["validation_score"]) == model.n_iter_


def test_images_too_are_embedded_as_one_tensor():
    module = nn.Sequential(nn.Flatten(), nn.LSTM(48, 4))
    model = _model(module, modality="image", preprocess={"size": 4})
    with pytest.raises(ValueError, match="gives a tuple"):
        model.fit(IMAGES.transpose(0, 2, 3, 1).astype(np.uint8), Y)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_outputs_of_other_precision_are_embeddings(kind):
    found = _model(Returns(lambda z: z.to(kind))).fit(X, Y).decision_function(X)
    wanted = _model(Returns(lambda z: z)).fit(X, Y).decision_function(X)
    np.testing.assert_allclose(found, wanted, atol=0.05)


class _Meta(nn.Linear):
    def __init__(self):
        super().__init__(6, 4, device="meta")


def _with_nan(name):
    module = _mlp(nn.BatchNorm1d(4))
    module.get_buffer(name)[0] = torch.nan if "running" in name else 0
    return module


def _nan_weights():
    module = _mlp()
    module[0].weight.data[0, 0] = torch.nan
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _mlp().double(), "'0.weight' is in torch.float64"),
        (lambda: _mlp().half(), "'0.weight' is in torch.float16"),
        (lambda: nn.LazyLinear(4), "no values yet"),
        (_Meta, "no values yet"),
        (_nan_weights, "'0.weight' has values that are not finite before training"),
        (lambda: _with_nan("1.running_var"), "buffer '1.running_var' has NaN"),
        (lambda: nn.Sequential(torch.compile(_mlp())), r"backbone\.0 is a Optimized"),
    ],
)
def test_backbones_that_cannot_be_trained_from(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        _model(make()).fit(X, Y)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_scripts_are_refused():
    for script in (torch.jit.script(_mlp()), torch.jit.trace(_mlp(), torch.ones(2, 6))):
        with pytest.raises(TypeError, match="was scripted from"):
            _model(script).fit(X, Y)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_of_wrapped_modules_the_one_within_is_trained(wrap, tmp_path):
    plain = _model(_mlp(nn.BatchNorm1d(4)), freeze=["1"]).fit(X, Y)
    wanted = plain.decision_function(X)
    model = _model(wrap(_mlp(nn.BatchNorm1d(4))), freeze=["1"])
    with pytest.warns(UserWarning, match="the module within it is trained"):
        model.fit(X, Y)
    np.testing.assert_array_equal(model.decision_function(X), wanted)
    model.save(tmp_path / "network.safetensors")
    for backbone in (_mlp(nn.BatchNorm1d(4)), wrap(_mlp(nn.BatchNorm1d(4)))):
        again = FineTuneClassifier.load(tmp_path / "network.safetensors",
                                        backbone=backbone)  # fmt: skip
        np.testing.assert_array_equal(again.decision_function(X), wanted)
    network = pickle.loads(pickle.dumps(model.network_))
    assert network.state_dict().keys() == plain.network_.state_dict().keys()


def test_weights_layers_and_pooling_of_modules_that_take_numbers(tmp_path):
    torch.manual_seed(9)
    file = tmp_path / "weights.safetensors"
    trained = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    save_file(trained.state_dict(), file)
    start = {"learning_rate": 1e-30, "max_iter": 1, "momentum": 0.0}
    model = _model(weights=file, **start).fit(X, Y)
    np.testing.assert_allclose(
        model.embed(X), trained(torch.from_numpy(X)).detach(), rtol=1e-6
    )
    again = pickle.loads(pickle.dumps(model))
    file.unlink()
    np.testing.assert_array_equal(again.embed(X), model.embed(X))
    with pytest.raises(Exception, match="no such file"):
        model.fit(X, Y)
    save_file({"0.weight": torch.zeros(4, 6)}, file)
    with pytest.raises(ValueError, match=r"0\.bias"):
        model.fit(X, Y)

    inner = _model(layer="0", **start).fit(X, Y)
    np.testing.assert_allclose(
        inner.embed(X), _mlp()(torch.from_numpy(X)).detach(), rtol=1e-6
    )
    inner.save(tmp_path / "inner.safetensors")
    again = FineTuneClassifier.load(tmp_path / "inner.safetensors",
                                    backbone=_mlp(nn.ReLU()))  # fmt: skip
    np.testing.assert_array_equal(again.embed(X), inner.embed(X))
    pooled = _model(nn.Unflatten(1, (2, 3)), pooling="mean").fit(X, Y)
    np.testing.assert_allclose(pooled.embed(X), X.reshape(60, 2, 3).mean(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "nowhere.safetensors"}, "nowhere"),
        ({"layer": "9"}, "layer='9'"),
        ({"pooling": "cls"}, "pooling='cls'"),
        ({"preprocess": {"size": 3}}, "preprocess=.*modality='tensor'"),
        ({"preprocess": abs}, "preprocess=.*modality='tensor'"),
        ({"freeze": 5}, "freeze=5 must be"),
        ({"freeze": [0]}, r"freeze=\[0\] must be"),
        ({"model_kwargs": {"a": 1}}, "model_kwargs=.*modality='tensor'"),
    ],
)
def test_parameters_that_cannot_be_honoured_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _model(**settings).fit(X, Y)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_norm": "frozen"},
        {"batch_norm": "train"},
        {"saliency_layer": "0"},
        {"pretrained": False},
        {"checkpoint_every": 3},
        {"precision": "float16"},
        {"head_init": "zero", "method": ERMClassifier(hidden_layer_sizes=(3,))},
    ],
)
def test_parameters_without_effect_say_so(settings):
    with pytest.warns(UserWarning, match=rf"{next(iter(settings))}=.*has no effect"):
        _model(**settings).fit(X, Y)


def test_integers_stay_integers_where_they_are_embedded(tmp_path):
    wanted = _model(_embedding()).fit(CODES, Y).decision_function(CODES)
    frame = pd.DataFrame(CODES)
    for codes in (CODES.astype(np.int16), CODES.astype(np.uint8), CODES.tolist(), frame,
                  torch.from_numpy(CODES).int()):  # fmt: skip
        model = _model(_embedding()).fit(codes, Y, X_val=codes, y_val=Y)
        np.testing.assert_array_equal(model.decision_function(codes), wanted)
    model.save(tmp_path / "codes.safetensors")
    again = FineTuneClassifier.load(tmp_path / "codes.safetensors",
                                    backbone=_embedding())  # fmt: skip
    np.testing.assert_array_equal(again.decision_function(CODES), wanted)
    # Where nothing embeds them, they are numbers.
    linear = _model(nn.Linear(3, 4)).fit(CODES, Y)
    assert linear.predict(CODES > 3).shape == (60,)


@pytest.mark.parametrize(
    ("fit", "predict", "message"),
    [
        (CODES + 5, None, "integers from 5 to 14.*0 to 9"),
        (CODES - 1, None, "integers from -1"),
        (CODES, CODES + 1, "0 to 9"),
        (CODES, CODES.astype(float), "trained on integers"),
        (CODES.astype(float), None, "float32 of shape"),
    ],
)
def test_codes_that_have_no_embedding(fit, predict, message):
    model = _model(_embedding())
    with pytest.raises((TypeError, ValueError), match=message):
        model.fit(fit, Y).predict(predict)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16])
@pytest.mark.parametrize("tensor", [False, True])
def test_pixels_are_not_taken_for_numbers(kind, tensor):
    pixels = IMAGES.astype(kind)
    given = torch.from_numpy(pixels) if tensor else pixels
    with pytest.raises(ValueError, match=r"astype\('float32'\) / 255 for pixels"):
        _model(_conv()).fit(given, Y)
    model = _model(_conv()).fit(IMAGES.astype(np.float32) / 255, Y)
    with pytest.raises(ValueError, match="255 for pixels"):
        model.predict(given)
    rows = _model(modality="image", preprocess={"size": 4}, backbone=_conv())
    if kind is np.uint8:
        rows.fit(pixels.transpose(0, 2, 3, 1), Y)
    else:
        with pytest.raises(ValueError, match="must be uint8"):
            rows.fit(pixels.transpose(0, 2, 3, 1), Y)


def test_arrays_in_other_clothes_are_arrays():
    wanted = _model().fit(X, Y).decision_function(X)
    rows = [torch.from_numpy(row) for row in X]
    for items in (torch.tensor(X, requires_grad=True), rows, iter(rows), X.tolist()):
        again = items if not hasattr(items, "__next__") else X
        model = _model().fit(items, Y)
        np.testing.assert_array_equal(model.decision_function(again), wanted)
    assert _model().fit(torch.tensor(X).bfloat16(), Y).predict(X).shape == (60,)
    with pytest.raises(ValueError, match="items: rows differ in shape"):
        _model().fit([X[0], X[1][:3], *X[2:]], Y)
    with pytest.raises(ValueError, match="Complex"):
        _model().fit(X + 1j, Y)


@pytest.mark.parametrize("modality", ["tensor", "image"])
def test_data_sets_and_loaders_of_torch_are_refused(modality):
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    preprocess = {"size": 4} if modality == "image" else None
    for items in (data, DataLoader(data), torch.Generator()):
        with pytest.raises(TypeError, match="give the items themselves"):
            _model(modality=modality, preprocess=preprocess).fit(items, Y)
    model = _model().fit(X, Y)
    with pytest.raises(TypeError, match="give the items themselves"):
        model.predict(DataLoader(data))


def test_items_that_the_network_does_not_take():
    with pytest.raises(ValueError, match=r"fails on items.*\(n, 12\)"):
        _model().fit(np.c_[X, X], Y)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    model = _model(flat).fit(X.reshape(60, 2, 3), Y)
    with pytest.raises(ValueError, match=r"fails on items.*\(n, 2, 2\)"):
        model.predict(X.reshape(60, 2, 3)[:, :, :2])


def test_one_item_is_predicted_by_running_statistics():
    model = _model(_mlp(nn.BatchNorm1d(4))).fit(X, Y)
    np.testing.assert_allclose(
        model.decision_function(X[:1]), model.decision_function(X)[:1], rtol=1e-5
    )
