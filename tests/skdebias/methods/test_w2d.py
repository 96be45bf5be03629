"""W2D: against plain torch, alone and in stacks, its limits and refusals."""

from itertools import chain

import numpy as np
import pytest
import torch
from small_methods import Case, train_in_torch
from torch import nn

from skdebias import DebiasedClassifier
from skdebias._engine._features import Features
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import ERM, W2D, Step, TrainingContext

CPU = torch.device("cpu")
SETTINGS = {
    "learning_rate": 0.05,
    "weight_decay": 0.02,
    "momentum": 0.9,
    "batch_size": 64,
    "max_iter": 4,
}
METHODS = [W2D(), W2D(0.5, 0.5, 1.0), W2D(1.0, 0.0), W2D(0.4, 0.3, 0.6, warmup=7)]
SHAPES = [(n, hidden) for n in (2, 3) for hidden in ((), (6,))]


def _data(n_classes, n_samples=300):
    X, y, a = make_spurious_classification(
        n_samples, n_features=8, n_classes=n_classes, n_attributes=2, random_state=0
    )
    return X.astype(np.float32), y, a, Groups.from_labels(y, a, n_classes, 2)


def _train(methods, n_classes, hidden, seeds=(5,)):
    X, y, _, groups = _data(n_classes)
    n_heads = len(methods) * len(seeds)
    config = OptimizerConfig(
        "sgd",
        *(np.full(n_heads, SETTINGS[n]) for n in list(SETTINGS)[:3]),
        SETTINGS["batch_size"],
        SETTINGS["max_iter"],
        hidden,
    )
    problems = [Problem(methods, groups, seed) for seed in seeds]
    return Training(Features(X, CPU), y, n_classes, problems, config)


def _w2d_in_torch(method, groups, batch):
    """Mean loss of the hardest rows, muted where that hurts most."""
    n_rows, width = batch.inputs.shape
    plain = batch.losses(batch.logits)
    n_kept = int(np.ceil(method.keep * n_rows - 1e-4))
    n_kept = n_rows if batch.number < method.warmup else n_kept
    kept = plain.detach().argsort(stable=True, descending=True)[:n_kept]
    with torch.no_grad():
        if len(batch.coef) == 1:
            of_class = (2.0 * batch.y[:, None] - 1) * batch.coef
        else:
            of_class = batch.coef[batch.y]
        parts = batch.inputs * of_class
    muted = torch.zeros_like(parts, dtype=torch.bool)
    for row, largest in enumerate(parts.argsort(1, descending=True)):
        largest = largest[: round(method.mute * width)]
        muted[row, largest[parts[row, largest] > 0]] = True
    logits = batch.logits - (batch.inputs * muted) @ batch.coef.T
    losses = batch.losses(logits)
    raised = (losses - plain).detach()[kept]
    order = raised.argsort(stable=True, descending=True)
    hurt = kept[order[: round(method.muted_rows * n_kept)]]
    is_hurt = torch.zeros(n_rows, dtype=torch.bool)
    is_hurt[hurt] = True
    return torch.where(is_hurt, losses, plain)[kept].mean()


@pytest.mark.parametrize(("n_classes", "hidden"), SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_follows_autograd(method, n_classes, hidden):
    X, y, _, groups = _data(n_classes)
    fitted = _train([method], n_classes, hidden).run()
    (layers,), curve = train_in_torch(
        Case([method], _w2d_in_torch),
        *(method, X, y, groups),
        n_classes=n_classes,
        hidden=hidden,
        seed=5,
        **SETTINGS,
    )
    for coef, bias, layer in zip(*fitted.stack.numpy(0), layers):
        for ours, theirs in zip((coef, bias), layer):
            np.testing.assert_allclose(ours, theirs.detach(), atol=2e-5, rtol=1e-4)
    shown = np.array(fitted.history["loss"])[:, 0]
    np.testing.assert_allclose(shown, curve, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("n_classes", "hidden"), SHAPES)
def test_alone_in_a_stack_and_thinned(n_classes, hidden):
    thinned = _train(METHODS, n_classes, hidden)
    thinned.run(2)
    thinned.select([0, 3])
    thinned = thinned.run()
    streams = _train(METHODS, n_classes, hidden, seeds=(1, 5)).run()
    for left, number in enumerate((0, 3)):
        alone = _train([METHODS[number]], n_classes, hidden).run().stack.numpy(0)
        for stack in (
            thinned.stack.numpy(left),
            streams.stack.numpy(len(METHODS) + number),
        ):
            for ours, theirs in zip(chain(*stack), chain(*alone)):
                np.testing.assert_allclose(ours, theirs, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("balance", [None, "class", "group"])
def test_all_rows_without_muting_are_erm(balance):
    X, y, a, _ = _data(3)
    w2d, erm = (
        DebiasedClassifier(method, random_state=0, max_iter=5)
        .fit(X, y, attributes=a if balance == "group" else None)
        .coef_
        for method in (W2D(1.0, 0.0, balance=balance), ERM(balance))
    )
    np.testing.assert_allclose(w2d, erm, atol=1e-6)


def test_kept_rows_share_the_weight_of_the_step():
    groups = Groups.from_labels([0, 1, 0, 1, 0], [0] * 5, 2, 1)
    context = TrainingContext((groups,), torch.tensor([0, 1, 0, 1, 0]), CPU, (0,))
    rule = W2D.weighting([W2D(keep=0.4), W2D(keep=0.4, warmup=3), W2D(1.0)], context)
    losses = torch.tensor([0.1, 3.0, 0.2, 2.0, 2.0]).view(1, 5, 1).repeat(1, 1, 3)
    slots = torch.zeros(1, 5, dtype=torch.int64)
    step = Step(torch.full((1, 5, 3), 0.2), losses, slots, slots, slots, number=2)
    weights = rule(step)[0].T
    np.testing.assert_allclose(weights[0], [0, 0.5, 0, 0.5, 0])  # the first of equals
    np.testing.assert_allclose(weights[1], [0.2] * 5)
    np.testing.assert_allclose(weights[2], [0.2] * 5)


@pytest.mark.parametrize(
    "odd",
    [{"keep": 0.0}, {"keep": 1.1}, {"mute": 1.0}, {"muted_rows": -1}, {"warmup": -1}],
)
def test_odd_shares_are_refused(odd):
    X, y, _, _ = _data(2, 40)
    with pytest.raises(ValueError, match=f"{next(iter(odd))}=.* must be"):
        DebiasedClassifier(W2D(**odd)).fit(X, y)


def test_networks_are_refused():
    X, y, _, _ = _data(2, 40)
    network = FineTuneClassifier(
        DebiasedClassifier(W2D()), nn.Identity(), modality="tensor"
    )
    with pytest.raises(TypeError, match="does not train whole networks"):
        network.fit(X, y)
