"""Small methods that use one hook each, and plain torch that trains the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from skdebias._engine._heads import initial_parameters
from skdebias._engine._loss import n_logits
from skdebias._engine._sampler import IndexSampler
from skdebias.methods import (
    ERM,
    Batch,
    Method,
    SamplingPlan,
    row_losses,
    uniform,
)
from skdebias.methods._head import initial_state


def field(methods, context, name):
    """Values of a field, (S, n_methods)."""
    values = torch.tensor([float(getattr(method, name)) for method in methods])
    return values.view(len(context.groups), -1).to(context.device)


# --- objective of the logits ---------------------------------------------------------


@dataclass(frozen=True)
class IRM(Method):
    """Invariant risk minimisation; the environments are the attributes."""

    stackable: ClassVar[tuple[str, ...]] = ("strength", "anneal")

    strength: float = 10.0
    anneal: int = 0

    def plan(self, groups):
        return ERM(balance="group").plan(groups)

    @classmethod
    def objective(cls, methods, context):
        return InvarianceGap(methods, context)


class InvarianceGap:
    """Squared derivative of every environment's risk in the scale of the logits."""

    def __init__(self, methods, context):
        self.strength = field(methods, context, "strength")
        self.anneal = field(methods, context, "anneal")
        cells = [torch.from_numpy(groups.cells[:, 1]) for groups in context.groups]
        self.environments = torch.stack(cells).to(context.device)

    def __call__(self, step, logits):
        scaled = logits.clone()
        if logits.shape[-1] == 1:
            slope = (logits.sigmoid() - step.y[..., None, None]) * scaled
        else:
            target = torch.nn.functional.one_hot(step.y, logits.shape[-1])
            slope = (logits.softmax(-1) - target[:, :, None]) * scaled
        slope = slope.sum(-1)
        environment = self.environments.gather(1, step.strata)
        gaps = []
        for number in range(int(self.environments.max()) + 1):
            weights = step.weights * (environment == number)[..., None]
            gaps.append(((weights * slope).sum(1) / weights.sum(1)).square())
        strength = torch.where(step.number >= self.anneal, self.strength, 1.0)
        return strength * torch.stack(gaps).mean(0)

    def select(self, methods):
        self.strength = self.strength[:, methods]
        self.anneal = self.anneal[:, methods]


def irm_in_torch(method, groups, batch):
    """The objective of a step, by the definition of IRMv1."""
    strata = batch.strata
    environment = torch.from_numpy(groups.cells[strata.numpy(), 1])
    scale = torch.ones((), requires_grad=True)
    total, gaps = (batch.weights * batch.losses(batch.logits)).sum(), []
    for number in environment.unique():
        losses = batch.losses(batch.logits * scale)
        weights = batch.weights * (environment == number)
        risk = (weights * losses).sum() / weights.sum()
        (slope,) = torch.autograd.grad(risk, scale, create_graph=True)
        gaps.append(slope**2)
    strength = method.strength if batch.number >= method.anneal else 1.0
    return total + strength * torch.stack(gaps).mean()


@dataclass(frozen=True)
class SquaredMargins(Method):
    """An objective alone: rows are drawn, and their cross-entropy does not count."""

    stackable: ClassVar[tuple[str, ...]] = ("margin",)

    margin: float = 1.0

    def plan(self, groups):
        plan = ERM(balance="class").plan(groups)
        (batch,) = plan.batches
        batches = (Batch(batch.name, batch.probabilities, factor=0.0),)
        return SamplingPlan(plan.strata, batches)

    @classmethod
    def objective(cls, methods, context):
        return Margins(methods, context)


class Margins:
    """Mean square of what is missing of a margin."""

    def __init__(self, methods, context):
        self.margin = field(methods, context, "margin")

    def __call__(self, step, logits):
        confidence = torch.exp(-row_losses(logits, step.y))
        return (self.margin[:, None] - confidence).square().mean(1)

    def select(self, methods):
        self.margin = self.margin[:, methods]


def margins_in_torch(method, groups, batch):
    confidence = torch.exp(-batch.losses(batch.logits))
    return (method.margin - confidence).square().mean()


# --- offsets of the logits -----------------------------------------------------------


@dataclass(frozen=True)
class BalancedSoftmax(Method):
    """Cross-entropy of logits that are raised by the log frequency of their class."""

    stackable: ClassVar[tuple[str, ...]] = ("tau",)

    tau: float = 1.0

    @property
    def uses_attributes(self):
        return False

    def plan(self, groups):
        labels = groups.cells[groups.ids, 0]
        counts = np.bincount(labels)
        offsets = np.tile(self.tau * np.log(counts), (len(counts), 1))
        batch = Batch("all", counts / counts.sum())
        return SamplingPlan(labels, (batch,), replacement=False, logit_offsets=offsets)


def balanced_softmax_in_torch(method, groups, batch):
    counts = np.bincount(groups.cells[groups.ids, 0])
    offsets = method.tau * torch.from_numpy(np.log(counts)).float()
    logits = batch.logits
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    losses = cross_entropy(logits + offsets, batch.y, reduction="none")
    return (batch.weights * losses).sum()


# --- random numbers ------------------------------------------------------------------


@dataclass(frozen=True)
class RandomDrop(Method):
    """Empirical risk of the rows of a step that a coin leaves in."""

    stackable: ClassVar[tuple[str, ...]] = ("rate",)

    rate: float = 0.3

    def plan(self, groups):
        return ERM(balance="class").plan(groups)

    @classmethod
    def weighting(cls, methods, context):
        return Coins(methods, context)


class Coins:
    """One coin for every row of a step, the same for all methods of a stream."""

    def __init__(self, methods, context):
        self.rate, self.seeds = field(methods, context, "rate"), context.seeds

    def __call__(self, step):
        n_rows = step.y.shape[1:]
        drawn = [uniform(seed, step.number, "drop", n_rows) for seed in self.seeds]
        drawn = torch.stack(drawn).to(step.weights.device)
        rate = self.rate[:, None]
        return step.weights * (drawn[..., None] >= rate) / (1.0 - rate)

    def select(self, methods):
        self.rate = self.rate[:, methods]


def random_drop_in_torch(method, groups, batch):
    kept = uniform(batch.seed, batch.number, "drop", batch.y.shape) >= method.rate
    losses = batch.losses(batch.logits)
    return (batch.weights * kept * losses).sum() / (1.0 - method.rate)


@dataclass(frozen=True)
class Remembering(RandomDrop):
    """Coins that weigh a step by how its loss compares with those before."""

    @classmethod
    def weighting(cls, methods, context):
        return RelativeCoins(methods, context)


class RelativeCoins(Coins):
    def __init__(self, methods, context):
        super().__init__(methods, context)
        self.average = None

    def __call__(self, step):
        loss = step.losses.mean(1)
        past = loss if self.average is None else self.average
        self.average = 0.5 * past + 0.5 * loss
        return super().__call__(step) * (loss / self.average)[:, None]


# --- weights that report their objective ---------------------------------------------


@dataclass(frozen=True)
class Step:
    """What the reference shows of one step.

    Attributes
    ----------
    logits : Tensor of shape (R, n_heads * n_logits)
        Within the graph, heads side by side.
    hidden : list of Tensor of shape (R, width)
        Outputs of the hidden layers of the last head.
    """

    number: int
    seed: int
    logits: torch.Tensor
    y: torch.Tensor
    strata: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor
    hidden: list

    def losses(self, logits):
        if logits.shape[1] == 1:
            return torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], self.y.float(), reduction="none"
            )
        return cross_entropy(logits, self.y, reduction="none")


@dataclass(frozen=True)
class Case:
    """A method at several hyper-parameters, and its objective in plain torch."""

    methods: list
    objective: Callable[..., Any]
    hidden: tuple[tuple[int, ...], ...] = ((), (6,))


CASES = {
    "irm": Case([IRM(2.0, 4), IRM(4.0), IRM(0.0), IRM(3.0, 8)], irm_in_torch),
    "margins": Case([SquaredMargins(m) for m in (1.0, 0.5, 0.8)], margins_in_torch),
    "balanced softmax": Case(
        [BalancedSoftmax(t) for t in (1.0, 0.0, 0.5, 2.0)], balanced_softmax_in_torch
    ),
    "random drop": Case([RandomDrop(r) for r in (0.3, 0.0, 0.5)], random_drop_in_torch),
}


def train_in_torch(case, method, X, y, groups, *, n_classes, hidden, seed, **settings):
    """Train by autograd and `torch.optim.SGD` on the same draws.

    Returns
    -------
    list of list of (weight, bias)
        Layers of every head of the method.
    curve : list of float
        Mean objective of every epoch, of all heads together.
    """
    sizes = (X.shape[1], *hidden, n_logits(n_classes))
    heads = []
    for position in range(method.n_heads):
        stream, from_zero = initial_state(method.heads, position)
        start = initial_parameters(sizes, seed, stream, from_zero=from_zero)
        heads.append(
            [
                [torch.tensor(array, requires_grad=True) for array in layer]
                for layer in zip(*start)
            ]
        )
    layers = [layer for head in heads for layer in head]
    decay = settings["weight_decay"]
    optimizer = torch.optim.SGD(
        [
            {"params": [weight for weight, _ in layers], "weight_decay": decay},
            {"params": [bias for _, bias in layers], "weight_decay": 0.0},
        ],
        lr=settings["learning_rate"],
        momentum=settings["momentum"],
    )
    sampler = IndexSampler([method.plan(groups)], settings["batch_size"], seed)
    n_steps = -(-len(y) // settings["batch_size"])
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    weights = torch.from_numpy(sampler.weights[:, 0]).float()
    values = []
    for number, rows in enumerate(sampler.steps(0, n_steps * settings["max_iter"])):
        outputs = []
        for head in heads:
            activations = [X[rows]]
            for weight, bias in head[:-1]:
                activations.append((activations[-1] @ weight.T + bias).relu())
            weight, bias = head[-1]
            outputs.append(activations[-1] @ weight.T + bias)
        batch = Step(
            number,
            seed,
            torch.cat(outputs, 1),
            y[rows],
            torch.from_numpy(sampler.strata),
            weights,
            torch.from_numpy(rows),
            activations[1:],
        )
        objective = case.objective(method, groups, batch)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        values.append(float(objective.detach()))
    return heads, np.array(values).reshape(-1, n_steps).mean(1)
