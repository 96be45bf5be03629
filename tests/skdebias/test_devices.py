"""Heads on one GPU of several, with input on any device."""

import pickle

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_cuda
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skdebias import (
    ERMClassifier,
    GERNEClassifier,
    export,
)
from skdebias._device import automatic_device, resolve_device
from skdebias._engine._features import Features
from skdebias.attributes import GradientClusterPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import group_accuracy_table, worst_group_accuracy_score
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    AttributeStratifiedShuffleSplit,
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
)
from tests._instances import HEADS

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SETTINGS = {"max_iter": 2, "batch_size": 64, "random_state": 0}
MODELS = {
    **{name: row.make(n_draws=2, **SETTINGS) for name, row in HEADS.items()},
    **{
        f"{name}, deterministic": row.make(solver="lbfgs", **SETTINGS)
        for name, row in HEADS.items()
        if row.is_deterministic and row.n_trainings == 1
    },
    "hidden layers": GERNEClassifier(hidden_layer_sizes=(4,), **SETTINGS),
    "adamw": GERNEClassifier(solver="adamw", **SETTINGS),
}
every_head = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def data():
    X, y, a = make_spurious_classification(240, n_features=6, random_state=0)
    return X.astype(np.float32), y, a


def on(device, *arrays):
    return [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in arrays]


def assert_alike(one, other, X):
    np.testing.assert_allclose(
        one.decision_function(X), other.decision_function(X), atol=2e-3
    )


@pytest.mark.gpu(devices=2)
@every_head
def test_everything_on_the_second_gpu(name, data):
    X, y, a = data
    fitted = clone(MODELS[name]).fit(X, y, a, X_val=X, y_val=y, attributes_val=a)
    Xg, yg, ag = on("cuda:1", X, y, a)
    twin = clone(MODELS[name])
    if "device" in twin.get_params():
        twin.set_params(device="cuda:1")
    twin.fit(Xg, yg, ag, X_val=Xg, y_val=yg, attributes_val=ag)
    assert_alike(twin, fitted, X)
    np.testing.assert_array_equal(twin.predict(Xg), twin.predict(X))
    np.testing.assert_array_equal(twin.predict_proba(Xg), twin.predict_proba(X))
    weights = torch.ones(len(y), device="cuda:1")
    assert twin.score(Xg, yg, sample_weight=weights) == twin.score(X, y)


PLACES = ("cpu", "cuda:0", "cuda:1")


@pytest.mark.gpu(devices=2)
@pytest.mark.parametrize("x_device", PLACES)
@pytest.mark.parametrize("device", [*PLACES, "cuda", "auto"])
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_rows_come_from_anywhere(x_device, device, solver, data):
    X, y, a = data
    (Xd,) = on(x_device, X)
    head = GERNEClassifier(solver=solver, **SETTINGS)
    fitted = clone(head).set_params(device="cpu").fit(X, y, a)
    assert_alike(head.set_params(device=device).fit(Xd, y, a), fitted, X)


@pytest.mark.parametrize("n_free", [1000, 1 << 30])
@pytest.mark.parametrize("x_device", PLACES)
@pytest.mark.skipif(torch.cuda.is_available(), reason="its memory is not to be filled")
def test_rows_that_do_not_fit(n_free, x_device, data):
    X, y, a = data
    with pretend_cuda(n_devices=2, free_bytes=n_free) as log:
        (Xd,) = on(x_device, X.astype(np.float16))
        features = Features(Xd, torch.device("cuda"))
        resident = n_free > X.nbytes or x_device == "cuda:0"
        assert (features._tensor.device.type == "cuda") or not resident
        head = GERNEClassifier(1.0, device="cuda", **SETTINGS).fit(Xd, y, a)
        assert log.problems == []
    fitted = GERNEClassifier(1.0, device="cpu", **SETTINGS).fit(
        X.astype(np.float16), y, a
    )
    assert_alike(head, fitted, X)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_answer_for_every_type(dtype, data, tmp_path):
    X, y, a = data
    head = GERNEClassifier(1.0, device="cpu", **SETTINGS).fit(X, y, a)
    path = tmp_path / "head.safetensors"
    export.save(head, path)
    loaded = export.load(path)
    Xg = torch.from_numpy(X).to("cuda", dtype)
    for model in (head, loaded):
        expected = model.decision_function(Xg.float().cpu().numpy())
        np.testing.assert_allclose(model.decision_function(Xg), expected, atol=1e-6)
        np.testing.assert_array_equal(
            model.predict(Xg), model.classes_[1 * (expected > 0)]
        )
        assert model.predict_proba(Xg).shape == (len(X), 2)
        assert 0 <= model.score(Xg, torch.from_numpy(y).to("cuda")) <= 1


@pytest.mark.gpu(devices=2)
@pytest.mark.parametrize(
    "search",
    [
        lambda head, cv: BatchedGridSearchCV(head, {"beta": [0.0, 0.2]}, cv=cv),
        lambda head, cv: BatchedHalvingGridSearchCV(head, {"beta": [0.0, 0.2]}, cv=cv),
    ],
)
def test_searches(search, data):
    X, y, a = data
    Xg, yg, ag = on("cuda:1", X, y, a)
    cv = AttributeStratifiedKFold(2)
    found = [
        search(GERNEClassifier(1.0, device=device, **SETTINGS), cv).fit(*arrays)
        for device, arrays in {"cpu": data, "cuda:1": (Xg, yg, ag)}.items()
    ]
    scores = [one.cv_results_["mean_test_score"] for one in found]
    np.testing.assert_allclose(*scores, atol=0.02)


@pytest.mark.gpu
def test_scikit_learns_search_and_the_splitters(data):
    X, y, a = data
    Xg, yg, ag = on("cuda", X, y, a)
    splits = {}
    for splitter in (
        AttributeStratifiedKFold(2),
        AttributeStratifiedShuffleSplit(2, random_state=0),
    ):
        for arrays in (data, (Xg, yg, ag)):
            found = list(splitter.split(*arrays[:2], attributes=arrays[2]))
            splits.setdefault(type(splitter), []).append(found)
    for one, other in splits.values():
        for halves in zip(one, other):
            np.testing.assert_array_equal(*(np.concatenate(half) for half in halves))
    search = GridSearchCV(
        ERMClassifier(device="auto", **SETTINGS), {"momentum": [0.0, 0.9]}, cv=2
    )
    assert search.fit(Xg, y).best_score_ > 0.5


@pytest.mark.gpu
def test_metrics(data):
    _, y, a = data
    guess = 1 - y
    guess[::3] = y[::3]
    yg, gg, ag = on("cuda", y, guess, a)
    assert worst_group_accuracy_score(
        yg, gg, attributes=ag
    ) == worst_group_accuracy_score(y, guess, attributes=a)
    bf16 = ag.to(torch.bfloat16)
    assert len(group_accuracy_table(yg, gg, attributes=bf16)) == len(
        group_accuracy_table(y, guess, attributes=a)
    )


@pytest.mark.gpu(devices=2)
def test_clusters_of_one_device_assign_rows_of_another(data):
    X, y, _ = data
    Xg, yg = on("cuda:1", X, y)
    model = GradientClusterPseudoAttributes(device="cuda:1", random_state=0)
    found = model.fit_predict(Xg, yg)
    np.testing.assert_array_equal(model.predict(Xg, yg), found)
    for device in ("cpu", "cuda:0"):
        model.set_params(device=device)
        np.testing.assert_array_equal(model.predict(X, y), found)
    tensors = [value for value in vars(model._layer).values() if torch.is_tensor(value)]
    assert {value.device.type for value in tensors} == {"cpu"}


@pytest.mark.gpu(devices=2)
def test_fitted_heads_know_no_device(data):
    X, y, a = data
    head = GERNEClassifier(1.0, device="cuda:1", warm_start=True, **SETTINGS).fit(
        X, y, a
    )
    twin = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(twin.coef_, head.coef_)
    assert isinstance(head.coef_, np.ndarray)
    # A warm start goes on wherever it is.
    ways = [twin.set_params(device="cpu"), head.set_params(device="cuda:0")]
    one, other = (way.fit(X, y, a) for way in ways)
    assert_alike(one, other, X)


def test_a_saved_head_of_a_gpu_answers_without_one(data, tmp_path):
    X, y, a = data
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pretend_cuda():
        head = ERMClassifier(device="cuda", **SETTINGS).fit(X, y, a)
        export.save(head, tmp_path / "head")
    loaded = export.load(tmp_path / "head")
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))
    with pytest.raises(ValueError, match="device='cuda' cannot be used on this mach"):
        loaded.fit(X, y, a)


@pytest.mark.gpu(devices=2)
def test_names_of_devices():
    expected = {"auto": "cuda:0", "cuda": "cuda:0", "cuda:1": "cuda:1", "cpu": "cpu"}
    found = {name: str(resolve_device(name)) for name in expected}
    assert found == expected
    with torch.cuda.device(1):  # as in a process of torchrun, after set_device
        assert str(resolve_device("auto")) == str(resolve_device("cuda")) == "cuda:1"


@pytest.mark.parametrize(
    ("cuda", "mps", "heads", "networks"),
    [
        (True, False, "cuda", "cuda"),
        (True, True, "cuda", "cuda"),
        (False, True, "cpu", "mps"),
        (False, False, "cpu", "cpu"),
    ],
)
def test_what_auto_stands_for(cuda, mps, heads, networks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert automatic_device(needs_float64=True) == heads
    assert automatic_device(needs_float64=False) == networks


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:7", "cuda:x", "gpu", "meta", "mps", ""])
def test_devices_that_cannot_be_used(device, data):
    with pytest.raises(ValueError, match=rf"device='{device}' cannot be used") as error:
        ERMClassifier(device=device).fit(*data)
    assert "'auto' or 'cpu'" in str(error.value)
    assert "\n" not in str(error.value)
