"""What happened on the pretended devices."""

import os
import sys
import threading
from collections import Counter, defaultdict

_HERE = os.path.dirname(os.path.abspath(__file__))
_FOREIGN = ("site-packages", f"{os.sep}lib{os.sep}python", f"{os.sep}torch{os.sep}")


class Log:
    """Events by kind and source line.

    Attributes
    ----------
    problems : list of str
        What would be wrong on a GPU, and raises no error there.
    """

    def __init__(self):
        self.problems = []
        self._counts = defaultdict(Counter)
        self._lock = threading.Lock()

    def note(self, kind, what):
        """Count one event: a "kernel", a "wait" of the host, or a copy, "up" or "down".

        Parameters
        ----------
        kind, what : str
        """
        with self._lock:
            self._counts[kind][caller(), what] += 1

    def problem(self, text):
        """Record what would be wrong; the place is added."""
        self.problems.append(f"{caller()}: {text}")

    def total(self, kind):
        """Return the number of events of a kind."""
        return sum(self._counts[kind].values())

    def names(self, kind):
        """Return the distinct names of the events of a kind."""
        return {what for _, what in self._counts[kind]}

    def table(self, kind, top=25):
        """Return the most frequent events of a kind as text, one line each."""
        rows = self._counts[kind].most_common(top)
        lines = [f"{n:7d}  {what:28s} {where}" for (where, what), n in rows]
        return "\n".join([f"{kind}: {self.total(kind)} in all", *lines])

    def clear(self):
        """Forget everything."""
        self._counts.clear()
        self.problems.clear()


def caller():
    """Return file and line of the nearest frame outside of this package and torch."""
    frame, fallback = sys._getframe(1), "?"
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_HERE):
            spot = f"{name}:{frame.f_lineno}"
            if not any(part in name for part in _FOREIGN):
                return spot
            fallback = spot if fallback == "?" else fallback
        frame = frame.f_back
    return fallback
