"""Learning rates, and the parameters that decay."""

import numpy as np
import torch
from torch import nn

from skdebias.finetune._network import Network
from skdebias.finetune._optimization import TrainConfig, make_optimizer
from skdebias.methods import Head


def _config(**settings):
    unset = dict.fromkeys(TrainConfig.__dataclass_fields__)
    return TrainConfig(**(unset | {"learning_rate": 2.0, "warmup": 0.0} | settings))


def test_schedules():
    def rates(**settings):
        return [_config(**settings).rate(step, 10) for step in range(10)]

    assert rates(schedule="constant") == [2.0] * 10
    np.testing.assert_allclose(rates(schedule="linear"), 2.0 - 0.2 * np.arange(10))
    cosine = 1.0 + np.cos(np.pi * np.arange(10) / 10)
    np.testing.assert_allclose(rates(schedule="cosine"), cosine)
    warm = rates(schedule="linear", warmup=0.2)
    np.testing.assert_allclose(warm, [1.0, 2.0, *(2.0 - 0.25 * np.arange(8))])


def test_weights_decay_and_nothing_else():
    settings = {
        "pretrained": False, "weights": None, "layer": None, "pooling": "default",
        "model_kwargs": {}, "preprocess": None, "modality": "tensor",
    }  # fmt: skip
    backbones = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    networks = [Network(b, settings).add_head(4, [], 1, 0.0, 0) for b in backbones]
    backbones[1][0].requires_grad_(False)
    heads = [Head("student", weight_decay=0.5, epochs=2), Head()]
    config = _config(optimizer="sgd", momentum=0.9, weight_decay=0.1)
    groups = make_optimizer(networks, heads, config).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    owner = {id(p): g["network"] for g in groups for p in g["params"]}
    for number, rate in enumerate((0.5, 0.1)):
        for parameter in networks[number].parameters():
            if not parameter.requires_grad:
                assert id(parameter) not in decay
                continue
            assert owner[id(parameter)] == number
            assert decay[id(parameter)] == (rate if parameter.ndim == 2 else 0.0)
    assert [heads[0].trains_in(epoch) for epoch in (1, 2, 3)] == [True, True, False]
    later = Head(first_epoch=3)
    assert [later.trains_in(epoch) for epoch in (1, 2, 3)] == [False, False, True]
    assert len(decay) == sum(p.requires_grad for n in networks for p in n.parameters())
    assert isinstance(make_optimizer(networks, heads, config), torch.optim.SGD)
