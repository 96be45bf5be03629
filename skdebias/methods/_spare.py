"""SPARE: clusters are drawn in proportion to a negative power of their size."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from skdebias._groups import Groups
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._ranges import check_numbers


@dataclass(frozen=True)
class SPARE(Method):
    """Sampling of groups in proportion to a negative power of their size.

    Classes are drawn alike, and within a class a row of a group of n rows in proportion
    to `n ** -power`. In the paper the groups are clusters of the outputs of an early
    model (:class:`~skdebias.attributes.SPAREPseudoAttributes`), and the power follows
    from how clear they are.

    Parameters
    ----------
    power : float or tuple of float, default=2.0
        In [0, 10]; a tuple has one for each class, in the order of `classes_`, such as
        `powers_` of the pseudo-attributes. 0 balances the classes, 1 the groups within
        each of them, and 2 makes small groups the more frequent ones: for clusters that
        hold but part of the rows that they should.

    See Also
    --------
    ERM : `ERM(balance="group", balance_power=...)` does not hold classes balanced.

    Notes
    -----
    It costs no more than ERM. Where attributes are known, a power of 1 is for them.
    `pseudo_attributes=SPAREPseudoAttributes()` gives groups within a fit; `power` is
    then a parameter as any other, for a grid.

    References
    ----------
    Yang, Gan, Dziugaite and Mirzasoleiman, "Identifying Spurious Biases Early in
    Training through the Lens of Simplicity Bias", AISTATS 2024, algorithm 1.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.attributes import SPAREPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import SPARE
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> inferrer = SPAREPseudoAttributes(random_state=0)
    >>> clf = DebiasedClassifier(SPARE(), pseudo_attributes=inferrer, random_state=0)
    >>> clf.fit(X, y).pseudo_attributes_.shape
    (500,)
    """

    stackable: ClassVar[tuple[str, ...]] = ("power",)

    power: float | tuple[float, ...] = 2.0

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method itself, its parameter checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        SPARE

        Raises
        ------
        ValueError
            If a power is out of range, or if there is not one per class.
        """
        powers = self.power if isinstance(self.power, tuple | list) else (self.power,)
        for power in powers:
            check_numbers(replace(self, power=power), {"power": (0.0, 10.0)})
        if len(powers) not in (1, groups.n_classes) or not powers:
            raise ValueError(
                f"power={self.power!r} of SPARE holds {len(powers)} numbers for "
                f"{groups.n_classes} classes: give one per class, or one number."
            )
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan, uniform over classes.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        labels = groups.cells[:, 0]
        powers = np.broadcast_to(
            np.asarray(self.power, dtype=np.float64).reshape(-1), groups.n_classes
        )
        size = groups.counts / groups.counts.sum()  # so that powers of it are finite
        shares = size ** (1.0 - powers[labels])
        shares = shares / np.bincount(labels, shares, groups.n_classes)[labels]
        shares = shares / len(np.unique(labels))
        return SamplingPlan(groups.ids, (Batch("all", shares),), blocks=labels)
