"""DFR and Dispel: which rows heads that are fitted anew are fitted on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups


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
    smallest = int(groups.sizes.min())
    order = groups.shuffled(rng)
    starts = np.cumsum(groups.sizes) - groups.sizes
    return np.sort(order[(starts[:, None] + np.arange(smallest)).ravel()])


def balanced_draw(
    groups: Groups, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Draw as much weight of every group as the smallest has, without replacement.

    The rows of a group lie in random order on a circle, each as long as its weight, and
    an arc as long as the smallest group is taken from a random place: the expected
    share of a row is its weight's, and rows at the ends of the arc count in part.

    Parameters
    ----------
    groups : Groups
        Groups of the rows.
    rng : Generator

    Returns
    -------
    rows : ndarray of shape (n_drawn,)
        Row numbers, sorted.
    weights : ndarray of shape (n_drawn,) or None
        How much of each row is drawn. None where rows have no weights: then the rows
        are those of :func:`balanced_subset`.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.array([4.0, 1.0, 2.0, 3.0])
    >>> groups = Groups.from_labels([0, 0, 1, 1], [0, 0, 0, 1], 2, 2, weights)
    >>> rows, drawn = balanced_draw(groups, np.random.default_rng(0))
    >>> np.bincount(groups.ids[rows], drawn)
    array([2., 2., 2.])
    """
    if groups.weights is None:
        return balanced_subset(groups, rng), None
    smallest = groups.counts.min()
    drawn = np.zeros(len(groups.ids))
    for group in range(groups.n_groups):
        rows = rng.permutation(np.flatnonzero(groups.ids == group))
        ends = np.cumsum(groups.weights[rows])
        starts = np.concatenate([[0.0], ends[:-1]])
        begin = rng.random() * ends[-1]
        # The arc, and where it goes beyond the end of the circle, its rest.
        for low in (begin, begin - ends[-1]):
            overlap = np.minimum(ends, low + smallest) - np.maximum(starts, low)
            drawn[rows] += np.maximum(overlap, 0.0)
    rows = np.flatnonzero(drawn)
    return rows, drawn[rows]


@dataclass(frozen=True)
class MixedDraw:
    """Rows, and the rows of the same class that are mixed into them.

    Row number i of the draw is `(1 - shares[i]) * X[rows[i]] + shares[i] *
    X[partners[i]]`.

    Parameters
    ----------
    rows, partners : ndarray of shape (n_drawn,)
        Row numbers.
    shares : ndarray of shape (n_drawn,)
        In [0, 1].
    weights : ndarray of shape (n_drawn,) or None
        How much of each row is drawn; None where rows have no weights.
    """

    rows: NDArray[np.int64]
    partners: NDArray[np.int64]
    shares: NDArray[np.float64]
    weights: NDArray[np.float64] | None


def mixed_draw(
    groups: Groups, s: float, alpha: float, rng: np.random.Generator
) -> MixedDraw:
    """Draw a class-balanced pool and mix a group-balanced one into it, as Dispel does.

    As many rows of every class as the smallest has are drawn without replacement. Into
    each of them, with probability `alpha`, a row of its class is mixed with weight `s`.
    These partners come, with replacement, out of one :func:`balanced_draw`.

    Parameters
    ----------
    groups : Groups
        Groups of the rows.
    s : float
        Weight of the partner, in (0, 1].
    alpha : float
        Probability of mixing, in [0, 1].
    rng : Generator

    Returns
    -------
    MixedDraw

    References
    ----------
    Xue, Payani, Yang and Mirzasoleiman, "Few-shot Adaptation to Distribution Shifts By
    Mixing Source and Target Embeddings", ICML 2024, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> groups = Groups.from_labels([0, 0, 0, 1, 1], [0, 0, 1, 0, 1], 2, 2)
    >>> draw = mixed_draw(groups, 0.8, 1.0, np.random.default_rng(0))
    >>> draw.shares
    array([0.8, 0.8, 0.8, 0.8])
    >>> bool((groups.y_codes[draw.rows] == groups.y_codes[draw.partners]).all())
    True
    """
    y, one_attribute = groups.y_codes, np.zeros(len(groups.ids), dtype=np.int64)
    classes = Groups.from_labels(y, one_attribute, groups.n_classes, 1, groups.weights)
    rows, weights = balanced_draw(classes, rng)
    candidates, chances = balanced_draw(groups, rng)
    partners = np.empty_like(rows)
    for code in np.unique(y):
        pool, own = y[rows] == code, y[candidates] == code
        p = None if chances is None else chances[own] / chances[own].sum()
        partners[pool] = rng.choice(candidates[own], size=pool.sum(), p=p)
    shares = np.where(rng.random(len(rows)) < alpha, s, 0.0)
    return MixedDraw(rows, partners, shares, weights)


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
    order = groups.shuffled(rng)
    sizes = groups.sizes
    starts = np.cumsum(sizes) - sizes
    within = np.arange(len(order)) - np.repeat(starts, sizes)
    in_first = 2 * within < np.repeat(sizes, sizes)
    return np.sort(order[in_first]), np.sort(order[~in_first])
