"""Validation rows in a Pipeline go through the steps that the training rows went."""

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdebias import ERMClassifier, GERNEClassifier, ValidationShiftWarning
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import worst_group_accuracy_scorer
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV
from tests._instances import ONE_OF_EACH


@pytest.fixture(scope="module")
def data():
    """Return rows far from being standardised, and a validation set."""
    X, y, attributes = make_spurious_classification(600, random_state=0)
    X = 50 * X + 500
    known = {"X_val": X[400:], "y_val": y[400:], "attributes_val": attributes[400:]}
    return X[:400], y[:400], attributes[:400], known


@pytest.fixture(autouse=True)
def _routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def _head(**params):
    settings = {"max_iter": 6, "learning_rate": 0.01, "random_state": 0}
    return GERNEClassifier(1.0, **settings, **params)


@pytest.fixture
def by_hand(data):
    X, y, attributes, known = data
    scaler = StandardScaler().fit(X)
    known = {**known, "X_val": scaler.transform(known["X_val"])}
    return _head().fit(scaler.transform(X), y, attributes, **known)


def _same(head, other):
    assert head.best_epoch_ == other.best_epoch_
    np.testing.assert_array_equal(head.coef_, other.coef_)
    np.testing.assert_array_equal(
        head.history_["validation_score"], other.history_["validation_score"]
    )


PIPELINES = {
    "stock": lambda head: make_pipeline(StandardScaler(), head),
    "transform_input": lambda head: make_pipeline(
        StandardScaler(), head, transform_input=["X_val"]
    ),
    "nested": lambda head: make_pipeline(
        FunctionTransformer(np.negative), make_pipeline(
            FunctionTransformer(np.negative), make_pipeline(StandardScaler(), head))),
    "nested, the outer one transforms": lambda head: make_pipeline(
        FunctionTransformer(np.negative),
        make_pipeline(FunctionTransformer(np.negative), StandardScaler(), head),
        transform_input=["X_val"]),
    "passthrough": lambda head: Pipeline(
        [("a", "passthrough"), ("b", StandardScaler()), ("c", None), ("d", head)]),
}  # fmt: skip


@pytest.mark.filterwarnings("error::skdebias.ValidationShiftWarning")
@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES.keys())
def test_pipelines_transform_validation_rows(data, by_hand, make):
    X, y, attributes, known = data
    model = make(_head()).fit(X, y, attributes=attributes, **known)
    while isinstance(model, Pipeline):
        model = model[-1]
    _same(model, by_hand)


def test_parameters_with_a_prefix_need_no_routing(data, by_hand):
    X, y, attributes, known = data
    known = {f"head__{k}": v for k, v in {**known, "attributes": attributes}.items()}
    with sklearn.config_context(enable_metadata_routing=False):
        model = Pipeline([("scale", StandardScaler()), ("head", _head())])
        _same(model.fit(X, y, **known)[-1], by_hand)


def test_a_head_without_steps_before_it_takes_the_rows_as_they_are(data):
    X, y, attributes, known = data
    alone = make_pipeline(_head()).fit(X, y, attributes=attributes, **known)
    _same(alone[-1], _head().fit(X, y, attributes, **known))


def test_frames_and_steps_that_change_the_width(data):
    X, y, attributes, known = data
    frame = pd.DataFrame(X).add_prefix("f")
    known = {**known, "X_val": pd.DataFrame(known["X_val"]).add_prefix("f")}
    model = make_pipeline(StandardScaler(), PCA(3, random_state=0), _head())
    model.set_output(transform="pandas")
    model.fit(frame, y, attributes=attributes, **known)
    assert model[-1].n_features_in_ == 3
    assert model.predict(frame).shape == y.shape


def test_searches_transform_validation_rows_in_every_fold(data):
    X, y, attributes, known = data
    grid = {"gerneclassifier__beta": [0.0, 1.0]}
    options = {"scoring": worst_group_accuracy_scorer, "error_score": "raise",
               "cv": AttributeStratifiedKFold(3)}  # fmt: skip
    results = []
    for transform_input in (None, ["X_val"]):
        model = make_pipeline(
            StandardScaler(), _head(), transform_input=transform_input
        )
        for kind in (GridSearchCV, BatchedGridSearchCV):
            search = kind(model, grid, **options)
            search.fit(X, y, attributes=attributes, **known)
            results.append(
                [*search.cv_results_["mean_test_score"],
                 search.best_estimator_[-1].best_epoch_]
            )  # fmt: skip
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-6)


@pytest.mark.filterwarnings("error::skdebias.ValidationShiftWarning")
@pytest.mark.parametrize("alias", [None, "X_held"])
def test_a_search_that_is_a_step_takes_the_rows_of_the_step(data, alias):
    X, y, attributes, known = data
    options = {"scoring": worst_group_accuracy_scorer, "error_score": "raise",
               "cv": AttributeStratifiedKFold(3)}  # fmt: skip
    head = _head()
    if alias is not None:
        head.set_fit_request(X_val=alias)
        known = {**known, alias: known["X_val"]}
        del known["X_val"]
    results = []
    for kind in (GridSearchCV, BatchedGridSearchCV):
        search = kind(head, {"beta": [0.0, 1.0]}, **options)
        model = make_pipeline(StandardScaler(), search)
        model.fit(X, y, attributes=attributes, **known)
        results.append(
            [*search.cv_results_["mean_test_score"], search.best_estimator_.best_epoch_]
        )
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_cross_validate_transforms_them_too(data):
    X, y, attributes, known = data
    scores = [
        cross_validate(
            make_pipeline(StandardScaler(), _head(), transform_input=given),
            X, y, params={"attributes": attributes, **known},
            cv=AttributeStratifiedKFold(3), scoring=worst_group_accuracy_scorer,
        )["test_score"]
        for given in (None, ["X_val"])
    ]  # fmt: skip
    np.testing.assert_array_equal(*scores)


def test_every_estimator_takes_them(data):
    X, y, attributes, known = data
    params = {"max_iter": 2, "n_draws": 2, "Cs": [0.1], "warmup_epochs": 1}
    for row in ONE_OF_EACH.values():
        head = row.make(random_state=0, **params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", ValidationShiftWarning)
            make_pipeline(StandardScaler(), head).fit(
                X, y, attributes=attributes, **known
            )


@pytest.mark.parametrize("change", [lambda X: X, lambda X: X * 50, lambda X: X + 30],
                         ids=["as they come", "scaled", "moved"])  # fmt: skip
def test_rows_that_no_step_has_seen_are_noticed(data, change):
    """Where no pipeline shows, as in another process, the numbers still do."""
    X, y, attributes, known = data
    scaled = StandardScaler().fit_transform(X)
    shifted = {**known, "X_val": change(known["X_val"])}
    with pytest.warns(ValidationShiftWarning, match="transform_input") as caught:
        _head().fit(scaled, y, attributes, **shifted)
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error::skdebias.ValidationShiftWarning")
def test_an_ordinary_shift_is_not_noticed(data):
    X, y, attributes, known = data
    moved = 1.5 * known["X_val"] + 30
    _head().fit(X, y, attributes, **{**known, "X_val": moved})
    one = {name: value[:1] for name, value in known.items()}
    _head().fit(X, y, attributes, **one)
    constant = np.column_stack([X, np.ones(len(X))])
    moved = np.column_stack([moved, np.ones(len(moved))])
    _head().fit(constant, y, attributes, **{**known, "X_val": moved})


def test_a_meta_estimator_between(data):
    X, y, _, known = data
    head = ERMClassifier(max_iter=2, random_state=0)
    model = make_pipeline(
        StandardScaler(), BaggingClassifier(head, n_estimators=2, random_state=0)
    )
    del known
    assert model.fit(X, y).predict(X).shape == y.shape
