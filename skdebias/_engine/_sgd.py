"""The one stochastic training loop, for a stack of heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._attributes import Groups
from skdebias._engine._features import Features, JoinedFeatures, fits
from skdebias._engine._heads import HeadStack, initial_parameters, stack_parameters
from skdebias._engine._loss import cross_entropy, n_logits
from skdebias._engine._optimizers import make_optimizer
from skdebias._engine._penalty import check_derivatives, check_term
from skdebias._engine._sampler import IndexSampler
from skdebias._engine._selection import HeadValidationScorer, Stopping, Tracker
from skdebias._engine._threads import Workers, workers
from skdebias._engine._workspace import Workspace
from skdebias.methods import (
    ForwardPass,
    Head,
    Method,
    SamplingPlan,
    Step,
    TrainingContext,
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
    """

    methods: Sequence[Method]
    groups: Groups
    seed: int
    rows: NDArray[np.int64] | None = None
    initial: Sequence[Parameters] | None = None

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
        own = slice(position * n_heads, (position + 1) * n_heads)
        history = {
            name: [values[..., own] for values in epochs]
            for name, epochs in self.history.items()
        }
        diverged = None if self.diverged is None else self.diverged[own]
        return replace(
            self,
            stack=self.stack.part(own),
            n_iter=self.n_iter[own],
            best_epoch=self.best_epoch[own],
            history=history,
            diverged=diverged,
            position=position,
        )


def train(
    features: Features | JoinedFeatures,
    y: NDArray[np.int64],
    n_classes: int,
    problems: Sequence[Problem],
    settings: OptimizerConfig,
    *,
    validation: HeadValidationScorer | None = None,
    stopping: Stopping | None = None,
    on_epoch_begin: Callable[[HeadStack], None] | None = None,
    on_epoch_end: Callable[[Tracker], bool] | None = None,
    allow_divergence: bool = False,
) -> Fitted:
    """Train a stack of heads by stochastic gradients.

    Parameters
    ----------
    features : Features or JoinedFeatures
        All rows. Of joined ones, the heads of a method read one part each.
    y : ndarray of shape (n_samples,)
        Class codes of all rows.
    n_classes : int
    problems : sequence of Problem
        Streams, each with the same number of methods and of rows per step.
    settings : OptimizerConfig
    validation : HeadValidationScorer, default=None
        Scores every head after every epoch and selects the epoch that is kept.
    stopping : Stopping, default=None
    on_epoch_begin, on_epoch_end : callable, default=None
        Observers; `on_epoch_end` returns True to stop.
    allow_divergence : bool, default=False
        Go on with the other heads where one diverges, and report it in `diverged`.

    Returns
    -------
    Fitted

    Raises
    ------
    DivergenceError
        If the objective or a weight of a head is no longer finite, unless tolerated.
    """
    training = Training(
        features,
        y,
        n_classes,
        problems,
        settings,
        validation=validation,
        stopping=stopping,
        allow_divergence=allow_divergence,
    )
    training.run(on_epoch_begin=on_epoch_begin, on_epoch_end=on_epoch_end)
    return training.result()


class Training:
    """A stack of heads in training, which can be read, thinned out and continued.

    Parameters
    ----------
    features : Features or JoinedFeatures
        This and the following as for :func:`train`.
    y : ndarray of shape (n_samples,)
    n_classes : int
    problems : sequence of Problem
    settings : OptimizerConfig
    validation : HeadValidationScorer, default=None
    stopping : Stopping, default=None
    allow_divergence : bool, default=False

    Attributes
    ----------
    epoch : int
        Epochs run so far.
    """

    def __init__(
        self,
        features: Features | JoinedFeatures,
        y: NDArray[np.int64],
        n_classes: int,
        problems: Sequence[Problem],
        settings: OptimizerConfig,
        *,
        validation: HeadValidationScorer | None = None,
        stopping: Stopping | None = None,
        allow_divergence: bool = False,
    ) -> None:
        self.epoch = 0
        self._max_iter = settings.max_iter
        self._allow_divergence = allow_divergence
        self._done = False
        self._n_streams = len(problems)
        self._learning_rate = settings.learning_rate
        self._diverged = np.zeros(len(settings.learning_rate), dtype=np.int64)
        self._loop = loop = _Loop(features, y, n_classes, problems, settings)
        self._tracker = Tracker(
            loop.stack, stopping or Stopping(), validation, loop.n_heads
        )

    def run(
        self,
        until: int | None = None,
        *,
        on_epoch_begin: Callable[[HeadStack], None] | None = None,
        on_epoch_end: Callable[[Tracker], bool] | None = None,
    ) -> None:
        """Train until some epochs have been run in all, or training is over.

        Parameters
        ----------
        until : int, default=None
            At most `max_iter`, which is also the default.
        on_epoch_begin, on_epoch_end : callable, default=None
            As for :func:`train`.

        Raises
        ------
        DivergenceError
            If the objective or a weight of a head is no longer finite, unless
            tolerated.
        """
        loop, last = self._loop, self._max_iter if until is None else until
        with workers(loop.device) as threads, torch.no_grad():
            while self.epoch < min(last, self._max_iter) and not self._done:
                if on_epoch_begin is not None:
                    on_epoch_begin(loop.stack)
                self.epoch += 1
                losses = loop.run_epoch(self.epoch, threads)
                lost = ~np.isfinite(losses)
                self._diverged[lost & (self._diverged == 0)] = self.epoch
                if lost.any() and not self._allow_divergence:
                    raise divergence(self.epoch, self._learning_rate[lost].max())
                self._done = self._tracker.update(self.epoch, losses, loop.observed())
                if on_epoch_end is not None and on_epoch_end(self._tracker):
                    self._done = True

    def select(self, methods: Sequence[int]) -> None:
        """Drop the heads of all other methods; the rest goes on from where it is.

        The rows that a head sees do not depend on the heads beside it: those that are
        left see the same as before, and do no other work.

        Parameters
        ----------
        methods : sequence of int
            Positions among the methods that are left.

        Raises
        ------
        ValueError
            If there are several streams.
        """
        if self._n_streams > 1:
            raise ValueError(
                f"{self._n_streams} streams cannot be thinned out: train one stack for "
                "each."
            )
        n_heads = self._loop.n_heads
        heads = (np.asarray(methods)[:, None] * n_heads + np.arange(n_heads)).ravel()
        self._loop.select(torch.as_tensor(methods), torch.from_numpy(heads))
        self._tracker.select(heads)
        self._learning_rate = self._learning_rate[heads]
        self._diverged = self._diverged[heads]

    def result(self) -> Fitted:
        """Return the heads as training until here would have yielded them.

        Returns
        -------
        Fitted
            Valid until training goes on.
        """
        tracker = self._tracker
        return Fitted(
            tracker.result(),
            tracker.n_iter,
            tracker.best_epoch,
            tracker.history,
            self._loop.weighting,
            self._diverged,
        )


class DivergenceError(FloatingPointError, ValueError):
    """The training objective is no longer finite.

    A `ValueError`, because it comes of unscaled X or of a parameter, as well as the
    `FloatingPointError` that it is.
    """


def divergence(epoch: int, learning_rate: float) -> DivergenceError:
    """Return the error of a fit whose objective is no longer finite.

    Parameters
    ----------
    epoch : int
    learning_rate : float

    Returns
    -------
    DivergenceError
    """
    return DivergenceError(
        f"The training objective, or a weight, is no longer finite in epoch {epoch}: "
        f"lower learning_rate (now {learning_rate:g}) or standardise X."
    )


class _Loop:
    """State of a training run between epochs."""

    def __init__(
        self,
        features: Features | JoinedFeatures,
        y: NDArray[np.int64],
        n_classes: int,
        problems: Sequence[Problem],
        settings: OptimizerConfig,
    ) -> None:
        self._features = features
        device = features.device
        self._scratch = Workspace(device)
        codes = torch.from_numpy(y)
        self._y = codes.to(device)
        self.stack = _initial_stack(features, n_classes, problems, settings)
        self._optimizer = make_optimizer(
            settings.optimizer,
            self.stack,
            settings.learning_rate,
            settings.weight_decay,
            settings.momentum,
            _anchor_stack(problems, device),
        )
        plans = [[m.plan(p.groups) for m in p.methods] for p in problems]
        samplers = [
            IndexSampler(own, settings.batch_size, p.seed, p.rows)
            for own, p in zip(plans, problems)
        ]
        methods = [method for problem in problems for method in problem.methods]
        self.n_heads = methods[0].n_heads
        weights = np.stack([s.weights for s in samplers]).repeat(self.n_heads, axis=2)
        self._weights = torch.from_numpy(weights).to(device, torch.float32)
        strata = np.stack([s.strata for s in samplers])
        self._strata = torch.from_numpy(strata).to(device)
        table = _row_weights(problems, plans, len(y), self.n_heads)
        if table is not None:
            table = table.to(device) if fits(table, device) else table
            self._streams = torch.arange(len(problems), device=table.device)[:, None]
        self._row_weights = table
        context = TrainingContext(tuple(p.groups for p in problems), codes, device)
        self.weighting = type(methods[0]).weighting(methods, context)
        self._penalty = type(methods[0]).penalty(methods, context)
        self._checked = self._penalty is None
        self._epochs = settings.epochs
        n_rows = len(problems[0].groups.ids)
        self._steps_per_epoch = -(-n_rows // settings.batch_size)
        n_steps = self._steps_per_epoch * settings.max_iter
        drawn = zip(*(s.steps(0, n_steps) for s in samplers))
        self._steps = features.gathered(map(np.stack, drawn))

    @property
    def device(self) -> torch.device:
        """Where the heads are trained."""
        return self._features.device

    def select(self, methods: torch.Tensor, heads: torch.Tensor) -> None:
        """Go on with some methods of the one stream, whose heads are `heads`."""
        self.stack.select(heads)
        self._optimizer.select(self.stack, heads)
        # Slots that only dropped heads used stay, with no weight: rules may count rows.
        self._weights = self._weights[..., heads]
        if self._row_weights is not None:
            self._row_weights = self._row_weights[..., heads]
        if self._epochs is not None:
            self._epochs = self._epochs[heads.numpy()]
        for state in (self.weighting, self._penalty):
            if state is not None:
                state.select(methods)

    def run_epoch(self, epoch: int, threads: Workers) -> NDArray[np.float64]:
        """Run the next epoch, number `epoch`; return the mean objective per head.

        It is NaN where the epoch leaves parameters that are not finite.
        """
        if self._epochs is not None:
            self._optimizer.freeze(self._epochs < epoch)
        objective = torch.zeros(self._weights.shape[0], self._weights.shape[2])
        objective = objective.to(self._weights.device)
        for index, X in islice(self._steps, self._steps_per_epoch):
            objective += self._step(index, X, threads)
        mean = (objective / self._steps_per_epoch).flatten()
        mean = torch.where(self.stack.finite(), mean, torch.nan)
        return mean.double().cpu().numpy()

    def _step(
        self, index: torch.Tensor, X: torch.Tensor, threads: Workers
    ) -> torch.Tensor:
        """One optimizer step on the rows `index` (n_streams, n_slots), which are X."""
        scratch = self._scratch
        logits, activations = self.stack.forward(X, scratch, threads)
        y = self._y.take(index)
        losses, residual = cross_entropy(logits, y, scratch)
        weights = self._weights
        if self._row_weights is not None:
            table = self._row_weights
            factors = table[self._streams, index.to(table.device)]
            weights = weights * factors.to(weights.device)
        step = Step(weights, losses, self._strata, index, y)
        if self.weighting is not None:
            weights = self.weighting(step)
        # Signed weights make one backward pass of both GERNE batches: the gradient is
        # (1 + beta) grad L_lb - beta grad L_b, handed to the optimizer once.
        if self._penalty is None:
            objective = losses.mul_(weights).sum(1)
            delta = residual.mul_(weights[..., None])
            grads, biases = self.stack.backward(activations, delta, scratch, threads)
            self._optimizer.step(grads, biases)
            return objective
        objective, delta = (losses * weights).sum(1), residual * weights[..., None]
        seen = ForwardPass(logits, residual, activations, self.stack.coefs)
        if not self._checked:
            check_derivatives(self._penalty, step, seen)
            self._checked = True
        term = self._penalty(step, seen)
        check_term(term, step, seen)
        delta = delta + term.logits
        grads, biases = self.stack.backward(activations, delta, scratch, threads)
        if term.coefs:
            grads = self.stack.added(grads, term.coefs)
        self._optimizer.step(grads, biases)
        return objective + term.values

    def observed(self) -> dict[str, NDArray]:
        """What the penalty saw in the last epoch, (n_total_heads,) arrays."""
        if self._penalty is None:
            return {}
        seen = self._penalty.end_epoch(self.stack.coefs)
        return {name: values.cpu().numpy() for name, values in seen.items()}


def _initial_stack(
    features: Features | JoinedFeatures,
    n_classes: int,
    problems: Sequence[Problem],
    settings: OptimizerConfig,
) -> HeadStack:
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


def _anchor_stack(
    problems: Sequence[Problem], device: torch.device
) -> HeadStack | None:
    anchors = [problem.anchors() for problem in problems]
    parameters = [head for heads in anchors for head in heads or ()]
    if not parameters:
        return None
    return stack_parameters(parameters, len(problems), device)


def _row_weights(
    problems: Sequence[Problem],
    plans: Sequence[Sequence[SamplingPlan]],
    n_rows: int,
    n_heads: int,
) -> torch.Tensor | None:
    """Loss factors of all rows, (n_streams, n_rows, n_heads), if any plan has them."""
    if all(plan.row_weights is None for own in plans for plan in own):
        return None
    table = np.ones((len(problems), n_rows, len(plans[0])), dtype=np.float32)
    for s, (problem, own) in enumerate(zip(problems, plans)):
        rows = slice(None) if problem.rows is None else problem.rows
        for m, plan in enumerate(own):
            if plan.row_weights is not None:
                table[s, rows, m] = plan.row_weights
    return torch.from_numpy(table.repeat(n_heads, axis=2))
