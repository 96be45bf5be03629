"""Which combination of its logits is differentiated for the saliency of a row."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Saliency = Literal["loss", "logit", "log_probability"]


@dataclass(frozen=True)
class Coefficients:
    """Combination of logits that is differentiated: `values = sign * (slope - onehot)`.

    The coefficients of a row sum to zero, which makes the saliency the one of centred
    weight rows: adding a vector to all rows changes neither the classifier nor it.

    Parameters
    ----------
    values : Tensor of shape (B, R, n_logits)
    derivative : Tensor of shape (B, R, n_logits) or None
        Softmax whose Jacobian leads from `values` to the logits, or the derivative
        itself if there is one logit. None where values depend on the logits through
        the predicted class only.
    sign : float
    discrete : tuple of Tensor or None
        With `derivative=None`, the class of every row, (B, R), and the values of each
        class, (n_classes, n_logits).
    """

    values: Tensor
    derivative: Tensor | None = None
    sign: float = 1.0
    discrete: tuple[Tensor, Tensor] | None = None

    def backward(self, grad: Tensor) -> Tensor:
        """Carry a derivative in the coefficients on to the logits.

        Parameters
        ----------
        grad : Tensor of shape (B, R, n_logits)

        Returns
        -------
        Tensor of shape (B, R, n_logits)
        """
        if self.derivative is None:
            return torch.zeros_like(grad)
        if grad.shape[-1] == 1:
            return self.sign * self.derivative * grad
        mean = (self.derivative * grad).sum(-1, keepdim=True)
        return self.sign * self.derivative * (grad - mean)


def coefficients(
    kind: Saliency, logits: Tensor, y: Tensor, *, per_row: bool
) -> Coefficients:
    """Return the coefficients of a saliency.

    Parameters
    ----------
    kind : {"loss", "logit", "log_probability"}
        Differentiate the cross-entropy, the largest logit, or its log-probability.
    logits : Tensor of shape (B, R, n_logits)
        A single logit `z` stands for the two centred ones `-z/2, z/2`.
    y : Tensor of shape (B, R)
        Class codes.
    per_row : bool
        The saliency of every row will be normalised, so its length is free. It is then
        chosen such that a saturated softmax does not underflow to 0 / 0.

    Returns
    -------
    Coefficients
    """
    n_logits = logits.shape[-1]
    if n_logits == 1:
        return _single(kind, logits, y, per_row)
    predicted = logits.argmax(-1)
    target = y if kind == "loss" else predicted
    hot = one_hot(target, n_logits).to(logits.dtype)
    if kind == "logit":
        table = (
            torch.eye(n_logits, dtype=logits.dtype, device=logits.device)
            - 1.0 / n_logits
        )
        return Coefficients(hot - 1.0 / n_logits, discrete=(predicted, table))
    if per_row:
        # softmax - onehot = (1 - p) * (softmax over the other classes - onehot).
        logits = logits.masked_fill(hot.bool(), -torch.inf)
    p = logits.softmax(-1)
    sign = 1.0 if kind == "loss" else -1.0
    return Coefficients(sign * (p - hot), p, sign)


def _single(kind: Saliency, z: Tensor, y: Tensor, per_row: bool) -> Coefficients:
    """Return those of heads with one logit, whose saliency is a multiple of `w`."""
    predicted = (z[..., 0] > 0).long()
    target = y if kind == "loss" else predicted
    sign = 1.0 if kind == "loss" else -1.0
    if kind == "logit" or per_row:
        table = torch.arange(2, dtype=z.dtype, device=z.device)[:, None] - 0.5
        table *= -sign
        return Coefficients(table[target], discrete=(target, table))
    p = torch.sigmoid(z)
    values = sign * (p - target[..., None].to(p.dtype))
    return Coefficients(values, p * (1.0 - p), sign)
