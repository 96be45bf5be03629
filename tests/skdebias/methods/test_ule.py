"""ULE's penalty against autograd on dense saliencies, and its identities."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from skdebias._engine._features import Features
from skdebias._engine._heads import HeadStack
from skdebias._engine._loss import cross_entropy
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.methods import ERM, ULE, ForwardPass, Step, TrainingContext
from skdebias.methods.ule import _opposition
from skdebias.methods.ule._logits import centred_logits
from skdebias.methods.ule._opposition import gram_opposition

CPU = torch.device("cpu")
ROWS, FEATURES, STREAMS = 24, 5, 2
PAPER = {
    "saliency": "logit",
    "normalize": "max",
    "normalize_over": "sample",
    "student_loss": "ce",
}
OPTIONS = [
    dict(zip(("saliency", "normalize", "normalize_over", "target", "divergence"), o))
    for o in product(
        ("loss", "logit", "log_probability"),
        ("l2", "max"),
        ("batch", "sample"),
        ("opposite", "orthogonal"),
        ("mse", "l1"),
    )
]


def _stack(n_classes, hidden, n_methods=1, seed=0, streams=STREAMS):
    generator = torch.Generator().manual_seed(seed)
    sizes = (FEATURES, *hidden, 1 if n_classes == 2 else n_classes)
    total = streams * n_methods * 2

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    coefs = [normal(total, out, n) for n, out in pairwise(sizes)]
    return HeadStack(coefs, [normal(total, out) for out in sizes[1:]], streams)


def _rows(n_classes, seed=1, streams=STREAMS):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(streams, ROWS, FEATURES, dtype=torch.float64, generator=generator)
    return X, torch.randint(0, n_classes, (streams, ROWS), generator=generator)


def _setting(n_classes, streams=STREAMS):
    codes = np.arange(ROWS) % n_classes
    groups = Groups.from_labels(codes, np.zeros_like(codes), n_classes, 1)
    return TrainingContext((groups,) * streams, torch.from_numpy(codes), CPU)


def _evaluate(stack, X, y, methods, n_classes, penalty=None):
    """Value and full gradient of the penalty, as the engine adds it."""
    logits, activations = stack.forward(X)
    losses, residual = cross_entropy(logits, y)
    weights = torch.full_like(losses, 1 / ROWS)
    step = Step(weights, losses, torch.zeros_like(y), y, y)
    if penalty is None:
        penalty = ULE.penalty(methods, _setting(n_classes, stack.n_streams))
    term = penalty(step, ForwardPass(logits, residual, activations, stack.coefs))
    grads, biases = stack.backward(activations, term.logits)
    return term.values, [g + e for g, e in zip(grads, term.coefs)], biases


def _head_logits(coefs, biases, x):
    for i, (coef, bias) in enumerate(zip(coefs, biases)):
        x = (x if i == 0 else x.relu()) @ coef.T + bias
    return torch.cat([-x / 2, x / 2], 1) if x.shape[1] == 1 else x


def _dense(kind, coefs, biases, X, y):
    """Dense input gradients by autograd, differentiable once more."""
    x = X.clone().requires_grad_()
    z = _head_logits(coefs, biases, x)
    if kind == "logit":
        scalar = (z - z.mean(1, keepdim=True)).max(1).values
    elif kind == "log_probability":
        scalar = z.log_softmax(1).max(1).values
    else:
        scalar = -z.log_softmax(1).gather(1, y[:, None])
    return torch.autograd.grad(scalar.sum(), x, create_graph=True)[0]


def _normalised(g, normalize, over):
    square = g.square()
    if normalize == "l2":
        length = square.sum(1, keepdim=True)
        length = length if over == "sample" else length.mean()
    else:
        length = square.amax(1, keepdim=True) if over == "sample" else square.max()
    return g / (length + _opposition.EPSILON).sqrt()


def _reference(method, student, teacher, X, y):
    """The penalty as written in the paper, with the options of the class."""
    g_s = _dense(method.saliency, *student, X, y).detach()
    g_t = _dense(method.saliency, *teacher, X, y)
    n_s, n_t = (
        _normalised(g, method.normalize, method.normalize_over) for g in (g_s, g_t)
    )
    size = (lambda e: e**2) if method.divergence == "mse" else torch.abs
    unit = 1.0 if method.normalize == "l2" else 1 / FEATURES
    if method.target == "opposite":
        if method.normalize == "l2" and method.divergence == "l1":
            unit = FEATURES**-0.5
        return unit * size(n_t - (-n_s)).sum(1).mean()
    inner = unit * (n_s * n_t).sum(1)
    return size(inner.mean() if method.normalize_over == "batch" else inner).mean()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 4)])
def test_value_and_gradient_are_those_of_dense_autograd(
    options, n_classes, hidden, monkeypatch
):
    # Per-sample saliencies are rescaled, on which a sizeable epsilon would depend.
    monkeypatch.setattr(_opposition, "EPSILON", 1e-26)
    methods = [ULE(lam, **options, scale="none") for lam in (0.2, 0.7)] * STREAMS
    stack = _stack(n_classes, hidden, n_methods=2)
    X, y = _rows(n_classes)
    values, grads, bias_grads = _evaluate(stack, X, y, methods, n_classes)
    for tensor in stack.coefs + stack.intercepts:
        tensor.requires_grad_()
    total = 0.0
    for s, m in product(range(STREAMS), range(2)):
        student, teacher = (
            ([c[h] for c in stack.coefs], [b[h] for b in stack.intercepts])
            for h in (4 * s + 2 * m, 4 * s + 2 * m + 1)
        )
        expected = _reference(methods[m], student, teacher, X[s], y[s])
        expected = (1 - methods[m].lam) * expected
        torch.testing.assert_close(values[s, 2 * m + 1], expected, rtol=1e-6, atol=1e-9)
        assert values[s, 2 * m] == 0
        total = total + expected
    wanted = torch.autograd.grad(
        total, stack.coefs + stack.intercepts, allow_unused=True
    )
    for got, want in zip(grads + bias_grads, wanted):
        want = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
        assert (got[::2] == 0).all()  # the student is not touched
    assert max(float(g.abs().max()) for g in grads) > 1e-6


@pytest.mark.parametrize("options", OPTIONS[::5], ids=lambda o: "-".join(o.values()))
def test_double_backward_is_the_finite_difference(options):
    methods = [ULE(0.0, **options, scale="none")]
    stack, (X, y) = _stack(3, (7,), streams=1), _rows(3, streams=1)
    _, grads, biases = _evaluate(stack, X, y, methods, 3)
    step = 1e-6
    for parameter, grad in zip(stack.coefs + stack.intercepts, grads + biases):
        where = (1, *np.unravel_index(int(grad[1].abs().argmax()), grad[1].shape))
        values = []
        for sign in (1, -2):
            parameter[where] += sign * step
            values.append(float(_evaluate(stack, X, y, methods, 3)[0][0, 1]))
        parameter[where] += step
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(grad[where]), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("options", OPTIONS[::3], ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_a_vector_added_to_all_output_rows_changes_nothing(options, hidden):
    methods = [ULE(0.3, **options, scale="none")] * STREAMS
    stack, (X, y) = _stack(3, hidden), _rows(3)
    before = _evaluate(stack, X, y, methods, 3)
    stack.coefs[-1] += torch.randn(STREAMS * 2, 1, stack.coefs[-1].shape[2]).double()
    after = _evaluate(stack, X, y, methods, 3)
    if hidden or options["saliency"] != "logit":
        # Rows whose logits all move by the same amount keep their softmax.
        stack.intercepts[-1] += 1.7
        after = _evaluate(stack, X, y, methods, 3)
    torch.testing.assert_close(before[0], after[0])
    torch.testing.assert_close(before[1][-1], after[1][-1])


@pytest.mark.parametrize("normalize", ["l2", "max"])
@pytest.mark.parametrize("target", ["opposite", "orthogonal"])
def test_two_classes_make_logit_and_log_probability_the_same(normalize, target):
    stack, (X, y) = _stack(2, ()), _rows(2)
    results = []
    for kind in ("logit", "log_probability"):
        options = {"saliency": kind, "normalize": normalize, "target": target}
        methods = [ULE(0.3, **options, normalize_over="sample", scale="none")] * STREAMS
        results.append(_evaluate(stack, X, y, methods, 2))
    torch.testing.assert_close(*(r[0] for r in results))
    torch.testing.assert_close(*(r[1] for r in results))


def test_the_literal_form_on_a_linear_head_sees_no_data():
    """Only which class is predicted tells rows apart."""
    stack, (X, y) = _stack(3, ()), _rows(3)
    stack.intercepts[0][:, 0] += 100.0  # every row is of class 0, for both heads
    methods = [ULE(0.3, **PAPER, scale="none")] * STREAMS
    values, grads, _ = _evaluate(stack, X, y, methods, 3)
    other = _evaluate(stack, 5.0 * X.flip(1) + 1.0, 2 - y, methods, 3)
    torch.testing.assert_close(values, other[0])
    torch.testing.assert_close(grads, other[1])


def test_a_saturated_softmax_keeps_its_direction_in_float32():
    for n_classes in (2, 3):
        stack, (X, y) = _stack(n_classes, ()), _rows(n_classes)
        stack = HeadStack(
            [500 * c.float() for c in stack.coefs],
            [b.float() for b in stack.intercepts],
            STREAMS,
        )
        for kind in ("loss", "log_probability"):
            options = {"saliency": kind, "normalize_over": "sample"}
            methods = [ULE(0.0, **options, scale="none")] * STREAMS
            values, grads, _ = _evaluate(stack, X.float(), y, methods, n_classes)
            assert torch.isfinite(grads[0]).all()
            half = HeadStack([c / 2 for c in stack.coefs], stack.intercepts, STREAMS)
            smaller = _evaluate(half, X.float(), y, methods, n_classes)[0]
            torch.testing.assert_close(values, smaller, rtol=0.02, atol=0.02)
            assert (values[:, 1] > 0.1).all()


def test_at_lam_zero_the_teacher_of_the_paper_ignores_labels():
    stack, (X, y) = _stack(3, ()), _rows(3)
    methods = [ULE(0.0, **PAPER, scale="none")] * STREAMS
    first = _evaluate(stack, X, y, methods, 3)
    second = _evaluate(stack, X, (y + 1) % 3, methods, 3)
    torch.testing.assert_close(first[:2], second[:2])
    losses = torch.rand(STREAMS, ROWS, 2)
    step = Step(torch.ones_like(losses), losses, y, y, y)
    weights = ULE.weighting(methods, _setting(3))(step)
    assert (weights[..., 1] == 0).all()
    assert (weights[..., 0] == 1).all()


def test_the_rule_is_generalised_cross_entropy_and_lam():
    z = torch.randn(1, ROWS, 4, 3, dtype=torch.float64).requires_grad_()
    y = torch.randint(0, 3, (1, ROWS))
    losses, residual = cross_entropy(z, y)
    step = Step(torch.full_like(losses, 1 / ROWS), losses.detach(), y, y, y)
    methods = [ULE(0.25, student_q=0.6), ULE(0.75, student_loss="ce")]
    weights = ULE.weighting(methods, _setting(3, streams=1))(step)
    p = z.softmax(-1).gather(-1, y[..., None, None].expand(-1, -1, 4, 1))[..., 0]
    objective = (1 - p[..., 0] ** 0.6) / 0.6 - p[..., 2].log()
    objective = objective - 0.25 * p[..., 1].log() - 0.75 * p[..., 3].log()
    (wanted,) = torch.autograd.grad(objective.mean(), z)
    torch.testing.assert_close((weights[..., None] * residual).detach(), wanted)


SCALED = [{}, {"target": "orthogonal"}, {"normalize": "max"}, {"gram": True}]


def _first_step(methods, stack, X, y, alike):
    """Check the first value against the penalty without scale; return the scale."""
    logits = stack.forward(X)[0]
    penalty = ULE.penalty(methods, _setting(3))
    found = _evaluate(stack, X, y, methods, 3, penalty)[0][:, 1]
    scale = cross_entropy(logits, y)[0][..., 1].mean(1) / alike
    raw = _evaluate(stack, X, y, [replace(m, scale="none") for m in methods], 3)
    torch.testing.assert_close(found, scale * raw[0][:, 1] * _confidence(logits))
    return scale, penalty


@pytest.mark.parametrize("options", SCALED, ids=str)
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_the_scale_is_that_of_equal_saliencies_at_the_first_step(options, hidden):
    stack, alike = _stack(3, hidden), _stack(3, hidden)
    for tensor in alike.coefs + alike.intercepts:
        tensor[1::2] = tensor[::2]
    X, y = _rows(3)
    methods = [ULE(0.4, **options)] * STREAMS
    raw = [replace(m, scale="none") for m in methods]
    of_equals = _evaluate(alike, X, y, raw, 3)[0][:, 1] / 0.6
    scale, penalty = _first_step(methods, stack, X, y, of_equals)
    X2, y2 = _rows(3, seed=7)
    second = _evaluate(stack, X2, y2, methods, 3, penalty)[0][:, 1]
    again = _evaluate(stack, X2, y2, raw, 3)[0][:, 1]
    confidence = _confidence(stack.forward(X2)[0])
    torch.testing.assert_close(second, scale * again * confidence)
    assert (confidence > 0.1).all()
    assert (confidence < 0.99).all()


def test_the_scale_of_heads_without_saliency_is_the_loss():
    stack, (X, y) = _stack(3, ()), _rows(3)
    for tensor in stack.coefs:
        tensor[::2] = 0.0
    _first_step([ULE(0.4)] * STREAMS, stack, X, y, 1.0)


def _confidence(logits):
    """Penalties count once the teacher's logits have spread to about one."""
    z = logits[:, :, 1] - logits[:, :, 1].mean(-1, keepdim=True)
    spread = (z - z.mean(1, keepdim=True)).square().mean(1).sum(-1)
    return spread / (1 + spread)


@pytest.mark.parametrize("normalize", ["l2", "max"])
@pytest.mark.parametrize("target", ["opposite", "orthogonal"])
def test_gram_form_equals_the_explicit_matrices(normalize, target):
    generator = torch.Generator().manual_seed(3)
    student = torch.randn(2, ROWS, 4, dtype=torch.float64, generator=generator)
    teacher = torch.randn(2, ROWS, 3, dtype=torch.float64, generator=generator)
    teacher.requires_grad_()
    e_s, e_t = student @ student.transpose(1, 2), teacher @ teacher.transpose(1, 2)
    if normalize == "l2":
        n_s, n_t = (e / e.square().sum((1, 2), keepdim=True).sqrt() for e in (e_s, e_t))
        unit = 1.0
    else:
        n_s, n_t = (e / e.abs().amax((1, 2), keepdim=True) for e in (e_s, e_t))
        unit = 1 / ROWS**2
    if target == "opposite":
        expected = unit * (n_s + n_t).square().sum((1, 2))
    else:
        expected = (unit * (n_s * n_t).sum((1, 2))).square()
    values, grad = gram_opposition(student, teacher.detach(), normalize, target)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), teacher)[0])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_gram_form_in_a_stack_differentiates_the_logits(n_classes, hidden):
    stack, (X, y) = _stack(n_classes, hidden), _rows(n_classes)
    methods = [ULE(0.4, gram=True, scale="none")] * STREAMS
    values, grads, biases = _evaluate(stack, X, y, methods, n_classes)
    for tensor in stack.coefs + stack.intercepts:
        tensor.requires_grad_()
    logits = centred_logits(stack.forward(X)[0])
    gram = [a @ a.transpose(1, 2) for a in (logits[:, :, 0].detach(), logits[:, :, 1])]
    norms = [e / e.square().sum((1, 2), keepdim=True).sqrt() for e in gram]
    expected = 0.6 * (norms[0] + norms[1]).square().sum((1, 2))
    torch.testing.assert_close(values[:, 1], expected.detach())
    wanted = torch.autograd.grad(expected.sum(), stack.coefs + stack.intercepts)
    for got, want in zip(grads + biases, wanted):
        torch.testing.assert_close(got, want)


def _data(n_classes, n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    X = rng.normal(size=(n, 6)) + 2 * np.eye(6)[y]
    groups = Groups.from_labels(y, np.zeros_like(y), n_classes, 1)
    return X.astype(np.float32), y, groups


def _flat(parameters):
    coefs, intercepts = parameters
    return [*coefs, *intercepts]


def _train(methods, data, n_classes, *, hidden=(), seeds=(5,), epochs=None, **other):
    X, y, groups = data
    total = len(methods) * methods[0].n_heads * len(seeds)
    defaults = {"optimizer": "sgd", "batch_size": 32, "max_iter": 3}
    settings = OptimizerConfig(
        learning_rate=np.full(total, 0.02),
        weight_decay=np.full(total, 1e-3),
        momentum=np.full(total, 0.9),
        hidden_layer_sizes=hidden,
        epochs=epochs,
        **(defaults | other),
    )
    problems = [Problem(methods, groups, seed) for seed in seeds]
    return Training(Features(X, CPU), y, n_classes, problems, settings).run()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_a_head_alone_is_the_same_head_in_a_stack(n_classes, hidden):
    """Also next to methods of other forms, and with another stream."""
    data = _data(n_classes)
    methods = [
        ULE(0.5),
        ULE(0.8, **PAPER),
        ULE(0.2),
        ULE(0.5, saliency="log_probability", target="orthogonal"),
    ]
    stacked = _train(methods, data, n_classes, hidden=hidden, seeds=(5, 6))
    for s, seed in enumerate((5, 6)):
        for m, method in enumerate(methods):
            alone = _train([method], data, n_classes, hidden=hidden, seeds=(seed,))
            for head in (0, 1):
                got = stacked.stack.numpy(8 * s + 2 * m + head)
                for a, b in zip(_flat(got), _flat(alone.stack.numpy(head))):
                    np.testing.assert_allclose(a, b, atol=2e-5)
            where = 8 * s + 2 * m
            for name in ("cosine", "training_accuracy", "loss"):
                np.testing.assert_allclose(
                    [e[where : where + 2] for e in stacked.history[name]],
                    alone.history[name],
                    atol=1e-4,
                )


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("options", [{}, PAPER], ids=["default", "paper"])
def test_the_student_does_not_see_lam(hidden, options):
    lams = (0.0, 0.5, 1.0)
    fitted = _train([ULE(lam, **options) for lam in lams], _data(3), 3, hidden=hidden)
    losses = np.array(fitted.history["loss"]).T
    for other in (2, 4):
        np.testing.assert_allclose(losses[0], losses[other], rtol=1e-6)
        assert np.abs(losses[1] - losses[other + 1]).max() > 0.01


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("options", [{}, PAPER], ids=["default", "paper"])
def test_lam_one_is_erm_step_by_step(n_classes, hidden, options):
    data = _data(n_classes)
    erm = _train([ERM("class")], data, n_classes, hidden=hidden).stack.numpy(0)
    ule = _train([ULE(1.0, **options)], data, n_classes, hidden=hidden).stack.numpy(1)
    for got, want in zip(_flat(ule), _flat(erm)):
        np.testing.assert_allclose(got, want, atol=1e-6)
    near = _train([ULE(0.7, **options)], data, n_classes, hidden=hidden)
    assert np.abs(near.stack.numpy(1)[0][0] - erm[0][0]).max() > 0.01


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_frozen_student_stays_as_it_was(optimizer):
    data, options = _data(3), {"optimizer": optimizer}
    # A teacher that turns into the anti-classifier would leave earlier epochs kept.
    after_two = _train([ULE(0.95)], data, 3, max_iter=2, **options)
    frozen = _train(
        [ULE(0.95)], data, 3, max_iter=5, epochs=np.array([2, np.inf]), **options
    )
    free = _train([ULE(0.95)], data, 3, max_iter=5, **options)
    np.testing.assert_array_equal(
        frozen.stack.numpy(0)[0][0], after_two.stack.numpy(0)[0][0]
    )
    assert np.abs(free.stack.numpy(0)[0][0] - after_two.stack.numpy(0)[0][0]).max() > 0
    assert np.abs(frozen.stack.numpy(1)[0][0] - after_two.stack.numpy(1)[0][0]).max()


def test_class_balance_reaches_the_plan():
    _, _, groups = _data(3)
    assert len(ULE(balance="class").plan(groups).batches[0].probabilities) == 3
    assert not ULE(balance=None).plan(groups).replacement
    assert ULE().balance == "class"
    assert ULE(balance="class").plan(groups).replacement
