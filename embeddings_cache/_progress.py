"""Bars and lines on the error stream; nothing at all when they are switched off."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm


class Progress:
    """Shows what goes on, or nothing.

    Parameters
    ----------
    shown : bool
        Whether to show anything.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown

    def line(self, text: str) -> None:
        """Write one line above any bar."""
        if self.shown:
            tqdm.write(text, file=sys.stderr)

    @contextmanager
    def bar(self, total: int, what: str) -> Iterator[Any]:
        """Open a bar that the caller updates."""
        with tqdm(total=total, desc=what, unit="item", **self._settings()) as bar:
            yield bar

    def _settings(self) -> dict[str, Any]:
        return {"disable": not self.shown, "file": sys.stderr, "dynamic_ncols": True}
