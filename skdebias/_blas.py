"""Threads inside NumPy's and SciPy's products: one, while a result is computed.

The bits of a product depend on how many threads share it. A result of this package is a
function of data, parameters and seed, so its products have one thread each. Their
number is a setting of the process: whoever begins first changes it, whoever ends last
puts it back.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from skdebias._thread_limits import thread_pools

_LOCK = Lock()
#: How many blocks run, and the number of threads that each library had before.
_running = 0
_before: dict[str, tuple[Any, int]] = {}


def _after_fork() -> None:
    """Let no lock stay closed for a thread that the new process does not have."""
    global _LOCK
    _LOCK = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Run a block whose products of NumPy and SciPy have one thread each.

    Blocks may run in several Python threads at once, and within each other. Products
    that run elsewhere in the process have one thread meanwhile, too.
    """
    global _running
    with _LOCK:
        libraries = thread_pools()
        _running += 1
        for library in libraries:
            threads = library.num_threads
            if library.user_api == "blas" and threads not in (None, 1):
                _before.setdefault(library.filepath, (library, threads))
                _set_threads(library, 1)
    try:
        yield
    finally:
        with _LOCK:
            _running -= 1
            if not _running:
                for library, threads in _before.values():
                    _set_threads(library, threads)
                _before.clear()


def _set_threads(library: Any, number: int) -> None:
    """Set a library's number of threads for the whole process."""
    # Since version 3.8, threadpoolctl ignores all threads of Python but the one that
    # has set a number before, until it is told that this one is done.
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(number)
    if release is not None:
        release(force=True)
