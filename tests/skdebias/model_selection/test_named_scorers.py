"""Scorers by name, and scorers that do not get the attributes they need."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.metrics import get_scorer_names as names_of_scikit_learn
from sklearn.metrics import make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import (
    get_scorer,
    get_scorer_names,
    make_group_scorer,
    worst_group_accuracy_score,
    worst_group_accuracy_scorer,
)
from skdebias.model_selection import (
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
    BatchedRandomizedSearchCV,
)

GRID = {"learning_rate": [1e-3, 1e-1]}
MODEL = ERMClassifier(max_iter=4, random_state=0)
SEARCHES = {
    "grid": BatchedGridSearchCV(MODEL, GRID, cv=2),
    "randomized": BatchedRandomizedSearchCV(MODEL, GRID, n_iter=2, cv=2),
    "halving": BatchedHalvingGridSearchCV(MODEL, GRID, cv=2),
}
OWN = [name for name in get_scorer_names() if name not in names_of_scikit_learn()]


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(120, n_features=5, random_state=0)


@pytest.fixture(params=SEARCHES)
def search(request):
    return _fresh(request.param)


# Halving takes one score.
@pytest.fixture(params=["grid", "randomized"])
def multimetric_search(request):
    return _fresh(request.param)


def _fresh(name):
    search = SEARCHES[name]
    return type(search)(**search.get_params(deep=False))


def test_the_names():
    assert OWN == [
        "worst_group_accuracy",
        "group_balanced_accuracy",
        "worst_class_accuracy",
        "neg_worst_group_log_loss",
    ]
    scorer = get_scorer("worst_group_accuracy")
    assert repr(scorer) == repr(worst_group_accuracy_scorer)
    with config_context(enable_metadata_routing=True):
        scorer.set_score_request(attributes="place")
        requests = worst_group_accuracy_scorer.get_metadata_routing().score.requests
    assert requests == {"attributes": True}
    assert get_scorer(scorer) is scorer


@pytest.mark.parametrize("name", OWN)
def test_a_name_is_its_scorer(search, name, data):
    X, y, a = data
    named = search.set_params(scoring=name).fit(X, y, attributes=a)
    assert named.scoring == name
    scores = named.cv_results_["mean_test_score"]
    search.set_params(scoring=get_scorer(name)).fit(X, y, attributes=a)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], scores)
    with config_context(enable_metadata_routing=True):
        params = {} if name == "worst_class_accuracy" else {"attributes": a}
        value = named.score(X, y, **params)
        assert value == get_scorer(name)(named.best_estimator_, X, y, **params)


@pytest.mark.parametrize("kind", [list, tuple, lambda names: dict(zip("abc", names))])
def test_several_names(multimetric_search, kind, data):
    (X, y, a), search = data, multimetric_search
    names = ["worst_group_accuracy", "accuracy", "worst_class_accuracy"]
    scoring = kind(names)
    keys = list(scoring)
    search.set_params(scoring=scoring, refit=keys[0]).fit(X, y, attributes=a)
    for key, name in zip(keys, names):
        single = type(search)(**search.get_params(deep=False) | {"scoring": name})
        single.set_params(refit=True).fit(X, y, attributes=a)
        np.testing.assert_array_equal(
            search.cv_results_[f"mean_test_{key}"],
            single.cv_results_["mean_test_score"],
        )


def _check_told(search, data):
    X, y, a = data
    with pytest.raises(ValueError, match=r"'worst_group'") as caught:
        search.fit(X, y, attributes=a)
    for name in ("worst_group_accuracy", "roc_auc"):
        assert name in str(caught.value)


def test_unknown_names_are_told_what_there_is(search, data):
    _check_told(search.set_params(scoring="worst_group"), data)


@pytest.mark.parametrize(
    "scoring", [["accuracy", "worst_group"], {"a": "accuracy", "b": "worst_group"}]
)
def test_unknown_names_among_several(multimetric_search, scoring, data):
    _check_told(multimetric_search.set_params(scoring=scoring), data)


@pytest.mark.parametrize(
    "scoring",
    [
        "worst_group_accuracy",
        worst_group_accuracy_scorer,
        make_group_scorer("roc_auc"),
        make_scorer(lambda y_true, y_pred, *, attributes: 1.0),
    ],
    ids=["name", "scorer", "metric", "own"],
)
@pytest.mark.parametrize("error_score", [np.nan, "raise"])
def test_missing_attributes_are_told_before_any_fit(
    search, scoring, error_score, data, monkeypatch
):
    X, y, _ = data
    monkeypatch.setattr("skdebias.model_selection._split_fits.SplitFits.run", None)
    search.set_params(scoring=scoring, error_score=error_score)
    own = "own" if "lambda" in repr(scoring) else None
    match = "does not request" if own else r"pass attributes=\.\.\. to fit of Batched"
    with pytest.raises(TypeError, match=match):
        search.fit(X, y)


def test_missing_attributes_of_one_of_several_scores(data):
    X, y, _ = data
    search = BatchedGridSearchCV(
        make_pipeline(StandardScaler(), MODEL),
        {"ermclassifier__learning_rate": [0.1]},
        scoring={"all": "accuracy", "worst": "worst_group_accuracy"},
        refit="all",
    )
    with pytest.raises(TypeError, match=r"scoring\['worst'\] needs the spurious"):
        search.fit(X, y)


def test_attributes_under_another_name(data):
    X, y, a = data
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(worst_group_accuracy_score).set_score_request(
            attributes="place"
        )
    search = BatchedGridSearchCV(MODEL, GRID, cv=2, scoring=scorer)
    with pytest.raises(TypeError, match=r"pass place=\.\.\. to fit"):
        search.fit(X, y, attributes=a)
    search.fit(X, y, place=a)
    assert np.isfinite(search.best_score_)
    search.set_params(scoring=make_scorer(worst_group_accuracy_score))
    with pytest.raises(TypeError, match=r"does not request them.*set_score_request"):
        search.fit(X, y, attributes=a)
