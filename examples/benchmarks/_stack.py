"""Tables 2 and 3: stacks of heads by themselves, and the memory of a search."""

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import _common as common
import numpy as np
import torch
from sklearn.model_selection import ParameterGrid

from skdebias import GERNEClassifier
from skdebias.methods import GERNE
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV

# Enough for the speed of a step, which does not depend on the rows.
MOST_ROWS = 20_000


def stack_fit(X, y, attributes, n_heads, cs=None):
    """Return a function that trains a stack for some epochs and nothing else.

    The heads are candidates of the grid, over and over. `cs` replaces its c.
    """
    # No public function trains a stack without scoring it.
    from skdebias._engine._features import Features
    from skdebias._engine._problem import OptimizerConfig, Problem
    from skdebias._engine._sgd import Training
    from skdebias._groups import Groups

    grid = common.GRID if cs is None else common.GRID | {"c": cs}
    candidates = list(ParameterGrid(grid))
    # Evenly through the grid, so that small stacks have several c as well.
    chosen = np.linspace(0, len(candidates), n_heads, endpoint=False).astype(int)
    chosen = [candidates[i] for i in chosen]
    groups = Groups.from_labels(y.astype(np.int64), attributes.astype(np.int64), 2, 2)
    bounds = {c: common.clipped(np.inf, c, y, attributes) for c in grid["c"]}
    methods = [GERNE(min(c["beta"], bounds[c["c"]]), c["c"]) for c in chosen]
    problem = Problem(methods, groups, 0)
    features = Features(X, torch.device("cpu"))
    rates = np.array([c["learning_rate"] for c in chosen])
    decays = np.array([c["weight_decay"] for c in chosen])
    momentum = np.full(n_heads, common.MOMENTUM)

    def fit(epochs):
        settings = OptimizerConfig(
            "sgd", rates, decays, momentum, common.BATCH_SIZE, epochs
        )
        return Training(features, y, 2, [problem], settings).run()

    return fit


def few_rows(data, most):
    """At most that many rows, from all over the set."""
    if len(data[1]) <= most:
        return data
    rows = np.linspace(0, len(data[1]), most, endpoint=False).astype(int)
    return tuple(part[rows] for part in data)


def useful_work(data, arguments):
    """Print table 2: useful work of a stack over the rate of bare matrix products."""
    X, y, attributes = few_rows(data, MOST_ROWS)
    rows, n_features, n_products = common.BATCH_SIZE, X.shape[1], 50
    common.title(2, "Useful work")
    print(
        f"\nOne thread, {len(y)} rows. A step's useful work is 4 x {rows} rows x "
        "features per head, whatever the stack does beyond that: heads that differ in "
        "c share a larger batch, of which each uses its own rows. The rate is that of "
        f"3 epochs (4 less 1); the products are float32, {rows} rows by {n_features} "
        "by heads, forward and backward."
    )
    common.head(
        *("heads", "GFLOP/s of the stack", "GFLOP/s of the products"),
        *("share (lowest to highest)", "target", "reached"),
    )
    for n_heads, cs in ((30, None), (300, None), (1000, None), (300, [0.5])):
        A, B = torch.randn(rows, n_features), torch.randn(n_heads, n_features)
        C = torch.randn(rows, n_heads)

        def products(A=A, B=B, C=C):
            for _ in range(n_products):
                torch.mm(A, B.T)
                torch.mm(C.T, A)

        fit = stack_fit(X, y, attributes, n_heads, cs)
        products()
        fit(1)
        runs = {
            "products": products,
            "few": lambda fit=fit: fit(1),
            "many": lambda fit=fit: fit(4),
        }
        seconds, _ = common.rounds(arguments.repeats, runs)
        work = 4 * rows * n_features * n_heads / 1e9
        bare = n_products * work / seconds["products"]
        more = seconds["many"] - seconds["few"]
        n_steps = 3 * -(-len(y) // rows)
        # On a busy machine and few rows the difference may be noise.
        own = np.where(more > 0, n_steps * work / np.where(more > 0, more, 1), np.nan)
        shares = own / bare
        target = (
            common.judge(common.median(shares), 0.6) if n_heads >= 300 else ("",) * 2
        )
        common.say(
            f"{n_heads}, c = 0.5 only" if cs else n_heads,
            f"{common.median(own):.3g}",
            f"{common.median(bare):.3g}",
            common.spread(shares, ".2f"),
            *target,
        )


def cost(data, arguments):
    """Print table 3: cost per head, against rows and features, and memory."""
    X, y, attributes = few_rows(data, MOST_ROWS)
    common.title(3, "Cost per head")
    print(f"\nOne thread, 2 epochs of {len(y)} rows, first draws and set-up included.")

    def timed(n_heads, *data):
        fit = stack_fit(*data, n_heads)
        seconds, _ = common.rounds(arguments.repeats, {"fit": lambda: fit(2)})
        return common.median(seconds["fit"])

    timed(1, X, y, attributes)
    common.head("heads", "seconds", "milliseconds per head")
    for n_heads in (1, 3, 10, 30, 100, 300, 1000, 3000):
        seconds = timed(n_heads, X, y, attributes)
        common.say(n_heads, f"{seconds:.3g}", f"{1000 * seconds / n_heads:.3g}")

    common.head("300 heads", "seconds", "log-log slope", "target")
    sizes = [min(len(data[1]), 40_000) // part for part in (8, 4, 2, 1)]
    found = {n: timed(300, *few_rows(data, n)) for n in sizes}
    _say_slope(f"rows n, {X.shape[1]} features", found)
    rng = np.random.default_rng(0)
    y, attributes = y[:10_000], attributes[:10_000]
    found = {}
    for n_features in (128, 256, 512, 1024, 2048):
        # Random numbers of the set's type: how long a step takes is all that matters.
        wide = rng.standard_normal((len(y), n_features), np.float32).astype(X.dtype)
        found[n_features] = timed(300, wide, y, attributes)
    _say_slope(f"features D, {len(y)} rows", found)
    _memory(arguments)


def _say_slope(name, found):
    slope = np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0]
    points = ", ".join(f"{size}: {seconds:.3g}" for size, seconds in found.items())
    common.say(name, points, f"{slope:.2f}", "none; 1 is linear")


def _memory(arguments):
    """Measure a search in a process of its own."""
    from skdebias.model_selection._stack_limits import _STACK_BYTES

    budget = _STACK_BYTES / 2**20
    common.head("search in stacks of max_heads='auto'", "MiB", "target", "reached")
    found = None
    if Path("/proc/self/status").exists():
        script = Path(__file__).with_name("heads.py")
        given = [sys.executable, script, "--child", *sys.argv[1:]]
        run = subprocess.run(given, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
    common.say("budget of the stacks in training", f"{budget:.0f}", "", "")
    label = f"peak of anonymous memory, 2 folds x {arguments.memory_heads} heads"
    if found is None:
        common.say(label, "needs /proc", f"at most {budget:.0f}", "not measured")
        return
    peak = found["peak"] - found["baseline"]
    bound = common.judge(peak, budget, at_most=True)
    common.say(label, f"{peak:.0f}", *bound)
    common.say("beside it, before the search", f"{found['baseline']:.0f}", "", "")


def memory_child(data, arguments):
    """Print the anonymous memory before and at the peak of a large search, in MiB."""
    X, y, attributes = data
    # Two folds, so that both threads have a stack of their own.
    cv = list(AttributeStratifiedKFold(2).split(X, y, attributes=attributes))
    n_rates = max(1, -(-arguments.memory_heads // 250))
    grid = common.GRID | {
        "learning_rate": np.geomspace(1e-4, 1e-2, n_rates).tolist(),
        "weight_decay": np.geomspace(1e-3, 1e-1, 10).tolist(),
    }
    candidates = list(ParameterGrid(grid))[: arguments.memory_heads]
    estimator = GERNEClassifier(max_iter=1, random_state=0, out_of_bounds="clip")

    def search(candidates):
        options = {"cv": cv, "scoring": "accuracy", "refit": False}
        grid = common.as_grid(candidates)
        with common.threads(common.N_JOBS):
            search = BatchedGridSearchCV(estimator, grid, **options)
            return search.fit(X, y, attributes=attributes)

    search(candidates[:2])  # imports, thread pools
    gc.collect()
    baseline = _anonymous()
    with _Peak() as peak:
        search(candidates)
    print(json.dumps({"baseline": baseline, "peak": peak.value}))


def _anonymous():
    """Anonymous memory of this process in MiB: no files, no memory maps."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return float("nan")


class _Peak:
    """Highest anonymous memory within a block, looked at every few milliseconds."""

    def __enter__(self):
        self.value, self._done = _anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.005):
            self.value = max(self.value, _anonymous())
