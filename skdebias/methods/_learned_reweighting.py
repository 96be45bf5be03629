"""Learned reweighting: rows count as far as they lower the loss of a clean set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._ranges import check_choices
from skdebias.methods._step import ForwardPass, PenaltyTerm, Step, TrainingContext


@dataclass(frozen=True)
class LearnedReweighting(Method):
    """Weights by the alignment of rows with the gradient of a validation set.

    Every step weights its rows by `max(0, g_i . g_v)`, divided by their sum, where
    `g_i` is the gradient of a row's loss and `g_v` that of validation rows, whose
    groups (classes, without `attributes_val`) count alike. To first order, those are
    the rows whose loss and the validation loss fall together.

    Parameters
    ----------
    balance : {None, "class"}, default=None
        Draw the training rows as they come or the classes alike.

    Notes
    -----
    Needs `X_val` and `y_val` in `fit`, clean rows of all classes, and uses no
    attributes of the training rows. Half of a step's rows are validation rows.
    Gradients are never formed: of every layer they are an outer product, and the
    product of two of them is `(d_i . d_v) (z_i . z_v + 1)`, with the derivatives `d` in
    its outputs and its inputs `z`. Where no row is aligned, a step changes nothing but
    by weight decay and momentum.

    Take it where some labels or groups of the training set are not to be trusted, and a
    few hundred rows are. With attributes of the validation rows its groups count alike;
    where there are enough of them, :class:`~skdebias.DFRClassifier` on these rows is
    simpler. The epoch is selected on the same rows: keep others for the final score.
    Whole networks are not trained by it, as their layers have no such products, nor is
    there a `solver="lbfgs"`.

    References
    ----------
    Ren, Zeng, Yang and Urtasun, "Learning to Reweight Examples for Robust Deep
    Learning", ICML 2018, algorithm 1 and equations 12 to 14.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import LearnedReweighting
    >>> X, y, a = make_spurious_classification(600, random_state=0)
    >>> clf = DebiasedClassifier(LearnedReweighting(), random_state=0)
    >>> clf.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:]).coef_.shape
    (1, 20)
    """

    trains_networks: ClassVar[bool] = False
    uses_validation: ClassVar[bool] = True

    balance: Literal["class"] | None = None

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
        LearnedReweighting

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_choices(self, {"balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or class-balanced training, without weights.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        plan = ERM(balance=self.balance).plan(groups)
        (batch,) = plan.batches
        # The penalty is all that is minimised.
        return SamplingPlan(
            plan.strata,
            (Batch(batch.name, batch.probabilities, factor=0.0),),
            replacement=plan.replacement,
        )

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "AlignedLosses":
        """Return what is minimised.

        Parameters
        ----------
        methods : sequence of LearnedReweighting
            As for :meth:`Method.penalty`.
        context : TrainingContext

        Returns
        -------
        AlignedLosses
        """
        return AlignedLosses(methods, context)


class AlignedLosses:
    """Losses of the training rows, weighted by their alignment.

    Parameters
    ----------
    methods : sequence of LearnedReweighting
    context : TrainingContext
    """

    def __init__(
        self, methods: Sequence[LearnedReweighting], context: TrainingContext
    ) -> None:
        plans = [methods[0].plan(groups) for groups in context.groups]
        numbers = [len(plan.batches[0].probabilities) for plan in plans]
        self._n_strata = torch.tensor(numbers, device=context.device)[:, None]

    def __call__(self, step: Step, forward: ForwardPass) -> PenaltyTerm:
        """Return the weighted losses of a step.

        Parameters
        ----------
        step : Step
        forward : ForwardPass

        Returns
        -------
        PenaltyTerm
        """
        with torch.no_grad():  # weights are constants of the step
            weights = self._weights(step, forward)
        values = (weights * step.losses).sum(1)
        return PenaltyTerm(values, weights[..., None] * forward.residual)

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def select(self, methods: Tensor) -> None:
        """Nothing differs between methods."""

    def _weights(self, step: Step, forward: ForwardPass) -> Tensor:
        """Weights of the rows, (S, R, M); of validation rows 0."""
        clean = step.strata >= self._n_strata
        # Rows of a validation stratum share what each of the strata has.
        alike = step.strata[:, :, None] == step.strata[:, None]
        share = clean / alike.sum(2)
        share = (share / share.sum(1, keepdim=True)).to(step.losses.dtype)
        aligned = sum(
            _products(inputs, deltas, share) for inputs, deltas in _layers(forward)
        )
        kept = torch.as_tensor(aligned).clamp_min(0.0) * ~clean[..., None]
        total = kept.sum(1, keepdim=True)
        return kept / torch.where(total > 0, total, 1.0)


def _layers(forward: ForwardPass) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the layers' inputs (S, 1 or M, R, n_in), and derivatives in outputs.

    These have the shape (S, M, R, n_out) and are those of every row's own loss.
    """
    n_streams = len(forward.residual)
    deltas = forward.residual.transpose(1, 2).flatten(0, 1)  # (S * M, R, n_logits)
    for layer in range(len(forward.coefs) - 1, 0, -1):
        inputs = forward.activations[layer]
        yield inputs.unflatten(0, (n_streams, -1)), deltas.unflatten(0, (n_streams, -1))
        deltas = torch.bmm(deltas, forward.coefs[layer]) * (inputs > 0)
    yield forward.activations[0][:, None], deltas.unflatten(0, (n_streams, -1))


def _products(inputs: Tensor, deltas: Tensor, share: Tensor) -> Tensor:
    """Products of the rows' gradients in a layer with the mean one, (S, R, M).

    Parameters
    ----------
    inputs : Tensor of shape (S, 1 or M, R, n_in)
    deltas : Tensor of shape (S, M, R, n_out)
    share : Tensor of shape (S, R)
        Of the rows in the mean.
    """
    pairs = (inputs @ inputs.mT + 1.0) * (deltas @ deltas.mT)  # the bias has input 1
    return (pairs @ share[:, None, :, None])[..., 0].transpose(1, 2)
