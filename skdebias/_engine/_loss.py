"""Cross-entropy of stacked heads, with its residual in closed form.

Two classes are trained with a single logit: half the work, and the same coefficients as
scikit-learn's linear classifiers.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def n_logits(n_classes: int) -> int:
    """Return the number of logits of a head: one for two classes."""
    return 1 if n_classes == 2 else n_classes


def cross_entropy(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every slot under every head, and its derivative.

    Parameters
    ----------
    logits : Tensor of shape (n_streams, n_slots, n_heads, n_logits)
        Logits; one column means two classes.
    y : Tensor of shape (n_streams, n_slots)
        Class codes.

    Returns
    -------
    losses : Tensor of shape (n_streams, n_slots, n_heads)
    residual : Tensor of shape (n_streams, n_slots, n_heads, n_logits)
        Derivative of each loss with respect to its logits, `softmax - onehot`.
    """
    if logits.shape[-1] == 1:
        target = y[..., None].to(logits.dtype)
        z = logits[..., 0]
        # softplus((1 - 2 target) z), at a third of its cost on a CPU: log and sigmoid
        # have vector instructions there, log1p has none.
        losses = torch.sigmoid(z.abs()).log_().neg_()
        losses += torch.relu(z * (1.0 - 2.0 * target))
        return losses, (torch.sigmoid(z) - target)[..., None]
    target = one_hot(y, logits.shape[-1])[:, :, None, :].to(logits.dtype)
    log_p = torch.log_softmax(logits, dim=-1)
    return -(target * log_p).sum(-1), log_p.exp() - target


def predicted_class(logits: Tensor) -> Tensor:
    """Return the class code of the largest logit, or of the sign of a single one.

    Parameters
    ----------
    logits : Tensor of shape (..., n_logits)

    Returns
    -------
    Tensor of shape (...,)
    """
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).long()
    return logits.argmax(-1)
