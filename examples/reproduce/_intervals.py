"""Intervals over splits and the numbers of the prose: one way for all pages.

What an interval may claim depends on what a seed draws anew. Splits of one data set
share rows, so that their scores are not independent: their interval is corrected
(`skdebias.metrics.corrected_interval`). Where the test part is the same in all of them,
or every seed draws data of its own, scores are independent of one another, and the
interval is that of Student; in the former case it is of that test part alone.
"""

import re
import textwrap
from typing import NamedTuple

import numpy as np
from _runner import ROWS
from scipy.stats import t as student_t

from skdebias.metrics import corrected_interval

COUNTS = "rows"  # the method of tasks that count the rows of the parts


class Sampling(NamedTuple):
    """What the seeds of a data set draw anew.

    `n_train` is None where scores of different seeds are independent, given what all of
    them share.
    """

    n_train: float | None
    n_test: float
    covers: str  # a sentence for the page

    def interval(self, scores):
        """Return the mean of the scores of all seeds, and its 95 % interval."""
        scores = np.asarray(scores, dtype=float)
        if self.n_train is not None:
            return corrected_interval(scores, n_train=self.n_train, n_test=self.n_test)
        half = student_t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1)
        half /= np.sqrt(len(scores))
        return scores.mean(), scores.mean() - half, scores.mean() + half

    def told(self, scores, digits=3):
        """Return "low to high"; there is no interval of less than three scores."""
        if len(scores) < 3:
            return "too few splits"
        _, low, high = self.interval(scores)
        return f"{low:.{digits}f} to {high:.{digits}f}"

    def in_prose(self, scores, scale=1):
        """Return "mean (low to high)" of the prose; `scale` is 100 for points."""
        numbers = (scale * value for value in self.interval(scores))
        mean, low, high = (points(v) if scale == 100 else short(v) for v in numbers)
        return f"{mean} ({low} to {high})"

    def holds_zero(self, scores):
        """Return whether the interval holds zero."""
        _, low, high = self.interval(scores)
        return low <= 0 <= high


def resampled(n_train, n_test):
    """Return the sampling of random splits of one data set.

    Parameters
    ----------
    n_train, n_test : float
        Rows of the training part, on which models are fitted, and of the test part.
        Rows that only choose are not counted, which makes intervals rather too wide.
    """
    return Sampling(
        n_train,
        n_test,
        "Intervals (95 %) are corrected for splits that share rows (Nadeau and Bengio; "
        f"{n_test:,.0f} test rows / {n_train:,.0f} training rows = "
        f"{n_test / n_train:.2f}).",
    )


def fixed_test(n_test):
    """Return the sampling of training rows drawn from one pool, for one test part."""
    return Sampling(
        None,
        n_test,
        "Intervals (95 %) cover the draws of training and validation rows from one "
        f"pool, what is chosen on them, and the seed. The {n_test:,.0f} test rows are "
        "the same in all splits: what other test rows or another pool would change, "
        "for an accuracy near .6 already "
        f"± {short(1.96 * np.sqrt(0.24 / n_test))} by the test rows, is not covered.",
    )


def of_rows(rows, *, is_fixed):
    """Return the sampling of one data set, from the rows that count its parts."""
    counts = rows[rows["method"] == COUNTS]
    sizes = counts.groupby(["selection", "seed"])["value"].sum().groupby("selection")
    n_train, n_test = (sizes.mean()[part] for part in ("training", "test"))
    return fixed_test(n_test) if is_fixed else resampled(n_train, n_test)


def picked(rows, *, choose, report):
    """Return the metric of the setting that is best by another, split by split.

    Parameters
    ----------
    rows : DataFrame
        The tidy CSV, of one data set and one way of selection.
    choose, report : str
        Metrics. Of settings with equal scores the first in the file wins.

    Returns
    -------
    DataFrame
        Indexed by method, with a column per seed.
    """
    table = rows.pivot_table(
        index=["method", "setting", "seed"],
        columns="metric",
        values="value",
        sort=False,
    ).reset_index()
    best = table.groupby(["method", "seed"], sort=False)[choose].idxmax()
    return table.loc[best].pivot(index="method", columns="seed", values=report)


def short(value, digits=3):
    """Return a share as the prose has it: .057, -.001, 1.000."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def points(value):
    """Return per cent with one decimal, and no negative zero."""
    return f"{value:.1f}".replace("-0.0", "0.0")


def prose(text, facts, rows, out):
    """Return the prose of a page, which is of the rows of the repository alone.

    Parameters
    ----------
    text : str
        Markdown with fields in braces.
    facts : callable
        Takes the rows, returns the values of the fields.
    rows : DataFrame
    out : Path
        Where the rows are. Of rows of one's own the text would say nothing true.

    Returns
    -------
    str
        Empty, or the text after an empty line.
    """
    if out.resolve().parent != ROWS.resolve():
        return ""
    return f"\n{written(text, facts(rows))}\n"


def written(text, fields=None):
    """Return prose with its fields filled in, wrapped again; all else stays.

    Parameters
    ----------
    text : str
        Markdown: headings, paragraphs, lists; fields in braces.
    fields : dict, default=None
        Values of the fields; None leaves braces as they are.
    """
    if fields is not None:
        text = text.format(**fields)
    blocks = []
    for block in text.strip("\n").split("\n\n"):
        if re.match(r"[#|!]|    ", block):
            blocks.append(block)
            continue
        items = re.split(r"\n(?=- )", block)
        indents = ["  " if item.startswith("- ") else "" for item in items]
        wrapped = [
            textwrap.fill(
                " ".join(item.split()),
                88,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for item, indent in zip(items, indents)
        ]
        blocks.append("\n".join(wrapped))
    return "\n\n".join(blocks)
