"""Counts, slots and weights of sampling plans."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skdebias._groups import Groups
from skdebias.methods import ERM, GERNE, Batch, SamplingPlan, slot_table
from skdebias.methods._plan import allocate_counts


@st.composite
def distributions(draw):
    weights = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
    weights = np.array(weights, float)
    if not weights.any():
        weights[0] = 1
    return weights / weights.sum()


@given(distributions(), st.integers(1, 500))
def test_counts_follow_the_distribution(p, n_rows):
    counts = allocate_counts(p, n_rows)
    positive = p > 0
    total = max(n_rows, positive.sum())
    assert counts.sum() == total
    assert ((counts > 0) == positive).all()
    # Largest remainder: nobody is a whole row off, but for the guaranteed rows.
    guaranteed = ((p * total < 1) & positive).sum()
    assert (np.abs(counts - p * total) < 1 + guaranteed).all()


def test_counts_are_exact_where_the_shares_are_whole():
    counts = allocate_counts(np.array([0.475, 0.025, 0.05, 0.45]), 200)
    np.testing.assert_array_equal(counts, [95, 5, 10, 90])


@given(
    st.lists(st.integers(1, 10_000), min_size=2, max_size=5),
    st.lists(st.integers(1, 10_000), min_size=2, max_size=5),
    st.integers(10, 200),
)
def test_blocks_get_equal_rows(first, second, per_class):
    n = np.array(first + second, float)
    blocks = np.array([0] * len(first) + [1] * len(second))
    p = n / np.bincount(blocks, weights=n)[blocks] / 2
    counts = allocate_counts(p, 2 * per_class, blocks)
    np.testing.assert_array_equal(np.bincount(blocks, counts), [per_class] * 2)


def _groups(counts, n_classes=2):
    counts = np.asarray(counts).reshape(n_classes, -1)
    cells = np.argwhere(counts > 0)
    y, a = np.repeat(cells, counts[counts > 0], axis=0).T
    return Groups.from_labels(y, a, *counts.shape)


@pytest.mark.parametrize("shared", [False, True])
def test_a_plan_keeps_its_weights_in_any_company(shared):
    groups = _groups([[95, 5], [10, 90]])
    plans = [GERNE(b, c, shared).plan(groups) for b, c in [(1, 0.5), (0, 1), (-1, 0.1)]]
    together = slot_table(plans, 64)
    for i, plan in enumerate(plans):
        alone = slot_table([plan], 64)
        used = together.weights[:, i] != 0
        slots = {
            key: weight
            for *key, weight in zip(
                together.stream[used],
                together.stratum[used],
                together.position[used],
                together.weights[used, i],
            )
            for key in [tuple(key)]
        }
        mine = {
            key: weight
            for *key, weight in zip(
                alone.stream, alone.stratum, alone.position, alone.weights[:, 0]
            )
            for key in [tuple(key)]
            if weight != 0
        }
        assert slots == pytest.approx(mine)


def test_sharing_draws_fewer_rows_and_the_same_weight_per_group():
    groups = _groups([[95, 5], [10, 90]])
    independent = slot_table([GERNE(1.0, 0.5).plan(groups)], 400)
    shared = slot_table([GERNE(1.0, 0.5, shared=True).plan(groups)], 400)
    assert len(shared.stratum) < len(independent.stratum) == 400
    for table in (independent, shared):
        per_group = np.bincount(table.stratum, table.weights[:, 0])
        np.testing.assert_allclose(per_group, 0.25)


def test_erm_plans():
    groups = _groups([[90, 10], [20, 80], [0, 300]], n_classes=3)
    plain = ERM().plan(groups)
    assert not plain.replacement
    assert slot_table([plain], 50).weights.sum() == pytest.approx(1)
    for balance, n_strata in (("class", 3), ("group", 5)):
        table = slot_table([ERM(balance).plan(groups)], 30)
        per = np.bincount(table.stratum, table.weights[:, 0])
        np.testing.assert_allclose(per, 1 / n_strata)
    weights = ERM(reweight="group").plan(groups).row_weights
    np.testing.assert_allclose(np.bincount(groups.ids, weights), 100.0)
    assert weights.mean() == pytest.approx(1)


def test_a_batch_grows_to_one_row_of_every_group():
    strata = np.arange(100) % 50
    plan = SamplingPlan(strata, (Batch("all", np.full(50, 0.02)),))
    table = slot_table([plan], 8)
    assert len(table.stratum) == 50
