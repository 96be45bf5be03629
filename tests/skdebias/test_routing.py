"""Attributes through scikit-learn's own searches, pipelines and callbacks."""

import numpy as np
import pytest
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier, MissingAttributesWarning
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import (
    group_balanced_accuracy_scorer,
    worst_class_accuracy_scorer,
    worst_group_accuracy_score,
    worst_group_accuracy_scorer,
)
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    AttributeStratifiedShuffleSplit,
)

ESTIMATORS = [
    GERNEClassifier(1.0, max_iter=3, random_state=0, device="cpu"),
    ERMClassifier(balance="group", max_iter=3, random_state=0, device="cpu"),
]
SCORING = {
    "wga": worst_group_accuracy_scorer,
    "gba": group_balanced_accuracy_scorer,
    "wca": worst_class_accuracy_scorer,
    "accuracy": "accuracy",
}
GRID = {"learning_rate": [1e-4, 1e-1]}
FLAGS = [False, True]
LINE = r"sklearn\.set_config\(enable_metadata_routing=True\)"


# Every call without attributes must fail or show; silence would hide a wrong route.
pytestmark = pytest.mark.filterwarnings(
    "error::skdebias.MissingAttributesWarning",
)


@pytest.fixture(scope="module")
def data():
    X, y, a = make_spurious_classification(
        160, n_features=8, correlation=0.8, core_strength=4, random_state=0
    )
    return X, np.array(["land", "water"])[y], np.array(["left", "right"])[a]


@pytest.fixture(params=ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def estimator(request):
    return clone(request.param)


def _fold_scores(estimator, data, splitter):
    """Worst-group accuracies of the test folds, with every step made by hand."""
    X, y, a = data
    scores = []
    for train, test in splitter.split(X, y, attributes=a):
        model = clone(estimator).fit(X[train], y[train], attributes=a[train])
        scores.append(
            worst_group_accuracy_score(
                y[test], model.predict(X[test]), attributes=a[test]
            )
        )
    return scores


def _attributes_were_seen(model):
    return list(model.attribute_values_) == ["left", "right"]


@pytest.mark.parametrize("flag", FLAGS)
def test_grid_search_with_the_default_scorer(flag, estimator, data):
    X, y, a = data
    with config_context(enable_metadata_routing=flag):
        search = GridSearchCV(estimator, GRID, cv=2).fit(X, y, attributes=a)
    assert _attributes_were_seen(search.best_estimator_)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("flag", FLAGS)
def test_cross_validate_with_the_default_scorer(flag, estimator, data):
    X, y, a = data
    with config_context(enable_metadata_routing=flag):
        results = cross_validate(
            estimator, X, y, cv=2, params={"attributes": a}, return_estimator=True
        )
    assert all(map(_attributes_were_seen, results["estimator"]))


def test_cross_validate_with_the_flag_off_names_the_line(estimator, data):
    X, y, a = data
    with pytest.raises(TypeError, match=LINE):
        cross_validate(
            estimator,
            X,
            y,
            scoring=worst_group_accuracy_scorer,
            cv=2,
            params={"attributes": a},
            error_score="raise",
        )


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_grid_search_with_a_group_scorer(estimator, data):
    X, y, a = data
    search = GridSearchCV(
        estimator, GRID, scoring=worst_group_accuracy_scorer, cv=2, error_score="raise"
    )
    with config_context(enable_metadata_routing=True):
        search.fit(X, y, attributes=a)
    assert _attributes_were_seen(search.best_estimator_)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    with pytest.raises(TypeError, match=LINE):
        clone(search).fit(X, y, attributes=a)
    # By default searches turn the error of a scorer into a warning and NaN.
    search = clone(search).set_params(error_score=np.nan)
    with pytest.warns(UserWarning, match=LINE):
        search.fit(X, y, attributes=a)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()


def test_grid_search_with_a_stratified_splitter_and_the_flag_off(estimator, data):
    X, y, a = data
    search = GridSearchCV(estimator, GRID, cv=AttributeStratifiedKFold(2))
    with pytest.raises(TypeError, match=LINE):
        search.fit(X, y, attributes=a)
    # The way out that the message names.
    splits = list(AttributeStratifiedKFold(2).split(X, y, attributes=a))
    search.set_params(cv=splits).fit(X, y, attributes=a)
    assert _attributes_were_seen(search.best_estimator_)


def test_pipeline_fit(estimator, data):
    X, y, a = data
    pipeline = make_pipeline(StandardScaler(), estimator)
    name = pipeline.steps[-1][0]
    with config_context(enable_metadata_routing=True):
        routed = clone(pipeline).fit(X, y, attributes=a)
    assert _attributes_were_seen(routed[-1])
    # Without the flag only the prefix works.
    with pytest.raises(ValueError, match="attributes"):
        clone(pipeline).fit(X, y, attributes=a)
    prefixed = clone(pipeline).fit(X, y, **{f"{name}__attributes": a})
    np.testing.assert_array_equal(routed[-1].coef_, prefixed[-1].coef_)


def test_grid_over_pipeline_with_several_scorers_and_stratified_folds(estimator, data):
    X, y, a = data
    pipeline = make_pipeline(StandardScaler(), estimator)
    name = pipeline.steps[-1][0]
    splitter = AttributeStratifiedKFold(2, shuffle=True, random_state=0)
    grid = {f"{name}__learning_rate": GRID["learning_rate"]}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            pipeline, grid, scoring=SCORING, refit="wga", cv=splitter
        ).fit(X, y, attributes=a)
    assert _attributes_were_seen(search.best_estimator_[-1])
    results = search.cv_results_
    for score in SCORING:
        assert np.isfinite(results[f"mean_test_{score}"]).all()
    # Every number of the search must be that of the same steps made by hand.
    for candidate, rate in enumerate(GRID["learning_rate"]):
        model = clone(pipeline).set_params(**{f"{name}__learning_rate": rate})
        for fold, (train, test) in enumerate(splitter.split(X, y, attributes=a)):
            scaler = StandardScaler().fit(X[train])
            head = clone(model[-1]).fit(
                scaler.transform(X[train]), y[train], attributes=a[train]
            )
            expected = worst_group_accuracy_score(
                y[test], head.predict(scaler.transform(X[test])), attributes=a[test]
            )
            assert results[f"split{fold}_test_wga"][candidate] == expected
            assert (
                results[f"split{fold}_test_wga"][candidate]
                <= results[f"split{fold}_test_gba"][candidate]
            )


@pytest.mark.parametrize(
    "splitter",
    [
        AttributeStratifiedKFold(2, shuffle=True, random_state=0),
        AttributeStratifiedShuffleSplit(2, test_size=0.3, random_state=0),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_cross_validate(estimator, data, splitter):
    X, y, a = data
    with config_context(enable_metadata_routing=True):
        results = cross_validate(
            estimator,
            X,
            y,
            scoring=SCORING,
            cv=splitter,
            params={"attributes": a},
            return_estimator=True,
        )
        single = cross_val_score(
            estimator,
            X,
            y,
            scoring=worst_group_accuracy_scorer,
            cv=splitter,
            params={"attributes": a},
        )
    assert all(map(_attributes_were_seen, results["estimator"]))
    expected = _fold_scores(estimator, data, splitter)
    np.testing.assert_array_equal(results["test_wga"], expected)
    np.testing.assert_array_equal(single, expected)


def test_alias(estimator, data):
    X, y, a = data
    with config_context(enable_metadata_routing=True):
        estimator.set_fit_request(attributes="sensitive_features")
        scorer = make_scorer(worst_group_accuracy_score).set_score_request(
            attributes="sensitive_features"
        )
        splitter = AttributeStratifiedKFold(2).set_split_request(
            attributes="sensitive_features"
        )
        search = GridSearchCV(estimator, GRID, scoring=scorer, cv=splitter)
        search.fit(X, y, sensitive_features=a)
    assert _attributes_were_seen(search.best_estimator_)
    # The request of one splitter must not leak into others.
    with config_context(enable_metadata_routing=True):
        other = AttributeStratifiedKFold(2).get_metadata_routing()
    assert other.split.requests["attributes"] is True


def test_two_processes_give_the_numbers_of_one(estimator, data):
    X, y, a = data
    scores = []
    for n_jobs in (1, 2):
        search = GridSearchCV(
            estimator,
            GRID,
            scoring=worst_group_accuracy_scorer,
            cv=AttributeStratifiedKFold(2),
            n_jobs=n_jobs,
            error_score="raise",
        )
        with config_context(enable_metadata_routing=True):
            search.fit(X, y, attributes=a)
        scores.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("flag", FLAGS)
def test_scoring_monitor_records_group_scores_of_every_epoch(flag, estimator, data):
    X, y, a = data
    scoring = {
        "wga": worst_group_accuracy_scorer,
        "gba": group_balanced_accuracy_scorer,
    }
    if flag:  # without routing, scikit-learn hands attributes to every scorer
        scoring["accuracy"] = make_scorer(accuracy_score)
    with config_context(enable_metadata_routing=flag):
        monitor = ScoringMonitor(scoring=scoring)
        estimator.set_callbacks(monitor).fit(X, y, attributes=a)
        frame = monitor.get_logs().data_as_pandas
    assert len(frame) >= estimator.n_iter_ == 3
    assert np.isfinite(frame[list(scoring)]).all(axis=None)
    assert (frame["wga"] <= frame["gba"]).all()
    last = worst_group_accuracy_score(y, estimator.predict(X), attributes=a)
    assert frame["wga"].iloc[-1] == last


def test_missing_attributes_warn_in_fit(data):
    X, y, _ = data
    with pytest.warns(MissingAttributesWarning):
        ERMClassifier(balance="group", max_iter=1, device="cpu").fit(X, y)


def test_nothing_here_changed_the_configuration():
    assert get_config()["enable_metadata_routing"] is False
