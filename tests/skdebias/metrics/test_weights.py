"""Weights of rows in group scores, tables, displays and scorers."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score
from sklearn.model_selection import GridSearchCV

from skdebias import ERMClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import (
    GroupAccuracyDisplay,
    get_scorer,
    group_accuracy_table,
    group_balanced_accuracy_score,
    group_metric_table,
    group_summary,
    make_group_scorer,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)
from skdebias.model_selection import BatchedGridSearchCV

RNG = np.random.default_rng(0)
N = 300
Y, P, A = RNG.integers(0, 3, N), RNG.integers(0, 3, N), RNG.integers(0, 2, N)
WEIGHTS = RNG.gamma(1.0, size=N)
CELLS = [(label, a) for label in range(3) for a in range(2)]


def _classes(y, p, *, attributes, **kwargs):
    return worst_class_accuracy_score(y, p, **kwargs)


def _metrics(y, p, *, attributes, **kwargs):
    return group_metric_table(
        y,
        p,
        attributes=attributes,
        metrics={"accuracy": accuracy_score},
        groups="attribute",
        **kwargs,
    )


def _scorer(y, p, *, attributes, **kwargs):
    function = make_group_scorer(f1_score)._score_func
    return function(y, p, attributes=attributes, average="micro", **kwargs)


EVERYTHING = [
    worst_group_accuracy_score,
    group_balanced_accuracy_score,
    _classes,
    group_accuracy_table,
    group_summary,
    _metrics,
    _scorer,
]
everything = pytest.mark.parametrize("function", EVERYTHING)


def _same(first, second):
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    else:
        assert first == second


@everything
def test_ones_change_nothing(function):
    plain = function(Y, P, attributes=A)
    for ones in (np.ones(N), [1] * N, pd.Series(np.ones(N, np.int8)), 1.0):
        _same(function(Y, P, attributes=A, sample_weight=ones), plain)


@everything
def test_rows_of_weight_zero_are_not_there(function):
    """Not as a group, nor as a label, nor in the size of a group."""
    weights = np.where((A == 1) & (Y == 2), 0.0, WEIGHTS)
    weights[:20] = 0.0
    kept = weights > 0
    _same(
        function(Y, P, attributes=A, sample_weight=weights),
        function(Y[kept], P[kept], attributes=A[kept], sample_weight=weights[kept]),
    )


def test_accuracies_are_those_of_scikit_learn():
    expected = [
        accuracy_score(Y[cell], P[cell], sample_weight=WEIGHTS[cell])
        for label, a in CELLS
        if (cell := (label == Y) & (a == A)).any()
    ]
    given = {"attributes": A, "sample_weight": WEIGHTS}
    assert worst_group_accuracy_score(Y, P, **given) == pytest.approx(min(expected))
    mean = group_balanced_accuracy_score(Y, P, **given)
    assert mean == pytest.approx(np.mean(expected))
    table = group_accuracy_table(Y, P, **given)
    np.testing.assert_allclose(table["accuracy"], expected)
    plain = group_accuracy_table(Y, P, attributes=A)
    pd.testing.assert_frame_equal(table[["n", "correct"]], plain[["n", "correct"]])
    summary = group_summary(Y, P, **given)
    assert summary["accuracy"] == pytest.approx(
        accuracy_score(Y, P, sample_weight=WEIGHTS)
    )
    assert summary["worst_group_accuracy"] == pytest.approx(min(expected))
    recalls = recall_score(Y, P, average=None, sample_weight=WEIGHTS)
    assert worst_class_accuracy_score(Y, P, sample_weight=WEIGHTS) == pytest.approx(
        recalls.min()
    )


@everything
def test_the_scale_of_weights_does_not_matter(function):
    first, second = (
        function(Y, P, attributes=A, sample_weight=scale * WEIGHTS) for scale in (1, 64)
    )
    _same(first, second)


def test_intervals_are_those_of_as_many_rows_as_the_weights_are_worth():
    # 40 rows of weight 3 and 40 of weight 1: (120 + 40)**2 / (360 + 40) = 64.
    weights = np.repeat([3.0, 1.0], 40)
    p = np.r_[np.zeros(30), np.ones(10), np.zeros(30), np.ones(10)].astype(int)
    zeros = np.zeros(80, int)
    weighted = group_summary(zeros, p, attributes=zeros, sample_weight=weights)
    p = np.r_[np.zeros(48), np.ones(16)].astype(int)
    worth = group_summary(zeros[:64], p, attributes=zeros[:64])
    assert weighted == pytest.approx(worth)
    table = group_accuracy_table(zeros, zeros, attributes=zeros, sample_weight=weights)
    plain = group_accuracy_table(zeros[:64], zeros[:64], attributes=zeros[:64])
    assert table["low"][0] == pytest.approx(plain["low"][0])


def test_intervals_of_weighted_rows_cover():
    n_rows, n_sets, share = 100, 500, 0.8
    rng = np.random.default_rng(0)
    zeros = np.zeros(n_rows, int)
    covered = []
    for _ in range(n_sets):
        p = (rng.random(n_rows) > share).astype(int)
        weights = rng.gamma(0.5, size=n_rows)
        table = group_accuracy_table(zeros, p, attributes=zeros, sample_weight=weights)
        covered.append(table["low"][0] <= share <= table["high"][0])
    # Without the effective number of rows, it is 0.75.
    assert np.mean(covered) >= 0.92


@everything
@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.ones(N - 1), "sample_weight has shape"),
        (np.r_[-1.0, np.ones(N - 1)], "negative weight, -1"),
        (np.zeros(N), "sample_weight is zero for all"),
        (np.r_[np.nan, np.ones(N - 1)], "sample_weight contains NaN"),
    ],
)
def test_bad_weights(function, weights, match):
    with pytest.raises(ValueError, match=match):
        function(Y, P, attributes=A, sample_weight=weights)


def test_display_shows_weighted_accuracies():
    pytest.importorskip("matplotlib").use("agg")
    display = GroupAccuracyDisplay.from_predictions(
        Y, P, attributes=A, sample_weight=WEIGHTS
    )
    table = group_accuracy_table(Y, P, attributes=A, sample_weight=WEIGHTS)
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_array_equal(heights, table["accuracy"])
    X = RNG.normal(size=(N, 2))
    model = LogisticRegression().fit(X, Y)
    display = GroupAccuracyDisplay.from_estimator(
        model, X, Y, attributes=A, sample_weight=WEIGHTS
    )
    given = {"attributes": A, "sample_weight": WEIGHTS}
    table = group_accuracy_table(Y, model.predict(X), **given)
    np.testing.assert_array_equal(display.table["high"], table["high"])


@pytest.mark.parametrize("name", ["worst_group_accuracy", "neg_worst_group_log_loss"])
@pytest.mark.parametrize("requested", [True, False])
def test_scorers_use_weights_that_they_request(name, requested):
    """As those of scikit-learn, they request none of themselves."""
    y, scorer = Y > 0, get_scorer(name)
    X = RNG.normal(size=(N, 3)) + y[:, None]
    train, test = np.arange(0, N, 2), np.arange(1, N, 2)
    of_test = {"attributes": A[test]}
    with config_context(enable_metadata_routing=True):
        model = LogisticRegression().set_fit_request(sample_weight=True)
        if requested:
            scorer.set_score_request(attributes=True, sample_weight=True)
            of_test["sample_weight"] = WEIGHTS[test]
        search = GridSearchCV(model, {}, scoring=scorer, cv=[(train, test)])
        search.fit(X, y, attributes=A, sample_weight=WEIGHTS)
        model.fit(X[train], y[train], sample_weight=WEIGHTS[train])
        assert search.best_score_ == scorer(model, X[test], y[test], **of_test)


@pytest.mark.parametrize("routing", [True, False])
def test_batched_searches_weigh_scores_of_groups(routing):
    X, y, a = make_spurious_classification(
        160, n_features=5, correlation=0.7, random_state=0
    )
    weights = RNG.gamma(1.0, size=len(y))
    names = "worst_group_accuracy", "neg_worst_group_log_loss", "accuracy"
    scoring = {name: get_scorer(name) for name in names}
    model = ERMClassifier(max_iter=3, random_state=0, device="cpu")
    with config_context(enable_metadata_routing=True):
        if routing:
            model.set_fit_request(sample_weight=True)
            for name, scorer in scoring.items():
                given = {} if name == "accuracy" else {"attributes": True}
                scorer.set_score_request(sample_weight=True, **given)
    splits = [(np.arange(0, 160, 2), np.arange(1, 160, 2))]
    with config_context(enable_metadata_routing=routing):
        given = {"attributes": a, "sample_weight": weights}
        results = [
            BatchedGridSearchCV(
                model, {"learning_rate": [0.1]}, scoring=s, refit=False, cv=splits
            )
            .fit(X, y, **given)
            .cv_results_
            for s in (scoring, scoring["worst_group_accuracy"])
        ]
    train, test = splits[0]
    head = clone(model).set_params(learning_rate=0.1)
    head.fit(X[train], y[train], sample_weight=weights[train])
    for name, scorer in scoring.items():
        of_rows = {} if name == "accuracy" else {"attributes": a[test]}
        response = head.predict_proba if "log_loss" in name else head.predict
        expected = scorer._sign * scorer._score_func(
            y[test], response(X[test]), sample_weight=weights[test], **of_rows
        )
        found = results[0][f"split0_test_{name}"][0]
        assert found == pytest.approx(expected, rel=1e-5)
    single = results[1]["split0_test_score"]
    assert single == results[0]["split0_test_worst_group_accuracy"]


def test_auc_with_weights_of_zero():
    scores = RNG.random(N)
    y = Y > 1
    weights = np.where(A == 1, 0.0, WEIGHTS)
    table = group_metric_table(
        y, scores, attributes=A, metrics={"auc": roc_auc_score}, sample_weight=weights
    )
    rows = A == 0
    assert table["attribute"].tolist() == [0]
    assert table["auc"][0] == roc_auc_score(
        y[rows], scores[rows], sample_weight=weights[rows]
    )
