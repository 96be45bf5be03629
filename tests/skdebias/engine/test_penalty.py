"""Methods of one's own: derivatives that would be lost, heads that would stay equal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from skdebias import ERMClassifier
from skdebias._engine._features import Features
from skdebias._engine._lbfgs import check_solvable
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import ERM, ULE, Head, LfF, Method, PenaltyTerm, TrainingContext
from skdebias.methods._head import initial_state


class Penalised:
    """A penalty on one quantity of the forward pass."""

    def __init__(self, term):
        self._term = term

    def __call__(self, step, forward):
        values, logits, coefs = self._term(step, forward)
        return PenaltyTerm(values, logits, coefs)

    def end_epoch(self, coefs):
        return {}

    def select(self, methods):
        pass


@dataclass(frozen=True)
class Own(Method):
    """ERM with a penalty."""

    term: Any = None

    def plan(self, groups):
        return ERM().plan(groups)

    @classmethod
    def penalty(cls, methods, setting):
        return None if methods[0].term is None else Penalised(methods[0].term)


@dataclass(frozen=True)
class Pair(Own):
    """Two heads of one objective."""

    @property
    def heads(self):
        return Head("first"), Head()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = (rng.normal(size=(60, 5)) + y[:, None]).astype(np.float32)
    return X, y, Groups.from_labels(y, np.zeros(60, int), 2, 1)


def fit(method, data, hidden=(4,), max_iter=2):
    X, y, groups = data
    rates = np.full(method.n_heads, 0.1)
    return Training(
        Features(X, torch.device("cpu")),
        y,
        2,
        [Problem([method], groups, 0)],
        OptimizerConfig("sgd", rates, rates * 0, rates * 0, 20, max_iter, hidden),
    ).run()


def zeros(step, forward):
    return torch.zeros_like(step.losses[:, 0]), torch.zeros_like(forward.logits)


def of_activations(step, forward):
    values, logits = zeros(step, forward)
    hidden = forward.activations[-1]
    return values + hidden.square().mean((1, 2)).view_as(values), logits, None


def of_weights(step, forward):
    values, logits = zeros(step, forward)
    return values + forward.coefs[-1].square().sum((1, 2)).view_as(values), logits, None


def of_logits(step, forward):
    values, logits = zeros(step, forward)
    return values + forward.logits.square().mean((1, 3)), logits, None


def of_losses(step, forward):
    values, logits = zeros(step, forward)
    return values + step.losses.var(1), logits, None


LOST = {
    "hidden activations": of_activations,
    "PenaltyTerm.coefs is None": of_weights,
    "PenaltyTerm.logits is zero": of_logits,
    "on the logits": of_losses,
}


@pytest.mark.parametrize("message", LOST)
def test_a_derivative_that_would_be_lost_is_refused(message, data):
    with pytest.raises(ValueError, match=f"penalty Penalised.*{message}"):
        fit(Own(LOST[message]), data)


def with_derivatives(step, forward):
    """Squares of the logits and of the weights, with all that belongs to them."""
    values, _ = zeros(step, forward)
    squares = sum(coef.square().sum((1, 2)) for coef in forward.coefs).view_as(values)
    n_rows = forward.logits.shape[1]
    return (
        values + squares + forward.logits.square().sum((1, 3)) / n_rows,
        2 * forward.logits / n_rows,
        [2 * coef for coef in forward.coefs],
    )


def detached(step, forward):
    values, logits = zeros(step, forward)
    hidden = forward.activations[-1].detach()
    return values + hidden.mean((1, 2)).view_as(values), logits, None


@pytest.mark.parametrize("term", [with_derivatives, detached])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
def test_a_penalty_that_tells_all_is_taken(term, hidden, data):
    assert np.isfinite(fit(Own(term), data, hidden).history["loss"]).all()


@pytest.mark.parametrize(
    "shorten",
    [lambda coefs: coefs[-1:], lambda coefs: [*coefs, coefs[0]], lambda c: c[::-1]],
)
def test_derivatives_of_other_shapes_are_refused(shorten, data):
    def term(step, forward):
        values, logits = zeros(step, forward)
        return values, logits, shorten([torch.zeros_like(c) for c in forward.coefs])

    with pytest.raises(ValueError, match=r"PenaltyTerm\.coefs has derivatives"):
        fit(Own(term), data)


def test_values_of_another_shape_are_refused(data):
    def term(step, forward):
        values, logits = zeros(step, forward)
        return values.sum(), logits, None

    with pytest.raises(ValueError, match=r"PenaltyTerm\.values has shape"):
        fit(Own(term), data)


# --- several heads -----------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_heads_of_one_objective_start_apart(hidden, data):
    stack = fit(Pair(), data, hidden).stack
    assert all((coef[0] != coef[1]).any() for coef in stack.coefs)
    again = fit(Pair(), data, hidden).stack
    assert all(map(torch.equal, stack.coefs, again.coefs))


def test_one_head_and_heads_of_different_objectives_start_at_zero():
    for method in (Own(), ERM(), LfF(), ULE()):
        starts = [initial_state(method.heads, i) for i in range(method.n_heads)]
        assert all(from_zero for _, from_zero in starts)
    assert [initial_state(Pair().heads, i) for i in (0, 1)] == [(0, False), (1, False)]
    # Teacher and student of a head with hidden layers start from the same weights.
    assert [initial_state(ULE().heads, i)[0] for i in (0, 1)] == [0, 0]


def test_the_deterministic_solver_has_one_head(data):
    _, y, groups = data
    setting = TrainingContext((groups,), torch.from_numpy(y), torch.device("cpu"))
    with pytest.raises(ValueError, match="solver='lbfgs' solves for one head"):
        check_solvable(Pair(), Pair().plan(groups), setting)


class PairClassifier(ERMClassifier):
    """Two heads of one objective."""

    def _make_method(self, data, stage):
        return Pair()


def test_an_estimator_of_several_heads(data):
    X, y, _ = data
    model = PairClassifier(max_iter=2, random_state=0).fit(X, y)
    assert (model.coef_ != model.first_coef_).any()


@pytest.mark.parametrize("head_init", ["auto", "random", "zero"])
def test_networks_start_apart_too(head_init, data):
    X, y, _ = data
    model = FineTuneClassifier(
        PairClassifier(),
        torch.nn.Linear(5, 3),
        modality="tensor",
        freeze="backbone",
        head_init=head_init,
        max_iter=1,
        random_state=0,
    )
    if head_init == "zero":
        with pytest.raises(ValueError, match="head_init='zero' would keep the 2 heads"):
            model.fit(X, y)
        return
    model.fit(X, y)
    first, last = (n.head[-1].weight for n in (model.first_network_, model.network_))
    assert (first != last).any()
