"""Feature sieve: what an early layer knows already is erased there, time and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from skdebias._groups import Groups
from skdebias.methods._erm import ERM
from skdebias.methods._head import Auxiliary
from skdebias.methods._losses import class_logits
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_choices, check_counts, check_numbers
from skdebias.methods._step import ForwardPass, PenaltyTerm, Step, TrainingContext


@dataclass(frozen=True)
class FeatureSieve(Method):
    """Feature sieve (SiFer): an auxiliary head on an early layer, and forgetting.

    The auxiliary head learns to tell the classes from what an early layer yields,
    without changing the layer. Every so many steps, the layers up to there are pushed
    to where that head, held fixed, finds all classes equally probable. What is easy to
    compute is thereby taken from the later layers, which must find something else.

    Parameters
    ----------
    layer : str, default="layer1"
        Name of the early layer, such as a stage of a ResNet. Maps and sequences are
        averaged over their positions.
    every : int, default=50
        Steps from one forgetting to the next, at least 1.
    strength : float, default=1.0
        What forgetting counts, at least 0; 0 is empirical risk minimisation.
    hidden_layer_sizes : tuple of int, default=()
        Hidden ReLU layers of the auxiliary head: the deeper, the more is erased.
    rate : float, default=1.0
        Step size of the auxiliary head, in units of that of the network.
    balance : {None, "class", "group"}, default=None
        As for :class:`ERM`.

    Notes
    -----
    Costs hardly more than plain training. Attributes are used only by
    `balance="group"`. The layer, `every` and `strength` have to be searched for each
    data set, as in the paper; a search needs a validation set in which the spurious
    correlation is broken. It is for correlations with what is easier to see than the
    class. Where the class itself is easy it takes away what is needed.

    The paper takes an optimiser without memory for the forgetting, and convolutions in
    the auxiliary network; here it is part of the step of the one optimiser.

    References
    ----------
    Tiwari and Shenoy, "Overcoming Simplicity Bias in Deep Networks using a Feature
    Sieve", ICML 2023, algorithm 1.

    Examples
    --------
    >>> from torch import nn
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.finetune import FineTuneClassifier
    >>> from skdebias.methods import FeatureSieve
    >>> X, y, _ = make_spurious_classification(400, random_state=0)
    >>> clf = FineTuneClassifier(
    ...     DebiasedClassifier(FeatureSieve("0", every=2)),
    ...     nn.Sequential(nn.Linear(X.shape[1], 16), nn.ReLU(), nn.Linear(16, 8)),
    ...     modality="tensor",
    ...     max_iter=2,
    ...     random_state=0,
    ... )
    >>> clf.fit(X, y).predict(X).shape
    (400,)
    """

    needs_network: ClassVar[str] = "an early layer of a backbone"

    layer: str = "layer1"
    every: int = 50
    strength: float = 1.0
    hidden_layer_sizes: tuple[int, ...] = ()
    rate: float = 1.0
    balance: Literal["class", "group"] | None = None

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The head that learns what the early layer knows."""
        sizes = tuple(self.hidden_layer_sizes)
        sieve = Auxiliary("sieve", self.layer, hidden_layer_sizes=sizes, rate=self.rate)
        return (sieve,)

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return self.balance == "group"

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
        FeatureSieve

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_counts(self, {"every": 1})
        check_numbers(self, {"strength": (0.0, np.inf), "rate": (1e-12, np.inf)})
        check_choices(self, {"balance": (None, "class", "group")})
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
    def penalty(cls, methods: Sequence[Self], context: TrainingContext) -> "Forgetting":
        """Return what trains the auxiliary head, and forgets.

        Parameters
        ----------
        methods : sequence of FeatureSieve
            One, for a network.
        context : TrainingContext

        Returns
        -------
        Forgetting
        """
        return Forgetting(methods[0])


class Forgetting:
    """The loss of the auxiliary head, and every so many steps that of the layer.

    Parameters
    ----------
    method : FeatureSieve
    """

    def __init__(self, method: FeatureSieve) -> None:
        self._method = method

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
        method = self._method
        features = forward.layer(method.layer)[-1]
        weights = step.weights[0, :, -1]
        shares = weights / weights.sum()
        known = class_logits(forward.auxiliary("sieve", features.detach()))
        losses = cross_entropy(known, step.y[0], reduction="none")
        if (step.number + 1) % method.every == 0:
            seen = forward.auxiliary("sieve", features, frozen=True)
            # The cross-entropy to equal probabilities.
            uniform = -class_logits(seen).log_softmax(1).mean(1)
            losses = losses + method.strength * uniform
        value = (shares * losses).sum()
        return PenaltyTerm(value[None, None], torch.zeros_like(forward.logits).detach())

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return nothing for the history."""
        return {}

    def select(self, methods: Tensor) -> None:
        """Drop the state of other methods; there is none."""
