"""What methods share whose heads differ on rows without labels."""

from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias._warnings import UnchosenHeadWarning, warn_once
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_choices
from skdebias.methods._step import Step, TrainingResult


@dataclass(frozen=True)
class DiverseHeads(Method):
    """Base class of methods whose heads differ on rows without labels.

    Every head has the cross-entropy of the labelled rows; what a subclass adds is a
    function of the probabilities that the heads give the rows without labels.

    Parameters
    ----------
    n_heads : int, default=2
        Heads, at least 2.
    balance : {None, "class"}, default=None
        Sample the classes of the labelled rows uniformly.
    """

    uses_unlabeled: ClassVar[bool] = True
    heads_are_alternatives: ClassVar[bool] = True
    #: Where linear heads start.
    start: ClassVar[Literal["zero", "random"]] = "random"

    n_heads: int = 2
    balance: Literal["class"] | None = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads, each of which can be the result."""
        return tuple(
            Head(f"head{number + 1}", start=self.start)
            for number in range(self.n_heads)
        )

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return False

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method itself, its parameters checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        DiverseHeads

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        whole = isinstance(self.n_heads, Integral) and not isinstance(
            self.n_heads, bool
        )
        if not (whole and self.n_heads >= 2):
            raise ValueError(
                f"n_heads={self.n_heads!r} of {type(self).__name__} must be a whole "
                "number of at least 2: one head has none to differ from."
            )
        check_choices(self, {"balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or class-balanced training on the labelled rows.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        return ERM(balance=self.balance).plan(groups)

    def check_result(self, fitted: TrainingResult) -> None:
        """Warn if no labelled rows have chosen the head.

        Parameters
        ----------
        fitted : TrainingResult
        """
        if "validation_score" not in fitted.history:
            warn_once(
                f"{type(self).__name__} has trained {self.n_heads} heads, and nothing "
                "says which of them uses the right feature: the first is the result. "
                "Pass X_val and y_val, a few labelled rows like those of X_unlabeled, "
                "or choose afterwards: skdebias.model_selection.rows_to_label says "
                "which rows to label, and choose_head takes them.",
                UnchosenHeadWarning,
            )


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the logarithms of the probabilities of all classes.

    Parameters
    ----------
    logits : Tensor of shape (..., n_logits)
        One logit for two classes.

    Returns
    -------
    Tensor of shape (..., n_classes)
    """
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    return logits.log_softmax(-1)


def shares_of_unlabeled(step: Step) -> Tensor:
    """Return the weights of the mean over the rows without labels.

    Parameters
    ----------
    step : Step

    Returns
    -------
    Tensor of shape (S, R)
        0 for rows with labels; they sum to one.
    """
    unlabeled = (step.y < 0).to(step.losses.dtype)
    return unlabeled / unlabeled.sum(1, keepdim=True)
