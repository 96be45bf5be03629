"""Networks that are trained in several threads are those of a thread alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import ERMClassifier, ULEClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier

X, Y, A = make_spurious_classification(120, random_state=0)
X = X.astype(np.float32)


class Drops(nn.Module):
    """Drops without a module that says so."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(X.shape[1], 6)

    def forward(self, x):
        return nn.functional.dropout(self.linear(x), 0.4, self.training)


def _network(kind):
    torch.manual_seed(0)
    if kind == "function":
        return Drops()
    layers = [nn.Linear(X.shape[1], 6), nn.BatchNorm1d(6), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Dropout(0.4)] if kind == "module" else []))


def _shaken(item):
    return item + 0.1 * torch.randn(item.shape) + 0.1 * np.random.normal()  # noqa: NPY002


def _fit(kind, seed):
    method = ULEClassifier() if kind == "saliencies" else ERMClassifier()
    model = FineTuneClassifier(
        method, _networks[kind], modality="tensor", max_iter=3, batch_size=16,
        learning_rate=0.05, random_state=seed, device="cpu",
        augment=_shaken if kind == "augment" else None,
    )  # fmt: skip
    return model.fit(X, Y, A).decision_function(X)


_KINDS = ("module", "function", "none", "augment", "saliencies")
_networks = {kind: _network(kind) for kind in _KINDS}


@pytest.mark.parametrize("kind", _KINDS)
def test_threads_train_the_networks_of_a_thread_alone(kind):
    expected = [_fit(kind, seed) for seed in range(3)]
    torch.manual_seed(9)
    stop = threading.Event()

    def draw():
        while not stop.is_set():
            torch.rand(10)

    noise = threading.Thread(target=draw)
    noise.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda seed: _fit(kind, seed), range(3)))
    finally:
        stop.set()
        noise.join()
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(expected[0], expected[1])


@pytest.mark.parametrize("kind", _KINDS)
def test_the_callers_generators_stay_as_they_are(kind):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    _fit(kind, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002
