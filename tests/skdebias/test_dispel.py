"""Dispel: its draws, its limits, and its fits by hand."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from skdebias import DFRClassifier, ERMClassifier, UnusableAttributesWarning
from skdebias._groups import Groups
from skdebias._prepare import draw_seed
from skdebias.datasets import make_spurious_classification
from skdebias.methods._dfr import mixed_draw
from skdebias.metrics import worst_group_accuracy_score
from skdebias.model_selection import BatchedGridSearchCV

DISPEL = DFRClassifier([0.3], l1_ratio=0.0, n_draws=3, s=0.7, tol=1e-8, random_state=0)


@pytest.fixture(scope="module")
def data():
    X, y, a = make_spurious_classification(
        400, n_features=6, correlation=0.9, random_state=0
    )
    kept = (y == 0) | (np.arange(400) % 3 > 0)  # classes of different sizes
    return X[kept], y[kept], a[kept]


def _mean_draw(groups, n, s=0.8, alpha=0.6):
    """Return how often rows are pooled and are partners, and are mixed at all."""
    rng, (pooled, partnered) = np.random.default_rng(0), np.zeros((2, len(groups.ids)))
    mixed = []
    for _ in range(n):
        draw = mixed_draw(groups, s, alpha, rng)
        assert (groups.y_codes[draw.rows] == groups.y_codes[draw.partners]).all()
        assert set(draw.shares) <= {0.0, s}
        weights = np.ones(len(draw.rows)) if draw.weights is None else draw.weights
        pooled += np.bincount(draw.rows, weights, len(pooled))
        partnered += np.bincount(draw.partners, weights, len(pooled))
        mixed.append((draw.shares > 0).mean())
    return pooled / n, partnered / n, np.mean(mixed)


def test_the_pool_balances_classes_and_the_partners_groups():
    y, a = np.array([0] * 9 + [1] * 6), np.array([0] * 8 + [1] * 2 + [0] * 5)
    groups = Groups.from_labels(y, a, 2, 2)
    draw = mixed_draw(groups, 0.8, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(y[draw.rows]), [6, 6])
    assert len(set(draw.rows)) == 12
    pooled, partnered, mixed = _mean_draw(groups, 4000)
    np.testing.assert_allclose(pooled, np.repeat([6 / 9, 1], [9, 6]), atol=0.05)
    per_group = np.bincount(groups.ids, partnered)
    np.testing.assert_allclose(per_group, [3, 3, 3, 3], atol=0.1)
    np.testing.assert_allclose(mixed, 0.6, atol=0.02)


def test_rows_are_pooled_and_mixed_in_by_their_weights():
    y, a = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 1])
    weights = np.array([4.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    groups = Groups.from_labels(y, a, 2, 2, weights)
    pooled, partnered, _ = _mean_draw(groups, 6000)
    by_class = np.array([10, 10, 10, 10, 3, 3])
    np.testing.assert_allclose(pooled, 3 * weights / by_class, atol=0.05)
    share = np.array([0.5, 0.25, 0.25, 1, 1, 1])  # within the group
    np.testing.assert_allclose(partnered, 1.5 * share, atol=0.05)


@pytest.mark.parametrize(("s", "alpha"), [(1.0, 1.0), (0.7, 1.0), (0.8, 0.5)])
def test_a_fit_is_logistic_regression_on_the_mixtures(s, alpha, data):
    X, y, a = data
    model = clone(DISPEL).set_params(s=s, alpha=alpha).fit(X, y, attributes=a)
    rng = np.random.default_rng(draw_seed(np.random.RandomState(0)))
    groups, Z = Groups.from_labels(y, a, 2, 2), StandardScaler().fit_transform(X)
    totals = np.zeros(len(X))
    for _ in range(3):
        draw = mixed_draw(groups, s, alpha, rng)
        rng.integers(2**31)
        # With s = alpha = 1 these are rows of balanced draws with replacement: DFR.
        mixtures = Z[draw.rows] + draw.shares[:, None] * (
            Z[draw.partners] - Z[draw.rows]
        )
        head = LogisticRegression(C=0.3, tol=1e-8).fit(mixtures, y[draw.rows])
        totals += head.decision_function(Z)
    np.testing.assert_allclose(model.decision_function(X), totals / 3, atol=1e-4)


def test_dispel_that_never_mixes_is_dfr_balanced_by_class(data):
    X, y, a = data
    never = clone(DISPEL).set_params(alpha=0.0, n_draws=1).fit(X, y, attributes=a)
    classes = clone(DISPEL).set_params(s=None, n_draws=1)
    with pytest.warns(UnusableAttributesWarning, match="one value"):
        classes.fit(X, y, attributes=np.zeros(len(y), int))
    np.testing.assert_array_equal(never.coef_, classes.coef_)


@pytest.mark.filterwarnings("ignore::skdebias.AttributesIgnoredWarning")
def test_the_partners_help_the_worst_group():
    def worst(model):
        model.fit(X[::2], y[::2], attributes=a[::2])
        return worst_group_accuracy_score(
            y[1::2], model.predict(X[1::2]), attributes=a[1::2]
        )

    X, y, a = make_spurious_classification(3000, correlation=0.95, random_state=0)
    dispel = clone(DISPEL).set_params(l1_ratio=1.0, tol=1e-3)
    assert worst(dispel) > worst(ERMClassifier(random_state=0)) + 0.1
    assert worst(dispel) > worst(clone(dispel).set_params(alpha=0.0)) + 0.1


def test_a_search_chooses_s(data):
    X, y, a = data
    search = BatchedGridSearchCV(DISPEL, {"s": [None, 1.0, 0.8]}, cv=2)
    search.fit(X, y, attributes=a)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_alpha_without_s_says_that_it_has_no_effect(data):
    X, y, a = data
    with pytest.warns(UserWarning, match=r"alpha=0\.5 has no effect without s"):
        DFRClassifier([0.3], alpha=0.5, n_draws=1).fit(X, y, attributes=a)


@pytest.mark.parametrize("odd", [{"s": 0.0}, {"s": 1.2}, {"s": 0.5, "alpha": -0.1}])
def test_odd_mixtures_are_refused(odd, data):
    X, y, a = data
    with pytest.raises(ValueError, match=r"'(s|alpha)' parameter of DFRClassifier"):
        DFRClassifier(**odd).fit(X, y, attributes=a)
