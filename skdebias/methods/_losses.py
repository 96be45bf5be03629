"""Cross-entropy that objectives of methods can differentiate, and losses made of it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softplus

from skdebias.methods._step import Step, TrainingContext, WeightedLosses


def row_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of every row under every head, within autograd's graph.

    Parameters
    ----------
    logits : Tensor of shape (S, R, M, n_logits)
        One logit for two classes.
    y : Tensor of shape (S, R)
        Class codes.

    Returns
    -------
    Tensor of shape (S, R, M)

    Examples
    --------
    >>> import torch
    >>> from skdebias.methods import row_losses
    >>> row_losses(torch.zeros(1, 2, 1, 1), torch.tensor([[0, 1]])).flatten()
    tensor([0.6931, 0.6931])
    """
    if logits.shape[-1] == 1:
        z = logits[..., 0]
        return softplus(z) - y[..., None] * z
    codes = y[..., None, None].expand(*logits.shape[:-1], 1)
    return -log_softmax(logits, -1).gather(-1, codes)[..., 0]


class TransformedLosses:
    """Weighting rule that minimises a function of every row's cross-entropy instead.

    A loss of the probability `p` of a row's class alone is a function `f` of its
    cross-entropy `-log p`, and its gradient that of the cross-entropy times `f'`.

    Parameters
    ----------
    loss : {"gce", "focal"}
    exponents : sequence of float
        One per method, streams in order. 0 is the cross-entropy.
    context : TrainingContext
    """

    def __init__(
        self, loss: str, exponents: Sequence[float], context: TrainingContext
    ) -> None:
        self._transform = {"gce": _generalised, "focal": _focal}[loss]
        exponent = torch.tensor([*exponents], dtype=torch.float32)
        by_stream = exponent.view(len(context.groups), 1, -1)
        self._exponent = by_stream.to(context.device)

    def __call__(self, step: Step) -> WeightedLosses:
        """Weigh the losses by the slope of the function.

        Parameters
        ----------
        step : Step

        Returns
        -------
        WeightedLosses
        """
        values, slopes = self._transform(step.losses, self._exponent)
        weights = step.weights
        return WeightedLosses(weights * slopes, (weights * values).sum(1))

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._exponent = self._exponent[..., methods]


def _generalised(losses: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(1 - p^q) / q` and its slope in the cross-entropy, `p^q`."""
    values = -torch.expm1(-q * losses) / torch.where(q > 0, q, 1.0)
    return torch.where(q > 0, values, losses), torch.exp(-q * losses)


def _focal(losses: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return `-(1 - p)^q log p` and its slope in the cross-entropy."""
    missing = -torch.expm1(-losses.clamp_min(0.0))  # 1 - p
    # -log p / (1 - p), which goes to 1 for rows that are sure.
    ratio = torch.where(missing > 0, losses / missing, 1.0)
    factor = missing**q
    return factor * losses, factor * (1.0 + q * (1.0 - missing) * ratio)


def class_logits(logits: Tensor) -> Tensor:
    """Return one logit for each class, within autograd's graph.

    Parameters
    ----------
    logits : Tensor of shape (..., n_logits)
        One logit for two classes, that of the second against the first.

    Returns
    -------
    Tensor of shape (..., n_classes)

    Examples
    --------
    >>> import torch
    >>> from skdebias.methods import class_logits
    >>> class_logits(torch.tensor([[3.0]]))
    tensor([[0., 3.]])
    """
    if logits.shape[-1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], -1)
