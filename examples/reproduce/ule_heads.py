"""ULE on frozen embeddings: the paper's form, others, and what selection alone does.

    python examples/reproduce/ule_heads.py --splits 5

Two real data sets, by embeddings of a pretrained MobileNetV1:

- CelebA-HQ, 30,000 faces, blond hair given sex. Each split keeps a third of the rows
  for test and a quarter of the rest for validation, stratified on label x attribute.
- BAR, photos of six actions, whose bias was never annotated: a fifth of the biased
  training part is held out for validation, the test part is unbiased.

A form of ULE is trained for every lam, learning rate and weight decay of a grid at
once, as one stack of heads. The epoch and the point of the grid are chosen on
validation, per split, in two ways:

- "attributes in validation": by worst-group accuracy, as in the paper;
- "no attributes": by worst-class accuracy (BAR: by accuracy).

"ERM" and "class-balanced ERM" are the same selection over the same epochs, learning
rates and weight decays with lam = 1. "lam < 1" is the selection without ERM in the
grid. The data folder is ``$SKDEBIAS_DATA``; the sets may not be redistributed.
"""

import argparse
import os
import sys
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _runner import ROWS, Task, run
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skdebias._engine._features import Features
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.methods import ULE

sys.path.insert(0, str(Path(__file__).parents[1]))
from celeba_gerne import SCALE, load, split

CELEBA, BAR = "celebahq blond/male", "bar"
PAPER = {
    "saliency": "logit",
    "normalize": "max",
    "normalize_over": "sample",
    "student_loss": "ce",
}
# Form -> (options of the method, weight decay of the student or None for the teacher's,
# epochs of the student or None for all).
FORMS = {
    "ERM": ({}, None, None),
    "class-balanced ERM": ({"balance": "class"}, None, None),
    "paper": (PAPER, None, None),
    "paper, class-balanced": (PAPER | {"balance": "class"}, None, None),
    "loss": ({}, 0.1, None),
    "loss, class-balanced": ({"balance": "class"}, 0.1, None),
    "loss, class-balanced, strong L2 student": ({"balance": "class"}, 1.0, None),
    "orthogonal": ({"target": "orthogonal"}, 0.1, None),
    "orthogonal, class-balanced": (
        {"target": "orthogonal", "balance": "class"},
        0.1,
        None,
    ),
    "orthogonal, class-balanced, student of 1 epoch": (
        {"target": "orthogonal", "balance": "class"},
        0.1,
        1,
    ),
    "log-probability, class-balanced": (
        {"saliency": "log_probability", "balance": "class"},
        0.1,
        None,
    ),
}
LAMS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


class Plan(NamedTuple):
    """Grid of a kind of head."""

    hidden: tuple[int, ...]
    lams: tuple[float, ...]
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    max_iter: int


PLANS = {
    "linear": Plan((), LAMS, (1e-3, 1e-2), (1e-2, 0.3), 15),
    "mlp": Plan((32,), (0.4, 0.6, 0.8, 0.9, 1.0), (1e-2,), (1e-2,), 15),
}


class Part(NamedTuple):
    """Standardised rows, class codes and attribute codes."""

    X: np.ndarray
    y: np.ndarray
    attributes: np.ndarray

    @property
    def groups(self):
        n_attributes = int(self.attributes.max()) + 1
        n_classes = int(self.y.max()) + 1
        return Groups.from_labels(self.y, self.attributes, n_classes, n_attributes)


def _data_file(name):
    return Path(os.environ["SKDEBIAS_DATA"]) / "embeddings" / name


@lru_cache(maxsize=1)
def celeba(seed):
    """Training, validation and test part of one split."""
    parts = split(*load(_data_file("celebahq30k.npz")), seed)
    return [Part(p.X, p.y.astype(int), p.attributes.astype(int)) for p in parts]


@lru_cache(maxsize=1)
def bar(seed):
    """Biased training and validation parts, unbiased test part; no attributes."""
    with np.load(_data_file("bar.npz")) as data:
        X = data["X_mobilenet_v1_u8"].astype(np.float32) * SCALE
        y = np.unique(data["action"], return_inverse=True)[1]
        tests = data["split"] == "test"
    rest, test = np.flatnonzero(~tests), np.flatnonzero(tests)
    rows = train_test_split(rest, test_size=0.2, stratify=y[rest], random_state=seed)
    scaler = StandardScaler().fit(X[rows[0]])
    return [
        Part(scaler.transform(X[r]), y[r], np.zeros(len(r), int)) for r in (*rows, test)
    ]


def grid_of(task):
    """Points (lam, learning rate, weight decay) of a task's stack."""
    plan = PLANS[task.setting]
    lams = (1.0,) if "ERM" in task.method else plan.lams
    return list(product(lams, plan.learning_rates, plan.weight_decays))


def accuracies(task, parts):
    """Group accuracies of every epoch and grid point on validation and test."""
    plan, grid = PLANS[task.setting], grid_of(task)
    options, student_decay, student_epochs = FORMS[task.method]
    train_part, *judged = parts
    _, rates, decays = (np.array(v) for v in zip(*grid))
    students = decays if student_decay is None else np.full(len(grid), student_decay)
    epochs = np.full(2 * len(grid), np.inf)
    epochs[::2] = np.inf if student_epochs is None else student_epochs
    settings = OptimizerConfig(
        "sgd",
        learning_rate=rates.repeat(2),
        weight_decay=np.stack([students, decays], 1).ravel(),
        momentum=np.full(2 * len(grid), 0.9),
        batch_size=256,
        max_iter=plan.max_iter,
        hidden_layer_sizes=plan.hidden,
        epochs=epochs,
    )
    cpu = torch.device("cpu")
    judges = [
        HeadValidationScorer(p.y, p.groups, "last", Features(p.X, cpu)) for p in judged
    ]
    seen = [[], []]

    def judge(tracker):
        for scores, validation in zip(seen, judges):
            scores.append(validation.group_accuracies(tracker.stack)[:, 1::2])
        return False

    methods = [ULE(lam, **options) for lam, _, _ in grid]
    Training(
        Features(train_part.X, cpu),
        train_part.y,
        int(train_part.y.max()) + 1,
        [Problem(methods, train_part.groups, task.seed)],
        settings,
    ).run(on_epoch_end=judge)
    return [np.stack(scores) for scores in seen]  # (n_epochs, n_groups, n_points)


def metrics_of(accuracy, groups):
    """Metrics of every epoch and grid point, from group accuracies."""
    counts = groups.counts[:, None]
    by_class = [
        (accuracy[:, own] * counts[own]).sum(1) / counts[own].sum()
        for own in (groups.cells[:, 0] == c for c in np.unique(groups.cells[:, 0]))
    ]
    return {
        "worst group": accuracy.min(1),
        "group-balanced": accuracy.mean(1),
        "worst class": np.min(by_class, axis=0),
        "average": (accuracy * counts).sum(1) / counts.sum(),
    }


def fit(task):
    """Train the stack of a task and select in each way."""
    parts = (celeba if task.dataset == CELEBA else bar)(task.seed)
    validation, test = (
        metrics_of(accuracy, part.groups)
        for accuracy, part in zip(accuracies(task, parts), parts[1:])
    )
    criteria = {"no attributes": "average"}
    if task.dataset == CELEBA:
        criteria = {
            "attributes in validation": "worst group",
            "no attributes": "worst class",
        }
    grid, out = np.array(grid_of(task)), {}
    for selection, criterion in criteria.items():
        for suffix, points in (("", grid[:, 0] <= 1), (", lam < 1", grid[:, 0] < 1)):
            if not points.any():
                continue
            score = np.where(points, validation[criterion], -1.0)
            epoch, point = np.unravel_index(score.argmax(), score.shape)
            for metric, values in test.items():
                out[selection + suffix, metric] = values[epoch, point]
            chosen = [*grid[point], epoch + 1, score.max()]
            names = ("lam", "learning rate", "weight decay", "epoch", "validation")
            out |= {(selection + suffix, name): v for name, v in zip(names, chosen)}
    return out


def tasks(n_splits, heads, datasets, forms):
    """All tasks, split by split."""
    for seed, dataset, head in product(range(n_splits), datasets, heads):
        for form in forms:
            yield Task(dataset, form, head, seed)


def main():
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--heads", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--datasets", nargs="+", default=[CELEBA, BAR])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--out", type=Path, default=ROWS / "ule.csv")
    args = parser.parse_args()
    todo = tasks(args.splits, args.heads, args.datasets, args.forms)
    print(markdown(run(todo, fit, args.out)))


def markdown(rows):
    """Return the tables of the page, in per cent."""
    shown = ["worst group", "group-balanced", "worst class", "average"]
    keys = ["dataset", "setting", "selection"]
    lines = []
    for (dataset, head, selection), part in rows.groupby(keys, sort=False):
        names = shown if dataset == CELEBA else ["average", "worst class"]
        lines += [f"\n{dataset}, {head} head, {selection}\n"]
        lines += [f"| form | {' | '.join(names)} | lam | splits |"]
        lines += [f"| --- |{' --- |' * (len(names) + 2)}"]
        values = part.pivot_table(
            index=["method", "seed"], columns="metric", values="value"
        )
        for form, table in values.groupby("method"):
            mean, std = table.mean(), table.std()
            cells = [f"{100 * mean[n]:.1f} ± {100 * std[n]:.1f}" for n in names]
            lam = f"{mean['lam']:.2f}"
            lines += [f"| {form} | {' | '.join(cells)} | {lam} | {len(table)} |"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
