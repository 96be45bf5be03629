"""CORAL, MMD and CausIRL: hidden layers that look alike in every environment."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._distances import kernel_distance, pair_distance
from skdebias.methods._environments import Environments, environment_plan
from skdebias.methods._hidden import HiddenPenalty
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._random import uniform
from skdebias.methods._ranges import check_choices, check_numbers
from skdebias.methods._step import Step, TrainingContext

#: Inverse widths of the Gaussian kernels of MMD.
GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


@dataclass(frozen=True)
class FeatureAlignment(Method):
    """What methods share that draw the hidden layers of environments together."""

    stackable: ClassVar[tuple[str, ...]] = ("penalty_weight",)

    penalty_weight: float = 1.0
    balance: Literal["class"] | None = "class"

    @abstractmethod
    def distance(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Return how far the parts of a step are from each other.

        Parameters
        ----------
        rows : Tensor of shape (B, R, width)
            Hidden activations.
        shares : Tensor of shape (B, P, R)
            Weight of every row in every part, summing to one; zero throughout for a
            part that is left out.

        Returns
        -------
        Tensor of shape (B,)
            Mean over the pairs of parts.
        """

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
        FeatureAlignment

        Raises
        ------
        ValueError
            If a field is out of its range.
        """
        check_numbers(self, {"penalty_weight": (0.0, np.inf)})
        check_choices(self, {"balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan, uniform over environments.

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
    ) -> "EnvironmentDistance":
        """Return the penalty on the distance of the environments.

        Parameters
        ----------
        methods : sequence of FeatureAlignment
            As for :meth:`Method.penalty`.
        context : TrainingContext

        Returns
        -------
        EnvironmentDistance
        """
        return EnvironmentDistance(methods, context)


@dataclass(frozen=True)
class CORAL(FeatureAlignment):
    """Correlation alignment: hidden layers of the same moments in all environments.

    The environments are the attribute values. Minimised is the cross-entropy plus
    `penalty_weight` times the mean squared difference of the means of the last hidden
    layer, and that of its covariances, over the pairs of environments.

    The penalty acts on a representation: give the head hidden layers
    (`hidden_layer_sizes`), or train a whole network by
    :class:`~skdebias.finetune.FineTuneClassifier`, whose embedding counts as one. On a
    linear head it would have no gradient, and is refused. Of a network's step that is
    cut into passes (`accumulate`), every pass compares its own rows.

    Parameters
    ----------
    penalty_weight : float, default=1.0
        Factor of the penalty, at least 0; published searches go from 0.1 to 10. 0 is
        balanced training. Large ones want a smaller learning rate.
    balance : {None, "class"}, default="class"
        Environments are drawn alike; within each, draw the classes alike too, or rows
        as they come, as the papers do with their domains. Where the shares of the
        classes differ between environments, hidden layers that look alike contradict
        the labels; "class" avoids that.

    See Also
    --------
    MMD : Compares more than the first two moments.
    CausIRL : Compares random halves.

    Notes
    -----
    Needs attributes, or domains in their place. An environment with fewer than two rows
    in a step is left out there. One step costs `O(n_rows * width ** 2)` more for every
    environment.

    References
    ----------
    Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV
    Workshops 2016, equation 1; means and pairs as in Gulrajani and Lopez-Paz, "In
    Search of Lost Domain Generalization", ICLR 2021.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import CORAL
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(CORAL(), hidden_layer_sizes=(16,), random_state=0)
    >>> [coef.shape for coef in clf.fit(X, y, attributes=attributes).coefs_]
    [(20, 16), (16, 1)]
    """

    def distance(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Return how far the parts of a step are from each other.

        Parameters
        ----------
        rows : Tensor of shape (B, R, width)
            Hidden activations.
        shares : Tensor of shape (B, P, R)
            Weight of every row in every part, summing to one; zero throughout for a
            part that is left out.

        Returns
        -------
        Tensor of shape (B,)
            Mean over the pairs of parts.
        """
        present = shares.any(-1)
        means = shares @ rows
        covariances = []
        for mean, share in zip(means.unbind(1), shares.unbind(1)):
            away = rows - mean[:, None]
            # Of n rows of share 1 / n this is the estimate that divides by n - 1.
            unbiased = (1.0 - share.square().sum(1)).clamp_min(1e-6)[:, None, None]
            covariances.append(away.mT @ (away * share[..., None]) / unbiased)
        return pair_distance(means, present) + pair_distance(
            torch.stack(covariances, 1).flatten(2), present
        )


@dataclass(frozen=True)
class MMD(FeatureAlignment):
    """Maximum mean discrepancy: hidden layers of one distribution in all environments.

    As :class:`CORAL`, but the distance of two environments is the squared maximum mean
    discrepancy of their rows under a sum of Gaussian kernels, `sum_i exp(-gamma_i
    ||h - h'||^2)`, that is zero for equal distributions only.

    Parameters
    ----------
    penalty_weight : float, default=1.0
        Factor of the penalty, at least 0; published searches go from 0.1 to 10. 0 is
        balanced training.
    balance : {None, "class"}, default="class"
        As for :class:`CORAL`.
    gammas : tuple of float, default=(1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3)
        Positive inverse squared widths of the kernels.

    See Also
    --------
    CORAL : The cheaper distance of moments.

    Notes
    -----
    Needs attributes, and hidden layers or a network. One step costs `O(n_rows ** 2
    (width + len(gammas)))` more.

    References
    ----------
    Li, Pan, Wang and Kot, "Domain Generalization with Adversarial Feature Learning",
    CVPR 2018, equation 5, without its autoencoder; kernels as in Gulrajani and
    Lopez-Paz, "In Search of Lost Domain Generalization", ICLR 2021.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import MMD
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(MMD(), hidden_layer_sizes=(16,), random_state=0)
    >>> [coef.shape for coef in clf.fit(X, y, attributes=attributes).coefs_]
    [(20, 16), (16, 1)]
    """

    gammas: tuple[float, ...] = GAMMAS

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
        FeatureAlignment

        Raises
        ------
        ValueError
            If a field is out of its range.
        """
        check_gammas(self, self.gammas)
        return super().for_groups(groups, inferred=inferred)

    def distance(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Return how far the parts of a step are from each other.

        Parameters
        ----------
        rows : Tensor of shape (B, R, width)
            Hidden activations.
        shares : Tensor of shape (B, P, R)
            Weight of every row in every part, summing to one; zero throughout for a
            part that is left out.

        Returns
        -------
        Tensor of shape (B,)
            Mean over the pairs of parts.
        """
        return kernel_distance(rows, shares, self.gammas)


@dataclass(frozen=True)
class CausIRL(FeatureAlignment):
    """Causal invariance: random halves of a step have the same hidden distribution.

    At every step each environment, an attribute value, is cut at a random place. The
    first parts make one half, the rest the other; their mixtures of environments
    differ, and a representation that is invariant does not tell them apart. The
    distance of the halves, times `penalty_weight`, is added to the cross-entropy.

    Parameters
    ----------
    penalty_weight : float, default=1.0
        Factor of the penalty, at least 0; published searches go from 0.1 to 10. 0 is
        balanced training.
    balance : {None, "class"}, default="class"
        As for :class:`CORAL`.
    distance_of : {"coral", "mmd"}, default="coral"
        The distance of :class:`CORAL`, or of :class:`MMD`.
    gammas : tuple of float, default=(1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3)
        Of the kernels of "mmd".

    Notes
    -----
    Needs attributes, and hidden layers or a network; see :class:`CORAL`. The cuts come
    from seed and step number alone, so that the method is the same in any stack.

    References
    ----------
    Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through
    Distribution Matching", arXiv:2206.11646, algorithm 1.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import CausIRL
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> method = CausIRL(distance_of="mmd")
    >>> clf = DebiasedClassifier(method, hidden_layer_sizes=(16,), random_state=0)
    >>> [coef.shape for coef in clf.fit(X, y, attributes=attributes).coefs_]
    [(20, 16), (16, 1)]
    """

    distance_of: Literal["coral", "mmd"] = "coral"
    gammas: tuple[float, ...] = GAMMAS

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
        FeatureAlignment

        Raises
        ------
        ValueError
            If a field is out of its range.
        """
        check_choices(self, {"distance_of": ("coral", "mmd")})
        check_gammas(self, self.gammas)
        return super().for_groups(groups, inferred=inferred)

    def distance(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Return how far the parts of a step are from each other.

        Parameters
        ----------
        rows : Tensor of shape (B, R, width)
            Hidden activations.
        shares : Tensor of shape (B, P, R)
            Weight of every row in every part, summing to one; zero throughout for a
            part that is left out.

        Returns
        -------
        Tensor of shape (B,)
            Mean over the pairs of parts.
        """
        if self.distance_of == "coral":
            return CORAL().distance(rows, shares)
        return kernel_distance(rows, shares, self.gammas)

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "RandomHalves":
        """Return the penalty on the distance of random halves.

        Parameters
        ----------
        methods : sequence of CausIRL
            As for :meth:`Method.penalty`.
        context : TrainingContext

        Returns
        -------
        RandomHalves
        """
        return RandomHalves(methods, context)


class EnvironmentDistance(HiddenPenalty):
    """Distance of the hidden layers of the environments of a step.

    Parameters
    ----------
    methods : sequence of FeatureAlignment
    context : TrainingContext
    """

    def __init__(
        self, methods: Sequence[FeatureAlignment], context: TrainingContext
    ) -> None:
        super().__init__(methods, context, "penalty_weight")
        self._method = methods[0]
        self._environments = Environments(methods, context)

    def parts(self, step: Step) -> Tensor:
        """Return 1 where a row is of a part of the step, else 0: (S, P, R)."""
        return self._environments.member(step)

    def values(self, step: Step, rows: Tensor) -> Tensor:
        """Return the distance of the parts, as :class:`HiddenPenalty` says."""
        weights = step.weights.mT[:, :, None]
        shares = weights * self.parts(step)[:, None]  # (S, M, P, R)
        enough = (shares != 0).sum(-1, keepdim=True) > 1
        total = torch.where(enough, shares.sum(-1, keepdim=True), 1.0)
        shares = torch.where(enough, shares / total, 0.0)
        distance = self._method.distance(rows.flatten(0, 1), shares.flatten(0, 1))
        return distance.view(rows.shape[:2])


class RandomHalves(EnvironmentDistance):
    """Distance of the hidden layers of halves of a step, which cut every environment.

    Parameters
    ----------
    methods : sequence of CausIRL
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[CausIRL], context: TrainingContext) -> None:
        super().__init__(methods, context)
        self._seeds = context.seeds

    def parts(self, step: Step) -> Tensor:
        """Return 1 where a row is of a half of the step, else 0: (S, 2, R)."""
        member = super().parts(step)
        cuts = self._drawn(step, "cut", member.shape[1:2]).to(member.device)
        keys = self._drawn(step, "half", member.shape[2:]).to(member.device)
        # Of n rows whose keys are uniform, a uniform cut leaves any number from 0 to n
        # in the first half alike, and any rows.
        first = keys < cuts.gather(1, member.argmax(1))
        return torch.stack([first, ~first], 1).to(member.dtype)

    def _drawn(self, step: Step, purpose: str, shape: Sequence[int]) -> Tensor:
        """Return random numbers of every stream."""
        drawn = [uniform(seed, step.number, purpose, shape) for seed in self._seeds]
        return torch.stack(drawn)


def check_gammas(method: Method, gammas: tuple[float, ...]) -> None:
    """Refuse inverse widths of kernels that are none."""
    listed = isinstance(gammas, tuple | list) and len(gammas) > 0
    if not listed or not all(
        isinstance(g, int | float | np.number) and 0 < g < np.inf for g in gammas
    ):
        raise ValueError(
            f"gammas={gammas!r} of {type(method).__name__} must be a tuple of positive "
            "numbers, such as (0.1, 1.0, 10.0)."
        )
