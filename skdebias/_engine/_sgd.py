"""The one stochastic training loop, for a stack of heads."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._engine._features import AppendedFeatures, Features, JoinedFeatures
from skdebias._engine._heads import HeadStack
from skdebias._engine._loss import n_logits
from skdebias._engine._mixing import MixedRows, mixed_cross_entropy
from skdebias._engine._optimizers import make_optimizer
from skdebias._engine._problem import (
    Fitted,
    OptimizerConfig,
    Problem,
    anchor_stack,
    initial_stack,
)
from skdebias._engine._selection import HeadValidationScorer, Stopping, Tracker
from skdebias._engine._threads import Workers, workers
from skdebias._engine._weighting import StackedMethods
from skdebias._engine._workspace import Workspace
from skdebias.methods import ForwardPass


class Training:
    """A stack of heads in training, which can be read, thinned out and continued.

    Parameters
    ----------
    features : Features, JoinedFeatures or AppendedFeatures
        All rows. Of joined ones, the heads of a method read one part each.
    y : ndarray of shape (n_samples,)
        Class codes of all rows; -1 for rows without labels.
    n_classes : int
    problems : sequence of Problem
        Streams, each with the same number of methods and of rows per step.
    settings : OptimizerConfig
    validation : HeadValidationScorer, default=None
        Scores every head after every epoch and selects the epoch that is kept.
    stopping : Stopping, default=None
    allow_divergence : bool, default=False
        Go on with the other heads where one diverges, and report it in `diverged`.

    Attributes
    ----------
    epoch : int
        Epochs run so far.
    """

    def __init__(
        self,
        features: Features | JoinedFeatures | AppendedFeatures,
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
            loop.stack,
            stopping or Stopping(),
            validation,
            loop.methods.n_heads,
            loop.methods.heads_are_alternatives,
        )

    def run(
        self,
        until: int | None = None,
        *,
        on_epoch_begin: Callable[[HeadStack], None] | None = None,
        on_epoch_end: Callable[[Tracker], bool] | None = None,
    ) -> Fitted:
        """Train until some epochs have been run in all, or training is over.

        Parameters
        ----------
        until : int, default=None
            At most `max_iter`, which is also the default.
        on_epoch_begin, on_epoch_end : callable, default=None
            Observers; `on_epoch_end` returns True to stop.

        Returns
        -------
        Fitted
            What :meth:`result` returns.

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
                self._done = self._tracker.update(self.epoch, losses, loop.end_epoch())
                if on_epoch_end is not None and on_epoch_end(self._tracker):
                    self._done = True
        return self.result()

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
        n_heads = self._loop.methods.n_heads
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
            self._loop.methods.weighting,
            self._diverged,
            objective=self._loop.methods.objective,
            results=tracker.results,
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
        features: Features | JoinedFeatures | AppendedFeatures,
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
        self.stack = initial_stack(features, n_classes, problems, settings)
        self._optimizer = make_optimizer(
            settings.optimizer,
            self.stack,
            settings.learning_rate,
            settings.weight_decay,
            settings.momentum,
            anchor_stack(problems, device),
        )
        self.methods = StackedMethods(
            problems, codes, n_logits(n_classes), settings.batch_size, device
        )
        self._number = 0
        self._has_unlabeled = any(problem.n_unlabeled for problem in problems)
        self._epochs = settings.epochs
        n_steps = self.methods.steps_per_epoch * settings.max_iter
        self._steps = features.gathered(self.methods.rows(0, n_steps))

    @property
    def device(self) -> torch.device:
        """Where the heads are trained."""
        return self._features.device

    def select(self, methods: torch.Tensor, heads: torch.Tensor) -> None:
        """Go on with some methods of the one stream, whose heads are `heads`."""
        self.stack.select(heads)
        self._optimizer.select(self.stack, heads)
        self.methods.select(methods, heads)
        if self._epochs is not None:
            self._epochs = self._epochs[heads.numpy()]

    def run_epoch(self, epoch: int, threads: Workers) -> NDArray[np.float64]:
        """Run the next epoch, number `epoch`; return the mean objective per head.

        It is NaN where the epoch leaves parameters that are not finite.
        """
        if self._epochs is not None:
            self._optimizer.freeze(self._epochs < epoch)
        weights, n_steps = self.methods.weights, self.methods.steps_per_epoch
        objective = torch.zeros(weights.shape[0], weights.shape[2])
        objective = objective.to(weights.device)
        for index, X in islice(self._steps, n_steps):
            objective += self._step(index, X, threads)
        mean = (objective / n_steps).flatten()
        mean = torch.where(self.stack.finite(), mean, torch.nan)
        return mean.double().cpu().numpy()

    def _step(
        self, index: torch.Tensor, X: torch.Tensor, threads: Workers
    ) -> torch.Tensor:
        """One optimizer step on the rows `index` (n_streams, n_slots), which are X."""
        scratch = self._scratch
        y = self._y.take(index)
        mixed = self.methods.mix(self._number, index, y)
        logits, activations = self.stack.forward(X, scratch, threads, mixed)
        losses, residual = self._losses(logits, y, mixed)
        step = self.methods.step(self._number, index, losses, y)
        self._number += 1
        weights, values = self.methods.weigh(step)
        forward = ForwardPass(logits, residual, activations, self.stack.coefs)
        differentiated = self.methods.differentiate(step, logits)
        # As of a network's pass: a penalty sees what the rule has left of the weights.
        left = replace(step, weights=weights, planned=step.weights)
        penalty = self.methods.penalise(left, forward)
        # Signed weights make one backward pass of both GERNE batches: the gradient is
        # (1 + beta) grad L_lb - beta grad L_b, handed to the optimizer once.
        if penalty is None:
            objective = losses.mul_(weights).sum(1) if values is None else values
            delta = residual.mul_(weights[..., None])
        else:  # which may hold the losses or the residual themselves
            objective = (losses * weights).sum(1) if values is None else values
            objective = objective + penalty.values
            delta = residual * weights[..., None] + penalty.logits
        if differentiated is not None:
            objective = objective + differentiated.values
            delta = delta + differentiated.logits
        hidden = None if penalty is None else penalty.hidden
        grads, biases = self.stack.backward(
            activations, delta, scratch, threads, hidden, mixed
        )
        if penalty is not None and penalty.coefs:
            grads = self.stack.added(grads, penalty.coefs)
        self._optimizer.step(grads, biases)
        return objective

    def _losses(
        self, logits: torch.Tensor, y: torch.Tensor, mixed: MixedRows | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of the slots, and their derivatives in the logits."""
        shifted = self.methods.shifted(logits)
        if not self._has_unlabeled:
            return mixed_cross_entropy(shifted, y, mixed, self._scratch)
        known = y.clamp_min(0)
        losses, residual = mixed_cross_entropy(shifted, known, None, self._scratch)
        return losses.mul_((y >= 0)[..., None]), residual

    def end_epoch(self) -> dict[str, NDArray]:
        """What the penalty saw in the last epoch, (n_total_heads,) arrays."""
        return self.methods.end_epoch(self.stack.coefs)
