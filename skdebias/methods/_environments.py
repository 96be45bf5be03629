"""Environments of a step's rows: here, the values of the attribute."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._groups import Groups
from skdebias._warnings import warn_caller
from skdebias.methods._method import Method
from skdebias.methods._mixture import DrawnRows
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._step import Step, TrainingContext


def per_method(
    methods: Sequence[Method], context: TrainingContext, name: str
) -> Tensor:
    """Return the values of a field, (S, n_methods).

    Parameters
    ----------
    methods : sequence of Method
        Of all streams, in order.
    context : TrainingContext
    name : str

    Returns
    -------
    Tensor of shape (S, n_methods)
        float32.
    """
    values = torch.tensor([float(getattr(method, name)) for method in methods])
    return values.view(len(context.groups), -1).to(context.device)


def environment_plan(groups: Groups, balance: str | None) -> SamplingPlan:
    """Return the plan whose steps have as many rows of every environment.

    Parameters
    ----------
    groups : Groups
        Groups of the training rows.
    balance : {None, "class"}
        Whether, within an environment, classes are drawn alike too. Strata are the
        environments otherwise.

    Returns
    -------
    SamplingPlan
    """
    environments = _of_strata(groups, balance)
    strata = groups.ids if balance == "class" else environments[1][groups.ids]
    of_stratum = environments[0]
    share = 1.0 / np.bincount(of_stratum)[of_stratum]
    return SamplingPlan(strata, (Batch("all", share / share.sum()),))


def _of_strata(
    groups: Groups, balance: str | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Environment of every stratum of the plan, and of every group."""
    _, of_group = np.unique(groups.cells[:, 1], return_inverse=True)
    if balance == "class":
        return of_group, of_group
    return np.arange(int(of_group.max()) + 1), of_group


class Environments:
    """Which rows of a step are of which environment, and their means.

    Parameters
    ----------
    methods : sequence of Method
        With a field `balance`, in which they agree.
    context : TrainingContext

    Attributes
    ----------
    present : Tensor of shape (S, E, 1)
        1 for the environments that a stream has, else 0.
    """

    def __init__(self, methods: Sequence[Any], context: TrainingContext) -> None:
        balance = methods[0].balance
        tables = [_of_strata(groups, balance)[0] for groups in context.groups]
        n_environments = max(int(table.max()) + 1 for table in tables)
        n_strata = max(len(table) for table in tables)
        # Streams with fewer strata are padded, and with fewer environments too.
        member = torch.zeros(len(tables), n_environments, n_strata)
        for stream, table in zip(member, tables):
            stream[torch.from_numpy(table), torch.arange(len(table))] = 1.0
        self._member = member.to(context.device)
        self.present = (member.sum(2, keepdim=True) > 0).float().to(context.device)

    def member(self, step: Step | DrawnRows) -> Tensor:
        """Return 1 where a row is of an environment, else 0: (S, E, R)."""
        strata = step.strata[:, None].expand(-1, self._member.shape[1], -1)
        return self._member.gather(2, strata)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the environments that there are, (S, M).

        Parameters
        ----------
        values : Tensor of shape (S, E, M)
            0 for those that there are not.

        Returns
        -------
        Tensor of shape (S, M)
        """
        return values.sum(1) / self.present.sum(1)


def averages(member: Tensor, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted means of rows' values by environment, and their weights.

    Parameters
    ----------
    member : Tensor of shape (S, E, R)
    weights, values : Tensor of shape (S, R, M)

    Returns
    -------
    means, mass : Tensor of shape (S, E, M)
        0 and 1 for an environment without rows.
    """
    mass = torch.bmm(member, weights)
    mass = torch.where(mass > 0, mass, 1.0)
    return torch.bmm(member, weights * values) / mass, mass


class Annealed:
    """Weight of a penalty, lower until training has settled.

    Parameters
    ----------
    methods : sequence of Method
        With fields `penalty_weight` and `anneal`.
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[Method], context: TrainingContext) -> None:
        self._full = per_method(methods, context, "penalty_weight")
        self._anneal = per_method(methods, context, "anneal")
        #: Steps that were made.
        self.n_steps = 0

    def at(self, step: Step) -> Tensor:
        """Return the weights at a step, (S, M)."""
        self.n_steps = step.number + 1
        annealed = step.number >= self._anneal
        return torch.where(annealed, self._full, self._full.clamp_max(1.0))

    def select(self, methods: Tensor) -> None:
        """Drop all other methods."""
        self._full = self._full[:, methods]
        self._anneal = self._anneal[:, methods]


def warn_if_never_annealed(method: Any, rule: Any) -> None:
    """Warn of a penalty whose weight was never raised.

    Parameters
    ----------
    method : Method
        With fields `penalty_weight` and `anneal`.
    rule : object
        With `annealed`, at the end of training.
    """
    n_steps = rule.annealed.n_steps
    if method.penalty_weight > 1.0 and 0 < n_steps <= method.anneal:
        warn_caller(
            f"the penalty of {type(method).__name__} kept a weight of 1 instead of "
            f"{method.penalty_weight:g}: training ended after {n_steps} steps, within "
            f"the first anneal={method.anneal}. Lower anneal, or raise max_iter.",
            UserWarning,
        )
