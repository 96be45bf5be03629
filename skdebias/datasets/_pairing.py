"""Attributes that are paired with the class in all but a share of the rows."""

import numpy as np

_N_VALUES = 10


def pair_attributes(target, minority, rng):
    """Draw an attribute per row: that of the class, or one of the other nine.

    Class `k` is paired with attribute `k`. Of every class, `round(minority * n)` rows
    drawn at random get the other attributes, each equally often to within one row.

    Parameters
    ----------
    target : array-like of shape (n_samples,)
        Classes 0 to 9.
    minority : float
        Share of the rows of each class with another attribute, in [0, 1].
    rng : RandomState instance
        Draws the rows.

    Returns
    -------
    target, attributes : ndarray of shape (n_samples,), int64

    Raises
    ------
    ValueError
        If `minority` or a class is out of range.
    """
    if not 0 <= minority <= 1:
        raise ValueError(f"minority={minority!r} is outside [0, 1].")
    target = np.asarray(target)
    classes = np.unique(target)
    if not np.isin(classes, np.arange(_N_VALUES)).all():
        raise ValueError(
            f"target has the classes {classes[:20].tolist()}, but only 0 to 9 are "
            "paired with an attribute: number the classes so, or drop the others."
        )
    target = target.astype(np.int64)
    attributes = target.copy()
    for label in np.unique(target):
        rows = rng.permutation(np.flatnonzero(target == label))
        n_other = round(minority * len(rows))
        # The other attributes in turn, from a random start: even to within one row.
        turn = (np.arange(n_other) + rng.randint(_N_VALUES - 1)) % (_N_VALUES - 1)
        attributes[rows[:n_other]] = (label + 1 + turn) % _N_VALUES
    return target, attributes
