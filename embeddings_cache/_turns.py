"""Computations with one network: many threads together, or one of them alone."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_every: "weakref.WeakSet[Turns]" = weakref.WeakSet()
_of_objects: "weakref.WeakKeyDictionary[Any, Turns]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Turns:
    """Who may use a network now.

    Passes that leave it as it is go together. What changes it for a while, such as its
    layout in memory, waits for them and has it alone. Neither can be nested.

    Attributes
    ----------
    interrupted : bool
        Whether this is a forked process, and a thread that is not in it was using the
        network: nobody knows in which state it left it.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        _every.add(self)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Use the network beside other threads that use it as it is.

        Yields
        ------
        None
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Use the network while no other thread does.

        Yields
        ------
        None
        """
        with self._changed:
            self._changed.wait_for(lambda: not (self._alone or self._together))
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    def _after_fork(self) -> None:
        # The threads that held it are not in this process, and nobody would wake it.
        self.interrupted = self.interrupted or self._alone or self._together > 0
        self._changed = threading.Condition()
        self._together, self._alone = 0, False


def turns_of(value: Any) -> Turns:
    """Return the turns of an object, the same for every thread that asks.

    Parameters
    ----------
    value : object
        One that can be referred to weakly and compared by identity.
    """
    with _lock:
        turns = _of_objects.get(value)
        if turns is None:
            turns = _of_objects[value] = Turns()
        return turns


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for turns in list(_every):
        turns._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
