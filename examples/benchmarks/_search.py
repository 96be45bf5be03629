"""Table 1: whole grids, batched, against loops of single fits."""

import atexit
import gc
import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import _common as common
import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, ParameterGrid
from torch import nn

from skdebias import GERNEClassifier
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV

GRIDS = {"sgd": common.GRID, "lbfgs": common.SOLVED_GRID}


class Rival(NamedTuple):
    """A search that is compared with a batched one."""

    label: str
    solver: str  # of the batched search over the same grid
    candidates: list  # that it is measured on
    run: Callable  # returns their mean test scores
    once: float  # seconds that handing X to the processes takes


def table(data, arguments):
    """Print the table."""
    X, y, attributes = data
    X32 = np.asarray(X, np.float32)  # what the other libraries take, not timed
    cv = list(
        AttributeStratifiedKFold(arguments.folds).split(X, y, attributes=attributes)
    )
    options = {"cv": cv, "scoring": "accuracy", "refit": False}
    epochs = arguments.epochs
    sgd = GERNEClassifier(max_iter=epochs, random_state=0, out_of_bounds="clip")
    lbfgs = clone(sgd).set_params(solver="lbfgs", max_iter=200)
    drawn = {n: common.draw(grid, arguments.candidates) for n, grid in GRIDS.items()}
    candidates, problems = drawn["sgd"][1], drawn["lbfgs"][1]
    few = candidates[: max(1, len(candidates) // 3)]

    def batched(estimator, grid):
        with common.threads(common.N_JOBS):
            search = BatchedGridSearchCV(estimator, grid, **options)
            search.fit(X, y, attributes=attributes)
        return search.cv_results_["mean_test_score"]

    def stock(estimator, chosen):
        grid = common.as_grid(chosen)
        search = GridSearchCV(estimator, grid, n_jobs=common.N_JOBS, **options)
        return search.fit(X, y, attributes=attributes).cv_results_["mean_test_score"]

    def others(fit, chosen):
        scores = Parallel(common.N_JOBS)(
            delayed(_fit_other)(fit, X32, y, attributes, split, candidate, epochs)
            for candidate in chosen
            for split in cv
        )
        return np.reshape(scores, (len(chosen), arguments.folds)).mean(axis=1)

    batched(sgd, common.as_grid(candidates[:1]))  # the first calls load code
    _start_processes()
    stock(sgd, candidates[:1])
    once = {stock: _hand_over(X), others: _hand_over(X32)}

    def rival(label, solver, measured, search, what):
        run = partial(search, what, measured)
        return Rival(label, solver, measured, run, once[search])

    rivals = [
        rival("GridSearchCV(n_jobs=2), sgd", "sgd", candidates, stock, sgd),
        rival("GridSearchCV(n_jobs=2), lbfgs", "lbfgs", problems, stock, lbfgs),
        rival("LogisticRegression", "lbfgs", problems, others, _logistic),
        rival("SGDClassifier", "sgd", candidates, others, _sgd_classifier),
    ]
    if _has_skorch():
        rivals.append(rival("skorch", "sgd", few, others, _skorch))
    runs = {
        "sgd": lambda: batched(sgd, GRIDS["sgd"]),
        "lbfgs": lambda: batched(lbfgs, GRIDS["lbfgs"]),
        # The processes may have left during the searches.
        "start": _start_processes,
        **{rival.label: rival.run for rival in rivals},
    }
    seconds, scores = common.rounds(arguments.repeats, runs)

    common.title(1, f"Whole grids, {arguments.folds} folds, {epochs} epochs")
    print(
        f"\nBatched searches have {common.N_JOBS} threads, the others as many "
        "processes of one thread. What was measured on a random subset of candidates "
        "is scaled to the whole grid, but for handing X to the processes, which "
        f"happens once ({once[stock]:.2g} s). LogisticRegression and SGDClassifier "
        "have the group weights of each beta and c, skorch a sampler with them, and "
        "none of them GERNE's two batches."
    )
    _say_times(rivals, seconds, arguments.folds)
    common.agreement_head()
    for rival in rivals[:3]:
        found = scores[rival.solver][drawn[rival.solver][0]]
        # Only the stock search does the same, seed for seed.
        must = rival.label.startswith("GridSearchCV")
        common.agreement(rival.label, found, scores[rival.label], must)


def _say_times(rivals, seconds, n_folds):
    common.head(
        *("search", "fits", "seconds", "candidates measured"),
        *("over", "times as long (lowest to highest)", "target", "reached"),
    )
    counts = {solver: len(ParameterGrid(grid)) for solver, grid in GRIDS.items()}
    for solver, count in counts.items():
        took = f"{common.median(seconds[solver]):.3g}"
        label = f"BatchedGridSearchCV, {solver}"
        common.say(label, count * n_folds, took, f"all {count}", "", "1", "", "")
    stock = rivals[0]
    rows = [(stock, "sgd", (20, 12)), (stock, "lbfgs", (100, 40))]
    rows += [(rival, rival.solver, None) for rival in rivals[1:]]
    for rival, base, target in rows:
        count, measured = counts[rival.solver], len(rival.candidates)
        took = seconds[rival.label]
        once = np.minimum(rival.once, took)
        took = once + (took - once) * count / measured
        ratios = took / seconds[base]
        cells = common.judge(common.median(ratios), *target) if target else ("", "")
        common.say(
            *(rival.label, count * n_folds, f"{common.median(took):.3g}"),
            *(f"{measured} of {count}", f"batched {base}"),
            *(common.spread(ratios), *cells),
        )
    if not _has_skorch():
        common.say("skorch", "", "not installed", "", "", "", "", "")


def _has_skorch():
    try:
        import skorch  # noqa: F401
    except ImportError:
        return False
    return True


def _hand_over(X):
    """Seconds that the processes take to see X: the lowest of a few times."""
    calls = [delayed(np.shape)(X)] * common.N_JOBS
    return min(
        timeit.repeat(lambda: Parallel(common.N_JOBS)(calls), number=1, repeat=5)
    )


def _start_processes():
    Parallel(common.N_JOBS)(delayed(_start)() for _ in range(common.N_JOBS))


def _start():
    """Let a process do what takes seconds the first time."""
    _has_skorch()
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    # Without psutil, joblib collects garbage every second: a quarter of a second for
    # all that is loaded here, which is no fault of the search that is timed.
    gc.freeze()
    atexit.register(gc.unfreeze)
    time.sleep(0.5)


def _fit_other(fit, X, y, attributes, split, candidate, epochs):
    """Test accuracy of another library's head on one fold."""
    train, test = split
    weights = group_weights(y[train], attributes[train], candidate)
    model = fit(X[train], y[train], weights, candidate, epochs)
    return accuracy_score(y[test], model.predict(X[test]))


def group_weights(y, attributes, candidate):
    """Weights of rows, of mean 1, whose loss is what GERNE descends in expectation."""
    c = candidate["c"]
    s = c * (1 + common.clipped(candidate["beta"], c, y, attributes))
    group = 2 * y + attributes
    counts = np.bincount(group, minlength=4)
    alpha = counts / np.bincount(y, minlength=2).repeat(2)
    # Of two classes with two attributes each, all groups present.
    weights = (alpha + s * (0.5 - alpha)) / 2 / counts
    return len(y) * weights[group]


def _logistic(X, y, weights, candidate, epochs):
    model = LogisticRegression(
        C=1 / (candidate["weight_decay"] * len(y)), tol=1e-4, max_iter=200
    )
    return model.fit(X, y, sample_weight=weights)


def _sgd_classifier(X, y, weights, candidate, epochs):
    model = SGDClassifier(
        loss="log_loss",
        alpha=candidate["weight_decay"],
        learning_rate="constant",
        eta0=candidate["learning_rate"],
        max_iter=epochs,
        tol=None,
        random_state=0,
    )
    return model.fit(X, y, sample_weight=weights)


class _Linear(nn.Module):
    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, 1)

    def forward(self, X):
        return self.linear(X)[:, 0]


def _skorch(X, y, weights, candidate, epochs):
    from skorch import NeuralNetBinaryClassifier
    from torch.utils.data import WeightedRandomSampler

    # A sampler takes no negative weights, which rounding leaves at a bound of beta.
    sampler = WeightedRandomSampler(np.maximum(weights, 0), len(y))
    net = NeuralNetBinaryClassifier(
        _Linear,
        module__n_features=X.shape[1],
        max_epochs=epochs,
        batch_size=common.BATCH_SIZE,
        optimizer=torch.optim.SGD,
        lr=candidate["learning_rate"],
        optimizer__momentum=common.MOMENTUM,
        optimizer__weight_decay=candidate["weight_decay"],
        train_split=None,
        verbose=0,
        iterator_train__sampler=sampler,
    )
    return net.fit(X, y.astype(np.float32))
