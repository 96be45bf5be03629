"""Cross-entropy that objectives of methods can differentiate."""

from torch import Tensor
from torch.nn.functional import log_softmax, softplus


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
