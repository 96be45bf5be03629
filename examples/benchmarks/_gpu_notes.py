"""Figures of gpu_check.py that stay whatever comes after them."""

import json
import time
import traceback
from contextlib import contextmanager

import torch


class Notes:
    """Figures in a file that is written after each of them.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path):
        self._path = path
        self._found = {}
        self.failed = False

    def add(self, name, value):
        """Keep and print a figure; four digits of a number."""
        value = float(f"{value:.4g}") if isinstance(value, float) else value
        self._found[name] = value
        self._path.write_text(json.dumps(self._found))
        print(f"  {name}: {value}", flush=True)

    def fail(self, what, error):
        """Keep what went wrong, and go on."""
        self.failed = True
        kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
        self.add(f"{what} FAILED", f"{kind}{error}"[:400])

    @contextmanager
    def tolerant(self, what):
        """Keep an error instead of raising it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.fail(what, error)


def settle(device):
    """Wait until a device has nothing left to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run, device, repeats=3, warm=True):
    """Return the shortest seconds of a call, the device idle before and after."""
    if warm:
        run()
    best = float("inf")
    for _ in range(repeats):
        settle(device)
        start = time.perf_counter()
        run()
        settle(device)
        best = min(best, time.perf_counter() - start)
    return best
