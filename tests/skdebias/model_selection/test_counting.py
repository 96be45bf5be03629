"""Counting correct predictions of many heads gives what the scorers give one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.metrics._scorer import _MultimetricScorer, _PassthroughScorer
from sklearn.svm import SVR

from skdebias import ERMClassifier, GERNEClassifier
from skdebias.metrics import (
    group_balanced_accuracy_scorer,
    worst_class_accuracy_scorer,
    worst_group_accuracy_scorer,
)
from skdebias.model_selection import BatchedGridSearchCV, _split_scores
from skdebias.model_selection._counting import Counts

GROUP_SCORERS = [worst_group_accuracy_scorer, group_balanced_accuracy_scorer]
SCORERS = [
    get_scorer("accuracy"),
    get_scorer("balanced_accuracy"),
    worst_class_accuracy_scorer,
    *GROUP_SCORERS,
]


class _Fixed(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose decision values are given."""

    def __init__(self, classes, values):
        self.classes_, self._values = classes, values

    def predict(self, X):
        values = self._values[X]
        if values.ndim == 1:
            return self.classes_[(values > 0).astype(int)]
        return self.classes_[values.argmax(axis=1)]


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 5]), st.integers(1, 3))
@settings(max_examples=60)
def test_counts_are_the_scores(seed, n_classes, n_attributes):
    rng = np.random.default_rng(seed)
    n_rows, n_heads = int(rng.integers(1, 40)), 4
    names = np.array(["ant", "bee", "cat", "dog", "elk"])[:n_classes]
    labels = names if rng.random() < 0.5 else np.arange(n_classes) * 7 - 3
    y = labels[rng.integers(0, n_classes, n_rows)]
    attributes = rng.integers(0, n_attributes, n_rows)
    shape = (n_rows, n_heads) if n_classes == 2 else (n_rows, n_heads, n_classes)
    decision_values = rng.normal(size=shape).round(1).astype(np.float32)
    # Heads that know fewer classes than there are labels.
    classes = labels if n_classes == 2 or rng.random() < 0.7 else labels[:-1]
    decision_values = (
        decision_values if n_classes == 2 else decision_values[..., : len(classes)]
    )
    if decision_values.ndim == 3 and len(classes) == 2:
        decision_values = decision_values[..., 0]
    for scorer in SCORERS:
        params = {"attributes": attributes} if scorer in GROUP_SCORERS else {}
        found = Counts(scorer, y, params)(decision_values, classes)
        heads = [_Fixed(classes, decision_values[:, h]) for h in range(n_heads)]
        with config_context(enable_metadata_routing=True):
            wanted = [scorer(head, np.arange(n_rows), y, **params) for head in heads]
        assert found == wanted


def test_several_metrics():
    y, attributes = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    decision_values = np.array([[-1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    scorers = _MultimetricScorer(
        scorers={"all": SCORERS[0], "worst": worst_group_accuracy_scorer}
    )
    found = Counts(scorers, y, {"attributes": attributes})(
        decision_values, np.array([0, 1])
    )
    assert found == [{"all": 0.75, "worst": 0.0}, {"all": 0.5, "worst": 0.0}]


@pytest.mark.parametrize(
    ("scorer", "params"),
    [
        (get_scorer("neg_log_loss"), {}),
        (get_scorer("roc_auc"), {}),
        (make_scorer(accuracy_score, greater_is_better=False), {}),
        (make_scorer(accuracy_score, normalize=False), {}),
        (make_scorer(lambda y_true, y_pred: 0.0), {}),
        (lambda estimator, X, y: 0.0, {}),
        (worst_group_accuracy_scorer, {}),
        (_PassthroughScorer(SVR()), {}),
        (_PassthroughScorer(ERMClassifier()), {"sample_weight": np.ones(2)}),
    ],
)
def test_other_scorers_are_not_counted(scorer, params):
    with pytest.raises(ValueError, match="does not only count"):
        Counts(scorer, np.array([0, 1]), params)


def test_weights_and_renamed_attributes_are_not_counted():
    with config_context(enable_metadata_routing=True):
        weighted = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        renamed = make_scorer(worst_group_accuracy_scorer._score_func)
        renamed = renamed.set_score_request(attributes="place")
    for scorer, params in [
        (weighted, {"sample_weight": np.ones(2)}),
        (renamed, {"place": np.zeros(2)}),
    ]:
        with pytest.raises(ValueError, match="does not only count"):
            Counts(scorer, np.array([0, 1]), params)


@pytest.mark.parametrize("scoring", [None, "accuracy", worst_group_accuracy_scorer])
def test_a_search_asks_the_scorer_once_a_split(scoring, monkeypatch):
    calls = []
    score = _split_scores.score
    monkeypatch.setattr(_split_scores, "score", lambda *a: calls.append(a) or score(*a))
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), np.arange(60) % 2
    attributes = np.arange(60) // 2 % 2
    search = BatchedGridSearchCV(
        GERNEClassifier(1.0, max_iter=2, random_state=0),
        {"beta": [0.0, 0.5], "learning_rate": [0.01, 0.1]},
        cv=3,
        scoring=scoring,
        refit=False,
    ).fit(X, y, attributes=attributes)
    assert len(calls) == 3
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
