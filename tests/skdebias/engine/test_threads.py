"""Threads: faster where that pays, never much slower, and put back afterwards."""

import threading
import time

import numpy as np
import pytest
import torch

from skdebias import ERMClassifier, GERNEClassifier
from skdebias._engine import _lbfgs, _threads
from skdebias._engine._threads import (
    RowThreads,
    Threads,
    fit_threads,
    own_threads,
    row_threads,
    side_by_side,
)
from skdebias.datasets import make_spurious_classification
from skdebias.model_selection import BatchedGridSearchCV


@pytest.fixture(autouse=True)
def _restore():
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


class Machine:
    """A clock, and steps that take what they take with a number of threads."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 0.0

    def clock(self):
        return self.now

    def step(self):
        self.now += self.seconds[torch.get_num_threads()]
        return torch.get_num_threads()


def _run(machine, threads, n_steps):
    with fit_threads(0):  # restores the number
        return [threads.run(machine.step) for _ in range(n_steps)]


def test_more_threads_are_taken_where_they_are_faster():
    machine = Machine({1: 0.005, 2: 0.003})
    used = _run(machine, Threads(2, machine.clock), 1000)
    assert used[0] == 1
    assert np.mean(np.array(used) == 2) > 0.95


@pytest.mark.parametrize("slower", [1.2, 2.0, 20.0])
def test_slower_threads_cost_a_few_percent(slower):
    machine = Machine({1: 0.005, 2: 0.005 * slower})
    used = _run(machine, Threads(2, machine.clock), 3000)
    assert used.count(2) > 0  # it was tried
    assert machine.now < 1.04 * 3000 * 0.005


def test_a_core_that_is_taken_away_is_noticed():
    machine = Machine({1: 0.005, 2: 0.003})
    threads = Threads(2, machine.clock)
    _run(machine, threads, 1000)
    machine.seconds = {1: 0.005, 2: 0.1}
    assert np.mean(np.array(_run(machine, threads, 1000)) == 1) > 0.8


def test_small_steps_have_one_thread(monkeypatch):
    counts = set()
    with fit_threads(1000) as threads:
        for _ in range(20):
            threads.run(lambda: counts.add(torch.get_num_threads()))
    assert counts == {1}
    monkeypatch.setattr(_threads, "_ADAPTIVE_WORK", 0)
    with fit_threads(1000) as threads:
        assert threads.current == 1


def test_results_do_not_depend_on_threads(monkeypatch):
    X, y, attributes = make_spurious_classification(500, random_state=0)
    model = GERNEClassifier(max_iter=3, random_state=0)
    one = model.fit(X, y, attributes).coef_
    monkeypatch.setattr(_threads, "_ADAPTIVE_WORK", 0)
    monkeypatch.setattr(_threads, "_PAUSE", 0.0)
    np.testing.assert_array_equal(model.fit(X, y, attributes).coef_, one)


def test_tasks_keep_their_order_and_are_made_as_threads_are_free():
    made, running = [], []

    def tasks():
        for number in range(8):
            made.append(number)

            def task(number=number):
                running.append(threading.get_ident())
                time.sleep(0.01 * (number % 3))
                return number

            yield task

    results = []
    for result in side_by_side(tasks(), 2, 8):
        results.append(result)
        assert len(made) <= len(results) + 2
    assert results == list(range(8))
    assert len(set(running)) == 2
    assert threading.get_ident() not in running


def test_one_thread_is_the_caller():
    idents = side_by_side([threading.get_ident] * 3, 1, 3)
    assert set(idents) == {threading.get_ident()}
    assert set(side_by_side([threading.get_ident], 4, 1)) == {threading.get_ident()}


def test_errors_of_tasks_are_raised():
    def fail():
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        list(side_by_side([lambda: 1, fail, lambda: 2], 2, 3))


def test_few_tasks_share_the_threads():
    assert list(side_by_side([own_threads] * 2, 6, 2)) == [3, 3]
    assert list(side_by_side([own_threads] * 6, 2, 6)) == [1] * 6


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_rows", [1, 3, 100])
def test_ranges_cover_all_rows(n_threads, n_rows):
    with row_threads(torch.device("cpu")) as threads:
        threads = RowThreads(threads._pool, n_threads)
        ranges = threads.map(list, n_rows, work=10**9)
        assert [row for own in ranges for row in own] == list(range(n_rows))
        assert len(ranges) == min(n_threads, n_rows)
        assert len(threads.map(list, n_rows, work=10)) == 1


def test_lbfgs_gives_the_same_with_divided_rows(monkeypatch):
    X, y, _ = make_spurious_classification(1000, random_state=0)
    monkeypatch.setattr(_lbfgs, "_DOUBLE_ENTRIES", 0)
    model = ERMClassifier(solver="lbfgs", max_iter=200, tol=1e-6)
    torch_threads, divided = torch.get_num_threads(), []
    monkeypatch.setattr(_threads, "_ROW_WORK", 1)
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        divided.append(model.fit(X, y).coef_)
    torch.set_num_threads(torch_threads)
    np.testing.assert_allclose(divided[0], divided[1], atol=1e-5)


def test_a_search_gives_the_same_with_any_number_of_threads():
    X, y, attributes = make_spurious_classification(400, random_state=0)
    torch_threads, scores = torch.get_num_threads(), []
    for n_threads in (1, 2, 4, 7):
        torch.set_num_threads(n_threads)
        search = BatchedGridSearchCV(
            GERNEClassifier(max_iter=2, random_state=0),
            {"beta": [0.0, 0.5, 1.0], "learning_rate": [1e-3, 1e-2]},
            scoring="neg_log_loss",
            cv=5,
            refit=False,
        ).fit(X, y, attributes=attributes)
        scores.append(search.cv_results_["mean_test_score"])
    torch.set_num_threads(torch_threads)
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-6)
