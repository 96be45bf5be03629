"""Noisy student: a network learns what another says of items without labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._losses import class_logits
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_choices, check_counts, check_numbers
from skdebias.methods._step import Step, TrainingContext


@dataclass(frozen=True)
class NoisyStudent(Method):
    """Noisy student: a teacher labels other items, and a student learns from all.

    The teacher is trained on the items with labels for some epochs. Then it is frozen,
    and a student is trained from the start: on the items with labels, and on those
    without by what the teacher, without noise, says of them. The noise of the student
    is `augment` and the dropout of
    :class:`~skdebias.finetune.FineTuneClassifier`.

    Parameters
    ----------
    teacher_epochs : int, default=5
        Epochs of the teacher, at least 1. The others of `max_iter` are those of the
        student.
    strength : float, default=1.0
        What the items without labels count, at least 0; 1 is as much as those with
        labels. 0 trains the student on the latter alone.
    targets : {"hard", "soft"}, default="hard"
        Whether the student learns the class that the teacher predicts, or its
        probabilities.
    min_confidence : float, default=0.0
        Items of which the teacher is less sure do not count, in [0, 1). The paper
        takes 0.3 of 1000 classes.
    balance : {None, "class"}, default=None
        Sample the classes of the labelled items uniformly.

    Notes
    -----
    `fit` needs `X_unlabeled`; attributes are not used. Both networks are run in every
    step, the teacher too where it is frozen: two networks, `max_iter` epochs.

    It is for few labels and many items that look like those to come. It is no method
    against spurious correlations: what the teacher has picked up, the student learns,
    unless the items without labels break the correlation.

    References
    ----------
    Xie, Luong, Hovy and Le, "Self-training with Noisy Student improves ImageNet
    classification", CVPR 2020, algorithm 1 (one round of it). For spurious
    correlations: Sagawa et al., "Extending the WILDS Benchmark for Unsupervised
    Adaptation", ICLR 2022.

    Examples
    --------
    >>> from torch import nn
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.finetune import FineTuneClassifier
    >>> from skdebias.methods import NoisyStudent
    >>> X, y, _ = make_spurious_classification(400, random_state=0)
    >>> clf = FineTuneClassifier(
    ...     DebiasedClassifier(NoisyStudent(teacher_epochs=2)),
    ...     nn.Sequential(nn.Linear(X.shape[1], 16), nn.ReLU()),
    ...     modality="tensor",
    ...     dropout=0.2,
    ...     max_iter=4,
    ...     random_state=0,
    ... )
    >>> clf.fit(X[:100], y[:100], X_unlabeled=X[100:]).predict(X).shape
    (400,)
    """

    stackable: ClassVar[tuple[str, ...]] = ("strength", "min_confidence")
    uses_unlabeled: ClassVar[bool] = True
    needs_network: ClassVar[str] = "items with noise, by augment or dropout"
    reference_head: ClassVar[str] = "teacher"

    teacher_epochs: int = 5
    strength: float = 1.0
    targets: Literal["hard", "soft"] = "hard"
    min_confidence: float = 0.0
    balance: Literal["class"] | None = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The teacher, and after it the student."""
        n_epochs = self.teacher_epochs
        teacher = Head("teacher", epochs=n_epochs, clean=True)
        return teacher, Head(first_epoch=n_epochs + 1)

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return False

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return this method, checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        NoisyStudent

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_counts(self, {"teacher_epochs": 1})
        check_numbers(self, {"strength": (0.0, np.inf), "min_confidence": (0.0, 0.999)})
        targets = {"targets": ("hard", "soft")}
        check_choices(self, {**targets, "balance": (None, "class")})
        return self

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
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "TaughtLosses":
        """Return what the items without labels add.

        Parameters
        ----------
        methods : sequence of NoisyStudent
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        TaughtLosses
        """
        return TaughtLosses(methods, context)


class TaughtLosses:
    """The student's cross-entropy to what the teacher says of items without labels.

    Parameters
    ----------
    methods : sequence of NoisyStudent
    context : TrainingContext
    """

    def __init__(
        self, methods: Sequence[NoisyStudent], context: TrainingContext
    ) -> None:
        self._hard = methods[0].targets == "hard"
        self._strength, self._least = (
            torch.tensor([[m.strength, m.min_confidence] for m in methods])
            .to(context.device, torch.float32)
            .view(len(context.groups), -1, 2)
            .unbind(-1)
        )

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Return the values (S, M), 0 for the teacher.

        Parameters
        ----------
        step : Step
        logits : Tensor of shape (S, R, M, n_logits)

        Returns
        -------
        Tensor of shape (S, M)
        """
        pairs = class_logits(logits).unflatten(2, (-1, 2))  # (S, R, n_methods, 2, C)
        targets = pairs[..., 0, :].detach().softmax(-1)
        sureness, classes = targets.max(-1)
        if self._hard:
            targets = one_hot(classes, targets.shape[-1])
        losses = -(targets * pairs[..., 1, :].log_softmax(-1)).sum(-1)
        unlabeled = (step.y < 0)[..., None]
        counted = unlabeled & (sureness >= self._least[:, None])
        mean = (losses * counted).sum(1) / unlabeled.sum(1).clamp_min(1)
        values = self._strength * mean
        return torch.stack([torch.zeros_like(values), values], -1).flatten(1)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._strength = self._strength[:, methods]
        self._least = self._least[:, methods]
