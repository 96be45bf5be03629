"""Gate: what a step asks of a GPU, in kernels and in waits of the host.

The numbers are those of a pretended device. They may fall, and this file with them; a
step that needs more is a step back.
"""

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import nn

from skdebias import (
    AFRClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
    ULEClassifier,
)
from skdebias._engine._sgd import _Loop
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._training import NetworkTraining

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is pretended here"),
]

SETTINGS = {"batch_size": 64, "random_state": 0, "device": "cuda", "max_iter": 1}
# Number of classes, and kernels and waits of a step.
HEADS = {
    "gerne": (GERNEClassifier(1.0, **SETTINGS), 2, 22, 0),
    "gerne, 3 classes": (GERNEClassifier(1.0, **SETTINGS), 3, 21, 0),
    "gerne, adamw": (GERNEClassifier(solver="adamw", **SETTINGS), 2, 48, 0),
    "gerne, hidden": (GERNEClassifier(hidden_layer_sizes=(8,), **SETTINGS), 2, 34, 0),
    "group dro": (GroupDROClassifier(**SETTINGS), 2, 38, 0),
    "lff": (LfFClassifier(**SETTINGS), 2, 50, 0),
    "ule": (ULEClassifier(**SETTINGS), 2, 165, 3),
    "ule, 3 classes, hidden": (
        ULEClassifier(hidden_layer_sizes=(8,), **SETTINGS), 3, 197, 3,
    ),
    "afr, second stage": (AFRClassifier(**SETTINGS), 2, 27, 0),
    "jtt, second stage": (JTTClassifier(**SETTINGS), 2, 22, 0),
}  # fmt: skip


def measure(monkeypatch, owner, name, log):
    """Count kernels and waits of every call of a method."""
    found, run = [], getattr(owner, name)

    def counted(self, *args, **kwargs):
        before = log.total("kernel"), log.total("wait")
        out = run(self, *args, **kwargs)
        after = log.total("kernel"), log.total("wait")
        found.append(np.subtract(after, before))
        return out

    monkeypatch.setattr(owner, name, counted)
    return found


@pytest.mark.parametrize("name", HEADS)
def test_steps_of_heads(name, monkeypatch):
    head, n_classes, n_kernels, n_waits = HEADS[name]
    X, y, a = make_spurious_classification(
        640, n_features=8, n_classes=n_classes, n_attributes=2, random_state=0
    )
    X = X.astype(np.float32)
    with pretend_cuda() as log:
        steps = measure(monkeypatch, _Loop, "_step", log)
        epochs = measure(monkeypatch, _Loop, "run_epoch", log)
        head.fit(X, y, a)
    kernels, waits = np.array(steps[1:]).T  # the first one makes what others keep
    assert len(kernels) > 3
    assert kernels[-1] <= n_kernels, log.table("kernel")
    assert waits[-1] <= n_waits, log.table("wait")
    # An epoch copies its draws at once, and waits for its objective.
    others = epochs[-1] - np.sum(steps[-len(steps) // len(epochs) :], axis=0)
    assert others[1] <= 3
    assert log.problems == []


@pytest.mark.parametrize(
    ("estimator", "n_kernels", "n_waits"),
    [(GERNEClassifier(1.0), 78, 4), (ULEClassifier(), 314, 9)],
)
def test_steps_of_networks(estimator, n_kernels, n_waits, monkeypatch):
    X, y, a = make_spurious_classification(256, n_features=8, random_state=0)
    network = nn.Sequential(
        *(part for _ in range(3) for part in (nn.Linear(8, 8), nn.ReLU()))
    )
    model = FineTuneClassifier(
        estimator,
        network,
        modality="tensor",
        batch_size=64,
        max_iter=1,
        precision="float32",
        device="cuda",
        random_state=0,
    )
    with pretend_cuda() as log:
        steps = measure(monkeypatch, NetworkTraining, "_make_step", log)
        model.fit(X.astype(np.float32), y, a)
    kernels, waits = np.array(steps[1:]).T
    assert kernels[-1] <= n_kernels, log.table("kernel")
    assert waits[-1] <= n_waits, log.table("wait")
    assert log.problems == []
