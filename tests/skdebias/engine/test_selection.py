"""Which epoch is kept, of equals too."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import ERMClassifier, GERNEClassifier, GroupDROClassifier, LfFClassifier
from skdebias._engine._features import Features
from skdebias._engine._heads import HeadStack
from skdebias._engine._selection import (
    HeadValidationScorer,
    Stopping,
    Tracker,
    ValidationScorer,
    count_hits_and_losses,
)
from skdebias._groups import Groups
from skdebias.finetune import FineTuneClassifier
from skdebias.model_selection import BatchedGridSearchCV

CELLS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def _groups(ids):
    return Groups(ids, CELLS, np.bincount(ids, minlength=4), 2, 2)


@dataclass(frozen=True)
class Played(ValidationScorer):
    """Results of epochs that were decided beforehand: (n_epochs, n_groups, n_heads)."""

    accuracies: np.ndarray
    losses: np.ndarray

    def group_results(self, stack):
        stack.epoch += 1
        return self.accuracies[stack.epoch - 1], self.losses[stack.epoch - 1]


class Stack:
    n_streams = 1

    def __init__(self, n_heads):
        self.n_heads = n_heads
        self.epoch = 0

    def clone(self):
        return Stack(self.n_heads)

    def copy_heads(self, source, heads):
        pass

    def select(self, heads):
        self.n_heads = len(heads)


def _best(accuracies, losses, selection="worst_group", **options):
    accuracies, losses = np.asarray(accuracies, float), np.asarray(losses, float)
    groups = _groups(np.repeat(range(4), 5))
    validation = Played(
        groups.cells[groups.ids, 0], groups, selection, accuracies, losses
    )
    tracker = Tracker(Stack(accuracies.shape[2]), Stopping(), validation, **options)
    for epoch in range(len(accuracies)):
        tracker.update(epoch + 1, np.zeros(accuracies.shape[2]))
    return tracker


def _epochs(*rows):
    """Epochs of one head, a row of groups each."""
    return np.array(rows, float)[:, :, None]


def test_ties_go_to_the_best_mean_of_the_groups():
    accuracies = _epochs([0, 0.5, 0.5, 1], [0, 0.9, 0.8, 1], [0, 0.6, 0.6, 1])
    # A group that is never right has its least loss where nothing has been learnt.
    losses = _epochs([0.7] * 4, [3, 0.1, 0.1, 0.1], [2, 0.3, 0.3, 0.1])
    assert _best(accuracies, losses).best_epoch == 2
    better = np.concatenate([accuracies, _epochs([0.1, 0.1, 0.1, 0.1])])
    worse = np.concatenate([losses, _epochs([9, 9, 9, 9])])
    assert _best(better, worse).best_epoch == 4


@pytest.mark.parametrize(
    ("selection", "best"),
    [("worst_group", 3), ("group_balanced", 2), ("worst_class", 4), ("accuracy", 2)],
)
def test_ties_of_the_mean_go_to_the_least_loss(selection, best):
    losses = _epochs([1, 1, 1, 1], [0.1, 0.1, 0.1, 2], [0.8, 0.8, 0.9, 0.9],
                     [0.1, 1.5, 0.8, 0.8])  # fmt: skip
    assert _best(np.ones((4, 4, 1)), losses, selection).best_epoch == best


def test_ties_of_all_go_to_the_later_epoch():
    losses = np.ones((5, 4, 1))
    losses[3] = 2.0
    assert _best(np.zeros((5, 4, 1)), losses).best_epoch == 5
    # Rounding chooses nothing, and many small steps are no small step.
    rounding = 1 + 1e-7 * np.arange(30)[:, None, None] * np.ones((30, 4, 1))
    assert 10 < _best(np.zeros((30, 4, 1)), rounding).best_epoch < 13


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_lose(value):
    losses = np.ones((3, 4, 1))
    losses[[0, 2]] = value
    assert _best(np.ones((3, 4, 1)), losses).best_epoch == 2
    assert _best(np.ones((3, 4, 1)), np.full((3, 4, 1), value)).best_epoch == 3


def test_the_last_head_of_a_method_breaks_the_ties():
    losses = np.ones((3, 4, 4))
    losses[:, :, 0] = [[1], [0.5], [2]]  # of the other network
    losses[:, :, 1] = [[0.5], [1], [2]]
    losses[:, :, 3] = [[3], [2], [1]]
    tracker = _best(np.ones((3, 4, 4)), losses, heads_per_method=2)
    np.testing.assert_array_equal(tracker.best_epoch, [1, 1, 3, 3])
    state = tracker.state()
    other = Tracker(Stack(4), Stopping(), tracker.validation, 2)
    other.resume(state, None)
    other.select(np.array([2, 3]))
    other.stack = Stack(2)
    worse = Played(tracker.validation.y, tracker.validation.groups, "worst_group",
                   np.ones((1, 4, 2)), np.full((1, 4, 2), 1.5))  # fmt: skip
    other.validation = worse
    other.update(4, np.zeros(2))
    np.testing.assert_array_equal(other.best_epoch, [3, 3])


@pytest.mark.parametrize("n_logits", [1, 3])
def test_losses_of_groups_by_hand(n_logits):
    rng = np.random.default_rng(0)
    n_classes = max(2, n_logits)
    ids = rng.permutation(np.repeat(range(4), [40, 1, 30, 9]))
    y = rng.integers(0, n_classes, 80)
    y[ids == 3] = -1  # unseen in training
    logits = torch.from_numpy(rng.normal(size=(2, 80, 3, n_logits)).astype(np.float32))
    hits, losses = count_hits_and_losses(
        logits, torch.from_numpy(y), torch.from_numpy(ids), 4
    ).numpy()
    full = logits.double()
    if n_logits == 1:
        full = torch.cat([torch.zeros_like(full), full], -1)
    log_p = full.log_softmax(-1).numpy().transpose(0, 2, 1, 3).reshape(6, 80, n_classes)
    for group in range(4):
        rows = np.flatnonzero((ids == group) & (y >= 0))
        own = log_p[:, rows, y[rows]]
        np.testing.assert_allclose(losses[group], -own.sum(1), rtol=1e-5)
        right = (log_p[:, rows].argmax(2) == y[rows]).sum(1)
        np.testing.assert_array_equal(hits[group], right)


def test_stacks_break_ties_as_single_fits_do():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)).astype(np.float32)
    ids = np.repeat(range(4), 15)
    groups = _groups(ids)
    y = groups.cells[ids, 0]
    coefs = torch.from_numpy(rng.normal(size=(6, 1, 8)).astype(np.float32))
    stack = HeadStack([coefs], [torch.zeros(6, 1)], 2)
    validation = HeadValidationScorer(
        y, groups, "worst_group", Features(X, torch.device("cpu"))
    )
    accuracies, losses = validation.group_results(stack)
    for head in range(6):
        own = HeadStack([stack.coefs[0][[head]]], [stack.intercepts[0][[head]]])
        alone = validation.group_results(own)
        np.testing.assert_array_equal(alone[0][:, 0], accuracies[:, head])
        np.testing.assert_allclose(alone[1][:, 0], losses[:, head], rtol=1e-5)
    np.testing.assert_array_equal(validation.group_accuracies(stack), accuracies)


def _data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    attributes = np.where(rng.random(400) < 0.95, y, 1 - y)
    X = rng.normal(size=(400, 6)).astype(np.float32)
    X[:, 0] += 2 * y - 1
    X[:, 1] += 2 * (2 * attributes - 1)
    return X, y, attributes


def _estimators(**settings):
    settings = {"max_iter": 10, "learning_rate": 0.02, "random_state": 0, **settings}
    yield ERMClassifier(device="cpu", **settings)
    torch.manual_seed(0)
    yield FineTuneClassifier(ERMClassifier(), nn.Sequential(nn.Linear(6, 6), nn.ReLU()),
                             modality="tensor", device="cpu", **settings)  # fmt: skip


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("unseen", [False, True])
def test_a_group_that_is_never_right_is_named(kind, unseen):
    X, y, attributes = _data()
    X_val, y_val, attributes_val = X[:200].copy(), y[:200].copy(), attributes[:200]
    odd = (y_val == 0) & (attributes_val == 1)
    X_val[odd, :2] = 9.0
    if unseen:
        y_val[odd] = 7
    model = list(_estimators(learning_rate=0.2))[kind]
    label = (
        r"7, attribute 1\), whose label is not in y" if unseen else r"0, attribute 1\)"
    )
    with pytest.warns(UserWarning, match=rf"worst_group.*10 epochs.*label {label}"):
        model.fit(X, y, attributes, X_val=X_val, y_val=y_val,
                  attributes_val=attributes_val)  # fmt: skip
    history = model.history_
    assert set(history["validation_score"]) == {0.0}
    balanced = history["validation_group_accuracy"].mean(1)
    assert balanced[model.best_epoch_ - 1] == balanced.max() > balanced[0]
    assert model.best_epoch_ > 1


@pytest.mark.parametrize("kind", [0, 1])
def test_of_perfect_epochs_the_surest_is_kept_in_silence(kind):
    X, y, attributes = _data()
    sure = (X[:, 0] * (2 * y - 1) > 0.5) & (X[:, 1] * (2 * y - 1) > 1)
    model = list(_estimators(max_iter=8, learning_rate=0.1))[kind]
    given = {"X_val": X[sure], "y_val": y[sure], "attributes_val": attributes[sure]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y, **given)
    assert model.history_["validation_score"][-1] == 1.0
    assert model.best_epoch_ > 4


def test_the_heads_of_a_search_keep_the_epochs_of_single_fits():
    X, y, attributes = _data()
    grid = {"learning_rate": [1e-3, 0.05], "weight_decay": [0.0, 0.1]}
    judged = {"X_val": X[:8], "y_val": y[:8], "attributes_val": attributes[:8]}
    model = ERMClassifier(max_iter=8, random_state=0, device="cpu")
    from sklearn import config_context
    from sklearn.model_selection import PredefinedSplit

    fold = PredefinedSplit(np.where(np.arange(400) < 100, 0, -1))
    search = BatchedGridSearchCV(model, grid, cv=fold, refit=False)
    with config_context(enable_metadata_routing=True):
        search.fit(X, y, attributes=attributes, **judged)
    for n, parameters in enumerate(search.cv_results_["params"]):
        alone = ERMClassifier(**{**model.get_params(), **parameters})
        alone.fit(X[100:], y[100:], attributes[100:], **judged)
        score = alone.score(X[:100], y[:100])
        assert search.cv_results_["split0_test_score"][n] == pytest.approx(score)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("rate", [1e20, 3e38])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_what_the_last_step_ruins_is_an_error(kind, judged, rate, hidden):
    # One step: the loss before it is as usual. Weights of 1e20 are finite, and what
    # comes out of two layers of them is not.
    X, y, attributes = _data()
    X = 100 * X
    given = {"X_val": X, "y_val": y, "attributes_val": attributes} if judged else {}
    settings = {"max_iter": 1, "batch_size": 400, "learning_rate": rate}
    model = list(_estimators(**settings))[kind]
    method = model if kind == 0 else model.estimator
    method.set_params(hidden_layer_sizes=hidden)
    if kind == 0 and hidden == () and rate == 1e20:
        model.fit(X, y, attributes, **given)
        assert np.isfinite(model.predict_proba(X)).all()
        return
    with pytest.raises(FloatingPointError, match=r"lower learning_rate \(now "):
        model.fit(X, y, attributes, **given)
    assert not hasattr(model, "classes_") or not hasattr(model, "n_iter_")


@pytest.mark.parametrize(
    "estimator", [GERNEClassifier(beta=0.2), GroupDROClassifier(), LfFClassifier()]
)
def test_heads_of_all_methods_are_looked_at(estimator):
    X, y, attributes = _data()
    settings = {"max_iter": 1, "batch_size": 400, "learning_rate": 3e38}
    estimator.set_params(device="cpu", **settings)
    given = () if isinstance(estimator, LfFClassifier) else (attributes,)
    with pytest.raises(FloatingPointError, match="or a weight"):
        estimator.fit(1e4 * X, y, *given)


def test_a_warm_start_from_nan_is_refused():
    X, y, _ = _data()
    model = ERMClassifier(max_iter=1, warm_start=True, device="cpu").fit(X, y)
    model.coef_[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"warm_start=True.*not finite"):
        model.fit(X, y)
