"""Tables of the demo: in the terminal, as CSV and as JSON."""

import json
from pathlib import Path

import pandas as pd

from skdebias._demo._methods import FittedMethod, Rows
from skdebias.metrics import group_accuracy_table, group_summary

SCORES = {
    "accuracy": "average",
    "group_balanced_accuracy": "group-balanced",
    "worst_group_accuracy": "worst group",
}


def score_methods(
    fitted: list[FittedMethod], test: Rows
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every method on the test rows.

    Parameters
    ----------
    fitted : list of FittedMethod
    test : Rows

    Returns
    -------
    summary : DataFrame
        One row per method: each score with its ``_low`` and ``_high``.
    groups : DataFrame
        One row per method and group; the first column is ``method``.
    """
    summaries, tables = {}, []
    for method in fitted:
        predicted = method.pipeline.predict(test.X)
        summaries[method.name] = group_summary(
            test.y, predicted, attributes=test.attributes
        )
        table = group_accuracy_table(test.y, predicted, attributes=test.attributes)
        table.insert(0, "method", method.name)
        tables.append(table)
    return pd.DataFrame(summaries).T, pd.concat(tables, ignore_index=True)


def format_summary(summary: pd.DataFrame) -> list[str]:
    """Return the lines of the table for the terminal, scores in per cent."""
    cells = [["", *SCORES.values()]]
    for name, row in summary.iterrows():
        line = [str(name)]
        for score in SCORES:
            low, high = row[f"{score}_low"], row[f"{score}_high"]
            line.append(f"{row[score]:6.1%} [{low:.1%}, {high:.1%}]")
        cells.append(line)
    return align(cells)


def format_groups(groups: pd.DataFrame) -> list[str]:
    """Return the lines of the group table: a row per method, a column per group."""
    wide = groups.pivot(
        index="method", columns=["label", "attribute"], values="accuracy"
    ).reindex(groups["method"].unique())
    head = ["", *(f"{label}, {attribute}" for label, attribute in wide.columns)]
    rows = [[name, *(f"{v:.1%}" for v in row)] for name, row in wide.iterrows()]
    return align([head, *rows])


def format_counts(counts: pd.DataFrame) -> list[str]:
    """Return the lines of the table of group sizes."""
    rows = [
        [f"{label}, {attribute}", *(str(number) for number in row)]
        for (label, attribute), row in counts.iterrows()
    ]
    return align([["", *counts.columns], *rows])


def align(cells: list[list[str]]) -> list[str]:
    """Join cells to lines: the first column left, the others right aligned."""
    widths = [max(len(row[j]) for row in cells) for j in range(len(cells[0]))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        rest = (c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
        lines.append("  " + "   ".join([first, *rest]).rstrip())
    return lines


def write_json(path: Path, results: dict) -> None:
    """Write the results, readable and with a final newline."""
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def search_results(method: FittedMethod) -> dict:
    """Return what the search of a method tried and chose, as JSON values."""
    results = method.search.cv_results_
    return {
        "best_params": method.search.best_params_,
        "best_score": float(method.search.best_score_),
        "n_splits": int(method.search.n_splits_),
        "candidates": [
            {**params, "worst_group_accuracy": float(score)}
            for params, score in zip(
                results["params"], results["mean_test_score"], strict=True
            )
        ],
    }
