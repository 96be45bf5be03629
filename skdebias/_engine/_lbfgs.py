"""The deterministic solver: batched L-BFGS on the expected objective of the plans.

Every head of a stack is a convex problem of its own, with its own weights of the rows,
its own weight decay, and its own steps; what they share is the passes over the rows,
two matrix products each. Problems that are equal in expectation are solved once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import local
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._curvature import Curvature, sampled_curvature
from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack, initial_parameters, stack_parameters
from skdebias._engine._loss import cross_entropy_by_head, n_logits
from skdebias._engine._problem import Fitted, OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer
from skdebias._engine._threads import Workers, pieces, workers
from skdebias._engine._workspace import Workspace
from skdebias._precision import exact_float32
from skdebias.methods import Method, SamplingPlan, TrainingContext
from skdebias.methods._sums import add_by_number

# Pairs of steps and gradient differences that are remembered.
_MEMORY = 20
# Entries of one block of logits.
_BLOCK_ENTRIES = 1 << 22
# Entries of one block of rows on the CPU, which the second product finds in a cache.
_CACHED_ENTRIES = 1 << 20
# Fewer logits than this are formed row first: half the time on the CPU.
_FEW_LOGITS = 8
# Problems of at most this many entries are solved in double precision throughout: with
# little weight decay the rounding of float32 ends the line search too early.
_DOUBLE_ENTRIES = 1 << 20
# Rows that are not in one piece, or not in the precision of the products, are copied
# once if the copy takes no more bytes than this.
_COPIED_BYTES = 1 << 30
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
        own = slice(position * n_heads, (position + 1) * n_heads)
        return replace(
            super().part(position, n_heads),
            source=None,
            gradient=None if self.gradient is None else self.gradient[own],
            shares=None if self.shares is None else self.shares[own],
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
        Its methods have no penalty, and a weighting only with a group objective.
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
    context = TrainingContext((problem.groups,), torch.from_numpy(y), device)
    plans = [method.plan(problem.groups) for method in problem.methods]
    for method, plan in zip(problem.methods, plans):
        check_solvable(method, plan, context)
    kind = type(problem.methods[0])
    summed = kind.group_objective(problem.methods, context) is None
    distinct, position = _distinct(
        problem.methods, plans, settings.weight_decay, summed
    )
    anchors = problem.anchors()
    starts = problem.initial or anchors
    if starts is None:
        sizes = (features.n_features, n_logits(n_classes))
        starts = [initial_parameters(sizes, problem.seed)] * len(problem.methods)
    with workers(device) as threads, torch.no_grad(), exact_float32():
        rows = _Rows(features, y, problem.rows, plans, device)
        objective = _Objective(
            rows,
            [problem.methods[h] for h in distinct],
            [plans[h] for h in distinct],
            context,
            settings.weight_decay[distinct],
            _flat([starts[h] for h in distinct], device),
            None if anchors is None else _flat([anchors[h] for h in distinct], device),
            threads,
        )
        curvature = sampled_curvature(
            features,
            plans[0].strata,
            problem.rows,
            rows.dtype,
            objective.n_out,
            settings.weight_decay[distinct],
            objective.decayed,
        )
        state = _minimise(objective, curvature, settings.max_iter, tol)
        shares = objective.shares(state.w)
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
        diverged=np.zeros(len(position), dtype=np.int64),
        source=distinct[position],
        gradient=state.gradient[position],
        shares=shares[position],
    )


def check_solvable(
    method: Method, plan: SamplingPlan, context: TrainingContext
) -> None:
    """Refuse a method whose objective changes during training or may be unbounded.

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
    kind = type(method)
    fixed = kind.weighting([method], context) is None or kind.group_objective(
        [method], context
    )
    if not fixed or kind.penalty([method], context) is not None:
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


def expected_shares(plan: SamplingPlan) -> NDArray[np.float64]:
    """Weight of every stratum's mean loss in the expectation of a step's objective.

    Parameters
    ----------
    plan : SamplingPlan

    Returns
    -------
    ndarray of shape (n_strata,)
        `sum over batches of factor * p(stratum)`. For GERNE that is `p_ext(a|y) / K`.
    """
    return np.sum([batch.factor * batch.probabilities for batch in plan.batches], 0)


def _distinct(
    methods: Sequence[Method],
    plans: Sequence[SamplingPlan],
    weight_decay: NDArray[np.float64],
    summed: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First head of every distinct problem, and the problem of every head."""
    seen: dict[tuple, int] = {}
    first: list[int] = []
    position: list[int] = []
    for head, (method, plan, decay) in enumerate(zip(methods, plans, weight_decay)):
        own = plan.row_weights
        key = (
            # Rounded: c (1 + beta) comes out a little different in different ways.
            np.round(expected_shares(plan), 10).tobytes(),
            None if own is None else own.tobytes(),
            None if summed else method,
            float(decay),
        )
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


class _Rows:
    """The rows that a pass goes through, with their classes and strata."""

    def __init__(
        self,
        features: Features | JoinedFeatures,
        y: NDArray[np.int64],
        rows: NDArray[np.int64] | None,
        plans: Sequence[SamplingPlan],
        device: torch.device,
    ) -> None:
        self._features = features
        self.n_features = features.n_features
        strata = plans[0].strata
        # A row without weight anywhere costs a pass and changes nothing.
        reached = np.any([expected_shares(plan) != 0 for plan in plans], axis=0)
        used = reached[strata]
        if all(plan.row_weights is not None for plan in plans):
            used &= np.any([plan.row_weights != 0 for plan in plans], axis=0)
        self.used = used
        index = np.flatnonzero(used) if rows is None else rows[used]
        self._index = torch.from_numpy(index)
        self._whole = rows is None and bool(used.all())
        self.strata = torch.from_numpy(strata[used]).to(device)
        size = len(index) * features.n_features
        self.dtype = torch.float64 if size <= _DOUBLE_ENTRIES else torch.float32
        self.y = torch.from_numpy(y[index]).to(device)
        self._copy: Tensor | None = None
        direct = self._whole and features.dtype == self.dtype
        if not direct and size * self.dtype.itemsize <= _COPIED_BYTES:
            whole = slice(0, features.n_rows)
            taken = features.block(whole) if self._whole else features.rows(self._index)
            self._copy = taken.to(self.dtype)

    def __len__(self) -> int:
        return len(self._index)

    def block(self, where: slice) -> Tensor:
        """Rows (n_block_rows, n_features)."""
        if self._copy is not None:
            return self._copy[where]
        if self._whole:
            return self._features.block(where).to(self.dtype)
        return self._features.rows(self._index[where]).to(self.dtype)


class _Objective:
    """Values and gradients of all problems, by passes over the rows.

    Logits lie head first, (n_heads * n_out, n_rows): products of few heads are faster
    this way round.
    """

    def __init__(
        self,
        rows: _Rows,
        methods: Sequence[Method],
        plans: Sequence[SamplingPlan],
        context: TrainingContext,
        weight_decay: NDArray[np.float64],
        start: Tensor,
        anchor: Tensor | None,
        threads: Workers,
    ) -> None:
        device = context.device
        self._rows, self._threads = rows, threads
        self._own = local()
        shares = np.stack([expected_shares(plan) for plan in plans])
        self._shares = torch.from_numpy(shares).to(device)
        counts = np.bincount(plans[0].strata).astype(float)
        self._counts = torch.from_numpy(counts).to(device)
        self._factors, self._factor = _row_factors(plans, rows)
        self._aggregate = type(methods[0]).group_objective(methods, context)
        self._decay = torch.from_numpy(weight_decay).to(device)[:, None]
        self.start = start
        self.n_out = start.shape[1] // (rows.n_features + 1)
        # Of two classes the codes are the targets as such, cast once.
        self._y = rows.y.to(rows.dtype) if self.n_out == 1 else rows.y
        self._anchor = anchor
        #: 1 for the weights (and bias, which is last) of a logit that decay.
        self.decayed = start.new_ones(rows.n_features + 1)
        if anchor is None:
            self.decayed[-1] = 0.0  # biases are left alone

    def __call__(self, w: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Value (n,) and gradient (n, n_parameters) at `w` of some problems."""
        aggregated, shares = self._weigh(w, heads)
        value, gradient = self._weighted(w, heads, shares)
        value = value if aggregated is None else aggregated
        return self._with_decay(w, heads, value, gradient)

    def at_start(self) -> tuple[Tensor, Tensor]:
        """Value and gradient of all problems at the start.

        Problems that start alike differ in the weights of the strata alone, of which
        there are few.
        """
        w, n_strata = self.start, len(self._counts)
        heads = torch.arange(len(w), device=w.device)
        alike = bool((w == w[0]).all()) and self._factors is None
        if not alike or self._aggregate is not None or n_strata >= len(w):
            return self(w, heads)
        each = torch.eye(n_strata, dtype=w.dtype, device=w.device)
        values, gradients = self._weighted(w[:n_strata], heads[:n_strata], each)
        value, gradient = self._shares @ values, self._shares @ gradients
        return self._with_decay(w, heads, value, gradient)

    def shares(self, w: Tensor) -> NDArray[np.float64]:
        """Weights of the strata's mean losses at `w` of all problems."""
        return self._weigh(w, torch.arange(len(w)))[1].cpu().numpy()

    def stack(self, w: Tensor) -> HeadStack:
        """Heads with these parameters."""
        layers = w.view(len(w), self.n_out, -1).float().cpu().numpy()
        parameters = [([own[:, :-1].copy()], [own[:, -1].copy()]) for own in layers]
        return stack_parameters(parameters, 1, w.device)

    def _weigh(self, w: Tensor, heads: Tensor) -> tuple[Tensor | None, Tensor]:
        """Aggregated values, if that is what counts, and the strata's weights."""
        shares = self._shares[heads]
        if self._aggregate is None:
            return None, shares
        (sums,) = self._sum(self._stratum_losses, w, heads)
        return self._aggregate(sums / self._counts, heads)

    def _weighted(
        self, w: Tensor, heads: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sums of the strata's mean losses, and their gradients."""
        table = (shares / self._counts).to(self._rows.dtype)
        value, coefs, biases = self._sum(self._gradients, w, heads, table)
        return value, torch.cat([coefs, biases[:, None]], 1).view(len(w), -1)

    def _with_decay(
        self, w: Tensor, heads: Tensor, value: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add the weight decay to a value and its gradient."""
        away = w if self._anchor is None else w - self._anchor[heads]
        pulled = self._decay[heads] * self.decayed.repeat(self.n_out) * away
        return value + 0.5 * (pulled * away).sum(1), gradient + pulled

    def _sum(
        self, task: Callable[..., tuple[Tensor, ...]], w: Tensor, *further: Tensor
    ) -> list[Tensor]:
        """Add up what a task finds on all rows."""
        layers = w.view(len(w) * self.n_out, -1).to(self._rows.dtype)
        coefs, biases = layers[:, :-1].contiguous(), layers[:, -1:].contiguous()
        own = partial(task, coefs, biases, *further)
        n_rows = len(self._rows)
        parts = self._threads.map(own, pieces(n_rows, n_rows * coefs.numel()))
        return [sum(found[1:], found[0]) for found in zip(*parts)]

    def _gradients(
        self, coefs: Tensor, biases: Tensor, heads: Tensor, table: Tensor, rows: slice
    ) -> tuple[Tensor, ...]:
        """Weighted losses (n,), and their gradients in the weights and biases."""
        value = coefs.new_zeros(len(heads), dtype=torch.float64)
        gradient = torch.zeros_like(coefs, dtype=torch.float64)
        bias_gradient = gradient.new_zeros(len(coefs))
        scratch = self._scratch
        n_given, n_padded = len(coefs), _padded(len(coefs))
        product = scratch("product", n_padded, coefs.shape[1], dtype=coefs.dtype)
        for where, X, losses, residual in self._blocks(coefs, biases, heads, rows):
            own = scratch("weights", len(heads), len(X), dtype=X.dtype)
            torch.index_select(table, 1, self._rows.strata[where], out=own)
            # Sums within a block are as precise as its losses; those of blocks add up.
            value += losses.mul_(own).sum(1)
            padded = scratch("delta", n_padded, len(X), dtype=X.dtype)
            padded[n_given:] = 0.0
            delta = padded[:n_given]
            torch.mul(residual, own[:, None], out=delta.view_as(residual))
            gradient += torch.mm(padded, X, out=product)[:n_given]
            bias_gradient += delta.sum(1)
        return value, gradient, bias_gradient

    def _stratum_losses(
        self, coefs: Tensor, biases: Tensor, heads: Tensor, rows: slice
    ) -> tuple[Tensor]:
        """Summed losses (n, n_strata)."""
        sums = coefs.new_zeros(len(heads), len(self._counts), dtype=torch.float64)
        for where, _, losses, _ in self._blocks(coefs, biases, heads, rows):
            add_by_number(sums, 1, self._rows.strata[where], losses.double())
        return (sums,)

    @property
    def _scratch(self) -> Workspace:
        """Memory of the calling thread."""
        if not hasattr(self._own, "scratch"):
            self._own.scratch = Workspace(self._rows.y.device)
        return self._own.scratch

    def _blocks(
        self, coefs: Tensor, biases: Tensor, heads: Tensor, rows: slice
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield rows with their losses (n, n_rows) and residuals (n, n_out, n_rows)."""
        size = _BLOCK_ENTRIES // len(coefs)
        if coefs.device.type == "cpu":
            size = min(size, _CACHED_ENTRIES // self._rows.n_features)
        size = max(size, 256)
        n_given = len(coefs)
        few = n_given < _FEW_LOGITS
        # A lone logit is formed twice: products with one column are slower than two.
        n_formed = max(2, n_given) if few else _padded(n_given)
        coefs = torch.cat([coefs, coefs[:1].expand(n_formed - n_given, -1)])
        biases = torch.cat([biases, biases[:1].expand(n_formed - n_given, -1)])
        scratch = self._scratch
        for start in range(rows.start, rows.stop, size):
            where = slice(start, min(start + size, rows.stop))
            X = self._rows.block(where)
            logits = scratch("logits", n_formed, len(X), dtype=X.dtype)
            if few:
                torch.add((X @ coefs.T).T, biases, out=logits)
            else:
                torch.addmm(biases, coefs, X.T, out=logits)
            losses, residual = cross_entropy_by_head(
                logits[:n_given].view(-1, self.n_out, len(X)),
                self._y[where],
                scratch,
            )
            if self._factors is not None:
                factors = self._factors[self._factor[heads], where]
                losses, residual = losses * factors, residual * factors[:, None]
            yield where, X, losses, residual


def _padded(n_given: int) -> int:
    """Logits to form: by fours, products are up to a sixth faster on the CPU."""
    return n_given if n_given < _FEW_LOGITS else -(-n_given // 4) * 4


def _row_factors(
    plans: Sequence[SamplingPlan], rows: _Rows
) -> tuple[Tensor | None, Tensor]:
    """Distinct loss factors of the rows (n_distinct, n_rows), and whose they are."""
    if all(plan.row_weights is None for plan in plans):
        return None, torch.empty(0)
    seen: dict[bytes, int] = {}
    distinct, position = [], []
    for plan in plans:
        own = plan.row_weights
        own = np.ones(len(plan.strata)) if own is None else own
        if own.tobytes() not in seen:
            seen[own.tobytes()] = len(seen)
            distinct.append(torch.from_numpy(own[rows.used]))
        position.append(seen[own.tobytes()])
    device = rows.y.device
    factors = torch.stack(distinct).to(device, rows.dtype)
    return factors, torch.tensor(position, device=device)


@dataclass
class _State:
    w: Tensor
    losses: list[NDArray[np.float64]]
    n_iter: NDArray[np.int64]
    gradient: NDArray[np.float64]


def _minimise(
    objective: _Objective, curvature: Curvature | None, max_iter: int, tol: float
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
        found, slopes = objective(trial, active)
        descent = length * (step * gradient).sum(1)
        good = found <= value + _ARMIJO * descent + _ROUNDING * value.abs()
        # The minimum of the parabola through what is known, within bounds.
        shorter = -descent * length / (2.0 * (found - value - descent))
        shorter = shorter.clamp(0.1 * length, 0.5 * length).nan_to_num(0.1)
        length = torch.where(good, 1.0, shorter)
        memory.add(trial - w, slopes - gradient, good)
        n_iter = n_iter + good
        moved = good[:, None]
        w = torch.where(moved, trial, w)
        value = torch.where(good, found, value)
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
