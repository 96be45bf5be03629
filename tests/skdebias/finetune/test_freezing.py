"""Parts of a network that are not trained work as in evaluation."""

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import ERMClassifier, ULEClassifier
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._freezing import training_mode

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = np.arange(60) % 2
X[:, 0] += 2 * Y


def _mlp(*further):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), *further)


def _model(backbone, method=None, **parameters):
    settings = {"modality": "tensor", "max_iter": 2, "batch_size": 20, "device": "cpu",
                "random_state": 0, "learning_rate": 0.05}  # fmt: skip
    method = ERMClassifier() if method is None else method
    return FineTuneClassifier(method, backbone, **settings | parameters)


def _changed(backbone, **settings):
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    state = _model(backbone, **settings).fit(X, Y).network_.backbone.state_dict()
    return {k for k, v in state.items() if not torch.equal(v, before[k])}


def _with_frozen_parts():
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False),
                          nn.Dropout(0.5))  # fmt: skip
    return _mlp(nn.BatchNorm1d(4, affine=False), block, nn.BatchNorm1d(4))


def test_frozen_parts_keep_their_statistics():
    def statistics(name):
        kinds = ("running_mean", "running_var", "num_batches_tracked")
        return {f"{name}.{kind}" for kind in kinds}

    assert _changed(_with_frozen_parts(), freeze="backbone") == set()
    assert _changed(_with_frozen_parts(), freeze=["*"]) == set()
    block = {f"2.{k}" for k in ("0.weight", "0.bias")} | statistics("2.1")
    every = _changed(_with_frozen_parts())
    # What is before a normalisation has no bias that matters.
    assert block - {"2.0.bias"} <= every
    assert _changed(_with_frozen_parts(), freeze=["2"]) & block == set()
    assert _changed(_with_frozen_parts(), freeze=["[2]"]) & block == set()
    assert _changed(_with_frozen_parts(), freeze=["1"]) & statistics("1") == set()
    own = _with_frozen_parts()
    own[2].requires_grad_(False)
    assert _changed(own) & block == set()
    assert statistics("1") <= _changed(_with_frozen_parts(), freeze=["2"])


@pytest.mark.parametrize("freeze", [None, "backbone", ["2"], ["2.*"], ["2.0"]])
def test_frozen_parts_drop_nothing(freeze):
    model = _model(_with_frozen_parts(), freeze=freeze, max_iter=1).fit(X, Y)
    training_mode(model.network_, frozen_statistics=False)
    # All parameters of the block are those of 2.0.
    assert model.network_.backbone[2][2].training == (freeze is None)
    assert model.network_.backbone[1].training == (freeze != "backbone")
    assert model.network_.head[0].training


@pytest.mark.filterwarnings("ignore::skdebias.AntiClassifierWarning")
def test_a_network_past_its_epochs_is_frozen():
    def student(max_iter):
        method = ULEClassifier(lam=0.7, student_epochs=1)
        model = _model(_mlp(nn.BatchNorm1d(4)), method, max_iter=max_iter)
        return model.fit(X, Y).student_network_.state_dict()

    short, long = student(1), student(3)
    assert all(torch.equal(short[name], long[name]) for name in short)
