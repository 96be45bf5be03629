"""What the user's function does to an item: repeatable, and within bounds."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import ERMClassifier
from skdebias.finetune import FineTuneClassifier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = np.arange(60) % 2
X[:, 0] += 2 * Y


def _mlp(*further):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), *further)


def _conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())


def _model(backbone=None, **parameters):
    settings = {"modality": "tensor", "max_iter": 2, "batch_size": 20, "device": "cpu",
                "random_state": 0, "learning_rate": 0.05}  # fmt: skip
    backbone = _mlp(nn.ReLU()) if backbone is None else backbone
    return FineTuneClassifier(ERMClassifier(), backbone, **settings | parameters)


def _noise(value):
    drawn = np.random.normal(size=value.shape) + random.random()  # noqa: NPY002
    return value + torch.from_numpy(drawn).float() + torch.rand(1)


def _none(_):
    return None


def _fails(_):
    raise KeyError("colour")


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentations_draw_repeatably_and_leave_the_generators_alone(workers):
    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        states = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        model = _model(augment=_noise, num_workers=workers, max_iter=1).fit(X, Y)
        found.append(model.decision_function(X))
        np.testing.assert_array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
        assert random.getstate() == states[1]
    np.testing.assert_array_equal(*found)
    alone = _model(augment=_noise, max_iter=1).fit(X, Y).decision_function(X)
    np.testing.assert_array_equal(found[0], alone)
    other = _model(augment=_noise, max_iter=1, random_state=1).fit(X, Y)
    assert np.abs(other.decision_function(X) - alone).max() > 1e-4


def _doubled_in_place(value):
    return value.mul_(2)


@pytest.mark.parametrize("modality", ["tensor", "image"])
def test_augmentations_that_write_into_an_item_change_it_once(modality):
    """An item is as it was in each epoch, and so is the user's array."""
    items, backbone = X.copy(), _mlp()
    if modality == "image":
        items = RNG.integers(0, 255, (60, 8, 8, 3)).astype(np.uint8)
        backbone = _conv()
    before, found = items.copy(), []
    preprocess = {"size": 8} if modality == "image" else None
    for augment in (_doubled_in_place, lambda value: value * 2):
        model = _model(backbone, modality=modality, preprocess=preprocess,
                       augment=augment)  # fmt: skip
        found.append(model.fit(items, Y).decision_function(items))
        np.testing.assert_array_equal(items, before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("augment", "kind", "message"),
    [
        (_none, TypeError, "returned None"),
        (_fails, RuntimeError, r"KeyError: 'colour'"),
    ],
)
def test_augmentations_that_fail_are_named(augment, kind, message, workers):
    with pytest.raises(kind, match=f"augment .*{message}"):
        _model(augment=augment, num_workers=workers).fit(X, Y)


@pytest.mark.parametrize(
    "augment",
    [
        lambda value: value[:3],
        lambda value: value.long(),
        lambda value: value.tolist(),
        lambda value: value * torch.nan,
    ],
)
def test_augmentations_return_an_item_of_the_same_kind(augment):
    with pytest.raises((TypeError, ValueError), match="augment returned"):
        _model(augment=augment).fit(X, Y)


def test_arrays_and_doubles_are_items_again():
    wanted = _model(augment=lambda value: 2 * value).fit(X, Y).decision_function(X)
    for change in (lambda v: (2 * v).double(), lambda v: 2 * v.numpy()):
        found = _model(augment=change).fit(X, Y).decision_function(X)
        np.testing.assert_array_equal(found, wanted)
