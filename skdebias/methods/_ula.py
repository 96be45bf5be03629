"""ULA: logits shifted by what a biased model knows of the label."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._ranges import check_numbers
from skdebias.methods._step import TrainingResult


@dataclass(frozen=True)
class ULA(Method):
    """Unsupervised logit adjustment: the head learns what a biased model does not know.

    The attribute of a row is the class that a biased model predicts for it (see
    :class:`~skdebias.attributes.PredictedClassPseudoAttributes`). In training, `tau log
    p(y | prediction)` is added to the logits, `p` being the shares of the training
    rows: what the prediction tells of the label is there already, and need not be
    learned. Known attributes in the place of predictions adjust by `p(y | attribute)`.

    The objective is convex for linear heads: choose `solver="lbfgs"`. In its first
    epochs a stochastic solver gets little from rows that the shifts already explain.

    Parameters
    ----------
    tau : float, default=1.0
        Strength of the adjustment, at least 0; tried are 0.5, 1 and 1.5. 0 is ERM.
    smoothing : float, default=1.0
        Rows that are added to every cell of label and attribute before the shares are
        taken, at least 1e-6: an empty cell has no logarithm.

    See Also
    --------
    LC : The same with the predictions of a head that is trained at the same time.

    Notes
    -----
    Needs a biased model, or attributes; costs one training beside it. On frozen
    embeddings it is as good as the biased model is biased: where that is right, it
    shifts by the label itself. The paper's model selection, the accuracy that is
    balanced over label and prediction, is `selection="worst_inferred_group"` in kind.

    References
    ----------
    Tsirigotis, Monteiro, Rodriguez, Vazquez and Courville, "Group Robust Classification
    Without Any Group Information", NeurIPS 2023 (logit adjustment of Menon et al.,
    ICLR 2021, by the prediction).

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.attributes import PredictedClassPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import ULA
    >>> X, y, _ = make_spurious_classification(500, random_state=0)
    >>> biased = PredictedClassPseudoAttributes()
    >>> clf = DebiasedClassifier(ULA(), pseudo_attributes=biased, solver="lbfgs")
    >>> clf.fit(X, y).label_shares_.shape
    (2, 2)
    """

    stackable: ClassVar[tuple[str, ...]] = ("tau", "smoothing")

    tau: float = 1.0
    smoothing: float = 1.0

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
        ULA

        Raises
        ------
        ValueError
            If a field is out of its range.
        """
        check_numbers(self, {"tau": (0.0, np.inf), "smoothing": (1e-6, np.inf)})
        return self

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of all rows as they come, with offsets.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
        """
        offsets = self.tau * np.log(self._label_shares(groups))
        return SamplingPlan(
            groups.ids,
            (Batch("all", groups.counts / groups.counts.sum()),),
            replacement=False,
            logit_offsets=offsets[groups.cells[:, 1]],
        )

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return the shares of the labels.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        fitted : TrainingResult

        Returns
        -------
        dict
            `label_shares_` of shape (n_attributes, n_classes), whose rows sum to one.
        """
        return {"label_shares_": self._label_shares(groups)}

    def _label_shares(self, groups: Groups) -> NDArray[np.float64]:
        """Shares of the labels given the attribute, (n_attributes, n_classes)."""
        counts = np.full((groups.n_attributes, groups.n_classes), float(self.smoothing))
        np.add.at(counts, (groups.cells[:, 1], groups.cells[:, 0]), groups.counts)
        return counts / counts.sum(1, keepdims=True)
