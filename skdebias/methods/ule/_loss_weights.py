"""How the cross-entropies of students and teachers count."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skdebias.methods._step import Step, TrainingContext

if TYPE_CHECKING:
    from skdebias.methods._ule import ULE


class LossWeights:
    """Weighting by generalised cross-entropy for students, `lam` for teachers.

    Parameters
    ----------
    methods : sequence of ULE
    context : TrainingContext
    """

    def __init__(self, methods: Sequence["ULE"], context: TrainingContext) -> None:
        q = [m.student_q if m.student_loss == "gce" else 0.0 for m in methods]
        self._q = per_stream(q, context)[:, None]
        self._lam = per_stream([m.lam for m in methods], context)[:, None]

    def __call__(self, step: Step) -> Tensor:
        """Return the weights of the step's losses."""
        # The gradient of (1 - p_y**q) / q is p_y**q times that of -log(p_y).
        student = torch.exp(-self._q * step.losses[..., ::2])
        by_head = torch.stack([student, self._lam.expand_as(student)], dim=-1)
        return step.weights * by_head.flatten(-2)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._q, self._lam = self._q[..., methods], self._lam[..., methods]


def per_stream(values: Sequence[float], context: TrainingContext) -> Tensor:
    """Lay out a value of every method by streams.

    Parameters
    ----------
    values : sequence of float
        Of all methods, streams in order.
    context : TrainingContext

    Returns
    -------
    Tensor of shape (n_streams, n_methods)
        On the device of the losses.
    """
    table = torch.tensor(values, dtype=torch.float32, device=context.device)
    return table.view(len(context.groups), -1)
