"""Reading ahead in threads, in order."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

from joblib import cpu_count

T = TypeVar("T")
R = TypeVar("R")

# As the process has begun: torch, too, looks once.
_ENVIRONMENT = dict(os.environ)


def ordered_map(
    function: Callable[[T], R],
    values: Iterable[T],
    workers: int,
    ahead: int,
) -> Iterator[R]:
    """Apply a function in threads and yield the results in order.

    Parameters
    ----------
    function : callable
        Of one value.
    values : iterable
        Taken when there is room for their results.
    workers : int
        Number of threads; 0 works in the calling thread.
    ahead : int
        How many results may wait. Leaving the iteration early cancels the rest.

    Yields
    ------
    object
        The results, in the order of the values.

    Examples
    --------
    >>> from embeddings_cache.networks import ordered_map
    >>> list(ordered_map(abs, [-1, 2, -3], workers=2, ahead=2))
    [1, 2, 3]
    """
    if workers == 0:
        yield from map(function, values)
        return
    values = iter(values)
    with ThreadPoolExecutor(workers, "embeddings") as pool:
        queue: list[Future[R]] = []
        try:
            queue += [pool.submit(function, value) for value in islice(values, ahead)]
            while queue:
                yield queue.pop(0).result()
                queue += [pool.submit(function, value) for value in islice(values, 1)]
        finally:
            for future in queue:
                future.cancel()


def auto_workers(n_items: int) -> int:
    """Return how many readers a number of items is worth on this machine.

    Parameters
    ----------
    n_items : int

    Returns
    -------
    int
        At most 16, and 0 where the calling thread does as well.

    Examples
    --------
    >>> from embeddings_cache.networks import auto_workers
    >>> auto_workers(8)
    0
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    # The processes that torchrun starts on one machine share its cores.
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if cores < 2 or n_items < 32:
        return 0
    return min(cores, 16)


@cache
def usual_threads() -> int:
    """Return how many threads torch's operations have in a fresh process.

    As many as ``OMP_NUM_THREADS`` says, else one for each core that it may use.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        stated = _ENVIRONMENT.get(name, "").partition(",")[0].strip()
        if stated.isdecimal() and int(stated):
            return int(stated)
    cores = int(cpu_count(only_physical_cores=True))
    return max(1, cores // int(_ENVIRONMENT.get("LOCAL_WORLD_SIZE", "1")))
