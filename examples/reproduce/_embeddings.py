"""What text_embeddings.py and image_embeddings.py share: sets, tasks and tables."""

import argparse
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _intervals import COUNTS, of_rows, picked, prose, written
from _methods import (
    FULL,
    INFERRED,
    METHODS,
    NONE,
    OPTIMISER,
    REGIMES,
    VALIDATION,
    Part,
    counts,
    scores,
    settings,
)
from _runner import Task, chosen, read, run
from sklearn.preprocessing import StandardScaler

TITLES = {
    "worst_group": "worst group",
    "group_balanced": "group-balanced",
    "average": "average",
    "worst_class": "worst class",
    "average attribute=0": "originals",
    "average attribute=1": "revisions",
}
GROUPED = ("worst_group", "group_balanced", "average")
# What methods without attributes are compared with, and where it is chosen: no regime
# knows less than that in which a method itself is chosen.
BASELINES = ("ERM", "ERM, class-balanced")
REGIME_OF_BASELINES = {VALIDATION: VALIDATION, NONE: NONE, INFERRED: NONE}


class Set(NamedTuple):
    """A data set: how its parts are drawn, and what of it is reported."""

    parts: Callable[[int], list[Part]]  # of a seed; scaled
    epochs: int
    metrics: tuple[str, ...] = GROUPED  # the first is the one that matters
    regimes: tuple[str, ...] = tuple(REGIMES)
    methods: tuple[str, ...] = tuple(METHODS)
    fixed_test: bool = False  # the test part is the same in all splits


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


def markdown(rows, name, data):
    """Return the markdown tables of one data set: its rows, then the scores."""
    rows = rows[rows["dataset"] == name]
    sampling = of_rows(rows, is_fixed=data.fixed_test)
    is_count, metric = rows["method"] == COUNTS, data.metrics[0]
    blocks = [
        f"## {name}",
        _counts_table(rows[is_count]),
        _scores_table(rows[~is_count], data.metrics, sampling, name),
        _notes(rows, name, sampling),
        _differences(rows, metric, sampling),
        _blind_differences(rows, metric, sampling),
    ]
    return "\n\n".join(block for block in blocks if block)


def _notes(rows, name, sampling):
    """What the intervals cover, and which lines were looked at before."""
    notes = [sampling.covers]
    if any(name in METHODS[m].seen_on for m in METHODS if m in set(rows["method"])):
        notes.append(
            "† A form of this method was picked after looking at test scores on this "
            "set: its numbers are too good by an unknown amount."
        )
    return written("\n\n".join(notes))


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


def _scores_table(rows, metrics, sampling, name):
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
        values = picked(part, choose="validation", report=metrics[0])
        for method in views[metrics[0]].index:
            first, *others = (views[metric].loc[method] for metric in metrics)
            told = sampling.told(values.loc[method].dropna())
            cells = [f"{_spread(first)} ({told})", *map(_spread, others)]
            cells += [str(int(first["n_seeds"])), f"{seconds[method]:.0f}"]
            mark = " †" if name in METHODS[method].seen_on else ""
            lines.append(f"| {regime} | {method}{mark} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gain(rows, metric, one, other):
    """Return the scores of one method less those of another, split by split.

    Parameters
    ----------
    rows : DataFrame
        Of one data set.
    metric : str
    one, other : tuple of str
        Method and regime.

    Returns
    -------
    Series
        Indexed by seed; only the seeds that both have run.
    """
    scores = []
    for method, regime in (one, other):
        own = rows[(rows["selection"] == regime) & (rows["method"] == method)]
        scores.append(picked(own, choose="validation", report=metric).loc[method])
    return (scores[0] - scores[1]).dropna()


def _differences(rows, metric, sampling, method="GERNE"):
    """Compare one method with the others of its regime, split by split."""
    named = set(rows.loc[rows["selection"] == FULL, "method"])
    if method not in named:
        return ""
    lines = []
    for other in METHODS:
        if other in named - {method}:
            lines.append(
                f"- {other}: "
                + _gain_cell(
                    gain(rows, metric, (method, FULL), (other, FULL)), sampling
                )
            )
    head = f"Gain of {method} in {TITLES[metric]}, paired by split:"
    return "\n".join([head, "", *lines])


def _blind_differences(rows, metric, sampling):
    """Compare all methods that train without attributes with both forms of ERM."""
    lines = []
    for regime, compared in REGIME_OF_BASELINES.items():
        named = set(rows.loc[rows["selection"] == regime, "method"])
        for method in METHODS:
            if method not in named or (method, regime) == ("ERM", compared):
                continue
            cells = [
                _gain_cell(
                    gain(rows, metric, (method, regime), (other, compared)), sampling
                )
                if other != method
                else ""
                for other in BASELINES
            ]
            lines.append(f"| {regime} | {method} | {' | '.join(cells)} |")
    if len(lines) < 2:
        return ""
    head = [
        written(
            f"Gain in {TITLES[metric]}, paired by split. Both forms of ERM are chosen "
            "with what the method itself is chosen with, or without attributes where "
            "groups are inferred:"
        ),
        "",
        "| known | method | over ERM | over class-balanced ERM |",
        "| --- | --- | ---: | ---: |",
    ]
    return "\n".join([*head, *lines])


def _gain_cell(values, sampling):
    if len(values) < 2:
        return f"{values.mean():.3f}" if len(values) else ""
    text = f"{values.mean():.3f} ± {values.std(ddof=1):.3f} ({sampling.told(values)})"
    return text.replace("-0.000", "0.000")


def _grids_table(methods):
    """What every one of these methods chooses from."""
    lines = ["| method | its own parameters | settings |", "| --- | --- | ---: |"]
    named = {name: own for name, own in METHODS.items() if name in methods}
    for name, method in named.items():
        grids = method.grid if isinstance(method.grid, list) else [method.grid]
        cells = [
            ", ".join(f"{key}: {' / '.join(map(str, g[key]))}" for key in g)
            for g in grids
        ]
        lines.append(
            f"| {name} | {' or '.join(cells) or 'none'} | {len(settings(name))} |"
        )
    common = "; ".join(f"{key}: {values}" for key, values in OPTIMISER.items())
    sizes = {len(settings(name)) for name, m in named.items() if m.optimizer}
    told = [
        f"All but DFR also choose from {common}. DFR chooses among seven strengths of "
        "its penalty by itself.",
        f"Budgets are not equal: {min(sizes)} to {max(sizes)} settings for what is "
        "trained in epochs, and an epoch for each. ERM has the smallest: more choice "
        "raises what is chosen on validation, and on test where validation is a good "
        "guide.",
    ]
    return "\n".join(["## Grids", "", *lines, "", written("\n\n".join(told))])


def _chosen_by_validation(rows, metric):
    view = chosen(rows, choose="validation", report=metric, per_seed=True)
    view = view.droplevel("dataset")
    return view.loc[[method for method in METHODS if method in view.index]]


def _spread(row):
    if row["n_seeds"] < 2:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} ± {row['std']:.3f}"


def main(doc, make_sets, out, epilogue, facts):
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
        What follows the tables, such as known limits. Its numbers are fields in braces.
    facts : callable
        Takes the rows, returns the values of the fields.
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
    text = page(title, protocol, rows, sets)
    told = prose(epilogue, facts, rows, arguments.out)
    print(f"{text}\n{told}", end="")


def page(title, protocol, rows, sets):
    """Return the markdown page of a script; every number of it is in the CSV."""
    done = [name for name in sets if (rows["dataset"] == name).any()]
    tables = [markdown(rows, name, sets[name]) for name in done]
    tasks = rows.drop_duplicates(["dataset", "method", "setting", "seed"])
    total = f"All fits together took {tasks['seconds'].sum() / 60:.0f} minutes."
    sections = [
        f"# {title}",
        protocol.strip("\n"),
        f"{total}\nThe machine's two cores were shared, so that seconds say little.",
        *tables,
        _grids_table(set(rows["method"])),
    ]
    return "\n\n".join(sections)
