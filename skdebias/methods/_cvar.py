"""CVaR DRO: the mean loss of the worst share of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._environments import per_method
from skdebias.methods._erm import ERM
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_choices, check_numbers
from skdebias.methods._running_sum import running_sum
from skdebias.methods._step import Step, TrainingContext

#: Of a step of 256 rows, far less than one row.
_LEAST_ALPHA = 1e-6


@dataclass(frozen=True)
class CVaRDRO(Method):
    """Mean loss of the worst share of the rows of every step.

    Minimises the conditional value at risk, `max_q sum_i q_i L_i` over weights
    `0 <= q_i <= 1 / (alpha n)` that sum to one: the worst case over all subsets of the
    share `alpha`, whatever the attributes. Rows whose losses are equal have equal
    weights, so that all of them count alike where a head starts at zero.

    Parameters
    ----------
    alpha : float, default=0.1
        Share of the rows that counts, in (0, 1]. 1 is empirical risk minimisation.
        Choose it near the share of the smallest group; published searches go over
        0.01 to 1.
    balance : {None, "class"}, default=None
        Draw the classes alike, or the rows as they come.

    Notes
    -----
    Needs no attributes. Costs a sort of a step's losses by head. The value of a step is
    a little above that of all rows: a batch of `n` rows has about `alpha n` that count,
    of which there should be some ten or more.

    It suits groups that are hard because they are rare. It cannot tell them from rows
    whose labels are wrong, which are the worst ones first: with noisy labels it is
    worse than plain training. There is no `solver="lbfgs"`: the objective has kinks
    where two losses are equal, at the zero start first of all.

    References
    ----------
    Levy, Carmon, Duchi and Sidford, "Large-Scale Methods for Distributionally Robust
    Optimization", NeurIPS 2020, equations 1 and 4 (CVaR on mini-batches); as a baseline
    in Yang, Zhang, Katabi and Ghassemi, "Change is Hard", ICML 2023.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import CVaRDRO
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(CVaRDRO(alpha=0.2), random_state=0)
    >>> clf.fit(X, y).coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: float = 0.1
    balance: Literal["class"] | None = None

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return False

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return this method, checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        CVaRDRO

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_numbers(self, {"alpha": (_LEAST_ALPHA, 1.0)})
        check_choices(self, {"balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or class-balanced training.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        return ERM(balance=self.balance).plan(groups)

    @classmethod
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "WorstShare":
        """Return the rule that weights the worst rows.

        Parameters
        ----------
        methods : sequence of CVaRDRO
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        WorstShare
        """
        return WorstShare(methods, context)


class WorstShare:
    """Weights of the rows that are worst in a step.

    Parameters
    ----------
    methods : sequence of CVaRDRO
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[CVaRDRO], context: TrainingContext) -> None:
        self._alpha = per_method(methods, context, "alpha")[:, None]

    def __call__(self, step: Step) -> Tensor:
        """Weight the rows above the quantile by `1 / alpha`, and all others by 0.

        Rows at the quantile share what is missing of `alpha`.

        Parameters
        ----------
        step : Step

        Returns
        -------
        Tensor of shape (S, R, M)
        """
        losses, weights = step.losses, step.weights
        wanted = self._alpha * weights.sum(1, keepdim=True)
        order = losses.argsort(dim=1, descending=True, stable=True)
        mass = running_sum(weights.gather(1, order), 1)
        # Of a mass that rounding leaves below what is wanted, the last row.
        last = (mass < wanted).sum(1, keepdim=True).clamp_max(losses.shape[1] - 1)
        quantile = losses.gather(1, order.gather(1, last))
        above = weights * (losses > quantile)
        at = weights * (losses == quantile)
        tiny = torch.finfo(losses.dtype).tiny
        rest = wanted - above.sum(1, keepdim=True)
        share = rest.clamp_min(0.0) / at.sum(1, keepdim=True).clamp_min(tiny)
        return (above + share * at) / self._alpha

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._alpha = self._alpha[..., methods]
