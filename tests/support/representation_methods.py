"""Plain torch of the methods on hidden layers and of corrected logits."""

from itertools import combinations

import numpy as np
import torch
from scipy.stats import beta
from small_methods import Case, environment_of
from torch.nn.functional import cosine_similarity, cross_entropy

from skdebias.methods import CORAL, LC, MMD, ULA, CausIRL, CnC, uniform


def attributes(groups, batch):
    return torch.from_numpy(groups.cells[batch.strata.numpy(), 1])


def risk(batch):
    return (batch.weights * batch.losses(batch.logits)).sum()


def moments_apart(one, other, *weights):
    """Squared differences of two sets of rows, as DomainBed's definition has them."""
    moments = []
    for rows, w in zip((one, other), weights or map(equal, (one, other))):
        moments.append((w @ rows / w.sum(), rows.T.cov(aweights=w)))
    (mean, covariance), (other_mean, other_covariance) = moments
    apart = (mean - other_mean).square().mean()
    return apart + (covariance - other_covariance).square().mean()


def equal(rows):
    return torch.ones(len(rows))


def discrepancy(one, other, w, v, gammas):
    def kernel(a, b, w_a, w_b):
        apart = (a[:, None] - b[None]).square().sum(-1)
        kernels = sum((-gamma * apart).exp() for gamma in gammas)
        return w_a @ kernels @ w_b / w_a.sum() / w_b.sum()

    within = kernel(one, one, w, w) + kernel(other, other, v, v)
    return within - 2 * kernel(one, other, w, v)


def apart(method, batch, first, second):
    """Distance of two parts of a step, by masks of its rows."""
    (one, w), (other, v) = (
        (batch.hidden[-1][part], batch.weights[part]) for part in (first, second)
    )
    if len(one) < 2 or len(other) < 2:
        return torch.zeros(())
    if getattr(method, "distance_of", "mmd") == "coral" or type(method) is CORAL:
        return moments_apart(one, other, w, v)
    return discrepancy(one, other, w, v, method.gammas)


def alignment_in_torch(method, groups, batch):
    environment = environment_of(method, groups, batch.strata)
    parts = [environment == number for number in environment.unique()]
    pairs = [apart(method, batch, *pair) for pair in combinations(parts, 2)]
    return risk(batch) + method.penalty_weight * torch.stack(pairs).mean()


def halves_in_torch(method, groups, batch):
    environment = environment_of(method, groups, batch.strata)
    cuts = uniform(batch.seed, batch.number, "cut", (groups.n_attributes,))
    keys = uniform(batch.seed, batch.number, "half", batch.y.shape)
    first = torch.stack([key < cuts[e] for key, e in zip(keys, environment)])
    distance = apart(method, batch, first, ~first)
    return risk(batch) + method.penalty_weight * distance


def contrast_in_torch(method, groups, batch):
    """Anchor by anchor, as the paper writes it."""
    predicted, y, hidden = attributes(groups, batch), batch.y, batch.hidden[-1]
    losses = []
    table = np.zeros((groups.n_classes, groups.n_attributes))
    np.add.at(table, tuple(groups.cells.T), groups.counts)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    own = torch.from_numpy(((table - expected) / expected**0.5).argmax(1))
    if groups.n_classes == groups.n_attributes:
        assert (own == torch.arange(groups.n_classes)).all()  # as of predictions
    for i in torch.nonzero(predicted == own[y])[:, 0]:
        positives = (y == y[i]) & (predicted != predicted[i])
        negatives = (y != y[i]) & (predicted == predicted[i])
        if not (positives.any() and negatives.any()):
            continue
        similar = cosine_similarity(hidden[i][None], hidden, eps=1e-12)
        exp = (similar / method.temperature).exp()
        total = exp[positives].sum() + exp[negatives].sum()
        losses.append(-(exp[positives] / total).log().mean())
    return risk(batch) + method.weight * torch.stack(losses).mean()


def two_logits(logits):
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], 1)


def ula_in_torch(method, groups, batch):
    counts = np.zeros((groups.n_attributes, groups.n_classes)) + method.smoothing
    for label, attribute in groups.cells[groups.ids]:
        counts[attribute, label] += 1
    shares = torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()
    shifted = two_logits(batch.logits) + (
        method.tau * shares[attributes(groups, batch)].log()
    )
    return (batch.weights * cross_entropy(shifted, batch.y, reduction="none")).sum()


class LCInTorch:
    """Row by row, with the shares of the steps before."""

    def __call__(self, method, groups, batch):
        n_rows, n_classes = len(batch.y), groups.n_classes
        biased, debiased = (two_logits(z) for z in batch.logits.chunk(2, 1))
        predicted = biased.detach().argmax(1)
        table = torch.zeros(n_classes, n_classes)
        for guess, label in zip(predicted, batch.y):
            table[guess, label] += 1 / n_rows
        if batch.number > 0:
            table = method.alpha * self.table + (1 - method.alpha) * table
        self.table = table
        shares = table.clamp_min(1 / len(groups.ids))[predicted]
        logits, mixed_shares = debiased, shares
        if method.mixup > 0:
            logits, mixed_shares = debiased.clone(), shares.clone()
            keys = uniform(batch.seed, batch.number, "partner", (n_rows, n_rows))
            drawn = uniform(batch.seed, batch.number, "share", (n_rows,)).double()
            for i in range(n_rows):
                right = predicted == batch.y
                others = (batch.y == batch.y[i]) & (right != right[i])
                if others.any():
                    j = torch.where(others, keys[i], -1).argmax()
                    own = float(beta.ppf(drawn[i], method.mixup, method.mixup))
                    logits[i] = own * debiased[i] + (1 - own) * debiased[j]
                    mixed_shares[i] = own * shares[i] + (1 - own) * shares[j]
        corrected = logits + method.tau * mixed_shares.log()
        p = biased.softmax(1)[torch.arange(n_rows), batch.y]
        easy = (1 - p**method.q) / method.q if method.q else -p.log()
        return easy.mean() + cross_entropy(corrected, batch.y)


HIDDEN = ((6,), (6, 4))
WIDTHS = (0.1, 1.0, 10.0)


def lc(**settings):
    return LC(biased_weight_decay=None, **settings)


CASES = {
    "coral": Case(
        [CORAL(s) for s in (0.5, 0.0, 0.2)], alignment_in_torch, HIDDEN, False
    ),
    "coral, classes as they come": Case(
        [CORAL(s, None) for s in (0.5, 0.0, 0.2)],
        alignment_in_torch,
        ((6,),),
        False,
    ),
    "mmd": Case(
        [MMD(s, gammas=WIDTHS) for s in (0.5, 0.0, 0.2)],
        alignment_in_torch,
        HIDDEN,
        False,
    ),
    "causirl": Case(
        [CausIRL(s) for s in (0.5, 0.0, 0.2)], halves_in_torch, ((6,),), False
    ),
    "causirl, mmd": Case(
        [CausIRL(s, distance_of="mmd", gammas=WIDTHS) for s in (0.5, 0.0, 0.2)],
        halves_in_torch,
        ((6,),),
        False,
    ),
    "cnc": Case(
        [CnC(0.5, 0.2), CnC(0.0), CnC(0.4, 0.3)], contrast_in_torch, HIDDEN, False
    ),
    "lc": Case([lc(), lc(tau=0.0, q=0.0), lc(alpha=0.9, q=0.9, tau=0.5)], LCInTorch()),
    "lc, mixed": Case(
        [lc(mixup=2.0), lc(), lc(mixup=16.0, tau=0.5)], LCInTorch(), ((),)
    ),
    "ula": Case([ULA(), ULA(0.0), ULA(1.5, 10.0)], ula_in_torch),
}
