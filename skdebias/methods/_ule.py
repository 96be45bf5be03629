"""ULE: unlearning from experience, a teacher that looks where no student looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups
from skdebias._warnings import AntiClassifierWarning, warn_caller
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._step import TrainingContext, TrainingResult
from skdebias.methods.ule._loss_weights import LossWeights
from skdebias.methods.ule._opposition import Opposition
from skdebias.methods.ule._penalty import SaliencyPenalty


@dataclass(frozen=True)
class ULE(Method):
    """Unlearning from experience.

    A student and a teacher are trained side by side on the same rows. The student
    minimises its loss alone. The teacher minimises
    `lam * CE + (1 - lam) * scale * R(g_s, g_t)`, where `R` is small when its input
    saliency `g_t` opposes that of the student; `g_s` is a constant to it.

    Parameters
    ----------
    lam : float, default=0.9
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
    balance : {None, "class"}, default="class"
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

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import ULE
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(ULE(lam=0.5, student_epochs=5), random_state=0)
    >>> clf.fit(X, y).cosine_.shape
    (50,)
    """

    lam: float = 0.9
    saliency: Literal["loss", "logit", "log_probability"] = "loss"
    normalize: Literal["l2", "max"] = "l2"
    normalize_over: Literal["batch", "sample"] = "batch"
    target: Literal["opposite", "orthogonal"] = "opposite"
    divergence: Literal["mse", "l1"] = "mse"
    student_loss: Literal["gce", "ce"] = "gce"
    student_q: float = 0.7
    scale: Literal["initial", "none"] = "initial"
    balance: Literal["class"] | None = "class"
    gram: bool = False
    student_weight_decay: float | None = None
    student_epochs: int | None = None

    stackable: ClassVar[tuple[str, ...]] = ("lam", "student_weight_decay")
    reference_head: ClassVar[str] = "student"

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
