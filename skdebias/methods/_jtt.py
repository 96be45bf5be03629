"""JTT: train again, with the errors of a first model upsampled."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from skdebias._groups import Groups
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan


@dataclass(frozen=True)
class JTT(Method):
    """Second stage of "just train twice".

    The attribute of a row says whether the first model got it wrong: the rows of the
    largest attribute code are the error set.

    Parameters
    ----------
    upweight : float, default=3
        How many times as often as another row (of its class, if balanced) a row of the
        error set is drawn.
    balance : {None, "class"}, default="class"
        Draw the classes alike, or as their rows come.

    References
    ----------
    Liu et al., "Just Train Twice: Improving Group Robustness without Training Group
    Information", ICML 2021, equation 4.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.attributes import ErrorSetPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import JTT
    >>> X, y, _ = make_spurious_classification(500, random_state=0)
    >>> errors = ErrorSetPseudoAttributes()
    >>> clf = DebiasedClassifier(JTT(5), pseudo_attributes=errors, random_state=0)
    >>> sorted(set(clf.fit(X, y).pseudo_attributes_.tolist()))
    [0, 1]
    """

    stackable: ClassVar[tuple[str, ...]] = ("upweight",)

    upweight: float = 3
    balance: Literal["class"] | None = "class"

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan over correct rows and errors.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows, with attribute 0 for correct rows and 1 for
            errors. With one attribute value no row is upsampled.

        Returns
        -------
        SamplingPlan
        """
        if self.balance is None:
            strata = groups.cells[groups.ids, 1]
            factors = np.ones(int(strata.max()) + 1)
            factors[1:] = self.upweight
            share = np.bincount(strata, groups.weights) * factors
            return SamplingPlan(strata, (Batch("all", share / share.sum()),))
        classes, errors = groups.cells.T
        factors = np.where(errors == 1, float(self.upweight), 1.0)
        share = np.bincount(groups.ids, groups.weights) * factors
        share /= np.bincount(classes, share)[classes]
        return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),), classes)
