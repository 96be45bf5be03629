"""Threads of a fit: never a spinning barrier on a core that somebody else holds.

The threads inside a matrix product wait for each other by spinning. Where another
process has one of the cores they double the time of a step, and small steps gain
nothing from them in the first place. So training runs on one such thread. Other cores
are used by running independent work in Python threads, which wait without spinning, and
by trying more threads on large steps only, for as long as they measurably pay.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise
from threading import local
from typing import TypeVar

import torch

Result = TypeVar("Result")

# Steps of fewer multiply-adds, a millisecond or so, are too short to try threads on.
_ADAPTIVE_WORK = 50_000_000
# Multiply-adds from which a range of rows is worth a thread, half a millisecond or so.
_ROW_WORK = 4_000_000
# Steps of a trial, the seconds to the next one, and the share of time lost in trials.
_TRIAL_STEPS = 3
_PAUSE = 0.5
_LOSS = 0.02
# A trial this many times slower than what it is compared with ends at once.
_HOPELESS = 2.0


@contextmanager
def fit_threads(work: int) -> Iterator["Threads"]:
    """Run a block on one thread, with a choice of more for large steps.

    The number of threads that torch had before is the most that is used, and is
    restored afterwards.

    Parameters
    ----------
    work : int
        Multiply-adds of one step on the CPU.

    Yields
    ------
    Threads
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield Threads(before if work >= _ADAPTIVE_WORK else 1)
    finally:
        torch.set_num_threads(before)


class Threads:
    """Runs steps on one thread or on all, whichever has lately been faster.

    Results do not depend on it: the products of one step are the same with any number.

    Parameters
    ----------
    most : int
        Largest number of threads.
    clock : callable, default=time.perf_counter
        Seconds now.
    """

    def __init__(
        self, most: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.current = 1
        self._other = most
        self._fixed = most == 1
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=4)
        self._trial: list[float] = []
        self._next_trial = 0.0

    def run(self, step: Callable[[], Result]) -> Result:
        """Run a step, and learn from how long it takes.

        Parameters
        ----------
        step : callable

        Returns
        -------
        object
            What the step returned.
        """
        if self._fixed:
            return step()
        start = self._clock()
        known = len(self._recent) == self._recent.maxlen
        trying = known and start >= self._next_trial
        torch.set_num_threads(self._other if trying else self.current)
        result = step()
        seconds = self._clock() - start
        if trying:
            self._compare(seconds)
        else:
            self._recent.append(seconds)
        return result

    def _compare(self, seconds: float) -> None:
        self._trial.append(seconds)
        usual = sum(self._recent) / len(self._recent)
        mean = sum(self._trial) / len(self._trial)
        if len(self._trial) < _TRIAL_STEPS and mean < _HOPELESS * usual:
            return
        if mean < usual:
            self.current, self._other = self._other, self.current
            self._recent.clear()
        lost = max(0.0, (mean - usual) * len(self._trial))
        self._next_trial = self._clock() + max(_PAUSE, lost / _LOSS)
        self._trial = []


def side_by_side(
    tasks: Iterable[Callable[[], Result]], n_threads: int, n_tasks: int
) -> Iterator[Result]:
    """Run tasks in Python threads, each on one thread of torch.

    Parameters
    ----------
    tasks : iterable of callable
        Consumed in the calling thread as others become free, so that few results wait.
    n_threads : int
        1 runs them in the calling thread, as they are asked for.
    n_tasks : int
        How many there are at least. With fewer than threads, each gets several for
        :func:`own_threads`.

    Yields
    ------
    object
        Results in the order of the tasks; what a task raises is raised here.
    """
    n_workers = min(n_threads, n_tasks)
    if n_workers == 1:
        for task in tasks:
            yield task()
        return

    def own(task: Callable[[], Result]) -> Result:
        _share.threads = n_threads // n_workers
        return task()

    remaining = iter(tasks)
    with fit_threads(0), ThreadPoolExecutor(n_workers) as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(own, task) for task in islice(remaining, n_workers)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(own, task) for task in islice(remaining, 1))
            yield result


@contextmanager
def row_threads(device: torch.device) -> Iterator["RowThreads"]:
    """Run a block that divides rows among Python threads, on the CPU only.

    Parameters
    ----------
    device : torch.device
        Where the rows are worked on.

    Yields
    ------
    RowThreads
    """
    n_threads = own_threads() if device.type == "cpu" else 1
    with fit_threads(0), ThreadPoolExecutor(max(1, n_threads - 1)) as pool:
        yield RowThreads(pool, n_threads)


class RowThreads:
    """Divides rows among threads.

    Parameters
    ----------
    pool : ThreadPoolExecutor
        Starts its threads when they are first needed.
    n_threads : int
        The calling thread included.
    """

    def __init__(self, pool: ThreadPoolExecutor, n_threads: int) -> None:
        self._pool, self._n_threads = pool, n_threads

    def map(
        self, task: Callable[[range], Result], n_rows: int, work: int
    ) -> list[Result]:
        """Run a task on all rows, in as many ranges as there are threads.

        Parameters
        ----------
        task : callable
            Takes the range of its rows.
        n_rows : int
        work : int
            Multiply-adds over all rows; if they are few, one thread does them.

        Returns
        -------
        list
            Results in the order of the rows.
        """
        n_threads = min(self._n_threads, max(1, work // _ROW_WORK), n_rows)
        ends = [n_rows * i // n_threads for i in range(n_threads + 1)]
        first, *others = (range(a, b) for a, b in pairwise(ends))
        waiting = [self._pool.submit(task, rows) for rows in others]
        return [task(first), *(future.result() for future in waiting)]


_share = local()


def own_threads() -> int:
    """Return how many Python threads the caller may use, itself included."""
    return getattr(_share, "threads", None) or torch.get_num_threads()
