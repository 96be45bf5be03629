"""How networks are optimised: settings, rates, parameters that decay."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from skdebias.finetune._network import Network
from skdebias.methods import Head


@dataclass(frozen=True)
class TrainConfig:
    """How networks are optimised.

    Parameters
    ----------
    optimizer : {"sgd", "adamw"}
    learning_rate, momentum : float
    weight_decay : float
        Of each network whose head says nothing else.
    schedule : {"constant", "linear", "cosine"}
        What the learning rate does after the warm-up.
    warmup : float
        Share of the steps in which it rises to its value.
    clip_norm : float or None
        Largest norm of the gradient of a network.
    batch_size, accumulate : int
        Rows of a step over all processes, and the passes that it is made in.
    max_iter : int
        Epochs.
    frozen_statistics : bool
        Of batch normalisation.
    augment : callable or None
    num_workers : int
    checkpoint_every : int or None
        Steps; None is at the end of each epoch only.
    """

    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup: float
    clip_norm: float | None
    batch_size: int
    accumulate: int
    max_iter: int
    frozen_statistics: bool
    augment: Callable[[Any], Any] | None
    num_workers: int
    checkpoint_every: int | None

    def n_steps(self, n_samples: int) -> int:
        """Return the number of steps of a run."""
        return -(-n_samples // self.batch_size) * self.max_iter

    def described(self) -> dict[str, Any]:
        """Return what changes a number, but for `max_iter` and `augment`."""
        left_out = ("max_iter", "augment", "num_workers", "checkpoint_every")
        fields = vars(self).items()
        return {name: value for name, value in fields if name not in left_out}

    @property
    def extensible(self) -> bool:
        """Whether the steps of a run are the first ones of one with more epochs."""
        return self.schedule == "constant" and self.warmup == 0

    def rate(self, step: int, n_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        n_warm = round(self.warmup * n_steps)
        if step < n_warm:
            return self.learning_rate * (step + 1) / n_warm
        done = (step - n_warm) / max(1, n_steps - n_warm)
        if self.schedule == "linear":
            return self.learning_rate * (1.0 - done)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        return self.learning_rate


def make_optimizer(
    networks: Sequence[Network],
    heads: Sequence[Head],
    config: TrainConfig,
    auxiliaries: Sequence[tuple[nn.Module, float]] = (),
) -> torch.optim.Optimizer:
    """Return the optimizer; biases and the scales of normalisations do not decay.

    Parameters
    ----------
    networks : sequence of Network
    heads : sequence of Head
        What the method says of each of them.
    config : TrainConfig
    auxiliaries : sequence of (torch.nn.Module, float), default=()
        Auxiliary heads, which belong to the last network, and their rates.

    Returns
    -------
    torch.optim.Optimizer
        Each of its groups of parameters says of which `network` it is, and by which
        `factor` its rate differs from that of the networks.
    """
    groups: list[dict[str, Any]] = []
    last = len(networks) - 1
    parts: list[tuple[int, nn.Module, float]] = [
        (number, network, 1.0) for number, network in enumerate(networks)
    ]
    parts += [(last, module, factor) for module, factor in auxiliaries]
    for number, module, factor in parts:
        decay = heads[number].weight_decay
        decay = config.weight_decay if decay is None else decay
        trained = [p for p in module.parameters() if p.requires_grad]
        for parameters, rate in (
            ([p for p in trained if p.ndim > 1], decay),
            ([p for p in trained if p.ndim <= 1], 0.0),
        ):
            if parameters:
                group = {"params": parameters, "weight_decay": rate}
                groups.append({**group, "network": number, "factor": factor})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum)
    betas = (config.momentum, 0.999)
    return torch.optim.AdamW(groups, config.learning_rate, betas)
