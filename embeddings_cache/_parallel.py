"""Reading ahead in threads, in order."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    function: Callable[[T], R],
    values: Iterable[T],
    workers: int,
    ahead: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[R]:
    """Apply a function in threads and yield the results in order.

    At most `ahead` results wait; leaving the iteration early cancels the rest.
    """
    if workers == 0:
        yield from map(function, values)
        return
    values = iter(values)
    with ThreadPoolExecutor(workers, "embeddings", initializer) as pool:
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
    """Return the number of readers for a number of items."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    # The processes that torchrun starts on one machine share its cores.
    cores //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if cores < 2 or n_items < 32:
        return 0
    return min(cores, 16)
