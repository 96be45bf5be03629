"""Which of several methods is the best, and whether the scores say so at all."""

from dataclasses import dataclass

import numpy as np

from skdebias.metrics import corrected_interval


@dataclass(frozen=True)
class Verdict:
    """What the scores of several methods on the same splits say.

    Parameters
    ----------
    best : int
        Number of the method with the highest mean.
    chosen : int
        The method to take: the simplest of those that are level with the best.
    level : ndarray of shape (n_methods,), bool
        Whether a method is level with the best: the interval of the difference
        holds 0.
    differences : ndarray of shape (n_methods, 3)
        How far a method is below the best: mean, low, high.
    """

    best: int
    chosen: int
    level: np.ndarray
    differences: np.ndarray

    @property
    def is_won(self):
        """Whether the best method is better than every other one."""
        return bool(self.level.sum() == 1)


def decide(scores, *, n_train, n_test, confidence_level=0.95):
    """Decide by the intervals of paired differences.

    The intervals are corrected for splits that overlap, and hold together over all
    other methods (Bonferroni), of which the best one was picked.

    Parameters
    ----------
    scores : ndarray of shape (n_methods, n_splits)
        Methods in their order of simplicity.
    n_train, n_test : float
        Rows of a split, see :func:`skdebias.metrics.corrected_interval`.
    confidence_level : float, default=0.95

    Returns
    -------
    Verdict
    """
    # Means that differ by rounding alone are equal: of those the simplest is the best.
    best = int(np.argmax(scores.mean(axis=1).round(12)))
    miss = (1 - confidence_level) / max(1, len(scores) - 1)
    differences = np.array(
        [
            corrected_interval(
                scores[best] - of_method,
                n_train=n_train,
                n_test=n_test,
                confidence_level=1 - miss,
            )
            for of_method in scores
        ]
    )
    level = differences[:, 1] <= 0
    return Verdict(best, int(np.argmax(level)), level, differences)
