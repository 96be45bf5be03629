"""Penalties that are functions of the last hidden layer, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from skdebias.methods._environments import per_method
from skdebias.methods._method import Method
from skdebias.methods._step import ForwardPass, PenaltyTerm, Step, TrainingContext


class HiddenPenalty(ABC):
    """Penalty on the last hidden layer, differentiated in it by autograd.

    A subclass says what the penalty is. Of a network without hidden layers in its head,
    the last hidden layer is the embedding.

    Parameters
    ----------
    methods : sequence of Method
    context : TrainingContext
    strength : str
        Name of the field that multiplies the penalty.
    """

    def __init__(
        self, methods: Sequence[Method], context: TrainingContext, strength: str
    ) -> None:
        self._strength = per_method(methods, context, strength)

    @abstractmethod
    def values(self, step: Step, rows: Tensor) -> Tensor:
        """Return the penalty of every head, before it is multiplied.

        Parameters
        ----------
        step : Step
        rows : Tensor of shape (S, M, R, width)
            The hidden activations, within autograd's graph.

        Returns
        -------
        Tensor of shape (S, M)
        """

    def __call__(self, step: Step, forward: ForwardPass) -> PenaltyTerm:
        """Return the penalty of a step, and its derivative in the hidden layer.

        Parameters
        ----------
        step : Step
        forward : ForwardPass

        Returns
        -------
        PenaltyTerm
        """
        *before, last = (layer.detach() for layer in forward.hidden)
        with torch.enable_grad():
            leaf = last.requires_grad_()
            rows = leaf.float().unflatten(0, (len(step.y), -1))
            values = self._strength * self.values(step, rows)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        hidden = [*(torch.zeros_like(layer) for layer in before), gradient]
        logits = torch.zeros_like(forward.logits)
        return PenaltyTerm(values.detach(), logits, hidden=hidden)

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return nothing for the history."""
        return {}

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._strength = self._strength[:, methods]
