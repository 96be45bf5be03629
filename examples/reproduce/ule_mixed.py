"""ULE with two backbones on BAR: a student that reads other embeddings

    python examples/reproduce/ule_mixed.py --splits 5

Photos of six actions, trained and validated (80 and 20 % of the official training part)
on usual places, tested on unusual ones; embeddings of a pretrained MobileNetV1 and a
MobileNetV2 of the same photos, standardised on training rows. The teacher reads one,
the student either. Epoch (of 60), lam (.5, .8), learning rate and weight decay are
chosen per split by worst-class accuracy on validation.
"""

import argparse
import os
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from _embeddings import scaled
from _methods import OPTIMISER
from _runner import ROWS, Task, chosen, run
from sklearn.metrics import accuracy_score
from sklearn.model_selection import ParameterGrid, train_test_split

from skdebias import ERMClassifier, ULEClassifier
from skdebias.metrics import worst_class_accuracy_score

BACKBONES = ("mobilenet_v1", "mobilenet_v2")
DATASET = "BAR"


@cache
def photos():
    path = Path(os.environ.get("SKDEBIAS_DATA", ".")) / "embeddings" / "bar.npz"
    with np.load(path) as data:
        scale = float(data["scale"])
        found = {b: data[f"X_{b}_u8"].astype(np.float32) * scale for b in BACKBONES}
        return found, data["action"].astype(str), data["split"] == "test"


@lru_cache(maxsize=1)
def parts(seed):
    """Training, validation and test part of either backbone."""
    embeddings, y, is_test = photos()
    pool = np.flatnonzero(~is_test)
    rows = train_test_split(pool, test_size=0.2, stratify=y[pool], random_state=seed)
    rows = [*rows, np.flatnonzero(is_test)]
    return {b: scaled(X, y, None, rows) for b, X in embeddings.items()}


def methods():
    """Every method: {name: (estimator, teacher's backbone, student's or None)}."""
    found = {}
    for own in BACKBONES:
        found[f"ERM, class-balanced, {own}"] = ERMClassifier(balance="class"), own, None
        for student in BACKBONES:
            name = f"ULE, {own}, student {student}"
            found[name] = ULEClassifier(balance="class"), own, student
    return found


def points(student):
    own = {} if student is None else {"lam": [0.5, 0.8]}
    return {str(point): point for point in ParameterGrid(OPTIMISER | own)}


def fit(task):
    estimator, own, student = methods()[task.method]
    train, validation, test = parts(task.seed)[own]
    estimator.set_params(
        **points(student)[task.setting], max_iter=60, random_state=task.seed
    )
    further = {}
    if student not in (None, own):
        further["X_student"] = parts(task.seed)[student][0].X
    estimator.fit(train.X, train.y, X_val=validation.X, y_val=validation.y, **further)
    predicted = estimator.predict(test.X)
    return {
        ("none", "validation"): max(estimator.history_["validation_score"]),
        ("none", "average"): accuracy_score(test.y, predicted),
        ("none", "worst_class"): worst_class_accuracy_score(test.y, predicted),
    }


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROWS / "ule_mixed.csv")
    arguments = parser.parse_args()
    tasks = [
        Task(DATASET, name, setting, seed)
        for seed in range(arguments.splits)
        for name, (_, _, student) in methods().items()
        for setting in points(student)
    ]
    rows = run(tasks, fit, arguments.out)
    print("| form | average | worst class |\n| --- | ---: | ---: |")
    views = [
        chosen(rows, choose="validation", report=metric, per_seed=True)
        for metric in ("average", "worst_class")
    ]
    for name in methods():
        cells = [view.loc[(DATASET, name)] for view in views]
        print(
            f"| {name} | "
            + " | ".join(f"{100 * c['mean']:.1f} ± {100 * c['std']:.1f}" for c in cells)
            + " |"
        )


if __name__ == "__main__":
    main()
