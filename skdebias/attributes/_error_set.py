"""Pseudo-attributes from the errors of a reference model."""

import numpy as np

from skdebias._erm import ERMClassifier
from skdebias._sklearn import HasMethods
from skdebias.attributes._base import BasePseudoAttributes


class EmptyErrorSetError(ValueError):
    """Warning that the first-stage model makes no mistake on its training rows."""


class ErrorSetPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes from the errors of a briefly trained model (JTT) [1]_.

    With two classes EIIL's environments [2]_ are the same split: the environment that
    maximises the IRM penalty of a fixed reference model is the sign of the loss's
    derivative in the scale of the logits.

    Parameters
    ----------
    reference_estimator : classifier, default=None
        The first-stage model. None trains a linear head for one epoch. It must make
        mistakes on its own training rows.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        1 for the rows that are misclassified, 0 for the rest.
    reference_estimator_ : classifier
        The fitted first-stage model.

    See Also
    --------
    ConfidencePseudoAttributes : Marks a fixed fraction of every class.

    References
    ----------
    .. [1] Liu et al., "Just Train Twice", ICML 2021.
    .. [2] Creager, Jacobsen and Zemel, "Environment Inference for Invariant Learning",
       ICML 2021.

    Examples
    --------
    >>> from skdebias import ERMClassifier
    >>> from skdebias.attributes import ErrorSetPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(400, random_state=0)
    >>> weak = ERMClassifier(max_iter=1, random_state=0)
    >>> pseudo = ErrorSetPseudoAttributes(reference_estimator=weak).fit_predict(X, y)
    >>> bool((pseudo == (weak.fit(X, y).predict(X) != y)).all())
    True
    """

    _parameter_constraints: dict = {
        "reference_estimator": [HasMethods(["fit", "predict"]), None],
    }

    def __init__(self, *, reference_estimator=None):
        self.reference_estimator = reference_estimator

    def _infer(self, X, y, validation, sample_weight):
        default = ERMClassifier(max_iter=1, random_state=0)
        model = self._fit_reference(default, X, y, validation, sample_weight)
        self._is_easy = model.predict(X) == np.asarray(y)
        errors = (~self._is_easy).astype(np.int64)
        if not errors.any():
            raise EmptyErrorSetError(
                "reference_estimator makes no mistake on the training rows, so that "
                "its error set is empty: train it for fewer epochs (max_iter) or with "
                "more weight_decay."
            )
        return errors

    def _assign(self, X, codes):
        wrong = self.reference_estimator_.predict(X) != self.classes_[codes]
        return wrong.astype(np.int64)
