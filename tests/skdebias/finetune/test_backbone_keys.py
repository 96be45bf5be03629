"""A network of the user's is part of what tells runs apart, or is refused by name."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torchvision import transforms

from embeddings_cache import UndescribableError
from skdebias import ERMClassifier
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._training import NetworkTraining

pytestmark = pytest.mark.filterwarnings("ignore::skdebias.UnusableAttributesWarning")
RNG = np.random.default_rng(0)
Y = np.arange(24) % 2
ATTRIBUTES = np.arange(24) // 2 % 2
IMAGES = RNG.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
SETTINGS = {
    "tensor": {"modality": "tensor"},
    "image": {"preprocess": transforms.ToTensor()},
}


class Net(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.linear = nn.Linear(48, 4)
        nn.init.constant_(self.linear.weight, 0.1)
        nn.init.constant_(self.linear.bias, 0.0)
        self.act, self.by = torch.relu, 1.0
        vars(self).update(attributes)

    def forward(self, x):
        return self.act(self.linear(x.flatten(1))) * self.by


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def frozen():
    net = Net()
    net.linear.weight.requires_grad_(False)
    return net


def hooked():
    net = Net()
    net.register_forward_hook(lambda _net, _x, out: 2 * out)
    return net


def parametrized():
    net = Net()
    parametrize.register_parametrization(net.linear, "weight", Double())
    return net


def patched():
    net = Net()
    net.forward = lambda x: 2 * net.linear(x.flatten(1))
    return net


OTHERS = {
    "activation": lambda: Net(act=torch.tanh),
    "attribute": lambda: Net(by=2.0),
    "private attribute": lambda: Net(_by=2.0),
    "lambda": lambda: Net(act=lambda x: x),
    "list": lambda: Net(by=[3.0][0], held=[1]),
    "frozen": frozen,
    "hook": hooked,
    "parametrized": parametrized,
    "patched": patched,
    "another layer": lambda: nn.Sequential(Net(), nn.Identity()),
}


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Return a function that fits a backbone and says whether it was trained."""
    made = []
    make = NetworkTraining._make_step
    monkeypatch.setattr(
        NetworkTraining,
        "_make_step",
        lambda training, *args: made.append(1) or make(training, *args),
    )

    def run(backbone, modality, folder=tmp_path):
        model = FineTuneClassifier(
            ERMClassifier(), backbone, learning_rate=0.01, batch_size=12, max_iter=1,
            random_state=0, device="cpu", checkpoint_dir=folder, **SETTINGS[modality],
        )  # fmt: skip
        X = IMAGES if modality == "image" else IMAGES.astype(np.float32) / 255
        before = len(made)
        model.fit(X, Y, ATTRIBUTES)
        return len(made) > before

    return run


@pytest.mark.parametrize("modality", SETTINGS)
def test_another_network_is_trained_anew(fit, modality):
    assert fit(Net(), modality)
    assert not fit(Net(), modality)
    for name, make in OTHERS.items():
        assert fit(make(), modality), name
        assert not fit(make(), modality), name


@pytest.mark.parametrize("modality", SETTINGS)
def test_edited_code_is_trained_anew(fit, modality, monkeypatch):
    assert fit(Net(), modality)
    monkeypatch.setattr(Net, "forward", lambda net, x: net.linear(x.flatten(1)))
    assert fit(Net(), modality)
    assert not fit(Net(), modality)


@pytest.mark.parametrize("modality", SETTINGS)
def test_what_cannot_be_described_needs_no_description_without_a_folder(fit, modality):
    net = Net(_chance=random.Random(0))
    with pytest.raises(UndescribableError, match=r"backbone\._chance .*checkpoint_dir"):
        fit(net, modality)
    assert fit(net, modality, None)
    assert fit(Net(_chance=random.Random(0), cache_description="chance, v1"), modality)
