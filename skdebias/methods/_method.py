"""What a debiasing method is: a sampling plan, a weighting rule, a penalty."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

from skdebias._groups import Groups
from skdebias.methods._head import Auxiliary, Head
from skdebias.methods._mixture import Mixing
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._step import (
    GroupObjective,
    Objective,
    Penalty,
    TrainingContext,
    TrainingResult,
    Weighting,
)


class Method(ABC):
    """Base class of the methods: frozen dataclasses of a method's hyper-parameters.

    A subclass answers which rows a step sees (:meth:`plan`), and where needed how much
    each of them counts given the current losses (:meth:`weighting`), what else is
    minimised (:meth:`objective`, of the logits alone, or :meth:`penalty`), which heads
    there are (:attr:`heads`), and what it learned beside them (:meth:`learned`).
    :doc:`/user_guide/own_method` tells more.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import Batch, Method, SamplingPlan
    >>> @dataclass(frozen=True)
    ... class PowerBalance(Method):
    ...     power: float = 0.5
    ...
    ...     def plan(self, groups):
    ...         share = groups.counts ** (1.0 - self.power)
    ...         return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),))
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(PowerBalance(1.0), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).coef_.shape
    (1, 20)
    """

    #: Names of the fields in which the methods of one stack may differ. Those of
    #: another `structure` are different stacks all the same.
    stackable: ClassVar[tuple[str, ...]] = ()
    #: Whether the method can train whole networks, not only their last layers.
    trains_networks: ClassVar[bool] = True
    #: Whether steps see rows without labels too: a batch beside those of the plan, as
    #: large as each of them, of the rows that `fit` is given as `X_unlabeled`. They
    #: have no loss, and the objective is told of them by :attr:`Step.y`, which is -1.
    uses_unlabeled: ClassVar[bool] = False
    #: Whether every head is a result of its own. They all have names then, and rows of
    #: the validation set choose which of them becomes `coef_`; the first, without any.
    heads_are_alternatives: ClassVar[bool] = False
    #: Whether steps see rows of the validation set too: a batch beside those of the
    #: plan, as large as each of them, of all its groups alike. They have no weight, and
    #: their strata are numbered after those of the plan.
    uses_validation: ClassVar[bool] = False
    #: What of a whole network the method needs, such as "an early layer"; it is refused
    #: by name where heads on embeddings are trained. None trains these too.
    needs_network: ClassVar[str | None] = None
    #: Whether the head of every network reads the embeddings of all of them, its own
    #: first. It trains its own backbone alone.
    joint_embeddings: ClassVar[bool] = False
    #: Name of the head whose failures the last one learns from. A last head that has
    #: lost much of what this one can do is warned of.
    reference_head: ClassVar[str | None] = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that are trained side by side; the last one is the result.

        Of alternatives, any of them can be: see :attr:`heads_are_alternatives`.
        """
        return (Head(),)

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return len(self.heads)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of whole networks that the penalty asks for, see `ForwardPass`."""
        return ()

    @property
    def auxiliaries(self) -> tuple[Auxiliary, ...]:
        """Small heads on layers of the network of the result, in training only."""
        return ()

    @property
    def uses_attributes(self) -> bool:
        """Whether attributes change what is trained."""
        return True

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the methods of a stack agree in, whatever fields it comes of.

        The number of heads; and what fields named in `stackable` change of the strata,
        blocks, `replacement` or `shared` of the plan, if they do at some of their
        values.
        """
        return (self.n_heads,)

    @property
    def not_convex(self) -> str | None:
        """What keeps the objective of linear heads from being convex, if anything."""
        return None

    def fixed_fields(self) -> dict[str, Any]:
        """Return the fields in which the methods of a stack agree.

        Returns
        -------
        dict of str to object
            Values by name.
        """
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return {n: getattr(self, n) for n in names if n not in self.stackable}

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method as it is trained on these groups.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        Method
            This one, unless its hyper-parameters depend on the groups.

        Raises
        ------
        ValueError
            If the hyper-parameters do not go with the groups.
        """
        return self

    @property
    def strength(self) -> float | None:
        """How far the method goes from plain training; None if it has no measure."""
        return None

    def candidates(self, groups: Groups) -> tuple[Self, ...]:
        """Return the methods that a fit chooses from on held-out rows.

        They may be trained on parts of the groups. Where nothing is held out,
        :meth:`for_groups` says which one is trained.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows, whose attributes are known.

        Returns
        -------
        tuple of Method
            This one alone, unless a hyper-parameter is left open.
        """
        return (self,)

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return what training showed, beside the heads.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        fitted : TrainingResult

        Returns
        -------
        dict of str to object
            Fitted attributes of an estimator, whose names end with an underscore.
        """
        return {}

    def check_result(self, fitted: TrainingResult) -> None:  # noqa: B027, optional
        """Warn if the result is not what the method is for.

        Parameters
        ----------
        fitted : TrainingResult
        """

    @abstractmethod
    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the sampling plan.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """

    @classmethod
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> Weighting | None:
        """Return the weighting rule of a stack, or None if weights never change.

        Parameters
        ----------
        methods : sequence of Method
            The methods of one stream, the same in every stream but for their position:
            `S * n_methods` of them, streams in order.
        context : TrainingContext

        Returns
        -------
        Weighting or None
        """
        return None

    @classmethod
    def mixing(cls, methods: Sequence[Self], context: TrainingContext) -> Mixing | None:
        """Return the rule that mixes the rows of a step, or None.

        A method that mixes rows has neither objective nor penalty, no `logit_offsets`
        and no rows without labels.

        Parameters
        ----------
        methods : sequence of Method
            As for :meth:`weighting`.
        context : TrainingContext

        Returns
        -------
        Mixing or None
        """
        return None

    @classmethod
    def objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> Objective | None:
        """Return what a stack minimises of its logits beside the losses, or None.

        Parameters
        ----------
        methods : sequence of Method
            As for :meth:`weighting`.
        context : TrainingContext

        Returns
        -------
        Objective or None
        """
        return None

    @classmethod
    def group_objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> GroupObjective | None:
        """Return the deterministic objective, or None where it is a weighted sum.

        A method whose rule changes weights during training has one only if it says so
        here.

        Parameters
        ----------
        methods : sequence of Method
            The problems of the deterministic solver, one head each.
        context : TrainingContext
            Of one stream.

        Returns
        -------
        GroupObjective or None
        """
        return None

    @classmethod
    def penalty(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> Penalty | None:
        """Return the penalty of a stack, or None.

        Parameters
        ----------
        methods : sequence of Method
            As for :meth:`weighting`.
        context : TrainingContext

        Returns
        -------
        Penalty or None
        """
        return None
