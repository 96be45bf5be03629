"""The curvature that all linear heads on the same rows share."""

import numpy as np
import pytest
import torch

from skdebias import AFRClassifier, ERMClassifier, GERNEClassifier
from skdebias._engine import _curvature, _expected_risk, _lbfgs
from skdebias._engine._curvature import Curvature, sampled_curvature
from skdebias._engine._features import Features
from skdebias.datasets import make_spurious_classification
from skdebias.model_selection import BatchedGridSearchCV

SOLVER = {"solver": "lbfgs", "max_iter": 2000, "tol": 1e-8}
CPU = torch.device("cpu")


def _correlated(n_samples=1200, n_classes=2, n_features=24):
    """Features whose covariance has eigenvalues from 1e-2 to 1e2."""
    X, y, attributes = make_spurious_classification(
        n_samples,
        n_features=n_features,
        n_classes=n_classes,
        n_attributes=n_classes,
        random_state=0,
    )
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((n_features, n_features)))
    X = (X * np.logspace(-1, 1, n_features)) @ axes
    return X.astype(np.float32), y, attributes


def _without(monkeypatch):
    monkeypatch.setattr(_curvature, "_SAMPLED", 1_000_000)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_same_optimum_in_half_the_iterations(n_classes, monkeypatch):
    X, y, attributes = _correlated(n_classes=n_classes)
    head = GERNEClassifier(0.2, weight_decay=0.003, **SOLVER)
    head.fit(X, y, attributes)
    coef, intercept, n_iter = head.coef_, head.intercept_, head.n_iter_
    _without(monkeypatch)
    head.fit(X, y, attributes)
    np.testing.assert_allclose(coef, head.coef_, atol=1e-5)
    # With several classes the biases are free up to a constant.
    spread = intercept - head.intercept_
    assert np.ptp(np.append(spread, 0.0 if n_classes == 2 else spread)) < 1e-5
    assert 2 * n_iter < head.n_iter_


@pytest.mark.parametrize("double_entries", [0, 1 << 20])
def test_half_the_iterations_in_either_precision(double_entries, monkeypatch):
    X, y, _ = _correlated()
    monkeypatch.setattr(_expected_risk, "_DOUBLE_ENTRIES", double_entries)
    head = ERMClassifier(solver="lbfgs", weight_decay=0.01, tol=1e-4, max_iter=500)
    n_iter = head.fit(X, y).n_iter_
    _without(monkeypatch)
    assert 2 * n_iter < head.fit(X, y).n_iter_


def test_anchored_biases_and_unreached_strata(monkeypatch):
    X, y, _ = _correlated()
    head = AFRClassifier(4.0, regularization=0.1, random_state=0, **SOLVER).fit(X, y)
    coef, n_iter = head.coef_, head.n_iter_
    _without(monkeypatch)
    head.fit(X, y)
    np.testing.assert_allclose(coef, head.coef_, atol=1e-5)
    assert n_iter < head.n_iter_


def test_a_head_takes_the_same_way_in_any_stack():
    X, y, attributes = _correlated()
    grid = {"beta": [-0.2, 0.0, 0.2], "weight_decay": [1e-4, 0.003, 0.1, 3.0]}
    base = GERNEClassifier(out_of_bounds="clip", **SOLVER)
    cv = [(np.arange(1000), np.arange(1000, 1200))]
    search = BatchedGridSearchCV(base, grid, cv=cv, scoring="neg_log_loss", refit=False)
    search.fit(X, y, attributes=attributes)
    for point, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"]
    ):
        head = GERNEClassifier(out_of_bounds="clip", **SOLVER, **point)
        head.fit(X[:1000], y[:1000], attributes[:1000])
        p = head.predict_proba(X[1000:])[np.arange(200), y[1000:]]
        assert score == pytest.approx(np.log(p).mean(), rel=1e-6)


def test_the_start_of_all_is_the_start_of_each(monkeypatch):
    X, y, attributes = _correlated()
    objectives = []
    minimise = _lbfgs._minimise

    def kept(objective, *further):
        objectives.append(objective)
        return minimise(objective, *further)

    monkeypatch.setattr(_lbfgs, "_minimise", kept)
    grid = {"beta": [-0.2, 0.0, 0.2], "weight_decay": [0.01, 0.1]}
    BatchedGridSearchCV(GERNEClassifier(**SOLVER), grid, cv=2, refit=False).fit(
        X, y, attributes=attributes
    )
    assert len(objectives) == 2
    for objective in objectives:
        each = objective(objective.start, torch.arange(len(objective.start)))
        # Without a pass of all heads.
        monkeypatch.delattr(_expected_risk.ExpectedRisk, "__call__", raising=False)
        for shared, own in zip(objective.at_start(), each):
            torch.testing.assert_close(shared, own, atol=1e-12, rtol=1e-9)
        monkeypatch.undo()


def _curvature_of(weight_decay, n_out=1, n_sampled=500):
    X, _, _ = _correlated(n_sampled, n_features=6)
    row_weights = torch.arange(1.0, n_sampled + 1.0, dtype=torch.float64)
    row_weights /= row_weights.sum()
    decayed = torch.tensor([1.0] * 6 + [0.0], dtype=torch.float64)
    X = torch.from_numpy(X).double()
    curvature = Curvature(X, row_weights, n_out, np.array(weight_decay), decayed)
    return X, row_weights, decayed, curvature


@pytest.mark.parametrize(("n_out", "kappa"), [(1, 0.25), (5, 0.2)])
def test_solves_with_the_hessian_at_zero(n_out, kappa):
    X, row_weights, decayed, curvature = _curvature_of([1.0, 100.0, 1.0], n_out)
    ones = torch.cat([X, X.new_ones(len(X), 1)], 1)
    moments = ones.T @ (row_weights[:, None] * ones)
    diagonal = torch.diag(moments.diagonal())
    shrunk = (500 * moments + 6 * diagonal) / 506
    x = torch.randn(3, n_out, 7, generator=torch.manual_seed(0), dtype=torch.float64)
    found = curvature.solve(x.flatten(1)).view_as(x)
    for own, expected, decay in zip(found, x, [1.0, 100.0, 1.0]):
        hessian = kappa * shrunk + decay * torch.diag(decayed)
        torch.testing.assert_close(own @ hessian, expected)


def test_what_is_solved_of_a_problem_depends_on_no_other():
    decays = [1e-9, 0.03, 1.0, 50.0]
    *_, curvature = _curvature_of(decays)
    x = torch.randn(4, 7, generator=torch.manual_seed(0), dtype=torch.float64)
    together = curvature.solve(x)
    for problem, decay in enumerate(decays):
        alone = _curvature_of([decay])[-1].solve(x[problem : problem + 1])
        torch.testing.assert_close(together[problem : problem + 1], alone)
    some = torch.tensor([True, False, False, True])
    curvature.select(some)
    torch.testing.assert_close(curvature.solve(x[some]), together[some])


def test_samples_all_strata_and_weighs_them_alike():
    strata = np.repeat([1, 0, 2], [900, 5, 95])
    sample, row_weights = _curvature._sample(strata, 120)
    assert np.bincount(strata[sample]).tolist() == [5, 40, 40]
    totals = np.bincount(strata[sample], row_weights)
    np.testing.assert_allclose(totals, np.full(3, 1 / 3))
    assert len(np.unique(sample)) == len(sample)
    gaps = np.diff(np.sort(sample[strata[sample] == 1]))
    assert gaps.min() >= 22
    assert gaps.max() <= 23


def test_features_that_no_sampled_row_has():
    X, y, _ = _correlated()
    X = np.hstack([X, np.zeros((len(X), 2), np.float32)])
    X[np.setdiff1d(np.arange(len(X)), _curvature._sample(0 * y, 78)[0])[0], -1] = 1.0
    head = ERMClassifier(weight_decay=0.01, **SOLVER).fit(X, y)
    assert np.isfinite(head.coef_).all()
    assert head.coef_[0, -2] == 0.0
    assert 0.0 < abs(head.coef_[0, -1]) < 1.0


def test_few_rows_are_not_worth_it():
    X, y, _ = _correlated(191)
    features = Features(X, CPU)
    given = (None, torch.float32, 1, np.ones(1), torch.ones(25))
    assert sampled_curvature(features, y, *given) is None
    X, y, _ = _correlated(192)
    assert sampled_curvature(Features(X, CPU), y, *given) is not None
