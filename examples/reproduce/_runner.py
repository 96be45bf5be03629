"""One runner for all reproductions: tasks in, a tidy CSV out, resumable.

A task is a method with a setting on a data set with a seed. Its scores are appended to
the CSV in one write, so a run that is interrupted goes on where it stopped.
"""

import csv
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

ROWS = Path(__file__).parent / "rows"  # raw rows behind every table of the pages
PAGES = Path(__file__).parents[2] / "docs" / "results"
COLUMNS = [
    "dataset",
    "method",
    "setting",
    "seed",
    "selection",
    "metric",
    "value",
    "seconds",
]


@dataclass(frozen=True)
class Task:
    """What is fitted: `setting` names the hyper-parameters of `method`."""

    dataset: str
    method: str
    setting: str
    seed: int


def run(
    tasks: Iterable[Task],
    fit: Callable[[Task], dict[tuple[str, str], float]],
    out: Path,
) -> pd.DataFrame:
    """Run the tasks that the CSV does not hold yet.

    Parameters
    ----------
    tasks : iterable of Task
    fit : callable
        Returns `{(selection, metric): value}` for a task.
    out : Path
        The CSV.

    Returns
    -------
    DataFrame
        All rows of the CSV.
    """
    tasks = list(tasks)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = finished(out)
    missing = [task for task in tasks if astuple(task) not in done]
    with tqdm(total=len(tasks), initial=len(tasks) - len(missing), unit="fit") as bar:
        for task in missing:
            bar.set_postfix_str(" ".join(map(str, astuple(task))))
            start = time.perf_counter()
            scores = fit(task)
            _append(out, task, scores, time.perf_counter() - start)
            bar.update()
    return read(out)


def read(out: Path) -> pd.DataFrame:
    """Read the CSV; names that look like numbers, or like nothing, stay text."""
    return pd.read_csv(
        out,
        dtype=dict.fromkeys(COLUMNS[:3], str),
        keep_default_na=False,
        na_values={"value": ["nan"]},
    )


def finished(out: Path) -> set[tuple[str, str, str, int]]:
    """Return the tasks that the CSV holds."""
    if not out.exists():
        return set()
    rows = read(out)[COLUMNS[:4]]
    return set(rows.itertuples(index=False, name=None))


def _append(
    out: Path, task: Task, scores: dict[tuple[str, str], float], seconds: float
) -> None:
    new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for (selection, metric), value in scores.items():
            row = [*astuple(task), selection, metric, f"{value:.5f}", f"{seconds:.1f}"]
            writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def chosen(
    rows: pd.DataFrame, *, choose: str, report: str, per_seed: bool = False
) -> pd.DataFrame:
    """Pick the setting of every method by one metric and report another.

    Parameters
    ----------
    rows : DataFrame
        The tidy CSV.
    choose, report : str
        Metrics. The setting with the highest mean of `choose` over seeds is taken, per
        data set and method; `report` is averaged over the same seeds.
    per_seed : bool, default=False
        Choose a setting for every seed, as a search on that split alone would. Of
        settings with equal scores the first in the file wins.

    Returns
    -------
    DataFrame
        Indexed by data set and method: setting (several with `per_seed`), mean, std
        (over seeds), n_seeds.
    """
    table = rows.pivot_table(
        index=["dataset", "method", "setting", "seed"],
        columns="metric",
        values="value",
        sort=False,
    ).reset_index()
    picked = {}
    for (dataset, method), part in table.groupby(["dataset", "method"], sort=False):
        if per_seed:
            best = part.loc[part.groupby("seed")[choose].idxmax(), "setting"]
            values = part.loc[best.index, report]
        else:
            best = [part.groupby("setting", sort=False)[choose].mean().idxmax()]
            values = part.loc[part["setting"] == best[0], report]
        picked[dataset, method] = {
            "setting": "; ".join(dict.fromkeys(best)),
            "mean": values.mean(),
            "std": values.std(ddof=1),
            "n_seeds": len(values),
        }
    result = pd.DataFrame.from_dict(picked, orient="index")
    result.index.names = ["dataset", "method"]
    return result
