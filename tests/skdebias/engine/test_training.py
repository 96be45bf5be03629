"""The stacked engine against autograd, torch.optim and scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from skdebias._engine._features import Features
from skdebias._engine._heads import initial_parameters, stack_parameters
from skdebias._engine._loss import cross_entropy as stacked_cross_entropy
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sampler import IndexSampler
from skdebias._engine._selection import HeadValidationScorer, Stopping
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.methods import ERM, GERNE

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(torch.device("cuda"), marks=pytest.mark.gpu),
]


def _data(n=600, d=12, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    a = np.where(rng.random(n) < 0.9, y, rng.integers(0, n_classes, n))
    X = rng.normal(size=(n, d)) + np.eye(d)[y] + 2 * np.eye(d)[-1 - a]
    return X.astype(np.float32), y, Groups.from_labels(y, a, n_classes, n_classes)


def _settings(n, *, lr=0.05, wd=1e-3, momentum=0.9, **other):
    def vector(value):
        return np.broadcast_to(np.asarray(value, float), n).copy()

    defaults = {"optimizer": "sgd", "batch_size": 64, "max_iter": 3}
    defaults |= other
    return OptimizerConfig(
        learning_rate=vector(lr),
        weight_decay=vector(wd),
        momentum=vector(momentum),
        **defaults,
    )


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 5)])
@pytest.mark.parametrize("streams", [1, 3])
def test_backward_is_the_gradient(n_classes, hidden, streams):
    n_logits = 1 if n_classes == 2 else n_classes
    parameters = []
    for seed in range(streams * 2):
        coefs, biases = initial_parameters((9, *hidden, n_logits), seed)
        rng = np.random.default_rng(seed)
        coefs = [c + rng.normal(size=c.shape).astype(np.float32) for c in coefs]
        parameters.append((coefs, biases))
    stack = stack_parameters(parameters, streams, CPU)
    for tensor in stack.coefs + stack.intercepts:
        tensor.requires_grad_()
    X = torch.randn(streams, 20, 9)
    y = torch.randint(0, n_classes, (streams, 20))
    weights = torch.randn(streams, 20, 2)

    logits, activations = stack.forward(X)
    losses, residual = stacked_cross_entropy(logits.detach(), y)
    if n_classes == 2:
        target = y[:, :, None].expand(-1, -1, 2).float()
        reference = binary_cross_entropy_with_logits(
            logits[..., 0], target, reduction="none"
        )
    else:
        flat = cross_entropy(
            logits.flatten(0, 2), y.repeat_interleave(2), reduction="none"
        )
        reference = flat.view(streams, 20, 2)
    torch.testing.assert_close(losses, reference)
    (weights * reference).sum().backward()
    with torch.no_grad():
        grads = stack.backward(activations, residual * weights[..., None])
    for mine, tensor in zip(grads[0] + grads[1], stack.coefs + stack.intercepts):
        torch.testing.assert_close(mine, tensor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_training_follows_torch_step_by_step(optimizer, hidden):
    """A plain torch loop on the same rows, two GERNE losses and one backward pass."""
    X, y, groups = _data()
    beta, c = 0.7, 0.6
    plan = GERNE(beta, c).plan(groups)
    settings = _settings(1, optimizer=optimizer, hidden_layer_sizes=hidden, lr=0.02)
    sizes = (12, *hidden, 3)
    # Not from zero: there balanced classes make the gradient of the biases a rounding
    # error, and Adam a full step of it.
    coefs, biases = initial_parameters(sizes, 5)
    rng = np.random.default_rng(0)
    coefs = [(w + rng.normal(0, 0.1, w.shape)).astype(np.float32) for w in coefs]
    biases = [(b + rng.normal(0, 0.1, b.shape)).astype(np.float32) for b in biases]
    problem = Problem([GERNE(beta, c)], groups, 5, initial=[(coefs, biases)])
    fitted = Training(Features(X, CPU), y, 3, [problem], settings).run()

    layers = [torch.nn.Linear(i, o) for i, o in pairwise(sizes)]
    for layer, coef, bias in zip(layers, coefs, biases):
        layer.weight.data = torch.from_numpy(coef.copy())
        layer.bias.data = torch.from_numpy(bias.copy())
    modules = [m for layer in layers for m in (layer, torch.nn.ReLU())][:-1]
    network = torch.nn.Sequential(*modules)
    groups_of = [
        {"params": [p.weight for p in layers], "weight_decay": 1e-3},
        {"params": [p.bias for p in layers], "weight_decay": 0.0},
    ]
    if optimizer == "sgd":
        torch_optimizer = torch.optim.SGD(groups_of, lr=0.02, momentum=0.9)
    else:
        torch_optimizer = torch.optim.AdamW(groups_of, lr=0.02)
    sampler = IndexSampler([plan], 64, 5)
    table = sampler._table
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for rows in sampler.steps(0, 3 * 10):
        losses = cross_entropy(network(X[rows]), y[rows], reduction="none")
        weights = torch.from_numpy(sampler.weights[:, 0]).float()
        biased = (weights * losses)[table.stream == 0].sum() / -beta
        less_biased = (weights * losses)[table.stream == 1].sum() / (1 + beta)
        torch_optimizer.zero_grad()
        (less_biased + beta * (less_biased - biased)).backward()
        torch_optimizer.step()
    mine, my_biases = fitted.stack.numpy(0)
    for layer, coef, bias in zip(layers, mine, my_biases):
        np.testing.assert_allclose(layer.weight.detach(), coef, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(layer.bias.detach(), bias, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("shared", [False, True])
def test_a_head_alone_equals_the_head_in_a_stack(device, n_classes, hidden, shared):
    X, y, groups = _data(n_classes=n_classes)
    grid = [(b, c, lr, wd) for b, c in ((1, 0.5), (0, 1), (0.5, 0.1)) for lr, wd in
            ((0.05, 1e-2), (0.01, 0.1))]  # fmt: skip
    methods = [GERNE(b, c, shared) for b, c, *_ in grid]
    lr, wd = np.array(grid)[:, 2], np.array(grid)[:, 3]
    features = Features(X, device)
    common = {"hidden_layer_sizes": hidden, "max_iter": 4}
    together = Training(
        features,
        y,
        n_classes,
        [Problem(methods, groups, 1)],
        _settings(6, lr=lr, wd=wd, **common),
    ).run()
    for i, method in enumerate(methods):
        settings = _settings(1, lr=lr[i], wd=wd[i], **common)
        alone = Training(
            features, y, n_classes, [Problem([method], groups, 1)], settings
        ).run()
        for mine, theirs in zip(alone.stack.numpy(0), together.stack.numpy(i)):
            for one, two in zip(mine, theirs):
                np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
        assert alone.history["loss"][-1][0] == pytest.approx(
            together.history["loss"][-1][i], abs=1e-5
        )


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_streams_equal_separate_runs(hidden):
    """Two folds and seeds in one stack, each on its own rows."""
    X, y, _ = _data()
    a = np.arange(len(y)) % 2
    folds = [np.arange(0, 400), np.arange(200, 600)]
    features = Features(X, CPU)
    problems = []
    for seed, rows in enumerate(folds):
        groups = Groups.from_labels(y[rows], a[rows], 3, 2)
        problems.append(Problem([ERM("group")] * 2, groups, seed, rows))
    rates = np.array([0.1, 0.01, 0.1, 0.01])
    both = Training(
        features, y, 3, problems, _settings(4, lr=rates, hidden_layer_sizes=hidden)
    ).run()
    for s, problem in enumerate(problems):
        settings = _settings(2, lr=rates[:2], hidden_layer_sizes=hidden)
        own = Training(features, y, 3, [problem], settings).run()
        for m in range(2):
            for mine, theirs in zip(own.stack.numpy(m), both.stack.numpy(2 * s + m)):
                for one, two in zip(mine, theirs):
                    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("beta", "c"), [(-1, 0.5), (0.2, 0.5), (0.3, 0.9)])
def test_long_training_reaches_the_weighted_logistic_regression(n_classes, beta, c):
    """The oracle: scikit-learn with sample weights p_ext / (K n_group)."""
    X, y, groups = _data(n=300, n_classes=n_classes)
    method = GERNE(beta, c, shared=True)
    plan = method.plan(groups)
    wd = 0.05
    initial = None
    for i, (lr, n_steps) in enumerate([(0.1, 300), (0.01, 1000), (0.001, 4000)]):
        settings = _settings(1, lr=lr, wd=wd, batch_size=1024, max_iter=n_steps)
        fitted = Training(
            Features(X, CPU),
            y,
            n_classes,
            [Problem([method], groups, i, initial=initial)],
            settings,
        ).run()
        initial = [fitted.stack.numpy(0)]
    (coef,), (bias,) = initial[0]

    sampler = IndexSampler([plan], 1024, 0)
    per_group = np.bincount(sampler._table.stratum, sampler.weights[:, 0])
    weights = (per_group / groups.counts)[groups.ids]
    reference = LogisticRegression(C=1 / wd, max_iter=10_000, tol=1e-8)
    reference.fit(X, y, sample_weight=weights)
    scale = np.abs(reference.coef_).max()
    np.testing.assert_allclose(coef, reference.coef_, atol=0.01 * scale)
    probe = np.random.default_rng(1).normal(size=(50, 12))
    mine, theirs = (
        probe @ coef.T + bias,
        probe @ reference.coef_.T + reference.intercept_,
    )
    if n_classes > 2:  # logits are only defined up to a shift
        mine -= mine.mean(1, keepdims=True)
        theirs -= theirs.mean(1, keepdims=True)
    np.testing.assert_allclose(mine, theirs, atol=0.05 * np.abs(theirs).max())


def test_row_weights_act_like_repetition():
    X, y, groups = _data(n=120)
    plan = ERM(reweight="group").plan(groups)
    settings = _settings(1, batch_size=120, max_iter=300, wd=0.1)
    fitted = Training(
        Features(X, CPU), y, 3, [Problem([ERM(reweight="group")], groups, 0)], settings
    ).run()
    weights = plan.row_weights / len(y)
    reference = LogisticRegression(C=10, max_iter=10_000, tol=1e-8)
    reference.fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(fitted.stack.numpy(0)[0][0], reference.coef_, atol=2e-3)


def _validation(X, y, groups, selection):
    return HeadValidationScorer(y, groups, selection, Features(X, CPU))


def test_selection_keeps_the_best_epoch_of_every_head():
    X, y, groups = _data(n=200)
    X_val, y_val, groups_val = _data(n=150, seed=1)
    settings = _settings(3, lr=[0.3, 0.02, 0.001], max_iter=12, wd=0)
    fitted = Training(
        Features(X, CPU), y, 3, [Problem([ERM()] * 3, groups, 0)], settings,
        validation=_validation(X_val, y_val, groups_val, "worst_group"),
    ).run()  # fmt: skip
    scores = np.array(fitted.history["validation_score"])
    accuracy = np.array(fitted.history["validation_group_accuracy"])
    np.testing.assert_array_equal(scores, accuracy.min(1))
    # Among epochs of the best score, one with the best mean over groups.
    balanced = np.where(scores == scores.max(0), accuracy.mean(1), -1.0)
    np.testing.assert_array_equal(
        balanced[fitted.best_epoch - 1, range(3)], balanced.max(0)
    )
    for head in range(3):
        (coef,), (bias,) = fitted.stack.numpy(head)
        hits = (X_val @ coef.T + bias).argmax(1) == y_val
        per_group = np.bincount(groups_val.ids, hits) / groups_val.counts
        assert per_group.min() == scores[:, head].max()


def test_selection_scores_by_hand():
    cells = np.array([[0, 0], [0, 1], [1, 1]])
    groups = Groups(np.repeat([0, 1, 2], [6, 2, 4]), cells, np.array([6, 2, 4]), 2, 2)
    accuracy = np.array([[1.0, 0.5], [0.0, 1.0], [0.25, 1.0]])
    expected = {
        "worst_group": [0, 0.5],
        "group_balanced": [1.25 / 3, 2.5 / 3],
        "worst_class": [0.25, 5 / 8],
        "accuracy": [7 / 12, 9 / 12],
    }
    for selection, score in expected.items():
        validation = HeadValidationScorer(None, groups, selection, None)
        np.testing.assert_allclose(validation.score(accuracy), score)


def test_early_stopping_stops_heads_on_their_own():
    X, y, groups = _data(n=200)
    settings = _settings(2, lr=[0.5, 1e-3], max_iter=60, momentum=0)
    fitted = Training(
        Features(X, CPU), y, 3, [Problem([ERM()] * 2, groups, 0)], settings,
        stopping=Stopping(True, tol=1e-2, n_iter_no_change=3),
    ).run()  # fmt: skip
    assert fitted.n_iter[0] < fitted.n_iter[1] <= 60
    np.testing.assert_array_equal(fitted.best_epoch, fitted.n_iter)
    alone = Training(
        Features(X, CPU), y, 3, [Problem([ERM()], groups, 0)],
        _settings(1, lr=0.5, max_iter=int(fitted.n_iter[0]), momentum=0),
    ).run()  # fmt: skip
    np.testing.assert_allclose(
        alone.stack.numpy(0)[0][0], fitted.stack.numpy(0)[0][0], atol=1e-5
    )


def test_a_diverging_fit_says_so():
    X, y, groups = _data()
    settings = _settings(1, lr=1e30, max_iter=50)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        Training(
            Features(X * 1e6, CPU), y, 3, [Problem([ERM()], groups, 0)], settings
        ).run()


def test_threads_are_restored():
    X, y, groups = _data(n=100)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Training(
            Features(X, CPU), y, 3, [Problem([ERM()], groups, 0)], _settings(1)
        ).run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
