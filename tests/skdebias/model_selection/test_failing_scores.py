"""Searches in which scores fail, some of them or all."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import accuracy_score, make_scorer

from skdebias import DFRClassifier, ERMClassifier, GERNEClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.model_selection import (
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
    BatchedRandomizedSearchCV,
)

GRID = {"learning_rate": [1e-3, 1e-2, 1e-1]}
MODEL = ERMClassifier(max_iter=4, random_state=0)
SEARCHES = {
    "grid": BatchedGridSearchCV(MODEL, GRID, cv=2),
    "randomized": BatchedRandomizedSearchCV(MODEL, GRID, n_iter=3, cv=2),
    "halving": BatchedHalvingGridSearchCV(MODEL, GRID, cv=2),
}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


@pytest.fixture(scope="module")
def data():
    X, y, _ = make_spurious_classification(120, n_features=5, random_state=0)
    return X, y


def broken(y_true, y_pred):
    raise RuntimeError("the scorer is broken")


def undefined(y_true, y_pred):
    return np.nan


class Sometimes:
    """A score that fails at some calls."""

    def __init__(self, fails):
        self.calls, self.fails = 0, fails

    def __call__(self, estimator, X, y):
        self.calls += 1
        if self.fails(self.calls):
            raise RuntimeError("not this time")
        return float(estimator.score(X, y))


def _warned(search, X, y):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        search.fit(X, y)
    return [str(w.message) for w in record if "Scoring failed" in str(w.message)]


@every_search
@pytest.mark.parametrize("refit", [True, False])
def test_scorers_that_always_fail_end_the_search(search, refit, data):
    search.set_params(scoring=make_scorer(broken), refit=refit)
    with pytest.raises(ValueError, match=r"scores are NaN(?s:.*)scorer is broken"):
        search.fit(*data)


@every_search
def test_scorers_that_return_nan_end_the_search(search, data):
    search.set_params(scoring=make_scorer(undefined), refit=True)
    with pytest.raises(ValueError, match=r"scores are NaN.*scoring= returned NaN"):
        search.fit(*data)


@every_search
def test_fits_that_always_fail_end_the_search(search, data):
    X, y = data
    search.set_params(scoring=None, refit=True)
    with pytest.raises(ValueError, match=r"All the \d+ fits failed(?s:.*)X_val"):
        search.fit(X, y, X_val=X[:9, :2], y_val=y[:9])


@every_search
@pytest.mark.parametrize("scoring", [make_scorer(broken), Sometimes(lambda n: True)])
def test_error_score_raise_raises_what_the_scorer_did(search, scoring, data):
    search = type(search)(**search.get_params(deep=False))
    search.set_params(scoring=scoring, error_score="raise", refit=True)
    with pytest.raises(RuntimeError, match=r"broken|not this time"):
        search.fit(*data)


def test_scores_that_fail_partly_are_told_once(data):
    scoring = Sometimes(lambda n: n in (1, 5))
    search = BatchedGridSearchCV(MODEL, GRID, cv=2, scoring=scoring)
    (message,) = _warned(search, *data)
    assert "Scoring failed for 2 of 6 fits" in message
    assert "not this time" in message
    means = search.cv_results_["mean_test_score"]
    assert np.isnan(means).sum() == 2
    assert np.isfinite(means[search.best_index_])


def test_no_candidate_with_all_its_scores(data):
    scoring = Sometimes(lambda n: n % 2)
    search = BatchedGridSearchCV(MODEL, GRID, cv=2, scoring=scoring)
    with (
        pytest.warns(UserWarning, match="Scoring failed for 3 of 6"),
        pytest.raises(ValueError, match="No candidate has a score on every split"),
    ):
        search.fit(*data)


def test_the_metric_that_decides(data):
    scoring = {"works": make_scorer(accuracy_score), "breaks": make_scorer(broken)}
    search = BatchedGridSearchCV(MODEL, GRID, cv=2, scoring=scoring, refit="works")
    (message,) = _warned(search, *data)
    assert "Scoring failed for 6 of 6 fits" in message
    assert np.isfinite(search.cv_results_["mean_test_works"]).all()
    search.set_params(refit="breaks")
    with pytest.raises(ValueError, match=r"scores are NaN(?s:.*)scorer is broken"):
        search.fit(*data)


def test_a_function_that_returns_several_scores_and_sometimes_fails(data):
    single = Sometimes(lambda n: n == 1)

    def both(estimator, X, y):
        return {"a": single(estimator, X, y), "b": 1.0}

    search = BatchedGridSearchCV(MODEL, GRID, cv=2, scoring=both, refit="a")
    assert len(_warned(search, *data)) == 1
    assert np.isnan(search.cv_results_["mean_test_b"]).sum() == 1


def test_heads_that_no_engine_trains(data):
    search = BatchedGridSearchCV(
        DFRClassifier(n_draws=1, random_state=0),
        {"Cs": [[0.1], [1.0]]},
        cv=2,
        scoring=make_scorer(broken),
    )
    with pytest.raises(ValueError, match="scorer is broken"):
        search.fit(*data)


@pytest.mark.parametrize(
    "bad", [{"batch_size": 10**12}, {"hidden_layer_sizes": (10**9,)}, {"beta": 1e9}]
)
def test_a_candidate_that_cannot_be_trained_fails_alone(bad, data):
    X, y = data
    (name, value), model = (
        *bad.items(),
        GERNEClassifier(1.0, max_iter=2, random_state=0),
    )
    grid = {name: [model.get_params()[name], value]}
    attributes = np.arange(len(y)) % 2
    search = BatchedGridSearchCV(model, grid, cv=2)
    with pytest.warns(FitFailedWarning, match=f"(?s)2 fits failed.*{name}"):
        search.fit(X, y, attributes=attributes)
    assert search.best_index_ == 0
