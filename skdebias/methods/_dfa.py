"""DFA: two networks share their features, and swap those that tell of the bias."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias._warnings import warn_caller
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._lff import RelativeDifficulty
from skdebias.methods._losses import row_losses
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._random import uniform
from skdebias.methods._ranges import check_choices, check_counts, check_numbers
from skdebias.methods._step import (
    ForwardPass,
    PenaltyTerm,
    Step,
    TrainingContext,
    TrainingResult,
)


@dataclass(frozen=True)
class DFA(Method):
    """Disentangled feature augmentation: two networks, whose features are swapped.

    Each network has a backbone of its own and a head that reads the embeddings of both,
    but trains its own alone. The biased one descends the generalised cross-entropy, the
    other one the cross-entropy weighted by relative difficulty, both as in
    :class:`LfF`. After some steps both also learn from mixed features: the own ones of
    an item beside the biased ones of another item drawn at random. These have the label
    of the first for the debiased head, and that of the second for the biased head.

    Parameters
    ----------
    q : float, default=0.7
        Exponent of the generalised cross-entropy, in (0, 1].
    alpha : float, default=0.7
        Decay of the moving averages of the losses, in [0, 1).
    swap_after : int, default=10000
        Steps before features are swapped, at least 0.
    strength : float, default=1.0
        What swapped features count beside the others, at least 0.
    biased_strength : float, default=1.0
        What they count for the biased network, in units of `strength`; at least 0.
    balance : {None, "class"}, default=None
        Sample classes uniformly.

    Notes
    -----
    Attributes are not used. Trains two backbones; the result needs both to predict, and
    so do its files. The partners of the swap are drawn within a pass of `accumulate`,
    so that passes should not be small.

    It is for biases that are learned well before the class is, with at least some dozen
    conflicting items of each class. `swap_after` is the published 10,000 steps, by
    which the two networks should have parted; shorter runs need a smaller one, and are
    warned if they end before.

    References
    ----------
    Lee, Kim, Lee, Lee and Choo, "Learning Debiased Representation via Disentangled
    Feature Augmentation", NeurIPS 2021, equations 1 to 4.

    Examples
    --------
    >>> from torch import nn
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.finetune import FineTuneClassifier
    >>> from skdebias.methods import DFA
    >>> X, y, _ = make_spurious_classification(400, random_state=0)
    >>> clf = FineTuneClassifier(
    ...     DebiasedClassifier(DFA(swap_after=4)),
    ...     nn.Sequential(nn.Linear(X.shape[1], 16), nn.ReLU()),
    ...     modality="tensor",
    ...     max_iter=2,
    ...     random_state=0,
    ... )
    >>> clf.fit(X, y).embed(X).shape
    (400, 32)
    """

    needs_network: ClassVar[str] = "two backbones whose features are swapped"
    joint_embeddings: ClassVar[bool] = True
    reference_head: ClassVar[str] = "biased"

    q: float = 0.7
    alpha: float = 0.7
    swap_after: int = 10_000
    strength: float = 1.0
    biased_strength: float = 1.0
    balance: Literal["class"] | None = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The biased network, then the debiased one."""
        return Head("biased"), Head()

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
        DFA

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        at_least_0 = 0.0, np.inf
        check_counts(self, {"swap_after": 0})
        check_numbers(self, {"q": (1e-6, 1.0), "alpha": (0.0, 0.9999)})
        check_numbers(self, {"strength": at_least_0, "biased_strength": at_least_0})
        check_choices(self, {"balance": (None, "class")})
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
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "CountedDifficulty":
        """Return the rule that weights the rows of both networks, that of LfF.

        Parameters
        ----------
        methods : sequence of DFA
            One, for a network.
        context : TrainingContext

        Returns
        -------
        CountedDifficulty
        """
        return CountedDifficulty(methods, context)

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "SwappedFeatures":
        """Return what swapped features add.

        Parameters
        ----------
        methods : sequence of DFA
            One, for a network.
        context : TrainingContext

        Returns
        -------
        SwappedFeatures
        """
        return SwappedFeatures(methods[0], context)

    def check_result(self, fitted: TrainingResult) -> None:
        """Warn if no features were swapped.

        Parameters
        ----------
        fitted : TrainingResult
        """
        n_steps = fitted.weighting.n_steps
        if self.strength > 0 and n_steps <= self.swap_after:
            warn_caller(
                f"swap_after={self.swap_after}: training ended after {n_steps} steps, "
                "before features were swapped: lower it, or raise max_iter."
            )


class CountedDifficulty(RelativeDifficulty):
    """The rule of LfF, which also counts steps.

    Parameters
    ----------
    methods : sequence of DFA
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[DFA], context: TrainingContext) -> None:
        super().__init__(methods, context)
        self.n_steps = 0

    def __call__(self, step: Step) -> Tensor:
        """Update the averages, then weight the rows."""
        self.n_steps = step.number + 1
        return super().__call__(step)


class SwappedFeatures:
    """The losses of both heads on features of two items.

    Parameters
    ----------
    method : DFA
    context : TrainingContext
    """

    def __init__(self, method: DFA, context: TrainingContext) -> None:
        self._method = method
        (self._seed,) = context.seeds

    def __call__(self, step: Step, forward: ForwardPass) -> PenaltyTerm:
        """Return the penalty.

        Parameters
        ----------
        step : Step
        forward : ForwardPass

        Returns
        -------
        PenaltyTerm
        """
        method, zeros = self._method, torch.zeros_like(forward.logits).detach()
        planned = step.planned
        if planned is None or step.number < method.swap_after:
            return PenaltyTerm(zeros[:, 0, :, 0], zeros)
        # Of each network its own embedding, then the other's, which is a constant.
        biased, debiased = forward.hidden[0]
        n_rows, width = len(biased), biased.shape[1] // 2
        order = uniform(self._seed, step.number, "swap", (n_rows,)).argsort()
        order = order.to(biased.device)
        mixed = torch.cat([biased[order, :width], biased[:, width:]], 1)
        logits = forward.head_logits(0, mixed)[None, :, None]
        easy = row_losses(logits, step.y[:, order])[0, :, 0]
        mixed = torch.cat([debiased[:, :width], debiased[order, width:]], 1)
        logits = forward.head_logits(1, mixed)[None, :, None]
        hard = row_losses(logits, step.y)[0, :, 0]
        easy = -torch.expm1(-method.q * easy) / method.q
        total = planned[0].sum(0)
        of_biased = (planned[0, order, 0] * easy).sum() / total[0]
        of_debiased = (step.weights[0, :, 1] * hard).sum() / total[1]
        values = torch.stack([method.biased_strength * of_biased, of_debiased])
        return PenaltyTerm(method.strength * values[None], zeros)

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return nothing for the history."""
        return {}

    def select(self, methods: Tensor) -> None:
        """Drop the state of other methods; there is none."""
