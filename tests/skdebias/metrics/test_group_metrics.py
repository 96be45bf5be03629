"""Metrics of scikit-learn, group by group, and what becomes of the groups' values."""

import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    get_scorer,
    get_scorer_names,
    hinge_loss,
    log_loss,
    make_scorer,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
    zero_one_loss,
)
from sklearn.model_selection import GridSearchCV, cross_validate

from skdebias import ERMClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import (
    group_accuracy_table,
    group_balanced_accuracy_score,
    group_metric_table,
    make_group_scorer,
    worst_group_accuracy_score,
)
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV

RNG = np.random.default_rng(0)
N = 240
Y = RNG.integers(0, 2, N)
ATTRIBUTES = np.array(["land", "sea", "air"])[RNG.integers(0, 3, N)]
SCORES = RNG.random(N) * 0.7 + 0.3 * Y * RNG.random(N)
PREDICTED = (SCORES > 0.5).astype(int)
WEIGHTS = RNG.integers(1, 5, N).astype(float)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are the first column of X."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.column_stack([1 - X[:, 0], X[:, 0]])

    def predict(self, X):
        return self.classes_[(X[:, 0] > 0.5).astype(int)]


def _score(scorer, y=Y, attributes=ATTRIBUTES, scores=SCORES, **params):
    model = Given().fit(scores[:, None], y)
    with config_context(enable_metadata_routing=True):
        return scorer(model, scores[:, None], y, attributes=attributes, **params)


def _by_attribute(metric, predicted, **kwargs):
    return [
        metric(Y[a == ATTRIBUTES], predicted[a == ATTRIBUTES], **kwargs)
        for a in np.unique(ATTRIBUTES)
    ]


@pytest.mark.parametrize(
    ("metric", "predicted", "kwargs"),
    [
        (roc_auc_score, SCORES, {}),
        (average_precision_score, SCORES, {}),
        (f1_score, PREDICTED, {}),
        (f1_score, PREDICTED, {"average": "macro"}),
        (precision_score, PREDICTED, {"pos_label": 0}),
        (recall_score, PREDICTED, {}),
        (balanced_accuracy_score, PREDICTED, {"adjusted": True}),
        (matthews_corrcoef, PREDICTED, {}),
    ],
)
def test_metrics_of_several_classes_are_those_of_attribute_values(
    metric, predicted, kwargs
):
    expected = _by_attribute(metric, predicted, **kwargs)
    for aggregate, value in (
        ("worst", min(expected)),
        ("mean", np.mean(expected)),
        ("gap", -(max(expected) - min(expected))),
    ):
        scorer = make_group_scorer(metric, aggregate=aggregate, **kwargs)
        assert _score(scorer) == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("metric", [log_loss, brier_score_loss])
def test_losses_of_cells(metric):
    losses = [
        metric(Y[cell], SCORES[cell], labels=[0, 1])
        for a in np.unique(ATTRIBUTES)
        for label in (0, 1)
        if (cell := (a == ATTRIBUTES) & (label == Y)).any()
    ]
    assert len(losses) == 6
    assert _score(make_group_scorer(metric)) == pytest.approx(-max(losses))
    assert _score(make_group_scorer(metric, aggregate="mean")) == pytest.approx(
        -np.mean(losses)
    )
    gap = make_group_scorer(metric, aggregate="gap")
    assert _score(gap) == pytest.approx(min(losses) - max(losses))


def test_accuracies_are_those_of_the_package():
    worst, mean = (
        make_group_scorer(accuracy_score, aggregate=a) for a in ("worst", "mean")
    )
    scores = Y, PREDICTED
    assert _score(worst) == worst_group_accuracy_score(*scores, attributes=ATTRIBUTES)
    assert _score(mean) == pytest.approx(
        group_balanced_accuracy_score(*scores, attributes=ATTRIBUTES)
    )
    assert _score(make_group_scorer(zero_one_loss)) == pytest.approx(_score(worst) - 1)


@pytest.mark.parametrize("labels", [(1, 2), ("a", "b"), (False, True)])
@pytest.mark.parametrize("name", get_scorer_names())
def test_of_one_attribute_value_scores_are_those_of_scikit_learn(name, labels):
    """For any of its scorers, with any labels: the same, or no number either."""
    y = np.array(labels)[Y]
    model = Given().fit(SCORES[:, None], y)
    one = np.zeros(N, int)
    with config_context(enable_metadata_routing=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UndefinedMetricWarning)
                expected = get_scorer(name)(model, SCORES[:, None], y)
        except (ValueError, TypeError, UndefinedMetricWarning):
            expected = None
        scorer = make_group_scorer(name, groups="attribute")
        if expected is None:
            with pytest.raises((ValueError, TypeError)):
                scorer(model, SCORES[:, None], y, attributes=one)
        else:
            assert scorer(model, SCORES[:, None], y, attributes=one) == expected


def test_names_functions_and_scorers_are_taken_alike():
    by_function = make_group_scorer(roc_auc_score)
    for metric in ("roc_auc", get_scorer("roc_auc")):
        assert _score(make_group_scorer(metric)) == _score(by_function)
    assert _score(make_group_scorer("neg_log_loss")) == _score(
        make_group_scorer(log_loss)
    )
    own = make_scorer(f1_score, average="macro")
    assert _score(make_group_scorer(own)) == _score(make_group_scorer("f1_macro"))


def my_cost(y_true, y_pred):
    return float(np.mean(3 * (y_true > y_pred) + (y_true < y_pred)))


def my_loss(y_true, y_pred):
    return my_cost(y_true, y_pred)


def test_functions_of_ones_own():
    costs = _by_attribute(my_cost, PREDICTED)
    assert _score(make_group_scorer(my_cost)) == min(costs)
    less = make_group_scorer(my_cost, greater_is_better=False)
    assert _score(less) == _score(make_group_scorer(my_loss)) == -max(costs)
    cells = make_group_scorer(my_loss, groups="label_attribute")
    assert _score(cells) < _score(less)


def test_what_partial_fixes_is_the_same_metric():
    for first, second in (
        (partial(log_loss, normalize=True), log_loss),
        (partial(f1_score, average="macro"), "f1_macro"),
    ):
        scorers = [make_group_scorer(metric) for metric in (first, second)]
        assert _score(scorers[0]) == _score(scorers[1])
    assert _score(make_group_scorer(partial(log_loss, normalize=True))) < 0


def test_scores_that_no_scorer_is_known_for():
    with pytest.raises(ValueError, match=r"hinge_loss.*pass response_method='dec"):
        make_group_scorer(hinge_loss)
    scorer = make_group_scorer(hinge_loss, response_method="predict_proba")
    assert _score(scorer) == -max(_by_attribute(hinge_loss, SCORES))


def test_scorers_are_copied_and_pickled():
    scorer = make_group_scorer(precision_score, aggregate="gap", pos_label=0)
    for other in (clone(scorer, safe=False), pickle.loads(pickle.dumps(scorer))):
        assert _score(other) == _score(scorer) != 0
        requests = other.get_metadata_routing().score.requests
        assert requests == {"attributes": True}
    assert "gap precision_score of groups" in repr(scorer)


def test_weights_reach_the_metric():
    with config_context(enable_metadata_routing=True):
        scorer = make_group_scorer(roc_auc_score).set_score_request(
            attributes=True, sample_weight=True
        )
    expected = [
        roc_auc_score(Y[rows], SCORES[rows], sample_weight=WEIGHTS[rows])
        for rows in (a == ATTRIBUTES for a in np.unique(ATTRIBUTES))
    ]
    assert _score(scorer, sample_weight=WEIGHTS) == min(expected)
    scorer = make_group_scorer(my_cost)
    with pytest.raises(TypeError, match="my_cost takes no sample_weight"):
        scorer._score_func(Y, PREDICTED, attributes=ATTRIBUTES, sample_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        (
            roc_auc_score,
            r"attribute='sea' of \d+ rows: all of its rows have the label 1",
        ),
        (partial(f1_score, average="macro"), "f1_score.*'sea'.*zero_division"),
        (matthews_corrcoef, "attribute='sea'.*merge"),
    ],
)
def test_a_group_on_which_a_metric_is_undefined_is_named(metric, match):
    y = np.where(ATTRIBUTES == "sea", 1, Y)
    scorer = make_group_scorer(metric)
    with pytest.raises(ValueError, match=match):
        _score(scorer, y=y)


def test_a_metric_that_warns_that_it_is_undefined():
    scores = np.where(ATTRIBUTES == "air", 0.1, SCORES)
    scorer = make_group_scorer(precision_score)
    with pytest.raises(ValueError, match=r"'air'.*[Pp]recision.*zero_division"):
        _score(scorer, scores=scores)
    scorer = make_group_scorer(precision_score, zero_division=0.0)
    assert _score(scorer, scores=scores) == 0.0


def test_cells_of_one_class_are_no_groups_of_auc():
    with pytest.raises(ValueError, match=r"label=0, attribute='air'.*groups='attr"):
        _score(make_group_scorer(roc_auc_score, groups="label_attribute"))


def test_more_classes_than_a_group_has():
    """Labels that a group lacks are known to a metric that can do without."""
    rng = np.random.default_rng(1)
    y = np.arange(90) % 3
    a = np.arange(90) // 45
    X = rng.normal(size=(90, 2)) + y[:, None]
    y_of_two, a_of_two = y.copy(), a
    y_of_two[(a == 1) & (y == 2)] = 1
    model = LogisticRegression().fit(X, y)
    with config_context(enable_metadata_routing=True):
        loss = make_group_scorer(log_loss, groups="attribute")
        probabilities = model.predict_proba(X)
        assert loss(model, X, y_of_two, attributes=a_of_two) == -max(
            log_loss(y_of_two[a == v], probabilities[a == v], labels=[0, 1, 2])
            for v in (0, 1)
        )
        with pytest.raises(ValueError, match="attribute=1 of 45 rows"):
            make_group_scorer("roc_auc_ovr")(model, X, y_of_two, attributes=a_of_two)
        # What is wrong with all rows is not said of a group.
        with pytest.raises(ValueError, match="Target is multiclass") as caught:
            make_group_scorer(f1_score)(model, X, y, attributes=a)
        assert "group" not in str(caught.value)


def test_tables():
    table = group_metric_table(
        Y,
        PREDICTED,
        attributes=ATTRIBUTES,
        metrics={"f1": f1_score, "accuracy": accuracy_score},
        sample_weight=WEIGHTS,
    )
    assert list(table.columns) == ["attribute", "n", "f1", "accuracy"]
    assert table["attribute"].tolist() == ["air", "land", "sea"]
    assert table["n"].sum() == N
    for row in table.itertuples():
        mask = row.attribute == ATTRIBUTES
        given = Y[mask], PREDICTED[mask]
        assert row.f1 == f1_score(*given, sample_weight=WEIGHTS[mask])
        assert row.accuracy == accuracy_score(*given, sample_weight=WEIGHTS[mask])


def test_tables_of_accuracies():
    frame = pd.DataFrame({"place": ATTRIBUTES, "n": np.arange(N) % 2})
    table = group_metric_table(
        Y, PREDICTED, attributes=frame, metrics={"accuracy": accuracy_score}
    )
    wanted = group_accuracy_table(Y, PREDICTED, attributes=frame)
    pd.testing.assert_frame_equal(table, wanted[table.columns])


@pytest.mark.parametrize(
    ("metrics", "changed", "error", "match"),
    [
        (f1_score, {}, ValueError, "must be a dict"),
        ({}, {}, ValueError, "must be a dict"),
        ({"n": f1_score}, {}, ValueError, r"metrics has names.*\['n'\]"),
        ({"f": f1_score}, {"groups": "label"}, ValueError, "groups='label' is none"),
        ({"f": f1_score}, {"attributes": None}, TypeError, "group_metric_table needs"),
    ],
)
def test_bad_tables(metrics, changed, error, match):
    given = {"attributes": ATTRIBUTES, "metrics": metrics} | changed
    with pytest.raises(error, match=match):
        group_metric_table(Y, PREDICTED, **given)


@pytest.mark.parametrize(
    ("metric", "changed", "error", "match"),
    [
        (f1_score, {"aggregate": "median"}, ValueError, "aggregate='median' is none"),
        (f1_score, {"groups": "class"}, ValueError, "groups='class' is none"),
        (f1_score, {"averge": "macro"}, TypeError, "averge"),
        (f1_score, {"sample_weight": WEIGHTS}, TypeError, "belongs to rows"),
        ("f1_makro", {}, ValueError, "no scorer of the name 'f1_makro'.*worst_group"),
        ("worst_group_accuracy", {}, ValueError, "one of groups already"),
        (3, {}, ValueError, "metric=3 must be a function"),
    ],
)
def test_bad_scorers(metric, changed, error, match):
    with pytest.raises(error, match=match):
        make_group_scorer(metric, **changed)


def test_searches_of_both_kinds_agree():
    X, y, a = make_spurious_classification(
        200, n_features=6, correlation=0.7, random_state=0
    )
    scoring = {
        "auc": make_group_scorer(roc_auc_score),
        "f1": make_group_scorer("f1_macro", aggregate="mean"),
        "loss": make_group_scorer(log_loss),
        "accuracy gap": make_group_scorer(accuracy_score, aggregate="gap"),
    }
    given = {
        "estimator": ERMClassifier(max_iter=3, random_state=0, device="cpu"),
        "param_grid": {"learning_rate": [1e-3, 1e-1]},
        "scoring": scoring,
        "refit": "auc",
        "cv": AttributeStratifiedKFold(2),
        "return_train_score": True,
        "error_score": "raise",
    }
    batched = BatchedGridSearchCV(**given).fit(X, y, attributes=a)
    with config_context(enable_metadata_routing=True):
        stock = GridSearchCV(**given).fit(X, y, attributes=a)
        single = cross_validate(
            stock.best_estimator_,
            X,
            y,
            scoring=scoring,
            cv=AttributeStratifiedKFold(2),
            params={"attributes": a},
        )
    for metric in scoring:
        for part in ("split0_test", "split1_test", "split0_train", "split1_train"):
            scores = batched.cv_results_[f"{part}_{metric}"]
            wanted = stock.cv_results_[f"{part}_{metric}"]
            # Stacks add up in another order, which labels and ranks do not show.
            tolerance = 1e-5 if metric == "loss" else 0.0
            np.testing.assert_allclose(scores, wanted, rtol=tolerance)
    best = stock.best_index_
    assert batched.best_index_ == best
    for name in scoring:
        wanted = [stock.cv_results_[f"split{k}_test_{name}"][best] for k in (0, 1)]
        np.testing.assert_array_equal(single[f"test_{name}"], wanted)
