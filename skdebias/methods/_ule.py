"""ULE: unlearning from experience, a teacher that looks where no student looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from skdebias._attributes import Groups
from skdebias._warnings import AntiClassifierWarning, warn_caller
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._method import (
    ForwardPass,
    Method,
    PenaltyTerm,
    Step,
    TrainingContext,
    TrainingResult,
)
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._saliency import (
    Coefficients,
    Opposition,
    coefficients,
    gram_opposition,
)

# Of heads that start at zero, which have no saliency yet. Theirs will be of order one
# under L2, the default.
_UNKNOWN_FIRST_PENALTY = 1.0
# A teacher whose weights point this far against the student's is its negative.
_ANTI_COSINE = -0.5


@dataclass(frozen=True)
class ULE(Method):
    """Unlearning from experience.

    A student and a teacher are trained side by side on the same rows. The student
    minimises its loss alone. The teacher minimises
    `lam * CE + (1 - lam) * scale * R(g_s, g_t)`, where `R` is small when its input
    saliency `g_t` opposes that of the student; `g_s` is a constant to it.

    Parameters
    ----------
    lam : float, default=0.5
        1 is ERM.
    saliency : {"loss", "logit", "log_probability"}, default="loss"
        What is differentiated in the input: the cross-entropy, the largest logit, or
        its log-probability.
    normalize : {"l2", "max"}, default="l2"
        Divide saliencies by their length or by their largest absolute coordinate.
    normalize_over : {"batch", "sample"}, default="batch"
        One divisor for a batch, or one for each row.
    target : {"opposite", "orthogonal"}, default="opposite"
        Distance from the negative of the student's saliency, or size of the inner
        product with it.
    divergence : {"mse", "l1"}, default="mse"
        Squared or absolute differences.
    student_loss : {"gce", "ce"}, default="gce"
        Generalised cross-entropy prefers what is easy.
    student_q : float, default=0.7
        Exponent of generalised cross-entropy.
    scale : {"initial", "none"}, default="initial"
        Bring the penalty to the magnitude of the cross-entropy by the first loss and
        what equal saliencies have at the first step.
    balance : {None, "class"}, default=None
        Sample classes uniformly for both.
    gram : bool, default=False
        Compare Gram matrices of the logits instead of saliencies; the two heads may
        then have different inputs.
    student_weight_decay : float, default=None
        Weight decay of the student; None is that of the teacher.
    student_epochs : int, default=None
        Epochs after which the student is frozen; None is never.

    References
    ----------
    Mitchell, Martinez del Rincon and McLaughlin, "UnLearning from Experience to Avoid
    Spurious Correlations", arXiv 2409.02792, 2024, equations 1 to 3.
    """

    lam: float = 0.5
    saliency: Literal["loss", "logit", "log_probability"] = "loss"
    normalize: Literal["l2", "max"] = "l2"
    normalize_over: Literal["batch", "sample"] = "batch"
    target: Literal["opposite", "orthogonal"] = "opposite"
    divergence: Literal["mse", "l1"] = "mse"
    student_loss: Literal["gce", "ce"] = "gce"
    student_q: float = 0.7
    scale: Literal["initial", "none"] = "initial"
    balance: Literal["class"] | None = None
    gram: bool = False
    student_weight_decay: float | None = None
    student_epochs: int | None = None

    stackable: ClassVar[tuple[str, ...]] = ("lam", "student_weight_decay")

    @property
    def heads(self) -> tuple[Head, ...]:
        """The student, then the teacher, which starts from the same weights.

        The penalty has no scale: from two small random heads its first steps would be
        large and into the noise. Where both agree it has no slope, and then acts on
        what they come to disagree in. With `lam=1` the teacher is the head of ERM.
        """
        student = Head(
            "student",
            start="zero",
            weight_decay=self.student_weight_decay,
            epochs=self.student_epochs,
        )
        return student, Head(start="first")

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return False

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return how teacher and student pointed in every epoch.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        fitted : TrainingResult

        Returns
        -------
        dict
            `cosine_` of shape (n_epochs,).
        """
        return {"cosine_": _of_the_teacher(fitted, "cosine")}

    def check_result(self, fitted: TrainingResult) -> None:
        """Warn if the teacher has ended as the negative of the student.

        Parameters
        ----------
        fitted : TrainingResult
        """
        sound = _of_the_teacher(fitted, "sound")
        if sound[-1]:
            return
        first = int(np.flatnonzero(~sound)[0])
        cosine = _of_the_teacher(fitted, "cosine")[first]
        accuracy = _of_the_teacher(fitted, "training_accuracy")[first]
        warn_caller(
            f"The teacher turned into the negative of the student: in epoch "
            f"{first + 1} their cosine is {cosine:.2f} and its "
            f"class-balanced training accuracy {accuracy:.2f}. "
            f"Epoch {int(fitted.best_epoch[-1])} is kept. Raise lam (now {self.lam}), "
            "or make the student more biased by student_weight_decay, "
            "student_loss='gce' or student_epochs.",
            AntiClassifierWarning,
        )

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or class-balanced training.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        return ERM(balance=self.balance).plan(groups)

    @classmethod
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "LossWeights":
        """Return the weighting of the two cross-entropies.

        Parameters
        ----------
        methods : sequence of ULE
        context : TrainingContext

        Returns
        -------
        LossWeights
        """
        return LossWeights(methods, context)

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "SaliencyPenalty":
        """Return the penalty on the teachers.

        Parameters
        ----------
        methods : sequence of ULE
        context : TrainingContext

        Returns
        -------
        SaliencyPenalty
        """
        return SaliencyPenalty(methods, context)

    @property
    def form(self) -> tuple[object, ...]:
        """What must agree between methods whose penalties are computed together."""
        opposition = (self.normalize, self.normalize_over, self.target, self.divergence)
        return (self.gram, self.saliency, self.scale, *opposition)

    @property
    def opposition(self) -> Opposition:
        """The penalty's measure."""
        return Opposition(
            self.normalize, self.normalize_over, self.target, self.divergence
        )


def _of_the_teacher(fitted: TrainingResult, name: str) -> NDArray[Any]:
    return np.array([epoch[-1] for epoch in fitted.history[name]])


class LossWeights:
    """Generalised cross-entropy for students, `lam` times cross-entropy for teachers.

    Parameters
    ----------
    methods : sequence of ULE
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[ULE], context: TrainingContext) -> None:
        q = [m.student_q if m.student_loss == "gce" else 0.0 for m in methods]
        self._q = _per_stream(q, context)[:, None]
        self._lam = _per_stream([m.lam for m in methods], context)[:, None]

    def __call__(self, step: Step) -> Tensor:
        """Return the weights of the step's losses."""
        # The gradient of (1 - p_y**q) / q is p_y**q times that of -log(p_y).
        student = torch.exp(-self._q * step.losses[..., ::2])
        by_head = torch.stack([student, self._lam.expand_as(student)], dim=-1)
        return step.weights * by_head.flatten(-2)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._q, self._lam = self._q[..., methods], self._lam[..., methods]


class SaliencyPenalty:
    """The second term of the teachers' objectives, and the guard of the training.

    Parameters
    ----------
    methods : sequence of ULE
        Streams in order, the same in every stream.
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[ULE], context: TrainingContext) -> None:
        self._n_streams = len(context.groups)
        first = methods[: len(methods) // self._n_streams]
        forms = dict.fromkeys(m.form for m in first)
        self._members = [
            torch.tensor([i for i, m in enumerate(first) if m.form == form])
            for form in forms
        ]
        self._methods = [first[int(members[0])] for members in self._members]
        self._strength = 1.0 - _per_stream([m.lam for m in methods], context)
        self._scale: dict[int, Tensor] = {}
        self._n_classes = context.groups[0].n_classes
        self._watch = _Watch(self._n_classes)
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
            heads = _Heads(forward, members.to(y.device), y)
            values, d_logits, d_coefs = heads.penalty(self._methods[i])
            if i not in self._scale:
                first = step.losses[..., 2 * members + 1].mean(1).flatten()
                self._scale[i] = self._first_scale(self._methods[i], first, heads)
            factor = strength.flatten() * self._scale[i]
            if self._methods[i].scale == "initial":
                factor = factor * heads.confidence()
            heads.add(term, factor, values, d_logits, d_coefs)
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
    def _first_scale(method: ULE, losses: Tensor, heads: "_Heads") -> Tensor:
        """Cross-entropy over penalty, both at the first step.

        Their current ratio would turn the objective into that of their logarithms. The
        penalty is that of equal saliencies: what two heads happen to have at first may
        be next to nothing, as the square of a cosine is.
        """
        if method.scale == "none":
            return torch.ones_like(losses)
        alike = heads.penalty(method, teacher=0)[0].detach()
        return losses / torch.where(alike > 0, alike, _UNKNOWN_FIRST_PENALTY)

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return cosine and accuracy of the epoch, and whether the teacher is sound."""
        accuracy, cosine = self._watch.end_epoch()
        if len(coefs) == 1 and not self._methods[0].gram:
            cosine = _weight_cosine(coefs[0])
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


class _Heads:
    """Students and teachers of some methods, out of a whole stack: `B` pairs."""

    def __init__(self, forward: ForwardPass, members: Tensor, y: Tensor) -> None:
        self._streams = len(y)
        self._members = members
        self._forward = forward
        self._y = y.repeat_interleave(len(members), dim=0)

    def _logits(self, head: int) -> Tensor:
        chosen = self._forward.logits[:, :, 2 * self._members + head]
        return chosen.transpose(1, 2).flatten(0, 1)

    def confidence(self) -> Tensor:
        """`v / (1 + v)` with the variance `v` of the teachers' logits; a constant."""
        logits = self._logits(1).detach()
        logits = (
            logits - logits.mean(-1, keepdim=True) if logits.shape[-1] > 1 else logits
        )
        variance = logits.var(1, correction=0).sum(-1)
        return variance / (1.0 + variance)

    def penalty(
        self, method: ULE, teacher: int = 1
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Values (B,), and derivatives in the teachers' logits and weights.

        None stands for no derivative in the logits, but for what `values` recorded.
        With `teacher=0` students are compared with themselves.
        """
        pair = (0, teacher)
        if method.gram:
            values, grad = gram_opposition(
                centred_logits(self._logits(0)),
                centred_logits(self._logits(teacher)),
                method.normalize,
                method.target,
            )
            return values, _uncentre(grad, self._logits(teacher).shape[-1]), []
        per_row = method.normalize_over == "sample"
        by_head = [
            coefficients(method.saliency, self._logits(h), self._y, per_row=per_row)
            for h in pair
        ]
        values_s, values_t, weights = self._rows(method.opposition, *by_head)
        own, opposed = (
            self._forward.saliencies(2 * self._members + head, values)
            for head, values in zip(pair, (values_s, values_t))
        )
        values, d_values, d_coefs = opposed.oppose(own, method.opposition, weights)
        # Pairs of classes, not rows: they change with no logit.
        if d_values is None or d_values.shape[1] != self._y.shape[1]:
            return values, None, d_coefs
        return values, by_head[1].backward(d_values), d_coefs

    def _rows(
        self, opposition: Opposition, student: Coefficients, teacher: Coefficients
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients and shares of the rows, or of the few rows that differ.

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


class _Watch:
    """Class-balanced accuracy of all heads, and how teachers agree with students."""

    def __init__(self, n_classes: int) -> None:
        self._n_classes = n_classes
        self._sums: list[Tensor] = []

    def step(self, logits: Tensor, y: Tensor) -> None:
        """Count a step's hits and logit products."""
        single = logits.shape[-1] == 1
        predicted = (logits[..., 0] > 0).long() if single else logits.argmax(-1)
        classes = one_hot(y, self._n_classes).to(logits.dtype)
        hits = (predicted == y[..., None]).to(logits.dtype)
        centred = centred_logits(logits)
        centred = centred - centred.mean(1, keepdim=True)
        student, teacher = centred[:, :, ::2], centred[:, :, 1::2]
        sums = [
            torch.einsum("srk,srm->smk", classes, hits),
            classes.sum(1)[:, None],
            (student * teacher).sum((1, 3)),
            (student * student).sum((1, 3)),
            (teacher * teacher).sum((1, 3)),
        ]
        self._sums = [a + b for a, b in zip(self._sums, sums)] or sums

    def end_epoch(self) -> tuple[Tensor, Tensor]:
        """Return accuracies (S * M,) and logit correlations (S * M / 2,); restart."""
        hits, rows, st, ss, tt = self._sums
        self._sums = []
        seen = rows > 0
        recall = torch.where(seen, hits / rows.clamp_min(1.0), 0.0)
        accuracy = recall.sum(-1) / seen.sum(-1)
        cosine = st / (ss * tt).sqrt().clamp_min(torch.finfo(st.dtype).tiny)
        return accuracy.flatten(), cosine.flatten()


def centred_logits(logits: Tensor) -> Tensor:
    """Return logits that sum to zero over classes; one logit becomes two.

    Parameters
    ----------
    logits : Tensor of shape (..., n_logits)

    Returns
    -------
    Tensor of shape (..., n_classes)
    """
    if logits.shape[-1] == 1:
        return torch.cat([-0.5 * logits, 0.5 * logits], dim=-1)
    return logits - logits.mean(-1, keepdim=True)


def _uncentre(grad: Tensor, n_logits: int) -> Tensor:
    """Derivative in the logits, given that in the centred logits."""
    if n_logits == 1:
        return 0.5 * (grad[..., 1:] - grad[..., :1])
    return grad - grad.mean(-1, keepdim=True)


def _weight_cosine(coef: Tensor) -> Tensor:
    """Cosines of the centred weights of students and teachers, (n_pairs,)."""
    if coef.shape[1] > 1:
        coef = coef - coef.mean(1, keepdim=True)
    flat = coef.flatten(1)
    return cosine_similarity(flat[::2], flat[1::2], eps=1e-30)


def _per_stream(values: Sequence[float], context: TrainingContext) -> Tensor:
    """Values of the methods as (n_streams, n_methods) on the losses' device."""
    table = torch.tensor(values, dtype=torch.float32, device=context.device)
    return table.view(len(context.groups), -1)
