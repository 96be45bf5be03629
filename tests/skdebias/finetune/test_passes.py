"""Steps that are made in several passes."""

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import (
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    LfFClassifier,
    ULEClassifier,
)
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._passes import buffers_kept, deal_slots, position_in_passes


def _images():
    """800 small images whose channel 0 is the attribute, and channel 1 the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 800)
    attributes = np.where(rng.random(800) < 0.9, y, 1 - y)
    X = rng.normal(0, 1, (800, 2, 6, 6)).astype(np.float32)
    X[:, 0] += (2 * attributes - 1)[:, None, None]
    X[:, 1, 2:4, 2:4] += 0.8 * (2 * y - 1)[:, None, None]
    return X, y, attributes


X, Y, ATTRIBUTES = _images()


def _cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU()),
    )


def _model(method, backbone=None, **parameters):
    settings = {
        "learning_rate": 0.05, "batch_size": 64, "max_iter": 4, "random_state": 0,
        "device": "cpu", "modality": "tensor",
    }  # fmt: skip
    backbone = _cnn() if backbone is None else backbone
    return FineTuneClassifier(method, backbone, **settings | parameters)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("n_passes", [1, 2, 4, 7, 100])
def test_every_pass_is_a_sample_of_the_step(n_passes, world):
    # 2 batches of groups of 15, 1, 1, 15 and of 9, 8, 7, 9 rows, in the order of slots.
    cell = np.repeat(np.arange(8), [15, 1, 1, 15, 9, 8, 7, 9])
    ranks = [deal_slots(len(cell), world, rank, n_passes) for rank in range(world)]
    sizes = [[len(part) for part in parts] for parts in ranks]
    assert all(own == sizes[0] for own in sizes)
    passes = [part[part >= 0] for parts in ranks for part in parts]
    np.testing.assert_array_equal(np.sort(np.concatenate(passes)), np.arange(len(cell)))
    for label in (cell, cell // 4):  # of a group in a batch, and of a batch
        counts = [
            np.bincount(label[part], minlength=label.max() + 1) for part in passes
        ]
        assert np.ptp(counts, axis=0).max() <= 1
    for parts in ranks:
        dealt = np.concatenate(parts)[position_in_passes([len(p) for p in parts])]
        own = dealt[dealt >= 0]
        np.testing.assert_array_equal(own, np.sort(own))


@pytest.mark.parametrize(
    "method", [GERNEClassifier(beta=0.5, c=0.5), GroupDROClassifier(step_size=0.01)]
)
def test_passes_with_batch_normalisation_learn_what_one_pass_learns(method):
    # With a pass for each batch or group, the objective stays near log(2), or falls far
    # below zero where networks are larger.
    whole, passes = (
        _model(method, accumulate=accumulate).fit(X, Y, ATTRIBUTES)
        for accumulate in (1, 4)
    )
    np.testing.assert_allclose(passes.loss_curve_, whole.loss_curve_, atol=0.1)
    assert whole.loss_curve_[-1] < 0.35
    for model in (whole, passes):
        hits = model.predict(X) == Y
        groups = [
            hits[(k == Y) & (a == ATTRIBUTES)].mean() for k in (0, 1) for a in (0, 1)
        ]
        assert min(groups) > 0.7


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [2, 4, 7, 1000])
@pytest.mark.parametrize(
    "method",
    [GERNEClassifier(beta=0.5, c=0.5), GroupDROClassifier(), LfFClassifier()],
)
def test_any_number_of_passes_has_the_gradients_of_one(method, accumulate):
    def fit(accumulate):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.GroupNorm(2, 8))
        model = _model(
            method, backbone, accumulate=accumulate, max_iter=1, batch_size=50
        )
        return model.fit(X[:200], Y[:200], ATTRIBUTES[:200]).decision_function(X)

    np.testing.assert_allclose(fit(accumulate), fit(1), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    "method",
    [ERMClassifier(), GroupDROClassifier(), LfFClassifier(), ULEClassifier(lam=0.7)],
)
def test_statistics_move_once_for_every_row(method, accumulate):
    # A rule looks at the losses of a whole step before it weighs any of them.
    model = _model(method, accumulate=accumulate, max_iter=1).fit(X, Y, ATTRIBUTES)
    moved = model.network_.backbone[1].num_batches_tracked
    assert int(moved) == accumulate * -(-len(X) // 64)


def test_the_losses_of_a_step_are_those_of_its_passes():
    # Statistics of a step whose learning rate is 0 do not depend on the rule.
    def statistics(method):
        model = _model(method, accumulate=4, learning_rate=1e-30, max_iter=1,
                       momentum=0.0)  # fmt: skip
        return model.fit(X, Y, ATTRIBUTES).network_.backbone[1].running_mean

    dro = statistics(GroupDROClassifier())
    torch.testing.assert_close(dro, statistics(ERMClassifier(balance="group")))


def test_buffers_are_put_back_even_if_they_were_replaced():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))
            self.register_buffer("nothing", None)

        def forward(self, x):
            self.seen = self.seen + len(x)
            return x

    module = nn.Sequential(Counter(), nn.BatchNorm1d(3))
    seen = module[0].seen
    with buffers_kept(module):
        module(torch.randn(8, 3))
        assert module[0].seen == 8
    assert module[0].seen is seen
    assert seen == 0
    assert int(module[1].num_batches_tracked) == 0
    assert not module[1].running_mean.any()


@pytest.mark.parametrize("settings", [{"accumulate": 40}, {"batch_size": 1}])
def test_a_pass_of_one_row_cannot_be_normalised(settings):
    model = _model(ERMClassifier(), **{"batch_size": 64, **settings})
    with pytest.raises(
        ValueError, match=r"accumulate.*batch_size.*batch_norm='frozen'"
    ):
        model.fit(X, Y)
