"""Threads of a fit: they run its pieces, and never decide what the pieces are.

The bits of a product depend on the number of threads inside it. So every product of a
fit has one, and work is divided by shapes alone: into pieces that any number of Python
threads may run, whose results are put together in one order. A fit is the same to the
bit on every number of threads, idle or busy. Python threads also wait for each other
without spinning, and lose little where another process has one of the cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise
from threading import local
from typing import TypeVar

import torch

from skdebias._blas import blas_on_one_thread
from skdebias._thread_limits import own_threads, set_own_threads

Result = TypeVar("Result")
Piece = TypeVar("Piece")

# Multiply-adds that are worth a piece of their own, half a millisecond or so: handing
# it to another thread takes a few per cent of that, and smaller products are slower.
_PIECE_WORK = 32_000_000
# Most pieces of one product or pass.
_MOST_PIECES = 16

_CPU = torch.device("cpu")
_own = local()


@contextmanager
def one_thread(device: torch.device = _CPU) -> Iterator[None]:
    """Run a block whose arithmetic has one thread inside each operation.

    This holds for torch, and for whatever of scikit-learn is parallel, in the calling
    thread; for NumPy and SciPy in the whole process. All is put back afterwards. Blocks
    may run in several Python threads at once, and within each other.

    What :func:`available_threads` says stays what it was before.

    Parameters
    ----------
    device : torch.device, default=the CPU
        Where the arithmetic is done. Elsewhere than on the CPU nothing changes.
    """
    if device.type != "cpu":
        yield
        return
    outer = getattr(_own, "available", None)
    _own.available = available_threads()
    try:
        with blas_on_one_thread(), own_threads(1):
            yield
    finally:
        _own.available = outer


def available_threads() -> int:
    """Return how many Python threads the caller may use, itself included.

    Returns
    -------
    int
        As many as torch has for its operations outside of a fit; within
        :func:`parallel_map`, the caller's share of them.
    """
    return getattr(_own, "available", None) or torch.get_num_threads()


def thread_pool(n_threads: int, available: int = 1) -> ThreadPoolExecutor:
    """Return a pool of threads whose operations have one thread each.

    Parameters
    ----------
    n_threads : int
        Started when they are first needed.
    available : int, default=1
        What :func:`available_threads` returns in each of them.

    Returns
    -------
    ThreadPoolExecutor
    """

    def begin() -> None:
        _own.available = available
        set_own_threads(1)

    return ThreadPoolExecutor(n_threads, initializer=begin)


def parallel_map(
    tasks: Iterable[Callable[[], Result]], n_threads: int, n_tasks: int
) -> Iterator[Result]:
    """Run tasks in Python threads.

    Parameters
    ----------
    tasks : iterable of callable
        Consumed in the calling thread as others become free, so that few results wait.
    n_threads : int
        1 runs them in the calling thread, as they are asked for.
    n_tasks : int
        How many there may be. With fewer than threads, each gets several for
        :func:`available_threads`.

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
    remaining = iter(tasks)
    with thread_pool(n_workers, n_threads // n_workers) as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(task) for task in islice(remaining, n_workers)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(task) for task in islice(remaining, 1))
            yield result


def pieces(size: int, work: int, least: int = 1) -> list[slice]:
    """Divide what is to be done, by its extent alone.

    Parameters
    ----------
    size : int
        Rows, or whatever it can be divided by.
    work : int
        Multiply-adds of the whole.
    least : int, default=1
        Smallest size of a piece.

    Returns
    -------
    list of slice
        Neighbouring pieces of about equal size, a power of two of them.
    """
    most = min(work // _PIECE_WORK, size // least, _MOST_PIECES)
    n_pieces = 1 << max(0, most.bit_length() - 1)
    ends = [size * i // n_pieces for i in range(n_pieces + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


@contextmanager
def workers(device: torch.device) -> Iterator["Workers"]:
    """Run a block whose pieces of work are shared among Python threads, on the CPU.

    Parameters
    ----------
    device : torch.device
        Where the work is done.

    Yields
    ------
    Workers
    """
    with one_thread():
        n_threads = available_threads() if device.type == "cpu" else 1
        with thread_pool(max(1, n_threads - 1)) as pool:
            yield Workers(pool, n_threads)


class Workers:
    """Threads that run the pieces of one piece of work after the other.

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
        self, task: Callable[[Piece], Result], pieces: Sequence[Piece]
    ) -> list[Result]:
        """Run a task on all pieces, whichever thread is free first.

        Parameters
        ----------
        task : callable
        pieces : sequence

        Returns
        -------
        list
            Results in the order of the pieces.
        """
        n_threads = min(self._n_threads, len(pieces))
        if n_threads < 2:
            return [task(piece) for piece in pieces]
        waiting, results = deque(enumerate(pieces)), {}

        def work() -> None:
            while waiting:
                try:
                    number, piece = waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                results[number] = task(piece)

        others = [self._pool.submit(work) for _ in range(n_threads - 1)]
        try:
            work()
        finally:
            waiting.clear()
            # A thread that has not begun yet would find nothing to do.
            begun = [other for other in others if not other.cancel()]
            errors = [other.exception() for other in begun]
        for error in errors:
            if error is not None:
                raise error
        return [results[number] for number in range(len(pieces))]
