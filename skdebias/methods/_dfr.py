"""DFR: which rows the heads of deep feature reweighting are fitted on."""

import numpy as np
from numpy.typing import NDArray

from skdebias._attributes import Groups


def balanced_subset(groups: Groups, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many rows of every group as the smallest has, without replacement.

    Parameters
    ----------
    groups : Groups
        Groups of the rows.
    rng : Generator

    Returns
    -------
    ndarray of shape (n_groups * smallest,)
        Row numbers, sorted.

    References
    ----------
    Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for
    Robustness to Spurious Correlations", ICLR 2023, section 6.

    Examples
    --------
    >>> import numpy as np
    >>> groups = Groups.from_labels([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], 2, 2)
    >>> groups.ids[balanced_subset(groups, np.random.default_rng(0))]
    array([0, 1, 2])
    """
    smallest = int(groups.counts.min())
    order = rng.permutation(len(groups.ids))
    order = order[np.argsort(groups.ids[order], kind="stable")]
    starts = np.cumsum(groups.counts) - groups.counts
    return np.sort(order[(starts[:, None] + np.arange(smallest)).ravel()])


def halves(
    groups: Groups, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the rows of every group in half.

    Parameters
    ----------
    groups : Groups
        Groups of the rows.
    rng : Generator

    Returns
    -------
    first, second : ndarray of shape (n_rows,)
        Row numbers, sorted. The odd row of a group goes to the first half, which
        therefore holds every group.

    Examples
    --------
    >>> import numpy as np
    >>> groups = Groups.from_labels([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], 2, 2)
    >>> first, second = halves(groups, np.random.default_rng(0))
    >>> groups.ids[first], groups.ids[second]
    (array([0, 1, 2]), array([0, 2]))
    """
    order = rng.permutation(len(groups.ids))
    order = order[np.argsort(groups.ids[order], kind="stable")]
    starts = np.cumsum(groups.counts) - groups.counts
    within = np.arange(len(order)) - np.repeat(starts, groups.counts)
    in_first = 2 * within < np.repeat(groups.counts, groups.counts)
    return np.sort(order[in_first]), np.sort(order[~in_first])
