"""The environments of EIIL and the clusters of SPARE, and the sampling that goes on."""

from itertools import product

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score

from skdebias import DebiasedClassifier, ERMClassifier
from skdebias._groups import Groups
from skdebias.attributes import (
    EIILPseudoAttributes,
    ErrorSetPseudoAttributes,
    SPAREPseudoAttributes,
)
from skdebias.attributes._eiil import scale_slopes
from skdebias.datasets import make_spurious_classification
from skdebias.methods import SPARE
from skdebias.model_selection import BatchedGridSearchCV


class Played(LogisticRegression):
    """A reference whose probabilities are given by its rows."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        p = np.exp(X - X.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)


def _played(logits):
    return np.asarray(logits, dtype=float)


def _data(n_classes=2, n_rows=600):
    return make_spurious_classification(n_rows, n_classes=n_classes, random_state=0)


# --- EIIL -----------------------------------------------------------------------------


def _penalty(z, y, weights, shares):
    """The IRM penalty of two environments, by differences in the logits' scale."""
    step = 1e-4

    def risk(scale):
        log_p = scale * z - np.logaddexp.reduce(scale * z, axis=1)[:, None]
        losses = -log_p[np.arange(len(y)), y] * weights / weights.sum()
        return np.array([shares @ losses, (1 - shares) @ losses])

    return (((risk(1 + step) - risk(1 - step)) / (2 * step)) ** 2).sum()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_no_split_has_a_larger_penalty(n_classes):
    rng = np.random.default_rng(n_classes)
    z, y = 2 * rng.normal(size=(9, n_classes)), np.arange(9) % n_classes
    weights = rng.uniform(0.5, 2.0, 9)
    model = EIILPseudoAttributes(reference_estimator=Played())
    found = model.fit_predict(z, y, sample_weight=weights)
    best = max(
        _penalty(z, y, weights, np.array(shares))
        for shares in product((0, 1), repeat=9)
    )
    assert _penalty(z, y, weights, found) == pytest.approx(best, rel=1e-6)
    # Of the two names of that split, 1 is where the loss grows with the scale.
    p = model.reference_estimator_.predict_proba(z)
    slope = ((p - np.eye(n_classes)[y]) * z).sum(1)
    np.testing.assert_array_equal(found, slope > 0)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_optimisation_comes_to_the_closed_form(n_classes):
    X, y, _ = _data(n_classes, 300)
    closed = EIILPseudoAttributes().fit(X, y)
    slopes = scale_slopes(closed.reference_estimator_.predict_proba(X), y)
    # Adam leaves rows where they started whose slope is next to nothing.
    matters = np.abs(slopes) > 1e-3
    assert matters.mean() > 0.97
    weights = 1.0 + np.arange(len(y)) % 3
    for seed, given in ((0, {}), (1, {}), (0, {"sample_weight": weights})):
        adam = EIILPseudoAttributes(
            "adam", learning_rate=0.05, max_iter=400, random_state=seed
        ).fit_predict(X, y, **given)
        expected = EIILPseudoAttributes().fit_predict(X, y, **given)
        if given:
            model = closed.fit(X, y, **given).reference_estimator_
            matters = np.abs(scale_slopes(model.predict_proba(X), y)) > 1e-3
        np.testing.assert_array_equal(adam[matters], expected[matters])
    closed.fit(X, y)
    # Before that, it is where it started.
    short = EIILPseudoAttributes("adam", max_iter=1, random_state=0).fit_predict(X, y)
    assert 0.3 < (short == closed.pseudo_attributes_).mean() < 0.8
    again = EIILPseudoAttributes("adam", max_iter=1, random_state=0).fit_predict(X, y)
    np.testing.assert_array_equal(short, again)


def test_of_two_classes_it_is_the_error_set_and_of_more_it_is_not():
    for n_classes, equal in ((2, True), (4, False)):
        X, y, attributes = _data(n_classes)
        environments = EIILPseudoAttributes().fit_predict(X, y)
        errors = ErrorSetPseudoAttributes().fit_predict(X, y)
        assert (environments == errors).all() == equal
        conflicting = attributes != y
        assert conflicting[environments == 1].mean() > 1.5 * conflicting.mean()


def test_an_empty_environment_says_what_to_do():
    y = np.arange(8) % 2
    sure = _played(5.0 * np.eye(2)[y])
    for logits in (sure, -sure):
        model = EIILPseudoAttributes(reference_estimator=Played())
        with pytest.raises(ValueError, match=r"environments is empty.*max_iter"):
            model.fit(logits, y)
    # Probabilities of 0 are no obstacle.
    logits = sure * 1e3
    logits[0] = logits[0, ::-1]
    found = EIILPseudoAttributes(reference_estimator=Played()).fit_predict(logits, y)
    np.testing.assert_array_equal(found, np.arange(8) == 0)


# --- SPARE ----------------------------------------------------------------------------


def _outputs(n_clusters, apart, n=150, seed=0):
    """Log-odds of one class's rows in some clusters, and those of another in one."""
    rng = np.random.default_rng(seed)
    codes = np.r_[rng.integers(0, n_clusters, n), np.zeros(n, int)]
    y = np.repeat([1, 0], n)
    log_odds = apart * codes - 3 + 0.3 * rng.normal(size=2 * n)
    return np.stack([-log_odds / 2, log_odds / 2], 1), y, codes


@pytest.mark.parametrize("n_clusters", [2, 3, 4])
def test_the_number_of_clusters_is_that_of_the_best_silhouette(n_clusters):
    z, y, codes = _outputs(n_clusters, apart=9.0)
    model = SPAREPseudoAttributes(reference_estimator=Played(), random_state=0)
    found = model.fit_predict(z, y)
    of_class = y == 1
    assert len(np.unique(found[of_class])) == n_clusters
    for code in range(n_clusters):
        assert len(np.unique(found[of_class & (codes == code)])) == 1
    for position, label in enumerate((0, 1)):
        rows = z[y == label]
        by_number = [
            silhouette_score(
                rows, KMeans(k, n_init=10, random_state=0).fit_predict(rows)
            )
            for k in (2, 3, 4, 5)
        ]
        assert model.silhouettes_[position] == pytest.approx(max(by_number), abs=0.01)
    assert model.silhouettes_[1] > 0.9 > model.silhouettes_[0]
    assert model.powers_ == (2.0, 1.0)
    sizes = model.cluster_sizes_[1]
    assert (np.diff(sizes) <= 0).all()
    assert sizes.sum() == of_class.sum()


def test_outputs_without_clusters():
    y = np.repeat([0, 1], [1, 9])
    model = SPAREPseudoAttributes(reference_estimator=Played(), random_state=0)
    found = model.fit_predict(np.zeros((10, 2)), y)
    assert (found == 0).all()
    np.testing.assert_array_equal(model.silhouettes_, 0.0)
    np.testing.assert_array_equal(model.cluster_sizes_, [[1], [9]])
    with pytest.raises(ValueError, match="n_clusters=11 is more than the 10 rows"):
        SPAREPseudoAttributes(11).fit(np.zeros((10, 2)), y)


def test_weights_are_copies():
    z, y, _ = _outputs(2, apart=3.0)
    repeats = 1 + np.arange(len(y)) % 3
    model = SPAREPseudoAttributes(2, reference_estimator=Played(), random_state=0)
    weighted = model.fit(z, y, sample_weight=repeats).silhouettes_
    found = model.pseudo_attributes_
    copies = model.fit(z.repeat(repeats, axis=0), y.repeat(repeats))
    assert (copies.predict(z, y) == found).mean() > 0.97
    np.testing.assert_allclose(copies.silhouettes_, weighted, atol=0.02)


def test_an_early_model_shows_the_shortcut():
    X, y, attributes = _data(2, 2000)
    found = SPAREPseudoAttributes(2, random_state=0).fit_predict(X, y)
    conflicting = attributes != y
    assert conflicting[found == 1].mean() > 3 * conflicting[found == 0].mean()


def _plan_shares(power, y, attributes, **given):
    n_classes = len(np.unique(y))
    groups = Groups.from_labels(y, attributes, n_classes, attributes.max() + 1, **given)
    (batch,) = SPARE(power).plan(groups).batches
    return groups, batch.probabilities


def test_the_plan_by_hand():
    y = np.repeat([0, 0, 1, 1, 1], [80, 20, 6, 3, 1])
    clusters = np.repeat([0, 1, 0, 1, 2], [80, 20, 6, 3, 1])
    by_power = {
        0.0: [0.8, 0.2, 0.6, 0.3, 0.1],
        1.0: [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3],
        2.0: [0.2, 0.8, 1 / 9, 2 / 9, 6 / 9],
        (0.0, 2.0): [0.8, 0.2, 1 / 9, 2 / 9, 6 / 9],
    }
    for power, within in by_power.items():
        _, shares = _plan_shares(power, y, clusters)
        np.testing.assert_allclose(shares, np.array(within) / 2)
    weights = np.where(y == 0, np.where(clusters == 1, 4.0, 1.0), 1.0)
    _, shares = _plan_shares(2.0, y, clusters, weights=weights)
    np.testing.assert_allclose(shares[:2], 0.25)


def test_powers_between_balanced_classes_and_balanced_groups():
    X, y, attributes = _data()
    settings = {"solver": "lbfgs", "weight_decay": 0.1, "tol": 1e-6, "max_iter": 500}
    for power, balance in ((0.0, "class"), ((1.0, 1.0), "group")):
        ours = DebiasedClassifier(SPARE(power), **settings).fit(X, y, attributes)
        erm = ERMClassifier(balance, **settings).fit(X, y, attributes)
        np.testing.assert_allclose(ours.coef_, erm.coef_, atol=1e-4)


def test_a_grid_of_powers_within_clusters():
    X, y, _ = _data()
    model = DebiasedClassifier(
        SPARE(),
        pseudo_attributes=SPAREPseudoAttributes(2, random_state=0),
        max_iter=5,
        learning_rate=0.05,
        random_state=0,
    )
    grid = {"method__power": [0.0, 1.0, 2.0]}
    search = BatchedGridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert len(set(search.cv_results_["mean_test_score"])) == 3
    alone = model.set_params(method__power=search.best_params_["method__power"])
    np.testing.assert_allclose(
        search.best_estimator_.coef_, alone.fit(X, y).coef_, atol=1e-6
    )


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (-1.0, r"power=-1.0 of SPARE: give a number in \[0, 10\]"),
        ((1.0, 11.0), "power=11.0 of SPARE"),
        ((1.0, 1.0, 1.0), "holds 3 numbers for 2 classes"),
        ((), "holds 0 numbers"),
        ("two", "power='two'"),
    ],
)
def test_powers_that_cannot_be(power, message):
    X, y, attributes = _data()
    with pytest.raises(ValueError, match=message):
        DebiasedClassifier(SPARE(power)).fit(X, y, attributes)
