"""GroupDRO, JTT, AFR, LfF and DFR: their weights by hand, their limits, stacking."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from skdebias._engine._features import Features
from skdebias._engine._heads import initial_parameters
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.methods import AFR, ERM, JTT, GroupDRO, Head, LfF, Step, TrainingContext
from skdebias.methods._afr import afr_weights, effective_sample_size, holdout_mask
from skdebias.methods._dfr import balanced_subset, halves

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(torch.device("cuda"), marks=pytest.mark.gpu),
]


def _groups(table):
    table = np.asarray(table)
    cells = np.argwhere(table > 0)
    labels = np.repeat(cells, table[table > 0], axis=0).T
    return Groups.from_labels(*labels, *table.shape)


def _data(n=300, d=8, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    a = np.where(rng.random(n) < 0.9, y, rng.integers(0, n_classes, n))
    X = rng.normal(size=(n, d)) + np.eye(d)[y] + 2 * np.eye(d)[-1 - a]
    return X.astype(np.float32), y, Groups.from_labels(y, a, n_classes, n_classes)


def _settings(n, *, lr=0.05, wd=1e-3, **other):
    def vector(value):
        return np.broadcast_to(np.asarray(value, float), n).copy()

    options = {"optimizer": "sgd", "batch_size": 64, "max_iter": 3} | other
    return OptimizerConfig(
        learning_rate=vector(lr),
        weight_decay=vector(wd),
        momentum=vector(0.9),
        **options,
    )


def _step(losses, strata, rows, y, weights=None):
    losses = torch.as_tensor(losses, dtype=torch.float32)
    if weights is None:
        weights = torch.full_like(losses, 1 / losses.shape[1])
    return Step(weights, losses, *(torch.as_tensor(v) for v in (strata, rows, y)))


def _setting(groups, y):
    return TrainingContext(tuple(groups), torch.as_tensor(y), CPU)


def test_group_dro_update_by_hand():
    """Two groups of 4 and 1 rows, equal sampling, one step of q and of the weights."""
    groups = _groups([[4, 0], [0, 1]])
    eta, adjustment = 0.5, 2.0
    rule = GroupDRO.weighting(
        [GroupDRO(eta, adjustment)], _setting([groups], [0] * 4 + [1])
    )
    losses, strata = [1.0, 3.0, 0.5, 0.5], [0, 0, 1, 1]
    step = _step(np.reshape(losses, (1, 4, 1)), [strata], [[0, 1, 4, 4]], [strata])
    raised = 0.5 * np.exp(eta * np.array([2 + 2 / 2, 0.5 + 2 / 1]))
    q = raised / raised.sum()
    weights = rule(step)
    np.testing.assert_allclose(rule.q[0, :, 0], q, rtol=1e-5)
    np.testing.assert_allclose(weights[0, :, 0], q[strata] / 2, rtol=1e-5)

    raised = q * np.exp(eta * np.array([2 + 2 / 2, 0.5 + 2 / 1]))
    rule(step)
    np.testing.assert_allclose(
        rule.q[0, :, 0], raised / raised.sum(), rtol=1e-5, err_msg="second step"
    )


def test_group_dro_pads_streams_with_fewer_groups():
    setting = _setting([_groups([[2, 1], [1, 2]]), _groups([[3, 0], [0, 3]])], [0] * 12)
    rule = GroupDRO.weighting([GroupDRO(1.0), GroupDRO(1.0)], setting)
    losses = np.ones((2, 4, 1))
    strata = [[0, 1, 2, 3], [0, 0, 1, 1]]
    weights = rule(_step(losses, strata, strata, strata))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(rule.q[1, :, 0], [0.5, 0.5, 0, 0], atol=1e-7)


def test_group_dro_survives_huge_losses():
    rule = GroupDRO.weighting([GroupDRO(10.0)], _setting([_groups([[1], [1]])], [0, 1]))
    weights = rule(_step([[[1e4], [1.0]]], [[0, 1]], [[0, 1]], [[0, 1]]))
    np.testing.assert_allclose(weights[0, :, 0], [1, 0], atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_group_dro_without_steps_is_group_balanced_erm(hidden):
    X, y, groups = _data()
    settings = _settings(1, hidden_layer_sizes=hidden)
    robust, balanced = (
        Training(Features(X, CPU), y, 3, [Problem([method], groups, 1)], settings).run()
        for method in (GroupDRO(step_size=0), ERM("group"))
    )
    moved = Training(
        Features(X, CPU), y, 3, [Problem([GroupDRO(0.5)], groups, 1)], settings
    ).run()
    for one, two, other in zip(
        *(f.stack.numpy(0)[0] for f in (robust, balanced, moved))
    ):
        np.testing.assert_allclose(one, two, atol=1e-6)
        assert np.abs(other - two).max() > 1e-4


def test_jtt_samples_errors_more_often():
    table = np.array([[30, 10], [55, 5]])  # columns: correct, error
    (batch,) = JTT(upweight=4, balance=None).plan(_groups(table)).batches
    np.testing.assert_allclose(batch.probabilities, np.array([85, 60]) / 145)
    plan = JTT(upweight=4).plan(_groups(table))
    shares = [30 / 70, 40 / 70, 55 / 75, 20 / 75]  # within the classes
    np.testing.assert_allclose(plan.batches[0].probabilities, np.array(shares) / 2)
    np.testing.assert_array_equal(plan.blocks, [0, 0, 1, 1])


def test_jtt_with_weight_one_draws_rows_alike():
    plan = JTT(upweight=1, balance=None).plan(_groups([[30, 10], [55, 5]]))
    per_row = plan.batches[0].probabilities / np.bincount(plan.strata)
    np.testing.assert_allclose(per_row, 1 / 100)


def test_jtt_without_errors_is_one_stratum():
    plan = JTT(upweight=7, balance=None).plan(_groups([[3], [5]]))
    np.testing.assert_array_equal(plan.batches[0].probabilities, [1.0])
    plan = JTT(upweight=7).plan(_groups([[3], [5]]))
    np.testing.assert_array_equal(plan.batches[0].probabilities, [0.5, 0.5])


def test_afr_weights_by_hand():
    confidence, y = np.array([0.9, 0.4, 0.4, 0.1]), np.array([0, 0, 1, 1])
    raw = np.exp(-2 * confidence) / 2
    np.testing.assert_allclose(afr_weights(confidence, y, 2.0), raw / raw.sum())
    by_class = afr_weights(np.full(5, 0.3), np.array([0, 0, 0, 0, 1]), gamma=9.0)
    np.testing.assert_allclose(by_class, [1 / 8] * 4 + [1 / 2])
    steep = afr_weights(np.array([0.0, 1.0]), np.array([0, 0]), gamma=1e5)
    np.testing.assert_allclose(steep, [1, 0])


def test_afr_plan_draws_held_out_rows_only():
    groups = _groups([[6, 2], [1, 3]])
    confidence = np.full(12, np.nan)
    held = np.array([0, 1, 6, 9])
    confidence[held] = [0.9, 0.8, 0.1, 0.5]
    plan = AFR(confidence, 3.0).plan(groups)
    np.testing.assert_array_equal(np.flatnonzero(plan.strata == 0), held)
    np.testing.assert_array_equal(plan.counts(32), [[32, 0]])
    weights = afr_weights(confidence[held], np.array([0, 0, 0, 1]), 3.0)
    np.testing.assert_allclose(plan.row_weights[held] / 4, weights)


def test_effective_sample_size():
    assert effective_sample_size(np.full(7, 0.2)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0, 0])) == 1


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_holdout_leaves_rows_of_every_class_on_both_sides(fraction):
    y = np.repeat(["a", "b", "c"], [20, 2, 1])
    mask = holdout_mask(y, fraction, seed=3)
    assert set(y[mask]) == {"a", "b"}
    assert set(y[~mask]) == {"a", "b", "c"}
    assert mask.sum() == np.clip(round(20 * fraction), 1, 19) + 1
    with pytest.raises(ValueError, match="two rows"):
        holdout_mask(np.arange(3), fraction, seed=3)


def test_lff_weights_by_hand():
    """Two steps: first losses start the averages, later ones decay them."""
    q, alpha = 0.7, 0.6
    y = np.array([0, 1, 0, 1])
    rule = LfF.weighting([LfF(q, alpha)], _setting([_groups([[2], [2]])], y))
    first = np.array([[2.0, 1.0], [0.5, 3.0], [4.0, 0.5]])  # rows 0, 1, 2
    weights = rule(_step(first[None], [[0] * 3], [[0, 1, 2]], y[None, :3]))[0] * 3
    scaled = first / np.array([[4.0, 1.0], [0.5, 3.0], [4.0, 1.0]])  # class maxima
    np.testing.assert_allclose(weights[:, 0], np.exp(-q * first[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(
        weights[:, 1], scaled[:, 0] / scaled.sum(1), rtol=1e-5, err_msg="first step"
    )

    second = np.array([[1.0, 2.0], [6.0, 0.1]])  # rows 0 (seen) and 3 (new)
    weights = rule(_step(second[None], [[0] * 2], [[0, 3]], y[None, [0, 3]]))[0] * 2
    average = np.array([alpha * first[0] + (1 - alpha) * second[0], second[1]])
    # Row 2 still holds the biased maximum of class 0, row 1 the debiased one of class 1
    largest = np.array([[4.0, average[0, 1]], [6.0, 3.0]])
    scaled = average / largest
    np.testing.assert_allclose(weights[:, 0], np.exp(-q * second[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(
        weights[:, 1], scaled[:, 0] / scaled.sum(1), rtol=1e-5, err_msg="second step"
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weighted_cross_entropy_descends_the_generalised_one(n_classes):
    """p_y**q times the residual is the gradient of (1 - p_y**q) / q."""
    q = 0.7
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(9, n_classes - (n_classes == 2), generator=rng)
    logits.requires_grad_()
    y = torch.arange(9) % n_classes
    if n_classes == 2:
        losses = binary_cross_entropy_with_logits(
            logits[:, 0], y.float(), reduction="none"
        )
    else:
        losses = cross_entropy(logits, y, reduction="none")
    generalised = (1 - torch.exp(-losses) ** q) / q
    (expected,) = torch.autograd.grad(generalised.sum(), logits, retain_graph=True)
    pair = torch.stack([losses, losses], -1).detach()[None]
    groups = _groups([[3]] * n_classes)
    rule = LfF.weighting([LfF(q)], _setting([groups], y))
    weights = rule(_step(pair, [[0] * 9], [range(9)], y[None]))[0, :, 0] * 9
    (mine,) = torch.autograd.grad((weights * losses).sum(), logits)
    torch.testing.assert_close(mine, expected)


METHODS = {
    "group_dro": [GroupDRO(0.01), GroupDRO(0.5), GroupDRO(0.1, adjustment=3.0)],
    "jtt": [JTT(2), JTT(1), JTT(30)],
    "lff": [LfF(0.7, 0.7), LfF(0.2, 0.9), LfF(0.9, 0.0)],
    "afr": [4.0, 0.0, 20.0],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_head_alone_equals_the_head_in_a_stack(name, n_classes, hidden, device):
    X, y, groups = _data(n_classes=n_classes)
    methods = METHODS[name]
    if name == "jtt":
        errors = np.arange(len(y)) % 5 == 0
        groups = Groups.from_labels(y, errors.astype(int), n_classes, 2)
    if name == "afr":
        confidence = np.random.default_rng(0).random(len(y))
        confidence[::3] = np.nan
        methods = [AFR(confidence, gamma) for gamma in methods]
    per = methods[0].n_heads
    rates = np.array([0.05, 0.01, 0.1]).repeat(per)
    features = Features(X, device)

    def run(methods, rates):
        settings = _settings(len(rates), lr=rates, hidden_layer_sizes=hidden)
        return Training(
            features, y, n_classes, [Problem(methods, groups, 1)], settings
        ).run()

    together = run(methods, rates)
    for i, method in enumerate(methods):
        alone = run([method], rates[i * per : (i + 1) * per])
        for head in range(per):
            mine = alone.stack.numpy(head)
            theirs = together.stack.numpy(i * per + head)
            for one, two in zip(mine[0] + mine[1], theirs[0] + theirs[1]):
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("methods", [METHODS["group_dro"][:2], METHODS["lff"][:2]])
def test_streams_equal_separate_runs(methods):
    """Folds whose groups differ in number; each keeps a state of its own."""
    X, y, _ = _data()
    a = np.arange(len(y)) % 2
    folds = [np.arange(0, 200), np.flatnonzero((y != 2) | (a == 0))[:200]]
    features, problems = Features(X, CPU), []
    for seed, rows in enumerate(folds):
        groups = Groups.from_labels(y[rows], a[rows], 3, 2)
        problems.append(Problem(methods, groups, seed, rows))
    assert [p.groups.n_groups for p in problems] == [6, 5]
    # Group-balanced batches of 60 rows: as many slots for 5 groups as for 6.
    per = 2 * methods[0].n_heads
    options = {"batch_size": 60, "max_iter": 4}
    both = Training(features, y, 3, problems, _settings(2 * per, **options)).run()
    for s, problem in enumerate(problems):
        own = Training(features, y, 3, [problem], _settings(per, **options)).run()
        for head in range(per):
            mine, theirs = own.stack.numpy(head), both.stack.numpy(per * s + head)
            for one, two in zip(mine[0] + mine[1], theirs[0] + theirs[1]):
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True, eq=False)
class Anchored(ERM):
    anchor: tuple = ()

    def __init__(self, anchor):
        object.__setattr__(self, "anchor", anchor)

    @property
    def heads(self):
        return (Head(anchor=self.anchor),)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_decay_pulls_to_the_anchor(optimizer, hidden):
    """A plain torch loop: SGD on loss + wd/2 |theta - anchor|^2, AdamW decoupled."""
    X, y, groups = _data(n=64)
    sizes, lr, wd = (8, *hidden, 3), 0.05, 0.3
    start, anchor = (
        ([c + 0.1 * seed for c in coefs], [b - 0.2 * seed for b in biases])
        for seed in (1, 2)
        for coefs, biases in [initial_parameters(sizes, seed)]
    )
    problem = Problem([Anchored(anchor)], groups, 0, initial=[start])
    settings = _settings(
        1, optimizer=optimizer, hidden_layer_sizes=hidden, lr=lr, wd=wd, max_iter=6
    )
    fitted = Training(Features(X, CPU), y, 3, [problem], settings).run()

    layers = [torch.nn.Linear(i, o) for i, o in pairwise(sizes)]
    for layer, coef, bias in zip(layers, *start):
        layer.weight.data, layer.bias.data = map(torch.from_numpy, (coef, bias))
    modules = [m for layer in layers for m in (layer, torch.nn.ReLU())][:-1]
    network = torch.nn.Sequential(*modules)
    pulls = [
        torch.from_numpy(p) for pair in zip(*anchor) for p in pair
    ]  # weight, bias, weight, bias ...
    parameters = list(network.parameters())
    if optimizer == "sgd":
        stepper = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    else:
        stepper = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(6):  # all 64 rows at every step
        loss = cross_entropy(network(X), y)
        if optimizer == "sgd":
            squares = ((p - a).square().sum() for p, a in zip(parameters, pulls))
            loss = loss + wd / 2 * sum(squares)
        stepper.zero_grad()
        loss.backward()
        if optimizer == "adamw":
            for p, a in zip(parameters, pulls):
                p.data = a + (1 - lr * wd) * (p.data - a)
        stepper.step()
    coefs, biases = fitted.stack.numpy(0)
    for layer, coef, bias in zip(layers, coefs, biases):
        np.testing.assert_allclose(layer.weight.detach(), coef, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(layer.bias.detach(), bias, rtol=1e-4, atol=2e-5)


def test_balanced_subset_is_uniform_over_the_rows_of_a_group():
    groups = _groups([[7, 2], [3, 0]])
    drawn = np.zeros(12)
    for seed in range(400):
        rows = balanced_subset(groups, np.random.default_rng(seed))
        assert np.bincount(groups.ids[rows]).tolist() == [2, 2, 2]
        assert len(set(rows)) == 6
        drawn[rows] += 1 / 400
    np.testing.assert_allclose(drawn, np.repeat([2 / 7, 1, 2 / 3], [7, 2, 3]), atol=0.1)


def test_halves_split_every_group():
    groups = _groups([[7, 2], [1, 4]])
    first, second = halves(groups, np.random.default_rng(0))
    assert np.bincount(groups.ids[first]).tolist() == [4, 1, 1, 2]
    assert np.bincount(groups.ids[second], minlength=4).tolist() == [3, 1, 0, 2]
    np.testing.assert_array_equal(np.sort(np.r_[first, second]), np.arange(14))
