"""The demo on ten seeds: what a single run of it cannot say

    python examples/reproduce/demo_seeds.py --seeds 10

`skdebias demo` with `--seed` 0, 1, ...: scikit-learn's 1,797 handwritten digits, 0 to 4
against 5 to 9, whose colour agrees with the class in 97 % of the training rows and is
independent of it in the others. A seed draws the split into training, validation and
test part, the colours, the folds and the training. The parameters of the last two rows
are chosen in training or validation rows, from the demo's own grid; the other rows have
no choice. Scores are of the test part.
"""

import argparse
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from _intervals import COUNTS, of_rows, prose, written
from _runner import ROWS, Task, read, run

from skdebias._demo import DemoSettings, run_demo
from skdebias._demo._data import load_data
from skdebias._demo._methods import MIXES, STEPS

DATASET = "coloured digits"
METHODS = (
    "ERM",
    "ERM, groups balanced",
    "GERNE, c=1 beta=0 (resampling)",
    "GERNE, tuned on folds of train",
    "GERNE, tuned on the val rows",
)
PARTS = {"train": "training", "val": "validation", "test": "test"}
METRICS = {"worst_group": "worst group", "group_balanced": "group-balanced"}
EPILOGUE = """
Balancing the groups is what gains: {balance} over ERM. Tuning beyond balance on
validation rows, whose colours are balanced, adds {tuned}, and on folds of the training
rows, with three minority rows per group in each, {folds}. Both intervals hold zero: ten
splits of 1,797 digits cannot tell whether tuning helps. Only the tuned rows have a
choice, of {n_settings} settings.
"""


@lru_cache(maxsize=1)
def demo(seed):
    """Return the group sizes of the parts, and the scores of all methods."""
    with tempfile.TemporaryDirectory() as folder:
        settings = DemoSettings(out=Path(folder), seed=seed, quiet=True)
        counts = load_data(settings).group_counts()
        return counts, run_demo(settings, lambda line: None)["scores"]


def fit(task):
    """Scores of one method; all of them come from one run."""
    counts, scores = demo(task.seed)
    if task.method == COUNTS:
        return {
            (PARTS[part], f"rows y={y}, colour={colour}"): n
            for part, column in counts.items()
            for (y, colour), n in column.items()
        }
    own = scores[task.method]
    return {
        ("none", metric): own[f"{metric}_accuracy"]
        for metric in ("worst_group", "group_balanced")
    } | {("none", "average"): own["accuracy"]}


def scores_of(rows, metric):
    """Return the scores of every method, a column per seed."""
    own = rows[(rows["metric"] == metric) & (rows["method"] != COUNTS)]
    return own.pivot(index="method", columns="seed", values="value").loc[list(METHODS)]


def table(rows):
    """Markdown table: mean, spread over seeds, and gain over balanced groups."""
    sampling = of_rows(rows, is_fixed=False)
    views = {metric: scores_of(rows, metric) for metric in METRICS}
    worst = views["worst_group"]
    lines = [
        f"| method | {' | '.join(METRICS.values())} | worst group less that of "
        "balanced groups (95 % interval) |",
        "| --- |" + " ---: |" * (len(METRICS) + 1),
    ]
    for method in METHODS:
        cells = [
            f"{v.loc[method].mean():.3f} ± {v.loc[method].std():.3f}"
            for v in views.values()
        ]
        gain = worst.loc[method] - worst.loc["ERM, groups balanced"]
        told = f"{gain.mean():.3f} ({sampling.told(gain)})" if gain.any() else ""
        lines.append(f"| {method} | {' | '.join(cells)} | {told} |")
    return "\n".join([*lines, "", written(sampling.covers)])


def facts(rows):
    """Return the numbers of the prose."""
    sampling, worst = of_rows(rows, is_fixed=False), scores_of(rows, "worst_group")
    balanced = worst.loc["ERM, groups balanced"]
    return {
        "balance": sampling.in_prose(balanced - worst.loc["ERM"]),
        "tuned": sampling.in_prose(worst.loc[METHODS[4]] - balanced),
        "n_settings": len(MIXES) * (1 + len(STEPS)),
        "folds": sampling.in_prose(worst.loc[METHODS[3]] - balanced),
    }


def main():
    """Run the command line."""
    title, _, protocol = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROWS / "demo_seeds.csv")
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.table_only:
        rows = read(arguments.out)
    else:
        tasks = [
            Task(DATASET, method, "", seed)
            for seed in range(arguments.seeds)
            for method in (COUNTS, *METHODS)
        ]
        rows = run(tasks, fit, arguments.out)
    print(f"# {title}\n\n{protocol.rstrip()}\n\n{table(rows)}")
    print(prose(EPILOGUE, facts, rows, arguments.out), end="")


if __name__ == "__main__":
    main()
