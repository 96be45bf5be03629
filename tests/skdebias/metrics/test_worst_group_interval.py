"""The interval of the worst group covers the lowest of the true accuracies."""

import numpy as np
import pytest
from scipy.stats import binomtest

from skdebias.metrics import group_summary
from skdebias.metrics._intervals import lowest_interval, wilson_interval

N_SETS = 1000
# At a true coverage of 0.95, the share of 1000 sets has a standard error of 0.007.
LEAST = 0.93


def _simulate(accuracies, sizes):
    """Return whether intervals cover, and whether those of the worst group do."""
    accuracies, sizes = np.broadcast_arrays(accuracies, sizes)
    rng = np.random.default_rng(sizes.sum())
    correct = rng.binomial(sizes, accuracies, (N_SETS, len(sizes)))
    counts = np.broadcast_to(sizes, correct.shape)
    ends = lowest_interval(correct, counts, 0.95)
    worst = (correct / counts).argmin(axis=1)
    single = wilson_interval((correct / counts).min(axis=1), sizes[worst], 1.96)
    truth = accuracies.min()
    return [np.mean((low <= truth) & (truth <= high)) for low, high in (ends, single)]


@pytest.mark.parametrize("n_groups", [1, 2, 4, 12, 40])
@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_coverage_where_all_groups_are_equal(n_groups, accuracy):
    for size in (20, 30, 200, 1000):
        covered, _ = _simulate(np.full(n_groups, accuracy), size)
        assert covered >= LEAST


@pytest.mark.parametrize("n_groups", [2, 12, 40])
@pytest.mark.parametrize("size", [20, 200, 1000])
def test_coverage_where_groups_differ(n_groups, size):
    others = n_groups - 1
    for accuracies in (
        np.r_[0.6, np.full(others, 0.95)],
        np.r_[0.8, np.full(others, 0.82)],
        np.r_[0.8, np.full(others, 0.9)],
        np.linspace(0.6, 0.95, n_groups),
    ):
        assert _simulate(accuracies, size)[0] >= LEAST


@pytest.mark.parametrize("n_groups", [2, 12, 40])
@pytest.mark.parametrize("small_first", [True, False])
def test_coverage_where_sizes_differ(n_groups, small_first):
    sizes = np.geomspace(20, 1000, n_groups).astype(int)[:: 1 if small_first else -1]
    for accuracies in (np.full(n_groups, 0.8), np.linspace(0.7, 0.95, n_groups)):
        assert _simulate(accuracies, sizes)[0] >= LEAST


@pytest.mark.parametrize(("n_groups", "size"), [(12, 30), (40, 20), (100, 20)])
def test_the_interval_of_the_group_that_came_out_worst_does_not_cover(n_groups, size):
    covered, single = _simulate(np.full(n_groups, 0.8), size)
    assert covered >= LEAST
    assert single < 0.8


def test_one_group_is_that_of_clopper_and_pearson():
    for correct, n in ((0, 7), (5, 7), (7, 7)):
        found = lowest_interval(np.array([correct]), np.array([n]), 0.9)
        expected = binomtest(correct, n).proportion_ci(0.9, method="exact")
        assert found == pytest.approx((expected.low, expected.high))


def test_a_group_that_is_clearly_the_worst_has_its_own_interval():
    correct = np.array([60, *[195] * 39])
    counts = np.array([100, *[200] * 39])
    alone = lowest_interval(correct[:1], counts[:1], 0.95)
    assert lowest_interval(correct, counts, 0.95) == alone


def test_groups_that_cannot_be_told_apart_share_what_may_be_missed():
    correct, counts = np.array([80, 80]), np.array([100, 100])
    low, high = lowest_interval(correct, counts, 0.95)
    single = lowest_interval(correct[:1], counts[:1], 0.95)
    assert low == single[0]
    # Each upper limit errs with 1 - sqrt(0.975).
    pair = binomtest(80, 100).proportion_ci(2 * 0.975**0.5 - 1, method="exact")
    assert high == pytest.approx(pair.high)
    assert high > single[1]


def test_summary_has_the_interval():
    y = np.zeros(300, dtype=int)
    p = np.r_[np.zeros(90), np.ones(10), np.zeros(60), np.ones(40), np.zeros(100)]
    summary = group_summary(y, p.astype(int), attributes=np.repeat([0, 1, 2], 100))
    low, high = lowest_interval(np.array([90, 60, 100]), np.full(3, 100), 0.95)
    assert summary["worst_group_accuracy"] == 0.6
    assert summary["worst_group_accuracy_low"] == low < 0.5 + 1e-2
    assert summary["worst_group_accuracy_high"] == high > 0.69
