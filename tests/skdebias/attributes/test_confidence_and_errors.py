"""The pseudo-attributes of GERNE's unknown case and of JTT."""

import numpy as np
import pytest

from skdebias import ERMClassifier
from skdebias.attributes import ConfidencePseudoAttributes, ErrorSetPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.methods import least_confident


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(600, random_state=0)


@pytest.mark.parametrize(
    ("t", "n", "expected"),
    [
        (0.1, 10, 1),
        (0.1, 19, 1),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999... in floating point
        (0.35, 7, 2),
        (0.01, 5, 1),  # at least one
        (0.99, 5, 4),
        (0.99, 1000, 990),
        (0.999999, 3, 2),  # never all
        (0.5, 1, 0),  # a class of one row cannot be split
    ],
)
def test_floor_of_t_times_n_rows_of_every_class(t, n, expected):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [n, 20])
    marked = least_confident(rng.random(len(y)), y, t)
    assert marked[y == 0].sum() == expected
    assert marked[y == 1].sum() == min(max(int(t * 20 + 1e-9), 1), 19)


def test_the_least_confident_of_each_class_are_marked():
    confidence = np.array([0.9, 0.1, 0.5, 0.99, 0.95, 0.98])
    y = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(
        least_confident(confidence, y, 0.4), [0, 1, 0, 0, 1, 0]
    )


def test_ties_go_to_the_earlier_row():
    marked = least_confident(np.full(10, 0.5), np.zeros(10, int), 0.3)
    np.testing.assert_array_equal(marked, [1] * 3 + [0] * 7)


def test_confidence_is_that_of_the_reference_in_the_true_class(data):
    X, y, _ = data
    labels = np.array(["no", "yes"])[y]
    model = ConfidencePseudoAttributes(t=0.1).fit(X, labels)
    p = model.reference_estimator_.predict_proba(X)
    np.testing.assert_array_equal(
        model.pseudo_attributes_, least_confident(p[np.arange(len(y)), y], y, 0.1)
    )


def test_the_least_confident_rows_are_the_conflicting_ones(data):
    X, y, attributes = data
    marked = ConfidencePseudoAttributes(t=0.05).fit_predict(X, y) == 1
    assert (attributes != y)[marked].mean() > 0.9


def test_error_set_is_what_the_reference_gets_wrong(data):
    X, y, attributes = data
    model = ErrorSetPseudoAttributes().fit(X, y)
    wrong = model.reference_estimator_.predict(X) != y
    np.testing.assert_array_equal(model.pseudo_attributes_, wrong)
    assert (attributes != y)[wrong].mean() > 0.9


def test_empty_error_set_says_what_to_do(data):
    X, y, _ = data
    with pytest.raises(ValueError, match=r"max_iter.*weight_decay"):
        ErrorSetPseudoAttributes().fit(X + 100 * (2 * y[:, None] - 1), y)


def test_eiil_environments_are_the_error_set_for_two_classes(data):
    """The IRM penalty's per-row gradient d . z has the sign of the error."""
    X, y, _ = data
    model = ErrorSetPseudoAttributes().fit(X, y)
    logit = model.reference_estimator_.decision_function(X)
    z = np.stack([-logit, logit], 1) / 2
    d = model.reference_estimator_.predict_proba(X)
    d[np.arange(len(y)), y] -= 1
    g = (d * z).sum(1)
    np.testing.assert_array_equal(g > 0, model.pseudo_attributes_ == 1)
    # And no exchange of a row between the environments raises the penalty.
    penalty = _irm_penalty(g, g > 0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = (g > 0) ^ (rng.random(len(g)) < 0.01)
        assert _irm_penalty(g, q) <= penalty + 1e-12


def _irm_penalty(g, q):
    return (g * q).mean() ** 2 + (g * ~q).mean() ** 2


def test_a_validation_set_reaches_the_reference(data):
    X, y, _ = data
    model = ConfidencePseudoAttributes(
        reference_estimator=ERMClassifier(max_iter=5, random_state=0)
    ).fit(X, y, X_val=X[:100], y_val=y[:100])
    assert len(model.reference_estimator_.history_["validation_score"]) == 5
