"""Empirical risk minimisation, plain or balanced over classes or groups."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan


@dataclass(frozen=True)
class ERM(Method):
    """Empirical risk minimisation.

    Parameters
    ----------
    balance : {None, "class", "group"}, default=None
        Sample classes, or (label, attribute) groups, uniformly. None walks through all
        rows in shuffled order.
    reweight : {None, "class", "group"}, default=None
        Weight the loss of every row so that classes, or groups, count alike.

    References
    ----------
    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy",
    CLeaR 2022 (RWG, RWY, and their sampling forms).

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import ERM
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(ERM(balance="class"), random_state=0)
    >>> clf.fit(X, y).coef_.shape
    (1, 20)
    """

    balance: Literal["class", "group"] | None = None
    reweight: Literal["class", "group"] | None = None

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return "group" in (self.balance, self.reweight)

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan over all rows, classes or groups.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        strata = _cells(groups, self.balance)
        n_strata = int(strata.max()) + 1
        batch = Batch("all", np.full(n_strata, 1.0 / n_strata))
        row_weights = None
        if self.reweight is not None:
            cells = _cells(groups, self.reweight)
            counts = np.bincount(cells, groups.weights)
            row_weights = groups.counts.sum() / (len(counts) * counts[cells])
        return SamplingPlan(
            strata,
            (batch,),
            replacement=self.balance is not None,
            row_weights=row_weights,
        )


def _cells(groups: Groups, kind: str | None) -> NDArray[np.int64]:
    """Return the stratum of every row: one for all, one per class, or one per group."""
    if kind is None:
        return np.zeros(len(groups.ids), dtype=np.int64)
    if kind == "class":
        return np.asarray(groups.cells[groups.ids, 0])
    return groups.ids
