"""What the groups of one column say: who fares worst, who falls behind, how surely."""

from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom

from skdebias.metrics._intervals import lowest_interval, wilson_interval

# Groups of fewer rows say nothing of how a head does on others like them.
FEWEST = 5


class Comparisons(NamedTuple):
    """The groups of one column that have enough rows, and the rest of their classes.

    Parameters
    ----------
    cells : ndarray of shape (n_groups, 2)
        Label and value of every group.
    n, correct : ndarray of shape (n_groups,)
    n_rest, correct_rest : ndarray of shape (n_groups,)
        Of the rows of the class that have another value.
    crossing : ndarray of shape (n_classes, n_values)
        Rows of all groups, small ones too.
    n_errors : int
        Of all groups.
    """

    cells: np.ndarray
    n: np.ndarray
    correct: np.ndarray
    n_rest: np.ndarray
    correct_rest: np.ndarray
    crossing: np.ndarray
    n_errors: int

    @classmethod
    def of(cls, column, codes, correct):
        """Count the groups of a column.

        Parameters
        ----------
        column : Column
        codes : ndarray of shape (n_samples,)
            Class codes.
        correct : ndarray of shape (n_samples,), bool

        Returns
        -------
        Comparisons
        """
        known = column.codes >= 0
        shape = int(codes.max()) + 1, len(column.values)
        numbers = codes[known] * shape[1] + column.codes[known]
        n, hits = (
            np.bincount(rows, minlength=shape[0] * shape[1]).reshape(shape)
            for rows in (numbers, numbers[correct[known]])
        )
        cells = np.argwhere(n >= FEWEST)
        groups = tuple(cells.T)
        rest, rest_hits = (
            (counts.sum(1, keepdims=True) - counts)[groups] for counts in (n, hits)
        )
        n_errors = int((n - hits).sum())
        return cls(cells, n[groups], hits[groups], rest, rest_hits, n, n_errors)

    @property
    def comparable(self):
        """Which groups have rows of their class to be compared with."""
        return self.n_rest >= FEWEST


def worst_group(groups, names, overlap, confidence_level):
    """Describe the group of the lowest accuracy.

    Parameters
    ----------
    groups : Comparisons
    names : list
        Of the groups.
    overlap : float
        By how much the overlap of the folds enlarges variances.
    confidence_level : float
        Of the interval of the lowest of the true accuracies.

    Returns
    -------
    dict
    """
    name = "worst_group"
    keys = [name, *(f"{name}_{part}" for part in ("n", "accuracy", "low", "high"))]
    if not names:
        return dict(zip(keys, [None, 0, *[np.nan] * 3]))
    accuracy = groups.correct / groups.n
    worst = int(accuracy.argmin())
    low, high = lowest_interval(
        groups.correct / overlap, groups.n / overlap, confidence_level
    )
    numbers = int(groups.n[worst]), *map(float, (accuracy[worst], low, high))
    return dict(zip(keys, [names[worst], *numbers]))


def surest_gap(groups, names, overlap, z, n_tests):
    """Describe the group that falls behind the rest of its class most surely.

    Parameters
    ----------
    groups : Comparisons
    names : list
    overlap : float
        See :func:`worst_group`.
    z : float
        Standard deviations of the intervals.
    n_tests : int
        How many groups are compared, of all columns.

    Returns
    -------
    dict
    """
    keys = ["gap_group", "gap", "gap_low", "gap_high", "p_value"]
    kept = np.flatnonzero(groups.comparable)
    if not len(kept):
        return dict(zip(keys, [None, *[np.nan] * 4]))
    n, hits, n_rest, hits_rest = (
        counts[kept]
        for counts in (groups.n, groups.correct, groups.n_rest, groups.correct_rest)
    )
    share, rest = hits / n, hits_rest / n_rest
    gap = rest - share
    low, high = wilson_interval(share, n / overlap, z)
    rest_low, rest_high = wilson_interval(rest, n_rest / overlap, z)
    gap_low = gap - np.hypot(rest - rest_low, high - share)
    gap_high = gap + np.hypot(rest_high - rest, share - low)
    most = int(gap_low.argmax())
    total, total_hits = n[most] + n_rest[most], hits[most] + hits_rest[most]
    p_value = hypergeom.cdf(hits[most], total, total_hits, n[most])
    numbers = gap[most], gap_low[most], gap_high[most], min(p_value * n_tests, 1.0)
    return dict(zip(keys, [names[kept[most]], *map(float, numbers)]))


def explained_error(groups):
    """Return the share of the errors that groups have beyond the rest of their class.

    Of harmless groups half fall behind by chance. Every excess is shrunk by its own
    variance (James and Stein): small ones vanish, clear ones stay.

    Parameters
    ----------
    groups : Comparisons

    Returns
    -------
    float
        In [0, 1]; NaN where no group can be compared.
    """
    kept = groups.comparable
    if not kept.any():
        return np.nan
    if not groups.n_errors:
        return 0.0
    n, hits = groups.n[kept].astype(float), groups.correct[kept]
    n_rest, hits_rest = groups.n_rest[kept].astype(float), groups.correct_rest[kept]
    total = n + n_rest
    share = (hits + hits_rest) / total
    variance = n * share * (1 - share) * n_rest / (total - 1)
    # A hit more in the group is one less in the rest, which its excess is judged by.
    by_chance = variance * (total / n_rest) ** 2
    excess = np.maximum(n * hits_rest / n_rest - hits, 1e-9)
    shrunk = np.maximum(excess - by_chance / excess, 0)
    return float(min(shrunk.sum() / groups.n_errors, 1))


def cramers_v(crossing):
    """Return Cramer's V of a table of counts, with Bergsma's correction.

    Parameters
    ----------
    crossing : ndarray of shape (n_rows, n_columns)

    Returns
    -------
    float
        In [0, 1]; NaN of a table of one row or column, and of one in which every
        observation has a row or column of its own.
    """
    crossing = crossing[crossing.sum(1) > 0][:, crossing.sum(0) > 0]
    n, shape = crossing.sum(), crossing.shape
    if min(shape) < 2:
        return np.nan
    expected = np.outer(crossing.sum(1), crossing.sum(0)) / n
    squared = ((crossing - expected) ** 2 / expected).sum() / n
    by_chance = (shape[0] - 1) * (shape[1] - 1) / (n - 1)
    smaller = min(m - (m - 1) ** 2 / (n - 1) for m in shape) - 1
    if max(shape) == n or smaller <= 0:
        return np.nan
    return float(np.sqrt(min(max(squared - by_chance, 0) / smaller, 1)))
