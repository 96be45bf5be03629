"""Pseudo-attributes from a reference model's outputs, as plain functions."""

import numpy as np
from numpy.typing import NDArray


def least_confident(
    confidence: NDArray[np.floating],
    y: NDArray[np.integer],
    t: float,
    sample_weight: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Mark the least confident fraction of every class.

    Parameters
    ----------
    confidence : ndarray of shape (n_samples,)
        Probability that the reference model gives to the true class.
    y : ndarray of shape (n_samples,)
        Labels.
    t : float
        Fraction of each class, in (0, 1). `floor(t n_y)` rows are marked, but at least
        one, and never all; ties go to the earlier row.
    sample_weight : ndarray of shape (n_samples,), default=None
        Positive weights of the rows: the marked ones then have at most the fraction `t`
        of the weight of their class.

    Returns
    -------
    ndarray of shape (n_samples,)
        1 for the marked rows (the pseudo-minority), 0 for the rest. A class of a single
        row cannot be split and stays 0.

    References
    ----------
    Asaad, Shadaydeh and Denzler, "Gradient Extrapolation for Debiased Representation
    Learning", ICCV 2025, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> least_confident(np.array([0.9, 0.2, 0.6, 0.5]), np.zeros(4, int), t=0.25)
    array([0, 1, 0, 0])
    """
    marked = np.zeros(len(y), dtype=np.int64)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        if len(rows) < 2:
            continue
        order = np.argsort(confidence[rows], kind="stable")
        # Guard the floor against products such as 0.29 * 100 = 28.999...
        if sample_weight is None:
            count = int(np.floor(t * len(rows) + 1e-9))
        else:
            sums = np.cumsum(sample_weight[rows[order]])
            count = int(np.searchsorted(sums, (t + 1e-12) * sums[-1], side="right"))
        count = min(max(count, 1), len(rows) - 1)
        marked[rows[order[:count]]] = 1
    return marked
