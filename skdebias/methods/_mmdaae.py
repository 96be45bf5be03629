"""MMD-AAE: embeddings that are alike in all domains, and of a known distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from skdebias._groups import Groups
from skdebias.methods._environments import Environments, environment_plan
from skdebias.methods._head import Auxiliary
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._random import uniform
from skdebias.methods._ranges import check_choices, check_numbers
from skdebias.methods._step import ForwardPass, PenaltyTerm, Step, TrainingContext

# Inverse widths of the Gaussian kernels.
_GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


@dataclass(frozen=True)
class MMDAAE(Method):
    """Adversarial autoencoder on embeddings, with maximum mean discrepancy.

    The embeddings of the domains, here the values of the attribute, are drawn together
    by the maximum mean discrepancy between each two of them. A decoder has to restore
    the items from the embeddings, and a discriminator, which learns to tell them from
    draws of a Laplace distribution, is deceived by them.

    Parameters
    ----------
    discrepancy : float, default=1.0
        What the discrepancy between domains counts, at least 0.
    reconstruction : float, default=0.1
        What the mean squared error of the restored items counts, at least 0.
    adversary : float, default=0.1
        What it counts that the discriminator is deceived, at least 0.
    hidden_layer_sizes : tuple of int, default=()
        Hidden ReLU layers of decoder and discriminator.
    balance : {None, "class"}, default=None
        Within a domain, also draw the classes alike.

    Notes
    -----
    Needs attributes, and costs little more than plain training. The decoder is a few
    layers on one vector: items should be features, as in the paper, or tables, with
    `modality="tensor"`; pixels are restored badly. Where the class is distributed in
    another way in each domain, drawing the domains together costs accuracy: choose
    `balance="class"`.

    The discrepancy is that of a sum of Gaussian kernels of fixed widths.

    References
    ----------
    Li, Pan, Wang and Kot, "Domain Generalization with Adversarial Feature Learning",
    CVPR 2018, equations 1 to 8; kernels as in Gulrajani and Lopez-Paz, "In Search of
    Lost Domain Generalization", ICLR 2021.

    Examples
    --------
    >>> from torch import nn
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.finetune import FineTuneClassifier
    >>> from skdebias.methods import MMDAAE
    >>> X, y, attributes = make_spurious_classification(400, random_state=0)
    >>> clf = FineTuneClassifier(
    ...     DebiasedClassifier(MMDAAE(balance="class")),
    ...     nn.Sequential(nn.Linear(X.shape[1], 16), nn.ReLU()),
    ...     modality="tensor",
    ...     max_iter=2,
    ...     random_state=0,
    ... )
    >>> clf.fit(X, y, attributes).predict(X).shape
    (400,)
    """

    needs_network: ClassVar[str] = "an encoder, which a decoder has to invert"

    discrepancy: float = 1.0
    reconstruction: float = 0.1
    adversary: float = 0.1
    hidden_layer_sizes: tuple[int, ...] = ()
    balance: Literal["class"] | None = None

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """The decoder and the discriminator."""
        sizes = tuple(self.hidden_layer_sizes)
        return (
            Auxiliary("decoder", n_outputs="input", hidden_layer_sizes=sizes),
            Auxiliary("discriminator", n_outputs=1, hidden_layer_sizes=sizes),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The items, which the decoder restores."""
        return ("input",)

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
        MMDAAE

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        names = "discrepancy", "reconstruction", "adversary"
        check_numbers(self, dict.fromkeys(names, (0.0, np.inf)))
        check_choices(self, {"balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan, uniform over domains.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        return environment_plan(groups, self.balance)

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "AlignedAutoencoder":
        """Return what is minimised beside the cross-entropy.

        Parameters
        ----------
        methods : sequence of MMDAAE
            One, for a network.
        context : TrainingContext

        Returns
        -------
        AlignedAutoencoder
        """
        return AlignedAutoencoder(methods, context)


class AlignedAutoencoder:
    """Discrepancy of the domains, error of the decoder, and the adversary.

    Parameters
    ----------
    methods : sequence of MMDAAE
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[MMDAAE], context: TrainingContext) -> None:
        self._method = methods[0]
        self._domains = Environments(methods, context)
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
        method = self._method
        codes, items = forward.layer("embedding")[-1], forward.layer("input")[-1]
        weights = step.weights[0, :, -1]
        shares = weights / weights.sum()
        errors = (forward.auxiliary("decoder", codes) - items.detach()).square().mean(1)
        drawn = laplace(self._seed, step.number, codes.shape).to(codes.device)
        seen = forward.auxiliary("discriminator", codes.detach())[:, 0]
        true = forward.auxiliary("discriminator", drawn)[:, 0]
        deceived = forward.auxiliary("discriminator", codes, frozen=True)[:, 0]
        of_rows = (
            method.reconstruction * errors
            + method.adversary * softplus(-deceived)
            # The discriminator descends its own loss, whatever the others count.
            + (softplus(seen) + softplus(-true))
        )
        member = self._domains.member(step)[0] * weights
        value = (shares * of_rows).sum()
        value = value + method.discrepancy * discrepancy(codes, member)
        zeros = torch.zeros_like(forward.logits).detach()
        return PenaltyTerm(value[None, None], zeros)

    def end_epoch(self, coefs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return nothing for the history."""
        return {}

    def select(self, methods: Tensor) -> None:
        """Drop the state of other methods; there is none."""


def laplace(seed: int, number: int, shape: Sequence[int]) -> Tensor:
    """Draw from a Laplace distribution of mean 0 and variance 1.

    Parameters
    ----------
    seed, number : int
        As for :func:`uniform`.
    shape : sequence of int

    Returns
    -------
    Tensor of shape `shape`
    """
    # Of 2^24 equidistant numbers the first is 0, whose logarithm is not finite.
    centred = uniform(seed, number, "prior", shape) + 2.0**-25 - 0.5
    return -centred.sign() * torch.log1p(-2.0 * centred.abs()) * 0.5**0.5


def discrepancy(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy, meaned over pairs of parts.

    Parameters
    ----------
    rows : Tensor of shape (R, width)
    weights : Tensor of shape (P, R)
        Of the rows in each part; a part without weight is left out.

    Returns
    -------
    Tensor of shape ()
    """
    mass = weights.sum(1, keepdim=True)
    weights = (weights / mass.clamp_min(torch.finfo(mass.dtype).tiny))[mass[:, 0] > 0]
    if len(weights) < 2:
        return rows.sum() * 0.0
    # By products of rows, rounding would be more than what the narrow kernels see.
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(rows, rows, compute_mode=exact).square()
    kernel = torch.stack([torch.exp(-gamma * distances) for gamma in _GAMMAS]).sum(0)
    means = weights @ kernel @ weights.T
    own = means.diagonal()
    apart = own[:, None] + own - 2.0 * means
    n_parts = len(weights)
    return apart.sum() / (n_parts * (n_parts - 1))
