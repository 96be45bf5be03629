"""Random numbers that passes of networks draw, each from a seed of its own."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from skdebias.finetune._extraction import SeededGenerator

# Of torch's own modules, those whose passes may draw random numbers.
_DRAWING = ("Dropout", "RReLU", "Fractional", "Attention", "Transformer", "RNN", "LSTM",
            "GRU")  # fmt: skip


def may_draw(networks: nn.Module) -> bool:
    """Return whether passes in training may draw random numbers.

    Parameters
    ----------
    networks : torch.nn.Module

    Returns
    -------
    bool
        False if every part is a module of torch, or of this package, that draws none.
    """
    known_modules = ("torch.nn.modules.", "skdebias.finetune.")
    for module in networks.modules():
        kind = type(module)
        known = kind.__module__.startswith(known_modules)
        # torch has no other way to say which hooks a module has.
        hooked = module._forward_hooks or module._forward_pre_hooks
        patched = "forward" in vars(module)
        named = any(name in kind.__name__ for name in _DRAWING)
        drawing = named and getattr(module, "p", 1) != 0
        if not known or hooked or patched or drawing:
            return True
    return False


class PassDraws:
    """What passes draw, by the numbers of step, pass and process.

    Parameters
    ----------
    model : torch.nn.Module
    seed : int
        Of the run.
    accelerator : accelerate.Accelerator
    """

    def __init__(self, model: nn.Module, seed: int, accelerator: Any) -> None:
        self._model = model
        self._seed = seed
        self._accelerator = accelerator
        self._generator: SeededGenerator | None = None

    def context(self) -> AbstractContextManager[Any]:
        """Return the context in which what passes draw follows from their seeds."""
        accelerator = self._accelerator
        if accelerator.device.type != "cpu" or accelerator.num_processes > 1:
            cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
            return torch.random.fork_rng(devices=cuda)
        # To intercept operations takes time, so not where none of them draws.
        if may_draw(self._model):
            self._generator = SeededGenerator(0)
        return self._generator or nullcontext()

    def seed_of(self, step: int, number: int) -> int:
        """Return the seed of a pass.

        Parameters
        ----------
        step : int
        number : int
            Of the pass in the step of this process.

        Returns
        -------
        int
        """
        rank = self._accelerator.process_index
        bits = np.random.Philox(key=[self._seed, 3], counter=[0, step, number, rank])
        return int(bits.random_raw() >> np.uint64(1))

    def start_pass(self, step: int, number: int) -> None:
        """Draw what follows from the seed of a pass.

        Parameters
        ----------
        step, number : int
            As for :meth:`seed_of`.
        """
        seed = self.seed_of(step, number)
        accelerator = self._accelerator
        if self._generator is not None:
            self._generator.manual_seed(seed)
        elif accelerator.device.type != "cpu":
            torch.manual_seed(seed)
        elif accelerator.num_processes > 1:
            # A hundredth of the time of torch.manual_seed, which asks for each device.
            torch.random.default_generator.manual_seed(seed)
