"""AFR: retrain the head on held-out rows that it is unsure of."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups
from skdebias.methods._head import Head, Parameters
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._step import TrainingResult


@dataclass(frozen=True, eq=False)
class AFR(Method):
    """Second stage of automatic feature reweighting.

    Walks through the held-out rows only, each weighted by :func:`afr_weights`.

    Parameters
    ----------
    confidence : ndarray of shape (n_samples,)
        Probability that the first head gives to the true class of a held-out row; NaN
        for the rows that it was trained on.
    gamma : float, default=4.0
        How steeply the weight falls with the confidence. 0 weights classes alike.
    regularization : float, default=0.01
        Weight of the squared distance from the first head.
    anchor : (sequence of ndarray, sequence of ndarray), default=None
        The first head, as for :class:`Head`. None pulls the weights to zero.

    References
    ----------
    Qiu, Potapczynski, Izmailov and Wilson, "Simple and Fast Group Robustness by
    Automatic Feature Reweighting", ICML 2023, equations 2 and 3.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier, ERMClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import AFR
    >>> X, y, _ = make_spurious_classification(500, random_state=0)
    >>> first = ERMClassifier(random_state=0).fit(X[:400], y[:400])
    >>> confidence = np.full(500, np.nan)
    >>> confidence[400:] = first.predict_proba(X[400:])[np.arange(100), y[400:]]
    >>> clf = DebiasedClassifier(AFR(confidence, gamma=2.0), random_state=0)
    >>> 1 < clf.fit(X, y).effective_sample_size_ < 100
    True
    """

    stackable: ClassVar[tuple[str, ...]] = ("gamma", "regularization")
    trains_networks: ClassVar[bool] = False  # by definition it retrains the last layer

    confidence: NDArray[np.floating]
    gamma: float = 4.0
    regularization: float = 0.01
    anchor: Parameters | None = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The retrained head, pulled to the first one."""
        # The optimizers descend weight_decay / 2 ||w - w_first||^2.
        return (Head(weight_decay=2.0 * self.regularization, anchor=self.anchor),)

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return False

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return how many equal rows the weighted ones are worth.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        fitted : TrainingResult

        Returns
        -------
        dict
            `effective_sample_size_`.
        """
        weights = self.plan(groups).row_weights
        assert weights is not None  # noqa: S101, as the plan says
        size = effective_sample_size(weights, groups.weights)
        return {"effective_sample_size_": size}

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan over the held-out rows.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        strata = np.isnan(self.confidence).astype(np.int64)  # 0: held out
        held = np.flatnonzero(strata == 0)
        classes = groups.cells[groups.ids[held], 0]
        counted = None if groups.weights is None else groups.weights[held]
        weights = afr_weights(self.confidence[held], classes, self.gamma, counted)
        row_weights = np.zeros(len(strata))
        row_weights[held] = weights * (len(held) if counted is None else counted.sum())
        share = np.eye(int(strata.max()) + 1)[0]
        return SamplingPlan(
            strata,
            (Batch("held out", share),),
            replacement=False,
            row_weights=row_weights,
        )


def afr_weights(
    confidence: NDArray[np.floating],
    y: NDArray[np.integer],
    gamma: float,
    sample_weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the weights of the held-out rows, `exp(-gamma p_y) / n_y`, normalised.

    Parameters
    ----------
    confidence : ndarray of shape (n_samples,)
        Probability of the true class under the first head.
    y : ndarray of shape (n_samples,)
        Class codes.
    gamma : float
    sample_weight : ndarray of shape (n_samples,), default=None
        As how many rows each of them counts.

    Returns
    -------
    ndarray of shape (n_samples,)
        Sums to one, over all that the rows count as.

    Examples
    --------
    >>> import numpy as np
    >>> afr_weights(np.array([0.9, 0.1, 0.5]), np.array([0, 0, 1]), gamma=0.0)
    array([0.25, 0.25, 0.5 ])
    """
    # Shifting by the minimum changes nothing once normalised, and cannot underflow.
    counts = np.bincount(y, sample_weight)
    weights = np.exp(-gamma * (confidence - confidence.min())) / counts[y]
    total = weights.sum() if sample_weight is None else weights @ sample_weight
    return np.asarray(weights / total, dtype=np.float64)


def effective_sample_size(
    weights: NDArray[np.floating], sample_weight: NDArray[np.float64] | None = None
) -> float:
    """Return `(sum w)^2 / sum w^2`: how many equal rows the weighted ones are worth.

    Parameters
    ----------
    weights : ndarray of shape (n_samples,)
    sample_weight : ndarray of shape (n_samples,), default=None
        As how many rows each of them counts.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> effective_sample_size(np.array([0.5, 0.5, 0.0]))
    2.0
    """
    if sample_weight is not None:
        return float((weights @ sample_weight) ** 2 / (weights**2 @ sample_weight))
    return float(weights.sum() ** 2 / (weights**2).sum())


def holdout_mask(
    y: NDArray[np.integer], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Draw the held-out rows, the same fraction of every class.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels.
    fraction : float
        In (0, 1). Of a class of two rows or more, at least one is held out and at least
        one is not; a class of a single row is never held out.
    seed : int

    Returns
    -------
    ndarray of shape (n_samples,)
        True for the held-out rows.

    Raises
    ------
    ValueError
        If every class has a single row.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat([0, 1], [10, 5])
    >>> np.bincount(y[holdout_mask(y, 0.2, seed=0)])
    array([2, 1])
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        mask[rng.permutation(rows)[:count]] = True
    if not mask.any():
        raise ValueError(
            "no class has two rows, so that nothing can be held out: pass more rows."
        )
    return mask
