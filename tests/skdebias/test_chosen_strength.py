"""What "auto" chooses within a fit: GERNE's strength, and the weight decay."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skdebias import (
    DebiasedClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    UnusableAttributesWarning,
)
from skdebias._choice import DECAYS, stratified_folds
from skdebias._engine._features import Features
from skdebias._engine._heads import stack_parameters
from skdebias._engine._held_out import HeldOut, group_errors, smooth_error
from skdebias._groups import Groups
from skdebias._prepare import prepare, training_data
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.methods import GERNE
from skdebias.methods._gerne import path_strengths
from skdebias.metrics import worst_group_accuracy_scorer
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
)
from tests._instances import HEADS

CPU = torch.device("cpu")
_NOTHING_ELSE = dict.fromkeys(("attributes", "X_val", "y_val", "attributes_val"))


def _data(n_classes=2, n_samples=600, seed=0, **settings):
    """Return training rows and as many validation rows of the same directions."""
    train = make_spurious_classification(
        n_samples,
        n_classes=n_classes,
        n_attributes=n_classes,
        correlation=0.85,
        random_state=seed,
        return_X_y=False,
        **settings,
    )
    held = make_spurious_classification(
        n_samples,
        n_classes=n_classes,
        n_attributes=n_classes,
        correlation=0.85,
        directions=train.directions,
        random_state=seed + 1,
        return_X_y=False,
        **settings,
    )
    fit = {"X": train.X, "y": train.y, "attributes": train.attributes}
    val = {"X_val": held.X, "y_val": held.y, "attributes_val": held.attributes}
    return fit, val


@pytest.fixture(autouse=True)
def _routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# What chooses.


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
    st.integers(1, 10_000),
)
def test_smooth_error_lies_between_the_mean_and_the_worst(errors, n_rows):
    errors = np.array(errors)
    counts = np.full(len(errors), float(n_rows))
    sums = (errors * counts)[:, None]
    (worst,) = smooth_error(sums, counts, "worst_group")
    assert errors.mean() - 1e-9 <= worst <= errors.max() + 1e-9
    (balanced,) = smooth_error(sums, counts, "group_balanced")
    assert_allclose(balanced, errors.mean(), atol=1e-12)


def test_smooth_error_of_large_groups_is_nearly_that_of_the_worst():
    counts = np.array([1e6, 1e6])
    (error,) = smooth_error(np.array([[1e5], [5e5]]), counts, "worst_group")
    assert 0.47 < error <= 0.5


def test_a_group_of_one_row_says_little():
    """One row that is wrong does not outweigh a hundred that are wrong more often."""
    counts = np.array([1.0, 200.0, 200.0])
    sums = np.array([[1.0, 0.0], [40.0, 120.0], [10.0, 10.0]])
    first, second = smooth_error(sums, counts, "worst_group")
    assert first < second


def test_smooth_error_weighs_rows_or_groups_as_the_selection_says():
    counts = np.array([90.0, 10.0])
    sums = np.array([[9.0], [5.0]])
    assert_allclose(smooth_error(sums, counts, "accuracy"), 0.14)
    assert_allclose(smooth_error(sums, counts, "group_balanced"), 0.3)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_group_errors_are_those_of_the_formula(n_classes, weighted):
    rng = np.random.default_rng(0)
    n_rows, n_heads, n_logits = 40, 3, 1 if n_classes == 2 else n_classes
    X = rng.normal(size=(n_rows, 5)).astype(np.float32)
    coefs = rng.normal(size=(n_heads, n_logits, 5)).astype(np.float32)
    biases = rng.normal(size=(n_heads, n_logits)).astype(np.float32)
    y = rng.integers(-1, n_classes, n_rows)
    ids = rng.integers(0, 4, n_rows)
    weights = rng.uniform(0.5, 2, n_rows) if weighted else None
    stack = stack_parameters([([c], [b]) for c, b in zip(coefs, biases)], 1, CPU)
    rows = np.arange(n_rows)
    sums = group_errors(stack, HeldOut(Features(X, CPU), rows, y, ids, weights), 4)
    for head in range(n_heads):
        logits = X @ coefs[head].T + biases[head]
        if n_classes == 2:
            logits = np.hstack([np.zeros_like(logits), logits])
        right = logits[rows, np.maximum(y, 0)]
        others = logits.copy()
        others[rows, np.maximum(y, 0)] = -np.inf
        margins = right - others.max(1)
        # Rows of an unknown class are as wrong as can be, and have no scale.
        known = y >= 0
        w = np.ones(n_rows) if weights is None else weights
        scale = np.sqrt((w * margins**2)[known].sum() / w[known].sum())
        margins[~known] = -1e4
        errors = expit(-margins / (0.2 * scale))
        expected = np.bincount(ids, w * errors, minlength=4)
        assert_allclose(sums[:, head], expected, rtol=2e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(6, 80))
def test_folds_hold_every_row_out_once_and_divide_groups_evenly(seed, n_classes, n):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(n_classes), np.arange(n_classes), rng.integers(0, n_classes, n)]
    groups = Groups.from_labels(y, rng.integers(0, 3, len(y)), n_classes, 3)
    folds = stratified_folds(groups, seed)
    assert_array_equal(np.sort(np.concatenate(folds)), np.arange(len(y)))
    for values in (groups.ids, y):
        sizes = [
            np.bincount(values[fold], minlength=values.max() + 1) for fold in folds
        ]
        assert np.ptp(sizes, axis=0).max() <= 1


def test_a_class_of_one_row_is_not_held_out():
    groups = Groups.from_labels([0, 0, 0, 1], [0, 0, 1, 0], 2, 2)
    assert stratified_folds(groups, 0) == []


# What is chosen.


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("validated", [False, True])
def test_the_fit_is_that_of_the_chosen_strength_and_decay(n_classes, validated):
    fit, val = _data(n_classes)
    val = val if validated else {}
    chosen = GERNEClassifier(random_state=0).fit(**fit, **val)
    assert chosen.weight_decay_ in DECAYS
    assert_allclose(chosen.selected_strength_, 0.5 * (1 + chosen.beta_))
    given = GERNEClassifier(
        chosen.beta_, solver="lbfgs", weight_decay=chosen.weight_decay_, max_iter=1000
    ).fit(**fit)
    assert_allclose(chosen.coef_, given.coef_, atol=2e-3)
    assert not hasattr(given, "strength_path_")


def test_the_validation_set_chooses_what_is_best_on_it():
    """Of exact fits of all points, by the same error of the worst group."""
    fit, val = _data(n_features=60, spurious_strength=3.0)
    chosen = GERNEClassifier(random_state=0).fit(**fit, **val)
    path = chosen.strength_path_
    groups = Groups.from_labels(fit["y"], fit["attributes"], 2, 2)
    held = Groups.from_labels(val["y_val"], val["attributes_val"], 2, 2)
    strengths = path_strengths(groups)
    assert_allclose(np.unique(path["strength"]), strengths)
    assert len(path["error"]) == len(strengths) * len(DECAYS)
    heads = []
    for strength, decay in zip(path["strength"], path["weight_decay"]):
        exact = GERNEClassifier(
            2 * strength - 1, solver="lbfgs", weight_decay=decay, max_iter=1000
        ).fit(**fit)
        heads.append(([exact.coef_], [exact.intercept_]))
    stack = stack_parameters(heads, 1, CPU)
    X = val["X_val"].astype(np.float32)
    rows = HeldOut(Features(X, CPU), np.arange(len(X)), val["y_val"], held.ids, None)
    errors = smooth_error(
        group_errors(stack, rows, held.n_groups), held.counts.astype(float), ""
    )
    # The path is solved loosely.
    assert_allclose(path["error"], errors, atol=0.02)
    best = path["error"].argmin()
    assert path["strength"][best] == chosen.selected_strength_
    assert path["weight_decay"][best] == chosen.weight_decay_
    assert errors[best] < errors.min() + 0.01


def test_folds_do_not_see_the_rows_that_they_hold_out():
    """With labels that nothing predicts, half of the held-out rows are wrong."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 200))
    y, attributes = rng.integers(0, 2, (2, 300))
    attributes[:40] = 0
    y[:40] = 0
    model = GERNEClassifier(random_state=0).fit(X, y, attributes)
    assert model.strength_path_["error"].min() > 0.4


def test_strong_weight_decay_is_chosen_where_rows_are_few():
    """A tenth of what is told by 200 features is noise that 60 rows cannot resolve."""
    fit, _ = _data(n_samples=80, n_features=200)
    few = GERNEClassifier(random_state=0).fit(**fit)
    fit, _ = _data(n_samples=4000, n_features=20)
    many = GERNEClassifier(random_state=0).fit(**fit)
    assert few.weight_decay_ > many.weight_decay_


def test_a_validation_set_of_single_rows_does_not_choose():
    fit, val = _data(3)
    groups = Groups.from_labels(val["y_val"], val["attributes_val"], 3, 3)
    first = [np.flatnonzero(groups.ids == g)[0] for g in range(groups.n_groups)]
    tiny = {name: values[first] for name, values in val.items()}
    alone = GERNEClassifier(random_state=0).fit(**fit)
    with pytest.warns(UnusableAttributesWarning):
        validated = GERNEClassifier(random_state=0).fit(**fit, **tiny)
    assert_array_equal(alone.strength_path_["error"], validated.strength_path_["error"])


def test_a_validation_set_without_attributes_does_not_choose():
    fit, val = _data()
    del val["attributes_val"]
    alone = GERNEClassifier(random_state=0).fit(**fit)
    validated = GERNEClassifier(random_state=0).fit(**fit, **val)
    assert_array_equal(alone.strength_path_["error"], validated.strength_path_["error"])


def test_integer_weights_choose_as_copies_do(monkeypatch):
    monkeypatch.setattr("skdebias._choice._LOOSE", 1e-7)
    fit, val = _data(n_samples=300)
    rng = np.random.default_rng(0)
    weights, weights_val = rng.integers(1, 4, (2, 300))
    copied = {k: np.repeat(v, weights, axis=0) for k, v in fit.items()}
    copied_val = {k: np.repeat(v, weights_val, axis=0) for k, v in val.items()}
    weighted = GERNEClassifier(random_state=0).fit(
        **fit, **val, sample_weight=weights, sample_weight_val=weights_val
    )
    repeated = GERNEClassifier(random_state=0).fit(**copied, **copied_val)
    assert_allclose(
        weighted.strength_path_["error"], repeated.strength_path_["error"], atol=1e-4
    )
    assert_allclose(weighted.coef_, repeated.coef_, atol=2e-3)


def test_balanced_classes_leave_nothing_to_extrapolate():
    groups = Groups.from_labels([0, 0, 1, 1], [0, 1, 0, 1], 2, 2)
    assert path_strengths(groups) == (1.0,)


@pytest.mark.parametrize(
    "counts", [(90, 10, 10, 90), (50, 49, 3, 97), (30, 1, 1, 1), (5, 5, 9, 1)]
)
def test_strengths_stay_within_the_bounds(counts):
    y, attributes = np.repeat([[0, 0, 1, 1], [0, 1, 0, 1]], counts, axis=1)
    groups = Groups.from_labels(y, attributes, 2, 2)
    for method in GERNE("auto").candidates(groups):
        assert method.for_groups(groups, inferred=False).beta == method.beta
        assert method.strength >= 1.0
        assert all((b.probabilities >= 0).all() for b in method.plan(groups).batches)


# Where nothing chooses.


def test_without_attributes_or_with_epochs_it_is_group_balance():
    fit, _ = _data()
    settings = {"random_state": 0, "max_iter": 3}
    explicit = {"weight_decay": 1e-2, "solver": "sgd"}
    unknown = GERNEClassifier(**settings).fit(fit["X"], fit["y"])
    before = GERNEClassifier(1.0, **settings, **explicit).fit(fit["X"], fit["y"])
    assert_array_equal(unknown.coef_, before.coef_)
    sgd = GERNEClassifier(**settings, solver="sgd").fit(**fit)
    assert_array_equal(
        sgd.coef_, GERNEClassifier(1.0, **settings, **explicit).fit(**fit).coef_
    )
    hidden = GERNEClassifier(**settings, hidden_layer_sizes=(4,), c=0.25).fit(**fit)
    assert hidden.beta_ == 3.0
    assert hidden.n_iter_ == 3


def test_untouched_parameters_stand_for_numbers_of_each_solver():
    fit, _ = _data(n_samples=100)
    model = GERNEClassifier(random_state=0).fit(fit["X"], fit["y"])
    assert model.n_iter_ == 50
    assert GERNEClassifier(1.0, random_state=0).fit(**fit).n_iter_ == 50


def test_a_method_left_open_has_no_plan():
    groups = Groups.from_labels([0, 0, 1, 1], [0, 1, 0, 1], 2, 2)
    with pytest.raises(ValueError, match="stands for no number"):
        GERNE("auto").plan(groups)
    assert GERNE("auto", c=0.25).for_groups(groups, inferred=True).beta == 3.0


# Everywhere else.


def test_any_method_can_be_left_open():
    fit, val = _data()
    named = GERNEClassifier(random_state=0).fit(**fit, **val)
    general = DebiasedClassifier(
        GERNE("auto"),
        solver="lbfgs",
        weight_decay="auto",
        max_iter=1000,
        random_state=0,
    ).fit(**fit, **val)
    assert_array_equal(named.coef_, general.coef_)
    assert named.selected_strength_ == general.selected_strength_


@pytest.mark.parametrize(
    "model",
    [
        ERMClassifier("group", solver="lbfgs", weight_decay="auto", max_iter=500),
        ERMClassifier(solver="lbfgs", weight_decay="auto", max_iter=500),
        GroupDROClassifier(solver="lbfgs", weight_decay="auto", max_iter=500),
    ],
)
def test_the_decay_alone_can_be_chosen(model):
    fit, val = _data()
    model = clone(model).fit(**fit, **val)
    assert_array_equal(model.weight_decay_path_["weight_decay"], DECAYS)
    best = model.weight_decay_path_["error"].argmin()
    assert model.weight_decay_ == DECAYS[best]
    given = clone(model).set_params(weight_decay=model.weight_decay_).fit(**fit)
    assert_allclose(model.coef_, given.coef_, atol=3e-3)


def test_weight_decay_of_epochs_is_a_number():
    fit, _ = _data(n_samples=100)
    auto = ERMClassifier(weight_decay="auto", max_iter=2, random_state=0)
    given = clone(auto).set_params(weight_decay=1e-2)
    assert_array_equal(auto.fit(**fit).coef_, given.fit(**fit).coef_)


@pytest.mark.parametrize(
    "grid",
    [
        {"c": [0.5, 1.0], "weight_decay": [0.01, "auto"]},
        {"beta": [0.5, "auto"], "solver": ["lbfgs"]},
    ],
)
def test_searches_choose_as_single_fits_do(grid):
    fit, _ = _data(n_samples=240)
    settings = {
        "scoring": worst_group_accuracy_scorer,
        "cv": AttributeStratifiedKFold(3),
        "error_score": "raise",
    }
    model = GERNEClassifier(random_state=0)
    stock = GridSearchCV(model, grid, **settings).fit(**fit)
    batched = BatchedGridSearchCV(model, grid, **settings).fit(**fit)
    for split in range(3):
        name = f"split{split}_test_score"
        assert_allclose(batched.cv_results_[name], stock.cv_results_[name], atol=1e-12)
    assert batched.best_params_ == stock.best_params_
    assert_allclose(batched.best_estimator_.coef_, stock.best_estimator_.coef_)


def test_halving_says_that_a_choice_has_no_epochs():
    fit, _ = _data(n_samples=100)
    search = BatchedHalvingGridSearchCV(
        GERNEClassifier(random_state=0), {"c": [0.25, 0.5]}
    )
    with pytest.raises(ValueError, match="stands for 'lbfgs' here, which"):
        search.fit(**fit)
    # With beta given there are epochs.
    search = BatchedHalvingGridSearchCV(
        GERNEClassifier(random_state=0), {"beta": [0.0, 1.0]}, max_resources=4
    )
    assert search.fit(**fit).best_estimator_.n_iter_ == 4


def test_a_file_holds_what_was_chosen(tmp_path):
    fit, _ = _data(n_samples=200)
    model = GERNEClassifier(random_state=0).fit(**fit)
    save(model, tmp_path / "head.safetensors")
    loaded = load(tmp_path / "head.safetensors")
    assert_array_equal(loaded.predict(fit["X"]), model.predict(fit["X"]))
    assert loaded.get_params()["beta"] == "auto"


def test_warm_start_goes_on_from_the_last_head():
    fit, _ = _data(n_samples=200)
    model = GERNEClassifier(random_state=0, warm_start=True).fit(**fit)
    first = model.coef_.copy()
    assert_allclose(model.fit(**fit).coef_, first, atol=2e-3)


def test_the_choice_is_the_same_with_any_number_of_threads():
    fit, val = _data(n_samples=500, n_features=64)
    fits = []
    for n_threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            fits.append(GERNEClassifier(random_state=0).fit(**fit, **val))
        finally:
            torch.set_num_threads(before)
    assert_array_equal(fits[0].coef_, fits[1].coef_)


@pytest.mark.parametrize(
    "chosen", [{"learning_rate": 0.1}, {"batch_size": 64}, {"early_stopping": True}]
)
def test_arguments_of_epochs_that_have_no_effect_are_said(chosen):
    fit, _ = _data(n_samples=100)
    with pytest.warns(UserWarning, match=f"{next(iter(chosen))} of GERNE.* no epochs"):
        GERNEClassifier(random_state=0, **chosen).fit(**fit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GERNEClassifier(random_state=0).fit(**fit)
        # Nor is anything said where they have an effect.
        GERNEClassifier(1.0, random_state=0, max_iter=2, **chosen).fit(**fit)


@pytest.mark.parametrize(
    ("model", "known", "n_epochs"),
    [
        (GERNEClassifier(t=0.3), False, 50),
        (GERNEClassifier(t=0.3, max_iter=7), False, 7),
        (GERNEClassifier(1.0), True, 50),
    ],
)
def test_callbacks_hear_of_the_epochs_that_there_are(model, known, n_epochs):
    fit, _ = _data(n_samples=100)
    model = clone(model)
    data = training_data(model, fit["X"], fit["y"], **_NOTHING_ELSE)
    if known:
        data = replace(data, attributes=fit["attributes"])
    model.n_features_in_ = fit["X"].shape[1]
    assert model._n_epochs(prepare(model, data)) == n_epochs


@pytest.mark.parametrize(
    "name", [n for n, row in HEADS.items() if row.is_deterministic]
)
def test_every_estimator_takes_a_decay_that_is_left_open(name):
    """Those that infer groups, or have a decay of their own, take the default one."""
    fit, _ = _data(n_samples=120)
    settings = {"solver": "lbfgs", "max_iter": 50, "random_state": 0}
    model = HEADS[name].make(weight_decay="auto", **settings).fit(**fit)
    if hasattr(model, "weight_decay_"):
        assert model.weight_decay_ in DECAYS
    else:
        given = HEADS[name].make(weight_decay=0.01, **settings).fit(**fit)
        assert_array_equal(model.coef_, given.coef_)
