"""The penalty on teachers that look where their students look."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skdebias.methods._step import (
    ForwardPass,
    PenaltyTerm,
    Step,
    TrainingContext,
)
from skdebias.methods.ule._loss_weights import per_stream
from skdebias.methods.ule._pairs import Pairs
from skdebias.methods.ule._watch import Watch, weight_cosine

if TYPE_CHECKING:
    from skdebias.methods._ule import ULE

# Of heads that start at zero, which have no saliency yet. Theirs will be of order one
# under L2, the default.
_UNKNOWN_FIRST_PENALTY = 1.0
# A teacher whose weights point this far against the student's is its negative.
_ANTI_COSINE = -0.5


class SaliencyPenalty:
    """Second term of the teachers' objectives, and guard of their training.

    Parameters
    ----------
    methods : sequence of ULE
        Streams in order, the same in every stream.
    context : TrainingContext
    """

    def __init__(self, methods: Sequence["ULE"], context: TrainingContext) -> None:
        self._n_streams = len(context.groups)
        first = methods[: len(methods) // self._n_streams]
        forms = dict.fromkeys(m.form for m in first)
        self._members = [
            torch.tensor([i for i, m in enumerate(first) if m.form == form])
            for form in forms
        ]
        self._methods = [first[int(members[0])] for members in self._members]
        self._strength = 1.0 - per_stream([m.lam for m in methods], context)
        self._scale: dict[int, Tensor] = {}
        self._n_classes = context.groups[0].n_classes
        self._watch = Watch(self._n_classes)
        # Teachers that were better than chance, and those that have not turned.
        self._learned = torch.zeros(
            len(methods), dtype=torch.bool, device=context.device
        )
        self._sound = ~self._learned

    def __call__(self, step: Step, forward: ForwardPass) -> PenaltyTerm:
        """Return the step's penalty and advance the state."""
        y = step.y.to(forward.logits.device)
        self._watch.step(forward.logits.detach(), y)
        term = PenaltyTerm(
            torch.zeros_like(step.losses[:, 0]),
            torch.zeros_like(forward.logits),
            [torch.zeros_like(coef) for coef in forward.coefs],
        )
        for i, members in enumerate(self._members):
            strength = self._strength[:, members]
            if (strength == 0).all():
                continue
            pairs = Pairs(forward, members.to(y.device), y)
            values, d_logits, d_coefs = pairs.penalty(self._methods[i])
            if i not in self._scale:
                first = step.losses[..., 2 * members + 1].mean(1).flatten()
                self._scale[i] = self._first_scale(self._methods[i], first, pairs)
            factor = strength.flatten() * self._scale[i]
            if self._methods[i].scale == "initial":
                factor = factor * pairs.confidence()
            pairs.add(term, factor, values, d_logits, d_coefs)
        return term

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        forms, scale = zip(self._members, self._methods), self._scale
        self._members, self._methods, self._scale = [], [], {}
        for i, (members, method) in enumerate(forms):
            left = torch.isin(methods, members).nonzero().flatten()
            if not len(left):
                continue
            if i in scale:
                places = torch.searchsorted(members, methods[left])
                self._scale[len(self._members)] = self._of(scale[i], places)
            self._members.append(left)
            self._methods.append(method)
        self._strength = self._strength[:, methods]
        self._learned = self._of(self._learned, methods)
        self._sound = self._of(self._sound, methods)

    def _of(self, state: Tensor, places: Tensor) -> Tensor:
        """Take some places of every stream from a flat state."""
        return state.unflatten(0, (self._n_streams, -1))[:, places].flatten()

    @staticmethod
    def _first_scale(method: "ULE", losses: Tensor, pairs: Pairs) -> Tensor:
        """Cross-entropy over penalty, both at the first step.

        Their current ratio would turn the objective into that of their logarithms. The
        penalty is that of equal saliencies: what two heads happen to have at first may
        be next to nothing, as the square of a cosine is.
        """
        if method.scale == "none":
            return torch.ones_like(losses)
        alike = pairs.penalty(method, teacher=0)[0].detach()
        return losses / torch.where(alike > 0, alike, _UNKNOWN_FIRST_PENALTY)

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return cosine and accuracy of the epoch, and whether the teacher is sound."""
        accuracy, cosine = self._watch.end_epoch()
        if len(coefs) == 1 and not self._methods[0].gram:
            cosine = weight_cosine(coefs[0])
        below_chance = accuracy[1::2] < 1.0 / self._n_classes
        below_chance = below_chance & (accuracy[::2] >= 1.0 / self._n_classes)
        anti = cosine < _ANTI_COSINE
        # In its first steps a random network may be either, and is no failure.
        self._learned = self._learned | ~below_chance
        turned = (self._learned & (below_chance | anti)) | (below_chance & anti)
        # Once over the cliff a teacher swings about: only what came before counts.
        self._sound = self._sound & ~turned
        return {
            "cosine": cosine.repeat_interleave(2),
            "training_accuracy": accuracy,
            "sound": self._sound.repeat_interleave(2),
        }
