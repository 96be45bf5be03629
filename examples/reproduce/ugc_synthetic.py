"""UGC's synthetic set: the published number, and what it leaves out.

    python examples/reproduce/ugc_synthetic.py

The set of the paper: y is fair; five core features are N(2y, 1), standardised on train;
the sixth, s, equals y in 95 % of the rows and is left 0 or 1; 2,000 rows, shuffled into
1000 / 500 / 500. The paper reports 99.6 +- 0.1 test accuracy, with the lower of the
accuracies at s = 0 and s = 1 as "worst group". Beside both we report the worst of the
four (y, s) groups on 20,000 rows in which s is independent of y, a plain linear model,
and one that does not see s. In the harder versions the core features are N(0.75 y, 1)
or N(y, 1), and s counts twice as much.

Heads and optimizer are the same for all methods and nothing is tuned. The paper form is
its network (hidden layers of 32 and 32), one epoch of warm-up, and two global clusters.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _runner import ROWS, Task, run

from skdebias import ERMClassifier, UGCClassifier
from skdebias.metrics import worst_group_accuracy_score

# Shift of the core features, and scale of s.
VERSIONS = {
    "ugc synthetic": (2.0, 1.0),
    "ugc synthetic, shift 1": (1.0, 2.0),
    "ugc synthetic, shift 0.75": (0.75, 2.0),
}
PAPER = 0.996
HEAD = {
    "solver": "adamw",
    "learning_rate": 1e-2,
    "weight_decay": 1e-2,
    "batch_size": 64,
    "max_iter": 20,
}
NETWORK = HEAD | {"hidden_layer_sizes": (32, 32)}
PAPER_FORM = {
    "n_clusters": 2,
    "warmup": "epochs",
    "per_class": False,
    "pool": False,
}
METHODS = {
    "ERM": ERMClassifier(**HEAD),
    "ERM, core features only": ERMClassifier(**HEAD),
    "UGC": UGCClassifier(warmup="mean_difference", **HEAD),
    "UGC, logistic warm-up": UGCClassifier(warmup="logistic", **HEAD),
    "UGC, logistic warm-up, GroupDRO": UGCClassifier(
        warmup="logistic", robust="group_dro", step_size=0.1, **HEAD
    ),
    "ERM, network": ERMClassifier(**NETWORK),
    "UGC paper form, network": UGCClassifier(**PAPER_FORM, **NETWORK),
    "oracle": ERMClassifier(balance="group", **HEAD),
}


def generate(n, shift, aligned, rng):
    """Return core features, y and s."""
    y = (rng.random(n) < 0.5).astype(int)
    s = np.where(rng.random(n) < aligned, y, 1 - y)
    return rng.normal(size=(n, 5)) + shift * y[:, None], y, s


def parts(version, seed):
    """Train, test and balanced test: (X, y, s) each; the last column of X is s."""
    shift, scale = VERSIONS[version]
    rng = np.random.default_rng(seed)
    core, y, s = generate(2000, shift, 0.95, rng)
    # The second of the three parts, for validation, is not used: nothing is tuned.
    train, test = slice(0, 1000), slice(1500, 2000)
    mean, std = core[train].mean(0), core[train].std(0)
    balanced = generate(20000, shift, 0.5, rng)

    def part(core, y, s):
        return np.column_stack([(core - mean) / std, scale * s]), y, s

    drawn = part(core, y, s)
    return [*(tuple(a[rows] for a in drawn) for rows in (train, test)), part(*balanced)]


def fit(task):
    """Scores of one method on one draw."""
    columns = slice(5) if "core" in task.method else slice(None)
    (X, y, s), (X_test, y_test, s_test), (X_even, y_even, s_even) = parts(
        task.dataset, task.seed
    )
    model = METHODS[task.method].set_params(random_state=task.seed)
    model.fit(X[:, columns], y, s if task.method == "oracle" else None)
    right = model.predict(X_test[:, columns]) == y_test
    even = model.predict(X_even[:, columns])
    return {
        ("none", "average"): right.mean(),
        ("none", "worst_s"): min(right[s_test == value].mean() for value in (0, 1)),
        ("none", "worst_group"): worst_group_accuracy_score(
            y_even, even, attributes=s_even
        ),
        ("none", "group_balanced"): (even == y_even).mean(),
    }


def summary(rows):
    """Mean +- standard deviation over the draws, in per cent."""
    rows = rows[rows["dataset"].isin(VERSIONS)]
    by = rows.groupby(["dataset", "method", "metric"], sort=False)["value"]
    text = 100 * by.agg(["mean", "std"])
    shown = text["mean"].map("{:.1f}".format) + " ± " + text["std"].map("{:.1f}".format)
    table = shown.unstack("metric")
    return table.reindex(pd.MultiIndex.from_product([VERSIONS, METHODS]))


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROWS / "ugc_synthetic.csv")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # weak clusters are part of what is measured
    tasks = [
        Task(dataset, method, "fixed", seed)
        for dataset in VERSIONS
        for method in METHODS
        for seed in range(arguments.seeds)
    ]
    print(summary(run(tasks, fit, arguments.out)).to_string())
    print(f"\nPaper: {100 * PAPER:.1f} ± 0.1 (average, ugc synthetic)")


if __name__ == "__main__":
    main()
