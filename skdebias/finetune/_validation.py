"""Networks in training, and the validation items that score them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from skdebias._engine._selection import ValidationScorer, count_hits_and_losses
from skdebias._engine._sgd import DivergenceError
from skdebias.finetune._accelerate import full_copy
from skdebias.finetune._extraction import Backbone, to_device
from skdebias.finetune._items import Items


class KeptNetworks:
    """Weights of all networks at the epoch that is kept so far.

    Parameters
    ----------
    state : dict of str to Tensor
        On the CPU.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state

    def state(self) -> dict[str, Tensor]:
        """Return the weights of all networks, on the CPU."""
        return self._state

    def copy_heads(self, source: "NetworkStack", heads: Tensor) -> None:
        """Take over all weights: the networks of one method keep the same epoch."""
        self._state = source.state()


class NetworkStack:
    """The networks in training, as epochs are tracked and scored.

    Parameters
    ----------
    model : torch.nn.Module
        What Accelerate made of the networks.
    n_heads : int
        How many they are.
    """

    n_streams = 1

    def __init__(self, model: torch.nn.Module, n_heads: int) -> None:
        self.model = model
        self.n_heads = n_heads

    def state(self) -> dict[str, Tensor]:
        """Return the weights of all networks, on the CPU."""
        shards = get_model_state_dict(self.model)
        return {name: full_copy(value) for name, value in shards.items()}

    def clone(self) -> KeptNetworks:
        """Return a copy of the weights."""
        return KeptNetworks(self.state())


@dataclass(frozen=True)
class NetworkValidationScorer(ValidationScorer):
    """Validation items that score all networks.

    Parameters
    ----------
    items : Items
    embedder : Backbone
    accelerator : accelerate.Accelerator
    batch_size : int
        Rows of a forward pass.
    learning_rate : float
        For messages.
    """

    items: Items
    embedder: Backbone
    accelerator: Any
    batch_size: int
    learning_rate: float

    def group_results(
        self, stack: NetworkStack
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracy and mean loss of every network in every validation group.

        Parameters
        ----------
        stack : NetworkStack

        Returns
        -------
        accuracies, losses : ndarray of shape (n_groups, n_networks)
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        device = self.accelerator.device
        # Every process makes as many passes: surplus rows count for nothing.
        share = -(-len(self.y) // world)
        rows = np.arange(rank * share, (rank + 1) * share)
        blocks = [
            rows[start : start + self.batch_size]
            for start in range(0, share, self.batch_size)
        ]
        n_groups = len(self.groups.counts)
        weights = self.weights(device)
        dtype = None if weights is None else weights.dtype
        sums = torch.zeros(2, n_groups, stack.n_heads, dtype=dtype, device=device)
        clipped = ((0, np.minimum(block, len(self.y) - 1)) for block in blocks)
        stack.model.eval()
        with torch.inference_mode():
            batches = self.items.batches(self.embedder, clipped)
            for block, batch in zip(blocks, batches):
                with self.accelerator.autocast():
                    outputs, _ = stack.model(to_device(batch, device))
                valid = block[block < len(self.y)]
                logits = torch.stack(outputs, 1)[None, : len(valid)].float()
                y = torch.from_numpy(self.y[valid]).to(device)
                ids = torch.from_numpy(self.groups.ids[valid]).to(device)
                counted = None if weights is None else weights[valid]
                sums += count_hits_and_losses(logits, y, ids, n_groups, counted)
        total = self.accelerator.reduce(sums, reduction="sum")
        if not bool(total.isfinite().all()):
            raise DivergenceError(
                "The network's outputs for X_val are not finite, though its weights "
                f"are: lower learning_rate (now {self.learning_rate:g}), choose "
                "precision='float32', or look for very large values in X_val."
            )
        means = total.double().cpu().numpy() / self.groups.counts[:, None]
        return means[0], means[1]
