"""W2D: train on the hardest rows, without the features that speak most for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._losses import row_losses
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._step import ForwardPass, PenaltyTerm, Step, TrainingContext


@dataclass(frozen=True)
class W2D(Method):
    """Worst-case training in two dimensions: hard rows, and muted features.

    Of every step the rows with the largest losses are kept. In those of them that lose
    most by it, the features that speak most for the true class are set to zero: a
    feature's part `x_d W_yd` in the logit of the class, of the inputs of the last
    layer. What is minimised is the mean loss of the kept rows so muted.

    Parameters
    ----------
    keep : float in (0, 1], default=1/3
        Share of the rows of a step that are kept. 1 keeps all.
    mute : float in [0, 1), default=0.25
        Share of the features that are muted, those that speak for the class alone. 0
        mutes none; with ``keep=1`` that is ERM.
    muted_rows : float in [0, 1], default=1/3
        Share of the kept rows that are muted: those whose loss muting raises most.
    warmup : int, default=0
        Steps in which all rows are kept. The paper keeps the hardest in its last
        epochs alone.
    balance : {None, "class", "group"}, default=None
        As in :class:`ERM`, where the paper draws domains alike: "group" with domains as
        attributes.

    See Also
    --------
    ERM : What it is with ``keep=1, mute=0``.

    Notes
    -----
    Needs no attributes. It is for domains that differ in what is easy, on features that
    share the load; on a linear head all rows of a class rely on the same features, and
    hard rows are mislabelled ones too. A step costs a few times that of ERM, by a
    selection among `n_features` numbers per row. Whole networks are refused.

    References
    ----------
    Huang, Wang, Huang, Lee and Xing, "The Two Dimensions of Worst-case Training and
    Their Integrated Effect for Out-of-domain Generalization", CVPR 2022. Muting is that
    of Huang, Wang, Xing and Huang, "Self-challenging Improves Cross-Domain
    Generalization", ECCV 2020, which goes by the gradient alone: of a linear head that
    is the same for all rows of a class, so that it is taken times the input here.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import W2D
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(W2D(keep=0.5), random_state=0)
    >>> clf.fit(X, y).coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("keep", "mute", "muted_rows", "warmup")
    # A penalty of networks does not see the weights that the features are muted at.
    trains_networks: ClassVar[bool] = False

    keep: float = 1 / 3
    mute: float = 0.25
    muted_rows: float = 1 / 3
    warmup: int = 0
    balance: Literal["class", "group"] | None = None

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return self.balance == "group"

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Refuse shares that are none.

        Parameters
        ----------
        groups : Groups
        inferred : bool

        Returns
        -------
        W2D
            This one.
        """
        for name, right, remedy in (
            ("keep", 0 < self.keep <= 1, "in (0, 1], such as 1/3"),
            ("mute", 0 <= self.mute < 1, "in [0, 1), such as 0.25"),
            ("muted_rows", 0 <= self.muted_rows <= 1, "in [0, 1], such as 1/3"),
            ("warmup", self.warmup >= 0, "a number of steps, 0 or more"),
        ):
            if not right:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {remedy}.")
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or balanced training.

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
    ) -> "HardestRows":
        """Return the rule that keeps the rows with the largest losses.

        Parameters
        ----------
        methods : sequence of W2D
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        HardestRows
        """
        return HardestRows(methods, context)

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "MutedFeatures":
        """Return what muting adds to the losses of the rows that are kept.

        Parameters
        ----------
        methods : sequence of W2D
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        MutedFeatures
        """
        return MutedFeatures(methods, context)


def _field(methods: Sequence[W2D], context: TrainingContext, name: str) -> Tensor:
    """Return the values of a field, (S, n_methods)."""
    values = torch.tensor([float(getattr(method, name)) for method in methods])
    return values.view(len(context.groups), -1).to(context.device)


def _ranks(values: Tensor, dim: int) -> Tensor:
    """Return the place of every value along a dimension, the largest first."""
    order = values.argsort(stable=True, dim=dim, descending=True)
    return order.argsort(dim)


class HardestRows:
    """Shares the weight of a step among the rows with the largest losses.

    Parameters
    ----------
    methods : sequence of W2D
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[W2D], context: TrainingContext) -> None:
        self._keep = _field(methods, context, "keep")
        self._warmup = _field(methods, context, "warmup")

    def __call__(self, step: Step) -> Tensor:
        """Return the weights of the rows that are kept, and 0 for all others."""
        n_rows = step.losses.shape[1]
        n_kept = (self._keep * n_rows - 1e-4).ceil()  # 1/3 of 3 rows is 1
        n_kept = torch.where(step.number < self._warmup, n_rows, n_kept)[:, None]
        kept = step.weights * (_ranks(step.losses, 1) < n_kept)
        return kept * (step.weights.sum(1) / kept.sum(1))[:, None]

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._keep, self._warmup = self._keep[:, methods], self._warmup[:, methods]


class MutedFeatures:
    """Losses without the features that speak most for the class, less those with them.

    Beside the weighted losses that makes the weighted losses of the muted rows.

    Parameters
    ----------
    methods : sequence of W2D
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[W2D], context: TrainingContext) -> None:
        self._mute = _field(methods, context, "mute")
        self._rows = _field(methods, context, "muted_rows")

    def __call__(self, step: Step, forward: ForwardPass) -> PenaltyTerm:
        """Return what muting adds to the step, and its derivatives."""
        *before, last = (layer.detach() for layer in forward.activations)
        coef, logits = forward.coefs[-1].detach(), forward.logits.detach()
        streams = len(logits)
        weights = coef.unflatten(0, (streams, -1))  # (S, M, n_logits, width)
        inputs = last[:, :, None]  # (S, R, 1 or M, width)
        if before:
            inputs = last.unflatten(0, (streams, -1)).transpose(1, 2)
        # A linear head's inputs are its rows, whose derivative nobody takes.
        hidden = inputs if before else None
        muted = self._most_responsible(inputs, weights, step.y)
        with torch.enable_grad():
            leaves = [weights.clone(), logits.clone()]
            leaves += [] if hidden is None else [hidden.clone()]
            for leaf in leaves:
                leaf.requires_grad_()
            taken = (inputs if hidden is None else leaves[2]) * muted
            left = leaves[1] - torch.einsum("srmd,smod->srmo", taken, leaves[0])
            raised = row_losses(left, step.y) - row_losses(leaves[1], step.y)
            kept = step.weights * self._hurt_most(step.weights, raised.detach())
            values = (kept * raised).sum(1)
            grads = torch.autograd.grad(values.sum(), leaves)
        zeros = [torch.zeros_like(each) for each in forward.coefs[:-1]]
        in_hidden = None
        if hidden is not None:
            in_hidden = [torch.zeros_like(layer) for layer in before[1:]]
            in_hidden.append(grads[2].transpose(1, 2).flatten(0, 1))
        return PenaltyTerm(
            values.detach(), grads[1], [*zeros, grads[0].flatten(0, 1)], in_hidden
        )

    def _most_responsible(self, inputs: Tensor, weights: Tensor, y: Tensor) -> Tensor:
        """Return which inputs speak most for the class, (S, R, M, width)."""
        if weights.shape[2] == 1:
            signs = 2.0 * y.to(weights.dtype) - 1.0
            of_class = signs[:, :, None, None] * weights[:, None, :, 0]
        else:
            by_class = weights.transpose(1, 2)  # (S, n_classes, M, width)
            streams = torch.arange(len(y), device=y.device)[:, None]
            of_class = by_class[streams, y]
        parts = inputs * of_class
        n_muted = (self._mute * parts.shape[-1]).round().long()
        most = int(n_muted.max())
        if not most:
            return torch.zeros_like(parts, dtype=torch.bool)
        largest = parts.topk(most, dim=-1).values
        place = (n_muted - 1).clamp_min(0)[:, None, :, None]
        bound = largest.gather(-1, place.expand(*parts.shape[:3], 1))
        any_muted = (n_muted > 0)[:, None, :, None]
        return (parts >= bound) & (parts > 0) & any_muted

    def _hurt_most(self, weights: Tensor, raised: Tensor) -> Tensor:
        """Return which of the kept rows are muted, (S, R, M)."""
        kept = weights != 0
        n_muted = (self._rows[:, None] * kept.sum(1, keepdim=True)).round()
        return _ranks(raised.masked_fill(~kept, -torch.inf), 1) < n_muted

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return nothing: the penalty keeps no record."""
        return {}

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._mute, self._rows = self._mute[:, methods], self._rows[:, methods]
