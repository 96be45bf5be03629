"""Nothing that a caller has switched on reaches a fit or a prediction."""

import inspect
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from hostile_contexts import CONTEXTS, state_of_process
from sklearn.base import clone
from torch import nn

import embeddings_cache._context
import skdebias._context
from skdebias import (
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    JTTClassifier,
    ULEClassifier,
)
from skdebias._quiet import ignored
from skdebias.attributes import (
    ErrorSetPseudoAttributes,
    GradientClusterPseudoAttributes,
)
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save, to_torch
from skdebias.finetune import FineTuneClassifier
from skdebias.model_selection import BatchedGridSearchCV, BatchedHalvingGridSearchCV
from tests._instances import HEADS

X, Y, A = make_spurious_classification(240, random_state=0)
X = X.astype(np.float32)
X[:, 0] *= 1e-30  # what is made of it underflows


def _numbers(model):
    """All fitted numbers and predictions of a model, by name."""
    found = {"decision": model.decision_function(X), "proba": model.predict_proba(X)}
    for name, value in vars(model).items():
        if name.endswith("_") and isinstance(value, np.ndarray | list):
            found[name] = value
    return found


def _network():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Linear(X.shape[1], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)
    )
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return network


NETWORK = _network()
SHORT = {"max_iter": 3, "random_state": 0}
MODELS = {name: row.make(**SHORT) for name, row in HEADS.items()} | {
    "lbfgs": ERMClassifier(solver="lbfgs", random_state=0),
    "hidden layers": ERMClassifier(hidden_layer_sizes=(4,), **SHORT),
}


def _fit_head(name):
    attributes = HEADS[name].used(A) if name in HEADS else A
    return _numbers(MODELS[name].fit(X, Y, attributes))


def _fit_network(method, **changes):
    model = FineTuneClassifier(
        method, NETWORK, modality="tensor", max_iter=2, random_state=0,
        learning_rate=0.05, device="cpu", **changes,
    )  # fmt: skip
    return _numbers(model.fit(X, Y, A)) | {"embed": model.embed(X)}


def _search(kind):
    grid = {"learning_rate": [1e-3, 1e-2], "beta": [-0.5, 0.5]}
    found = kind(GERNEClassifier(1.0, **SHORT), grid, cv=2).fit(X, Y, attributes=A)
    scores = found.cv_results_["mean_test_score"]
    return {"scores": scores, **_numbers(found.best_estimator_)}


def _attributes(kind):
    found = kind.fit(X, Y)
    return {"fit": found.pseudo_attributes_, "predict": found.predict(X, Y)}


def _exported(folder):
    path = folder / "head.safetensors"
    save(GERNEClassifier(1.0, **SHORT).fit(X, Y, A), path)
    head = load(path)
    (layer,) = to_torch(head)
    return {**_numbers(head), "weight": layer.weight, "bias": layer.bias}


def _tensors():
    """Rows that are tensors of the caller's, made outside of any context."""
    model = ERMClassifier(**SHORT).fit(TENSOR, Y)
    return {"coef": model.coef_, "decision": model.decision_function(TENSOR)}


TENSOR = torch.from_numpy(X)
ENTRIES = {
    **{name: lambda folder, name=name: _fit_head(name) for name in MODELS},
    "network": lambda folder: _fit_network(GERNEClassifier()),
    "network, saliencies": lambda folder: _fit_network(ULEClassifier()),
    "network, low precision": lambda folder: _fit_network(
        ERMClassifier(), precision="bfloat16"
    ),
    "grid": lambda folder: _search(BatchedGridSearchCV),
    "halving": lambda folder: _search(BatchedHalvingGridSearchCV),
    "clusters": lambda folder: _attributes(
        GradientClusterPseudoAttributes(random_state=0)
    ),
    "errors": lambda folder: _attributes(
        ErrorSetPseudoAttributes(
            reference_estimator=ERMClassifier(max_iter=1, random_state=0)
        )
    ),
    "exported": _exported,
    "tensors": lambda folder: _tensors(),
}
# What has an arithmetic of its own; the others meet all contexts at once.
ONE_BY_ONE = (
    *("lbfgs", "GERNE, unknown attributes", "ULE", "network", "grid", "exported"),
)
# Some of these fits have something to warn of, and contexts that cannot be nested.
NOT_NESTED = ("warnings are errors", "transform of functions", "anomaly")
_clean = {}


@contextmanager
def everything():
    """Be in all contexts at once."""
    with ExitStack() as stack:
        for name, context in CONTEXTS.items():
            if name not in NOT_NESTED:
                stack.enter_context(context())
        yield


def check(entry, context, folder):
    if entry not in _clean:
        _clean[entry] = ENTRIES[entry](folder)
    with context():
        before = state_of_process()
        found = ENTRIES[entry](folder)
        after = state_of_process()
    assert after == before
    assert found.keys() == _clean[entry].keys()
    for name, value in found.items():
        expected = _clean[entry][name]
        if isinstance(value, torch.Tensor):
            value, expected = value.detach().numpy(), expected.detach().numpy()
        np.testing.assert_equal(value, expected, err_msg=name)
    assert all(module.training for module in NETWORK.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_callers_contexts_change_no_bit(entry, tmp_path):
    check(entry, everything, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("context", [name for name in CONTEXTS if "warn" not in name])
@pytest.mark.parametrize("entry", ONE_BY_ONE)
def test_the_callers_context_changes_no_bit(entry, context, tmp_path):
    check(entry, CONTEXTS[context], tmp_path)


def test_both_packages_have_one_context():
    one = inspect.getsource(skdebias._context)
    other = inspect.getsource(embeddings_cache._context)
    assert one == other.replace("embeddings_cache", "skdebias")


def test_hidden_warnings_leave_the_filters_as_they_were():
    """Of two threads the one that ends last does not bring back the other's."""
    first, second = ignored(UserWarning), ignored(UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        before = list(warnings.filters)
        first.__enter__()
        second.__enter__()
        warnings.warn("hidden", UserWarning, stacklevel=1)
        first.__exit__(None, None, None)
        warnings.warn("hidden", UserWarning, stacklevel=1)
        second.__exit__(None, None, None)
        assert list(warnings.filters) == before
        with pytest.raises(UserWarning):
            warnings.warn("seen", UserWarning, stacklevel=1)


def test_fits_in_threads_leave_the_filters_as_they_were():
    X64 = X.astype(np.float64)
    X64.flags.writeable = False  # torch warns of such memory
    before = list(warnings.filters)
    models = [JTTClassifier(**SHORT), DFRClassifier(random_state=0)] * 2
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda model: clone(model).fit(X64, Y, A), models))
    assert list(warnings.filters) == before
