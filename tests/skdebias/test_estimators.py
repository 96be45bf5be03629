"""What ERMClassifier and GERNEClassifier do with every kind of input they accept."""

import os
import pickle
import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import (
    CollapsedHeadWarning,
    ERMClassifier,
    GERNEClassifier,
    MissingAttributesWarning,
)
from skdebias.datasets import make_spurious_classification
from skdebias.methods import beta_bounds
from skdebias.metrics import worst_group_accuracy_score, worst_group_accuracy_scorer

COMMON = {"learning_rate": 0.05, "max_iter": 8, "random_state": 0, "device": "cpu"}
ESTIMATORS = [
    pytest.param(ERMClassifier(**COMMON), id="erm"),
    pytest.param(ERMClassifier(balance="group", **COMMON), id="group-resampling"),
    pytest.param(GERNEClassifier(beta=1.0, **COMMON), id="gerne"),
    pytest.param(GERNEClassifier(hidden_layer_sizes=(6,), **COMMON), id="gerne-mlp"),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@pytest.fixture(scope="module")
def data():
    """Values that float16, bfloat16 and float32 hold exactly: sixteenths below 8."""
    X, y, a = make_spurious_classification(240, n_features=10, random_state=0)
    return np.clip(np.round(X * 16) / 16, -7.875, 7.875), y, a


@pytest.fixture(scope="module")
def spurious():
    """Train, validation and balanced test set that follow the same rule."""
    train = make_spurious_classification(600, random_state=0, return_X_y=False)
    kwargs = {"directions": train.directions, "correlation": 0.5}
    val = make_spurious_classification(200, random_state=1, **kwargs)
    test = make_spurious_classification(1000, random_state=2, **kwargs)
    return (train.X, train.y, train.attributes), val, test


def layers(estimator):
    """All weights of a head, in one list."""
    if hasattr(estimator, "coef_"):
        return [estimator.coef_, estimator.intercept_]
    return [*estimator.coefs_, *estimator.intercepts_]


def assert_same_head(one, two, atol=1e-6):
    for mine, theirs in zip(layers(one), layers(two), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


def differ(one, two):
    return max(np.abs(a - b).max() for a, b in zip(layers(one), layers(two))) > 1e-4


# --- X of every kind -------------------------------------------------------------


def _memmap(X, tmp_path):
    path = tmp_path / "embeddings.bin"
    X.tofile(path)
    return np.memmap(path, dtype=X.dtype, mode="r", shape=X.shape)


KINDS = {
    "float16": lambda X, _: X.astype(np.float16),
    "float32": lambda X, _: X.astype(np.float32),
    "float64": lambda X, _: X,
    "memmap float16": lambda X, tmp: _memmap(X.astype(np.float16), tmp),
    "memmap float32": lambda X, tmp: _memmap(X.astype(np.float32), tmp),
    "memmap float64": lambda X, tmp: _memmap(X, tmp),
    "read-only": lambda X, _: _read_only(X.astype(np.float32)),
    "Fortran float16": lambda X, _: np.asfortranarray(X, dtype=np.float16),
    "Fortran float32": lambda X, _: np.asfortranarray(X, dtype=np.float32),
    "strided": lambda X, _: np.repeat(X.astype(np.float32), 2, axis=1)[:, ::2],
    "reversed": lambda X, _: X.astype(np.float32)[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda X, _: X.astype(">f4"),
    "lists": lambda X, _: X.tolist(),
    "tensor float16": lambda X, _: torch.from_numpy(X).half(),
    "tensor bfloat16": lambda X, _: torch.from_numpy(X).bfloat16(),
    "tensor float32": lambda X, _: torch.from_numpy(X).float(),
    "tensor float64": lambda X, _: torch.from_numpy(X),
    "tensor with gradient": lambda X, _: torch.from_numpy(X).float().requires_grad_(),
    "transposed tensor": lambda X, _: torch.from_numpy(X.T.copy()).T,
    "data frame": lambda X, _: _frame(X),
    "data frame float32": lambda X, _: _frame(X).astype(np.float32),
}


def _read_only(X):
    X.flags.writeable = False
    return X


def _frame(X):
    return pd.DataFrame(X, columns=[f"feature{i}" for i in range(X.shape[1])])


@every_estimator
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_X_gives_the_same_head(estimator, kind, data, tmp_path):
    """To 1e-6: rows are cast to float32 as they are gathered, exactly here."""
    X, y, a = data
    reference = clone(estimator).fit(X.astype(np.float32), y, attributes=a)
    converted = KINDS[kind](X, tmp_path)
    model = clone(estimator).fit(converted, y, attributes=a)
    assert_same_head(model, reference)
    assert model.n_features_in_ == X.shape[1]
    assert {array.dtype for array in layers(model)} == {np.dtype(np.float32)}
    # float64 input is predicted in float64.
    np.testing.assert_allclose(
        model.decision_function(converted),
        reference.decision_function(X.astype(np.float32)),
        rtol=1e-4,
        atol=1e-4,
    )
    named = hasattr(converted, "columns")
    assert hasattr(model, "feature_names_in_") == named
    if named:
        assert list(model.feature_names_in_) == list(converted.columns)


@every_estimator
def test_polars_frame(estimator, data):
    polars = pytest.importorskip("polars")
    X, y, a = data
    frame = polars.from_pandas(_frame(X))
    model = clone(estimator).fit(frame, y, attributes=a)
    assert_same_head(model, clone(estimator).fit(X, y, attributes=a))
    assert list(model.feature_names_in_) == frame.columns


@pytest.mark.gpu
@every_estimator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cuda_tensor(estimator, dtype, data):
    X, y, a = data
    reference = clone(estimator).fit(X, y, attributes=a)
    on_device = torch.from_numpy(X).to("cuda", dtype)
    for device in ("cuda", "cpu", "auto"):
        model = clone(estimator).set_params(device=device)
        model.fit(on_device, y, attributes=a)
        # Another device adds in another order.
        assert_same_head(model, reference, atol=1e-4)
        np.testing.assert_allclose(
            model.decision_function(on_device), model.decision_function(X), atol=1e-3
        )


@pytest.mark.gpu
@every_estimator
def test_fit_on_cuda_gives_the_head_of_the_cpu(estimator, data):
    X, y, a = data
    reference = clone(estimator).fit(X, y, attributes=a)
    model = clone(estimator).set_params(device="cuda").fit(X, y, attributes=a)
    assert_same_head(model, reference, atol=1e-4)


MEMORY_SCRIPT = """
import resource, sys
import numpy as np
from skdebias import GERNEClassifier

path, dtype, n_rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
X = np.memmap(path, dtype=dtype, mode="r", shape=(n_rows, 512))
y = np.arange(n_rows) % 2
place = np.arange(n_rows) % 20 < 10
clf = GERNEClassifier(1.0, batch_size=4096, max_iter=1, device="cpu", random_state=0)
small = slice(0, 512)
validation = dict(X_val=X[small], y_val=y[small], attributes_val=place[small])
clf.fit(np.array(X[small]), y[small], attributes=place[small], **validation)
clf.predict(X[small])  # all lazy set-up is done

with open("/proc/self/status") as status:
    (used,) = (int(line.split()[1]) for line in status if line.startswith("VmData"))
limit = used * 1024 + int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(X.nbytes // 2, np.uint8)
except MemoryError:
    print("limit works")
clf.fit(X, y, attributes=place, X_val=X, y_val=y,
    attributes_val=place)
print("fitted", clf.n_iter_)
print("predicted", len(clf.predict(X)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA of Linux")
def test_a_memory_map_is_never_copied_as_a_whole(tmp_path):
    """Fit, validate and predict while half of X does not fit in private memory.

    The first rows are positive and large, so that their float16 sum overflows, which
    is what the embeddings behind a ReLU do to the usual test for infinity.
    """
    n_rows = 262144
    path = tmp_path / "embeddings.bin"
    rows = np.random.default_rng(0).exponential(size=(8192, 512)) * 10
    with open(path, "wb") as file:
        file.write(rows.astype(np.float16).tobytes())
        file.truncate(n_rows * 512 * 2)  # sparse: zeros
    allowed = path.stat().st_size * 2 // 5
    arguments = [str(path), "float16", str(n_rows), str(allowed)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | threads,
    )
    expected = ["limit works", "fitted 1", f"predicted {n_rows}"]
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]


# --- labels and attributes of every kind -----------------------------------------


@every_estimator
@pytest.mark.parametrize(
    "labels",
    [
        np.array(["land", "water"]),
        np.array(["b", "a"], dtype=object),
        np.array([False, True]),
        np.array([-7, -2]),
        np.array([1.0, 3.0]),
        np.array([0, 255], dtype=np.uint8),
    ],
    ids=lambda labels: f"{labels.dtype.str}-{labels[0]}",
)
def test_labels_of_every_type(estimator, labels, data):
    X, y, a = data
    y = y if labels[0] < labels[1] else 1 - y  # so that the codes stay as they are
    named = labels[y]
    estimator = clone(estimator).set_params(max_iter=60)
    model = clone(estimator).fit(X, named, attributes=a)
    np.testing.assert_array_equal(model.classes_, np.sort(labels))
    predicted = model.predict(X)
    assert predicted.dtype == labels.dtype
    assert (predicted == named).mean() > 0.8
    codes = np.searchsorted(model.classes_, named)
    assert_same_head(model, clone(estimator).fit(X, codes, attributes=a))
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1, atol=1e-6)


@every_estimator
def test_more_than_two_classes(estimator):
    X, y, a = make_spurious_classification(
        400, n_classes=4, n_attributes=3, core_strength=6, random_state=0
    )
    y = np.array(["ant", "bee", "cat", "dog"])[y]
    model = clone(estimator).set_params(max_iter=40).fit(X, y, attributes=a)
    assert list(model.classes_) == ["ant", "bee", "cat", "dog"]
    assert model.group_counts_.sum() == 400
    assert len(model.groups_) == 12
    assert model.decision_function(X).shape == (400, 4)
    assert layers(model)[-1].shape == (4,)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(
        model.predict(X), model.classes_[model.predict_proba(X).argmax(1)]
    )
    assert model.score(X, y) > 0.9


@every_estimator
def test_two_classes_with_probabilities_that_agree(estimator, data):
    X, y, a = data
    model = clone(estimator).fit(X, y, attributes=a)
    scores = model.decision_function(X)
    assert scores.shape == (len(X),)
    np.testing.assert_array_equal(model.predict(X), model.classes_[1 * (scores > 0)])
    np.testing.assert_allclose(
        model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-5
    )


@pytest.mark.parametrize(
    "attributes_of",
    [
        lambda a: np.array(["left", "right"])[a],
        lambda a: a.astype(bool),
        lambda a: a - 1.5,
        lambda a: list(a),
        lambda a: a[:, None],
        lambda a: torch.from_numpy(a),
        lambda a: pd.Series(a, index=np.arange(len(a))[::-1]),
        lambda a: pd.Categorical(np.array(["left", "right"])[a]),
    ],
    ids=["str", "bool", "float", "list", "column", "tensor", "series", "categorical"],
)
def test_attributes_of_every_type(attributes_of, data):
    X, y, a = data
    reference = GERNEClassifier(1.0, **COMMON).fit(X, y, attributes=a)
    model = GERNEClassifier(1.0, **COMMON).fit(X, y, attributes=attributes_of(a))
    assert_same_head(model, reference, atol=0)
    assert model.attribute_values_.shape == (2,)
    np.testing.assert_array_equal(model.group_counts_, reference.group_counts_)


def test_columns_of_attributes_are_crossed(data):
    X, y, a = data
    other = np.arange(len(y)) % 3
    frame = pd.DataFrame({"place": np.array(["l", "r"])[a], "hour": other})
    crossed = a * 3 + other
    for model in (
        ERMClassifier(balance="group", **COMMON),
        GERNEClassifier(beta=0.2, **COMMON),
    ):
        single = clone(model).fit(X, y, attributes=crossed)
        both = clone(model).fit(X, y, attributes=frame)
        assert_same_head(both, single, atol=0)
        assert both.attribute_values_.tolist() == [
            [place, hour] for place in "lr" for hour in range(3)
        ]
        np.testing.assert_array_equal(both.groups_, single.groups_)


@every_estimator
def test_attributes_matter_only_to_the_methods_that_use_them(estimator, data):
    X, y, a = data
    other = np.random.default_rng(0).permutation(a)
    one = clone(estimator).fit(X, y, attributes=a)
    two = clone(estimator).fit(X, y, attributes=other)
    plain = isinstance(estimator, ERMClassifier) and estimator.balance is None
    assert differ(one, two) is not plain


# --- groups that are missing -----------------------------------------------------


@every_estimator
def test_a_missing_cell(estimator, data):
    X, y, a = data
    keep = ~((y == 1) & (a == 0))
    model = clone(estimator).fit(X[keep], y[keep], attributes=a[keep])
    assert model.groups_.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert all(np.isfinite(array).all() for array in layers(model))
    assert set(model.predict(X)) == {0, 1}
    if isinstance(model, GERNEClassifier):
        table = model.extrapolated_distribution_
        np.testing.assert_allclose(table, [[0.5, 0.5], [0, 1]])  # s = 1
        assert model.beta_bounds_ == beta_bounds(y[keep], a[keep], c=0.5)


@every_estimator
def test_a_fold_without_a_group(estimator, data):
    """The search trains on a fold that lacks a group and scores it in the test."""
    X, y, a = data
    group = 2 * y + a
    everything = np.arange(len(y))
    without = [everything[group != g] for g in (1, 2)]
    splits = [(train[::2], everything[1::2]) for train in without]
    assert all(len(np.unique(group[train])) == 3 for train, _ in splits)
    search = GridSearchCV(
        estimator,
        {"weight_decay": [1e-3, 1e-1]},
        scoring=worst_group_accuracy_scorer,
        cv=splits,
        error_score="raise",
    )
    with config_context(enable_metadata_routing=True):
        search.fit(X, y, attributes=a)
    scores = search.cv_results_["split0_test_score"]
    by_hand = clone(estimator).set_params(weight_decay=1e-3)
    train, test = splits[0]
    by_hand.fit(X[train], y[train], attributes=a[train])
    expected = worst_group_accuracy_score(
        y[test], by_hand.predict(X[test]), attributes=a[test]
    )
    assert scores[0] == expected


# --- what the methods are for ----------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["sgd", "adamw"])
def test_gerne_beats_erm_where_the_correlation_is_spurious(seed, solver):
    train = make_spurious_classification(800, random_state=seed, return_X_y=False)
    X, y, a = make_spurious_classification(
        2000, correlation=0.5, directions=train.directions, random_state=seed + 100
    )
    settings = {"solver": solver, "learning_rate": 0.02, "max_iter": 50}
    worst = {}
    for model in (ERMClassifier(), GERNEClassifier(beta=1.2, c=0.5)):
        model.set_params(random_state=seed, device="cpu", **settings)
        model.fit(train.X, train.y, attributes=train.attributes)
        worst[type(model)] = worst_group_accuracy_score(
            y, model.predict(X), attributes=a
        )
    assert worst[ERMClassifier] < 0.7
    assert worst[GERNEClassifier] > worst[ERMClassifier] + 0.1
    assert worst[GERNEClassifier] > 0.75


def _train_long(estimator, data):
    """Train to convergence: three warm starts with falling step size."""
    X, y, a = data
    model = clone(estimator).set_params(
        warm_start=True, batch_size=240, weight_decay=0.05, random_state=0
    )
    for rate, epochs in ((0.1, 200), (0.01, 400), (0.001, 1500)):
        model.set_params(learning_rate=rate, max_iter=epochs)
        model.fit(X, y, attributes=a)
    return np.append(model.coef_, model.intercept_)


@pytest.fixture(scope="module")
def converged(data):
    models = {
        "plain": ERMClassifier(device="cpu"),
        "class": ERMClassifier(balance="class", device="cpu"),
        "group": ERMClassifier(balance="group", device="cpu"),
        "reweighted": ERMClassifier(reweight="group", device="cpu"),
        "gerne -1": GERNEClassifier(beta=-1, c=0.5, device="cpu"),
        "gerne s=1": GERNEClassifier(beta=0, c=1, device="cpu"),
        "gerne s=1, extrapolated": GERNEClassifier(beta=1, c=0.5, device="cpu"),
    }
    # Unequal classes, so that class balance is not plain training.
    X, y, a = (
        part[np.flatnonzero(data[1] | (np.arange(240) % 3 == 0))] for part in data
    )
    return {name: _train_long(model, (X, y, a)) for name, model in models.items()}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("gerne -1", "class"),
        ("gerne s=1", "group"),
        ("gerne s=1, extrapolated", "group"),
        ("reweighted", "group"),
    ],
)
def test_special_cases_reach_the_same_minimum(one, two, converged):
    """The same objective in expectation: within 3 %; other objectives are further."""
    scale = np.linalg.norm(converged[two])
    assert np.linalg.norm(converged[one] - converged[two]) < 0.03 * scale
    others = {"plain", "class", "group"} - {two}
    for other in others:
        assert np.linalg.norm(converged[one] - converged[other]) > 0.09 * scale


def test_adamw_and_sgd_are_different_solvers_of_one_problem(data):
    X, y, a = data
    one, two = (
        GERNEClassifier(1.0, **COMMON, solver=solver).fit(X, y, attributes=a)
        for solver in ("sgd", "adamw")
    )
    assert differ(one, two)
    assert (one.predict(X) == two.predict(X)).mean() > 0.9


@pytest.mark.parametrize("solver", ["sgd", "adamw"])
@pytest.mark.parametrize("hidden", [(5,), [7, 4], np.array([3])], ids=str)
def test_hidden_layers(hidden, solver, data):
    X, y, a = data
    model = GERNEClassifier(hidden_layer_sizes=hidden, solver=solver, **COMMON)
    model.set_params(max_iter=60).fit(X, y, attributes=a)
    sizes = [10, *hidden, 1]
    assert [c.shape for c in model.coefs_] == list(pairwise(sizes))
    assert [b.shape for b in model.intercepts_] == [(n,) for n in sizes[1:]]
    assert not hasattr(model, "coef_")
    assert model.loss_curve_[-1] < 0.6 * model.loss_curve_[0]


def test_a_hidden_layer_learns_what_a_linear_head_cannot():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    settings = {**COMMON, "learning_rate": 0.1, "max_iter": 200}
    assert ERMClassifier(**settings).fit(X, y).score(X, y) < 0.7
    mlp = ERMClassifier(hidden_layer_sizes=(16,), weight_decay=0, **settings)
    assert mlp.fit(X, y).score(X, y) > 0.93


def test_a_refit_forgets_the_layers_of_another_architecture(data):
    X, y, a = data
    model = GERNEClassifier(1.0, **COMMON).fit(X, y, attributes=a)
    linear = model.predict_proba(X)
    model.set_params(hidden_layer_sizes=(4,)).fit(X, y, attributes=a)
    assert not hasattr(model, "coef_")
    model.set_params(hidden_layer_sizes=()).fit(X, y, attributes=a)
    assert not hasattr(model, "coefs_")
    np.testing.assert_array_equal(model.predict_proba(X), linear)


# --- repetition ------------------------------------------------------------------


@every_estimator
def test_random_state(estimator, data):
    X, y, a = data

    def fit(random_state):
        model = clone(estimator).set_params(random_state=random_state)
        return model.fit(X, y, attributes=a)

    assert_same_head(fit(0), fit(0), atol=0)
    assert differ(fit(0), fit(1))
    assert differ(fit(None), fit(None))
    generator = np.random.RandomState(0)
    model = clone(estimator).set_params(random_state=generator)
    first = pickle.loads(pickle.dumps(model.fit(X, y, attributes=a)))
    assert differ(first, model.fit(X, y, attributes=a))  # the instance moved on
    assert_same_head(first, fit(np.random.RandomState(0)), atol=0)


@every_estimator
def test_fit_neither_reads_nor_moves_global_seeds(estimator, data):
    X, y, a = data
    states = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        states.append(clone(estimator).fit(X, y, attributes=a))
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    assert_same_head(*states, atol=0)


@every_estimator
def test_warm_start_continues(estimator, data):
    X, y, a = data
    cold = clone(estimator).set_params(max_iter=5, momentum=0)
    once = clone(cold).fit(X, y, attributes=a)
    again = clone(cold).fit(X, y, attributes=a).fit(X, y, attributes=a)
    assert_same_head(once, again, atol=0)
    warm = clone(cold).set_params(warm_start=True).fit(X, y, attributes=a)
    assert_same_head(once, warm, atol=0)  # nothing to start from yet
    warm.set_params(learning_rate=1e-12, max_iter=1).fit(X, y, attributes=a)
    assert_same_head(once, warm)  # it started where the first fit ended
    warm.set_params(learning_rate=0.05, max_iter=30).fit(X, y, attributes=a)
    assert warm.loss_curve_[0] < once.loss_curve_[0]
    assert warm.n_iter_ == 30
    assert len(warm.loss_curve_) == 30


@every_estimator
def test_warm_start_refuses_another_shape(estimator, data):
    X, y, a = data
    model = clone(estimator).set_params(warm_start=True).fit(X, y, attributes=a)
    with pytest.raises(ValueError, match=r"warm_start=True.*fit a clone"):
        model.set_params(hidden_layer_sizes=(3, 2)).fit(X, y, attributes=a)
    model.set_params(hidden_layer_sizes=estimator.hidden_layer_sizes)
    with pytest.raises(ValueError, match=r"warm_start=True.*fit a clone"):
        model.fit(X[:, :4], y, attributes=a)


@every_estimator
def test_clone_and_pickle(estimator, data, tmp_path):
    X, y, a = data
    wide = np.tile(X, (1, 77)).astype(np.float16)  # 770 features
    model = clone(estimator).fit(wide, y, attributes=a)
    assert not hasattr(clone(model), "classes_")
    assert clone(model).get_params() == model.get_params()
    written = pickle.dumps(model)
    weights = sum(array.nbytes for array in layers(model))
    assert len(written) < weights + 4000
    again = pickle.loads(written)
    np.testing.assert_array_equal(again.predict_proba(wide), model.predict_proba(wide))


@every_estimator
def test_a_pickle_predicts_without_torch(estimator, data, tmp_path):
    X, y, a = data
    model = clone(estimator).fit(X, y, attributes=a)
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "X.npy", X.astype(np.float16))
    code = f"""
import importlib.abc, pickle, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Refuse())
import numpy as np
folder = {str(tmp_path)!r}
with open(folder + "/model", "rb") as file:
    model = pickle.load(file)
X = np.load(folder + "/X.npy")
np.save(folder + "/out.npy", model.predict_proba(X))
assert model.predict(X).shape == (len(X),)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), model.predict_proba(X), atol=1e-5
    )


# --- validation set --------------------------------------------------------------

SCORES = {
    "worst_group": lambda table, counts: table.min(1),
    "group_balanced": lambda table, counts: table.mean(1),
    "worst_class": lambda table, counts: np.minimum(
        table[:, :2] @ counts[:2] / counts[:2].sum(),
        table[:, 2:] @ counts[2:] / counts[2:].sum(),
    ),
    "accuracy": lambda table, counts: table @ counts / counts.sum(),
}


@every_estimator
@pytest.mark.parametrize("selection", [*SCORES, "last", "auto"])
def test_the_validation_set_selects_the_epoch(estimator, selection, spurious):
    (X, y, a), (X_val, y_val, a_val), _ = spurious
    validation = {"X_val": X_val, "y_val": y_val, "attributes_val": a_val}
    model = clone(estimator).set_params(selection=selection, max_iter=12)
    model.fit(X, y, attributes=a, **validation)
    history = model.history_
    assert set(history) == {
        "loss",
        "validation_score",
        "validation_group_accuracy",
        "validation_groups",
    }
    assert history["loss"] == model.loss_curve_
    table = history["validation_group_accuracy"]
    assert table.shape == (12, 4)
    assert history["validation_groups"] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    counts = np.array(
        [((y_val == c) & (a_val == v)).sum() for c in (0, 1) for v in (0, 1)]
    )
    if selection == "last":
        assert model.best_epoch_ == 12
    else:
        rule = SCORES["worst_group" if selection == "auto" else selection]
        np.testing.assert_allclose(history["validation_score"], rule(table, counts))
        best, scores = model.best_epoch_, np.array(history["validation_score"])
        assert scores[best - 1] == scores.max()
        balanced = table.mean(1)[scores == scores.max()]
        assert table[best - 1].mean() == pytest.approx(balanced.max())
        # The kept weights are those of a fit that ends at this epoch.
        short = clone(model).set_params(max_iter=best, selection="last")
        assert_same_head(model, short.fit(X, y, attributes=a))
    own = [
        (model.predict(X_val) == y_val)[(y_val == c) & (a_val == v)].mean()
        for c, v in history["validation_groups"]
    ]
    np.testing.assert_allclose(own, table[model.best_epoch_ - 1])
    assert model.n_iter_ == 12


@every_estimator
def test_the_validation_set_selects_the_epoch_and_nothing_else(estimator, spurious):
    (X, y, a), (X_val, y_val, a_val), _ = spurious
    alone = clone(estimator).fit(X, y, attributes=a)
    model = (
        clone(estimator)
        .set_params(selection="last")
        .fit(X, y, attributes=a, X_val=X_val, y_val=y_val, attributes_val=a_val)
    )
    assert_same_head(alone, model, atol=0)
    assert alone.best_epoch_ == alone.n_iter_ == 8
    assert set(alone.history_) == {"loss"}
    assert len(alone.loss_curve_) == 8


def test_without_attributes_the_last_epoch_is_kept(spurious):
    (X, y, _), (X_val, y_val, _), _ = spurious
    model = ERMClassifier(**COMMON).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.history_["validation_group_accuracy"].shape == (8, 2)
    assert model.best_epoch_ == model.n_iter_ == 8
    alone = ERMClassifier(**COMMON).fit(X, y)
    np.testing.assert_array_equal(model.coef_, alone.coef_)


def test_early_stopping_without_attributes_is_by_worst_class(spurious):
    (X, y, _), (X_val, y_val, _), _ = spurious
    model = ERMClassifier(**COMMON, early_stopping=True)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    table = model.history_["validation_group_accuracy"]
    np.testing.assert_array_equal(model.history_["validation_score"], table.min(1))


@pytest.mark.parametrize(
    "labels", [np.array(["ant", "bee", "cat"]), np.array([5, 7, 6])]
)
def test_a_validation_class_that_training_lacks_is_counted_as_wrong(labels, spurious):
    (X, y, _), (X_val, y_val, _), _ = spurious
    unseen = np.where(np.arange(len(y_val)) % 4 == 0, 2, y_val)
    settings = {**COMMON, "selection": "accuracy"}
    model = ERMClassifier(**settings).fit(
        X, labels[y], X_val=X_val, y_val=labels[unseen]
    )
    assert list(model.classes_) == sorted(labels[:2])
    table = model.history_["validation_group_accuracy"]
    column = [label for label, _ in model.history_["validation_groups"]]
    assert column == sorted(labels)
    np.testing.assert_array_equal(table[:, column.index(labels[2])], 0)
    best = model.history_["validation_score"][model.best_epoch_ - 1]
    assert best == pytest.approx((model.predict(X_val) == labels[unseen]).mean())
    worst = clone(model).set_params(selection="worst_class")
    worst.fit(X, labels[y], X_val=X_val, y_val=labels[unseen])
    assert set(worst.history_["validation_score"]) == {0}


def test_a_validation_attribute_that_training_lacks_is_a_group_of_its_own(spurious):
    (X, y, a), (X_val, y_val, a_val), _ = spurious
    unseen = np.where(np.arange(len(y_val)) % 5 == 0, 9, a_val)
    model = GERNEClassifier(1.0, **COMMON).fit(
        X, y, attributes=a, X_val=X_val, y_val=y_val, attributes_val=unseen
    )
    assert list(model.attribute_values_) == [0, 1]
    groups = model.history_["validation_groups"]
    assert groups == [(c, v) for c in (0, 1) for v in (0, 1, 9)]
    assert model.history_["validation_group_accuracy"].shape == (8, 6)


@every_estimator
def test_early_stopping(estimator, spurious):
    (X, y, a), (X_val, y_val, a_val), _ = spurious
    validation = {"X_val": X_val, "y_val": y_val, "attributes_val": a_val}
    settings = {"early_stopping": True, "n_iter_no_change": 3, "max_iter": 300}
    model = clone(estimator).set_params(**settings)
    model.fit(X, y, attributes=a, **validation)
    scores = model.history_["validation_score"]
    assert model.n_iter_ == len(scores) == len(model.loss_curve_) < 300
    assert max(scores[-3:]) <= max(scores[:-3]) + model.tol
    assert scores[model.best_epoch_ - 1] == max(scores)
    # Without a validation set the training loss decides, and the last epoch is kept.
    model = clone(model).set_params(tol=1e-2).fit(X, y, attributes=a)
    losses = model.loss_curve_
    assert model.n_iter_ == len(losses) < 300
    assert min(losses[-3:]) >= min(losses[:-3]) - 1e-2
    assert model.best_epoch_ == model.n_iter_
    assert clone(model).set_params(early_stopping=False, max_iter=20).fit(
        X, y, attributes=a
    ).n_iter_ == 20  # fmt: skip


def test_a_pipeline_scales_the_validation_set(spurious):
    (X, y, a), (X_val, y_val, a_val), _ = spurious
    X, X_val = 1000 * X + 500, 1000 * X_val + 500
    validation = {"y_val": y_val, "attributes_val": a_val}
    steps = [("scale", StandardScaler()), ("head", GERNEClassifier(1.0, **COMMON))]
    with config_context(enable_metadata_routing=True):
        pipeline = Pipeline(steps, transform_input=["X_val"])
        pipeline.fit(X, y, attributes=a, X_val=X_val, **validation)
    scaler = StandardScaler().fit(X)
    by_hand = GERNEClassifier(1.0, **COMMON).fit(
        scaler.transform(X), y, a, X_val=scaler.transform(X_val), **validation
    )
    assert_same_head(pipeline[-1], by_hand, atol=0)
    np.testing.assert_array_equal(
        pipeline[-1].history_["validation_group_accuracy"],
        by_hand.history_["validation_group_accuracy"],
    )


# --- callbacks -------------------------------------------------------------------


class StopAt:
    """Stops training after an epoch; keeps what it was shown."""

    def __init__(self, epoch):
        self.epoch = epoch
        self.seen = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        if context.task_name != "epoch":
            return False
        self.seen.append((X, y, metadata, fitted_estimator.predict(X)))
        return len(self.seen) == self.epoch


@every_estimator
def test_a_callback_stops_training(estimator, data):
    X, y, a = data
    callback = StopAt(3)
    model = clone(estimator).set_callbacks(callback).fit(X, y, attributes=a)
    assert model.n_iter_ == model.best_epoch_ == len(model.loss_curve_) == 3
    short = clone(estimator).set_params(max_iter=3).fit(X, y, attributes=a)
    assert_same_head(model, short)
    for _, labels, metadata, _ in callback.seen:
        np.testing.assert_array_equal(labels, y)
        np.testing.assert_array_equal(metadata["attributes"], a)
    np.testing.assert_array_equal(callback.seen[-1][-1], model.predict(X))


@every_estimator
def test_scoring_monitor_in_a_search(estimator, data):
    X, y, a = data
    monitor = ScoringMonitor(
        scoring={
            "wga": worst_group_accuracy_scorer,
            "accuracy": make_scorer(accuracy_score),
        }
    )
    model = clone(estimator).set_callbacks(monitor)
    search = GridSearchCV(
        model, {"weight_decay": [1e-3, 1e-1]}, cv=2, scoring=worst_group_accuracy_scorer
    )
    with config_context(enable_metadata_routing=True):
        search.fit(X, y, attributes=a)
        frame = monitor.get_logs().data_as_pandas
    # 2 candidates x 2 folds and the refit, 8 epochs each.
    epochs = frame[frame["task_name"] == "epoch"] if "task_name" in frame else frame
    assert len(epochs) >= 5 * 8
    assert np.isfinite(frame[["wga", "accuracy"]]).all(axis=None)
    assert (frame["wga"] <= frame["accuracy"]).all()


@every_estimator
@pytest.mark.parametrize("searched", [False, True], ids=["alone", "in a search"])
def test_progress_bar(estimator, searched, data, capsys):
    pytest.importorskip("rich")
    X, y, a = data
    model = clone(estimator)
    if searched:
        model = GridSearchCV(model, {"weight_decay": [1e-3, 1e-1]}, cv=2)
    model.set_callbacks(ProgressBar()).fit(X, y, attributes=a)
    assert type(estimator).__name__ in capsys.readouterr().out


@every_estimator
def test_verbose_shows_a_bar_and_silence_is_the_default(estimator, data, capsys):
    X, y, a = data
    clone(estimator).fit(X, y, attributes=a)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    clone(estimator).set_params(verbose=1).fit(X, y, attributes=a)
    assert f"{type(estimator).__name__}: 100%" in capsys.readouterr().err


# --- bad input -------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.25, 0.5, 1.0])
def test_beta_beyond_its_bound(c, data):
    X, y, a = data
    low, high = beta_bounds(y, a, c)
    for out in ("auto", "raise"):
        for beta, bound in ((high + 0.01, high), (low - 0.01, low)):
            model = GERNEClassifier(beta=beta, c=c, out_of_bounds=out, **COMMON)
            with pytest.raises(ValueError, match="is outside the bounds") as caught:
                model.fit(X, y, attributes=a)
            message = str(caught.value)
            for part in (f"beta={beta}", f"c={c}", f"{bound:.4f}", "clip"):
                assert part in message
    for beta in (low, high, low + 0.01, high - 0.01, -1):
        GERNEClassifier(beta=beta, c=c, **{**COMMON, "max_iter": 1}).fit(
            X, y, attributes=a
        )


def test_beta_beyond_its_bound_with_a_warning(data):
    X, y, a = data
    beta = beta_bounds(y, a, 0.5)[1] + 0.1
    model = GERNEClassifier(beta=beta, out_of_bounds="warn", **COMMON)
    with pytest.warns(UserWarning, match=rf"beta={beta} with c=0.5") as record:
        model.fit(X, y, attributes=a)
    # So large a beta makes a head that is of no use, which is told of as well.
    said = [w for w in record if w.category is not CollapsedHeadWarning]
    assert len(said) == 1
    assert said[0].filename == __file__  # the caller's line
    assert model.beta_ == beta
    assert model.extrapolated_distribution_.min() < 0


def test_beta_beyond_its_bound_is_clipped(data):
    X, y, a = data
    low, high = beta_bounds(y, a, 0.5)
    for beta, bound in ((high + 5, high), (low - 5, low)):
        model = GERNEClassifier(beta=beta, out_of_bounds="clip", **COMMON)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # The heads of the bounds themselves are of no use on these rows.
            warnings.simplefilter("ignore", CollapsedHeadWarning)
            model.fit(X, y, attributes=a)
        assert model.beta_ == pytest.approx(bound)
        assert model.beta == beta
        assert model.extrapolated_distribution_.min() == pytest.approx(0, abs=1e-9)
        at_bound = GERNEClassifier(beta=bound, **COMMON).fit(X, y, attributes=a)
        assert_same_head(model, at_bound)


BAD_PARAMETERS = [
    ({"c": 0}, "'c' parameter of GERNEClassifier"),
    ({"c": 1.01}, "'c' parameter of GERNEClassifier"),
    ({"c": -0.5}, "'c' parameter of GERNEClassifier"),
    ({"beta": np.nan}, "'beta' parameter of GERNEClassifier"),
    ({"out_of_bounds": "ignore"}, "'out_of_bounds' parameter of GERNEClassifier"),
    ({"learning_rate": 0}, "'learning_rate' parameter of GERNEClassifier"),
    ({"batch_size": 0}, "'batch_size' parameter of GERNEClassifier"),
    ({"max_iter": 0}, "'max_iter' parameter of GERNEClassifier"),
    ({"momentum": 1}, "'momentum' parameter of GERNEClassifier"),
    ({"solver": "adam"}, "'solver' parameter of GERNEClassifier"),
    ({"selection": "best"}, "'selection' parameter of GERNEClassifier"),
    ({"hidden_layer_sizes": 5}, "'hidden_layer_sizes' parameter of GERNEClassifier"),
    ({"hidden_layer_sizes": (0,)}, r"hidden_layer_sizes=\(0,\)"),
    ({"hidden_layer_sizes": (4, -1)}, r"hidden_layer_sizes=\(4, -1\)"),
    ({"hidden_layer_sizes": (2.5,)}, r"hidden_layer_sizes=\(2\.5,\)"),
    ({"device": "abacus"}, "device='abacus'"),
    ({"device": "cuda:99"}, "device='cuda:99'"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS, ids=str)
def test_bad_parameters(parameters, message, data):
    X, y, a = data
    model = GERNEClassifier(1.0, **COMMON).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, attributes=a)


def _with(array, value):
    array = array.astype(float)
    array[3] = value
    return array


BAD_DATA = {
    "attributes too short": (
        lambda X, y, a: (X, y, {"attributes": a[:-1]}),
        "attributes has 239 rows, but there are 240 samples",
    ),
    "attributes with NaN": (
        lambda X, y, a: (X, y, {"attributes": _with(a, np.nan)}),
        r"attributes has missing values in 1 of 240 rows \(the first is row 3\)",
    ),
    "attributes with None": (
        lambda X, y, a: (X, y, {"attributes": ["a", None] * 120}),
        "attributes has missing values in 120 of 240 rows",
    ),
    "attributes of three dimensions": (
        lambda X, y, a: (X, y, {"attributes": np.zeros((240, 2, 2))}),
        r"attributes must have shape .* but has shape \(240, 2, 2\)",
    ),
    "y too short": (lambda X, y, a: (X, y[:-1], {}), "inconsistent numbers of samples"),
    "one class": (
        lambda X, y, a: (X, y * 0, {"attributes": a}),
        "needs at least 2 classes, but y holds 1 class, 0",
    ),
    "y of numbers": (
        lambda X, y, a: (X, y + 0.25 * X[:, 0], {"attributes": a}),
        "Unknown label type: continuous",
    ),
    "NaN in X": (lambda X, y, a: (_with(X, np.nan), y, {}), "X contains NaN"),
    "infinity in X": (
        lambda X, y, a: (_with(X, np.inf), y, {}),
        "X contains infinity",
    ),
    "NaN in float16": (
        lambda X, y, a: (_with(X, np.nan).astype(np.float16), y, {}),
        "X contains NaN",
    ),
    "infinity in float16": (
        lambda X, y, a: (_with(X, np.inf).astype(np.float16), y, {}),
        "X contains infinity",
    ),
    "NaN in a tensor": (
        lambda X, y, a: (torch.from_numpy(_with(X, np.nan)), y, {}),
        "X contains NaN",
    ),
    "X_val alone": (
        lambda X, y, a: (X, y, {"X_val": X}),
        "y_val=None, but another part of the validation set was given",
    ),
    "y_val alone": (
        lambda X, y, a: (X, y, {"y_val": y}),
        "X_val=None, but another part of the validation set was given",
    ),
    "attributes_val alone": (
        lambda X, y, a: (X, y, {"attributes_val": a}),
        "X_val=None, but another part of the validation set was given",
    ),
    "y_val too short": (
        lambda X, y, a: (X, y, {"X_val": X, "y_val": y[:5]}),
        "X_val has 240 rows and y_val has 5",
    ),
    "attributes_val too short": (
        lambda X, y, a: (X, y, {"X_val": X, "y_val": y, "attributes_val": a[:5]}),
        "attributes_val has 5 rows, but there are 240 samples",
    ),
    "attributes_val with NaN": (
        lambda X, y, a: (
            X,
            y,
            {"X_val": X, "y_val": y, "attributes_val": _with(a, np.nan)},
        ),
        "attributes_val has missing values",
    ),
    "other features in X_val": (
        lambda X, y, a: (X, y, {"X_val": X[:, :4], "y_val": y}),
        "X has 4 features, but .* is expecting 10 features",
    ),
    "NaN in X_val": (
        lambda X, y, a: (X, y, {"X_val": _with(X, np.nan), "y_val": y}),
        "X contains NaN",
    ),
    "no class of y in y_val": (
        lambda X, y, a: (X, y, {"X_val": X, "y_val": y + 2}),
        r"y_val holds none of the classes of y",
    ),
    "strings in y_val, numbers in y": (
        lambda X, y, a: (X, y, {"X_val": X, "y_val": y.astype(str)}),
        r"y_val holds none of the classes of y",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize(
    "model", [ERMClassifier(balance="group", **COMMON), GERNEClassifier(1.0, **COMMON)],
    ids=["group-resampling", "gerne"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::skdebias.MissingAttributesWarning")
def test_bad_data(case, model, data):
    change, message = BAD_DATA[case]
    X, y, metadata = change(*data)
    with pytest.raises(ValueError, match=message):
        clone(model).fit(X, y, **metadata)


def test_selection_by_worst_group_needs_attributes(data):
    X, y, a = data
    model = GERNEClassifier(1.0, selection="worst_group", **COMMON)
    with pytest.raises(
        ValueError, match=r"selection='worst_group' needs attributes_val"
    ):
        model.fit(X, y, attributes=a, X_val=X, y_val=y)


def test_a_scorer_without_routing_names_the_line(data):
    X, y, a = data
    model = GERNEClassifier(1.0, **COMMON).fit(X, y, attributes=a)
    line = r"sklearn\.set_config\(enable_metadata_routing=True\)"
    with pytest.raises(TypeError, match=line):
        worst_group_accuracy_scorer(model, X, y)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GERNEClassifier(1.0, **COMMON)),
        {"gerneclassifier__c": [0.5]},
        scoring=worst_group_accuracy_scorer,
        cv=2,
        error_score="raise",
    )
    with pytest.raises(TypeError, match=line):
        search.fit(X, y, gerneclassifier__attributes=a)


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        (ERMClassifier(), False),
        (ERMClassifier(balance="class"), False),
        (ERMClassifier(reweight="class"), False),
        (ERMClassifier(balance="group"), True),
        (ERMClassifier(reweight="group"), True),
        (GERNEClassifier(out_of_bounds="clip"), True),
        (GERNEClassifier(out_of_bounds="clip", t=0.3), False),  # infers them so
    ],
    ids=repr,
)
def test_missing_attributes_warning(model, warned, data):
    X, y, a = data
    model = clone(model).set_params(**COMMON)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MissingAttributesWarning)
        clone(model).fit(X, y, attributes=a)
        clone(model).fit(X, y, attributes=a, X_val=X, y_val=y)  # no attributes_val
        if warned:
            with pytest.raises(MissingAttributesWarning):
                clone(model).fit(X, y)
            return
        clone(model).fit(X, y)


@pytest.mark.parametrize("argument", ["balance", "reweight"])
def test_what_the_warning_says_is_what_happens(argument, data):
    X, y, _ = data
    by_group = ERMClassifier(**{argument: "group"}, **COMMON)
    with pytest.warns(
        MissingAttributesWarning, match="ERMClassifier .*attributes="
    ) as w:
        by_group.fit(X, y)
    assert len(w) == 1
    assert w[0].filename == __file__  # the caller's line
    by_class = ERMClassifier(**{argument: "class"}, **COMMON).fit(X, y)
    assert_same_head(by_group, by_class, atol=0)
