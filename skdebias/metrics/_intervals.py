"""Confidence intervals of shares, of the lowest and the mean of some, and of scores."""

from numbers import Real

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit


def corrected_interval(scores, *, n_train, n_test, confidence_level=0.95):
    """Return the mean of scores over overlapping splits, and an interval for it.

    Splits of cross-validation, or random splits of one data set, share training rows,
    so that their scores are not independent: the usual interval of their mean is far
    too narrow, and more splits make it narrower still. Nadeau and Bengio replace the
    variance of the mean, `s**2 / n_splits`, by
    `s**2 * (1 / n_splits + n_test / n_train)`.

    Parameters
    ----------
    scores : array-like of shape (n_splits,)
        Score of every split, or, to compare two methods, the difference of their scores
        on every split. At least 2 numbers.
    n_train, n_test : int
        Rows that every split trains on, and rows that it is scored on: what was drawn
        anew for every split. Where splits differ a little, their means. Of K folds,
        `n_test / n_train` is `1 / (K - 1)`; the folds of repeated cross-validation are
        splits as any others.
    confidence_level : float, default=0.95
        Nominal coverage, in (0, 1).

    Returns
    -------
    mean, low, high : float
        Mean of `scores` and the ends of the interval, which are not cut to the range of
        the score.

    Raises
    ------
    ValueError
        If there are fewer than 2 scores, one is not finite, or another argument is out
        of its range.

    See Also
    --------
    group_summary : Intervals over the rows of one test set, for one fitted model.

    Notes
    -----
    The quantile is that of Student's t with `n_splits - 1` degrees of freedom, as in
    the paper. The correction assumes that the scores of two splits are correlated by
    `n_test / (n_train + n_test)`, a rule of thumb: there is no unbiased estimate of the
    variance from one data set. The interval is for the mean score of the method over
    data sets and splits of these sizes. It says nothing of other data sets, nor of one
    model that was refitted to all rows. Scores that are all equal have no width.

    References
    ----------
    .. [1] C. Nadeau, Y. Bengio. Inference for the generalization error. Machine
       Learning 52, 2003. Section 3, the corrected resampled t-test.
    .. [2] R. R. Bouckaert, E. Frank. Evaluating the replicability of significance tests
       for comparing learning algorithms. PAKDD 2004. For repeated cross-validation.

    Examples
    --------
    >>> from skdebias.metrics import corrected_interval
    >>> gains = [0.02, 0.05, 0.01, 0.04, 0.03]  # one method less another, 5 folds
    >>> mean, low, high = corrected_interval(gains, n_train=800, n_test=200)
    >>> print(f"{mean:.3f} ({low:.3f} to {high:.3f})")
    0.030 (0.001 to 0.059)
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all():
        raise ValueError(
            "scores must be 2 or more finite numbers, one for every split, but "
            f"scores={scores.tolist()}. Leave out splits without a score, or repeat "
            "the comparison on more splits."
        )
    for name, value in (("n_train", n_train), ("n_test", n_test)):
        if not isinstance(value, Real) or not 0 < value < np.inf:
            raise ValueError(
                f"{name} must be a positive number of rows, but is {value!r}. Pass "
                "the rows of one split (their mean, if splits differ)."
            )
    check_confidence_level(confidence_level)
    mean, n_splits = scores.mean(), len(scores)
    quantile = stdtrit(n_splits - 1, (1 + confidence_level) / 2)
    half = quantile * np.sqrt(scores.var(ddof=1) * (1 / n_splits + n_test / n_train))
    return float(mean), float(mean - half), float(mean + half)


def check_confidence_level(confidence_level):
    """Refuse a coverage that is none.

    Parameters
    ----------
    confidence_level : float

    Raises
    ------
    ValueError
    """
    if not 0 < confidence_level < 1:
        raise ValueError(
            f"confidence_level must lie in (0, 1), but is {confidence_level}. Pass "
            "0.95 for 95 % intervals."
        )


def normal_quantile(confidence_level):
    """Return the number of standard deviations of a two-sided interval.

    Parameters
    ----------
    confidence_level : float
        In (0, 1).

    Returns
    -------
    float
    """
    check_confidence_level(confidence_level)
    return float(ndtri((1 + confidence_level) / 2))


def wilson_interval(share, n, z):
    """Return the Wilson score interval of a proportion.

    Parameters
    ----------
    share, n : float or ndarray
        The proportion observed, and of how many.
    z : float
        Standard deviations of the interval.

    Returns
    -------
    low, high : float or ndarray
    """
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Rounding must not push an end beyond the estimate it belongs to.
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


def weighted_interval(correct, n, weights, z):
    """Return the weighted mean of independent proportions and its normal interval.

    Parameters
    ----------
    correct, n : ndarray of shape (n_groups,)
    weights : ndarray of shape (n_groups,)
        Of sum one.
    z : float
        Standard deviations of the interval.

    Returns
    -------
    mean, low, high : float
    """
    mean = weights @ (correct / n)
    adjusted_n = n + z**2
    adjusted = (correct + z**2 / 2) / adjusted_n
    half = z * np.sqrt(weights**2 @ (adjusted * (1 - adjusted) / adjusted_n))
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def lowest_interval(correct, n, confidence_level):
    """Return an interval of the lowest of several proportions.

    The lowest proportion is at least the lowest of the lower limits, and at most the
    lowest of the upper limits:

    * The lower limit of the group that is in truth the lowest is among the lower ones,
      so that single limits do.
    * Any of the upper limits may err, so they hold simultaneously (Sidak), over the
      groups that can be the lowest: those whose lower limit, held simultaneously over
      all groups, is not above the end that is returned.

    The limits are those of Clopper and Pearson, which hold for any number of rows. Half
    of what may be missed is left to each end.

    Parameters
    ----------
    correct, n : ndarray of shape (..., n_groups)
        Independent counts. They need not be whole numbers.
    confidence_level : float
        In (0, 1).

    Returns
    -------
    low, high : ndarray of shape (...,)
    """
    miss = (1 - confidence_level) / 2
    n_candidates = np.full(correct.shape[:-1], correct.shape[-1])
    surely_above = _lower_limit(correct, n, _miss_of_each(miss, n_candidates))
    high = np.ones(correct.shape[:-1])
    while True:
        ends = _upper_limit(correct, n, _miss_of_each(miss, n_candidates)).min(axis=-1)
        if (ends == high).all():
            return _lower_limit(correct, n, miss).min(axis=-1), high
        high = ends
        n_candidates = (surely_above <= high[..., None]).sum(axis=-1)


def _miss_of_each(miss, n_limits):
    """Return how often each of several independent limits may err."""
    return -np.expm1(np.log1p(-miss) / n_limits)[..., None]


def _lower_limit(correct, n, miss):
    """Return the lower limits of Clopper and Pearson."""
    limit = betaincinv(np.maximum(correct, 1e-300), n - correct + 1, miss)
    return np.where(correct > 0, limit, 0.0)


def _upper_limit(correct, n, miss):
    """Return the upper limits of Clopper and Pearson."""
    return 1 - _lower_limit(n - correct, n, miss)
