"""Logits that sum to zero over the classes."""

import torch
from torch import Tensor


def centred_logits(logits: Tensor) -> Tensor:
    """Return logits that sum to zero over classes; one logit becomes two.

    Parameters
    ----------
    logits : Tensor of shape (..., n_logits)

    Returns
    -------
    Tensor of shape (..., n_classes)
    """
    if logits.shape[-1] == 1:
        return torch.cat([-0.5 * logits, 0.5 * logits], dim=-1)
    return logits - logits.mean(-1, keepdim=True)


def uncentre(grad: Tensor, n_logits: int) -> Tensor:
    """Return the derivative in the logits, out of that in the centred logits.

    Parameters
    ----------
    grad : Tensor of shape (..., n_classes)
    n_logits : int

    Returns
    -------
    Tensor of shape (..., n_logits)
    """
    if n_logits == 1:
        return 0.5 * (grad[..., 1:] - grad[..., :1])
    return grad - grad.mean(-1, keepdim=True)
