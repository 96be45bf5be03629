"""GroupDRO, JTT, AFR, LfF and DFR as estimators: limits, gains, and odd input."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from skdebias import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
    MissingAttributesWarning,
)
from skdebias._attributes import Groups
from skdebias._head import fitted_layers
from skdebias.attributes import ErrorSetPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save, to_torch
from skdebias.methods import LfF
from skdebias.metrics import worst_group_accuracy_score, worst_group_accuracy_scorer
from tests._instances import HEADS

SHORT = {"max_iter": 4, "random_state": 0, "device": "cpu"}
MORE = {"Cs": (0.1, 1.0), "n_draws": 2}

every_head = pytest.mark.parametrize("name", HEADS)
every_engine_head = pytest.mark.parametrize(
    "name", [name for name, row in HEADS.items() if row.trains_in_epochs]
)


def _generated(seed, n_samples=3000, **kwargs):
    """Training set, and a test set whose groups are balanced; standardised."""
    train = make_spurious_classification(
        n_samples, random_state=seed, return_X_y=False, **kwargs
    )
    kwargs |= {"directions": train.directions, "correlation": 0.5}
    X_test, *test = make_spurious_classification(2000, random_state=seed + 1, **kwargs)
    scaler = StandardScaler().fit(train.X)
    return (
        (scaler.transform(train.X), train.y, train.attributes),
        (scaler.transform(X_test), *test),
    )


@pytest.fixture(scope="module")
def data():
    train, _ = _generated(0, n_samples=400)
    return train


def _layers(estimator, prefix=""):
    return [array for pair in fitted_layers(estimator, prefix) for array in pair]


# Where the attribute is strong, stronger settings than the defaults gain more.
STRONGER = {
    "JTT": JTTClassifier(upweight=20),
    "LfF": LfFClassifier(balance=None, biased_weight_decay=None),
    "AFR": AFRClassifier(weight_decay=1e-2, regularization=0.1),
}


@pytest.mark.parametrize("seed", range(3))
def test_each_beats_erm(seed):
    """ERM reads the attribute here; LfF does too where it is as weak as the class."""
    train, (X, y, attributes) = _generated(10 * seed)

    def score(estimator):
        estimator.set_params(random_state=seed).fit(*train)
        return worst_group_accuracy_score(
            y, estimator.predict(X), attributes=attributes
        )

    erm = score(ERMClassifier())
    assert erm < 0.3
    assert score(GroupDROClassifier()) > 0.85
    assert score(DFRClassifier()) > 0.85
    assert score(STRONGER["JTT"]) > 0.8
    assert score(STRONGER["LfF"]) > 0.75
    assert score(STRONGER["AFR"]) > erm + 0.4
    assert score(JTTClassifier()) > erm + 0.2
    assert score(LfFClassifier()) > erm + 0.1
    assert score(AFRClassifier()) > erm


@every_head
@pytest.mark.parametrize("n_classes", [2, 3])
def test_crossed_attributes_and_missing_cells(name, n_classes):
    rng = np.random.default_rng(0)
    y = np.array(["ant", "bee", "cat"])[rng.integers(0, n_classes, 300)]
    place = np.where(rng.random(300) < 0.9, y, "bee")  # no bee lives elsewhere
    X = rng.normal(size=(300, 6)) + 2 * (y == "bee")[:, None]
    X += (place[:, None] == np.array(["ant", "bee", "cat"] * 2)) * 2.0
    crossed = np.column_stack([place, rng.choice(["day", "night"], 300)])
    X -= X.mean(0)
    # 0.5 is within the bounds of GERNE.
    model = HEADS[name].make(beta=0.5, **MORE, **SHORT)
    model.fit(X, y, attributes=HEADS[name].used(crossed))
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (300, n_classes)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert model.score(X, y) > 1.2 / n_classes
    assert model.coef_.shape == (n_classes if n_classes > 2 else 1, 6)
    if HEADS[name].uses_attributes:
        assert len(model.groups_) < n_classes * len(model.attribute_values_)


@every_engine_head
@pytest.mark.parametrize("n_classes", [2, 3])
def test_hidden_layers(name, n_classes):
    (X, y, attributes), _ = _generated(0, 600, n_classes=n_classes)
    attributes = HEADS[name].used(attributes)
    model = (
        HEADS[name]
        .make(**SHORT)
        .set_params(hidden_layer_sizes=(8,), learning_rate=0.05, max_iter=15)
    )
    model.fit(X, y, attributes=attributes)
    assert [c.shape[0] for c in model.coefs_] == [20, 8]
    assert model.score(X, y) > 0.7
    assert not hasattr(model, "coef_")
    model.set_params(hidden_layer_sizes=()).fit(X, y, attributes=attributes)
    assert not [name for name in vars(model) if name.endswith("coefs_")]


@every_engine_head
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_warm_start_takes_up_every_head(name, hidden, data):
    X, y, attributes = data
    attributes = HEADS[name].used(attributes)
    model = HEADS[name].make(**SHORT)
    model.set_params(hidden_layer_sizes=hidden, learning_rate=0.05)
    model.fit(X, y, attributes=attributes)
    names = ("biased_", "student_")
    shown = [
        n for n in names if hasattr(model, f"{n}{'coefs_' if hidden else 'coef_'}")
    ]
    prefixes = (*shown, "")
    before = {prefix: _layers(model, prefix) for prefix in prefixes}
    start = clone(model).set_params(learning_rate=1e-9).fit(X, y, attributes=attributes)
    model.set_params(warm_start=True, learning_rate=1e-9)
    if isinstance(model, AFRClassifier):
        model.set_params(regularization=0)
    model.fit(X, y, attributes=attributes)
    assert len(before) == HEADS[name].n_heads
    for prefix, layers in before.items():
        for mine, theirs in zip(layers, _layers(model, prefix), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        cold = _layers(start, prefix)
        assert max(np.abs(a - b).max() for a, b in zip(layers, cold)) > 1e-3


@every_head
def test_attributes_are_asked_for_only_where_they_are_used(name, data):
    (X, y, attributes), row = data, HEADS[name]
    estimator = row.make(**MORE, **SHORT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        without = clone(estimator).fit(X, y)
    asked = any(w.category is MissingAttributesWarning for w in caught)
    infers = isinstance(estimator, GERNEClassifier)
    assert asked == row.uses_attributes
    known = clone(estimator).fit(X, y, attributes=attributes)
    same = all(np.array_equal(a, b) for a, b in zip(_layers(without), _layers(known)))
    assert same != (row.uses_attributes or infers)


@every_head
def test_saved_heads_come_back(name, data, tmp_path):
    X, y, attributes = data
    row = HEADS[name]
    model = row.make(**MORE, **SHORT).fit(X, y, attributes=row.used(attributes))
    save(model, tmp_path / "head")
    again = load(tmp_path / "head")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    fitted = {k for k in vars(model) if k.endswith("_") and not k.startswith("_")}
    assert fitted <= set(vars(again))
    with torch.no_grad():
        logits = to_torch(model)(torch.from_numpy(X).float())
    np.testing.assert_allclose(
        torch.softmax(logits, -1).numpy(), model.predict_proba(X), atol=2e-5
    )


@every_head
def test_grid_search_by_worst_group(name, data):
    X, y, attributes = data
    estimator = HEADS[name].make(**MORE, **SHORT)
    key, (*_, value) = next(iter(HEADS[name].grid.items()))
    grid = {key: [estimator.get_params()[key], value]}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            estimator, grid, scoring=worst_group_accuracy_scorer, cv=2,
            error_score="raise",
        ).fit(X, y, attributes=attributes)  # fmt: skip
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    scores = search.cv_results_["mean_test_score"]
    assert search.best_score_ == scores.max()


# --- GroupDRO --------------------------------------------------------------------


def test_group_dro_with_step_size_zero_is_group_resampling(data):
    robust = GroupDROClassifier(step_size=0, **SHORT).fit(*data)
    resampled = ERMClassifier(balance="group", **SHORT).fit(*data)
    np.testing.assert_allclose(robust.coef_, resampled.coef_, atol=1e-6)
    np.testing.assert_allclose(robust.group_weights_, 0.25)
    moved = GroupDROClassifier(step_size=5.0, **SHORT).fit(*data)
    assert np.abs(moved.coef_ - resampled.coef_).max() > 1e-4
    assert moved.group_weights_.sum() == pytest.approx(1)


def test_group_dro_adjustment_favours_small_groups(data):
    plain, adjusted = (
        GroupDROClassifier(0.1, adjustment=a, **SHORT).fit(*data) for a in (0, 5)
    )
    small = plain.group_counts_ < plain.group_counts_.max()
    assert adjusted.group_weights_[small].min() > plain.group_weights_[small].max()


# --- JTT -------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [None, "class"])
def test_jtt_error_set_is_that_of_a_short_erm(balance, data):
    X, y, _ = data
    seed = check_random_state(0).randint(np.iinfo(np.int32).max)
    weak = ERMClassifier(balance=balance, max_iter=5, random_state=seed, device="cpu")
    model = JTTClassifier(warmup_epochs=5, balance=balance, **SHORT).fit(X, y)
    errors = weak.fit(X, y).predict(X) != y
    assert 0 < errors.sum() < len(y) / 4
    np.testing.assert_array_equal(model.pseudo_attributes_, errors)
    np.testing.assert_array_equal(model.attribute_values_, [0, 1])


def test_jtt_takes_any_reference(data):
    X, y, _ = data
    tree_like = LogisticRegression(C=1e-4)
    model = JTTClassifier(reference_estimator=tree_like, **SHORT).fit(X, y)
    expected = ErrorSetPseudoAttributes(reference_estimator=tree_like).fit_predict(X, y)
    np.testing.assert_array_equal(model.pseudo_attributes_, expected)
    assert not hasattr(tree_like, "coef_")  # a clone was fitted


def test_jtt_without_errors_says_so_and_goes_on():
    y = np.arange(200) % 2
    X = np.random.default_rng(0).normal(size=(200, 4)) + 20 * y[:, None]
    X -= X.mean(0)
    with pytest.warns(UserWarning, match="warmup_epochs=5"):
        model = JTTClassifier(warmup_epochs=5, **SHORT).fit(X, y)
    assert not model.pseudo_attributes_.any()
    assert model.score(X, y) == 1.0


# --- AFR -------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [None, "class"])
def test_afr_first_stage_sees_the_other_rows_only(balance, data):
    X, y, attributes = data
    model = AFRClassifier(holdout=0.3, balance=balance, **SHORT).fit(
        X, y, attributes=attributes
    )
    held = np.isfinite(model.confidence_)
    assert np.bincount(y[held]).tolist() == [60, 60]
    seed = check_random_state(0).randint(np.iinfo(np.int32).max)
    first = ERMClassifier(
        balance=balance,
        weight_decay=model.weight_decay,
        max_iter=4,
        random_state=seed,
        device="cpu",
    )
    first.fit(X[~held], y[~held])
    np.testing.assert_array_equal(model.first_coef_, first.coef_)
    np.testing.assert_allclose(
        model.confidence_[held],
        first.predict_proba(X[held])[np.arange(held.sum()), y[held]],
    )
    weights = np.exp(-4.0 * model.confidence_[held])  # classes are of one size
    ess = weights.sum() ** 2 / (weights**2).sum()
    assert model.effective_sample_size_ == pytest.approx(ess)


@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("solver", ["sgd", "adamw"])
def test_afr_under_a_strong_pull_stays_the_first_head(hidden, solver, data):
    def moved(regularization):
        model = AFRClassifier(
            0.0, regularization=regularization, hidden_layer_sizes=hidden,
            solver=solver, max_iter=60, random_state=0, device="cpu",
        ).fit(*data)  # fmt: skip
        pairs = zip(_layers(model), _layers(model, "first_"), strict=True)
        return max(np.abs(a - b).max() for a, b in pairs)

    free, pulled = moved(0.0), moved(200.0)
    assert free > 0.01
    assert pulled < 0.1 * free


# --- LfF -------------------------------------------------------------------------


def test_lff_biased_head_reads_the_attribute():
    (X, y, _), (X_test, y_test, attributes_test) = _generated(0)
    model = clone(STRONGER["LfF"]).set_params(random_state=0).fit(X, y)
    biased = (X_test @ model.biased_coef_[0] + model.biased_intercept_ > 0).astype(int)
    assert (biased == attributes_test).mean() > 0.8
    debiased = model.predict(X_test)
    assert (debiased == y_test).mean() > 0.8
    assert (debiased == attributes_test).mean() < 0.6


def test_lff_decays_the_biased_head_by_itself(data):
    X, y, _ = data
    norms = {
        decay: np.linalg.norm(
            LfFClassifier(biased_weight_decay=decay, **SHORT).fit(X, y).biased_coef_
        )
        for decay in (None, 1e-2, 30.0)
    }
    assert norms[None] == norms[1e-2] > 1.5 * norms[30.0]


def test_lff_draws_classes_alike():
    groups = Groups.from_labels(np.repeat([0, 1], [30, 10]), np.zeros(40, int), 2, 1)
    plain, balanced = (LfF(balance=balance).plan(groups) for balance in (None, "class"))
    assert len(plain.batches[0].probabilities) == 1
    np.testing.assert_allclose(balanced.batches[0].probabilities, [0.5, 0.5])


# --- DFR -------------------------------------------------------------------------


def _balanced(seed=0, n_samples=240):
    """Equal groups, so that every draw is the whole set."""
    return make_spurious_classification(
        n_samples, n_features=6, correlation=0.5, random_state=seed
    )


@pytest.mark.parametrize(
    ("l1_ratio", "solver"), [(1.0, "liblinear"), (0.0, "lbfgs"), (0.5, "saga")]
)
def test_dfr_on_balanced_groups_is_one_logistic_regression(l1_ratio, solver):
    X, y, attributes = _balanced()
    X = 5 * X + 100  # standardising is part of the method
    model = DFRClassifier([0.1], l1_ratio=l1_ratio, n_draws=2, tol=1e-6)
    model.fit(X, y, attributes=attributes)
    options = {"intercept_scaling": 1e3} if solver == "liblinear" else {}
    reference = LogisticRegression(
        C=0.1, l1_ratio=l1_ratio, solver=solver, tol=1e-8, max_iter=10_000, **options
    )
    scaled = StandardScaler().fit_transform(X)
    expected = reference.fit(scaled, y).decision_function(scaled)
    np.testing.assert_allclose(model.decision_function(X), expected, atol=5e-3)
    assert model.C_ == 0.1
    assert np.isnan(model.C_scores_).all()


def _uneven(n_classes):
    """Rows of which a balanced draw has half as many of class 0 as of any other."""
    (X, y, attributes), _ = _generated(0, 400, n_classes=n_classes)
    present = (y > 0) | (attributes == 0)
    return X[present], y[present], attributes[present]


@pytest.mark.parametrize("C", [0.03, 1.0])
def test_dfr_that_penalizes_the_intercept_is_the_form_of_the_authors(C):
    """Whose code is LogisticRegression(penalty="l1", C=C, solver="liblinear")."""
    X, y, attributes = _uneven(2)
    # All groups have as many rows, so that the one draw takes all of them.
    group = 2 * y + attributes
    size = np.bincount(group)[np.unique(group)].min()
    rows = np.concatenate([np.flatnonzero(group == g)[:size] for g in set(group)])
    X, y, attributes = X[rows], y[rows], attributes[rows]
    scaled = StandardScaler().fit_transform(X)
    authors = LogisticRegression(C=C, l1_ratio=1.0, solver="liblinear", tol=1e-8)
    expected = authors.fit(scaled, y).decision_function(scaled)
    given, default = (
        DFRClassifier([C], penalize_intercept=penalized, n_draws=1, tol=1e-8)
        .fit(X, y, attributes=attributes)
        .decision_function(X)
        for penalized in (True, False)
    )
    np.testing.assert_allclose(given, expected, atol=1e-4)
    assert np.abs(default - expected).max() > 0.01


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_dfr_penalizes_the_intercept_with_every_solver(l1_ratio, n_classes):
    X, y, attributes = _uneven(n_classes)
    spread = []
    for penalized in (False, True):
        model = DFRClassifier(
            [0.01], l1_ratio=l1_ratio, penalize_intercept=penalized, n_draws=2
        )
        model.fit(X, y, attributes=attributes)
        # Of the mean row: what is left is the share of every class, or nearly nothing.
        spread.append(np.ptp(model.predict_proba(X.mean(0)[None])))
    assert spread[1] < 0.03 < 0.06 < spread[0]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_dfr_averages_its_draws(n_classes):
    (X, y, attributes), _ = _generated(0, 300, n_classes=n_classes)
    one, many = (
        [
            DFRClassifier([0.3], n_draws=n, random_state=s).fit(X, y, attributes).coef_
            for s in range(4)
        ]
        for n in (1, 8)
    )
    assert np.std(many, axis=0).mean() < 0.6 * np.std(one, axis=0).mean()


def test_dfr_chooses_C_on_the_validation_set():
    train = _balanced()
    X_val, y_val, attributes_val = _balanced(seed=1)
    y_val = y_val ^ (np.arange(240) % 9 == 0)
    Cs = np.array([1.0, 0.003, 0.02])
    model = DFRClassifier(Cs, n_draws=1, tol=1e-6, random_state=0)
    model.fit(*train, X_val=X_val, y_val=y_val, attributes_val=attributes_val)
    expected = []
    for C in Cs:
        single = DFRClassifier([C], n_draws=1, tol=1e-6, random_state=0).fit(*train)
        predicted = single.predict(X_val)
        expected.append(
            worst_group_accuracy_score(y_val, predicted, attributes=attributes_val)
        )
    np.testing.assert_allclose(model.C_scores_, expected, atol=0.02)
    best = model.C_scores_ == model.C_scores_.max()
    strongest = Cs[best].min()
    assert strongest == model.C_


def test_dfr_chooses_C_on_rows_that_were_not_fitted():
    """Labels are noise: scores of rows that were fitted would be far from chance."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 200))
    y, attributes = np.arange(80) % 2, np.arange(80) // 2 % 2
    model = DFRClassifier((1.0, 10.0), n_draws=1, random_state=0)
    model.fit(X, y, attributes=attributes)
    assert model.score(X, y) == 1.0
    assert (model.C_scores_ < 0.75).all()


def test_dfr_with_groups_of_one_row_and_a_constant_feature():
    X = np.column_stack([[0.0, 1, 2, 3], np.full(4, 7.0)])
    model = DFRClassifier(n_draws=1).fit(X, [0, 0, 1, 1], attributes=[0, 1, 0, 1])
    assert np.isnan(model.C_scores_).all()
    assert model.C_ == 0.01
    assert np.isfinite(model.coef_).all()


def test_dfr_says_when_the_solver_stopped_short():
    train, _ = _generated(0, 300)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        DFRClassifier([1.0], n_draws=1, max_iter=2).fit(*train)


@pytest.mark.parametrize("Cs", [[], [[1.0]], [1.0, 0.0], 0.1])
def test_dfr_refuses_odd_Cs(Cs, data):
    with pytest.raises(ValueError, match="Cs"):
        DFRClassifier(Cs=Cs).fit(*data)


def test_dfr_float16_memory_map(data, tmp_path):
    X, y, attributes = data
    X = X.astype(np.float16)
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", np.float16, "r", shape=X.shape)
    one, two = (
        DFRClassifier([0.1], n_draws=2, random_state=0).fit(Z, y, attributes)
        for Z in (mapped, X.astype(np.float64))
    )
    np.testing.assert_allclose(one.coef_, two.coef_, atol=1e-5)
