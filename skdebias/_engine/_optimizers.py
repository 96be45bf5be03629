"""SGD and AdamW over stacks of heads, with hyper-parameters per head."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._heads import HeadStack

PerHead = NDArray[np.float64]


class Optimizer(Protocol):
    """One update of all heads."""

    def step(
        self, coef_grads: Sequence[Tensor], intercept_grads: Sequence[Tensor]
    ) -> None:
        """Update the stack in place."""
        ...

    def freeze(self, heads: NDArray[np.bool_]) -> None:
        """Leave these heads as they are from now on."""
        ...

    def select(self, stack: HeadStack, heads: Tensor) -> None:
        """Go on with the given heads, which are all that is left of the stack."""
        ...


def make_optimizer(
    name: Literal["sgd", "adamw"],
    stack: HeadStack,
    learning_rate: PerHead,
    weight_decay: PerHead,
    momentum: PerHead,
    anchor: HeadStack | None = None,
) -> Optimizer:
    """Return the optimizer of a stack.

    Parameters
    ----------
    name : {"sgd", "adamw"}
    stack : HeadStack
        Updated in place.
    learning_rate, weight_decay, momentum : ndarray of shape (n_total_heads,)
        Per head. Momentum is AdamW's first-moment decay.
    anchor : HeadStack, default=None
        Heads that weight decay pulls to, biases included. None is zero, biases left
        alone.

    Returns
    -------
    Optimizer
    """
    if name == "sgd":
        return SGD(stack, learning_rate, weight_decay, momentum, anchor)
    return AdamW(stack, learning_rate, weight_decay, momentum, anchor)


class SGD:
    """Stochastic gradient descent with heavy-ball momentum and L2 weight decay.

    `v <- momentum v + (grad + weight_decay w)`, `w <- w - learning_rate v`, as in
    `torch.optim.SGD`. Weight decay acts once, on the weights and not on the biases;
    with an anchor `w0` it is `weight_decay (w - w0)`, on the biases too.

    Parameters
    ----------
    stack : HeadStack
    learning_rate, weight_decay, momentum : ndarray of shape (n_total_heads,)
    anchor : HeadStack, default=None
    """

    def __init__(
        self,
        stack: HeadStack,
        learning_rate: PerHead,
        weight_decay: PerHead,
        momentum: PerHead,
        anchor: HeadStack | None = None,
    ) -> None:
        self._parameters = [*stack.coefs, *stack.intercepts]
        self._anchors = _anchors(stack, anchor)
        self._rate = _per_head(learning_rate, self._parameters)
        self._decay = _per_head(weight_decay, self._parameters)
        self._momentum = _per_head(momentum, self._parameters)
        self._velocity = [torch.zeros_like(p) for p in self._parameters]

    def step(
        self, coef_grads: Sequence[Tensor], intercept_grads: Sequence[Tensor]
    ) -> None:
        """Update the stack in place."""
        grads = [*coef_grads, *intercept_grads]
        for i, (parameter, grad) in enumerate(zip(self._parameters, grads)):
            velocity = self._velocity[i]
            torch.addcmul(grad, velocity, self._momentum[i], out=velocity)
            if i < len(self._anchors):
                pulled = _displacement(parameter, self._anchors[i])
                velocity.addcmul_(pulled, self._decay[i])
            parameter.addcmul_(velocity, self._rate[i], value=-1.0)

    def freeze(self, heads: NDArray[np.bool_]) -> None:
        """Leave these heads as they are from now on."""
        for rate in self._rate:
            rate[torch.from_numpy(heads).to(rate.device)] = 0.0

    def select(self, stack: HeadStack, heads: Tensor) -> None:
        """Go on with the given heads, which are all that is left of the stack."""
        self._parameters = [*stack.coefs, *stack.intercepts]
        _keep(heads, self._anchors, self._rate, self._decay)
        _keep(heads, self._momentum, self._velocity)


class AdamW:
    """Adam with decoupled weight decay, as in `torch.optim.AdamW`.

    Parameters
    ----------
    stack : HeadStack
    learning_rate, weight_decay, momentum : ndarray of shape (n_total_heads,)
        `momentum` is the decay of the first moment; the second moment's is 0.999.
    anchor : HeadStack, default=None
        Decay pulls to it, biases included, instead of pulling the weights to zero.
    """

    _beta2 = 0.999
    _epsilon = 1e-8

    def __init__(
        self,
        stack: HeadStack,
        learning_rate: PerHead,
        weight_decay: PerHead,
        momentum: PerHead,
        anchor: HeadStack | None = None,
    ) -> None:
        self._parameters = [*stack.coefs, *stack.intercepts]
        self._anchors = _anchors(stack, anchor)
        self._rate = _per_head(learning_rate, self._parameters)
        self._decay = _per_head(learning_rate * weight_decay, self._parameters)
        self._beta1 = _per_head(momentum, self._parameters)
        self._first = [torch.zeros_like(p) for p in self._parameters]
        self._second = [torch.zeros_like(p) for p in self._parameters]
        self._n_steps = 0

    def step(
        self, coef_grads: Sequence[Tensor], intercept_grads: Sequence[Tensor]
    ) -> None:
        """Update the stack in place."""
        self._n_steps += 1
        correction = (1.0 - self._beta2**self._n_steps) ** 0.5
        grads = [*coef_grads, *intercept_grads]
        for i, (parameter, grad) in enumerate(zip(self._parameters, grads)):
            if i < len(self._anchors):
                pulled = _displacement(parameter, self._anchors[i])
                parameter.addcmul_(pulled, self._decay[i], value=-1.0)
            beta1 = self._beta1[i]
            first = self._first[i].mul_(beta1).add_(grad * (1.0 - beta1))
            second = self._second[i].mul_(self._beta2)
            second.addcmul_(grad, grad, value=1.0 - self._beta2)
            scale = self._rate[i] / (1.0 - beta1**self._n_steps)
            denominator = second.sqrt().div_(correction).add_(self._epsilon)
            parameter.sub_(first / denominator * scale)

    def freeze(self, heads: NDArray[np.bool_]) -> None:
        """Leave these heads as they are from now on."""
        for values in (*self._rate, *self._decay):
            values[torch.from_numpy(heads).to(values.device)] = 0.0

    def select(self, stack: HeadStack, heads: Tensor) -> None:
        """Go on with the given heads, which are all that is left of the stack."""
        self._parameters = [*stack.coefs, *stack.intercepts]
        _keep(heads, self._anchors, self._rate, self._decay)
        _keep(heads, self._beta1, self._first, self._second)


def _keep(heads: Tensor, *states: list[Any]) -> None:
    """Drop the other heads from lists of tensors, or of None, in place."""
    for state in states:
        state[:] = [None if values is None else values[heads] for values in state]


def _anchors(stack: HeadStack, anchor: HeadStack | None) -> list[Tensor | None]:
    """Where decay pulls the first of the parameters (None: to zero), and only those."""
    if anchor is None:
        return [None] * len(stack.coefs)
    return [*anchor.coefs, *anchor.intercepts]


def _displacement(parameter: Tensor, anchor: Tensor | None) -> Tensor:
    return parameter if anchor is None else parameter - anchor


def _per_head(values: PerHead, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cast a value per head to each parameter's device and rank."""
    return [
        torch.as_tensor(values, dtype=p.dtype, device=p.device).view(
            -1, *[1] * (p.ndim - 1)
        )
        for p in parameters
    ]
