"""LC: logits corrected by how label and biased prediction go together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias._groups import Groups
from skdebias.methods._environments import per_method
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._losses import row_losses
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._random import uniform
from skdebias.methods._ranges import check_numbers
from skdebias.methods._step import Step, TrainingContext


@dataclass(frozen=True)
class LC(Method):
    """Logit correction: two heads side by side, the debiased one last.

    The biased head descends the generalised cross-entropy `(1 - p_y^q) / q`, and the
    class that it predicts stands for the attribute. The debiased head descends the
    cross-entropy of its logits plus `tau log p(y, prediction)`, where `p` is a moving
    average over the steps: what the prediction tells of the label is there already.

    With `mixup`, a row that the biased head gets right is mixed with one of its class
    that it gets wrong and the other way round, in logits and shares of labels alike. On
    a linear head that is to mix the rows themselves, as the paper does; on hidden
    layers and networks it is not, and outputs are mixed in the place of inputs.

    Parameters
    ----------
    q : float, default=0.7
        Exponent of the generalised cross-entropy, in [0, 1]; 0 is the cross-entropy.
    tau : float, default=1.0
        Strength of the correction, at least 0. The paper has 1; 0, without mixing, is
        ERM beside a biased head.
    alpha : float, default=0.5
        Decay of the moving average from step to step, in [0, 0.9999].
    mixup : float, default=0.0
        Shares are drawn from a beta distribution with this for both parameters; 0 does
        not mix. The smaller it is, the closer they are to 0 and 1.
    biased_weight_decay : float, default=10.0
        Weight decay of the biased head; None is that of the debiased one, as in the
        paper.

    See Also
    --------
    ULA : Corrects by a biased model that was trained before.
    LfF : Weights the rows by how hard they are for a biased head.

    Notes
    -----
    Needs no attributes. Trains two heads at the same time; two networks, for
    :class:`~skdebias.finetune.FineTuneClassifier`. A cell of label and prediction
    counts as one training row at least. Class imbalance is corrected too. It does harm
    where the biased head is right about rows for their own sake.

    References
    ----------
    Liu, Zhang, Sekhar, Wu, Singhal and Fernandez-Granda, "Avoiding Spurious
    Correlations via Logit Correction", ICLR 2023 (the loss, its moving average, and
    group mixup).

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import LC
    >>> X, y, _ = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(LC(), random_state=0)
    >>> clf.fit(X, y).biased_coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = (
        "q",
        "tau",
        "alpha",
        "mixup",
        "biased_weight_decay",
    )
    reference_head: ClassVar[str] = "biased"

    q: float = 0.7
    tau: float = 1.0
    alpha: float = 0.5
    mixup: float = 0.0
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

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method, whose fields are checked.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        LC

        Raises
        ------
        ValueError
            If a field is out of its range.
        """
        check_numbers(
            self,
            {
                "q": (0.0, 1.0),
                "tau": (0.0, np.inf),
                "alpha": (0.0, 0.9999),
                "mixup": (0.0, np.inf),
            },
        )
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of all rows as they come, whose cross-entropy does not count.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        plan = ERM().plan(groups)
        (batch,) = plan.batches
        return replace(plan, batches=(replace(batch, factor=0.0),))

    @classmethod
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "CorrectedLosses":
        """Return the losses of both heads.

        Parameters
        ----------
        methods : sequence of LC
            As for :meth:`Method.objective`.
        context : TrainingContext

        Returns
        -------
        CorrectedLosses
        """
        return CorrectedLosses(methods, context)


class CorrectedLosses:
    """Generalised cross-entropy of biased heads, corrected one of debiased heads.

    Parameters
    ----------
    methods : sequence of LC
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[LC], context: TrainingContext) -> None:
        self._q, self._tau, self._alpha, self._mixup = (
            per_method(methods, context, name)
            for name in ("q", "tau", "alpha", "mixup")
        )
        self._seeds = context.seeds
        n_classes = max(groups.n_classes for groups in context.groups)
        #: Shares of (prediction, label) of all methods; none before the first step.
        self._shares = torch.zeros(
            *self._q.shape, n_classes, n_classes, device=context.device
        )
        counts = [float(groups.counts.sum()) for groups in context.groups]
        self._one_row = 1.0 / torch.tensor(counts, device=context.device)

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Update the shares, and return the mean losses of both heads.

        Parameters
        ----------
        step : Step
        logits : Tensor of shape (S, R, M, n_logits)

        Returns
        -------
        Tensor of shape (S, M)
        """
        biased, debiased = _two_logits(logits).unflatten(2, (-1, 2)).unbind(3)
        q = self._q[:, None]
        losses = row_losses(biased, step.y)
        easy_first = -torch.expm1(-q * losses) / torch.where(q > 0, q, 1.0)
        generalised = torch.where(q > 0, easy_first, losses)
        predicted = biased.detach().argmax(-1)  # (S, R, n_methods)
        self._update(predicted, step)
        shares = self._of_rows(predicted)
        if bool((self._mixup > 0).any()):
            debiased, shares = self._mixed(debiased, shares, predicted, step)
        corrected = debiased + self._tau[:, None, :, None] * shares.log()
        both = torch.stack([generalised, row_losses(corrected, step.y)], -1)
        return both.flatten(2).mean(1)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._q, self._tau = self._q[:, methods], self._tau[:, methods]
        self._alpha, self._mixup = self._alpha[:, methods], self._mixup[:, methods]
        self._shares = self._shares[:, methods]

    def _update(self, predicted: Tensor, step: Step) -> None:
        """Move the shares of (prediction, label) towards those of the step."""
        n_classes = self._shares.shape[-1]
        predictions = one_hot(predicted, n_classes).float()
        labels = one_hot(step.y, n_classes).float()
        seen = torch.einsum("srmp,sry->smpy", predictions, labels) / step.y.shape[1]
        # Shares sum to one, but for those of no step yet.
        begun = self._shares.sum((2, 3), keepdim=True) > 0
        alpha = torch.where(begun, self._alpha[..., None, None], 0.0)
        self._shares = alpha * self._shares + (1.0 - alpha) * seen

    def _of_rows(self, predicted: Tensor) -> Tensor:
        """Return the shares of all labels with every row's prediction, (S, R, n, K)."""
        shares = self._shares.clamp_min(self._one_row[:, None, None, None])
        n_classes = shares.shape[-1]
        index = predicted.mT[..., None].expand(-1, -1, -1, n_classes)  # (S, n, R, K)
        return shares.gather(2, index).transpose(1, 2)

    def _mixed(
        self, logits: Tensor, shares: Tensor, predicted: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        """Mix rows with others of their class that are easy where they are hard."""
        n_rows = step.y.shape[1]
        right = (predicted == step.y[..., None]).mT  # (S, n, R)
        partner = right[..., None] != right[:, :, None]
        partner &= (step.y[:, :, None] == step.y[:, None])[:, None]
        keys = self._uniform(step, "partner", (n_rows, n_rows))[:, None]
        key, chosen = torch.where(partner, keys, -1.0).max(-1)
        own = self._own_shares(self._uniform(step, "share", (n_rows,)))
        own = torch.where(key >= 0, own, 1.0).mT[..., None]  # (S, R, n, 1)
        index = chosen.mT[..., None].expand_as(logits)
        mixed = own * logits + (1.0 - own) * logits.gather(1, index)
        return mixed, own * shares + (1.0 - own) * shares.gather(1, index)

    def _own_shares(self, drawn: Tensor) -> Tensor:
        """Return the share of a row in its mixture, (S, n, R), from uniform numbers."""
        alpha = self._mixup.double().cpu().numpy()[..., None]
        positive = np.where(alpha > 0, alpha, 1.0)
        share = betaincinv(positive, positive, drawn.double().cpu().numpy()[:, None])
        share = np.where(alpha > 0, share, 1.0)
        return torch.from_numpy(share).to(drawn.device, drawn.dtype)

    def _uniform(self, step: Step, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return random numbers of every stream."""
        drawn = [uniform(seed, step.number, purpose, shape) for seed in self._seeds]
        return torch.stack(drawn).to(step.losses.device)


def _two_logits(logits: Tensor) -> Tensor:
    """Return one logit for each class, also for two."""
    if logits.shape[-1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], -1)
