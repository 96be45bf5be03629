"""Index plans: pure, uniform, and independent of company."""

import numpy as np
import pytest
from scipy.stats import chisquare

from skdebias._engine import _sampler
from skdebias._engine._sampler import IndexSampler
from skdebias._groups import Groups
from skdebias.methods import ERM, GERNE


def _groups(n=500, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return Groups.from_labels(y, np.where(rng.random(n) < 0.9, y, 0), 3, 3)


def _steps(sampler, start, stop):
    return np.stack(list(sampler.steps(start, stop)))


@pytest.mark.parametrize("method", [ERM(), ERM("group"), GERNE(), GERNE(shared=True)])
def test_steps_are_a_pure_function_of_seed_and_plan(method, monkeypatch):
    plan = method.plan(_groups())
    whole = _steps(IndexSampler([plan], 48, seed=7), 0, 100)
    np.testing.assert_array_equal(
        whole[37:61], _steps(IndexSampler([plan], 48, seed=7), 37, 61)
    )
    monkeypatch.setattr(_sampler, "_BLOCK_ENTRIES", 48 * 12)
    np.testing.assert_array_equal(
        whole, _steps(IndexSampler([plan], 48, seed=7), 0, 100)
    )
    other = _steps(IndexSampler([plan], 48, seed=8), 0, 100)
    assert (whole != other).mean() > 0.5


@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_a_plan_do_not_depend_on_its_company(shared):
    groups = _groups()
    plans = [GERNE(b, c, shared).plan(groups) for b, c in [(1, 0.5), (0, 1), (2, 0.1)]]
    together = IndexSampler(plans, 60, seed=1)
    steps = _steps(together, 0, 20)
    for i, plan in enumerate(plans):
        alone = IndexSampler([plan], 60, seed=1)
        mine = _steps(alone, 0, 20)
        for t in range(20):
            for sampler, rows, column in ((together, steps, i), (alone, mine, 0)):
                totals = np.zeros(500)
                np.add.at(totals, rows[t], sampler.weights[:, column])
                if sampler is together:
                    expected = totals
            np.testing.assert_allclose(totals, expected, atol=1e-12)


def test_rows_lie_in_their_stratum_and_are_uniform_in_it():
    groups = _groups()
    sampler = IndexSampler([ERM("group").plan(groups)], 48, seed=0)
    steps = _steps(sampler, 0, 4000)
    stratum = sampler._table.stratum
    assert (groups.ids[steps] == stratum).all()
    for g in range(len(groups.counts)):
        members = np.flatnonzero(groups.ids == g)
        drawn = np.bincount(steps[:, stratum == g].ravel(), minlength=500)[members]
        assert chisquare(drawn).pvalue > 1e-4
    # Slots and steps are not copies of one another.
    assert len(np.unique(steps[:, 0])) > 30
    assert (np.diff(steps, axis=1) == 0).mean() < 0.05


def test_independent_batches_differ_and_shared_ones_do_not():
    groups = _groups()
    independent = IndexSampler([GERNE(0.5, 0.5).plan(groups)], 60, seed=0)
    stream = independent._table.stream
    steps = _steps(independent, 0, 50)
    first = steps[:, (stream == 0) & (independent._table.stratum == 0)]
    second = steps[:, (stream == 1) & (independent._table.stratum == 0)]
    width = min(first.shape[1], second.shape[1])
    assert (first[:, :width] == second[:, :width]).mean() < 0.05
    shared = IndexSampler([GERNE(0.5, 0.5, shared=True).plan(groups)], 60, seed=0)
    assert (shared._table.stream == 0).all()


def test_plain_erm_visits_every_row_once_per_pass():
    sampler = IndexSampler([ERM().plan(_groups())], 48, seed=0)
    visits = _steps(sampler, 0, 125).ravel()  # 6,000 visits are 12 passes
    passes = visits.reshape(12, 500)
    assert all(len(set(p)) == 500 for p in passes)
    assert (passes[0] != passes[1]).mean() > 0.9


def test_rows_stand_for_global_rows():
    groups = _groups(100)
    rows = np.arange(1000, 1200, 2)
    plan = ERM("group").plan(groups)
    local = _steps(IndexSampler([plan], 20, seed=0), 0, 5)
    mapped = _steps(IndexSampler([plan], 20, seed=0, rows=rows), 0, 5)
    np.testing.assert_array_equal(rows[local], mapped)
