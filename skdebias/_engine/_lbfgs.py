"""The deterministic solver: batched L-BFGS on the expected objective of the plans.

Every head of a stack is a convex problem of its own, with its own weights of the rows,
its own weight decay, and its own steps; what they share is the passes over the rows,
two matrix products each. Problems that are equal in expectation are solved once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack, initial_parameters, stack_parameters
from skdebias._engine._loss import cross_entropy, n_logits
from skdebias._engine._selection import Validation
from skdebias._engine._sgd import Fitted, Problem, Settings
from skdebias._engine._threads import fit_threads
from skdebias.methods import SamplingPlan, Setting

# Pairs of steps and gradient differences that are remembered.
_MEMORY = 10
# Entries of one block of logits.
_BLOCK_ENTRIES = 1 << 22
# Entries of one block of rows on the CPU, which the second product finds in the cache.
_CACHED_ENTRIES = 1 << 18
# Problems of at most this many entries are solved in double precision throughout: with
# little weight decay the rounding of float32 ends the line search too early.
_DOUBLE_ENTRIES = 1 << 20
# Rows that are not in one piece are gathered once if they take no more bytes than this.
_GATHERED_BYTES = 1 << 30
_ARMIJO = 1e-4
_MAX_HALVINGS = 20
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


def solve(
    features: Features | JoinedFeatures,
    y: NDArray[np.int64],
    n_classes: int,
    problem: Problem,
    settings: Settings,
    *,
    tol: float,
    validation: Validation | None = None,
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
        Its methods have no rule and no penalty: their objectives are fixed sums.
    settings : Settings
        `max_iter` counts iterations; learning rate, momentum and batch size have no
        meaning here.
    tol : float
        A head is solved when no entry of its gradient exceeds this.
    validation : Validation, default=None
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
    _check(problem, settings, torch.from_numpy(y), features.device)
    plans = [method.plan(problem.groups) for method in problem.methods]
    weights = [expected_weights(plan) for plan in plans]
    _check_weights(weights)
    starts = problem.initial
    if starts is None:
        sizes = (features.n_features, n_logits(n_classes))
        starts = [initial_parameters(sizes, problem.seed)] * len(plans)
    distinct, position = _distinct(weights, settings.weight_decay)
    with fit_threads(len(y) * features.n_features * len(distinct)), torch.no_grad():
        objective = _Objective(
            features,
            y,
            problem.rows,
            np.stack([weights[h] for h in distinct], axis=1),
            settings.weight_decay[distinct],
            _flat([starts[h] for h in distinct], features.device),
            None
            if problem.anchor is None
            else _flat([problem.anchor[h] for h in distinct], features.device),
        )
        state = _minimise(objective, settings.max_iter, tol)
        stack = objective.stack(state.w[torch.from_numpy(position)])
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
        diverged=np.zeros(len(plans), dtype=np.int64),
        gradient=state.gradient[position],
    )


def expected_weights(plan: SamplingPlan) -> NDArray[np.float64]:
    """Weight of every row in the expectation of a step's objective.

    Parameters
    ----------
    plan : SamplingPlan

    Returns
    -------
    ndarray of shape (n_samples,)
        `sum over batches of factor * p(stratum) / n_stratum`, times the row's own
        factor. For GERNE that is `p_ext(a|y) / (K n_group)`.
    """
    share = np.sum([batch.factor * batch.probabilities for batch in plan.batches], 0)
    weights = (share / np.bincount(plan.strata))[plan.strata]
    return weights if plan.row_weights is None else weights * plan.row_weights


def _check(
    problem: Problem, settings: Settings, y: Tensor, device: torch.device
) -> None:
    methods = problem.methods
    name = type(methods[0]).__name__
    setting = Setting((problem.groups,), y, device)
    kind = type(methods[0])
    if kind.rule(methods, setting) or kind.penalty(methods, setting):
        raise ValueError(
            f"solver='lbfgs' needs an objective that does not change during training, "
            f"which {name} has not: choose solver='sgd' or 'adamw'."
        )
    if settings.hidden_layer_sizes:
        raise ValueError(
            f"solver='lbfgs' trains linear heads only, but hidden_layer_sizes="
            f"{settings.hidden_layer_sizes}: choose solver='sgd' or 'adamw'."
        )


def _check_weights(weights: Sequence[NDArray[np.float64]]) -> None:
    lowest = min(float(own.min()) for own in weights)
    if lowest < -1e-12:
        raise ValueError(
            f"solver='lbfgs' needs weights of at least 0, and a row has {lowest:.3g}: "
            "the objective need not have a minimum. Choose beta within its bounds or "
            "out_of_bounds='clip', or solver='sgd'."
        )


def _distinct(
    weights: Sequence[NDArray[np.float64]], weight_decay: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First head of every distinct problem, and the problem of every head."""
    seen: dict[tuple[bytes, float], int] = {}
    first: list[int] = []
    position: list[int] = []
    for head, (own, decay) in enumerate(zip(weights, weight_decay)):
        # Rounded: c (1 + beta) comes out a little different in different ways.
        key = (np.round(own * len(own), 10).tobytes(), float(decay))
        if key not in seen:
            seen[key] = len(first)
            first.append(head)
        position.append(seen[key])
    return np.array(first), np.array(position)


def _flat(
    parameters: Sequence[tuple[Sequence[NDArray], Sequence[NDArray]]],
    device: torch.device,
) -> Tensor:
    """Weights and biases of linear heads as rows (n_heads, n_out * (n_in + 1))."""
    rows = [np.hstack([coefs[0], biases[0][:, None]]) for coefs, biases in parameters]
    return torch.from_numpy(np.stack(rows)).to(device, torch.float64).flatten(1)


class _Objective:
    """Values and gradients of all problems, by passes over the rows."""

    def __init__(
        self,
        features: Features | JoinedFeatures,
        y: NDArray[np.int64],
        rows: NDArray[np.int64] | None,
        weights: NDArray[np.float64],
        weight_decay: NDArray[np.float64],
        start: Tensor,
        anchor: Tensor | None,
    ) -> None:
        device = features.device
        self._features = features
        index = np.arange(len(y)) if rows is None else rows
        # A row without weight anywhere costs a pass and changes nothing.
        used = weights.any(axis=1)
        self._index = torch.from_numpy(index[used])
        self._gathered: Tensor | None = None
        self._whole = rows is None and bool(used.all())
        size = 4 * len(self._index) * features.n_features
        if not self._whole and size <= _GATHERED_BYTES:
            self._gathered = features.rows(self._index)
        small = len(self._index) * features.n_features <= _DOUBLE_ENTRIES
        self._dtype = torch.float64 if small else torch.float32
        self._y = torch.from_numpy(y[index[used]]).to(device)
        self._weights = torch.from_numpy(weights[used]).to(device, self._dtype)
        self._decay = torch.from_numpy(weight_decay).to(device)[:, None]
        self.start = start
        self._n_out = start.shape[1] // (features.n_features + 1)
        self._anchor = anchor
        self._decayed = torch.ones(self._n_out, features.n_features + 1, device=device)
        if anchor is None:
            self._decayed[:, -1] = 0.0  # biases are left alone
        self._decayed = self._decayed.flatten().double()

    def __call__(self, w: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Value (n,) and gradient (n, n_parameters) at `w` of some problems."""
        shape = (len(w), self._n_out, -1)
        layers = w.view(shape).to(self._dtype)
        coef, bias = layers[..., :-1].flatten(0, 1), layers[..., -1].flatten()
        value = w.new_zeros(len(w))
        gradient = torch.zeros_like(w).view(shape)
        size = _BLOCK_ENTRIES // len(coef)
        if w.device.type == "cpu":
            size = min(size, _CACHED_ENTRIES // self._features.n_features)
        size = max(size, 256)
        for start in range(0, len(self._index), size):
            where = slice(start, start + size)
            X = self._rows(where).to(self._dtype)
            logits = torch.addmm(bias, X, coef.T).view(1, len(X), len(w), -1)
            losses, residual = cross_entropy(logits, self._y[None, where])
            weights = self._weights[where].index_select(1, heads)
            value += (losses[0] * weights).sum(0, dtype=torch.float64)
            delta = (residual[0] * weights[..., None]).flatten(1)
            gradient[..., :-1] += (delta.T @ X).view(*shape[:2], -1)
            gradient[..., -1] += delta.sum(0, dtype=torch.float64).view(shape[:2])
        away = w if self._anchor is None else w - self._anchor[heads]
        pulled = self._decay[heads] * self._decayed * away
        value += 0.5 * (pulled * away).sum(1)
        return value, gradient.flatten(1) + pulled

    def _rows(self, where: slice) -> Tensor:
        if self._whole:
            return self._features.block(where)
        if self._gathered is not None:
            return self._gathered[where]
        return self._features.rows(self._index[where])

    def stack(self, w: Tensor) -> HeadStack:
        """Heads with these parameters."""
        layers = w.view(len(w), self._n_out, -1).float().cpu().numpy()
        parameters = [([own[:, :-1].copy()], [own[:, -1].copy()]) for own in layers]
        return stack_parameters(parameters, 1, w.device)


@dataclass
class _State:
    w: Tensor
    losses: list[NDArray[np.float64]]
    n_iter: NDArray[np.int64]
    gradient: NDArray[np.float64]


def _minimise(objective: _Objective, max_iter: int, tol: float) -> _State:
    """L-BFGS with a backtracking line search, each problem by itself."""
    w = objective.start.clone()
    n_problems, device = len(w), w.device
    active = torch.arange(n_problems, device=device)
    value, gradient = objective(w, active)
    n_iter = torch.zeros(n_problems, dtype=torch.int64, device=device)
    memory = _Memory(w)
    losses: list[NDArray[np.float64]] = []
    for iteration in range(max_iter):
        active = active[gradient[active].abs().amax(1) > tol]
        if not len(active):
            break
        step = memory.direction(gradient[active], active)
        slope = (step * gradient[active]).sum(1)
        if iteration == 0:
            # The first step has no curvature to go by: a step of length one at most.
            scale = gradient[active].norm(dim=1, keepdim=True).clamp_min(1.0)
            step, slope = step / scale, slope / scale[:, 0]
        moved = _line_search(objective, active, w, value, gradient, step, slope)
        new_w, new_value, new_gradient, stuck = moved
        memory.add(new_w - w[active], new_gradient - gradient[active], active)
        w[active], value[active], gradient[active] = new_w, new_value, new_gradient
        n_iter[active] += 1
        losses.append(value.cpu().numpy().copy())
        active = active[~stuck]
    largest = gradient.abs().amax(1).cpu().numpy()
    losses = losses or [value.cpu().numpy()]
    return _State(w, losses, n_iter.cpu().numpy(), largest)


def _line_search(
    objective: _Objective,
    active: Tensor,
    w: Tensor,
    value: Tensor,
    gradient: Tensor,
    step: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve the steps of the problems that do not descend enough.

    Returns the new points, values and gradients, and which problems cannot move.
    """
    new_w, new_value = w[active].clone(), value[active].clone()
    new_gradient = gradient[active].clone()
    pending = torch.arange(len(active), device=w.device)
    length = 1.0
    for _ in range(_MAX_HALVINGS):
        trial = w[active[pending]] + length * step[pending]
        found, slopes = objective(trial, active[pending])
        old = value[active[pending]]
        allowed = old + _ARMIJO * length * slope[pending] + _ROUNDING * old.abs()
        good = found <= allowed
        where = pending[good]
        new_w[where], new_value[where] = trial[good], found[good]
        new_gradient[where] = slopes[good]
        pending = pending[~good]
        if not len(pending):
            break
        length /= 2
    stuck = torch.zeros(len(active), dtype=torch.bool, device=w.device)
    stuck[pending] = True
    return new_w, new_value, new_gradient, stuck


class _Memory:
    """The last steps of all problems, and the directions they suggest."""

    def __init__(self, w: Tensor) -> None:
        shape = (_MEMORY, *w.shape)
        self._s, self._y = w.new_zeros(shape), w.new_zeros(shape)
        # Inverse curvatures; zero for a pair that does not count.
        self._rho = w.new_zeros(_MEMORY, len(w))
        self._gamma = w.new_ones(len(w))
        self._n = 0

    def add(self, s: Tensor, y: Tensor, active: Tensor) -> None:
        """Remember a step and its change of the gradient."""
        slot = self._n % _MEMORY
        self._n += 1
        curvature = (s * y).sum(1)
        sound = curvature > 1e-10 * s.norm(dim=1) * y.norm(dim=1)
        self._rho[slot] = 0.0
        self._rho[slot, active] = torch.where(sound, 1.0 / curvature, 0.0)
        self._s[slot, active], self._y[slot, active] = s, y
        scale = curvature / (y * y).sum(1)
        self._gamma[active] = torch.where(sound, scale, self._gamma[active])

    def direction(self, gradient: Tensor, active: Tensor) -> Tensor:
        """Return the quasi-Newton step of these problems (two-loop recursion)."""
        newest_first = range(self._n - 1, max(self._n - 1 - _MEMORY, -1), -1)
        slots = [n % _MEMORY for n in newest_first]
        q, alphas = gradient.clone(), {}
        for slot in slots:
            s, y, rho = self._pair(slot, active)
            alphas[slot] = rho * (s * q).sum(1)
            q -= alphas[slot][:, None] * y
        q *= self._gamma[active, None]
        for slot in reversed(slots):
            s, y, rho = self._pair(slot, active)
            q += (alphas[slot] - rho * (y * q).sum(1))[:, None] * s
        return -q

    def _pair(self, slot: int, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._s[slot, active], self._y[slot, active], self._rho[slot, active]
