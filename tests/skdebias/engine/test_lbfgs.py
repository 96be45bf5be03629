"""The deterministic solver against reference solutions."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skdebias import (
    AFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
)
from skdebias._engine import _expected_risk, _lbfgs
from skdebias._groups import Groups
from skdebias.datasets import make_spurious_classification
from skdebias.methods import (
    ERM,
    GERNE,
    JTT,
    LfF,
    TrainingContext,
    extrapolated_distribution,
)
from skdebias.model_selection import BatchedGridSearchCV

SOLVER = {"solver": "lbfgs", "max_iter": 2000, "tol": 1e-9}


def _data(n_samples=400, n_classes=2, seed=0, n_features=12):
    X, y, attributes = make_spurious_classification(
        n_samples,
        n_features=n_features,
        n_classes=n_classes,
        n_attributes=n_classes,
        random_state=seed,
    )
    return X.astype(np.float32), y, attributes


def _reference(X, y, weights, weight_decay):
    """scikit-learn's solution of the same weighted problem."""
    model = LogisticRegression(C=1 / weight_decay, tol=1e-10, max_iter=5000)
    return model.fit(X.astype(np.float64), y, sample_weight=weights)


def _assert_same(found, expected):
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-4)
    # With several classes the biases are free up to a constant.
    spread = found.intercept_ - expected.intercept_
    assert np.ptp(spread) < 1e-4
    if len(spread) == 1:
        assert abs(spread[0]) < 1e-4


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    n_classes=st.integers(2, 4),
    weight_decay=st.floats(1e-3, 1.0),
    strength=st.floats(0.0, 1.0),
)
def test_gerne_is_weighted_logistic_regression(seed, n_classes, weight_decay, strength):
    X, y, attributes = _data(200, n_classes, seed)
    beta = 2 * strength - 1  # within the bounds at c = 0.5
    head = GERNEClassifier(beta, 0.5, weight_decay=weight_decay, **SOLVER)
    head.fit(X, y, attributes)
    groups = Groups.from_labels(y, attributes, n_classes, n_classes)
    p_ext = extrapolated_distribution(groups, beta, 0.5)
    weights = (p_ext / n_classes / groups.counts)[groups.ids]
    _assert_same(head, _reference(X, y, weights, weight_decay))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("reweight", [None, "class", "group"])
def test_erm_and_reweighting(n_classes, reweight):
    X, y, attributes = _data(n_classes=n_classes)
    head = ERMClassifier(reweight=reweight, weight_decay=0.01, **SOLVER)
    head.fit(X, y, attributes if reweight == "group" else None)
    kinds = {None: np.zeros_like(y), "class": y, "group": y * n_classes + attributes}
    _, kind, counts = np.unique(
        kinds[reweight], return_inverse=True, return_counts=True
    )
    weights = 1 / (len(counts) * counts[kind])
    _assert_same(head, _reference(X, y, weights, 0.01))


def test_upsampling_the_error_set():
    X, y, _ = _data()
    settings = {"warmup_epochs": 2, "weight_decay": 0.01, "balance": None}
    head = JTTClassifier(7, **settings, **SOLVER).fit(X, y)
    weights = np.where(head.pseudo_attributes_ == 1, 7.0, 1.0)
    assert 0 < head.pseudo_attributes_.mean() < 1
    _assert_same(head, _reference(X, y, weights / weights.sum(), 0.01))


def test_decay_towards_an_anchor():
    """AFR's second head: the gradient of its objective vanishes."""
    X, y, _ = _data(800)
    head = AFRClassifier(4.0, regularization=0.1, random_state=0, **SOLVER).fit(X, y)
    held = np.isfinite(head.confidence_)
    classes = np.bincount(y)
    weights = np.zeros(len(y))
    weights[held] = np.exp(-4.0 * head.confidence_[held]) / classes[y[held]]
    weights /= weights.sum()
    p = head.predict_proba(X)[:, 1]
    residual = weights * (p - y)
    moved = head.coef_ - head.first_coef_, head.intercept_ - head.first_intercept_
    gradient = residual @ X + 0.2 * moved[0]
    assert np.abs(gradient).max() < 1e-5
    assert abs(residual.sum() + 0.2 * moved[1]) < 1e-5


def _smooth_maximum(flat, X, y, group, head, counts):
    """GroupDRO's deterministic objective, written down again."""
    z = X @ flat[:-1] + flat[-1]
    losses = np.logaddexp(0, z) - y * z
    means = np.bincount(group, losses) / counts + head.adjustment / np.sqrt(counts)
    scaled = means / head.temperature
    top = head.temperature * (logsumexp(scaled) - np.log(len(counts)))
    return top + 0.5 * head.weight_decay * (flat[:-1] ** 2).sum()


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("adjustment", [0.0, 2.0])
def test_group_dro_is_the_smooth_maximum_of_the_group_losses(temperature, adjustment):
    X, y, attributes = _data(n_features=6)
    head = GroupDROClassifier(
        temperature=temperature, adjustment=adjustment, weight_decay=0.05, **SOLVER
    )
    head.fit(X, y, attributes)
    group = 2 * y + attributes
    counts = np.bincount(group)
    arguments = (X.astype(np.float64), y, group, head, counts)
    reference = minimize(
        _smooth_maximum, np.zeros(7), arguments, "BFGS", options={"gtol": 1e-7}
    )
    found = np.append(head.coef_[0], head.intercept_)
    np.testing.assert_allclose(found, reference.x, atol=1e-4)
    assert head.loss_curve_[-1] == pytest.approx(reference.fun, abs=1e-7)
    assert head.group_weights_.sum() == pytest.approx(1.0)


def test_group_dro_goes_from_the_mean_to_the_worst_group():
    X, y, attributes = _data(1000)
    base = {"weight_decay": 0.05, **SOLVER}
    balanced = ERMClassifier(reweight="group", **base).fit(X, y, attributes)
    mild = GroupDROClassifier(temperature=1e6, **base).fit(X, y, attributes)
    np.testing.assert_allclose(mild.coef_, balanced.coef_, atol=1e-4)
    strict = GroupDROClassifier(temperature=1e-3, **base).fit(X, y, attributes)

    def worst(head):
        z = head.decision_function(X)
        losses = np.logaddexp(0, z) - y * z
        group = 2 * y + attributes
        return (np.bincount(group, losses) / np.bincount(group)).max()

    assert worst(strict) < worst(balanced)
    assert strict.group_weights_.max() > 0.3


def test_group_dro_in_a_search_is_group_dro_alone():
    X, y, attributes = _data()
    grid = {"temperature": [0.03, 0.3], "weight_decay": [0.01, 0.1]}
    base = GroupDROClassifier(solver="lbfgs", random_state=0)
    search = BatchedGridSearchCV(base, grid, cv=3).fit(X, y, attributes=attributes)
    stock = GridSearchCV(base, grid, cv=3).fit(X, y, attributes=attributes)
    for name in ("mean_test_score", "params"):
        np.testing.assert_array_equal(search.cv_results_[name], stock.cv_results_[name])
    weights = search.best_estimator_.group_weights_
    np.testing.assert_allclose(weights, stock.best_estimator_.group_weights_)


def test_equal_strength_is_one_problem():
    _, y, attributes = _data()
    groups = Groups.from_labels(y, attributes, 2, 2)
    methods = [GERNE(1.0, 0.5), GERNE(0.0, 1.0), GERNE(0.5, 0.5), GERNE(1.0, 0.5, True)]
    plans = [method.plan(groups) for method in methods]
    decay = np.array([0.1, 0.1, 0.1, 0.2])
    first, position = _expected_risk.distinct_problems(
        methods, plans, decay, summed=True
    )
    assert position.tolist() == [0, 0, 1, 2]
    assert first.tolist() == [0, 2, 3]


def test_a_stack_gives_what_its_heads_give_alone():
    X, y, attributes = _data(n_classes=3)
    grid = {"beta": [0.0, 0.4], "c": [0.5, 1.0], "weight_decay": [0.001, 0.1]}
    base = GERNEClassifier(random_state=0, out_of_bounds="clip", **SOLVER)
    cv = [(np.arange(300), np.arange(300, 400))]
    search = BatchedGridSearchCV(base, grid, cv=cv, scoring="neg_log_loss", refit=False)
    search.fit(X, y, attributes=attributes)
    for point, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"]
    ):
        head = GERNEClassifier(out_of_bounds="clip", **SOLVER, **point)
        head.fit(X[:300], y[:300], attributes[:300])
        p = head.predict_proba(X[300:])[np.arange(100), y[300:]]
        assert score == pytest.approx(np.log(p).mean(), rel=1e-5)


def test_the_same_for_any_seed_and_after_a_warm_start():
    X, y, attributes = _data()
    settings = {"beta": 1.0, "weight_decay": 0.01, **SOLVER}
    one = GERNEClassifier(random_state=0, **settings).fit(X, y, attributes)
    two = GERNEClassifier(random_state=1, warm_start=True, **settings)
    two.fit(X, y, attributes)
    np.testing.assert_array_equal(one.coef_, two.coef_)
    n_iter = two.n_iter_
    assert two.fit(X, y, attributes).n_iter_ < n_iter


def test_the_loss_curve_descends_to_the_objective():
    X, y, _ = _data()
    head = ERMClassifier(weight_decay=0.1, **SOLVER).fit(X, y)
    curve = head.loss_curve_
    assert len(curve) == head.n_iter_ == head.best_epoch_
    assert np.diff(curve).max() <= 1e-6
    p = head.predict_proba(X)[np.arange(len(y)), y]
    expected = -np.log(p).mean() + 0.05 * (head.coef_**2).sum()
    assert curve[-1] == pytest.approx(expected, rel=1e-5)


def test_a_validation_set_scores_and_selects_nothing():
    X, y, attributes = _data()
    alone = GERNEClassifier(**SOLVER).fit(X, y, attributes)
    head = GERNEClassifier(**SOLVER).fit(
        X, y, attributes, X_val=X[:90], y_val=y[:90], attributes_val=attributes[:90]
    )
    np.testing.assert_array_equal(head.coef_, alone.coef_)
    assert np.shape(head.history_["validation_group_accuracy"])[0] == 1


def test_too_few_iterations_warn():
    X, y, _ = _data()
    with pytest.warns(ConvergenceWarning, match=r"1 of 1 heads unsolved.*max_iter"):
        ERMClassifier(solver="lbfgs", max_iter=2, tol=1e-7).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ERMClassifier(**SOLVER).fit(X, y)


def test_negative_weights_are_refused():
    X, y, attributes = _data()
    head = GERNEClassifier(9.0, 0.5, out_of_bounds="warn", **SOLVER)
    with (
        pytest.warns(UserWarning, match="outside the bounds"),
        pytest.raises(ValueError, match=r"weights of at least 0.*out_of_bounds='clip'"),
    ):
        head.fit(X, y, attributes)
    GERNEClassifier(9.0, 0.5, out_of_bounds="clip", **SOLVER).fit(X, y, attributes)


def test_what_has_no_deterministic_objective_is_refused():
    X, y, attributes = _data()
    with pytest.raises(ValueError, match="'solver' parameter of LfFClassifier"):
        LfFClassifier(solver="lbfgs").fit(X, y)
    groups = Groups.from_labels(y, attributes, 2, 2)
    setting = TrainingContext((groups,), torch.from_numpy(y), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"LfF has not.*'sgd' or 'adamw'"):
        _lbfgs.check_solvable(LfF(), LfF().plan(groups), setting)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(4,\)"):
        ERMClassifier(hidden_layer_sizes=(4,), **SOLVER).fit(X, y)


@pytest.mark.parametrize("method", [ERM(), GERNE(1.0, 0.5), JTT(5)])
def test_expected_shares_sum_to_what_a_step_weighs(method):
    _, y, attributes = _data()
    groups = Groups.from_labels(y, attributes, 2, 2)
    plan = method.plan(groups)
    total = sum(batch.factor for batch in plan.batches)
    shares = _expected_risk.expected_shares(plan)
    assert shares.sum() == pytest.approx(total)


def test_float16_and_blocks_give_the_same(monkeypatch):
    X, y, attributes = _data()
    X = X.astype(np.float16)
    whole = GERNEClassifier(**SOLVER).fit(X, y, attributes)
    monkeypatch.setattr(_expected_risk, "_BLOCK_ENTRIES", 1)
    blocks = GERNEClassifier(**SOLVER).fit(X, y, attributes)
    np.testing.assert_allclose(blocks.coef_, whole.coef_, atol=1e-5)
