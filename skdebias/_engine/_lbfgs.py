"""The deterministic solver: batched L-BFGS on the expected risk of the plans.

Every head of a stack is a convex problem of its own, with its own weights of the rows,
its own weight decay, and its own steps; what they share is the passes over the rows,
two matrix products each. Problems that are equal in expectation are solved once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._curvature import Curvature, sampled_curvature
from skdebias._engine._expected_risk import (
    ExpectedRisk,
    WeightedRows,
    distinct_problems,
    expected_shares,
    flat_parameters,
)
from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack, initial_parameters
from skdebias._engine._loss import n_logits
from skdebias._engine._problem import Fitted, OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer
from skdebias._engine._threads import workers
from skdebias._groups import Groups
from skdebias._precision import exact_float32
from skdebias.methods import Method, SamplingPlan, TrainingContext
from skdebias.methods._head import Parameters

# Pairs of steps and gradient differences that are remembered.
_MEMORY = 20
_ARMIJO = 1e-4
_SHORTEST_STEP = 1e-6
# Objectives are sums of float32 losses: differences below this share are rounding.
_ROUNDING = 1e-7


@dataclass(frozen=True)
class Solved(Fitted):
    """What the deterministic solver yields, beside what training does.

    Parameters
    ----------
    gradient : ndarray of shape (n_total_heads,), default=None
        Largest entry of the gradient at the end.
    """

    gradient: NDArray[np.float64] | None = None

    def part(self, position: int, n_heads: int) -> Self:
        """Return what a stack of this method alone would have yielded."""
        heads = slice(position * n_heads, (position + 1) * n_heads)
        return replace(
            super().part(position, n_heads),
            source=None,
            gradient=None if self.gradient is None else self.gradient[heads],
            shares=None if self.shares is None else self.shares[heads],
        )


def solve(
    features: Features | JoinedFeatures,
    y: NDArray[np.int64],
    n_classes: int,
    problem: Problem,
    settings: OptimizerConfig,
    *,
    tol: float,
    validation: HeadValidationScorer | None = None,
) -> Solved:
    """Minimise the expected objectives of a stack of linear heads.

    Parameters
    ----------
    features : Features
        All rows.
    y : ndarray of shape (n_samples,)
        Class codes of all rows.
    n_classes : int
    problem : Problem
        Its methods have neither penalty nor objective, and a weighting only with a
        group objective.
    settings : OptimizerConfig
        `max_iter` counts iterations; learning rate, momentum and batch size have no
        meaning here.
    tol : float
        A head is solved when no entry of its gradient exceeds this.
    validation : HeadValidationScorer, default=None
        Scores the solutions; it selects nothing.

    Returns
    -------
    Solved

    Raises
    ------
    ValueError
        If a method has no deterministic objective, if a head is not linear, or if a
        weight is negative, so that the objective need not have a minimum.
    """
    if settings.hidden_layer_sizes:
        raise ValueError(
            f"solver='lbfgs' trains linear heads only, but hidden_layer_sizes="
            f"{settings.hidden_layer_sizes}: choose solver='sgd' or 'adamw'."
        )
    device = features.device
    context = TrainingContext(
        (problem.groups,), torch.from_numpy(y), device, (problem.seed,)
    )
    plans = problem.plans()
    for method, plan in zip(problem.methods, plans):
        check_solvable(method, plan, context)
    kind = type(problem.methods[0])
    summed = kind.group_objective(problem.methods, context) is None
    distinct, position = distinct_problems(
        problem.methods, plans, settings.weight_decay, summed
    )
    anchors = problem.anchors()
    starts = linear_starts(problem, features.n_features, n_classes)
    flat_starts = flat_parameters([starts[h] for h in distinct], device)
    flat_anchors = None
    if anchors is not None:
        flat_anchors = flat_parameters([anchors[h] for h in distinct], device)
    decays = settings.weight_decay[distinct]

    def minimise() -> tuple[_State, NDArray[np.float64], HeadStack]:
        """Return the solution; what it took of memory ends here."""
        rows = WeightedRows(features, y, problem.rows, plans, device)
        objective = ExpectedRisk(
            rows,
            [problem.methods[h] for h in distinct],
            [plans[h] for h in distinct],
            context,
            decays,
            flat_starts,
            flat_anchors,
            threads,
        )
        curvature = sampled_curvature(
            features,
            plans[0].strata,
            problem.rows,
            rows.dtype,
            objective.n_out,
            decays,
            objective.decayed,
            plans[0].draw_weights,
        )
        state = _minimise(objective, curvature, settings.max_iter, tol)
        stack = objective.stack(state.w[torch.from_numpy(position)])
        return state, objective.shares(state.w), stack

    with workers(device) as threads, torch.no_grad(), exact_float32():
        state, shares, stack = minimise()
    history = {"loss": [loss[position] for loss in state.losses]}
    if validation is not None:
        accuracies = validation.group_accuracies(stack)
        history["validation_group_accuracy"] = [accuracies]
        history["validation_score"] = [validation.score(accuracies)]
    n_iter = state.n_iter[position]
    return Solved(
        stack,
        n_iter,
        n_iter,
        history,
        diverged=np.zeros(len(position), dtype=np.int64),
        source=distinct[position],
        gradient=state.gradient[position],
        shares=shares[position],
    )


def linear_starts(
    problem: Problem, n_features: int, n_classes: int
) -> Sequence[Parameters]:
    """Return where the linear heads of a problem start.

    Parameters
    ----------
    problem : Problem
    n_features, n_classes : int

    Returns
    -------
    sequence of (coefs, intercepts)
        Those of an earlier fit, else the anchors, else zero.
    """
    starts = problem.initial or problem.anchors()
    if starts is None:
        sizes = (n_features, n_logits(n_classes))
        starts = [initial_parameters(sizes, problem.seed)] * len(problem.methods)
    return starts


def check_alone(method: Method, groups: Groups, y: NDArray[np.int64]) -> None:
    """Refuse a problem by itself, before it is one of a stack.

    Parameters
    ----------
    method : Method
    groups : Groups
        Of the training rows.
    y : ndarray of shape (n_samples,)
        Class codes.

    Raises
    ------
    ValueError
        As :func:`check_solvable`.
    """
    context = TrainingContext((groups,), torch.as_tensor(y), torch.device("cpu"))
    check_solvable(method, method.plan(groups), context)


def check_solvable(
    method: Method, plan: SamplingPlan, context: TrainingContext
) -> None:
    """Refuse a method whose objective is not a fixed, convex and bounded one.

    Parameters
    ----------
    method : Method
    plan : SamplingPlan
        Of the method.
    context : TrainingContext

    Raises
    ------
    ValueError
    """
    if method.not_convex is not None:
        raise ValueError(
            f"solver='lbfgs' needs a convex objective, and that of "
            f"{method.not_convex} is not convex: choose solver='sgd' or 'adamw'."
        )
    kind = type(method)
    fixed = kind.weighting([method], context) is None or kind.group_objective(
        [method], context
    )
    further = kind.penalty, kind.objective, kind.mixing
    more = any(rule([method], context) is not None for rule in further)
    if not fixed or more or method.uses_unlabeled or method.uses_validation:
        raise ValueError(
            f"solver='lbfgs' needs an objective that does not change during training, "
            f"which {kind.__name__} has not: choose solver='sgd' or 'adamw'."
        )
    if method.n_heads > 1:
        raise ValueError(
            f"solver='lbfgs' solves for one head, and {kind.__name__} trains "
            f"{method.n_heads}: choose solver='sgd' or 'adamw'."
        )
    lowest = float((expected_shares(plan) / np.bincount(plan.strata)).min())
    if plan.row_weights is not None:
        lowest = min(lowest, float(plan.row_weights.min()))
    if lowest < -1e-12:
        raise ValueError(
            f"solver='lbfgs' needs weights of at least 0, and a row has {lowest:.3g}: "
            "the objective need not have a minimum. Choose beta within its bounds or "
            "out_of_bounds='clip', or solver='sgd'."
        )


@dataclass
class _State:
    w: Tensor
    losses: list[NDArray[np.float64]]
    n_iter: NDArray[np.int64]
    gradient: NDArray[np.float64]


def _minimise(
    objective: ExpectedRisk, curvature: Curvature | None, max_iter: int, tol: float
) -> _State:
    """L-BFGS with a backtracking line search, each problem at its own pace.

    Every pass evaluates one point of every problem: the first of a line search for
    some, a shorter step for others. Passes for the few that must retreat would cost as
    much as those for many. What is solved is left out.
    """
    w = objective.start.clone()
    device = w.device
    active = torch.arange(len(w), device=device)
    value, gradient = objective.at_start()
    memory = _Memory(gradient, curvature)
    step = memory.direction(gradient)
    length = torch.ones_like(value)
    n_iter = torch.zeros(len(w), dtype=torch.int64, device=device)
    solution, largest = w.clone(), torch.empty_like(value)
    counts, values = n_iter.clone(), value.clone()
    passes = [(counts.cpu().numpy(), values.cpu().numpy())]
    while True:
        steepest = gradient.abs().amax(1)
        # Below the shortest length a step changes nothing but the rounding.
        going = (steepest > tol) & (n_iter < max_iter) & (length > _SHORTEST_STEP)
        if not going.all():
            solution[active[~going]] = w[~going]
            largest[active[~going]] = steepest[~going]
            state = (active, w, value, gradient, step, length, n_iter)
            active, w, value, gradient, step, length, n_iter = (x[going] for x in state)
            memory.select(going)
        if not len(active):
            break
        trial = torch.addcmul(w, length[:, None], step)
        reached, slopes = objective(trial, active)
        descent = length * (step * gradient).sum(1)
        good = reached <= value + _ARMIJO * descent + _ROUNDING * value.abs()
        # The minimum of the parabola through what is known, within bounds.
        shorter = -descent * length / (2.0 * (reached - value - descent))
        shorter = shorter.clamp(0.1 * length, 0.5 * length).nan_to_num(0.1)
        length = torch.where(good, 1.0, shorter)
        memory.add(trial - w, slopes - gradient, good)
        n_iter = n_iter + good
        moved = good[:, None]
        w = torch.where(moved, trial, w)
        value = torch.where(good, reached, value)
        gradient = torch.where(moved, slopes, gradient)
        step = torch.where(moved, memory.direction(gradient), step)
        counts[active], values[active] = n_iter, value
        passes.append((counts.cpu().numpy().copy(), values.cpu().numpy().copy()))
    return _State(
        solution, _curves(passes), counts.cpu().numpy(), largest.cpu().numpy()
    )


def _curves(
    passes: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> list[NDArray[np.float64]]:
    """Value of every problem after every iteration; of a solved one, the last."""
    n_iter, values = passes[-1]
    curves = np.tile(values, (max(1, n_iter.max()), 1))
    for counts, values in passes:
        begun = counts > 0
        curves[counts[begun] - 1, np.flatnonzero(begun)] = values[begun]
    return list(curves)


class _Memory:
    """The steps of the last passes, and the directions they suggest.

    Parameters
    ----------
    gradient : Tensor of shape (n_problems, n_parameters)
        Before the first step.
    curvature : Curvature or None
        Of the problems, as far as it is known beforehand.
    """

    def __init__(self, gradient: Tensor, curvature: Curvature | None) -> None:
        self._curvature = curvature
        self._gamma = torch.ones_like(gradient[:, 0])
        if curvature is None:
            # The first step has nothing to go by: its length is one at most.
            self._gamma /= gradient.norm(dim=1).clamp_min(1.0)
        #: Steps, gradient differences and inverse curvatures, oldest first.
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_MEMORY)

    def select(self, problems: Tensor) -> None:
        """Forget all but the problems of a mask."""
        kept = [(s[problems], y[problems], rho[problems]) for s, y, rho in self._pairs]
        self._pairs.clear()
        self._pairs.extend(kept)
        self._gamma = self._gamma[problems]
        if self._curvature is not None:
            self._curvature.select(problems)

    def add(self, s: Tensor, y: Tensor, moved: Tensor) -> None:
        """Remember the step of a pass and its change of the gradient.

        A pair whose step was not taken, or has no positive curvature, does not count.
        """
        curvature, squared = (s * y).sum(1), (y * y).sum(1)
        sound = curvature > 1e-10 * s.norm(dim=1) * squared.sqrt()
        sound &= moved
        rho = torch.where(sound, 1.0 / curvature, 0.0)
        scale = curvature / (y * self._flattened(y)).sum(1)
        self._gamma = torch.where(sound, scale, self._gamma)
        self._pairs.append((s, y, rho))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the quasi-Newton step (two-loop recursion)."""
        q, alphas = -gradient, []
        for s, y, rho in reversed(self._pairs):
            alphas.append((rho * (s * q).sum(1))[:, None])
            q.addcmul_(alphas[-1], y, value=-1.0)
        q = self._flattened(q) * self._gamma[:, None]
        for (s, y, rho), alpha in zip(self._pairs, reversed(alphas)):
            q.addcmul_(alpha - (rho * (y * q).sum(1))[:, None], s)
        return q

    def _flattened(self, x: Tensor) -> Tensor:
        """Multiply by the inverse of the curvature that was known beforehand."""
        return x if self._curvature is None else self._curvature.solve(x)
