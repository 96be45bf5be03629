"""The figure of the demo."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skdebias._demo._methods import FittedMethod


def draw(path: Path, groups: pd.DataFrame, fitted: list[FittedMethod]) -> None:
    """Draw group accuracies per method, and the searches over beta and c.

    Parameters
    ----------
    path : path
        Where to write the figure; the suffix decides the format.
    groups : DataFrame
        The group table of all methods on the test rows.
    fitted : list of FittedMethod
        The methods; those with a search get a panel.
    """
    searched = [method for method in fitted if method.search is not None]
    # Figure, not pyplot: no window system and no global state.
    figure = Figure(figsize=(6 + 4 * len(searched), 5), layout="constrained")
    axes = figure.subplots(
        1, 1 + len(searched), width_ratios=[1.6] + [1] * len(searched)
    )
    axes = np.atleast_1d(axes)
    _draw_groups(axes[0], groups)
    for ax, method in zip(axes[1:], searched, strict=True):
        _draw_search(ax, method)
    figure.savefig(path, dpi=120)


def _draw_groups(ax, groups: pd.DataFrame) -> None:
    """Draw a bar with its interval per method and group."""
    methods = groups["method"].unique()
    width = 0.8 / len(methods)
    for j, method in enumerate(methods):
        part = groups[groups["method"] == method]
        error = [part["accuracy"] - part["low"], part["high"] - part["accuracy"]]
        where = np.arange(len(part)) + (j - (len(methods) - 1) / 2) * width
        ax.bar(where, part["accuracy"], width, yerr=error, label=method, capsize=2)
    names = part["label"].astype(str) + "\n" + part["attribute"].astype(str)
    ax.set_xticks(np.arange(len(part)), names)
    ax.set(ylim=(0, 1.05), ylabel="test accuracy", title="Accuracy of each group")
    # Below the bars: there is no place among them that is always free.
    ax.legend(
        fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2
    )


def _draw_search(ax, method: FittedMethod) -> None:
    """Draw the worst-group accuracy over beta, one line per c."""
    results = pd.DataFrame(method.search.cv_results_)
    for c, part in results.groupby("param_head__c"):
        part = part.sort_values("param_head__beta")
        ax.plot(
            part["param_head__beta"], part["mean_test_score"], "o-", label=f"c = {c:g}"
        )
    best = method.search.best_params_
    ax.plot(best["head__beta"], method.search.best_score_, "k*", ms=14, label="chosen")
    ax.set(xlabel="beta", ylabel="worst-group accuracy in the search")
    ax.set(ylim=(0, 1.05), title=method.name)
    ax.legend(fontsize="small", loc="lower right")
