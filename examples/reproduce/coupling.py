"""Is GERNE's extra gradient noise good for anything? An ablation at equal s.

    python examples/reproduce/coupling.py --data DIR

In expectation only s = c (1 + beta) matters; a small c with a large beta means the same
objective with noisier gradients, and drawing the two batches from shared rows removes
most of that noise. Here s is fixed and c, beta and the coupling vary, on CelebA-HQ
embeddings (blond given male) over 5 splits. The learning rate, and nothing else, is
chosen per cell, by worst-group accuracy on the validation rows.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from _runner import ROWS, Task, chosen, run

from skdebias import GERNEClassifier

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from celeba_gerne import evaluate, load, split

STRENGTHS = (1.0, 1.5)
MIXING = (1.0, 0.5, 0.2, 0.1)
RATES = (3e-4, 1e-3, 3e-3)


def cells():
    """Yield (s, c, beta, coupling), without the beta that is 0 in both couplings."""
    for s in STRENGTHS:
        for c in MIXING:
            beta = s / c - 1
            for coupling in ("independent", "shared"):
                if beta or coupling == "independent":
                    yield s, c, beta, coupling


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("SKDEBIAS_DATA"))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROWS / "coupling.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    X, y, attributes = load(arguments.data)
    estimators = {
        (f"s={s}", f"c={c} {coupling}", f"lr={rate}"): GERNEClassifier(
            beta, c, coupling=coupling, learning_rate=rate
        )
        for s, c, beta, coupling in cells()
        for rate in RATES
    }
    tasks = [Task(*key, seed) for seed in range(arguments.splits) for key in estimators]

    parts = {}

    def fit(task):
        if task.seed not in parts:
            parts.clear()
            parts[task.seed] = split(X, y, attributes, task.seed)
        train, val, test = parts[task.seed]
        model = estimators[task.dataset, task.method, task.setting]
        model.set_params(random_state=task.seed)
        model.fit(*train, X_val=val.X, y_val=val.y, attributes_val=val.attributes)
        scores = evaluate(model, test)
        return {
            ("validation", "val_wga"): max(model.history_["validation_score"]),
            ("validation", "test_wga"): scores["worst group"],
            ("validation", "test_gba"): scores["group-balanced"],
        }

    rows = run(tasks, fit, arguments.out)
    table = chosen(rows, choose="val_wga", report="test_wga")
    table["gba"] = chosen(rows, choose="val_wga", report="test_gba")["mean"]
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
