"""Small methods that use one hook each, and plain torch that trains the same."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import beta
from torch.nn.functional import cross_entropy, one_hot

from skdebias._engine._heads import initial_parameters
from skdebias._engine._loss import n_logits
from skdebias._engine._sampler import IndexSampler
from skdebias.methods import (
    ERM,
    IRM,
    LISA,
    Batch,
    CVaRDRO,
    Head,
    Method,
    Mixup,
    SamplingPlan,
    VREx,
    row_losses,
    uniform,
)
from skdebias.methods._head import initial_state


def field(methods, context, name):
    """Values of a field, (S, n_methods)."""
    values = torch.tensor([float(getattr(method, name)) for method in methods])
    return values.view(len(context.groups), -1).to(context.device)


# --- objective of the logits ---------------------------------------------------------


def environment_of(method, groups, strata):
    """Environment of every row of a step of a method with a field `balance`."""
    if method.balance is None:
        return strata  # which are the environments
    return torch.from_numpy(groups.cells[strata.numpy(), 1])


def irm_in_torch(method, groups, batch):
    """The objective of a step, by the definition of IRMv1."""
    environment = environment_of(method, groups, batch.strata)
    total, gaps = (batch.weights * batch.losses(batch.logits)).sum(), []
    for number in environment.unique():
        slopes = []
        for part in (0, 1):
            chosen = torch.zeros_like(batch.weights)
            for stratum in batch.strata[environment == number].unique():
                rows = torch.nonzero(batch.strata == stratum)[:, 0]
                half = rows[part::2] if method.unbiased else rows
                chosen[half] = batch.weights[rows].sum() / len(half)
            scale = torch.ones((), requires_grad=True)
            losses = batch.losses(batch.logits * scale)
            risk = (chosen * losses).sum() / chosen.sum()
            slopes += torch.autograd.grad(risk, scale, create_graph=True)
        gaps.append(slopes[0] * slopes[1])
    weight = method.penalty_weight
    weight = weight if batch.number >= method.anneal else min(weight, 1.0)
    return total + weight * torch.stack(gaps).mean()


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


# --- settings of ERM: offsets of the logits, other losses, other weights -------------


EVERYTHING = ERM("class", reweight="group", loss="gce", logit_adjustment=0.5)


def class_counts(groups):
    return torch.from_numpy(np.bincount(groups.cells[groups.ids, 0])).float()


def erm_in_torch(method, groups, batch):
    """By the formulas of the papers: two logits for two classes, weights row by row."""
    counts, logits = class_counts(groups), batch.logits
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    if method.logit_adjustment:
        logits = logits + method.logit_adjustment * counts.log()
    if method.margin:
        margins = counts**-0.25
        margins = margins * (method.margin / margins.max())
        logits = logits - one_hot(batch.y, len(counts)) * margins
    p = logits.softmax(1).gather(1, batch.y[:, None])[:, 0]
    q = method.loss_exponent
    losses = {
        "cross_entropy": lambda: -p.log(),
        "gce": lambda: (1 - p**q) / q if q else -p.log(),
        "focal": lambda: -((1 - p) ** q) * p.log(),
    }[method.loss]()
    weights = batch.weights
    if method.reweight is not None:
        of_row = (
            groups.cells[groups.ids, 0] if method.reweight == "class" else groups.ids
        )
        sizes = np.bincount(of_row)
        b = method.effective_beta
        effective = sizes if b == 1 else (1 - b**sizes) / (1 - b)
        of_row = effective[of_row] ** -method.balance_power
        of_row = torch.from_numpy(of_row / of_row.mean()).float()
        weights = weights * of_row[batch.rows]
    return (weights * losses).sum()


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


# --- weights by the losses of a step -------------------------------------------------


def vrex_in_torch(method, groups, batch):
    environment = environment_of(method, groups, batch.strata)
    losses, risks = batch.losses(batch.logits), []
    for number in environment.unique():
        weights = batch.weights * (environment == number)
        risks.append((weights * losses).sum() / weights.sum())
    risks = torch.stack(risks)
    weight = method.penalty_weight
    weight = weight if batch.number >= method.anneal else min(weight, 1.0)
    return risks.mean() + weight * risks.var(correction=0)


def cvar_in_torch(method, groups, batch):
    """Hand out the mass alpha from the largest losses down, equal ones alike."""
    losses = batch.losses(batch.logits)
    weights, left = torch.zeros_like(losses), method.alpha
    for value in losses.detach().unique().flip(0):
        rows = losses.detach() == value
        mass = min(left, float(batch.weights[rows].sum()))
        weights[rows] = batch.weights[rows] * mass / batch.weights[rows].sum()
        left -= mass
    return (weights * losses).sum() / method.alpha


# --- mixed rows ----------------------------------------------------------------------


def partner_of(row, allowed, weights, number):
    """Slot that a number picks among those that are allowed, by their weights."""
    slots = [s for s in range(len(weights)) if allowed(s)]
    if not slots:
        return row
    share = np.cumsum([float(weights[s]) for s in slots])
    return slots[int(np.searchsorted(share / share[-1], float(number), side="right"))]


def mixture_in_torch(method, groups, seed, number, strata, y, weights):
    """Slots of the partners, row by row, and the share of every row itself."""
    level = float(uniform(seed, number, "share", (1,)))
    share = 1.0
    if method.alpha > 0:
        share = float(beta.ppf(level, method.alpha, method.alpha))
    numbers = uniform(seed, number, "partners", (len(y),))
    if isinstance(method, Mixup) and method.pairs == "any":
        return numbers.argsort(), share
    if isinstance(method, Mixup):
        environment = environment_of(method, groups, strata)
        within_class = None
    else:
        environment = torch.from_numpy(groups.cells[strata.numpy(), 1])
        within_class = float(uniform(seed, number, "strategy", (1,))) < method.p_sel

    def allowed(row, other):
        together = environment[row] == environment[other]
        if within_class is None:
            return not together
        alike = y[row] == y[other]
        return alike and not together if within_class else together and not alike

    partners = [
        partner_of(r, lambda s, r=r: allowed(r, s), weights, numbers[r])
        for r in range(len(y))
    ]
    return torch.tensor(partners), share


def risk_in_torch(method, groups, batch):
    return (batch.weights * batch.losses(batch.logits)).sum()


# --- several heads -------------------------------------------------------------------


@dataclass(frozen=True)
class DivDis(Method):
    """Heads that are right on the training rows, and independent on target rows.

    The target rows are here rows of all groups alike.
    """

    stackable: ClassVar[tuple[str, ...]] = ("strength", "size")

    strength: float = 1.0
    size: int = 2

    @property
    def heads(self):
        return (*(Head(f"head{i}") for i in range(1, self.size)), Head())

    def plan(self, groups):
        counts = groups.counts
        training = Batch("training", counts / counts.sum())
        target = Batch("target", np.full(len(counts), 1 / len(counts)), factor=0.0)
        return SamplingPlan(groups.ids, (training, target))

    @classmethod
    def objective(cls, methods, context):
        return MutualInformation(methods, context)


def mutual_information(p, q):
    """Of the predictions p and q, (R, n_classes), of two heads."""
    joint = (p[:, :, None] * q[:, None]).mean(0)
    return (joint * (joint.log() - (p.mean(0)[:, None] * q.mean(0)).log())).sum()


def probabilities(logits):
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    return logits.softmax(-1)


class MutualInformation:
    def __init__(self, methods, context):
        self.strength, self.size = field(methods, context, "strength"), methods[0].size

    def __call__(self, step, logits):
        p = probabilities(logits).unflatten(2, (-1, self.size))
        values = []
        for stream, weights in zip(p, step.weights):
            target = stream[(weights == 0).all(1)]  # (R, n_methods, size, n_classes)
            for method in target.unbind(1):
                heads = method.unbind(1)
                for i in range(self.size):
                    others = [q for j, q in enumerate(heads) if j != i]
                    values.append(
                        sum(mutual_information(heads[i], q) for q in others) / 2
                    )
        strength = self.strength.repeat_interleave(self.size, 1)
        return strength * torch.stack(values).view_as(strength)

    def select(self, methods):
        self.strength = self.strength[:, methods]


def divdis_in_torch(method, groups, batch):
    each = batch.logits.chunk(method.size, 1)
    risk = sum((batch.weights * batch.losses(logits)).sum() for logits in each)
    target = [probabilities(logits[batch.weights == 0]) for logits in each]
    pairs = combinations(target, 2)
    return risk + method.strength * sum(mutual_information(p, q) for p, q in pairs)


@dataclass(frozen=True)
class UnlabeledDivDis(DivDis):
    """The target rows are rows without labels."""

    uses_unlabeled: ClassVar[bool] = True

    @property
    def uses_attributes(self):
        return False

    def plan(self, groups):
        return ERM().plan(groups)

    @classmethod
    def objective(cls, methods, context):
        return UnlabeledInformation(methods, context)


class UnlabeledInformation(MutualInformation):
    def __call__(self, step, logits):
        unlabeled = step.y == -1
        assert (step.weights[unlabeled] == 0).all()
        assert (step.losses[unlabeled] == 0).all()
        assert (step.weights[~unlabeled] != 0).all()
        return super().__call__(step, logits)


# --- plain torch ---------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What the reference shows of one step.

    Attributes
    ----------
    logits : Tensor of shape (R, n_heads * n_logits)
        Within the graph, heads side by side.
    hidden : list of Tensor of shape (R, width)
        Outputs of the hidden layers of the last head.
    inputs : Tensor of shape (R, width)
        What the last layer of the last head is given.
    coef : Tensor of shape (n_logits, width)
        Its weights.
    """

    number: int
    seed: int
    logits: torch.Tensor
    y: torch.Tensor
    strata: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor
    hidden: list
    inputs: torch.Tensor
    coef: torch.Tensor
    mixed: Any = None  # slots of the partners, and the share of the rows themselves

    def losses(self, logits):
        if self.mixed is None:
            return self.losses_of(logits, self.y)
        partners, share = self.mixed
        own, other = (self.losses_of(logits, y) for y in (self.y, self.y[partners]))
        return share * own + (1.0 - share) * other

    def losses_of(self, logits, y):
        if logits.shape[1] == 1:
            return torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], y.float(), reduction="none"
            )
        return cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Case:
    """A method at several hyper-parameters, and its objective in plain torch."""

    methods: list
    objective: Callable[..., Any]
    hidden: tuple[tuple[int, ...], ...] = ((), (6,))
    in_passes: bool = True  # whether a step may be cut into passes
    mixture: Callable[..., Any] | None = None


CASES = {
    "irm": Case([IRM(2.0, 4), IRM(4.0, 0), IRM(0.0, 0), IRM(3.0, 8)], irm_in_torch),
    "irm, plain": Case(
        [IRM(w, 3, unbiased=False, balance="class") for w in (3.0, 0.0, 0.5)],
        irm_in_torch,
    ),
    "margins": Case([SquaredMargins(m) for m in (1.0, 0.5, 0.8)], margins_in_torch),
    "balanced softmax": Case(
        [ERM(logit_adjustment=t) for t in (1.0, 0.0, 0.5, 2.0)], erm_in_torch
    ),
    "ldam": Case([ERM(margin=m) for m in (0.5, 15.0, 2.0)], erm_in_torch),
    "ldam, balanced": Case(
        [ERM("group", margin=m, logit_adjustment=0.3) for m in (2.0, 0.0, 0.5)],
        erm_in_torch,
    ),
    "gce": Case(
        [ERM(loss="gce", loss_exponent=q) for q in (0.7, 0.0, 1.0)], erm_in_torch
    ),
    "focal": Case(
        [ERM("class", loss="focal", loss_exponent=q) for q in (2.0, 0.0, 0.5)],
        erm_in_torch,
    ),
    "square roots": Case(
        [ERM(reweight="group", balance_power=p) for p in (0.5, 0.0, 2.0)], erm_in_torch
    ),
    "sampled square roots": Case(
        [ERM("group", balance_power=p) for p in (0.5, 0.0, 1.0)], erm_in_torch
    ),
    "effective numbers": Case(
        [ERM(reweight="class", effective_beta=b) for b in (0.99, 0.0, 1.0)],
        erm_in_torch,
    ),
    "all at once": Case(
        [
            replace(EVERYTHING, loss_exponent=q, margin=m)
            for q, m in ((0.7, 1.0), (0.3, 0.0), (0.7, 0.0), (0.3, 1.0))
        ],
        erm_in_torch,
    ),
    "random drop": Case([RandomDrop(r) for r in (0.3, 0.0, 0.5)], random_drop_in_torch),
    "v-rex": Case([VREx(w, 5) for w in (3.0, 0.0, 0.7)], vrex_in_torch),
    "v-rex, balanced": Case(
        [VREx(w, n, balance="class") for w, n in ((2.0, 0), (0.0, 0), (5.0, 6))],
        vrex_in_torch,
    ),
    "cvar": Case([CVaRDRO(a) for a in (0.3, 1.0, 0.55)], cvar_in_torch),
    "mixup": Case(
        [Mixup(a) for a in (0.2, 0.0, 1.5)], risk_in_torch, mixture=mixture_in_torch
    ),
    "mixup, domains": Case(
        [Mixup(a, "domain") for a in (0.4, 2.0, 1.0)],
        risk_in_torch,
        mixture=mixture_in_torch,
    ),
    "lisa": Case(
        [LISA(a) for a in (2.0, 0.3, 1.0)], risk_in_torch, mixture=mixture_in_torch
    ),
    "lisa, balanced": Case(
        [LISA(a, 0.3, "group") for a in (2.0, 0.3, 1.0)],
        risk_in_torch,
        mixture=mixture_in_torch,
    ),
    "divdis": Case([DivDis(s) for s in (2.0, 0.0, 1.0)], divdis_in_torch),
    "divdis, 3 heads": Case([DivDis(s, 3) for s in (2.0, 0.0, 1.0)], divdis_in_torch),
}


@dataclass(frozen=True)
class PlannedMethod:
    """A method whose plan is given."""

    method: Method
    planned: SamplingPlan

    def plan(self, groups):
        return self.planned

    def __getattr__(self, name):
        return getattr(self.method, name)


def train_in_torch(
    case, method, X, y, groups, *, n_classes, hidden, seed, n_labeled=None, **settings
):
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
    n_steps = -(-(n_labeled or len(y)) // settings["batch_size"])
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    weights = torch.from_numpy(sampler.weights[:, 0]).float()
    values = []
    for number, rows in enumerate(sampler.steps(0, n_steps * settings["max_iter"])):
        outputs, inputs, mixed = [], X[rows], None
        strata = torch.from_numpy(sampler.strata)
        if case.mixture is not None:
            drawn = strata, y[rows], weights
            mixed = case.mixture(method, groups, seed, number, *drawn)
            partners, share = mixed
            inputs = share * inputs + (1.0 - share) * inputs[partners]
        for head in heads:
            activations = [inputs]
            for weight, bias in head[:-1]:
                activations.append((activations[-1] @ weight.T + bias).relu())
            weight, bias = head[-1]
            outputs.append(activations[-1] @ weight.T + bias)
        batch = Step(
            number,
            seed,
            torch.cat(outputs, 1),
            y[rows],
            strata,
            weights,
            torch.from_numpy(rows),
            activations[1:],
            activations[-1],
            weight,
            mixed,
        )
        objective = case.objective(method, groups, batch)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        values.append(float(objective.detach()))
    return heads, np.array(values).reshape(-1, n_steps).mean(1)
