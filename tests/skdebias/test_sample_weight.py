"""Weights of rows: w copies of a row, of every estimator and everything it counts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from skdebias import (
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    UGCClassifier,
)
from skdebias._engine._sampler import IndexSampler
from skdebias._first_stage import FirstStage
from skdebias._groups import Groups
from skdebias._prepare import Encoded, Prepared
from skdebias._sample_weight import check_sample_weight
from skdebias._training_checks import CollapsedHeadWarning, warn_if_collapsed
from skdebias.attributes import ConfidencePseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.methods import Batch, SamplingPlan, beta_bounds, least_confident
from skdebias.methods._afr import afr_weights, effective_sample_size
from skdebias.methods._dfr import balanced_draw
from skdebias.methods._plan import slot_table
from skdebias.model_selection import BatchedGridSearchCV, BatchedHalvingGridSearchCV
from skdebias.model_selection._counting import Counts
from tests._instances import HEADS, ONE_OF_EACH, PSEUDO_ATTRIBUTES, as_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
by_row = pytest.mark.parametrize("row", HEADS.values(), ids=HEADS)


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(300, correlation=0.8, random_state=0)


@pytest.fixture(scope="module")
def weights(data):
    """Whole numbers from 0 to 3, other ones in every group."""
    _, y, attributes = data
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, len(y)) + (y == attributes)
    return weights.astype(float)


def fitted(model):
    """All that a fit has learned."""
    return {
        name: value
        for name, value in vars(model).items()
        if name.endswith("_") and not name.startswith("_")
    }


def assert_same(found, expected, **close):
    """Compare fitted attributes, exactly unless told otherwise."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        values = found[name]
        if isinstance(value, dict):
            assert_same(values, value, **close)
        elif isinstance(value, list | tuple) and len(value):
            assert len(values) == len(value), name
            for one, other in zip(values, value):
                assert_same({name: one}, {name: other}, **close)
        elif close and np.asarray(value).dtype.kind == "f":
            np.testing.assert_allclose(values, value, err_msg=name, **close)
        else:
            np.testing.assert_array_equal(values, value, err_msg=name)


@by_row
def test_weights_of_one_change_nothing(row, data):
    X, y, attributes = data
    expected = fitted(row.quick().fit(X, y, row.used(attributes)))
    ones = row.quick().fit(
        X, y, row.used(attributes), sample_weight=np.ones(len(y), dtype=np.float32)
    )
    assert_same(fitted(ones), expected)
    assert_same(
        fitted(row.quick().fit(X, y, row.used(attributes), sample_weight=1)), expected
    )


@by_row
def test_rows_of_weight_zero_are_not_there(row, data):
    X, y, attributes = data
    weights = np.where(np.arange(len(y)) % 3 == 0, 0.0, 2.5)
    kept = weights > 0
    model = row.quick().fit(X, y, row.used(attributes), sample_weight=weights)
    alone = row.quick().fit(
        X[kept],
        y[kept],
        row.used(attributes[kept]),
        sample_weight=weights[kept],
    )
    found, expected = fitted(model), fitted(alone)
    for name in {"pseudo_attributes_", "confidence_"} & found.keys():
        values = found.pop(name)
        assert len(values) == len(y)
        np.testing.assert_array_equal(values[kept], expected.pop(name))
        missing = -1 if name == "pseudo_attributes_" else np.nan
        np.testing.assert_array_equal(values[~kept], missing)
    assert_same(found, expected)


@by_row
def test_weights_change_the_fit(row, data, weights):
    X, y, attributes = data
    plain = row.quick().fit(X, y, row.used(attributes))
    weights = np.where(attributes == y, 1e-3, 1e3) * (1 + weights)
    weighted = row.quick().fit(X, y, row.used(attributes), sample_weight=weights)
    difference = plain.decision_function(X) - weighted.decision_function(X)
    assert np.abs(difference).max() > 1e-4
    if row.uses_attributes:
        np.testing.assert_array_equal(plain.group_counts_, weighted.group_counts_)


# Copies of a row may fare differently there, and a row of that weight cannot.
DIVIDING = {
    "AFR": "some of them are held out",
    "GERNE, unknown attributes": "some of them are among the least confident",
    "UGC, paper's form": "k-means starts from others",
}
REPEATABLE = [
    row for name, row in HEADS.items() if row.is_deterministic and name not in DIVIDING
]


@pytest.mark.parametrize("row", REPEATABLE, ids=lambda row: row.name)
def test_whole_weights_are_repeated_rows(row, data, weights):
    X, y, attributes = data
    settings = {"solver": "lbfgs", "max_iter": 300, "tol": 1e-9, "device": "cpu"}
    # L-BFGS takes other steps to the same end: JTT's first model has to reach it.
    settings |= {"weight_decay": 0.1, "warmup_epochs": 50}
    repeats = weights.astype(int)
    order = np.random.default_rng(1).permutation(len(y))
    model = row.make(**settings, random_state=0).fit(
        X[order],
        y[order],
        row.used(attributes[order]),
        sample_weight=weights[order],
        X_val=X[:50],
        y_val=y[:50],
        attributes_val=attributes[:50],
        sample_weight_val=weights[:50],
    )
    repeated = row.make(**settings, random_state=0).fit(
        X.repeat(repeats, axis=0),
        y.repeat(repeats),
        row.used(attributes.repeat(repeats)),
        X_val=X[:50].repeat(repeats[:50], axis=0),
        y_val=y[:50].repeat(repeats[:50]),
        attributes_val=attributes[:50].repeat(repeats[:50]),
    )
    np.testing.assert_allclose(model.coef_, repeated.coef_, atol=2e-5)
    np.testing.assert_allclose(model.intercept_, repeated.intercept_, atol=2e-5)
    for name in ("beta_bounds_", "extrapolated_distribution_", "group_weights_"):
        if hasattr(model, name):
            np.testing.assert_allclose(
                getattr(model, name), getattr(repeated, name), rtol=1e-4
            )
    for name in ("validation_score", "validation_group_accuracy"):
        np.testing.assert_allclose(
            model.history_[name], repeated.history_[name], rtol=1e-12
        )
    counts = np.unique(repeated.history_["validation_groups"], axis=0).shape[0]
    assert len(model.history_["validation_group_weights"]) == counts


BALANCED = (
    "ERM, balanced by class",
    "ERM, balanced by group",
    "GERNE",
    "GERNE, shared draws",
    "GroupDRO",
    "any method",
)


@pytest.mark.parametrize("name", BALANCED)
def test_balanced_steps_draw_the_rows_that_they_would_draw_of_copies(name, data):
    """With one step an epoch, the fits are the same to the last bit."""
    X, y, attributes = data
    repeats = 1 + np.random.default_rng(0).integers(0, 3, len(y))
    row = HEADS[name]
    settings = {"batch_size": 1000, "max_iter": 20, "learning_rate": 0.05}
    settings |= {"adjustment": 2.0}
    model = row.quick(**settings).fit(X, y, row.used(attributes), sample_weight=repeats)
    repeated = row.quick(**settings).fit(
        X.repeat(repeats, axis=0),
        y.repeat(repeats),
        row.used(attributes.repeat(repeats)),
    )
    np.testing.assert_array_equal(model.coef_, repeated.coef_)
    assert model.loss_curve_ == repeated.loss_curve_


def _draws(plan, n_steps, batch_size=8):
    sampler = IndexSampler([plan], batch_size, seed=3)
    return np.concatenate(list(sampler.steps(0, n_steps)))


def test_a_walk_has_each_row_as_often_as_its_share_says():
    weights = np.array([0.5, 3.0, 1.0, 1.0, 0.25, 2.25])
    plan = SamplingPlan(
        np.zeros(6, int),
        (Batch("all", np.ones(1)),),
        replacement=False,
        draw_weights=weights,
    )
    passes = _draws(plan, 600, batch_size=6).reshape(-1, 6)
    counts = np.stack([np.bincount(rows, minlength=6) for rows in passes])
    shares = weights / weights.sum() * 6
    assert (counts >= np.floor(shares)).all()
    assert (counts <= np.ceil(shares)).all()
    np.testing.assert_allclose(counts.mean(0), shares, atol=0.05)


def test_walks_and_draws_of_equal_weights_are_those_of_none():
    strata = np.repeat([0, 1], [5, 3])
    for replacement in (True, False):
        plan = SamplingPlan(
            strata, (Batch("all", np.full(2, 0.5)),), replacement=replacement
        )
        weighted = SamplingPlan(
            strata,
            plan.batches,
            replacement=replacement,
            draw_weights=np.full(8, 0.7),
        )
        np.testing.assert_array_equal(_draws(plan, 50), _draws(weighted, 50))


def test_draws_follow_the_weights_within_their_stratum():
    strata = np.repeat([0, 1], [4, 2])
    weights = np.array([1.0, 2.0, 3.0, 4.0, 100.0, 300.0])
    plan = SamplingPlan(strata, (Batch("all", np.full(2, 0.5)),), draw_weights=weights)
    shares = np.bincount(_draws(plan, 4000), minlength=6) / (4000 * 8)
    expected = np.array([0.1, 0.2, 0.3, 0.4, 0.25, 0.75]) / 2
    np.testing.assert_allclose(shares, expected, atol=0.01)


def test_plans_of_one_stack_draw_alike():
    plans = [
        SamplingPlan(np.zeros(3, int), (Batch("all", np.ones(1)),), draw_weights=w)
        for w in (None, np.arange(1.0, 4.0))
    ]
    with pytest.raises(ValueError, match="draw_weights"):
        slot_table(plans, 4)


def test_arcs_of_dfr_hold_each_row_by_its_share():
    weights = np.array([8.0, 1.0, 1.0, 2.0])
    groups = Groups.from_labels([0, 0, 0, 1], [0, 0, 0, 0], 2, 1, weights)
    rng, total = np.random.default_rng(0), np.zeros(4)
    for _ in range(4000):
        rows, drawn = balanced_draw(groups, rng)
        np.testing.assert_allclose(np.bincount(groups.ids[rows], drawn), [2, 2])
        total[rows] += drawn
    np.testing.assert_allclose(total / 4000, [1.6, 0.2, 0.2, 2.0], atol=0.05)


def test_weights_of_afr_are_those_of_copies():
    confidence, y = np.array([0.9, 0.2, 0.6, 0.3]), np.array([0, 0, 1, 1])
    counted = np.array([3, 1, 2, 4])
    found = afr_weights(confidence, y, 2.0, counted.astype(float))
    copies = afr_weights(confidence.repeat(counted), y.repeat(counted), 2.0)
    np.testing.assert_allclose(found.repeat(counted), copies)
    np.testing.assert_allclose(
        effective_sample_size(found, counted.astype(float)),
        effective_sample_size(copies),
    )


@pytest.mark.parametrize("name", PSEUDO_ATTRIBUTES)
def test_pseudo_attributes_without_rows_of_weight_zero(name, data):
    X, y, _ = data
    weights = np.where(np.arange(len(y)) % 4 == 0, 0.0, 1 + np.arange(len(y)) % 3)
    kept = weights > 0
    inferrer = clone(PSEUDO_ATTRIBUTES[name])
    found = inferrer.fit_predict(X, y, sample_weight=weights)
    expected = clone(inferrer).fit_predict(
        X[kept], y[kept], sample_weight=weights[kept]
    )
    np.testing.assert_array_equal(found[kept], expected)
    assert (found[~kept] == -1).all()
    plain = clone(inferrer).fit_predict(X, y)
    np.testing.assert_array_equal(
        plain, clone(inferrer).fit_predict(X, y, sample_weight=np.ones(len(y)))
    )


@pytest.mark.parametrize("name", ["clusters", "norms", "logistic"])
def test_clusters_of_weighted_rows_are_those_of_repeated_ones(name, data, weights):
    X, y, _ = data
    repeats = weights.astype(int)
    kept = repeats > 0
    weighted = clone(PSEUDO_ATTRIBUTES[name]).fit(X, y, sample_weight=weights)
    repeated = clone(PSEUDO_ATTRIBUTES[name]).fit(
        X.repeat(repeats, axis=0), y.repeat(repeats)
    )
    agree = weighted.predict(X[kept], y[kept]) == repeated.predict(X[kept], y[kept])
    assert agree.mean() > 0.95  # k-means begins elsewhere
    np.testing.assert_allclose(weighted.silhouette_, repeated.silhouette_, atol=0.05)


def test_a_reference_without_weights_is_refused(data):
    X, y, _ = data
    neighbors = KNeighborsClassifier()
    inferrer = ConfidencePseudoAttributes(reference_estimator=neighbors)
    inferrer.fit(X, y)
    with pytest.raises(ValueError, match="reference_estimator=KNeighborsClassifier"):
        inferrer.fit(X, y, sample_weight=np.arange(len(y)))
    with pytest.raises(ValueError, match="reference_estimator=KNeighborsClassifier"):
        JTTClassifier(reference_estimator=neighbors).fit(
            X, y, sample_weight=np.arange(len(y))
        )
    regression = ConfidencePseudoAttributes(reference_estimator=LogisticRegression())
    regression.fit(X, y, sample_weight=np.arange(len(y)))


BAD = {
    "negative": (lambda n: np.r_[-1.0, np.ones(n - 1)], "negative"),
    "missing": (lambda n: np.r_[np.nan, np.ones(n - 1)], "contains NaN"),
    "infinite": (lambda n: np.r_[np.inf, np.ones(n - 1)], "infinity"),
    "sum": (lambda n: np.full(n, 1e308), "sum is infinite"),
    "long": (lambda n: np.ones(n + 1), "one weight per row"),
    "columns": (lambda n: np.ones((n, 1)), "one weight per row"),
    "zero": (lambda n: np.zeros(n), "zero for all"),
    "scalar zero": (lambda n: 0, "zero for all"),
    "words": (lambda n: ["a"] * n, "sample_weight|could not convert"),
    "masked": (lambda n: np.ma.masked_less(np.arange(n), 2), "masked"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("argument", ["sample_weight", "sample_weight_val"])
def test_bad_weights_are_refused_by_name(what, argument, data):
    X, y, attributes = data
    make, message = BAD[what]
    with pytest.raises(ValueError, match=message) as error:
        GERNEClassifier(1.0, max_iter=1).fit(
            X, y, attributes, X_val=X, y_val=y, **{argument: make(len(y))}
        )
    if what != "words":
        assert argument in str(error.value)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bad_weights_are_refused_by_all(name, data):
    X, y, attributes = data
    row = ONE_OF_EACH[name]
    with pytest.raises(ValueError, match="sample_weight has a negative weight"):
        row.quick().fit(X, y, row.used(attributes), sample_weight=-np.ones(len(y)))
    with pytest.raises(ValueError, match="y holds 1 class"):
        row.quick().fit(X, y, row.used(attributes), sample_weight=y)


def test_weights_of_validation_rows_need_these_rows(data):
    X, y, _ = data
    with pytest.raises(ValueError, match="X_val=None"):
        ERMClassifier().fit(X, y, sample_weight_val=np.ones(3))


@pytest.mark.parametrize(
    "convert", [list, pd.Series, torch.from_numpy, lambda w: w.astype(np.int8)]
)
def test_weights_of_any_type(convert):
    expected = np.array([2.0, 0.0, 3.0])
    np.testing.assert_array_equal(check_sample_weight(convert(expected), 3), expected)


def test_validation_rows_of_weight_zero_are_not_there(data):
    X, y, attributes = data
    weights = np.where(attributes == y, 3.0, 0.0)  # two groups are gone
    kept = weights > 0
    model = GERNEClassifier(1.0, max_iter=3, random_state=0)
    found = clone(model).fit(
        X,
        y,
        attributes,
        X_val=X,
        y_val=y,
        attributes_val=attributes,
        sample_weight_val=weights,
    )
    expected = clone(model).fit(
        X,
        y,
        attributes,
        X_val=X[kept],
        y_val=y[kept],
        attributes_val=attributes[kept],
    )
    weighted = found.history_.pop("validation_group_weights")
    np.testing.assert_array_equal(weighted, 3 * np.bincount(y[kept]))
    assert_same(fitted(found), fitted(expected), rtol=1e-12)


def test_the_score_that_chooses_the_epoch_is_weighted(data):
    X, y, attributes = data
    weights = np.where(y == attributes, 0.01, 1.0)
    model = ERMClassifier(max_iter=30, selection="accuracy", random_state=0)
    model.fit(X, y, X_val=X, y_val=y, sample_weight_val=weights)
    chosen = model.history_["validation_score"][model.best_epoch_ - 1]
    np.testing.assert_allclose(chosen, model.score(X, y, weights), rtol=1e-12)
    assert abs(chosen - model.score(X, y)) > 0.05
    assert chosen == max(model.history_["validation_score"])


GRIDS = {
    "sgd": (
        GERNEClassifier(1.0, max_iter=4, random_state=0),
        {"beta": [-1.0, 0.0, 0.2]},
    ),
    "walk": (ERMClassifier(max_iter=4, random_state=0), {"weight_decay": [0.1, 1.0]}),
    "lbfgs": (
        GroupDROClassifier(solver="lbfgs", random_state=0),
        {"weight_decay": [0.1, 1.0]},
    ),
    "first stage": (JTTClassifier(random_state=0), {"upweight": [2, 5]}),
    "alone": (DFRClassifier(n_draws=1, random_state=0), {"Cs": [[0.1], [1.0]]}),
}


def _compare(search, stock):
    names = [name for name in stock.cv_results_ if "score" in name]
    for name in names:
        if "time" not in name:
            np.testing.assert_allclose(
                search.cv_results_[name], stock.cv_results_[name], rtol=1e-6
            )
    np.testing.assert_allclose(
        search.best_estimator_.coef_, stock.best_estimator_.coef_, atol=1e-5
    )


@pytest.mark.parametrize("name", GRIDS)
def test_a_search_splits_the_weights_as_the_stock_search_does(name, data, weights):
    X, y, attributes = data
    model, grid = GRIDS[name]
    common = {"cv": StratifiedKFold(3), "return_train_score": True}
    arguments = {"attributes": attributes, "sample_weight": weights}
    # Without routing, weights reach the fit and all scorers that take some.
    several = ["accuracy", "balanced_accuracy"]
    for scoring in (None, "accuracy", several):
        more = common | {"scoring": scoring, "refit": (scoring and "accuracy") or True}
        _compare(
            BatchedGridSearchCV(model, grid, **more).fit(X, y, **arguments),
            GridSearchCV(model, grid, **more).fit(X, y, **arguments),
        )
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score)
        common["scoring"] = scorer.set_score_request(sample_weight=True)
        asking = clone(model).set_fit_request(sample_weight=True)
        search = BatchedGridSearchCV(asking, grid, **common).fit(X, y, **arguments)
        stock = GridSearchCV(asking, grid, **common).fit(X, y, **arguments)
        _compare(search, stock)
        unweighted = BatchedGridSearchCV(model, grid, cv=3).fit(
            X, y, attributes=attributes
        )
    mean = "mean_test_score"
    assert (search.cv_results_[mean] != unweighted.cv_results_[mean]).any()


def test_weights_are_requested_as_in_scikit_learn(data, weights):
    X, y, attributes = data
    model = GERNEClassifier(1.0, max_iter=2, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        for search in (GridSearchCV, BatchedGridSearchCV):
            with pytest.raises(ValueError, match="sample_weight"):
                search(model, {"beta": [0.0]}, cv=2).fit(
                    X, y, attributes=attributes, sample_weight=weights
                )


def test_halving_with_weights(data, weights):
    X, y, attributes = data
    search = BatchedHalvingGridSearchCV(
        GERNEClassifier(1.0, max_iter=8, random_state=0),
        {"weight_decay": [0.01, 0.1, 1.0]},
        cv=2,
    )
    search.fit(X, y, attributes=attributes, sample_weight=weights)
    single = clone(search.best_estimator_).fit(X, y, attributes, sample_weight=weights)
    np.testing.assert_array_equal(single.coef_, search.best_estimator_.coef_)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_weights_of_classes_multiply_those_of_rows(solver, data, weights):
    X, y, _ = data
    labels = np.array(["a", "b"])[y]
    settings = {"solver": solver, "random_state": 0, "max_iter": 50}
    by_class = {"a": 3.0, "b": 0.5}
    found = ERMClassifier(class_weight=by_class, **settings).fit(
        X, labels, sample_weight=weights
    )
    expected = ERMClassifier(**settings).fit(
        X, labels, sample_weight=weights * np.array([3.0, 0.5])[y]
    )
    assert_same(fitted(found), fitted(expected))
    plain = ERMClassifier(**settings).fit(X, labels, sample_weight=weights)
    assert np.abs(found.coef_ - plain.coef_).max() > 1e-3


def test_balanced_classes_count_alike(data, weights):
    X, y, _ = data
    settings = {"solver": "lbfgs", "tol": 1e-9, "max_iter": 300}
    found = ERMClassifier(class_weight="balanced", **settings)
    expected = ERMClassifier(reweight="class", **settings)
    for sample_weight in (None, weights * (1 + y)):
        found.fit(X, y, sample_weight=sample_weight)
        expected.fit(X, y, sample_weight=sample_weight)
        np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-5)


def test_weights_of_classes_in_searches_and_files(data, tmp_path):
    X, y, _ = data
    grid = {"class_weight": [None, "balanced", {0: 1.0, 1: 50.0}, {0: 9.0, 1: 0.1}]}
    model = ERMClassifier(max_iter=30, learning_rate=0.05, random_state=0)
    search = BatchedGridSearchCV(model, grid, cv=3).fit(X, y)
    stock = GridSearchCV(model, grid, cv=3).fit(X, y)
    _compare(search, stock)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    model.set_params(class_weight={0: 1.0, 1: 50.0}).fit(X, y)
    save(model, tmp_path / "head")
    assert load(tmp_path / "head").class_weight == {0: 1.0, 1: 50.0}


@pytest.mark.parametrize("name", ["balance", "reweight"])
def test_weights_of_classes_beside_what_settles_them_are_refused(name, data):
    X, y, _ = data
    model = ERMClassifier(class_weight="balanced", **{name: "class"})
    with pytest.raises(ValueError, match=f"class_weight='balanced' with {name}"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="y holds 1 class"):
        ERMClassifier(class_weight={0: 0.0, 1: 1.0}).fit(X, y)
    with pytest.raises(ValueError, match="class_weight has a negative weight"):
        ERMClassifier(class_weight={0: -1.0, 1: 1.0}).fit(X, y)


@pytest.fixture(scope="module")
def few():
    return make_spurious_classification(90, correlation=0.8, random_state=0)


NETWORKS = {
    "GERNE": GERNEClassifier(),
    "JTT": JTTClassifier(),
    "UGC": UGCClassifier(2, warmup="epochs"),
    "ERM with class weights": ERMClassifier(class_weight="balanced"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_weights_as_heads_do(name, few):
    X, y, attributes = few
    weights = np.arange(len(y)) % 3.0
    kept = weights > 0

    def fit(rows, **arguments):
        network = as_network(NETWORKS[name], max_iter=2, random_state=0)
        return network.fit(
            X[rows], y[rows], attributes[rows], X_val=X, y_val=y, **arguments
        )

    weighted = fit(slice(None), sample_weight=weights, sample_weight_val=weights)
    alone = fit(kept, sample_weight=weights[kept], sample_weight_val=weights)
    plain = fit(slice(None))
    ones = fit(slice(None), sample_weight=np.ones(len(y)), sample_weight_val=1)
    values = [model.decision_function(X) for model in (weighted, alone, plain, ones)]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[2], values[3])
    assert np.abs(values[0] - values[2]).max() > 1e-4
    found, expected = (fitted(model.estimator_) for model in (weighted, alone))
    if "pseudo_attributes_" in found:
        values = found.pop("pseudo_attributes_")
        np.testing.assert_array_equal(values[kept], expected.pop("pseudo_attributes_"))
        assert (values[~kept] == -1).all()
    assert_same(found, expected)


def test_validation_items_of_weight_zero_are_not_there(few):
    X, y, attributes = few
    kept = attributes == y
    network = as_network(ERMClassifier(), max_iter=2, random_state=0)
    found = clone(network).fit(X, y, X_val=X, y_val=y, sample_weight_val=kept * 2)
    expected = clone(network).fit(X, y, X_val=X[kept], y_val=y[kept])
    found.history_.pop("validation_group_weights")
    assert_same({"": found.history_}, {"": expected.history_}, rtol=1e-12)
    with pytest.raises(ValueError, match="sample_weight_val has a negative weight"):
        clone(network).fit(X, y, X_val=X, y_val=y, sample_weight_val=-1)


def test_runs_of_networks_are_told_apart_by_their_weights(few, tmp_path):
    """A checkpoint of other weights is another run's."""
    X, y, _ = few
    network = as_network(
        ERMClassifier(), max_iter=2, random_state=0, checkpoint_dir=tmp_path
    )
    weights = 1.0 + np.arange(len(y)) % 3
    arguments = {"X_val": X, "y_val": y}
    for more in (
        {},
        {"sample_weight": weights},
        {"sample_weight": 4 - weights},
        {"sample_weight_val": weights},
    ):
        found = clone(network).fit(X, y, **arguments, **more)
        alone = clone(network).set_params(checkpoint_dir=None)
        alone.fit(X, y, **arguments, **more)
        assert found.history_["loss"] == alone.history_["loss"]
    runs = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len([path for path in runs if not path.name.startswith(".")]) == 4


def test_the_bounds_of_beta_are_those_of_a_fit(data, weights):
    X, y, attributes = data
    weights = weights * (1 + 3 * y)
    model = GERNEClassifier(1.0, max_iter=1).fit(
        X, y, attributes, sample_weight=weights
    )
    found = beta_bounds(y, attributes, c=0.5, sample_weight=weights)
    np.testing.assert_allclose(found, model.beta_bounds_)
    assert abs(found[1] - beta_bounds(y, attributes, c=0.5)[1]) > 0.01


def test_callbacks_are_given_the_weights(data, weights):
    X, y, _ = data
    monitor = ScoringMonitor(scoring="accuracy")
    model = ERMClassifier(max_iter=2, random_state=0).set_callbacks(monitor)
    model.fit(X, y, sample_weight=weights)
    last = monitor.get_logs().data[-1]["accuracy"]
    np.testing.assert_allclose(last, model.score(X, y, weights), rtol=1e-12)
    assert last != model.score(X, y)


def test_the_least_confident_have_a_fraction_of_the_weight():
    confidence = np.array([0.4, 0.1, 0.9, 0.2, 0.3])
    y = np.zeros(5, dtype=int)
    weights = np.array([1.0, 3.0, 2.0, 2.0, 2.0])
    for t, expected in ((0.3, [1]), (0.49, [1]), (0.5, [1, 3]), (0.01, [1])):
        marked = least_confident(confidence, y, t, weights)
        np.testing.assert_array_equal(np.flatnonzero(marked), expected)
    equal = np.full(5, 0.2)
    for t in (0.2, 0.4, 0.6, 0.99):
        np.testing.assert_array_equal(
            least_confident(confidence, y, t, equal), least_confident(confidence, y, t)
        )


def test_weighted_scores_are_not_counted(data):
    """Whatever the first head of a stack scores, correct rows are not alike."""
    _, y, _ = data
    scorer = get_scorer("accuracy")
    Counts(scorer, y, {})
    with pytest.raises(ValueError, match="does not only count"):
        Counts(scorer, y, {"sample_weight": np.ones(len(y))})


def test_a_head_that_is_worth_nothing_on_the_weighted_rows_says_so(recwarn):
    model = ERMClassifier()
    model.classes_ = np.array([0, 1])
    y = np.array([0, 0, 0, 0, 1, 1])
    logits = np.array([-1.0, -1, -1, 1, 1, -1])[:, None]

    def check(sample_weight):
        data = SimpleNamespace(X=np.zeros((6, 1)), sample_weight=sample_weight)
        prepared = Prepared(
            data, Encoded(model.classes_, y, None), FirstStage(None), None
        )
        warn_if_collapsed(model, prepared, lambda rows, prefix: logits)

    check(None)
    assert not recwarn
    with pytest.warns(CollapsedHeadWarning, match="frequent class 0.87"):
        check(np.array([1.0, 1, 1, 10, 1, 1]))
