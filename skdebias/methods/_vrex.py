"""V-REx: risks that are alike in all environments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

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
from skdebias.methods._step import (
    Step,
    TrainingContext,
    TrainingResult,
    WeightedLosses,
)


@dataclass(frozen=True)
class VREx(Method):
    """Risk extrapolation by variance; the environments are the attribute values.

    Minimises the mean of the environments' risks plus `penalty_weight` times their
    variance. Every environment has as many rows in a step.

    Parameters
    ----------
    penalty_weight : float, default=10.0
        At least 0; 0 is plain training on all environments alike. Published searches go
        over 0.1 to 1e5.
    anneal : int, default=500
        Steps in which the weight is at most 1, of the 5,001 of the published searches.
        A warning says if training ends before.
    balance : {None, "class"}, default=None
        Within an environment, draw the rows as they come or the classes alike.

    Notes
    -----
    Needs the attributes of the training rows, two values or more. Costs nothing beside
    plain training.

    It is meant for environments, such as hospitals, that are equally hard for the head
    that is looked for. Where one of them is harder in itself, a large `penalty_weight`
    makes the others worse: an environment whose risk is far below the mean is weighted
    negatively. The objective is not convex then: there is no `solver="lbfgs"`. For the
    worst group among (label, attribute) groups take :class:`GroupDRO`.

    References
    ----------
    Krueger et al., "Out-of-Distribution Generalization via Risk Extrapolation", ICML
    2021, equation 8; `anneal` as in Gulrajani and Lopez-Paz, "In Search of Lost Domain
    Generalization", ICLR 2021.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import VREx
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(VREx(10.0, anneal=20), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("penalty_weight", "anneal")

    penalty_weight: float = 10.0
    anneal: int = 500
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
        VREx

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        at_least_0 = 0.0, np.inf
        check_numbers(self, {"penalty_weight": at_least_0, "anneal": at_least_0})
        check_choices(self, {"balance": (None, "class")})
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
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "RiskVariance":
        """Return the rule that weights the environments.

        Parameters
        ----------
        methods : sequence of VREx
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        RiskVariance
        """
        return RiskVariance(methods, context)

    def check_result(self, fitted: TrainingResult) -> None:
        """Warn if training ended before the weight was raised.

        Parameters
        ----------
        fitted : TrainingResult
        """
        warn_if_never_annealed(self, fitted.weighting)


class RiskVariance:
    """Mean and variance of the environments' risks, by weights of the rows.

    Parameters
    ----------
    methods : sequence of VREx
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[VREx], context: TrainingContext) -> None:
        self._environments = Environments(methods, context)
        self.annealed = Annealed(methods, context)

    def __call__(self, step: Step) -> WeightedLosses:
        """Weight the rows by the derivative of the objective in their losses.

        Parameters
        ----------
        step : Step

        Returns
        -------
        WeightedLosses
        """
        environments, weight = self._environments, self.annealed.at(step)
        member = environments.member(step)
        risks, mass = averages(member, step.weights, step.losses)
        mean = environments.mean(risks)
        away = (risks - mean[:, None]) * environments.present
        values = mean + weight * environments.mean(away.square())
        # The variance has the derivative 2 (L_e - mean) / E in the risk L_e.
        factors = environments.present + 2.0 * weight[:, None] * away
        factors = factors / environments.present.sum(1, keepdim=True)
        by_row = torch.bmm(member.transpose(1, 2), factors / mass)
        return WeightedLosses(step.weights * by_row, values)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self.annealed.select(methods)
