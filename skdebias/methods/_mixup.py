"""Mixup and LISA: training on mixtures of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from skdebias._groups import Groups
from skdebias.methods._environments import Environments, environment_plan, per_method
from skdebias.methods._erm import ERM
from skdebias.methods._method import Method
from skdebias.methods._mixture import DrawnRows, Mixture
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._random import uniform
from skdebias.methods._ranges import check_choices, check_numbers
from skdebias.methods._running_sum import running_sum
from skdebias.methods._step import TrainingContext


@dataclass(frozen=True)
class Mixup(Method):
    """Mixtures of pairs of rows, with mixed labels.

    A row becomes `w x_i + (1 - w) x_j`, and its loss `w L(y_i) + (1 - w) L(y_j)`. The
    share `w` is drawn from Beta(alpha, alpha), one for each step.

    Parameters
    ----------
    alpha : float, default=0.2
        At least 0. 0 mixes nothing, and large values mix half and half. Published
        searches go over 0.1 to 10.
    pairs : {"any", "domain"}, default="any"
        Mix with any row of the step, or with rows of another attribute value, of which
        a step then has the same numbers of rows.
    balance : {None, "class"}, default=None
        Draw the rows as they come or the classes alike; with `pairs="domain"`, within
        every attribute value.

    Notes
    -----
    `pairs="any"` needs no attributes, `pairs="domain"` those of the training rows.
    Costs one more loss of every row; networks read two items for one. Heads mix at
    their input, hidden layers or not; networks mix the prepared items, which texts do
    not allow.

    It makes heads less sure of themselves, and helps where a network overfits. It does
    not look for groups: where an attribute is spurious, take :class:`LISA`.

    References
    ----------
    Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization",
    ICLR 2018, equations 1 and 2; pairs of domains as in Gulrajani and Lopez-Paz, "In
    Search of Lost Domain Generalization", ICLR 2021.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import Mixup
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(Mixup(alpha=0.5), random_state=0)
    >>> clf.fit(X, y).coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: float = 0.2
    pairs: Literal["any", "domain"] = "any"
    balance: Literal["class"] | None = None

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return self.pairs == "domain"

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
        Mixup

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_numbers(self, {"alpha": (0.0, np.inf)})
        check_choices(self, {"pairs": ("any", "domain"), "balance": (None, "class")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of plain or class-balanced training, or uniform over domains.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        if self.pairs == "domain":
            return environment_plan(groups, self.balance)
        return ERM(balance=self.balance).plan(groups)

    @classmethod
    def mixing(cls, methods: Sequence[Self], context: TrainingContext) -> "RandomPairs":
        """Return the rule that mixes the rows.

        Parameters
        ----------
        methods : sequence of Mixup
            As for :meth:`Method.mixing`.
        context : TrainingContext

        Returns
        -------
        RandomPairs
        """
        domains = methods[0].pairs == "domain"
        return (OtherDomain if domains else RandomPairs)(methods, context)


@dataclass(frozen=True)
class LISA(Method):
    """Mixtures of rows that share the class or the attribute, and not both.

    Each step mixes its rows with probability `p_sel` with rows of the same class and
    another attribute value, which takes from the attribute what it says of the class;
    else with rows of another class and the same attribute value. The share is drawn
    from Beta(alpha, alpha), one for each step.

    Parameters
    ----------
    alpha : float, default=2.0
        At least 0; 0 mixes nothing. Published searches go over 0.1 to 10.
    p_sel : float, default=0.5
        Probability of mixing within classes, in [0, 1].
    balance : {None, "class", "group"}, default=None
        Draw the rows as they come, or the classes or (label, attribute) groups alike.
        Every group has at least one row in a step.

    Notes
    -----
    Needs the attributes of the training rows. A row without a partner of the kind that
    is asked for, such as one of a class with one attribute value, stays as it is. Costs
    one more loss of every row; networks read two items for one. Heads mix at their
    input, hidden layers or not; networks mix the prepared items, which texts do not
    allow. CutMix, which the authors use for some images, is not offered.

    Take it where groups are known and small: it makes more of their rows than drawing
    them more often does. `alpha` goes into stacks; values of `p_sel` are trained in
    stacks of their own.

    References
    ----------
    Yao et al., "Improving Out-of-Distribution Robustness via Selective Augmentation",
    ICML 2022, algorithm 1.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import LISA
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(LISA(), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).coef_.shape
    (1, 20)
    """

    stackable: ClassVar[tuple[str, ...]] = ("alpha",)

    alpha: float = 2.0
    p_sel: float = 0.5
    balance: Literal["class", "group"] | None = None

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
        LISA

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        check_numbers(self, {"alpha": (0.0, np.inf), "p_sel": (0.0, 1.0)})
        check_choices(self, {"balance": (None, "class", "group")})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan over groups.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        share = np.asarray(groups.counts, dtype=float)
        classes = groups.cells[:, 0]
        if self.balance == "group":
            share = np.ones(len(share))
        elif self.balance == "class":
            share = share / np.bincount(classes, share)[classes]
        return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),))

    @classmethod
    def mixing(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> "SelectivePairs":
        """Return the rule that mixes the rows.

        Parameters
        ----------
        methods : sequence of LISA
            As for :meth:`Method.mixing`.
        context : TrainingContext

        Returns
        -------
        SelectivePairs
        """
        return SelectivePairs(methods, context)


class RandomPairs:
    """Every row of a step with another one, at random.

    Parameters
    ----------
    methods : sequence of Mixup or LISA
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[Any], context: TrainingContext) -> None:
        self._alpha = per_method(methods, context, "alpha").cpu().double()
        self._seeds = context.seeds

    def __call__(self, drawn: DrawnRows) -> Mixture:
        """Return how the rows of a step are mixed.

        Parameters
        ----------
        drawn : DrawnRows

        Returns
        -------
        Mixture
        """
        device, (n_streams, n_rows) = drawn.y.device, drawn.y.shape
        share = self._shares(drawn.number).to(device)[:, None]
        numbers = self._uniform(drawn.number, "partners", n_rows).to(device)
        partners = self._partners(drawn, numbers)
        return Mixture(partners, share.expand(n_streams, n_rows, -1))

    def select(self, methods: Tensor) -> None:
        """Drop all other methods."""
        self._alpha = self._alpha[:, methods.cpu()]

    def _uniform(self, number: int, purpose: str, size: int) -> Tensor:
        """Uniform numbers of every stream, (S, size)."""
        drawn = [uniform(seed, number, purpose, (size,)) for seed in self._seeds]
        return torch.stack(drawn)

    def _shares(self, number: int) -> Tensor:
        """Share of every row itself, (S, n_methods).

        The quantile of one uniform number, so that methods side by side do not matter.
        """
        level = self._uniform(number, "share", 1).double()
        alpha = self._alpha.clamp_min(1e-3).numpy()
        share = torch.from_numpy(betaincinv(alpha, alpha, level.numpy()))
        return torch.where(self._alpha > 0, share, 1.0).float()

    def _partners(self, drawn: DrawnRows, numbers: Tensor) -> Tensor:
        """Slots of the partners: every row is that of one other."""
        return numbers.argsort(1)


class OtherDomain(RandomPairs):
    """Every row of a step with one of another attribute value.

    Parameters
    ----------
    methods : sequence of Mixup
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[Any], context: TrainingContext) -> None:
        super().__init__(methods, context)
        self._environments = Environments(methods, context)

    def _partners(self, drawn: DrawnRows, numbers: Tensor) -> Tensor:
        member = self._environments.member(drawn)  # (S, E, R)
        together = torch.bmm(member.transpose(1, 2), member) > 0
        return draw_partners(~together, drawn.weights[..., 0], numbers)


class SelectivePairs(RandomPairs):
    """Rows of one class, or of one attribute value, that differ in the other.

    Parameters
    ----------
    methods : sequence of LISA
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[LISA], context: TrainingContext) -> None:
        super().__init__(methods, context)
        self._p_sel = methods[0].p_sel
        cells = [torch.from_numpy(groups.cells[:, 1]) for groups in context.groups]
        table = torch.nn.utils.rnn.pad_sequence(cells, batch_first=True)
        self._attributes = table.to(context.device)

    def _partners(self, drawn: DrawnRows, numbers: Tensor) -> Tensor:
        attributes = self._attributes.gather(1, drawn.strata)
        same_class, same_attribute = (
            codes[:, :, None] == codes[:, None] for codes in (drawn.y, attributes)
        )
        coin = self._uniform(drawn.number, "strategy", 1).to(drawn.y.device)
        within_class = (coin < self._p_sel)[..., None]
        allowed = torch.where(
            within_class, same_class & ~same_attribute, same_attribute & ~same_class
        )
        return draw_partners(allowed, drawn.weights[..., 0], numbers)


def draw_partners(allowed: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
    """Return partners at random, by their weights; a row without any is its own.

    Parameters
    ----------
    allowed : Tensor of shape (S, R, R), bool
        Whether a row may be mixed with another one.
    weights : Tensor of shape (S, R)
        Of the partners.
    numbers : Tensor of shape (S, R)
        In [0, 1).

    Returns
    -------
    Tensor of shape (S, R)
        Slots.

    Examples
    --------
    >>> import torch
    >>> allowed = torch.tensor([[[0, 1, 1], [1, 0, 0], [0, 0, 0]]]).bool()
    >>> draw_partners(allowed, torch.ones(1, 3), torch.full((1, 3), 0.6))
    tensor([[2, 0, 2]])
    """
    sums = running_sum((allowed * weights[:, None]).double(), 2)
    total = sums[..., -1]
    # A little less than the number says: never beyond the last that is allowed.
    reached = numbers.double() * total * (1.0 - 1e-12)
    found = (sums <= reached[..., None]).sum(2)
    own = torch.arange(allowed.shape[1], device=allowed.device)
    return torch.where(total > 0, found, own)
