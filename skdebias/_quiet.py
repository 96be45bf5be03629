"""Warnings of inner fits that the user need not see, hidden without a trace."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()

if hasattr(os, "register_at_fork"):
    # The thread that held it may not be in the new process.
    os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))

_held: dict[type[Warning], "_Filter"] = {}


class _Filter:
    """A filter that some threads need at the moment."""

    def __init__(self, category: type[Warning]) -> None:
        self.n_threads = 0
        self._before: list[Any] = list(warnings.filters)
        warnings.simplefilter("ignore", category)
        self._own = warnings.filters[0]
        self._after: list[Any] = list(warnings.filters)

    def remove(self) -> None:
        filters: list[Any] = warnings.filters  # type: ignore[assignment]
        if filters == self._after:
            filters[:] = self._before
        elif self._own not in self._before and self._own in filters:
            filters.remove(self._own)  # others were changed meanwhile


@contextmanager
def ignored(category: type[Warning]) -> Iterator[None]:
    """Hide warnings of a class.

    Filters are the process's. ``warnings.catch_warnings`` gives back the ones that it
    found, so of two threads the one that ends last would leave those of the other.

    Parameters
    ----------
    category : type
        A subclass of Warning.
    """
    with _lock:
        if category not in _held:
            _held[category] = _Filter(category)
        _held[category].n_threads += 1
    try:
        yield
    finally:
        with _lock:
            _held[category].n_threads -= 1
            if not _held[category].n_threads:
                _held.pop(category).remove()
