"""GroupDRO: the worst group counts most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._step import Step, TrainingContext, TrainingResult


@dataclass(frozen=True)
class GroupDRO(Method):
    """Distributionally robust optimisation over groups, online.

    Groups are sampled uniformly, so that every batch holds all of them. Each step
    multiplies the group weights by `exp(step_size (L_g + adjustment / sqrt(n_g)))`,
    normalises them, and descends `sum_g q_g L_g`, `L_g` being the group's mean loss in
    the batch.

    Parameters
    ----------
    step_size : float, default=0.01
        Step size of the group weights. 0 is group-balanced training.
    adjustment : float, default=0.0
        Generalisation adjustment: raises the weight of small groups.
    temperature : float, default=0.1
        Of the deterministic objective, see :class:`LogMeanExp`.

    References
    ----------
    Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group
    Shifts", ICLR 2020, algorithm 1 and equation 5.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import GroupDRO
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(GroupDRO(step_size=0.1), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).group_weights_.shape
    (4,)
    """

    stackable: ClassVar[tuple[str, ...]] = ("step_size", "adjustment", "temperature")

    step_size: float = 0.01
    adjustment: float = 0.0
    temperature: float = 0.1

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return the weights of the groups at the end.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        fitted : TrainingResult

        Returns
        -------
        dict
            `group_weights_` of shape (n_groups,).
        """
        if fitted.shares is not None:
            return {"group_weights_": fitted.shares[0]}
        weights = fitted.weighting.q[0, :, fitted.position]
        return {"group_weights_": weights.cpu().numpy()}

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan, uniform over groups.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        return ERM(balance="group").plan(groups)

    @classmethod
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "GroupWeights":
        """Return the rule that reweights the groups.

        Parameters
        ----------
        methods : sequence of GroupDRO
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        GroupWeights
        """
        return GroupWeights(methods, context)

    @classmethod
    def group_objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "LogMeanExp":
        """Return the deterministic objective.

        Parameters
        ----------
        methods : sequence of GroupDRO
            As for :meth:`Method.group_objective`.
        context : TrainingContext

        Returns
        -------
        LogMeanExp
        """
        return LogMeanExp(methods, context)


class LogMeanExp:
    """Smooth maximum of the groups' mean losses.

    `T log mean_g exp((L_g + adjustment / sqrt(n_g)) / T)`, between the mean (T to
    infinity) and the maximum (T to 0). Its derivatives are the weights at which the
    online updates would stand still after steps that sum to `1 / T`.

    Parameters
    ----------
    methods : sequence of GroupDRO
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[GroupDRO], context: TrainingContext) -> None:
        (groups,), device = context.groups, context.device
        roots = torch.as_tensor(groups.counts, device=device).double().sqrt()
        adjustment, temperature = (
            torch.tensor(
                [[m.adjustment, m.temperature] for m in methods],
                dtype=torch.float64,
                device=device,
            )[..., None]
        ).unbind(1)
        self._margin, self._temperature = adjustment / roots, temperature

    def __call__(self, losses: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate mean losses, as :class:`GroupObjective` says.

        Parameters
        ----------
        losses : Tensor of shape (n, n_groups)
        heads : Tensor of shape (n,)

        Returns
        -------
        values : Tensor of shape (n,)
        shares : Tensor of shape (n, n_groups)
        """
        temperature = self._temperature[heads]
        scaled = (losses + self._margin[heads]) / temperature
        n_groups = losses.new_tensor(losses.shape[1])
        values = temperature[:, 0] * (scaled.logsumexp(1) - n_groups.log())
        return values, torch.softmax(scaled, dim=1)


class GroupWeights:
    """The exponentiated-gradient weights of the groups.

    Parameters
    ----------
    methods : sequence of GroupDRO
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[GroupDRO], context: TrainingContext) -> None:
        n_streams, device = len(context.groups), context.device
        n_groups = max(len(groups.counts) for groups in context.groups)
        # Streams with fewer groups are padded; a group of log weight -inf stays out.
        counts = torch.ones(n_streams, n_groups, 1, device=device)
        self._log_q = torch.full((n_streams, n_groups, 1), -torch.inf, device=device)
        for s, groups in enumerate(context.groups):
            counts[s, : len(groups.counts), 0] = torch.as_tensor(groups.counts)
            self._log_q[s, : len(groups.counts)] = 0.0
        step_size, adjustment = (
            torch.tensor(
                [[m.step_size, m.adjustment] for m in methods],
                dtype=torch.float32,
                device=device,
            )
            .view(n_streams, 1, -1, 2)
            .unbind(-1)
        )
        self._step_size = step_size
        self._margin = adjustment / counts.sqrt()
        self._log_q = torch.log_softmax(self._log_q.expand_as(self._margin), dim=1)
        self._numbers = torch.arange(n_groups, device=device)

    @property
    def q(self) -> Tensor:
        """Weights of the groups, (S, n_groups, M); they sum to one."""
        return self._log_q.exp()

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._step_size = self._step_size[:, :, methods]
        self._margin = self._margin[:, :, methods]
        self._log_q = self._log_q[:, :, methods]

    def __call__(self, step: Step) -> Tensor:
        """Update the group weights, then weight the rows by them.

        Parameters
        ----------
        step : Step

        Returns
        -------
        Tensor of shape (S, R, M)
        """
        member = step.strata[:, None, :] == self._numbers[:, None]  # (S, n_groups, R)
        member = member.to(step.losses.dtype)
        mass = torch.bmm(member, step.weights)
        mass = torch.where(mass > 0, mass, 1.0)
        group_losses = torch.bmm(member, step.weights * step.losses) / mass
        log_q = self._log_q + self._step_size * (group_losses + self._margin)
        self._log_q = torch.log_softmax(log_q, dim=1)
        # Each row belongs to one group: the product looks its factor up.
        return step.weights * torch.bmm(member.transpose(1, 2), self.q / mass)
