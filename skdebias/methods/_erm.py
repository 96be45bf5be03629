"""Empirical risk minimisation: plain, balanced, and by other losses and margins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups
from skdebias.methods._losses import TransformedLosses
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._ranges import check_choices, check_numbers
from skdebias.methods._step import TrainingContext

#: Published exponents of the losses that have one.
_EXPONENTS = {"cross_entropy": 0.0, "gce": 0.7, "focal": 2.0}
# Counts of any data set to this power are finite numbers.
_LARGEST_POWER = 10.0


@dataclass(frozen=True)
class ERM(Method):
    """Empirical risk minimisation.

    What many papers on unbalanced data give a name is a setting of it;
    :doc:`/user_guide/losses` has the table.

    Parameters
    ----------
    balance : {None, "class", "group"}, default=None
        Sample classes, or (label, attribute) groups, uniformly. None walks through all
        rows in shuffled order.
    reweight : {None, "class", "group"}, default=None
        Weight the loss of every row so that classes, or groups, count alike. The mean
        weight of the rows is 1.
    loss : {"cross_entropy", "gce", "focal"}, default="cross_entropy"
        With `p` the probability of a row's class, `-log p`; the generalised
        cross-entropy `(1 - p^q) / q`, for which easy rows count more [2]_; or the focal
        loss `-(1 - p)^q log p`, for which they count less [3]_.
    loss_exponent : float, default=None
        `q` of the loss: in [0, 1] for "gce", at least 0 for "focal"; 0 is the
        cross-entropy. None is 0.7 for "gce", and 2 for "focal".
    logit_adjustment : float, default=0.0
        By how many times the log frequency of its class every logit is raised in
        training, and not when predicting [4]_. 1 is balanced softmax [5]_.
    margin : float, default=0.0
        By how much the logit of a row's class is lowered in training if that class is
        the rarest; that of another class by `(n_rarest / n)^(1/4)` of it [6]_.
    balance_power : float, default=1.0
        In [0, 10]. How far `balance` and `reweight` go: they divide by numbers of rows
        to this power. 1 makes classes or groups count alike, 0.5 is the square root,
        0 is not to balance.
    effective_beta : float, default=1.0
        In [0, 1]. Where `balance` and `reweight` divide by `n` rows, they divide by the
        effective number of rows `(1 - b^n) / (1 - b)` instead [7]_, 0.9999 being the
        common value of `b`. 1 is `n` itself, and 0 is not to balance.

    References
    ----------
    .. [1] Idrissi et al., "Simple data balancing achieves competitive worst-group-
       accuracy", CLeaR 2022 (RWG, RWY, and their sampling forms).
    .. [2] Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural
       Networks with Noisy Labels", NeurIPS 2018, equation 6.
    .. [3] Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4.
    .. [4] Menon et al., "Long-tail learning via logit adjustment", ICLR 2021,
       equation 10.
    .. [5] Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
       NeurIPS 2020, equation 4.
    .. [6] Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware
       Margin Loss", NeurIPS 2019, equations 12 and 13.
    .. [7] Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR
       2019, equation 2.

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

    stackable: ClassVar[tuple[str, ...]] = (
        "loss_exponent",
        "logit_adjustment",
        "margin",
        "balance_power",
        "effective_beta",
    )

    balance: Literal["class", "group"] | None = None
    reweight: Literal["class", "group"] | None = None
    loss: Literal["cross_entropy", "gce", "focal"] = "cross_entropy"
    loss_exponent: float | None = None
    logit_adjustment: float = 0.0
    margin: float = 0.0
    balance_power: float = 1.0
    effective_beta: float = 1.0

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return "group" in (self.balance, self.reweight)

    @property
    def exponent(self) -> float:
        """Exponent of the loss, 0 for the cross-entropy."""
        if self.loss_exponent is None:
            return _EXPONENTS[self.loss]
        return self.loss_exponent

    @property
    def structure(self) -> tuple[object, ...]:
        """What the methods of a stack agree in: margins are drawn class by class."""
        return *super().structure, self._drawn_by

    @property
    def not_convex(self) -> str | None:
        """The loss that is not convex in the logits, if it is not.

        The slope of the generalised cross-entropy in the logit of the class,
        `-p^q (1 - p)`, vanishes on both sides. That of the focal loss is -1 far on the
        wrong side, and steeper where `-log p` is `1 + 1 / q`.
        """
        if self.exponent == 0:
            return None
        return f"loss={self.loss!r} with loss_exponent={self.exponent:g}"

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method itself, its parameters checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        ERM

        Raises
        ------
        ValueError
            If a parameter is out of range, or has no effect.
        """
        kinds = (None, "class", "group")
        check_choices(
            self, {"balance": kinds, "reweight": kinds, "loss": [*_EXPONENTS]}
        )
        at_least_0 = 0.0, np.inf
        ranges = {
            "logit_adjustment": at_least_0,
            "margin": at_least_0,
            "balance_power": (0.0, _LARGEST_POWER),
            "effective_beta": (0.0, 1.0),
        }
        if self.loss_exponent is not None:
            ranges["loss_exponent"] = (0.0, 1.0) if self.loss == "gce" else at_least_0
        check_numbers(self, ranges)
        self._refuse_ineffective()
        return self

    def _refuse_ineffective(self) -> None:
        """Refuse parameters that would change nothing."""
        if self.loss == "cross_entropy" and self.loss_exponent is not None:
            raise ValueError(
                f"loss_exponent={self.loss_exponent!r} has no effect with "
                "loss='cross_entropy': choose loss='gce' or 'focal', or leave it at "
                "None."
            )
        for name in ("balance_power", "effective_beta"):
            value = getattr(self, name)
            if value != 1 and self.balance is None and self.reweight is None:
                raise ValueError(
                    f"{name}={value!r} has no effect where nothing is balanced: choose "
                    "balance or reweight, 'class' or 'group', or leave it at 1."
                )

    @property
    def _drawn_by(self) -> str | None:
        """What the strata are: a margin needs to know the class of a row."""
        if self.balance is None and self.margin > 0:
            return "class"
        return self.balance

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
        strata = _cells(groups, self._drawn_by)
        counts = np.bincount(strata, groups.weights)
        share = counts.astype(np.float64)
        if self.balance is not None:
            share = share / self._divisors(counts)
        row_weights = None
        if self.reweight is not None:
            cells = _cells(groups, self.reweight)
            counts = np.bincount(cells, groups.weights)
            divisors = self._divisors(counts)
            row_weights = groups.counts.sum() / (
                (counts / divisors).sum() * divisors[cells]
            )
        return SamplingPlan(
            strata,
            (Batch("all", share / share.sum()),),
            replacement=self.balance is not None,
            row_weights=row_weights,
            logit_offsets=self._logit_offsets(groups, strata),
        )

    def _divisors(self, counts: NDArray) -> NDArray[np.float64]:
        """Return what strata of so many rows are divided by to be balanced."""
        b = self.effective_beta
        if b < 1:
            with np.errstate(divide="ignore"):  # of b = 0, where all are 1
                counts = -np.expm1(counts * np.log(b)) / (1.0 - b)
        return counts.astype(np.float64) ** self.balance_power

    def _logit_offsets(
        self, groups: Groups, strata: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        """Return what is added to the logits, (n_strata, n_classes), or None."""
        if self.logit_adjustment == 0 and self.margin == 0:
            return None
        counts = np.bincount(groups.cells[:, 0], groups.counts)
        raised = self.logit_adjustment * np.log(counts / counts.sum())
        offsets = np.tile(raised, (int(strata.max()) + 1, 1))
        if self.margin > 0:
            margins = self.margin * (counts.min() / counts) ** 0.25
            # All rows of a stratum are of one class.
            classes = np.empty(len(offsets), dtype=np.int64)
            classes[strata] = groups.cells[groups.ids, 0]
            offsets[np.arange(len(offsets)), classes] -= margins[classes]
        return offsets

    @classmethod
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> TransformedLosses | None:
        """Return the rule that takes another loss, or None for the cross-entropy.

        Parameters
        ----------
        methods : sequence of ERM
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        TransformedLosses or None
        """
        if all(method.exponent == 0 for method in methods):
            return None
        exponents = [method.exponent for method in methods]
        return TransformedLosses(methods[0].loss, exponents, context)


def _cells(groups: Groups, kind: str | None) -> NDArray[np.int64]:
    """Return the stratum of every row: one for all, one per class, or one per group."""
    if kind is None:
        return np.zeros(len(groups.ids), dtype=np.int64)
    if kind == "class":
        return np.asarray(groups.cells[groups.ids, 0])
    return groups.ids
