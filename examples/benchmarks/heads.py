"""How fast are stacks of heads? Every ratio is measured side by side in one run

    python examples/benchmarks/heads.py
    python examples/benchmarks/heads.py --set b --parts search

Sets: (a) 20,000 x 512 float32, (b) 100,000 x 2,048 float16, generated, two classes, two
attributes, 5 % minority; "celeba" is 30,000 real faces x 1,024 where `$SKDEBIAS_DATA`
has them. The grid has 5 beta x 5 c x 4 learning rates x 3 weight decays on 5 folds, at
`--epochs` epochs. What would take hours is measured on a random subset of candidates
and scaled by their number; those lines say so. Times are medians of `--repeats`.
Threads are pinned to one per process, with two processes for `n_jobs=2`; the batched
searches may use all cores instead, every other measurement one.

Parts: "search" compares whole grids, "flops" the rate of a stack with that of the bare
matrix products, "heads" the cost per head, "single" one fit with a plain PyTorch loop.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, ParameterGrid
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from skdebias import ERMClassifier, GERNEClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.methods import GERNE
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV

sys.path.insert(0, str(Path(__file__).parents[1]))

GRID = {
    "beta": [-0.5, 0.0, 0.5, 1.0, 1.5],
    "c": [0.2, 0.4, 0.6, 0.8, 1.0],
    "learning_rate": [3e-4, 1e-3, 3e-3, 1e-2],
    "weight_decay": [1e-3, 1e-2, 1e-1],
}
STRUCTURE = {"out_of_bounds": ["clip"]}
SIZES = {"a": (20_000, 512, np.float32), "b": (100_000, 2048, np.float16)}


def load(name):
    """Return X, y and attributes of a set."""
    if name == "celeba":
        from celeba_gerne import load as load_faces
        from celeba_gerne import split

        train = split(*load_faces(os.environ["SKDEBIAS_DATA"]), 0)[0]
        return train.X, train.y.astype(np.int64), np.asarray(train.attributes)
    n_samples, n_features, dtype = SIZES[name]
    X, y, attributes = make_spurious_classification(
        n_samples, n_features=n_features, random_state=0
    )
    return X.astype(dtype), y, attributes


def median(repeats, run):
    """Median seconds of a call, and its last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def say(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(*cells):
    print()
    say(*cells)
    say(*["---"] + ["---:"] * (len(cells) - 1))


def search(data, arguments):
    """Whole grids: batched against loops of single fits."""
    X, y, attributes = data
    cv = list(AttributeStratifiedKFold(5).split(X, y, attributes=attributes))
    base = GERNEClassifier(
        max_iter=arguments.epochs, random_state=0, out_of_bounds="clip"
    )
    options = {"cv": cv, "scoring": "accuracy", "refit": False}
    n_fits = len(ParameterGrid(GRID)) * len(cv)
    head(f"{n_fits} fits", "seconds", "measured on", "over batched SGD")

    torch.set_num_threads(os.cpu_count())  # the stacks have what n_jobs=2 has
    ours, batched = median(
        arguments.repeats,
        lambda: BatchedGridSearchCV(base, GRID, **options).fit(
            X, y, attributes=attributes
        ),
    )
    say("BatchedGridSearchCV, sgd", f"{ours:.1f}", "all", "1")
    exact = base.set_params(solver="lbfgs", max_iter=200)
    steps = {k: v for k, v in GRID.items() if k != "learning_rate"}
    solved, _ = median(
        arguments.repeats,
        lambda: BatchedGridSearchCV(exact, steps, **options).fit(
            X, y, attributes=attributes
        ),
    )
    torch.set_num_threads(1)
    label = "BatchedGridSearchCV, lbfgs (no learning rates to try)"
    say(label, f"{solved:.1f}", "all", f"{solved / ours:.3g}")
    base = base.set_params(solver="sgd", max_iter=arguments.epochs)

    rng = np.random.default_rng(0)
    candidates = list(ParameterGrid(GRID))
    chosen = rng.choice(len(candidates), arguments.candidates, replace=False)
    subset = [{k: [v] for k, v in candidates[i].items()} for i in chosen]

    def stock(estimator, grid):
        return GridSearchCV(estimator, grid, n_jobs=2, **options).fit(
            X, y, attributes=attributes
        )

    stock(base, subset[:1])  # starts the workers
    seconds, one_by_one = median(arguments.repeats, lambda: stock(base, subset))
    scaled = seconds * len(candidates) / len(chosen)
    say(
        "GridSearchCV(n_jobs=2), sgd",
        f"{scaled:.0f}",
        f"{len(chosen)}",
        f"{scaled / ours:.1f}",
    )
    found = batched.cv_results_["mean_test_score"][chosen]
    gap = np.abs(found - one_by_one.cv_results_["mean_test_score"]).max()
    _against_others(data, cv, arguments, ours, len(candidates))
    print(f"\nLargest difference of a candidate's score to GridSearchCV's: {gap:.2g}.")
    print(f"lbfgs is {scaled / solved:.0f} times as fast as GridSearchCV with sgd.")


def _against_others(data, cv, arguments, ours, n_candidates):
    """Grids of other libraries, with the group weights of GERNE's expectation."""
    X, y, attributes = data
    group = 2 * y + attributes
    counts = np.bincount(group)

    def weights(train):
        return (len(train) / (len(counts) * counts))[group[train]]

    X32 = np.asarray(X, np.float32)

    def fits(make):
        for train, test in cv:
            model = make()
            model.fit(X32[train], y[train], sample_weight=weights(train))
            accuracy_score(y[test], model.predict(X32[test]))

    makes = {
        "LogisticRegression(sample_weight)": lambda: LogisticRegression(
            C=1 / (0.01 * len(y)), max_iter=200
        ),
        f"SGDClassifier, {arguments.epochs} epochs": lambda: SGDClassifier(
            loss="log_loss", alpha=0.01, max_iter=arguments.epochs, tol=None
        ),
    }
    for name, make in makes.items():
        seconds, _ = median(1, lambda make=make: fits(make))
        # Two processes would take half as long.
        scaled = seconds * n_candidates / 2
        say(f"{name}, two processes", f"{scaled:.0f}", "1", f"{scaled / ours:.1f}")
    try:
        from skorch import NeuralNetBinaryClassifier
    except ImportError:
        say("skorch", "not installed", "", "")
        return

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(X.shape[1], 1)

        def forward(self, X):
            return self.linear(X)[:, 0]

    def skorch():
        for train, test in cv:
            net = NeuralNetBinaryClassifier(
                Linear,
                max_epochs=arguments.epochs,
                batch_size=256,
                lr=1e-3,
                train_split=None,
                verbose=0,
                iterator_train__shuffle=True,
            )
            net.fit(X32[train], y[train].astype(np.float32))
            accuracy_score(y[test], net.predict(X32[test]))

    seconds, _ = median(1, skorch)
    scaled = seconds * n_candidates / 2
    say(
        "skorch, plain ERM, two processes", f"{scaled:.0f}", "1", f"{scaled / ours:.1f}"
    )


def flops(data, arguments):
    """Useful work of a stack over the rate of the bare matrix products."""
    X, y, attributes = data
    rows, n_features = 256, X.shape[1]
    head("heads", "GFLOP/s of the stack", "GFLOP/s of the products", "share")
    for n_heads in (30, 300, 1000):
        A, B = torch.randn(rows, n_features), torch.randn(n_heads, n_features)
        C = torch.randn(rows, n_heads)

        def products(A=A, B=B, C=C):
            for _ in range(50):
                torch.mm(A, B.T)
                torch.mm(C.T, A)

        bare, _ = median(max(3, arguments.repeats), products)
        work = 4 * rows * n_features * n_heads
        rate = 50 * work / bare / 1e9
        fit = stack_fit(X, y, attributes, n_heads)
        few, _ = median(arguments.repeats, lambda fit=fit: fit(1))
        many, _ = median(arguments.repeats, lambda fit=fit: fit(4))
        n_steps = 3 * -(-len(y) // rows)
        own = n_steps * work / (many - few) / 1e9
        say(n_heads, f"{own:.0f}", f"{rate:.0f}", f"{own / rate:.2f}")


def stack_fit(X, y, attributes, n_heads):
    """Return a function that trains a stack for some epochs and nothing else."""
    from skdebias._attributes import Groups
    from skdebias._engine._features import Features
    from skdebias._engine._sgd import Problem, Settings, train

    groups = Groups.from_labels(y, attributes, 2, 2)
    features = Features(X, torch.device("cpu"))
    betas = np.linspace(0, 1, n_heads)
    problem = Problem([GERNE(beta, 0.5) for beta in betas], groups, 0)
    rates = np.full(n_heads, 1e-3)

    def fit(epochs):
        settings = Settings("sgd", rates, rates, np.full(n_heads, 0.9), 256, epochs)
        return train(features, y, 2, [problem], settings)

    return fit


def heads(data, arguments):
    """Cost per head of stacks from one head to thousands."""
    X, y, attributes = data
    head("heads", "seconds for 2 epochs", "milliseconds per head")
    for n_heads in (1, 3, 10, 30, 100, 300, 1000, 3000):
        fit = stack_fit(X, y, attributes, n_heads)
        seconds, _ = median(arguments.repeats, lambda fit=fit: fit(2))
        say(n_heads, f"{seconds:.2f}", f"{1000 * seconds / n_heads:.2f}")


def single(data, arguments):
    """One fit, against a plain PyTorch loop and scikit-learn's solver."""
    X, y, attributes = data
    epochs = 3
    head("one fit", "seconds", "ratio")
    model = GERNEClassifier(max_iter=epochs, random_state=0)
    ours, _ = median(arguments.repeats, lambda: model.fit(X, y, attributes))
    say(f"GERNEClassifier, {epochs} epochs", f"{ours:.2f}", "1")
    loop, _ = median(arguments.repeats, lambda: torch_loop(X, y, attributes, epochs))
    say("PyTorch, two DataLoaders", f"{loop:.2f}", f"{loop / ours:.1f}")
    bare, _ = median(arguments.repeats, lambda: bare_loop(X, y, epochs))
    say("PyTorch, ERM, rows gathered by index", f"{bare:.2f}", f"{bare / ours:.1f}")

    head("convex problem, weight decay 0.01", "seconds", "largest gradient", "ratio")
    X32 = np.asarray(X, np.float32)
    reference = LogisticRegression(C=1 / (0.01 * len(y)), max_iter=500, tol=1e-4)
    theirs, fitted = median(arguments.repeats, lambda: reference.fit(X32, y))
    exact = ERMClassifier(solver="lbfgs", max_iter=500, tol=1e-4, weight_decay=0.01)
    own, mine = median(arguments.repeats, lambda: exact.fit(X, y))
    for name, seconds, found in (
        ("ERMClassifier(solver='lbfgs')", own, mine),
        ("LogisticRegression", theirs, fitted),
    ):
        size = _gradient(found, X32, y)
        say(name, f"{seconds:.2f}", f"{size:.1e}", f"{seconds / own:.2f}")


def _gradient(model, X, y):
    """Largest entry of the gradient of the mean loss and its penalty."""
    residual = (model.predict_proba(X)[:, 1] - y) / len(y)
    return np.abs(residual @ X + 0.01 * model.coef_[0]).max()


def torch_loop(X, y, attributes, epochs):
    """GERNE as one would write it down: two loaders, autograd, torch.optim."""
    y_float = torch.from_numpy(y).float()
    dataset = TensorDataset(torch.from_numpy(np.asarray(X)), y_float)
    group = 2 * y + attributes
    counts = np.bincount(group)
    alpha = counts[group] / np.bincount(y)[y]
    loaders = []
    for c in (0.0, 0.5):
        p = (alpha + c * (0.5 - alpha)) / counts[group]
        sampler = WeightedRandomSampler(torch.from_numpy(p), len(y) // 2)
        loaders.append(DataLoader(dataset, 128, sampler=sampler))
    model = nn.Linear(X.shape[1], 1)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=1e-2)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(epochs):
        for (Xb, yb), (Xl, yl) in zip(*loaders):
            biased = loss(model(Xb.float())[:, 0], yb)
            less = loss(model(Xl.float())[:, 0], yl)
            optimiser.zero_grad()
            (less + 1.0 * (less - biased)).backward()
            optimiser.step()


def bare_loop(X, y, epochs):
    """The fastest plain loop: rows by index, autograd, torch.optim, no groups."""
    X, y = torch.from_numpy(np.asarray(X)), torch.from_numpy(y).float()
    model = nn.Linear(X.shape[1], 1)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=1e-2)
    loss = nn.BCEWithLogitsLoss()
    for _ in range(epochs):
        for index in torch.randperm(len(y)).split(256):
            value = loss(model(X[index].float())[:, 0], y[index])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()


PARTS = {"search": search, "flops": flops, "heads": heads, "single": single}


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--set", default="a", choices=[*SIZES, "celeba"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    torch.set_num_threads(1)
    data = load(arguments.set)
    X = data[0]
    load_average = os.getloadavg()[0]
    print(
        f"Set {arguments.set}: {X.shape[0]} x {X.shape[1]} {X.dtype}; torch "
        f"{torch.__version__}, one thread, {os.cpu_count()} cores, load before the run "
        f"{load_average:.1f}."
    )
    for name in arguments.parts:
        PARTS[name](data, arguments)


if __name__ == "__main__":
    main()
