"""DeNetDM: a deep and a shallow network divide what there is to learn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._head import Head
from skdebias.methods._losses import class_logits, row_losses
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_choices, check_counts, check_numbers
from skdebias.methods._step import Step, TrainingContext


@dataclass(frozen=True)
class DeNetDM(Method):
    """Network depth modulation: a product of a deep and a shallow expert, distilled.

    First a deep and a shallow network learn together, by the cross-entropy of the sum
    of their logits. What one of them explains the other has no reason to learn: the
    deep one tends to the bias, and the shallow one to the rest. Then both are frozen,
    and the result learns beside the deep one, in the place of the shallow one, and from
    the shallow one by distillation.

    Parameters
    ----------
    shallow_layer : str, default="layer1"
        Submodule of the backbone where the shallow network ends, such as a stage of a
        ResNet.
    expert_epochs : int, default=5
        Epochs of the two experts, at least 1. The others of `max_iter` are those of
        the result.
    distillation : float, default=1.0
        What the distillation counts, at least 0.
    temperature : float, default=1.0
        By which logits are divided in it, above 0.
    balance : {None, "class"}, default=None
        Sample classes uniformly.

    Notes
    -----
    Attributes are not used. Three networks are run in every step, for `max_iter`
    epochs. The paper shows the division of labour for networks that are trained from
    scratch, and biases such as colours and corruptions; with pretrained weights nothing
    says that the deep expert takes the bias. Look at ``deep_network_`` and
    ``shallow_network_`` before trusting the result.

    References
    ----------
    Vadakkeeveetil Sreelatha, Kappiyath, Chaudhuri and Dutta, "DeNetDM: Debiasing by
    Network Depth Modulation", NeurIPS 2024. There the experts end in one classifier;
    here each has a head, and logits are added.

    Examples
    --------
    >>> from torch import nn
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.finetune import FineTuneClassifier
    >>> from skdebias.methods import DeNetDM
    >>> X, y, _ = make_spurious_classification(400, random_state=0)
    >>> clf = FineTuneClassifier(
    ...     DebiasedClassifier(DeNetDM("1", expert_epochs=2)),
    ...     nn.Sequential(nn.Linear(X.shape[1], 16), nn.ReLU(), nn.Linear(16, 8)),
    ...     modality="tensor",
    ...     max_iter=4,
    ...     random_state=0,
    ... )
    >>> clf.fit(X, y).shallow_network_.linear_layers[0].in_features
    16
    """

    stackable: ClassVar[tuple[str, ...]] = ("distillation", "temperature")
    needs_network: ClassVar[str] = "a shallow and a deep backbone"
    reference_head: ClassVar[str] = "deep"

    shallow_layer: str = "layer1"
    expert_epochs: int = 5
    distillation: float = 1.0
    temperature: float = 1.0
    balance: Literal["class"] | None = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The deep expert, the shallow one, and after them the result."""
        n_epochs = self.expert_epochs
        return (
            Head("deep", epochs=n_epochs),
            Head("shallow", epochs=n_epochs, layer=self.shallow_layer),
            Head(first_epoch=n_epochs + 1),
        )

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
        DeNetDM

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_counts(self, {"expert_epochs": 1})
        check_numbers(self, {"distillation": (0.0, np.inf)})
        check_numbers(self, {"temperature": (1e-6, np.inf)})
        check_choices(self, {"balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or class-balanced training, without its losses.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        plan = ERM(balance=self.balance).plan(groups)
        batches = tuple(replace(batch, factor=0.0) for batch in plan.batches)
        return replace(plan, batches=batches)

    @classmethod
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "ProductOfExperts":
        """Return the loss of the products, and that of the distillation.

        Parameters
        ----------
        methods : sequence of DeNetDM
            As for :meth:`Method.weighting`.
        context : TrainingContext

        Returns
        -------
        ProductOfExperts
        """
        return ProductOfExperts(methods, context)


class ProductOfExperts:
    """The losses of the experts together, and of the result beside the deep one.

    Parameters
    ----------
    methods : sequence of DeNetDM
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[DeNetDM], context: TrainingContext) -> None:
        self._distillation, self._temperature = (
            torch.tensor([[m.distillation, m.temperature] for m in methods])
            .to(context.device, torch.float32)
            .view(len(context.groups), -1, 2)
            .unbind(-1)
        )

    def __call__(self, step: Step, logits: Tensor) -> Tensor:
        """Return the values (S, M); that of the experts is shared in halves.

        Parameters
        ----------
        step : Step
        logits : Tensor of shape (S, R, M, n_logits)

        Returns
        -------
        Tensor of shape (S, M)
        """
        deep, shallow, result = logits.unflatten(2, (-1, 3)).unbind(3)
        experts = row_losses(deep + shallow, step.y).mean(1)
        beside = row_losses(deep.detach() + result, step.y).mean(1)
        temperature = self._temperature[:, None, :, None]
        taught = (class_logits(shallow).detach() / temperature).softmax(-1)
        said = (class_logits(result) / temperature).log_softmax(-1)
        distilled = -(taught * said).sum(-1).mean(1) * self._temperature.square()
        values = beside + self._distillation * distilled
        return torch.stack([experts / 2, experts / 2, values], -1).flatten(1)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        self._distillation = self._distillation[:, methods]
        self._temperature = self._temperature[:, methods]
