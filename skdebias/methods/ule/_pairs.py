"""Students and teachers that are compared at the same time, out of a stack."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import one_hot

from skdebias.methods._step import ForwardPass, PenaltyTerm
from skdebias.methods.ule._coefficients import Coefficients, coefficients
from skdebias.methods.ule._logits import centred_logits, uncentre
from skdebias.methods.ule._opposition import Opposition, gram_opposition

if TYPE_CHECKING:
    from skdebias.methods._ule import ULE


class Pairs:
    """Students and teachers of some methods, out of a stack: `B` pairs.

    Parameters
    ----------
    forward : ForwardPass
        Of the stack.
    members : Tensor of shape (n,)
        Positions of the methods in a stream, the same in every stream.
    y : Tensor of shape (S, R)
        Class codes.
    """

    def __init__(self, forward: ForwardPass, members: Tensor, y: Tensor) -> None:
        self._streams = len(y)
        self._members = members
        self._forward = forward
        self._y = y.repeat_interleave(len(members), dim=0)

    def _logits(self, head: int) -> Tensor:
        chosen = self._forward.logits[:, :, 2 * self._members + head]
        return chosen.transpose(1, 2).flatten(0, 1)

    def confidence(self) -> Tensor:
        """Return `v / (1 + v)`, `v` the variance of teachers' logits, as a constant."""
        logits = self._logits(1).detach()
        logits = (
            logits - logits.mean(-1, keepdim=True) if logits.shape[-1] > 1 else logits
        )
        variance = logits.var(1, correction=0).sum(-1)
        return variance / (1.0 + variance)

    def penalty(
        self, method: "ULE", teacher: int = 1
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Compute the penalty and its derivatives.

        Parameters
        ----------
        method : ULE
            Whose form all members have.
        teacher : {1, 0}, default=1
            With 0, students are compared with themselves.

        Returns
        -------
        values : Tensor of shape (B,)
        logits : Tensor of shape (B, R, n_logits) or None
            Derivative in the teachers' logits. None if there is none, but for what
            `values` recorded.
        coefs : list of Tensor
            Derivatives in the teachers' weights.
        """
        pair = (0, teacher)
        if method.gram:
            values, grad = gram_opposition(
                centred_logits(self._logits(0)),
                centred_logits(self._logits(teacher)),
                method.normalize,
                method.target,
            )
            return values, uncentre(grad, self._logits(teacher).shape[-1]), []
        per_row = method.normalize_over == "sample"
        by_head = [
            coefficients(method.saliency, self._logits(h), self._y, per_row=per_row)
            for h in pair
        ]
        values_s, values_t, weights = self._rows(method.opposition, *by_head)
        student, compared = (
            self._forward.saliencies(2 * self._members + head, values)
            for head, values in zip(pair, (values_s, values_t))
        )
        values, d_values, d_coefs = compared.oppose(student, method.opposition, weights)
        # Pairs of classes, not rows: they change with no logit.
        if d_values is None or d_values.shape[1] != self._y.shape[1]:
            return values, None, d_coefs
        return values, by_head[1].backward(d_values), d_coefs

    def _rows(
        self, opposition: Opposition, student: Coefficients, teacher: Coefficients
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return coefficients and shares of the rows, or of the few that differ.

        Where the saliency of a linear head is one of its weight rows, only the pair of
        predicted classes tells rows apart.
        """
        n_rows = self._y.shape[1]
        linear = len(self._forward.coefs) == 1
        if linear and student.discrete is not None and teacher.discrete is not None:
            (codes_s, table_s), (codes_t, table_t) = student.discrete, teacher.discrete
            n = len(table_s)
            if n * n < n_rows:
                pairs = one_hot(codes_s * n + codes_t, n * n)
                weights = pairs.to(student.values.dtype).mean(1)
                size = (len(weights), -1, -1)
                return (
                    table_s.repeat_interleave(n, 0).expand(size),
                    table_t.repeat(n, 1).expand(size),
                    weights,
                )
        weights = student.values.new_full(self._y.shape, 1.0 / n_rows)
        return student.values, teacher.values, weights

    def add(
        self,
        term: PenaltyTerm,
        factor: Tensor,
        values: Tensor,
        d_logits: Tensor | None,
        d_coefs: Sequence[Tensor],
    ) -> None:
        """Add `factor` times a penalty to the entries of the teachers."""
        teachers = 2 * self._members + 1
        shape = (self._streams, len(self._members))
        term.values[:, teachers] = (factor * values).view(shape)
        if d_logits is not None:
            scaled = factor[:, None, None] * d_logits
            term.logits[:, :, teachers] = scaled.unflatten(0, shape).transpose(1, 2)
        for out, grad in zip(term.coefs or (), d_coefs):
            by_stream = out.unflatten(0, (self._streams, -1))
            by_stream[:, teachers] = (factor[:, None, None] * grad).unflatten(0, shape)
