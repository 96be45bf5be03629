"""What the tables share: the grid, timing in turns, and printing."""

import statistics
import time
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.model_selection import ParameterGrid
from threadpoolctl import threadpool_limits

from skdebias.methods import beta_bounds

GRID = {
    "beta": [-0.5, 0.0, 0.5, 1.0, 1.5],
    "c": [0.2, 0.4, 0.6, 0.8, 1.0],
    "learning_rate": [3e-4, 1e-3, 3e-3, 1e-2],
    "weight_decay": [1e-3, 1e-2, 1e-1],
}
# lbfgs has no learning rate to try.
SOLVED_GRID = {name: GRID[name] for name in GRID if name != "learning_rate"}
BATCH_SIZE = 256
# Threads of a batched search, processes of the others.
N_JOBS = 2
MOMENTUM = 0.9


@contextmanager
def threads(count):
    """Give torch and BLAS that many threads."""
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def rounds(repeats, runs, settle=lambda: None, before=lambda: None):
    """Time calls in turn, round after round, so that drift hits all of them alike.

    Parameters
    ----------
    repeats : int
    runs : dict of str to callable
    settle : callable, default=None
        Waits until the device is idle, around every call.
    before : callable, default=None
        Prepares every call, untimed.

    Returns
    -------
    seconds : dict of str to ndarray of shape (repeats,)
    results : dict
        What the last calls returned.
    """
    seconds, results = {name: [] for name in runs}, {}
    for _ in range(repeats):
        for name, run in runs.items():
            before()
            settle()
            start = time.perf_counter()
            results[name] = run()
            settle()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}, results


def clipped(beta, c, y, attributes):
    """Beta within its bounds, as `out_of_bounds="clip"` has it."""
    return float(np.clip(beta, *beta_bounds(y, attributes, c)))


def draw(grid, count):
    """Numbers and settings of random candidates of a grid."""
    candidates = list(ParameterGrid(grid))
    count = min(count, len(candidates))
    numbers = np.random.default_rng(0).choice(len(candidates), count, replace=False)
    return numbers, [candidates[i] for i in numbers]


def as_grid(candidates):
    """A grid of exactly these candidates."""
    return [{name: [value] for name, value in c.items()} for c in candidates]


def say(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(*cells):
    print()
    say(*cells)
    say(*["---"] + ["---:"] * (len(cells) - 1))


def title(number, text):
    print(f"\n## {number}. {text}", flush=True)


def median(values):
    return statistics.median(values)


def spread(values, form=".3g"):
    """Median with the lowest and highest value of the rounds."""
    low, high = min(values), max(values)
    return f"{median(values):{form}} ({low:{form}} to {high:{form}})"


def judge(value, target, wrong=None, at_most=False):
    """Cells "target" and "reached" of a measured value."""
    bound = f"at {'most' if at_most else 'least'} {target:g}"
    if wrong is not None:
        bound += f", under {wrong:g} is wrong"
    if not np.isfinite(value):
        return bound, "not measurable"
    if value <= target if at_most else value >= target:
        return bound, "yes"
    something_wrong = wrong is not None and value < wrong
    return bound, "**no, something is wrong**" if something_wrong else "**no**"


def agreement(name, ours, theirs, must=True):
    """Line that compares the scores of the same candidates, and which one wins."""
    gap = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    same = "yes" if np.argmax(ours) == np.argmax(theirs) else "**no**"
    target = "equal" if must else ""
    say(name, len(ours), f"{gap:.2g}", same, target, same if must else "")


def agreement_head():
    head(
        "mean test scores compared with",
        "candidates",
        "largest difference",
        "same best candidate",
        "target",
        "reached",
    )
