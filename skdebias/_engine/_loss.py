"""Cross-entropy of stacked heads, with its residual in closed form.

Two classes are trained with a single logit: half the work, and the same coefficients as
scikit-learn's linear classifiers.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias._engine._workspace import Workspace
from skdebias.methods import SamplingPlan


def n_logits(n_classes: int) -> int:
    """Return the number of logits of a head: one for two classes."""
    return 1 if n_classes == 2 else n_classes


def stratum_offsets(plan: SamplingPlan, n_logits: int) -> NDArray[np.float64] | None:
    """Return the offsets of a plan as they are added to the logits of a head.

    Parameters
    ----------
    plan : SamplingPlan
    n_logits : int
        Of a head.

    Returns
    -------
    ndarray of shape (n_strata, n_logits) or None
        None if there are no offsets.
    """
    if plan.logit_offsets is None:
        return None
    offsets = np.asarray(plan.logit_offsets, dtype=np.float64)
    return offsets[:, 1:] - offsets[:, :1] if n_logits == 1 else offsets


def cross_entropy(
    logits: Tensor, y: Tensor, workspace: Workspace | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every slot under every head, and its derivative.

    Parameters
    ----------
    logits : Tensor of shape (n_streams, n_slots, n_heads, n_logits)
        Logits; one column means two classes.
    y : Tensor of shape (n_streams, n_slots)
        Class codes.
    workspace : Workspace, default=None
        Holds the results. None allocates them.

    Returns
    -------
    losses : Tensor of shape (n_streams, n_slots, n_heads)
    residual : Tensor of shape (n_streams, n_slots, n_heads, n_logits)
        Derivative of each loss with respect to its logits, `softmax - onehot`.
    """
    if logits.shape[-1] == 1:
        losses, residual = _binary(logits[..., 0], y[..., None], workspace)
        return losses, residual[..., None]
    return _multinomial(logits, one_hot(y, logits.shape[-1])[:, :, None], -1)


def cross_entropy_by_head(
    logits: Tensor, y: Tensor, workspace: Workspace | None = None
) -> tuple[Tensor, Tensor]:
    """Like :func:`cross_entropy`, for logits that lie head first.

    Parameters
    ----------
    logits : Tensor of shape (n_heads, n_logits, n_rows)
    y : Tensor of shape (n_rows,)
    workspace : Workspace, default=None

    Returns
    -------
    losses : Tensor of shape (n_heads, n_rows)
    residual : Tensor of shape (n_heads, n_logits, n_rows)
    """
    if logits.shape[1] == 1:
        losses, residual = _binary(logits[:, 0], y, workspace)
        return losses, residual[:, None]
    return _multinomial(logits, one_hot(y, logits.shape[1]).T, 1)


def _binary(z: Tensor, y: Tensor, workspace: Workspace | None) -> tuple[Tensor, Tensor]:
    """Losses and residuals of single logits `z`, of whose shape they are."""
    workspace = workspace or Workspace(z.device)
    target = y.to(z.dtype)
    losses = workspace("losses", *z.shape, dtype=z.dtype)
    residual = workspace("residual", *z.shape, dtype=z.dtype)
    # softplus(z) - target z, at a third of its cost on a CPU: log and sigmoid have
    # vector instructions there, log1p has none.
    confidence = torch.abs(z, out=residual).sigmoid_().log_()
    torch.clamp_min(z, 0.0, out=losses).addcmul_(target, z, value=-1.0)
    losses -= confidence
    torch.sigmoid(z, out=residual).sub_(target)
    return losses, residual


def _multinomial(logits: Tensor, target: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Losses and residuals of logits whose classes lie along `dim`."""
    target = target.to(logits.dtype)
    log_p = torch.log_softmax(logits, dim=dim)
    return -(target * log_p).sum(dim), log_p.exp() - target


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
