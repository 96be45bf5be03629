"""Input saliencies of stacked heads, in factored form.

The gradient of a head's output in its input row is `g = a @ W` for a linear head with
weights `W` (n_out, D), and `a` says which output is differentiated. Behind ReLU layers
it is `((a @ W_L) * [h > 0]) @ ... @ W_1`. Either way a batch of saliencies is
`left @ right` with `left` (R, H) and `right` (H, D). Norms and inner products follow
from `H x H` matrices, so that the `R x D` saliencies are formed only for what needs
single coordinates: the largest of them, or absolute differences.

The ReLU masks are locally constant, so the chain rule over the factors is the double
backward pass, written out: no graph is recorded.

All tensors have the heads of a stack as their first axis, `B` of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor


class Measure(Protocol):
    """How a method compares the saliencies of two heads, as it is best computed."""

    def __call__(
        self, student: "Factors", teacher: "Factors", weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compare saliencies in factored form.

        Parameters
        ----------
        student, teacher : Factors
        weights : Tensor of shape (B, R)
            Shares of the rows, summing to one.

        Returns
        -------
        values : Tensor of shape (B,)
        left, right : Tensor
            Derivatives, of the shapes of the teacher's factors.
        """
        ...

    def of_coordinates(
        self, g_s: Tensor, g_t: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare saliencies that are formed.

        Parameters
        ----------
        g_s, g_t : Tensor of shape (B, R, D)
            Saliencies of the student and of the teacher.
        weights : Tensor of shape (B, R)
            Shares of the rows, summing to one.

        Returns
        -------
        values : Tensor of shape (B,)
            Differentiable in `g_t` too, should it be recorded.
        grad : Tensor of shape (B, R, D)
            Derivative in the teacher's saliencies.
        """
        ...


class Saliencies(Protocol):
    """Gradients of outputs in the inputs, in whatever form a model has them."""

    def oppose(
        self, student: Self, measure: "Measure", weights: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Measure how far these saliencies, a teacher's, are from opposing others.

        Parameters
        ----------
        student : Saliencies
            Of the same form; constants.
        measure : Measure
        weights : Tensor of shape (B, R)
            Shares of the rows, summing to one.

        Returns
        -------
        values : Tensor of shape (B,)
        coefficients : Tensor of shape (B, R, n_logits) or None
            Derivative in what was differentiated. None if `values` are recorded.
        coefs : list of Tensor
            Derivatives in the weights at fixed coefficients; empty likewise.
        """
        ...


@dataclass(frozen=True)
class Factors:
    """Saliencies of heads as two factors, `left @ right`.

    Parameters
    ----------
    left : Tensor of shape (B, R, H)
    right : Tensor of shape (B, H, n_features)
    chain : list of Tensor
        Derivatives in the outputs of layers 1, 2, ..., for :meth:`backward`.
    masks : sequence of Tensor of shape (B, R, width)
        Which units of each hidden layer are active.
    coefs : sequence of Tensor of shape (B, n_out, n_in)
        Weights of the layers, the last one centred over its rows.
    """

    left: Tensor
    right: Tensor
    chain: list[Tensor]
    masks: Sequence[Tensor]
    coefs: Sequence[Tensor]

    def oppose(
        self, student: Self, measure: "Measure", weights: Tensor
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return the measure and its derivatives, as :class:`Saliencies` says."""
        values, left, right = measure(student, self, weights)
        return values, *self.backward(left, right)

    def backward(self, left: Tensor, right: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Carry derivatives in the factors on to coefficients and weights.

        Parameters
        ----------
        left, right : Tensor
            Derivatives in the two factors.

        Returns
        -------
        coefficients : Tensor of shape (B, R, n_logits)
        coefs : list of Tensor
            In the shapes of the weights.
        """
        grads = [right]
        for coef, mask, above in zip(self.coefs[1:], self.masks, self.chain):
            left = left * mask
            grads.append(above.transpose(1, 2) @ left)
            left = left @ coef.transpose(1, 2)
        return left, grads


def factors(
    values: Tensor, coefs: Sequence[Tensor], masks: Sequence[Tensor]
) -> Factors:
    """Return the saliencies of heads in factored form.

    Parameters
    ----------
    values : Tensor of shape (B, R, n_logits)
        Coefficients; they sum to zero over several logits.
    coefs : sequence of Tensor of shape (B, n_out, n_in)
        Weights of the layers, input to output.
    masks : sequence of Tensor of shape (B, R, width)
        Which units of each hidden layer are active.

    Returns
    -------
    Factors
    """
    coefs = list(coefs)
    if coefs[-1].shape[1] > 1:
        coefs[-1] = coefs[-1] - coefs[-1].mean(1, keepdim=True)
    chain: list[Tensor] = []
    left = values
    for coef, mask in zip(coefs[:0:-1], masks[::-1]):
        chain.insert(0, left)
        left = (left @ coef) * mask
    return Factors(left, coefs[0], chain, masks, coefs)
