"""What is trained, how, and what that yields."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._engine._features import AppendedFeatures, Features, JoinedFeatures
from skdebias._engine._heads import HeadStack, initial_parameters, stack_parameters
from skdebias._engine._loss import n_logits
from skdebias._groups import Groups
from skdebias.methods import (
    Batch,
    Head,
    Method,
    Objective,
    SamplingPlan,
    Weighting,
)
from skdebias.methods._head import Parameters, initial_state


@dataclass(frozen=True)
class Problem:
    """One stream: rows to train on, a seed, and the methods that see its draws.

    Parameters
    ----------
    methods : sequence of Method
        Of one class; each trains `n_heads` heads.
    groups : Groups
        Groups of the local rows.
    seed : int
        Seed of draws and initial weights.
    rows : ndarray of shape (n_rows,), default=None
        Global row number of every local row; None for all rows in order.
    initial : sequence of (coefs, intercepts), default=None
        Starting weights of the heads (warm start), the heads of a method side by side.
        None starts them as the methods say.
    n_unlabeled : int, default=0
        How many rows without labels follow those of the groups.
    validation : Groups, default=None
        Groups of the validation rows that follow these, for methods that see them.
    """

    methods: Sequence[Method]
    groups: Groups
    seed: int
    rows: NDArray[np.int64] | None = None
    initial: Sequence[Parameters] | None = None
    n_unlabeled: int = 0
    validation: Groups | None = None

    def plans(self) -> list[SamplingPlan]:
        """Return the plans of all methods, over the rows without labels too.

        Their draws follow the weights of the rows: whatever a rule does with the losses
        of a step, in expectation it is what it would do with so many copies of them.
        """
        plans = [method.plan(self.groups) for method in self.methods]
        weights = self.groups.weights
        if weights is not None:
            plans = [_with_weights(plan, weights) for plan in plans]
        if self.n_unlabeled:
            one = np.zeros(self.n_unlabeled, dtype=np.int64)
            plans = [_with_rows(plan, "unlabeled", one) for plan in plans]
        if self.validation is not None:
            more = self.validation.ids, self.validation.weights
            plans = [_with_rows(plan, "validation", *more) for plan in plans]
        return plans

    @property
    def heads(self) -> list[Head]:
        """The heads of all methods, in the order of the stack."""
        return [head for method in self.methods for head in method.heads]

    def anchors(self) -> list[Parameters] | None:
        """Return where weight decay pulls the heads; None pulls all to zero.

        Raises
        ------
        ValueError
            If some of the heads have an anchor and others have none.
        """
        anchors = [head.anchor for head in self.heads if head.anchor is not None]
        if anchors and len(anchors) < len(self.heads):
            raise ValueError(
                f"{type(self.methods[0]).__name__} gives an anchor to {len(anchors)} "
                f"of {len(self.heads)} heads: give one to all heads of a stack, or to "
                "none."
            )
        return anchors or None


def _with_weights(plan: SamplingPlan, weights: NDArray[np.float64]) -> SamplingPlan:
    """Draw rows in proportion to their weights, beside what the plan says itself."""
    if plan.draw_weights is not None:
        weights = weights * plan.draw_weights
    return replace(plan, draw_weights=weights)


def _with_rows(
    plan: SamplingPlan,
    name: str,
    strata: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> SamplingPlan:
    """Add rows in strata of their own, and a batch of these that has no weight.

    Parameters
    ----------
    plan : SamplingPlan
    name : str
        Of the batch.
    strata : ndarray of shape (n_rows,)
        From 0; the batch is uniform over them.
    weights : ndarray of shape (n_rows,), default=None
        Rows are drawn in proportion to them. None is 1.

    Returns
    -------
    SamplingPlan
    """
    n_strata = len(plan.batches[0].probabilities)
    n_rows, n_more = len(strata), int(strata.max()) + 1
    drawn = plan.draw_weights
    if drawn is None and weights is not None:
        drawn = np.ones(len(plan.strata))
    if drawn is not None:
        drawn = np.concatenate([drawn, np.ones(n_rows) if weights is None else weights])

    def appended(values: Any, length: int, value: float) -> Any:
        if values is None:
            return None
        tail = np.full((length, *values.shape[1:]), value, dtype=values.dtype)
        return np.concatenate([values, tail])

    batches = [
        replace(batch, probabilities=appended(batch.probabilities, n_more, 0.0))
        for batch in plan.batches
    ]
    alone = (np.arange(n_strata + n_more) >= n_strata) / n_more
    n_blocks = 0 if plan.blocks is None else int(plan.blocks.max()) + 1
    return replace(
        plan,
        strata=np.concatenate([plan.strata, strata + n_strata]),
        batches=(*batches, Batch(name, alone, factor=0.0)),
        blocks=appended(plan.blocks, n_more, n_blocks),
        row_weights=appended(plan.row_weights, n_rows, 1.0),
        logit_offsets=appended(plan.logit_offsets, n_more, 0.0),
        draw_weights=drawn,
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer settings of a stack; arrays have one value per head, streams in order.

    Parameters
    ----------
    optimizer : {"sgd", "adamw"}
    learning_rate, weight_decay, momentum : ndarray of shape (n_total_heads,)
    batch_size : int
        Rows of one step over all batches of a plan.
    max_iter : int
        Epochs of ceil(n_rows / batch_size) steps.
    hidden_layer_sizes : tuple of int
    epochs : ndarray of shape (n_total_heads,), default=None
        Epochs after which a head is frozen while others go on.
    """

    optimizer: Literal["sgd", "adamw"]
    learning_rate: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    momentum: NDArray[np.float64]
    batch_size: int
    max_iter: int
    hidden_layer_sizes: tuple[int, ...] = ()
    epochs: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Fitted:
    """What training a stack yields.

    Parameters
    ----------
    stack : HeadStack
        The kept heads.
    n_iter, best_epoch : ndarray of shape (n_total_heads,)
        Epochs run, and the epoch that was kept (from 1).
    history : dict of list of ndarray
        Per epoch: `loss` (n_total_heads,), and with a validation set
        `validation_score` (n_total_heads,) and `validation_group_accuracy`
        (n_groups, n_total_heads).
    weighting : Weighting or None
        The weighting rule in its final state.
    diverged : ndarray of shape (n_total_heads,), default=None
        Epoch in which the objective or a weight of a head was no longer finite, 0 for
        never.
    position : int, default=0
        Number of the method among those of its stream, in a part of a stack.
    source : ndarray of shape (n_total_heads,), default=None
        For every head the first one that is the same; None if all are different.
    shares : ndarray of shape (n_total_heads, n_strata), default=None
        From the deterministic solver, weight of every stratum's mean loss at the end.
    objective : Objective or None
        The objective of the logits in its final state.
    results : ndarray of shape (n_methods,), default=None
        Numbers of the heads that are the results of their methods. None is all of them.
    """

    stack: HeadStack
    n_iter: NDArray[np.int64]
    best_epoch: NDArray[np.int64]
    history: dict[str, list[NDArray[np.float64]]]
    weighting: Weighting | None = None
    diverged: NDArray[np.int64] | None = None
    position: int = 0
    source: NDArray[np.int64] | None = None
    shares: NDArray[np.float64] | None = None
    objective: Objective | None = None
    results: NDArray[np.int64] | None = None

    @property
    def result(self) -> int:
        """Number of the head that is the result, of one method."""
        return 0 if self.results is None else int(self.results[0])

    def part(self, position: int, n_heads: int) -> Self:
        """Return what a stack of this method alone would have yielded.

        Parameters
        ----------
        position : int
            Number of the method; the rule is shared by all.
        n_heads : int
            Heads of a method.

        Returns
        -------
        Fitted
        """
        heads = slice(position * n_heads, (position + 1) * n_heads)
        history = {
            name: [values[..., heads] for values in epochs]
            for name, epochs in self.history.items()
        }
        diverged = None if self.diverged is None else self.diverged[heads]
        results = None
        if self.results is not None:
            results = self.results[[position]] - heads.start
        return replace(
            self,
            stack=self.stack.part(heads),
            n_iter=self.n_iter[heads],
            best_epoch=self.best_epoch[heads],
            history=history,
            diverged=diverged,
            position=position,
            results=results,
        )


def initial_stack(
    features: Features | JoinedFeatures | AppendedFeatures,
    n_classes: int,
    problems: Sequence[Problem],
    settings: OptimizerConfig,
) -> HeadStack:
    """Stack the heads where training begins.

    Parameters
    ----------
    features : Features, JoinedFeatures or AppendedFeatures
    n_classes : int
    problems : sequence of Problem
    settings : OptimizerConfig

    Returns
    -------
    HeadStack
    """
    columns = [slice(0, features.n_features)] * problems[0].methods[0].n_heads
    if isinstance(features, JoinedFeatures):
        columns = features.columns
    further = (*settings.hidden_layer_sizes, n_logits(n_classes))
    parameters: list[Parameters] = []
    for problem in problems:
        starts = problem.initial or problem.anchors()
        if starts is not None:
            parameters.extend(starts)
            continue
        for method in problem.methods:
            for position, inputs in enumerate(columns):
                sizes = (inputs.stop - inputs.start, *further)
                stream, from_zero = initial_state(method.heads, position)
                parameters.append(
                    initial_parameters(sizes, problem.seed, stream, from_zero=from_zero)
                )
    if not isinstance(features, JoinedFeatures):
        return stack_parameters(parameters, len(problems), features.device)
    all_columns = columns * (len(parameters) // len(columns))
    widened = [
        _widened(p, c, features.n_features) for p, c in zip(parameters, all_columns)
    ]
    return stack_parameters(widened, len(problems), features.device, all_columns)


def _widened(parameters: Parameters, columns: slice, n_features: int) -> Parameters:
    """Put first-layer weights into their columns among all features."""
    (first, *further), intercepts = parameters
    wide = np.zeros((len(first), n_features), np.float32)
    wide[:, columns] = first
    return [wide, *further], intercepts


def anchor_stack(problems: Sequence[Problem], device: torch.device) -> HeadStack | None:
    """Stack what weight decay pulls the heads to.

    Parameters
    ----------
    problems : sequence of Problem
    device : torch.device

    Returns
    -------
    HeadStack or None
        None is zero.
    """
    anchors = [problem.anchors() for problem in problems]
    parameters = [head for heads in anchors for head in heads or ()]
    if not parameters:
        return None
    return stack_parameters(parameters, len(problems), device)
