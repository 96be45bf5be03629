import numpy as np
import pytest
from scipy.stats import t

from skdebias.metrics import corrected_interval


def test_hand_computed():
    # Mean 0.03, variance 0.00025; 1/5 + 1/4 = 0.45; t of 4 degrees 2.776445.
    scores = [0.02, 0.05, 0.01, 0.04, 0.03]
    mean, low, high = corrected_interval(scores, n_train=800, n_test=200)
    assert mean == pytest.approx(0.03)
    assert high - mean == pytest.approx(2.776445 * np.sqrt(0.00025 * 0.45), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_without_overlap_it_would_be_students():
    scores = np.random.default_rng(0).normal(size=10)
    found = corrected_interval(scores, n_train=1e12, n_test=1, confidence_level=0.9)
    error = scores.std(ddof=1) / np.sqrt(10)
    assert found[1:] == pytest.approx(t.interval(0.9, 9, scores.mean(), error))


def test_equal_scores_have_no_width():
    assert corrected_interval([0.5, 0.5], n_train=9, n_test=1) == (0.5, 0.5, 0.5)


def _scores_of_splits(n_rows, n_test, n_splits, n_sets, rng):
    """Accuracies of the midpoint between two class means, (n_sets, n_splits)."""
    y = rng.integers(0, 2, (n_sets, n_rows))
    x = rng.normal(size=(n_sets, n_rows)) + y
    scores = np.empty((n_sets, n_splits))
    for split in range(n_splits):
        order = rng.permuted(np.tile(np.arange(n_rows), (n_sets, 1)), axis=1)
        (x_test, x_train), (y_test, y_train) = (
            np.split(np.take_along_axis(v, order, axis=1), [n_test], axis=1)
            for v in (x, y)
        )
        means = [
            (x_train * (y_train == label)).sum(1) / (y_train == label).sum(1)
            for label in (0, 1)
        ]
        midpoint = np.mean(means, axis=0)[:, None]
        scores[:, split] = ((x_test > midpoint) == y_test).mean(axis=1)
    return scores


@pytest.mark.parametrize(("n_test", "n_splits"), [(20, 10), (20, 20), (10, 30)])
def test_coverage_over_random_splits(n_test, n_splits):
    """The usual interval is far from what it claims; the corrected one is not."""
    n_sets, n_rows = 1000, 100
    rng = np.random.default_rng(n_splits)
    scores = _scores_of_splits(n_rows, n_test, n_splits, n_sets, rng)
    truth = scores.mean()  # over data sets: its error is a 30th of an interval's

    def coverage(n_test):
        sizes = {"n_train": n_rows - n_test, "n_test": n_test}
        ends = np.array([corrected_interval(of_set, **sizes)[1:] for of_set in scores])
        return np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))

    # Three standard errors of a share of 0.95 in 1000 are 0.02.
    assert coverage(n_test) >= 0.93
    assert coverage(1e-9) < 0.8


@pytest.mark.parametrize(
    ("scores", "changed", "match"),
    [
        ([0.5], {}, r"scores=\[0.5\]"),
        ([[0.5, 0.6]], {}, "one for every split"),
        ([0.5, np.nan], {}, "2 or more finite numbers"),
        ([0.5, 0.6], {"n_train": 0}, "n_train must be a positive number.*is 0"),
        ([0.5, 0.6], {"n_test": np.nan}, "n_test must be a positive"),
        ([0.5, 0.6], {"n_test": [20, 20]}, r"n_test.*\[20, 20\].*their mean"),
        ([0.5, 0.6], {"confidence_level": 95}, "confidence_level"),
    ],
)
def test_bad_arguments(scores, changed, match):
    with pytest.raises(ValueError, match=match):
        corrected_interval(scores, **({"n_train": 80, "n_test": 20} | changed))
