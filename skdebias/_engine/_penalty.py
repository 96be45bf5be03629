"""What a penalty must return, so that no part of its derivative is lost in silence."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skdebias.methods import ForwardPass, Objective, Penalty, PenaltyTerm, Step


def check_term(term: PenaltyTerm, step: Step, forward: ForwardPass) -> None:
    """Refuse a penalty whose parts have other shapes than those they belong to.

    Parameters
    ----------
    term : PenaltyTerm
    step : Step
        That of the penalty.
    forward : ForwardPass
        Without `coefs`, as that of whole networks, no derivative in them is taken.

    Raises
    ------
    ValueError
    """
    shapes = _shapes(term.coefs or ())
    if shapes and shapes != _shapes(forward.coefs):
        raise ValueError(
            f"PenaltyTerm.coefs has derivatives of shapes {shapes}, and the weights "
            f"that they are added to have {_shapes(forward.coefs)}: return one for "
            "every layer, in their order. Biases have none: what depends on them has "
            "to be told through the logits or the hidden activations."
        )
    if term.hidden is not None and _shapes(term.hidden) != _shapes(forward.hidden):
        raise ValueError(
            f"PenaltyTerm.hidden has derivatives of shapes {_shapes(term.hidden)}, and "
            f"the hidden activations have {_shapes(forward.hidden)}: return one for "
            "every hidden layer, in their order."
        )
    for name, part, other in (
        ("values", term.values, step.losses[:, 0]),
        ("logits", term.logits, forward.logits),
    ):
        if part.shape != other.shape:
            raise ValueError(
                f"PenaltyTerm.{name} has shape {tuple(part.shape)}, and should have "
                f"{tuple(other.shape)}."
            )


def check_values(objective: Objective, values: Tensor, step: Step) -> None:
    """Refuse values of an objective that are none, or cannot be differentiated.

    Parameters
    ----------
    objective : Objective
    values : Tensor
        What it returned.
    step : Step

    Raises
    ------
    ValueError
    """
    name, expected = type(objective).__name__, tuple(step.losses[:, 0].shape)
    if tuple(values.shape) != expected:
        raise ValueError(
            f"The objective {name} returned values of shape {tuple(values.shape)}, and "
            f"should return one for every head of every stream: {expected}."
        )
    if not values.requires_grad:
        raise ValueError(
            f"The objective {name} does not depend on the logits that it is given: "
            "compute it from them by operations of torch, without detaching them. "
            "Step.losses are constants; skdebias.methods.row_losses(logits, step.y) "
            "are not."
        )


def check_derivatives(penalty: Penalty, step: Step, forward: ForwardPass) -> None:
    """Refuse a penalty that depends on what its derivatives do not tell of.

    A copy of the penalty is differentiated by autograd. What it detaches on purpose
    counts as a constant.

    Parameters
    ----------
    penalty : Penalty
        Before its first step.
    step : Step
    forward : ForwardPass

    Raises
    ------
    ValueError
    """
    with torch.enable_grad():
        outputs = _leaves([forward.logits, forward.residual, step.losses])
        hidden = _leaves(forward.activations[1:])
        coefs = _leaves(forward.coefs)
        logits, residual, losses = (leaf.clone() for leaf in outputs)
        seen = replace(
            forward,
            logits=logits,
            residual=residual,
            activations=[forward.activations[0], *(leaf.clone() for leaf in hidden)],
            coefs=[leaf.clone() for leaf in coefs],
        )
        term = _tried(penalty, replace(step, losses=losses), seen)
        if term is None or not term.values.requires_grad:
            return
        in_outputs, in_hidden, in_coefs = (
            _depends(term.values, leaves) for leaves in (outputs, hidden, coefs)
        )
    lost = []
    if in_hidden and term.hidden is None:
        lost.append("the hidden activations, while PenaltyTerm.hidden is None")
    if in_coefs and term.coefs is None:
        lost.append("the weights, while PenaltyTerm.coefs is None")
    if in_outputs and term.coefs is None and not bool(term.logits.any()):
        lost.append("the logits, while PenaltyTerm.logits is zero")
    if lost:
        raise ValueError(
            f"The penalty {type(penalty).__name__} depends on {'; on '.join(lost)}: "
            "the engine would drop this derivative. Return it in PenaltyTerm, or use "
            "FineTuneClassifier, whose networks are differentiated by autograd; a "
            "constant has to be detached."
        )


def _shapes(tensors: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def _leaves(tensors: Any) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def _tried(penalty: Penalty, step: Step, forward: ForwardPass) -> PenaltyTerm | None:
    """Call a copy of a penalty; None where it cannot be differentiated at all."""
    try:
        return deepcopy(penalty)(step, forward)
    except (RuntimeError, TypeError):
        return None  # it works on arrays or in place; its own call tells of true errors


def _depends(values: Tensor, leaves: list[Tensor]) -> bool:
    """Whether any of the values changes with a tensor."""
    if not leaves:
        return False
    grads = torch.autograd.grad(
        values.sum(), leaves, retain_graph=True, allow_unused=True
    )
    return any(grad is not None and bool(grad.any()) for grad in grads)
