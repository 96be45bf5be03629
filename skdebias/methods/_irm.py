"""IRM: a head that is the best one, up to its scale, in every environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias._groups import Groups
from skdebias.methods._environments import (
    Annealed,
    Environments,
    averages,
    environment_plan,
    warn_if_never_annealed,
)
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_choices, check_numbers
from skdebias.methods._running_sum import running_sum
from skdebias.methods._step import Step, TrainingContext, TrainingResult


@dataclass(frozen=True)
class IRM(Method):
    """Invariant risk minimisation; the environments are the attribute values.

    Minimises the mean over environments of `L_e + penalty_weight (dL_e(s z) / ds)^2` at
    `s = 1`, where `z` are the logits: a head whose scale no environment would change.
    Every environment has as many rows in a step.

    Parameters
    ----------
    penalty_weight : float, default=100.0
        At least 0; 0 is plain training on all environments alike. Published searches go
        over 0.1 to 1e5.
    anneal : int, default=500
        Steps in which the weight is at most 1, of the 5,001 of the published searches.
        A warning says if training ends before.
    unbiased : bool, default=True
        Estimate the square by the product of the derivatives on two halves of an
        environment's rows, as the authors do: its mean is the square of the mean, while
        the square of a mean of few rows is too large. It can be negative.
    balance : {None, "class"}, default=None
        Within an environment, draw the rows as they come or the classes alike.

    Notes
    -----
    Needs the attributes of the training rows, two values or more. Costs one more pass
    over the logits of a step.

    It is meant for environments, such as hospitals, between which what is spurious
    changes and what is not does not. Where the attribute itself is the spurious
    feature, and the share of the classes differs between its values, no head but a
    constant one is invariant, and a large `penalty_weight` leads there; with
    `balance="class"` the shares are alike. The gradient grows with the weight and with
    the square of X: standardise X, and where training diverges lower `learning_rate` or
    take `solver="adamw"`. Momentum is not reset when the weight is raised, as
    the published code does with Adam's. The penalty is not convex: there is no
    `solver="lbfgs"`.

    References
    ----------
    Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", 2019,
    equation IRMv1, and appendix D for the halves; `anneal` as in Gulrajani and
    Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import IRM
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(IRM(10.0, anneal=20), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("penalty_weight", "anneal")

    penalty_weight: float = 100.0
    anneal: int = 500
    unbiased: bool = True
    balance: Literal["class"] | None = None

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
        IRM

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        at_least_0 = 0.0, np.inf
        check_numbers(self, {"penalty_weight": at_least_0, "anneal": at_least_0})
        check_choices(self, {"unbiased": (True, False), "balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan, uniform over environments.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        return environment_plan(groups, self.balance)

    @classmethod
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "InvarianceGap":
        """Return the penalty.

        Parameters
        ----------
        methods : sequence of IRM
            As for :meth:`Method.objective`.
        context : TrainingContext

        Returns
        -------
        InvarianceGap
        """
        return InvarianceGap(methods, context)

    def check_result(self, fitted: TrainingResult) -> None:
        """Warn if training ended before the weight was raised.

        Parameters
        ----------
        fitted : TrainingResult
        """
        warn_if_never_annealed(self, fitted.objective)


class InvarianceGap:
    """Squared derivative of every environment's risk in the scale of the logits.

    Parameters
    ----------
    methods : sequence of IRM
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[IRM], context: TrainingContext) -> None:
        self._environments = Environments(methods, context)
        self._unbiased = methods[0].unbiased
        self.annealed = Annealed(methods, context)

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Return the penalty of a step.

        Parameters
        ----------
        step : Step
        logits : Tensor of shape (S, R, M, n_logits)

        Returns
        -------
        Tensor of shape (S, M)
        """
        slopes = _slopes(logits, step.y)
        member = self._environments.member(step)
        halves = _halves(step) if self._unbiased else [step.weights] * 2
        first, second = (averages(member, half, slopes)[0] for half in halves)
        return self.annealed.at(step) * self._environments.mean(first * second)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self.annealed.select(methods)


def _slopes(logits: Tensor, y: Tensor) -> Tensor:
    """Derivative of every row's cross-entropy in the scale of its logits, (S, R, M)."""
    if logits.shape[-1] == 1:
        residual = logits.sigmoid() - y[..., None, None]
    else:
        residual = logits.softmax(-1) - one_hot(y, logits.shape[-1])[:, :, None]
    return (residual * logits).sum(-1)


def _halves(step: Step) -> list[Tensor]:
    """Weights of the rows of each half of a step, in sum those of all of them.

    Every other row of a stratum is of the first half, so that both have the strata in
    the shares of the plan.
    """
    of_stratum = one_hot(step.strata).to(step.weights.dtype)  # (S, R, n_strata)
    rank = running_sum(of_stratum, 1).gather(2, step.strata[..., None]) - 1.0
    counts = of_stratum.sum(1)
    if step.number == 0 and bool((counts == 1.0).any()):
        raise ValueError(
            "IRM(unbiased=True) splits the rows that a step has of every environment "
            "(and class, with balance='class') into halves, and of one of them it has "
            "a single row: raise batch_size, or choose unbiased=False."
        )
    halves = []
    for parity in (0.0, 1.0):
        half = (rank % 2.0 == parity).to(step.weights.dtype)
        in_half = (of_stratum * half).sum(1).clamp_min(1.0)
        factor = (counts / in_half).gather(1, step.strata)
        halves.append(step.weights * half * factor[..., None])
    return halves
