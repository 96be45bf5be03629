"""How well linear heads tell the values of many columns from the features.

All heads of a fold come out of one factorised matrix: they are nearest class means in
the space that the features' covariance makes round, which for two values is Fisher's
linear discriminant with its threshold half-way between the means.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve

# Values of fewer rows are neither learned nor scored.
_FEWEST = 5


def decodability(Z, columns, splits):
    """Return the out-of-fold balanced accuracy of a linear head for every column.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_features), float32
        Standardised features.
    columns : list of Column
    splits : list of (train, test)
        Every row is in one test part.

    Returns
    -------
    list of float
        NaN for a column of fewer than two values that have 5 rows each.
    """
    counts = [np.bincount(c.codes[c.codes >= 0], minlength=1) for c in columns]
    ends = np.cumsum([len(count) for count in counts])
    slices = [slice(end - len(n), end) for end, n in zip(ends, counts)]
    member = sparse.hstack(
        [_indicators(c.codes, len(n)) for c, n in zip(columns, counts)]
    )
    member = member.tocsr()
    correct = [np.zeros(len(count)) for count in counts]
    parts = [_Sums.of(Z[test], member[test]) for _, test in splits]
    everything = _Sums(*map(sum, zip(*parts)))
    for (train, test), part in zip(splits, parts):
        if len(train) + len(test) == len(Z):
            sums = _Sums(*(whole - tested for whole, tested in zip(everything, part)))
        else:
            sums = _Sums.of(Z[train], member[train])
        scores = _scores(sums, Z[test])
        for column, where, hits in zip(columns, slices, correct):
            codes = column.codes[test]
            right = scores[:, where].argmax(1) == codes
            hits += np.bincount(codes[right], minlength=len(hits))
    return [_balanced(hits, count) for hits, count in zip(correct, counts)]


def _indicators(codes, n_values):
    """Return which value every row has, (n_samples, n_values)."""
    rows = np.flatnonzero(codes >= 0)
    entries = np.ones(len(rows), dtype=np.float32), (rows, codes[rows])
    return sparse.csr_array(entries, shape=(len(codes), n_values))


class _Sums(NamedTuple):
    """What a fold adds to means and covariances, so that no row is read twice.

    Parameters
    ----------
    n_rows : int
    total : ndarray of shape (n_features,)
    products : ndarray of shape (n_features, n_features)
    fourth : float
        Sum of the squared squared lengths of the rows.
    counts : ndarray of shape (n_values,)
    by_value : ndarray of shape (n_values, n_features)
    """

    n_rows: int
    total: np.ndarray
    products: np.ndarray
    fourth: float
    counts: np.ndarray
    by_value: np.ndarray

    @classmethod
    def of(cls, Z, member):
        """Sum up rows."""
        lengths = np.einsum("ij,ij->i", Z, Z).astype(np.float64)
        return cls(
            len(Z),
            Z.sum(0, dtype=np.float64),
            (Z.T @ Z).astype(np.float64),
            (lengths**2).sum(),
            member.sum(0, dtype=np.float64),
            (member.T @ Z).astype(np.float64),
        )


def _scores(sums, Z_test):
    """Return the scores of all values of all columns, (n_test, n_values).

    Means of few rows lie too far out, each by its own noise, which would keep rows
    from the rare values; the expected excess is taken off.
    """
    n_features = Z_test.shape[1]
    centre = sums.total / sums.n_rows
    covariance = sums.products / sums.n_rows - np.outer(centre, centre)
    strength = _shrinkage(sums, covariance)
    # Constant features leave nothing to divide by.
    ridge = max(strength * np.trace(covariance) / n_features, 1e-6)
    covariance *= 1 - strength
    covariance[np.diag_indices(n_features)] += ridge
    counts = np.maximum(sums.counts, 1)
    means = sums.by_value / counts[:, None] - centre
    factor = cho_factor(covariance, lower=True, overwrite_a=True)
    weights = cho_solve(factor, means.T)
    inverse = cho_solve(factor, np.eye(n_features))
    freedom = (n_features - ridge * np.trace(inverse)) / max(1 - strength, 1e-6)
    lengths = (means.T * weights).sum(0) - freedom / counts
    offsets = centre @ weights + 0.5 * lengths
    scores = Z_test @ weights.astype(np.float32) - offsets
    scores[:, sums.counts < 1] = -np.inf
    return scores


def _shrinkage(sums, covariance):
    """Return how far Ledoit and Wolf shrink a covariance to equal variances."""
    n_features = len(covariance)
    squared = (covariance**2).sum()
    # The mean is about zero in any fold, since it is zero over all.
    noise = max(sums.fourth / sums.n_rows - squared, 0.0) / sums.n_rows
    distance = squared - np.trace(covariance) ** 2 / n_features
    return min(noise / distance, 1.0) if distance > 0 else 1.0


def _balanced(correct, counts):
    scored = counts >= _FEWEST
    if scored.sum() < 2:
        return np.nan
    return float((correct[scored] / counts[scored]).mean())
