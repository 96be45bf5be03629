"""The methods' side of a step: which rows it sees, and what each of them counts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._features import fits
from skdebias._engine._loss import stratum_offsets
from skdebias._engine._mixing import MixedRows, check_mixture
from skdebias._engine._penalty import check_derivatives, check_term, check_values
from skdebias._engine._problem import Problem
from skdebias._engine._sampler import IndexSampler
from skdebias.methods import (
    DrawnRows,
    ForwardPass,
    Method,
    PenaltyTerm,
    SamplingPlan,
    Step,
    TrainingContext,
    WeightedLosses,
)
from skdebias.methods._checks import check_weights


class StackedMethods:
    """The methods of all streams, as one step after the other asks them.

    Trainers run the rows of a step forward and backward; all that a method says of the
    step is assembled here.

    Parameters
    ----------
    problems : sequence of Problem
        Streams, each with the same number of methods and of rows per step.
    y : Tensor of shape (n_samples,)
        Class codes of all rows; on the CPU.
    n_logits : int
        Of a head.
    batch_size : int
        Rows of one step over all batches of one plan.
    device : torch.device
        Where losses and weights live.

    Attributes
    ----------
    n_heads : int
        Heads of a method.
    heads_are_alternatives : bool
        Whether any of them can be the result.
    n_slots : int
        Rows of a step.
    steps_per_epoch : int
    mixing : Mixing or None
    weighting : Weighting or None
    penalty : Penalty or None
    objective : Objective or None
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        y: Tensor,
        n_logits: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        plans = [problem.plans() for problem in problems]
        self._samplers = samplers = [
            IndexSampler(stream, batch_size, p.seed, p.rows)
            for stream, p in zip(plans, problems)
        ]
        methods = [method for problem in problems for method in problem.methods]
        self.n_heads = _number_of_heads(methods)
        self.n_slots = samplers[0].n_slots
        weights = np.stack([s.weights for s in samplers]).repeat(self.n_heads, axis=2)
        self._weights = torch.from_numpy(weights).to(device, torch.float32)
        strata = np.stack([s.strata for s in samplers])
        self._strata = torch.from_numpy(strata).to(device)
        table = _row_weights(problems, plans, len(y), self.n_heads)
        if table is not None:
            table = table.to(device) if fits(table, device) else table
            self._streams = torch.arange(len(problems), device=table.device)[:, None]
        self._row_weights = table
        offsets = _offset_table(plans, n_logits, self.n_heads)
        self._offsets = None
        if offsets is not None:
            streams = np.arange(len(problems))[:, None]
            by_slot = torch.from_numpy(offsets[streams, strata])
            self._offsets = by_slot.to(device, torch.float32)
        groups, seeds = zip(*((p.groups, p.seed) for p in problems))
        context = TrainingContext(groups, y, device, seeds)
        kind = type(methods[0])
        self.heads_are_alternatives = methods[0].heads_are_alternatives
        self.weighting = kind.weighting(methods, context)
        self.penalty = kind.penalty(methods, context)
        self.objective = kind.objective(methods, context)
        self.mixing = kind.mixing(methods, context)
        if self.mixing is not None:
            self._refuse_beside_mixing(kind.__name__, problems)
        self._is_checked = self._is_weighed = False
        self.steps_per_epoch = -(-len(problems[0].groups.ids) // batch_size)

    @property
    def weights(self) -> Tensor:
        """Signed weights of the slots under every head, (S, R, M)."""
        return self._weights

    def rows(self, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """Yield the row numbers of steps `start` to `stop - 1`.

        Parameters
        ----------
        start, stop : int

        Yields
        ------
        ndarray of shape (S, R)
        """
        return map(np.stack, zip(*(s.steps(start, stop) for s in self._samplers)))

    def row_weighted(self, rows: Tensor) -> Tensor:
        """Return the weights that the plans give the rows of a step.

        Parameters
        ----------
        rows : Tensor of shape (S, R)
            Row numbers, on any device.

        Returns
        -------
        Tensor of shape (S, R, M)
        """
        return self._with_factors(self._weights, rows)

    def _with_factors(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Return weights of slots times what the plans say of their rows."""
        if self._row_weights is None:
            return weights
        table = self._row_weights
        factors = table[self._streams, rows.to(table.device)]
        return weights * factors.to(weights.device)

    def mix(self, number: int, rows: Tensor, y: Tensor) -> MixedRows | None:
        """Return how the rows of a step are mixed; the same whenever it is asked.

        Parameters
        ----------
        number : int
            Steps that were made before.
        rows, y : Tensor of shape (S, R)
            Row numbers and class codes.

        Returns
        -------
        MixedRows or None
        """
        if self.mixing is None:
            return None
        weights = self.row_weighted(rows)
        mixture = self.mixing(DrawnRows(weights, self._strata, rows, y, number))
        check_mixture(
            self.mixing, mixture, (*y.shape, weights.shape[2] // self.n_heads)
        )
        return MixedRows(
            mixture.partners,
            mixture.weights.repeat_interleave(self.n_heads, 2),
            y.gather(1, mixture.partners),
        )

    def _refuse_beside_mixing(self, name: str, problems: Sequence[Problem]) -> None:
        """Refuse what would see one of the two labels that a mixed row has."""
        beside = {
            "an objective": self.objective is not None,
            "a penalty": self.penalty is not None,
            "logit_offsets": self._offsets is not None,
            "rows without labels": any(problem.n_unlabeled for problem in problems),
        }
        for what, is_there in beside.items():
            if is_there:
                raise ValueError(
                    f"{name} mixes rows, and has {what}, for which a mixed row would "
                    "have to be of one of its two labels: leave one of them out."
                )

    @property
    def sees_whole_steps(self) -> bool:
        """Whether a rule asks for the outputs of all rows of a step at once."""
        return self.weighting is not None or self.objective is not None

    def shifted(self, logits: Tensor, slots: Tensor | None = None) -> Tensor:
        """Return logits as the cross-entropy takes them, with the offsets of the plans.

        Parameters
        ----------
        logits : Tensor of shape (S, R, M, n_logits)
        slots : Tensor of shape (R,), default=None
            The slots that they are of. None is all of them.

        Returns
        -------
        Tensor of shape (S, R, M, n_logits)
        """
        if self._offsets is None:
            return logits
        return logits + (self._offsets if slots is None else self._offsets[:, slots])

    def step(self, number: int, rows: Tensor, losses: Tensor, y: Tensor) -> Step:
        """Return what a rule may know of a step.

        Parameters
        ----------
        number : int
            Steps that were made before.
        rows : Tensor of shape (S, R)
            Row numbers.
        losses : Tensor of shape (S, R, M)
        y : Tensor of shape (S, R)
            Class codes.

        Returns
        -------
        Step
        """
        return Step(self.row_weighted(rows), losses, self._strata, rows, y, number)

    def step_of_pass(
        self,
        number: int,
        slots: Tensor,
        weights: Tensor,
        rows: Tensor,
        losses: Tensor,
        y: Tensor,
    ) -> Step:
        """Return what a penalty may know of a pass, which sees some of the slots.

        Parameters
        ----------
        number : int
            Steps that were made before.
        slots : Tensor of shape (R,)
            The numbers of its slots, on the device.
        weights, losses : Tensor of shape (S, R, M)
            The weights that are left once the rule has seen the step.
        rows, y : Tensor of shape (S, R)
            Row numbers and class codes.

        Returns
        -------
        Step
        """
        planned = self._with_factors(self._weights[:, slots], rows)
        strata = self._strata[:, slots]
        return Step(weights, losses, strata, rows, y, number, planned)

    def weigh(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """Return the weights of the step's losses, and advance the rule.

        Parameters
        ----------
        step : Step

        Returns
        -------
        weights : Tensor of shape (S, R, M)
        values : Tensor of shape (S, M) or None
            What the weights are the derivatives of. None is the weighted sum.

        Raises
        ------
        ValueError
            If the rule returns anything else, or what is not finite at the first step.
        """
        if self.weighting is None:
            return step.weights, None
        weighted = self.weighting(step)
        values = None
        if isinstance(weighted, WeightedLosses):
            weights, values = weighted.weights, weighted.values
        else:
            weights = weighted
        check_weights(
            self.weighting, weights, values, step, is_first=not self._is_weighed
        )
        self._is_weighed = True
        return weights, values

    def differentiate(self, step: Step, logits: Tensor | None) -> PenaltyTerm | None:
        """Return the objective of a step and its derivative, and advance its state.

        Parameters
        ----------
        step : Step
            With all of its slots.
        logits : Tensor of shape (S, R, M, n_logits) or None
            Of the heads, without offsets. None will do if there is no objective.

        Returns
        -------
        PenaltyTerm or None
            None if there is no objective.

        Raises
        ------
        ValueError
            If its values have another shape, or do not depend on the logits by what
            autograd has seen.
        """
        if self.objective is None or logits is None:
            return None
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            values = self.objective(step, leaf)
            check_values(self.objective, values, step)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return PenaltyTerm(values.detach(), gradient)

    def penalise(self, step: Step, forward: ForwardPass) -> PenaltyTerm | None:
        """Return the penalty on a step, and advance its state.

        Parameters
        ----------
        step : Step
        forward : ForwardPass
            With closed-form derivatives, unless it is recorded.

        Returns
        -------
        PenaltyTerm or None
            None if there is no penalty.

        Raises
        ------
        ValueError
            If a part of its derivative would be lost.
        """
        if self.penalty is None:
            return None
        if not self._is_checked and not forward.recorded:
            check_derivatives(self.penalty, step, forward)
        self._is_checked = True
        term = self.penalty(step, forward)
        check_term(term, step, forward)
        return term

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, NDArray[Any]]:
        """Return what the penalty saw in the epoch, for the history.

        Parameters
        ----------
        coefs : sequence of Tensor of shape (S * M, n_out, n_in)
            Weights of the layers; of networks, none.

        Returns
        -------
        dict of str to ndarray of shape (S * M,)
        """
        if self.penalty is None:
            return {}
        seen = self.penalty.end_epoch(coefs)
        return {name: values.cpu().numpy() for name, values in seen.items()}

    def select(self, methods: Tensor, heads: Tensor) -> None:
        """Drop all other methods of the one stream.

        Parameters
        ----------
        methods : Tensor of shape (n_kept,)
            Positions among the methods.
        heads : Tensor of shape (n_kept * n_heads,)
            Their heads.
        """
        # Slots that only dropped heads used stay, with no weight: rules may count rows.
        self._weights = self._weights[..., heads]
        if self._row_weights is not None:
            self._row_weights = self._row_weights[..., heads]
        if self._offsets is not None:
            self._offsets = self._offsets[:, :, heads]
        rules = self.mixing, self.weighting, self.penalty, self.objective
        for state in rules:
            if state is not None:
                state.select(methods)


def _number_of_heads(methods: Sequence[Method]) -> int:
    """Return how many heads each of the methods of a stack trains."""
    numbers = sorted({method.n_heads for method in methods})
    if len(numbers) > 1:
        raise ValueError(
            f"methods of {type(methods[0]).__name__} train {numbers[0]} and "
            f"{numbers[-1]} heads: they are different stacks."
        )
    return numbers[0]


def _offset_table(
    plans: Sequence[Sequence[SamplingPlan]], n_logits: int, n_heads: int
) -> NDArray[np.float64] | None:
    """Offsets of the logits (S, n_strata, M, n_logits), if any plan has them."""
    if all(plan.logit_offsets is None for stream in plans for plan in stream):
        return None
    n_strata = max(int(plan.strata.max()) + 1 for stream in plans for plan in stream)
    table = np.zeros((len(plans), n_strata, len(plans[0]), n_logits))
    for s, stream in enumerate(plans):
        for m, plan in enumerate(stream):
            offsets = stratum_offsets(plan, n_logits)
            if offsets is not None:
                table[s, : len(offsets), m] = offsets
    return table.repeat(n_heads, axis=2)


def _row_weights(
    problems: Sequence[Problem],
    plans: Sequence[Sequence[SamplingPlan]],
    n_rows: int,
    n_heads: int,
) -> Tensor | None:
    """Loss factors of all rows, (n_streams, n_rows, n_heads), if any plan has them."""
    if all(plan.row_weights is None for stream in plans for plan in stream):
        return None
    table = np.ones((len(problems), n_rows, len(plans[0])), dtype=np.float32)
    for s, (problem, stream) in enumerate(zip(problems, plans)):
        rows = slice(None) if problem.rows is None else problem.rows
        for m, plan in enumerate(stream):
            if plan.row_weights is not None:
                table[s, rows, m] = plan.row_weights
    return torch.from_numpy(table.repeat(n_heads, axis=2))
