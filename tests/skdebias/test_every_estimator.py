"""Searches, pipelines, callbacks and files, with every estimator of the package."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skdebias
from skdebias.attributes import WeakClustersWarning
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.metrics import worst_group_accuracy_scorer
from skdebias.model_selection import AttributeStratifiedKFold
from tests._instances import HEADS

# Pseudo-attributes of tiny folds are weak, and attributes that are given are not used.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(params=HEADS)
def estimator(request):
    return HEADS[request.param].quick(max_iter=3, n_draws=2, Cs=[0.1])


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(
        600, n_classes=3, n_attributes=3, correlation=0.8, random_state=0
    )


def test_search_over_a_pipeline(estimator, data):
    X, y, attributes = data
    name = type(estimator).__name__.lower()
    grid = {f"{name}__random_state": [0, 1]}
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), estimator),
            grid,
            scoring=worst_group_accuracy_scorer,
            cv=AttributeStratifiedKFold(3),
            error_score="raise",
        )
        search.fit(X, y, attributes=attributes)
        scores = cross_validate(
            estimator,
            X,
            y,
            params={"attributes": attributes},
            scoring=worst_group_accuracy_scorer,
            cv=AttributeStratifiedKFold(3),
            error_score="raise",
        )
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert ((scores["test_score"] >= 0) & (scores["test_score"] <= 1)).all()
    assert set(search.predict(X)) <= set(y)


def test_callbacks_alone_and_in_a_search(estimator, data, capsys):
    X, y, attributes = data
    with sklearn.config_context(enable_metadata_routing=True):
        monitor = ScoringMonitor(scoring={"wga": worst_group_accuracy_scorer})
        model = clone(estimator).set_callbacks(monitor, ProgressBar())
        model.fit(X, y, attributes=attributes)
        log = monitor.get_logs().data
        # One row per epoch, where there are epochs, and one for the whole fit.
        assert len(log) == 1 + (0 if "DFR" in type(model).__name__ else model.n_iter_)
        assert all(0 <= row["wga"] <= 1 for row in log)

        monitor = ScoringMonitor(scoring={"wga": worst_group_accuracy_scorer})
        model = clone(estimator).set_callbacks(monitor)
        search = GridSearchCV(model, {"random_state": [0]}, cv=2, refit=False)
        search.set_callbacks(ProgressBar())
        search.fit(X, y, attributes=attributes)
        log = monitor.get_logs().data
    assert all(0 <= row["wga"] <= 1 for row in log)
    assert type(estimator).__name__ in capsys.readouterr().out


def test_fitted_heads_survive_files(estimator, data, tmp_path):
    X, y, attributes = data
    labels = np.array(["ant", "bee", "cat"])[y]
    model = estimator.fit(X, labels, attributes)
    expected = model.predict_proba(X)
    assert expected.shape == (600, 3)
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict_proba(X), expected
    )
    save(model, tmp_path / "head.safetensors")
    np.testing.assert_array_equal(
        load(tmp_path / "head.safetensors").predict_proba(X), expected
    )


def test_weak_clusters_say_so(data):
    X, y, _ = data
    noise = np.random.default_rng(0).normal(size=X.shape)
    with pytest.warns(WeakClustersWarning):
        skdebias.UGCClassifier(max_iter=1, random_state=0).fit(noise, y)


def test_numpy_numbers_are_numbers(estimator, data):
    """As distributions of a randomised search draw them."""
    X, y, attributes = data
    numbers = {
        name: np.float64(value)
        for name, value in estimator.get_params(deep=False).items()
        if isinstance(value, float)
    }
    assert numbers
    expected = clone(estimator).fit(X, y, attributes=attributes)
    found = clone(estimator).set_params(**numbers).fit(X, y, attributes=attributes)
    np.testing.assert_array_equal(found.coef_, expected.coef_)
