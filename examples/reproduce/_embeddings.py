"""What text_embeddings.py and image_embeddings.py share: sets, tasks and tables."""

import argparse
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from _methods import FULL, METHODS, OPTIMISER, REGIMES, Part, counts, scores, settings
from _runner import Task, chosen, read, run
from scipy.stats import t as student_t
from sklearn.preprocessing import StandardScaler

COUNTS = "rows"
TITLES = {
    "worst_group": "worst group",
    "group_balanced": "group-balanced",
    "average": "average",
    "worst_class": "worst class",
    "average attribute=0": "originals",
    "average attribute=1": "revisions",
}
GROUPED = ("worst_group", "group_balanced", "average")


class Set(NamedTuple):
    """A data set: how its parts are drawn, and what of it is reported."""

    parts: Callable[[int], list[Part]]  # of a seed; scaled
    epochs: int
    metrics: tuple[str, ...] = GROUPED  # the first is the one that matters
    regimes: tuple[str, ...] = tuple(REGIMES)
    methods: tuple[str, ...] = tuple(METHODS)


def scaled(X, y, attributes, rows):
    """Return the parts with these rows, standardised on the first."""
    scaler = StandardScaler().fit(X[rows[0]].astype(np.float32))
    return [
        Part(
            scaler.transform(X[r].astype(np.float32)),
            y[r],
            None if attributes is None else attributes[r],
        )
        for r in rows
    ]


def tasks_of(sets, n_seeds, methods):
    """Return the tasks, seed by seed; the first of a seed counts the rows."""
    tasks = []
    for seed in range(n_seeds):
        for name, data in sets.items():
            tasks.append(Task(name, COUNTS, "", seed))
            for method in methods:
                usable = set(METHODS[method].regimes) & set(data.regimes)
                if usable and method in data.methods:
                    tasks += [Task(name, method, s, seed) for s in settings(method)]
    return tasks


def fit_with(sets):
    """Return the runner's function for these sets."""

    @lru_cache(maxsize=1)
    def parts(name, seed):
        return sets[name].parts(seed)

    def fit(task):
        own = parts(task.dataset, task.seed)
        if task.method == COUNTS:
            return counts(own)
        data = sets[task.dataset]
        return scores(
            task.method,
            task.setting,
            own,
            seed=task.seed,
            epochs=data.epochs,
            available=data.regimes,
        )

    return fit


def markdown(rows, name, metrics):
    """Return the markdown tables of one data set: its rows, then the scores."""
    rows = rows[rows["dataset"] == name]
    is_count = rows["method"] == COUNTS
    return "\n\n".join(
        [
            f"## {name}",
            _counts_table(rows[is_count]),
            _scores_table(rows[~is_count], metrics),
            _differences(rows[~is_count], metrics[0]),
        ]
    ).strip()


def _counts_table(rows):
    """Rows per group: the mean over seeds, with the range where they differ."""
    table = rows.groupby(["metric", "selection"])["value"].agg(["mean", "min", "max"])
    parts = ["training", "validation", "test"]
    lines = ["| group | " + " | ".join(parts) + " |", "| --- |" + " ---: |" * 3]
    for group in dict.fromkeys(rows["metric"].sort_values()):
        cells = []
        for part in parts:
            if (group, part) not in table.index:
                cells.append("")
                continue
            mean, low, high = table.loc[(group, part)]
            spread = "" if low == high else f" ({low:.0f} to {high:.0f})"
            cells.append(f"{mean:.0f}{spread}")
        lines.append(f"| {group.removeprefix('rows ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scores_table(rows, metrics):
    """One line per regime and method; the setting is chosen per split."""
    heads = [TITLES[metric] for metric in metrics]
    titles = [f"{heads[0]} (95 % interval)", *heads[1:], "splits", "seconds"]
    lines = [
        f"| known | method | {' | '.join(titles)} |",
        "| --- | --- |" + " ---: |" * len(titles),
    ]
    per_task = rows.drop_duplicates(["method", "setting", "seed"])
    seconds = per_task.groupby("method")["seconds"].sum()
    for regime in REGIMES:
        part = rows[rows["selection"] == regime]
        if part.empty:
            continue
        views = {m: _chosen_by_validation(part, m) for m in metrics}
        for method in views[metrics[0]].index:
            first, *others = (views[metric].loc[method] for metric in metrics)
            cells = [f"{_spread(first)} ({_interval(first)})", *map(_spread, others)]
            cells += [str(int(first["n_seeds"])), f"{seconds[method]:.0f}"]
            lines.append(f"| {regime} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _differences(rows, metric, method="GERNE"):
    """Compare one method with the others of its regime, split by split."""
    rows = rows[rows["selection"] == FULL]
    if method not in set(rows["method"]):
        return ""
    by_seed = pd.DataFrame(
        {
            seed: chosen(part, choose="validation", report=metric)["mean"].droplevel(0)
            for seed, part in rows.groupby("seed")
        }
    )
    lines = []
    for other in by_seed.index.drop(method):
        gain = (by_seed.loc[method] - by_seed.loc[other]).dropna()
        if len(gain) > 1:
            row = {"mean": gain.mean(), "std": gain.std(ddof=1), "n_seeds": len(gain)}
            lines.append(f"- {other}: {_spread(row)} ({_interval(row)})")
    if not lines:
        return ""
    head = f"Gain of {method} in {TITLES[metric]}, paired by split, with 95 % interval:"
    return "\n".join([head, "", *lines])


def _grids_table():
    """What every method chooses from."""
    lines = ["## Grids", "| method | its own parameters |", "| --- | --- |"]
    lines.insert(1, "")
    for name, method in METHODS.items():
        grids = method.grid if isinstance(method.grid, list) else [method.grid]
        cells = [
            ", ".join(f"{key}: {' / '.join(map(str, g[key]))}" for key in g)
            for g in grids
        ]
        lines.append(f"| {name} | {' or '.join(cells) or 'none'} |")
    common = "; ".join(f"{key}: {values}" for key, values in OPTIMISER.items())
    return "\n".join([*lines, "", f"All but DFR also choose from {common}."])


def _chosen_by_validation(rows, metric):
    view = chosen(rows, choose="validation", report=metric, per_seed=True)
    view = view.droplevel("dataset")
    return view.loc[[method for method in METHODS if method in view.index]]


def _spread(row):
    if row["n_seeds"] < 2:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} ± {row['std']:.3f}"


def _interval(row):
    """t interval of the mean over splits, which overlap: it is rather too narrow."""
    n = int(row["n_seeds"])
    if n < 3:
        return "too few splits"
    half = student_t.ppf(0.975, n - 1) * row["std"] / np.sqrt(n)
    return f"{row['mean'] - half:.3f} to {row['mean'] + half:.3f}"


def main(doc, make_sets, out, epilogue=""):
    """Run the command line of a script.

    Parameters
    ----------
    doc : str
        Docstring of the script, which also heads its tables.
    make_sets : callable
        Takes the arguments, returns {name: Set}.
    out : Path
        The tidy CSV.
    epilogue : str
        What follows the tables, such as known limits.
    """
    title, _, protocol = doc.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=None)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cache-dir", default=None, help="embeddings cache")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sets = make_sets(arguments)
    sets = {name: sets[name] for name in arguments.sets or sets}
    if arguments.table_only:
        rows = read(arguments.out)
    else:
        tasks = tasks_of(sets, arguments.splits, arguments.methods)
        rows = run(tasks, fit_with(sets), arguments.out)
    print(page(title, protocol, rows, sets, epilogue))


def page(title, protocol, rows, sets, epilogue=""):
    """Return the markdown page of a script; every number of it is in the CSV."""
    done = [name for name in sets if (rows["dataset"] == name).any()]
    tables = [markdown(rows, name, sets[name].metrics) for name in done]
    tasks = rows.drop_duplicates(["dataset", "method", "setting", "seed"])
    total = f"All fits together took {tasks['seconds'].sum() / 60:.0f} minutes."
    sections = [
        f"# {title}",
        protocol.strip("\n"),
        f"{total}\nThe machine's two cores were shared, so that seconds say little.",
        *tables,
        _grids_table(),
        epilogue.strip(),
    ]
    return "\n\n".join(section for section in sections if section)
