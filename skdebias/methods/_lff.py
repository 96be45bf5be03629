"""LfF: a biased head shows the debiased one which rows are hard for it alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._step import Step, TrainingContext


@dataclass(frozen=True)
class LfF(Method):
    """Learning from failure: two heads side by side, the debiased one last.

    The biased head descends the generalised cross-entropy `(1 - p_y^q) / q`, whose
    gradient is that of the cross-entropy times `p_y^q`: what is easy counts most. The
    debiased head descends the cross-entropy weighted by the relative difficulty
    `W = L_b / (L_b + L_d)`, where both losses are moving averages per row, divided by
    their maximum over the row's class.

    Parameters
    ----------
    q : float, default=0.7
        Exponent of the generalised cross-entropy; 0 is the cross-entropy.
    alpha : float, default=0.7
        Decay of the moving averages. A row's first loss starts its average.
    balance : {None, "class"}, default="class"
        Sample classes uniformly, for both heads.
    biased_weight_decay : float, default=10.0
        Weight decay of the biased head; None is that of the debiased one.

    References
    ----------
    Nam, Cha, Ahn, Lee and Shin, "Learning from Failure: De-biasing Classifier from
    Biased Classifier", NeurIPS 2020, algorithm 1; class maximum and moving average as
    in the authors' code.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import LfF
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(LfF(q=0.5), random_state=0)
    >>> clf.fit(X, y).biased_coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("q", "alpha", "biased_weight_decay")
    reference_head: ClassVar[str] = "biased"

    q: float = 0.7
    alpha: float = 0.7
    balance: Literal["class"] | None = "class"
    biased_weight_decay: float | None = 10.0

    @property
    def heads(self) -> tuple[Head, ...]:
        """The biased head, then the debiased one; each has a loss of its own."""
        decay = self.biased_weight_decay
        return Head("biased", start="zero", weight_decay=decay), Head(start="zero")

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return False

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
    ) -> "RelativeDifficulty":
        """Return the rule that weights the rows of both heads.

        Parameters
        ----------
        methods : sequence of LfF
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        RelativeDifficulty
        """
        return RelativeDifficulty(methods, context)


class RelativeDifficulty:
    """Moving averages of the losses of both heads, and the weights they give.

    Parameters
    ----------
    methods : sequence of Method
        With fields `q` and `alpha`.
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[Any], context: TrainingContext) -> None:
        n_streams, device = len(context.groups), context.device
        self._q, self._alpha = (
            torch.tensor(
                [[m.q, m.alpha] for m in methods], dtype=torch.float32, device=device
            )
            .view(n_streams, 1, -1, 2)
            .unbind(-1)
        )
        # Rows are kept sorted by class, so that a class maximum is one over a slice.
        order = torch.argsort(context.y, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        self._place = place.to(device)
        self._sizes = torch.bincount(context.y).tolist()
        n_rows, n_methods = len(order), self._q.shape[2]
        # Losses are not negative: -1 stands for none yet.
        shape = n_streams, n_rows, n_methods, 2
        self._average = torch.full(shape, -1.0, device=device)
        self._stream = torch.arange(n_streams, device=device)[:, None]
        # Slot of a step in which a row was drawn last.
        self._last = torch.zeros(n_streams, n_rows, dtype=torch.int64, device=device)

    def __call__(self, step: Step) -> Tensor:
        """Update the averages, then weight the rows.

        Parameters
        ----------
        step : Step

        Returns
        -------
        Tensor of shape (S, R, M)
        """
        losses = step.losses.unflatten(2, (-1, 2))  # (S, R, n_methods, 2)
        average = self._update(self._place[step.rows.to(losses.device)], losses)
        by_class = self._average.split(self._sizes, dim=1)
        largest = torch.stack([averages.amax(1) for averages in by_class], dim=1)
        tiny = torch.finfo(losses.dtype).tiny
        scaled = average / largest[self._stream, step.y].clamp_min(tiny)
        biased, debiased = scaled.unbind(-1)
        relative = biased / (biased + debiased).clamp_min(tiny)
        easy = torch.exp(-self._q * losses[..., 0])  # p_y ** q
        return step.weights * torch.stack([easy, relative], dim=-1).flatten(2)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._q, self._alpha = self._q[..., methods], self._alpha[..., methods]
        self._average = self._average[:, :, methods]

    def _update(self, place: Tensor, losses: Tensor) -> Tensor:
        """Advance the averages of the rows in `place`; return them."""
        before = self._average[self._stream, place]
        alpha = torch.where(before < 0, 0.0, self._alpha[..., None])
        average = alpha * before + (1.0 - alpha) * losses
        # Of a row that was drawn twice the last loss counts. Its slots all write that:
        # on a GPU nothing says which of them writes last.
        slots = torch.arange(place.shape[1], device=place.device).expand(place.shape)
        self._last.scatter_(1, place, 0).scatter_reduce_(1, place, slots, "amax")
        last = self._last.gather(1, place)
        self._average[self._stream, place] = average[self._stream, last]
        return average
