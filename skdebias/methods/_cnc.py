"""CnC: rows of a class that a first model tells apart are drawn together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from skdebias._groups import Groups
from skdebias.methods._environments import per_method
from skdebias.methods._erm import ERM
from skdebias.methods._hidden import HiddenPenalty
from skdebias.methods._method import Method
from skdebias.methods._plan import SamplingPlan
from skdebias.methods._ranges import check_numbers
from skdebias.methods._step import Step, TrainingContext


@dataclass(frozen=True)
class CnC(Method):
    """Correct-n-contrast: contrastive second stage behind a biased first model.

    The attribute of a row is the class that the first model predicts for it (see
    :class:`~skdebias.attributes.PredictedClassPseudoAttributes`). Anchors are rows that
    it gets right, the positives of an anchor are rows of its class of which it predicts
    another, and the negatives rows of other classes of which it predicts the same.
    Minimised is `weight` times the contrastive loss of the last hidden layer, and
    `1 - weight` times the cross-entropy, on steps in which all (label, prediction)
    groups are alike.

    The penalty acts on a representation: give the head hidden layers
    (`hidden_layer_sizes`), or train a whole network by
    :class:`~skdebias.finetune.FineTuneClassifier`. A linear head is refused. Of a
    network's step that is cut into passes (`accumulate`), every pass contrasts its own
    rows.

    Parameters
    ----------
    weight : float, default=0.75
        Share of the contrastive loss, in [0, 0.99]. 0 is ERM that is balanced over
        (label, prediction) groups.
    temperature : float, default=0.1
        Of the cosine similarities, at least 1e-3; published values are 0.05 and 0.1.

    See Also
    --------
    CORAL : Aligns known environments.

    Notes
    -----
    Needs a first model, or attributes: with these, the anchors of a class are the rows
    whose attribute value it is most associated with, by the residuals of Pearson. That
    of predictions is the class itself. One step costs `O(n_rows ** 2 width)` more.

    Published are 17 to 64 anchors, positives and negatives each; here they are all rows
    of the step.

    References
    ----------
    Zhang, Sohoni, Zhang, Finn and Ré, "Correct-N-Contrast: A Contrastive Approach for
    Improving Robustness to Spurious Correlations", ICML 2022, equations 5 and 6.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.attributes import PredictedClassPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import CnC
    >>> X, y, _ = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(
    ...     CnC(),
    ...     pseudo_attributes=PredictedClassPseudoAttributes(),
    ...     hidden_layer_sizes=(16,),
    ...     random_state=0,
    ... )
    >>> [coef.shape for coef in clf.fit(X, y).coefs_]
    [(20, 16), (16, 1)]
    """

    stackable: ClassVar[tuple[str, ...]] = ("weight", "temperature")

    weight: float = 0.75
    temperature: float = 0.1

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
        CnC

        Raises
        ------
        ValueError
            If a field is out of its range.
        """
        check_numbers(self, {"weight": (0.0, 0.99), "temperature": (1e-3, np.inf)})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan, uniform over groups.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        plan = ERM(balance="group").plan(groups)
        (batch,) = plan.batches
        return replace(plan, batches=(replace(batch, factor=1.0 - self.weight),))

    @classmethod
    def penalty(cls, methods: Sequence[Self], context: TrainingContext) -> "Contrast":
        """Return the contrastive penalty.

        Parameters
        ----------
        methods : sequence of CnC
            As for :meth:`Method.penalty`.
        context : TrainingContext

        Returns
        -------
        Contrast
        """
        return Contrast(methods, context)


class Contrast(HiddenPenalty):
    """Supervised contrastive loss of the anchors of a step.

    Parameters
    ----------
    methods : sequence of CnC
    context : TrainingContext
    """

    def __init__(self, methods: Sequence[CnC], context: TrainingContext) -> None:
        super().__init__(methods, context, "weight")
        self._temperature = per_method(methods, context, "temperature")
        codes = [groups.cells[:, 1] for groups in context.groups]
        anchors = [anchor_groups(groups) for groups in context.groups]
        self._attributes = _padded(codes).to(context.device)
        self._is_anchor = _padded(anchors).to(context.device)

    def select(self, methods: Tensor) -> None:
        """Drop the state of all other methods."""
        super().select(methods)
        self._temperature = self._temperature[:, methods]

    def values(self, step: Step, rows: Tensor) -> Tensor:
        """Return the mean loss of the anchors, as :class:`HiddenPenalty` says."""
        attributes = self._attributes.gather(1, step.strata)
        same_class = step.y[:, :, None] == step.y[:, None]
        same_attribute = attributes[:, :, None] == attributes[:, None]
        # Rows that only fill a pass up have no weight.
        used = (step.weights != 0).any(-1)[:, None]
        positive = (same_class & ~same_attribute & used)[:, None]  # (S, 1, R, R)
        negative = (~same_class & same_attribute & used)[:, None]
        anchor = self._is_anchor.gather(1, step.strata)[:, None] & used
        anchor = anchor & positive.any(-1) & negative.any(-1)  # (S, 1, R)
        units = normalize(rows, dim=-1, eps=1e-6)
        similarity = units @ units.mT / self._temperature[..., None, None]
        contrasted = similarity.masked_fill(~(positive | negative), -torch.inf)
        # Rows without positives or negatives are no anchors; their -inf is not used.
        total = contrasted.masked_fill(~anchor[..., None], 0.0).logsumexp(-1)
        n_positives = positive.sum(-1).clamp_min(1)
        mean = (similarity * positive).sum(-1) / n_positives
        n_anchors = anchor.sum(-1).clamp_min(1)
        return ((total - mean) * anchor).sum(-1) / n_anchors


def anchor_groups(groups: Groups) -> NDArray[np.bool_]:
    """Return which groups have the attribute value that their class goes with.

    Parameters
    ----------
    groups : Groups

    Returns
    -------
    ndarray of shape (n_groups,)
        True for one group of every class: that of the largest residual of Pearson
        against independence.

    Examples
    --------
    >>> from skdebias.methods import Groups
    >>> y, predicted = [0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0, 1]
    >>> groups = Groups.from_labels(y, predicted, 2, 2)
    >>> groups.cells[anchor_groups(groups)].tolist()
    [[0, 0], [1, 1]]
    """
    y, attributes = groups.cells.T
    of_class = np.bincount(y, groups.counts)[y]
    of_attribute = np.bincount(attributes, groups.counts)[attributes]
    expected = of_class * of_attribute / groups.counts.sum()
    residual = (groups.counts - expected) / np.sqrt(expected)
    largest = np.full(groups.n_classes, -np.inf)
    np.maximum.at(largest, y, residual)
    return residual == largest[y]


def _padded(values: Sequence[NDArray[Any]]) -> Tensor:
    """Stack arrays of an entry per group; streams may have fewer groups than others."""
    table = np.zeros((len(values), max(map(len, values))), values[0].dtype)
    for row, of_stream in zip(table, values):
        row[: len(of_stream)] = of_stream
    return torch.from_numpy(table)
