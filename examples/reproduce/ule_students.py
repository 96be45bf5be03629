"""Is ULE's student more biased than ERM, as the method presumes?

    python examples/reproduce/ule_students.py --splits 3

Blond given male as in ``ule_heads.py``; test accuracies of the student after the last
epoch, for both losses and two weight decays. Nothing is selected.
"""

import argparse
from pathlib import Path

import numpy as np
from _runner import ROWS, Task, run
from sklearn.metrics import accuracy_score
from ule_heads import CELEBA, celeba

from skdebias import ERMClassifier, ULEClassifier
from skdebias.metrics import worst_group_accuracy_score

OPTIMISER = {"learning_rate": 1e-3, "max_iter": 15}
STUDENTS = {
    f"{loss}, weight decay {decay:g}": (loss, decay)
    for loss in ("gce", "ce")
    for decay in (0.1, 1.0)
}


def fit(task):
    """Scores of one student, or of ERM."""
    train, _, test = celeba(task.seed)
    if task.method == "ERM":
        head = ERMClassifier(random_state=task.seed, **OPTIMISER)
        logits = head.fit(train.X, train.y).decision_function(test.X)
    else:
        loss, decay = STUDENTS[task.method]
        head = ULEClassifier(
            1.0,
            balance=None,
            student_loss=loss,
            student_weight_decay=decay,
            random_state=task.seed,
            **OPTIMISER,
        ).fit(train.X, train.y)
        logits = test.X @ head.student_coef_[0] + head.student_intercept_
    predicted = (np.ravel(logits) > 0).astype(int)
    worst = worst_group_accuracy_score(test.y, predicted, attributes=test.attributes)
    return {
        ("none", "worst group"): worst,
        ("none", "average"): accuracy_score(test.y, predicted),
    }


def main():
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROWS / "ule_students.csv")
    args = parser.parse_args()
    methods = ["ERM", *STUDENTS]
    seeds = range(args.splits)
    todo = [Task(CELEBA, m, "linear", seed) for seed in seeds for m in methods]
    rows = run(todo, fit, args.out).query("metric == 'worst group'")
    print(rows.pivot_table(index="method", columns="seed", values="value").round(3))


if __name__ == "__main__":
    main()
