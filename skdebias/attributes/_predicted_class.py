"""Pseudo-attributes that are the predictions of a biased model."""

import numpy as np

from skdebias._erm import ERMClassifier
from skdebias._sklearn import HasMethods
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.attributes._error_set import EmptyErrorSetError


class PredictedClassPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes that are the classes a biased model predicts.

    A model that relies on a shortcut predicts the class that the shortcut goes with.
    :class:`~skdebias.methods.CnC` [1]_ contrasts rows by these predictions, and
    :class:`~skdebias.methods.ULA` [2]_ shifts logits by them. Unlike error sets, they
    tell several classes apart.

    Parameters
    ----------
    reference_estimator : classifier, default=None
        The biased model. None trains a linear head on class-balanced batches with a
        weight decay of 10, which leaves it little but the shortcut. It must make
        mistakes on its own training rows.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        Index into `classes_` of the predicted class.
    reference_estimator_ : classifier
        The fitted biased model.

    See Also
    --------
    ErrorSetPseudoAttributes : Marks the rows that the model gets wrong.

    References
    ----------
    .. [1] Zhang et al., "Correct-N-Contrast", ICML 2022.
    .. [2] Tsirigotis et al., "Group Robust Classification Without Any Group
       Information", NeurIPS 2023.

    Examples
    --------
    >>> from skdebias.attributes import PredictedClassPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(400, random_state=0)
    >>> inferrer = PredictedClassPseudoAttributes().fit(X, y)
    >>> predicted = inferrer.reference_estimator_.predict(X)
    >>> bool((inferrer.pseudo_attributes_ == predicted).all())
    True
    """

    _parameter_constraints: dict = {
        "reference_estimator": [HasMethods(["fit", "predict"]), None],
    }

    def __init__(self, *, reference_estimator=None):
        self.reference_estimator = reference_estimator

    def _infer(self, X, y, validation, sample_weight):
        default = ERMClassifier("class", weight_decay=10.0, random_state=0)
        model = self._fit_reference(default, X, y, validation, sample_weight)
        predicted = model.predict(X)
        self._is_easy = predicted == np.asarray(y)
        if self._is_easy.all():
            raise EmptyErrorSetError(
                "reference_estimator makes no mistake on the training rows, so that "
                "its predictions say nothing beside the labels: train it for fewer "
                "epochs (max_iter) or with more weight_decay."
            )
        return self._codes(predicted)

    def _assign(self, X, codes):
        return self._codes(self.reference_estimator_.predict(X))

    def _codes(self, predicted):
        return np.searchsorted(self.classes_, predicted).astype(np.int64)
