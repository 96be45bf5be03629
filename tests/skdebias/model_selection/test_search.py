"""Batched searches against scikit-learn's own, candidate by candidate."""

import numpy as np
import pytest
import sklearn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import loguniform
from sklearn.callback import ScoringMonitor
from sklearn.datasets import make_classification
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    PredefinedSplit,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from skdebias import (
    AFRClassifier,
    DebiasedClassifier,
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    UGCClassifier,
    ULEClassifier,
)
from skdebias.attributes import ErrorSetPseudoAttributes, SSAPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.methods import GERNE
from skdebias.metrics import (
    group_balanced_accuracy_scorer,
    worst_class_accuracy_scorer,
    worst_group_accuracy_scorer,
)
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
    _stack_limits,
)
from tests._instances import HEADS, RATES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SMALL = {"max_iter": 3, "batch_size": 64, "random_state": 3}
EXACT = {"solver": "lbfgs", "max_iter": 500, "tol": 1e-8, "random_state": 3}
DECAYS = {"weight_decay": [0.01, 0.1]}
CASES = {
    name: (row.make(warmup_epochs=1, n_draws=2, **SMALL), row.grid)
    for name, row in HEADS.items()
} | {
    "balance": (ERMClassifier(**SMALL), {"balance": [None, "group"]} | RATES),
    "adamw": (
        ERMClassifier(solver="adamw", reweight="group", **SMALL),
        RATES | {"momentum": [0.5, 0.9]},
    ),
    "hidden": (
        GERNEClassifier(hidden_layer_sizes=(7, 5), **SMALL),
        {"beta": [0.0, 1.0], "learning_rate": [1e-2, 1e-1]},
    ),
    "structural": (
        GERNEClassifier(1.0, **SMALL),
        {"beta": [0.0, 1.0], "max_iter": [1, 4], "coupling": ["shared", "independent"]},
    ),
    "ERM lbfgs": (ERMClassifier(**EXACT), {"reweight": [None, "group"]} | DECAYS),
    "GERNE lbfgs": (GERNEClassifier(**EXACT), {"c": [0.5, 1.0]} | DECAYS),
    "GroupDRO lbfgs": (
        GroupDROClassifier(**EXACT),
        {"temperature": [0.1, 1.0]} | DECAYS,
    ),
    "JTT lbfgs": (
        JTTClassifier(warmup_epochs=1, **EXACT),
        {"upweight": [2, 9]} | DECAYS,
    ),
    "AFR lbfgs": (
        AFRClassifier(**EXACT),
        {"gamma": [0.0, 4.0], "regularization": [0.1, 1.0]},
    ),
    "UGC lbfgs": (UGCClassifier(robust="group_dro", **EXACT), DECAYS),
    "any method, lbfgs": (
        DebiasedClassifier(GERNE(), **EXACT),
        {"method__c": [0.5, 1.0]} | DECAYS,
    ),
}
UNKNOWN = {
    "confidence": (
        GERNEClassifier(1.0, **SMALL),
        {"beta": [0.0, 1.0], "t": [0.1, 0.3], "learning_rate": [1e-3, 1e-2]},
    ),
    "errors": (
        GERNEClassifier(pseudo_attributes=ErrorSetPseudoAttributes(), **SMALL),
        {"beta": [0.0, 0.5], "c": [0.5, 1.0]},
    ),
}


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(240, n_features=9, random_state=0)


@pytest.fixture(scope="module")
def multiclass():
    return make_spurious_classification(
        300, n_features=9, n_classes=3, n_attributes=3, random_state=0
    )


def _stock(estimator, grid, X, y, attributes, search=GridSearchCV, **options):
    options.setdefault("cv", AttributeStratifiedKFold(3))
    with sklearn.config_context(enable_metadata_routing=True):
        search = search(estimator, grid, error_score="raise", **options)
        given = {} if attributes is None else {"attributes": attributes}
        return search.fit(X, y, **given)


@pytest.mark.parametrize("max_heads", ["auto", 3])
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_the_stock_search(data, case, max_heads):
    (X, y, attributes), (estimator, grid) = data, CASES[case]
    cv = AttributeStratifiedKFold(3)
    if case in HEADS and not HEADS[case].uses_attributes:
        attributes, cv = None, 3
    options = {"scoring": "neg_log_loss", "return_train_score": True, "cv": cv}
    stock = _stock(estimator, grid, X, y, attributes, **options)
    batched = BatchedGridSearchCV(
        estimator,
        grid,
        max_heads=max_heads,
        error_score="raise",
        **options,
    )
    batched.fit(X, y, attributes=attributes)
    for part in ("test", "train"):
        key = f"mean_{part}_score"
        np.testing.assert_allclose(
            batched.cv_results_[key], stock.cv_results_[key], rtol=1e-6
        )
    # Near ties may be ranked otherwise after rounding.
    found = stock.cv_results_["mean_test_score"][batched.best_index_]
    assert found == pytest.approx(stock.best_score_, rel=1e-4)
    assert set(stock.cv_results_) <= set(batched.cv_results_)


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_attributes(data, case):
    (X, y, _), (estimator, grid) = data, UNKNOWN[case]
    options = {"scoring": "neg_log_loss", "cv": 3}
    stock = _stock(estimator, grid, X, y, None, **options)
    batched = BatchedGridSearchCV(estimator, grid, error_score="raise", **options)
    batched.fit(X, y)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )


def test_every_deterministic_objective_is_compared():
    tried = {type(estimator) for estimator, _ in CASES.values()
             if getattr(estimator, "solver", None) == "lbfgs"}  # fmt: skip
    wanted = {type(row.estimator) for row in HEADS.values() if row.is_deterministic}
    assert tried == wanted


@pytest.mark.parametrize("case", ["GERNE", "hidden", "GroupDRO", "LfF", "AFR"])
def test_several_classes_and_group_scores(multiclass, case):
    (X, y, attributes), (estimator, grid) = multiclass, CASES[case]
    if "beta" in grid:
        grid = grid | {"out_of_bounds": ["clip"]}
    labels = np.array(["x", "y", "z"])[y]
    scoring = {
        "worst": worst_group_accuracy_scorer,
        "balanced": group_balanced_accuracy_scorer,
        "class": worst_class_accuracy_scorer,
        "auc": "roc_auc_ovr",
    }
    options = {"scoring": scoring, "refit": "auc"}
    stock = _stock(estimator, grid, X, labels, attributes, **options)
    batched = BatchedGridSearchCV(
        estimator, grid, cv=AttributeStratifiedKFold(3), **options
    ).fit(X, labels, attributes=attributes)
    for key in ("mean_test_worst", "mean_test_balanced", "mean_test_auc"):
        np.testing.assert_allclose(
            batched.cv_results_[key], stock.cv_results_[key], atol=1e-4
        )
    assert batched.best_params_ == stock.best_params_
    assert batched.multimetric_
    assert set(batched.predict(X)) <= {"x", "y", "z"}


def test_pipeline_steps_are_fitted_per_fold(data):
    X, y, attributes = data
    X = X * np.arange(1, 10) + 5
    pipeline = make_pipeline(StandardScaler(), GERNEClassifier(1.0, **SMALL))
    grid = {"gerneclassifier__beta": [0.0, 1.0], "gerneclassifier__c": [0.5]}
    stock = _stock(pipeline, grid, X, y, attributes, scoring="neg_log_loss")
    batched = BatchedGridSearchCV(
        pipeline, grid, scoring="neg_log_loss", cv=AttributeStratifiedKFold(3)
    ).fit(X, y, attributes=attributes)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )
    strength = batched.cv_results_["extrapolation_strength"]
    np.testing.assert_allclose(strength, [0.5, 1.0])


def test_settings_of_earlier_steps_are_searched_too(data):
    X, y, _ = data
    pipeline = make_pipeline(StandardScaler(), ERMClassifier(**SMALL))
    grid = {
        "standardscaler": [StandardScaler(), MinMaxScaler()],
        "ermclassifier__weight_decay": [0.0, 1.0],
    }
    stock = _stock(pipeline, grid, X, y, None, scoring="neg_log_loss", cv=3)
    batched = BatchedGridSearchCV(pipeline, grid, scoring="neg_log_loss", cv=3)
    batched.fit(X, y)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )


def test_a_function_that_scores_gets_the_whole_pipeline(data):
    X, y, _ = data
    seen = []

    def scoring(estimator, X, y):
        seen.append(estimator)
        return {"half": estimator.score(X[::2], y[::2]), "all": estimator.score(X, y)}

    pipeline = make_pipeline(StandardScaler(), ERMClassifier(**SMALL))
    grid = {"ermclassifier__weight_decay": [0.0, 1.0]}
    options = {"scoring": scoring, "refit": "half", "cv": 3}
    batched = BatchedGridSearchCV(pipeline, grid, **options).fit(X, y)
    assert all(len(estimator.steps) == 2 for estimator in seen)
    stock = GridSearchCV(pipeline, grid, **options).fit(X, y)
    for key in ("mean_test_half", "mean_test_all"):
        np.testing.assert_allclose(batched.cv_results_[key], stock.cv_results_[key])


def test_validation_set_and_early_stopping(data):
    X, y, attributes = data
    estimator = GERNEClassifier(
        1.0, **SMALL | {"max_iter": 12}, early_stopping=True, n_iter_no_change=2
    )
    grid = {"beta": [0.0, 1.0], "learning_rate": [1e-4, 1e-1]}
    rest = {"X_val": X[:50], "y_val": y[:50], "attributes_val": attributes[:50]}
    with sklearn.config_context(enable_metadata_routing=True):
        stock = GridSearchCV(estimator, grid, scoring="neg_log_loss", cv=3)
        stock.fit(X, y, attributes=attributes, **rest)
    batched = BatchedGridSearchCV(estimator, grid, scoring="neg_log_loss", cv=3)
    batched.fit(X, y, attributes=attributes, **rest)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )


def test_other_embeddings_for_the_student(data):
    X, y, _ = data
    X_student = X[:, ::2] + 1
    estimator, grid = ULEClassifier(**SMALL), {"lam": [0.3, 0.9]}
    with sklearn.config_context(enable_metadata_routing=True):
        stock = GridSearchCV(estimator, grid, scoring="neg_log_loss", cv=3)
        stock.fit(X, y, X_student=X_student)
    batched = BatchedGridSearchCV(estimator, grid, scoring="neg_log_loss", cv=3)
    batched.fit(X, y, X_student=X_student)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )


def test_randomised_search(data):
    X, y, attributes = data
    estimator = GERNEClassifier(1.0, **SMALL)
    distributions = {"learning_rate": loguniform(1e-4, 1e-1), "beta": [0.0, 1.0]}
    options = {"n_iter": 6, "random_state": 1, "scoring": "neg_log_loss"}
    stock = _stock(
        estimator, distributions, X, y, attributes, RandomizedSearchCV, **options
    )
    batched = BatchedRandomizedSearchCV(
        estimator, distributions, cv=AttributeStratifiedKFold(3), **options
    ).fit(X, y, attributes=attributes)
    assert batched.cv_results_["params"] == stock.cv_results_["params"]
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )


def test_candidates_that_fail_leave_the_others_alone(data):
    X, y, attributes = data
    grid = {"beta": [0.0, 50.0], "learning_rate": [1e-2, 1e30]}
    search = BatchedGridSearchCV(GERNEClassifier(1.0, **SMALL), grid, cv=3)
    with pytest.warns(FitFailedWarning) as warned:
        search.fit(X, y, attributes=attributes)
    message = str(warned[0].message)
    assert "beta=50.0 with c=0.5 is outside the bounds" in message
    assert "no longer finite in epoch 1: lower learning_rate (now 1e+30)" in message
    scores = search.cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, True, True, True]
    alone = BatchedGridSearchCV(
        GERNEClassifier(1.0, **SMALL), {"beta": [0.0], "learning_rate": [1e-2]}, cv=3
    ).fit(X, y, attributes=attributes)
    assert scores[0] == alone.cv_results_["mean_test_score"][0]


@pytest.mark.parametrize("value", [50.0, "much"])
def test_error_score_raise(data, value):
    X, y, attributes = data
    search = BatchedGridSearchCV(
        GERNEClassifier(1.0, **SMALL), {"beta": [value]}, error_score="raise"
    )
    with pytest.raises(ValueError, match="beta"):
        search.fit(X, y, attributes=attributes)


def test_all_fits_failing_is_an_error(data):
    X, y, attributes = data
    search = BatchedGridSearchCV(GERNEClassifier(1.0, **SMALL), {"beta": [50.0]})
    with pytest.raises(ValueError, match="outside the bounds"):
        search.fit(X, y, attributes=attributes)


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())],
)
def test_an_estimator_that_cannot_be_stacked_is_refused(data, estimator):
    X, y, _ = data
    with pytest.raises(ValueError, match=r"LogisticRegression.*GridSearchCV"):
        BatchedGridSearchCV(estimator, {}).fit(X, y)


def test_first_stages_run_once_per_fold_and_setting(data, monkeypatch):
    X, y, _ = data
    calls = []
    original = JTTClassifier._first_stage

    def counted(self, data):
        calls.append(self.warmup_epochs)
        return original(self, data)

    monkeypatch.setattr(JTTClassifier, "_first_stage", counted)
    grid = {"upweight": [2, 5, 9], "warmup_epochs": [1, 2]}
    search = BatchedGridSearchCV(JTTClassifier(**SMALL), grid, cv=3, refit=False)
    search.fit(X, y)
    assert sorted(calls) == [1] * 3 + [2] * 3


def test_candidates_of_a_fold_are_one_stack(data, monkeypatch):
    from skdebias import _fit

    X, y, attributes = data
    sizes = []
    original = _fit.StackFit

    def counted(estimators, *args, **kwargs):
        sizes.append(len(estimators))
        return original(estimators, *args, **kwargs)

    monkeypatch.setattr(_fit, "StackFit", counted)
    grid = {"beta": [0.0, 0.5, 1.0], "c": [0.5, 1.0], "learning_rate": [0.01, 0.1]}
    grid["out_of_bounds"] = ["clip"]
    for max_heads, expected in (("auto", [12] * 3), (5, [4] * 9)):
        sizes.clear()
        search = BatchedGridSearchCV(
            GERNEClassifier(1.0, **SMALL), grid, cv=3, refit=False, max_heads=max_heads
        )
        search.fit(X, y, attributes=attributes)
        assert sizes == expected


def test_auto_keeps_to_the_memory_budget(data, monkeypatch):
    X, y, _ = data
    grid = {"learning_rate": np.geomspace(1e-4, 1e-1, 8)}
    monkeypatch.setattr(_stack_limits, "_STACK_BYTES", 1)
    search = BatchedGridSearchCV(ERMClassifier(**SMALL), grid, cv=3).fit(X, y)
    monkeypatch.undo()
    whole = BatchedGridSearchCV(ERMClassifier(**SMALL), grid, cv=3).fit(X, y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], whole.cv_results_["mean_test_score"]
    )


def test_explicit_splits_and_a_memory_map(data, tmp_path):
    X, y, attributes = data
    path = tmp_path / "X.npy"
    np.save(path, X.astype(np.float16))
    mapped = np.load(path, mmap_mode="r")
    cv = PredefinedSplit(np.arange(len(y)) % 4 - 1)
    options = {"cv": cv, "scoring": worst_group_accuracy_scorer}
    search = BatchedGridSearchCV(
        GERNEClassifier(1.0, **SMALL), {"beta": [0, 1]}, **options
    )
    search.fit(mapped, y, attributes=attributes)
    assert search.n_splits_ == 3
    again = BatchedGridSearchCV(
        GERNEClassifier(1.0, **SMALL), {"beta": [0, 1]}, **options
    )
    again.fit(np.asarray(mapped), y, attributes=attributes)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"]
    )


def test_the_default_folds_stratify_on_groups(data):
    X, y, attributes = data
    search = BatchedGridSearchCV(ERMClassifier(**SMALL), {})
    search.fit(X, y, attributes=attributes)
    own = BatchedGridSearchCV(ERMClassifier(**SMALL), {}, cv=AttributeStratifiedKFold())
    own.fit(X, y, attributes=attributes)
    assert search.best_score_ == own.best_score_
    assert search.cv is None


def test_frames_keep_their_feature_names():
    pd = pytest.importorskip("pandas")
    X, y = make_classification(120, 6, random_state=0)
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(6)])
    search = BatchedGridSearchCV(ERMClassifier(**SMALL), {"weight_decay": [0.0, 1.0]})
    search.fit(frame, y)
    assert list(search.feature_names_in_) == list(frame.columns)


def test_verbose_shows_progress(data, capsys):
    X, y, _ = data
    BatchedGridSearchCV(ERMClassifier(**SMALL), {}, cv=2, verbose=1).fit(X, y)
    assert "fit" in capsys.readouterr().err


@settings(
    max_examples=10,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
@given(
    rates=st.lists(st.floats(1e-4, 1e-1), min_size=1, max_size=4, unique=True),
    betas=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=4, unique=True),
    c=st.floats(0.1, 1.0),
    max_heads=st.integers(1, 9),
    solver=st.sampled_from(["sgd", "adamw", "lbfgs"]),
)
def test_random_grids(data, rates, betas, c, max_heads, solver):
    X, y, attributes = data
    estimator = GERNEClassifier(
        c=c,
        solver=solver,
        weight_decay=0.01,
        out_of_bounds="clip",
        tol=1e-6,
        **SMALL,
    )
    grid = {"learning_rate": rates, "beta": betas}
    options = {"scoring": "neg_log_loss", "cv": AttributeStratifiedKFold(2)}
    stock = _stock(estimator, grid, X, y, attributes, **options)
    batched = BatchedGridSearchCV(estimator, grid, max_heads=max_heads, **options)
    batched.fit(X, y, attributes=attributes)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        rtol=1e-6,
    )


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_a_head_does_not_depend_on_its_stack(data, hidden):
    X, y, attributes = data
    estimator = GERNEClassifier(1.0, hidden_layer_sizes=hidden, **SMALL)
    options = {"scoring": "neg_log_loss", "cv": 3, "refit": False}
    scores = []
    for n_others, max_heads in ((0, "auto"), (6, "auto"), (299, "auto"), (299, 41)):
        grid = {"learning_rate": [0.01, *np.geomspace(1e-4, 1e-1, n_others)]}
        search = BatchedGridSearchCV(estimator, grid, max_heads=max_heads, **options)
        search.fit(X, y, attributes=attributes)
        scores.append(search.cv_results_["mean_test_score"][0])
    np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


def test_a_fold_without_some_group(data):
    """The stock search leaves the group out in the same way."""
    X, y, attributes = data
    kept = ~((y == 1) & (attributes == 0)) | (np.cumsum(y == 1) < 20)
    X, y, attributes = X[kept], y[kept], attributes[kept]
    cell = (y == 1) & (attributes == 0)
    cv = PredefinedSplit(np.where(cell, 0, np.arange(len(y)) % 2))
    estimator, grid = GERNEClassifier(1.0, **SMALL), {"beta": [0.0, 0.3]}
    options = {"scoring": worst_group_accuracy_scorer, "cv": cv}
    stock = _stock(estimator, grid, X, y, attributes, **options)
    batched = BatchedGridSearchCV(estimator, grid, **options)
    batched.fit(X, y, attributes=attributes)
    np.testing.assert_allclose(
        batched.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
    )


def test_nested_cross_validation(data):
    X, y, attributes = data
    search = BatchedGridSearchCV(
        GERNEClassifier(1.0, **SMALL),
        {"beta": [0.0, 1.0]},
        scoring=worst_group_accuracy_scorer,
        cv=AttributeStratifiedKFold(2),
    )
    with sklearn.config_context(enable_metadata_routing=True):
        found = cross_validate(
            search,
            X,
            y,
            params={"attributes": attributes},
            scoring=worst_group_accuracy_scorer,
            cv=AttributeStratifiedKFold(3),
            error_score="raise",
        )
    assert np.isfinite(found["test_score"]).all()


class Recorder:
    """Callback that writes down which tasks end."""

    def __init__(self):
        self.ended = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **kwargs):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        self.ended.append((type(estimator).__name__, context.task_name))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_callbacks_see_every_fit_that_is_scored(data):
    X, y, attributes = data
    grid = {"beta": [0.0, 1.0, 100.0]}
    names = []
    for kind in (BatchedGridSearchCV, GridSearchCV):
        recorder = Recorder()
        search = kind(GERNEClassifier(1.0, **SMALL), grid, cv=2).set_callbacks(recorder)
        search.fit(X, y, attributes=attributes)
        names.append([task for own, task in recorder.ended if own == kind.__name__])
    assert names[0] == names[1]
    assert names[0].count("candidate-split-evaluation") == 6


def test_candidates_that_are_one_problem_are_scored_once(data):
    X, y, attributes = data
    calls = []

    def counted(y_true, y_pred):
        calls.append(1)
        return accuracy_score(y_true, y_pred)

    grid = {"beta": [0.0, 1.0], "c": [0.5, 1.0], "out_of_bounds": ["clip"]}
    search = BatchedGridSearchCV(
        GERNEClassifier(**EXACT),
        grid,
        cv=2,
        scoring=make_scorer(counted),
        refit=False,
        error_score="raise",
    )
    search.fit(X, y, attributes=attributes)
    strength = search.cv_results_["extrapolation_strength"]
    scores = search.cv_results_["mean_test_score"]
    assert len(calls) == 2 * len(np.unique(strength))
    assert scores[np.flatnonzero(strength == 1.0)].tolist() == [scores[1]] * 2


def test_a_candidate_without_a_minimum_fails_alone(data):
    X, y, attributes = data
    search = BatchedGridSearchCV(
        GERNEClassifier(out_of_bounds="warn", **EXACT),
        {"beta": [0.0, 50.0]},
        cv=2,
        refit=False,
    )
    with pytest.warns(FitFailedWarning, match="needs weights of at least 0"):
        search.fit(X, y, attributes=attributes)
    good, bad = search.cv_results_["mean_test_score"]
    assert good > 0.5
    assert np.isnan(bad)


def test_callbacks_see_the_refit(data):
    X, y, attributes = data
    monitor = ScoringMonitor(scoring=worst_group_accuracy_scorer)
    estimator = GERNEClassifier(1.0, **SMALL).set_callbacks(monitor)
    search = BatchedGridSearchCV(estimator, {"beta": [0.0, 1.0]}, cv=2)
    search.fit(X, y, attributes=attributes)
    assert search.best_estimator_.n_iter_ == SMALL["max_iter"]


_SSA = SSAPseudoAttributes(random_state=0)
_ERRORS = ErrorSetPseudoAttributes(
    reference_estimator=ERMClassifier(max_iter=1, random_state=0)
)


@pytest.mark.parametrize(
    ("estimator", "grid", "annotated"),
    [
        # "auto" is the last epoch without early stopping, and the worst class with it.
        (
            ERMClassifier(
                max_iter=20, learning_rate=0.05, n_iter_no_change=2, random_state=0
            ),
            {"early_stopping": [False, True]},
            None,
        ),
        # Attributes of some of the validation rows, filled once for all candidates.
        (
            DFRClassifier(pseudo_attributes=_SSA, n_draws=1, random_state=0),
            {"l1_ratio": [0.0, 1.0]},
            "some",
        ),
        # What infers is asked for those of all validation rows.
        (
            DFRClassifier(
                pseudo_attributes=_ERRORS,
                selection="worst_inferred_group",
                n_draws=1,
                random_state=0,
            ),
            {"l1_ratio": [0.0, 1.0]},
            None,
        ),
    ],
    ids=["early stopping", "some of validation", "inferred of validation"],
)
def test_validation_sets_select_as_in_the_stock_search(estimator, grid, annotated):
    X, y, _ = make_spurious_classification(400, correlation=0.8, random_state=0)
    held_out = make_spurious_classification(200, correlation=0.8, random_state=1)
    fit = dict(zip(("X_val", "y_val"), held_out))
    if annotated:
        fit["attributes_val"] = held_out[2].astype(float)
        fit["attributes_val"][::3] = np.nan
    scores = []
    with sklearn.config_context(enable_metadata_routing=True):
        for kind in (GridSearchCV, BatchedGridSearchCV):
            search = kind(estimator, grid, cv=2, error_score="raise").fit(X, y, **fit)
            scores.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*scores)
    assert np.ptp(scores[0]) > 0  # the candidates differ
