"""The expected objective of sampling plans: what all steps together descend.

It is a sum over the rows, each with its share of the strata's mean losses and its
weight, or a convex function of those mean losses; weight decay is added.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack, stack_parameters
from skdebias._engine._loss import cross_entropy_by_head, stratum_offsets
from skdebias._engine._threads import Workers, pieces
from skdebias._engine._workspace import Workspace
from skdebias.methods import Method, SamplingPlan, TrainingContext
from skdebias.methods._sums import add_by_number

# Entries of one block of logits.
_BLOCK_ENTRIES = 1 << 22
# Entries of one block of rows on the CPU, which the second product finds in a cache.
_CACHED_ENTRIES = 1 << 20
# Fewer logits than this are formed row first: half the time on the CPU.
_FEW_LOGITS = 8
# Problems of at most this many entries are solved in double precision throughout: with
# little weight decay the rounding of float32 ends the line search too early.
_DOUBLE_ENTRIES = 1 << 20
# Rows in memory that are not in one piece, or not in the precision of the products, are
# copied once if the copy takes no more bytes than this.
_COPIED_BYTES = 1 << 30


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


def distinct_problems(
    methods: Sequence[Method],
    plans: Sequence[SamplingPlan],
    weight_decay: NDArray[np.float64],
    summed: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first head of every distinct problem, and the problem of every head.

    Parameters
    ----------
    methods : sequence of Method
    plans : sequence of SamplingPlan
        Of the methods.
    weight_decay : ndarray of shape (n_heads,)
    summed : bool
        Whether the objective is a weighted sum, which the plan tells wholly.

    Returns
    -------
    first : ndarray of shape (n_distinct,)
    position : ndarray of shape (n_heads,)
    """
    seen: dict[tuple, int] = {}
    first: list[int] = []
    position: list[int] = []
    for head, (method, plan, decay) in enumerate(zip(methods, plans, weight_decay)):
        row_weights, offsets = plan.row_weights, plan.logit_offsets
        key = (
            # Rounded: c (1 + beta) comes out a little different in different ways.
            np.round(expected_shares(plan), 10).tobytes(),
            None if row_weights is None else row_weights.tobytes(),
            None if offsets is None else np.asarray(offsets, dtype=float).tobytes(),
            None if summed else method,
            float(decay),
        )
        if key not in seen:
            seen[key] = len(first)
            first.append(head)
        position.append(seen[key])
    return np.array(first), np.array(position)


def flat_parameters(
    parameters: Sequence[tuple[Sequence[NDArray], Sequence[NDArray]]],
    device: torch.device,
) -> Tensor:
    """Return weights and biases of linear heads as rows.

    Parameters
    ----------
    parameters : sequence of (coefs, intercepts)
    device : torch.device

    Returns
    -------
    Tensor of shape (n_heads, n_out * (n_in + 1))
        In double precision; the bias of a logit is last.
    """
    rows = [np.hstack([coefs[0], biases[0][:, None]]) for coefs, biases in parameters]
    return torch.from_numpy(np.stack(rows)).to(device, torch.float64).flatten(1)


class WeightedRows:
    """The rows that a pass goes through, with their classes and strata.

    Parameters
    ----------
    features : Features or JoinedFeatures
    y : ndarray of shape (n_samples,)
        Class codes of all rows.
    rows : ndarray of shape (n_rows,) or None
        Global row number of every local row; None for all rows in order.
    plans : sequence of SamplingPlan
    device : torch.device

    Attributes
    ----------
    used : ndarray of shape (n_rows,), bool
        Which of the local rows have a weight in any plan.
    strata, y : Tensor of shape (n_used,)
    dtype : torch.dtype
        Of the products.
    """

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
        fits = size * self.dtype.itemsize <= _COPIED_BYTES
        if not direct and fits and not features.is_mapped:
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


class ExpectedRisk:
    """Values and gradients of all problems, by passes over the rows.

    Logits lie head first, (n_heads * n_out, n_rows): products of few heads are faster
    this way round.

    Parameters
    ----------
    rows : WeightedRows
    methods : sequence of Method
        The distinct problems, one head each.
    plans : sequence of SamplingPlan
        Of the methods.
    context : TrainingContext
    weight_decay : ndarray of shape (n_heads,)
    start : Tensor of shape (n_heads, n_parameters)
        As from :func:`flat_parameters`.
    anchor : Tensor of shape (n_heads, n_parameters) or None
        Where weight decay pulls to, biases included; None pulls weights to zero.
    threads : Workers

    Attributes
    ----------
    n_out : int
        Logits of a head.
    decayed : Tensor of shape (n_features + 1,)
        1 for the weights, and the bias, of a logit that decay.
    """

    def __init__(
        self,
        rows: WeightedRows,
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
        self.n_out = start.shape[1] // (rows.n_features + 1)
        self._by_thread = local()
        shares = np.stack([expected_shares(plan) for plan in plans])
        self._shares = torch.from_numpy(shares).to(device)
        counts = np.bincount(plans[0].strata, plans[0].draw_weights).astype(float)
        self._counts = torch.from_numpy(counts).to(device)
        self._factors, self._factor = _row_factors(plans, rows)
        self._offsets = _offset_table(plans, self.n_out, rows)
        self._aggregate = type(methods[0]).group_objective(methods, context)
        self._decay = torch.from_numpy(weight_decay).to(device)[:, None]
        self.start = start
        # Of two classes the codes are the targets as such, cast once.
        self._y = rows.y.to(rows.dtype) if self.n_out == 1 else rows.y
        self._anchor = anchor
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
        alike = alike and self._offsets is None
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
        parameters = [([w[:, :-1].copy()], [w[:, -1].copy()]) for w in layers]
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
        task_on = partial(task, coefs, biases, *further)
        n_rows = len(self._rows)
        parts = self._threads.map(task_on, pieces(n_rows, n_rows * coefs.numel()))
        return [sum(terms[1:], terms[0]) for terms in zip(*parts)]

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
            weights = scratch("weights", len(heads), len(X), dtype=X.dtype)
            torch.index_select(table, 1, self._rows.strata[where], out=weights)
            # Sums within a block are as precise as its losses; those of blocks add up.
            value += losses.mul_(weights).sum(1)
            padded = scratch("delta", n_padded, len(X), dtype=X.dtype)
            padded[n_given:] = 0.0
            delta = padded[:n_given]
            torch.mul(residual, weights[:, None], out=delta.view_as(residual))
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
        if not hasattr(self._by_thread, "scratch"):
            self._by_thread.scratch = Workspace(self._rows.y.device)
        return self._by_thread.scratch

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
            by_head = logits[:n_given].view(-1, self.n_out, len(X))
            if self._offsets is not None:
                by_head += self._offsets[heads][..., self._rows.strata[where]]
            losses, residual = cross_entropy_by_head(
                by_head,
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


def _offset_table(
    plans: Sequence[SamplingPlan], n_logits: int, rows: WeightedRows
) -> Tensor | None:
    """Offsets of the logits (n_heads, n_logits, n_strata), if any plan has them."""
    if all(plan.logit_offsets is None for plan in plans):
        return None
    zero = np.zeros((int(plans[0].strata.max()) + 1, n_logits))
    table = [stratum_offsets(plan, n_logits) for plan in plans]
    stacked = np.stack([zero if offsets is None else offsets for offsets in table])
    return torch.from_numpy(stacked).to(rows.y.device, rows.dtype).transpose(1, 2)


def _row_factors(
    plans: Sequence[SamplingPlan], rows: WeightedRows
) -> tuple[Tensor | None, Tensor]:
    """Distinct loss factors of the rows (n_distinct, n_rows), and whose they are."""
    drawn = plans[0].draw_weights
    if drawn is None and all(plan.row_weights is None for plan in plans):
        return None, torch.empty(0)
    seen: dict[bytes, int] = {}
    distinct, position = [], []
    for plan in plans:
        weights = plan.row_weights
        weights = np.ones(len(plan.strata)) if weights is None else weights
        # The mean loss of a stratum is that of its draws.
        weights = weights if drawn is None else weights * drawn
        key = weights.tobytes()
        if key not in seen:
            seen[key] = len(seen)
            distinct.append(torch.from_numpy(weights[rows.used]))
        position.append(seen[key])
    device = rows.y.device
    factors = torch.stack(distinct).to(device, rows.dtype)
    return factors, torch.tensor(position, device=device)
