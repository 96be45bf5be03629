"""Halving rung by rung against searches with that many epochs."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import HalvingGridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from skdebias import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    JTTClassifier,
    LfFClassifier,
    ULEClassifier,
)
from skdebias._engine import _sgd
from skdebias.attributes import ErrorSetPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import (
    group_balanced_accuracy_scorer,
    worst_group_accuracy_scorer,
)
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
)
from tests._instances import BETAS, HEADS, RATES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EPOCHS = 9
SMALL = {"max_iter": EPOCHS, "batch_size": 64, "random_state": 3}
# Of the first head, which would follow max_iter: one that does not.
BIASED = ERMClassifier(max_iter=2, random_state=0)
ROWS = {name: row for name, row in HEADS.items() if row.trains_in_epochs}
CASES = {
    name: (row.make(warmup_epochs=1, **SMALL), row.grid) for name, row in ROWS.items()
} | {
    "balance": (
        ERMClassifier(**SMALL),
        {"balance": [None, "group"], "learning_rate": [1e-3, 1e-2, 3e-2]},
    ),
    "adamw": (
        ERMClassifier(solver="adamw", reweight="group", **SMALL),
        {"learning_rate": [1e-4, 1e-3, 1e-2], "momentum": [0.5, 0.9]},
    ),
    "errors": (
        GERNEClassifier(pseudo_attributes=ErrorSetPseudoAttributes(), **SMALL),
        BETAS,
    ),
    "confidence": (
        GERNEClassifier(reference_estimator=BIASED, **SMALL),
        {"beta": [0.0, 0.5, 1.0], "t": [0.1, 0.3], "out_of_bounds": ["clip"]},
    ),
    "ULE student stops": (
        ULEClassifier(student_epochs=3, **SMALL),
        {"lam": [0.3, 0.6, 0.9], "learning_rate": [1e-3, 1e-2]},
    ),
}
UNKNOWN = {"errors", "confidence"}
# Their first heads have the epochs of the last rung.
FOLLOWING = {"AFR", "GERNE, unknown attributes"}
OPTIONS = {"scoring": "neg_log_loss", "error_score": "raise"}


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(240, n_features=9, random_state=0)


@pytest.fixture(scope="module")
def multiclass():
    return make_spurious_classification(
        300, n_features=9, n_classes=3, n_attributes=3, random_state=0
    )


def _halve(estimator, grid, X, y, *, factor=2, cv=3, fit=None, **options):
    search = BatchedHalvingGridSearchCV(
        estimator, grid, factor=factor, cv=cv, **OPTIONS | options
    )
    return search.fit(X, y, **fit or {})


def _rung(search, rung):
    rows = np.flatnonzero(np.equal(search.cv_results_["iter"], rung))
    params = [search.cv_results_["params"][row] for row in rows]
    return rows, params


def _assert_rungs_are_searches(search, X, y, fit=None, rungs=None, **options):
    """Compare every rung with a search for its candidates and epochs."""
    options = OPTIONS | {"cv": search.cv} | options
    key = "score" if not search.multimetric_ else search.refit
    scores = search.cv_results_[f"mean_test_{key}"]
    for rung, epochs in enumerate(search.n_resources_):
        rows, params = _rung(search, rung)
        assert len(rows) == search.n_candidates_[rung]
        assert {search.cv_results_["n_resources"][row] for row in rows} == {epochs}
        if rungs is None or rung in rungs:
            grid = [{name: [value] for name, value in p.items()} for p in params]
            plain = BatchedGridSearchCV(search.estimator, grid, refit=False, **options)
            plain.fit(X, y, **fit or {})
            for split in range(search.n_splits_):
                name = f"split{split}_test_{key}"
                np.testing.assert_allclose(
                    search.cv_results_[name][rows],
                    plain.cv_results_[name],
                    rtol=2e-4,
                    atol=1e-6,
                )
        if rung + 1 < search.n_iterations_:
            n_left = ceil(len(rows) / search.factor)
            best = np.sort(np.argsort(-scores[rows], kind="stable")[:n_left])
            resource = next(name for name in params[0] if name.endswith("max_iter"))
            following = search.n_resources_[rung + 1]
            expected = [params[i] | {resource: following} for i in best]
            assert _rung(search, rung + 1)[1] == expected
    last = _rung(search, search.n_iterations_ - 1)[0]
    assert search.best_index_ == last[np.argmax(scores[last])]
    assert search.best_params_ == search.cv_results_["params"][search.best_index_]
    assert search.best_score_ == scores[search.best_index_]
    assert search.best_estimator_.n_iter_ == search.max_resources_


def _first_stage_of(monkeypatch, estimator, epochs):
    """Let first stages be those of so many epochs whatever `max_iter` is."""
    original = type(estimator)._first_stage

    def first_stage(self, data):
        own, self.max_iter = self.max_iter, epochs
        try:
            return original(self, data)
        finally:
            self.max_iter = own

    monkeypatch.setattr(type(estimator), "_first_stage", first_stage)


@pytest.mark.parametrize("hidden", [(), (5,)])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_rung_is_a_search(data, multiclass, monkeypatch, case, n_classes, hidden):
    X, y, attributes = data if n_classes == 2 else multiclass
    estimator, grid = CASES[case]
    estimator = clone(estimator).set_params(hidden_layer_sizes=hidden)
    if case in UNKNOWN or (case in ROWS and not ROWS[case].uses_attributes):
        attributes = None
    fit = {} if attributes is None else {"attributes": attributes}
    search = _halve(estimator, grid, X, y, fit=fit)
    assert search.n_resources_ == [2, 4, 9]
    n_candidates = len(BatchedGridSearchCV(estimator, grid)._candidates())
    assert search.n_candidates_[0] == n_candidates
    if case in FOLLOWING:
        _first_stage_of(monkeypatch, estimator, EPOCHS)
    _assert_rungs_are_searches(search, X, y, fit)


@pytest.mark.parametrize(
    "estimator", [AFRClassifier(**SMALL), GERNEClassifier(1.0, **SMALL)]
)
def test_first_heads_have_the_epochs_of_the_last_rung(data, monkeypatch, estimator):
    X, y, _ = data
    search = _halve(estimator, {"learning_rate": np.geomspace(1e-4, 1e-1, 5)}, X, y)
    _assert_rungs_are_searches(search, X, y, rungs=[2])
    _first_stage_of(monkeypatch, estimator, EPOCHS)
    _assert_rungs_are_searches(search, X, y, rungs=[0, 1])


@pytest.mark.parametrize("selection", ["worst_group", "last"])
def test_a_validation_set_keeps_the_best_epoch_so_far(data, selection):
    X, y, attributes = data
    fit = {
        "attributes": attributes,
        "X_val": X[:50],
        "y_val": y[:50],
        "attributes_val": attributes[:50],
    }
    estimator = GERNEClassifier(1.0, selection=selection, **SMALL)
    search = _halve(estimator, BETAS | RATES, X, y, fit=fit, factor=3)
    _assert_rungs_are_searches(search, X, y, fit)


def test_other_embeddings_for_the_student(data):
    X, y, _ = data
    fit = {"X_student": X[:, ::2] + 1}
    grid = {"lam": [0.3, 0.6, 0.9], "learning_rate": [1e-3, 1e-2]}
    search = _halve(ULEClassifier(**SMALL), grid, X, y, fit=fit)
    _assert_rungs_are_searches(search, X, y, fit)


def test_pipelines(data):
    X, y, attributes = data
    pipeline = make_pipeline(StandardScaler(), GERNEClassifier(1.0, **SMALL))
    grid = {
        "standardscaler": [StandardScaler(), MinMaxScaler()],
        "gerneclassifier__beta": [0.0, 0.5, 1.0],
    }
    fit = {"attributes": attributes}
    search = _halve(pipeline, grid, X * np.arange(1, 10) + 5, y, fit=fit, refit=False)
    assert search.max_resources_ == EPOCHS
    search = _halve(pipeline, grid, X, y, fit=fit, max_resources=6)
    assert search.best_estimator_[-1].n_iter_ == 6
    assert "gerneclassifier__max_iter" in search.best_params_
    for rung, epochs in enumerate(search.n_resources_):
        rows, params = _rung(search, rung)
        grid = [{name: [value] for name, value in p.items()} for p in params]
        plain = BatchedGridSearchCV(pipeline, grid, cv=3, **OPTIONS).fit(X, y, **fit)
        assert all(p["gerneclassifier__max_iter"] == epochs for p in params)
        np.testing.assert_allclose(
            search.cv_results_["mean_test_score"][rows],
            plain.cv_results_["mean_test_score"],
            rtol=1e-4,
        )


def test_a_memory_map_is_read_ahead_between_rungs(data, tmp_path):
    X, y, attributes = data
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    estimator, fit = GERNEClassifier(1.0, **SMALL), {"attributes": attributes}
    found = _halve(estimator, BETAS, mapped, y, fit=fit)
    expected = _halve(estimator, BETAS, X, y, fit=fit)
    np.testing.assert_allclose(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


def test_callbacks_see_every_fit_and_the_refit(data, capsys):
    X, y, attributes = data
    monitor = ScoringMonitor(scoring=worst_group_accuracy_scorer)
    search = BatchedHalvingGridSearchCV(
        GERNEClassifier(1.0, **SMALL).set_callbacks(monitor),
        {"beta": [0.0, 1.0]},
        factor=2,
    ).set_callbacks(ProgressBar())
    search.fit(X, y, attributes=attributes)
    assert len(monitor.get_logs().data) == 1 + EPOCHS  # of the refit
    assert "BatchedHalvingGridSearchCV" in capsys.readouterr().out


def test_whole_heads_in_the_grid(data):
    X, y, _ = data
    pipeline = make_pipeline(StandardScaler(), ERMClassifier(**SMALL))
    heads = [ERMClassifier(max_iter=1, random_state=0), JTTClassifier(random_state=0)]
    search = _halve(pipeline, {"ermclassifier": heads}, X, y)
    assert search.n_resources_ == [4, 9]
    assert search.best_estimator_[-1].n_iter_ == 9


@pytest.mark.parametrize("refit", ["balanced", "loss"])
def test_several_metrics(data, refit):
    X, y, attributes = data
    scoring = {
        "worst": worst_group_accuracy_scorer,
        "balanced": group_balanced_accuracy_scorer,
        "loss": "neg_log_loss",
    }
    fit, options = {"attributes": attributes}, {"scoring": scoring, "refit": refit}
    cv = AttributeStratifiedKFold(3)
    search = _halve(ERMClassifier(**SMALL), RATES, X, y, fit=fit, cv=cv, **options)
    assert search.multimetric_
    _assert_rungs_are_searches(search, X, y, fit, scoring=scoring)


def test_a_function_with_several_scores(data):
    X, y, _ = data

    def scoring(estimator, X, y):
        return {"half": -estimator.coef_[0, 0], "all": estimator.score(X, y)}

    search = _halve(ERMClassifier(**SMALL), RATES, X, y, scoring=scoring, refit="half")
    _assert_rungs_are_searches(search, X, y, scoring=scoring)
    for refit, message in ((False, "name the one"), (True, "multi-metric")):
        with pytest.raises(ValueError, match=message):
            _halve(ERMClassifier(**SMALL), RATES, X, y, scoring=scoring, refit=refit)


@pytest.mark.parametrize("options", [{}, {"min_resources": 1}, {"factor": 2.5}])
def test_only_the_columns_that_are_left_train(data, monkeypatch, options):
    X, y, _ = data
    widths = []
    original = _sgd._Loop.run_epoch

    def counted(self, epoch, threads):
        state = (self.stack.coefs[0], self._optimizer._velocity[0])
        assert {len(t) for t in state} == {self.stack.n_heads}
        assert self.methods._weights.shape[-1] == self.stack.n_heads
        widths.append((epoch, self.stack.n_heads))
        return original(self, epoch, threads)

    monkeypatch.setattr(_sgd._Loop, "run_epoch", counted)
    estimator = LfFClassifier(**SMALL)
    grid = {"q": [0.3, 0.5, 0.7], "alpha": [0.5, 0.7, 0.9]}
    options = {"factor": 3, "refit": False} | options
    search = _halve(estimator, grid, X, y, **options)
    steps = np.diff([0, *search.n_resources_])
    column_epochs = 3 * 2 * np.dot(steps, search.n_candidates_)
    assert sum(width for _, width in widths) == column_epochs
    # Nobody starts again: each epoch runs once per fold.
    assert sorted(epoch for epoch, _ in widths) == sorted([*range(1, EPOCHS + 1)] * 3)


@pytest.mark.parametrize("max_heads", [1, 4])
def test_results_do_not_depend_on_how_stacks_are_divided(data, max_heads):
    X, y, attributes = data
    estimator, grid = CASES["GroupDRO"]
    fit = {"attributes": attributes}
    whole = _halve(estimator, grid, X, y, fit=fit, return_train_score=True)
    parts = _halve(
        estimator, grid, X, y, fit=fit, return_train_score=True, max_heads=max_heads
    )
    assert parts.cv_results_["params"] == whole.cv_results_["params"]
    for name in ("mean_test_score", "mean_train_score"):
        np.testing.assert_allclose(
            parts.cv_results_[name], whole.cv_results_[name], rtol=1e-4
        )


@pytest.mark.parametrize(
    ("max_resources", "options"),
    [
        (9, {}),
        (18, {}),
        (9, {"min_resources": 1}),
        (9, {"min_resources": 3}),
        (4, {"min_resources": 4}),
        (6, {"min_resources": 2, "aggressive_elimination": True}),
        (4, {"min_resources": 4, "aggressive_elimination": True}),
        (8, {"factor": 2}),
    ],
)
def test_the_search_of_scikit_learn(data, max_resources, options):
    X, y, _ = data
    estimator = ERMClassifier(**SMALL)
    grid = {"learning_rate": [1e-3, 1e-2, 3e-2], "weight_decay": [0.0, 0.1, 1.0]}
    options = {"factor": 3, "scoring": "neg_log_loss", "cv": 3} | options
    stock = HalvingGridSearchCV(
        estimator, grid, resource="max_iter", max_resources=max_resources, **options
    ).fit(X, y)
    own = BatchedHalvingGridSearchCV(
        estimator, grid, max_resources=max_resources, return_train_score=True, **options
    ).fit(X, y)
    for name in (
        "n_resources_",
        "n_candidates_",
        "n_remaining_candidates_",
        "n_iterations_",
        "n_possible_iterations_",
        "n_required_iterations_",
        "min_resources_",
        "max_resources_",
        "best_params_",
    ):
        assert getattr(own, name) == getattr(stock, name), name
    assert set(stock.cv_results_) == set(own.cv_results_)

    def table(search):
        scores = search.cv_results_["mean_test_score"]
        rows = zip(search.cv_results_["iter"], search.cv_results_["params"], scores)
        return sorted((r, sorted(p.items()), float(s)) for r, p, s in rows)

    for mine, theirs in zip(table(own), table(stock)):
        assert mine[:2] == theirs[:2]
        assert mine[2] == pytest.approx(theirs[2], rel=1e-4)
    np.testing.assert_allclose(
        own.predict_proba(X), stock.predict_proba(X), rtol=1e-3, atol=1e-5
    )


@given(
    n_candidates=st.integers(1, 1000),
    most=st.integers(1, 300),
    least=st.one_of(st.sampled_from(["exhaust", "smallest"]), st.integers(1, 300)),
    factor=st.one_of(st.integers(2, 5), st.floats(1.1, 6.0)),
    aggressive=st.booleans(),
)
def test_any_plan_ends_with_all_epochs(n_candidates, most, least, factor, aggressive):
    search = BatchedHalvingGridSearchCV(
        ERMClassifier(),
        {},
        factor=factor,
        max_resources=most,
        min_resources=least,
        aggressive_elimination=aggressive,
    )
    if not isinstance(least, str) and least > most:
        with pytest.raises(ValueError, match=f"min_resources={least} is more than"):
            search._plan_rungs(n_candidates)
        return
    search._plan_rungs(n_candidates)
    assert search.n_resources_[-1] == most == search.max_resources_
    assert search.n_resources_ == sorted(search.n_resources_)
    assert search.n_resources_[0] >= min(search.min_resources_, most) >= 1
    assert len(search.n_resources_) == len(search.n_candidates_) == search.n_iterations_
    assert search.n_candidates_[0] == n_candidates
    assert search.n_candidates_ == sorted(search.n_candidates_, reverse=True)
    if aggressive:
        assert search.n_iterations_ == search.n_required_iterations_


def test_a_power_of_the_factor_has_no_rung_too_few():
    """A quotient of logarithms makes 4.99... of five factors of three."""
    search = BatchedHalvingGridSearchCV(ERMClassifier(max_iter=243), {})
    search._plan_rungs(243)
    assert search.n_resources_ == [1, 3, 9, 27, 81, 243]
    assert search.n_candidates_ == [243, 81, 27, 9, 3, 1]


def test_failed_candidates_go_first(data):
    X, y, attributes = data
    grid = {"beta": [50.0, 0.0, 1.0], "learning_rate": [1e30, 1e-2]}
    estimator, fit = GERNEClassifier(1.0, **SMALL), {"attributes": attributes}
    with pytest.warns(FitFailedWarning) as warned:
        search = _halve(estimator, grid, X, y, fit=fit, error_score=np.nan, factor=3)
    (message,) = [str(w.message) for w in warned if w.category is FitFailedWarning]
    assert "beta=50.0 with c=0.5 is outside the bounds" in message
    assert "no longer finite in epoch 1: lower learning_rate (now 1e+30)" in message
    scores = search.cv_results_["mean_test_score"]
    assert (
        np.isnan(scores).tolist()
        == [True, True, True, False, True, False] + [False] * 2
    )
    alone = {"beta": [0.0, 1.0], "learning_rate": [1e-2], "max_iter": [EPOCHS]}
    alone = BatchedGridSearchCV(estimator, alone, cv=3, **OPTIONS).fit(X, y, **fit)
    np.testing.assert_allclose(
        scores[-2:], alone.cv_results_["mean_test_score"], rtol=1e-5
    )
    with pytest.raises(ValueError, match="outside the bounds"):
        _halve(estimator, grid, X, y, fit=fit)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        _halve(estimator, grid | {"beta": [0.0]}, X, y, fit=fit)


def _size(estimator, X, y):
    return abs(estimator.coef_).sum()


def test_a_fit_that_failed_stays_so(data):
    """Even where its score keeps it among the best."""
    X, y, attributes = data
    grid = [{"beta": [50.0]}, {"learning_rate": [1e30]}, {"beta": [0.0, 0.5]}]
    with pytest.warns(FitFailedWarning) as warned:
        search = _halve(
            GERNEClassifier(1.0, **SMALL),
            grid,
            X,
            y,
            fit={"attributes": attributes},
            factor=1.4,
            scoring=_size,
            error_score=1e9,
            refit=False,
        )
    assert search.n_candidates_ == [4, 3, 3, 3, 3]
    assert len([w for w in warned if w.category is FitFailedWarning]) == 5
    scores = search.cv_results_["mean_test_score"]
    for rung in range(5):
        failed = scores[_rung(search, rung)[0]] == 1e9
        assert failed[:2].all()
        assert not failed[2:].any()
    alone = BatchedGridSearchCV(
        GERNEClassifier(1.0, **SMALL), {"beta": [0.0]}, scoring=_size, cv=3
    ).fit(X, y, attributes=attributes)
    assert _rung(search, 4)[1][2]["beta"] == 0.0
    np.testing.assert_allclose(
        scores[-1], alone.cv_results_["mean_test_score"][0], rtol=1e-5
    )


def test_a_candidate_that_diverges_on_a_later_rung(data):
    X, y, _ = data
    grid = [
        {"learning_rate": [1e-3, 1e-2, 3e-2]},
        {"learning_rate": [1.0], "weight_decay": [1e10]},
    ]
    with pytest.warns(FitFailedWarning, match="no longer finite in epoch 2"):
        search = _halve(
            ERMClassifier(**SMALL),
            grid,
            X,
            y,
            scoring=_size,
            error_score=np.nan,
            min_resources=1,
        )
    lost = np.isnan(search.cv_results_["mean_test_score"])
    assert list(search.cv_results_["iter"]) == [0, 0, 0, 0, 1, 1, 2]
    assert lost.tolist() == [False] * 5 + [True, False]
    assert search.best_params_ == {"learning_rate": 3e-2, "max_iter": EPOCHS}


def test_of_equal_candidates_the_earlier_goes_on(data):
    X, y, _ = data
    grid = {"tol": [0.5, 0.4, 0.3, 0.2, 0.1]}  # nothing but early stopping reads it
    search = _halve(ERMClassifier(**SMALL), grid, X, y)
    left = [[p["tol"] for p in _rung(search, rung)[1]] for rung in range(3)]
    assert left == [[0.5, 0.4, 0.3, 0.2, 0.1], [0.5, 0.4, 0.3], [0.5, 0.4]]
    assert search.best_params_["tol"] == 0.5


def test_a_single_candidate_is_trained_to_the_end(data):
    X, y, _ = data
    search = _halve(ERMClassifier(**SMALL), {}, X, y)
    assert (search.n_resources_, search.n_candidates_) == ([EPOCHS], [1])
    assert search.best_params_ == {"max_iter": EPOCHS}


def test_first_stages_run_once(data, monkeypatch):
    X, y, _ = data
    calls = []
    original = JTTClassifier._first_stage

    def counted(self, data):
        calls.append(self.warmup_epochs)
        return original(self, data)

    monkeypatch.setattr(JTTClassifier, "_first_stage", counted)
    grid = {"upweight": [2, 5, 9], "warmup_epochs": [1, 2]}
    _halve(JTTClassifier(**SMALL), grid, X, y, refit=False)
    assert sorted(calls) == [1] * 3 + [2] * 3


def test_verbose_shows_rungs(data, capsys):
    X, y, _ = data
    _halve(ERMClassifier(**SMALL), RATES, X, y, verbose=1)
    shown = capsys.readouterr().err
    assert all(f"{n} epochs" in shown for n in (2, 4, 9))
    assert "18/18" in shown


@pytest.mark.parametrize(
    ("estimator", "grid", "options", "message"),
    [
        (
            ERMClassifier(),
            {"max_iter": [1, 2]},
            {},
            r"param_grid has max_iter=1.*set max_resources",
        ),
        (
            make_pipeline(StandardScaler(), ERMClassifier()),
            [{"ermclassifier__tol": [1]}, {"ermclassifier__max_iter": [7]}],
            {},
            r"param_grid has ermclassifier__max_iter=7.*set max_resources",
        ),
        (
            ERMClassifier(solver="lbfgs"),
            {},
            {},
            r"solver='lbfgs' has no epochs.*'sgd' or 'adamw'.*BatchedGridSearchCV",
        ),
        (
            ERMClassifier(),
            {"solver": ["sgd", "lbfgs"]},
            {},
            r"solver='lbfgs' has no epochs",
        ),
        (
            make_pipeline(StandardScaler(), ERMClassifier()),
            {"ermclassifier": [ERMClassifier(solver="lbfgs")]},
            {},
            r"solver='lbfgs' has no epochs",
        ),
        (
            ERMClassifier(),
            {"early_stopping": [False, True]},
            {},
            r"early_stopping=True.*choose early_stopping=False",
        ),
        (
            DFRClassifier(),
            {"l1_ratio": [0.0, 1.0]},
            {},
            r"DFRClassifier\(l1_ratio=0.0\) is not trained.*BatchedGridSearchCV",
        ),
        (
            make_pipeline(StandardScaler(), ERMClassifier()),
            {"ermclassifier": [DFRClassifier()]},
            {},
            r"DFRClassifier\(\) is not trained in epochs",
        ),
        (LogisticRegression(), {}, {}, r"LogisticRegression.*cannot be trained"),
        (
            ERMClassifier(max_iter=9),
            {},
            {"min_resources": 10},
            r"min_resources=10 is more than max_resources=9, the max_iter of the "
            "estimator: lower the one",
        ),
        (
            ERMClassifier(),
            {},
            {"min_resources": 3, "max_resources": 2},
            r"min_resources=3 is more than max_resources=2: lower",
        ),
        (ERMClassifier(max_iter=0), {}, {}, r"'max_iter' parameter of ERMClassifier"),
        (ERMClassifier(), {}, {"factor": 1}, r"'factor' parameter"),
        (ERMClassifier(), {}, {"max_resources": 0}, r"'max_resources' parameter"),
        (ERMClassifier(), {}, {"min_resources": "most"}, r"'min_resources' parameter"),
        (ERMClassifier(), {}, {"refit": max}, r"'refit' parameter"),
        (
            ERMClassifier(),
            {},
            {"scoring": ["accuracy", "roc_auc"], "refit": False},
            r"refit=False, but there are several metrics",
        ),
    ],
)
def test_messages(data, monkeypatch, estimator, grid, options, message):
    X, y, _ = data

    def never(*args):
        raise AssertionError("trained")

    monkeypatch.setattr(_sgd._Loop, "run_epoch", never)
    with pytest.raises(ValueError, match=message):
        BatchedHalvingGridSearchCV(estimator, grid, **options).fit(X, y)
