"""Pseudo-attributes from the confidence of a biased reference model."""

from numbers import Real

import numpy as np

from skdebias._auto import with_numbers
from skdebias._erm import ERMClassifier, HeadFactory
from skdebias._sklearn import HasMethods, Interval
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.methods import least_confident


class ConfidencePseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes from the confidence of a biased model [1]_.

    Parameters
    ----------
    t : float, default=0.2
        Fraction of each class that becomes the pseudo-minority, in (0, 1); of its
        weight, where rows have weights.
    reference_estimator : classifier, default=None
        The biased model, with `predict_proba`. None trains a linear head on
        class-balanced batches with a tenth of the default learning rate and twice the
        default weight decay, as the paper does.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        1 for the pseudo-minority, 0 for the rest.
    thresholds_ : ndarray of shape (n_classes,)
        The largest confidence of each class's pseudo-minority. :meth:`predict` marks
        the rows that do not exceed it, which need not be a fraction `t` of them.
    reference_estimator_ : classifier
        The fitted biased model.

    See Also
    --------
    ErrorSetPseudoAttributes : Marks the rows that the model gets wrong.

    References
    ----------
    .. [1] Asaad, Shadaydeh and Denzler, "Gradient Extrapolation for Debiased
       Representation Learning", ICCV 2025, algorithm 2.

    Examples
    --------
    >>> from skdebias.attributes import ConfidencePseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(400, random_state=0)
    >>> pseudo = ConfidencePseudoAttributes(t=0.1).fit_predict(X, y)
    >>> bool((pseudo.sum() == sum((y == k).sum() // 10 for k in (0, 1))).all())
    True
    """

    _parameter_constraints: dict = {
        "t": [Interval(Real, 0, 1, closed="neither")],
        "reference_estimator": [HasMethods(["fit", "predict_proba"]), None],
    }

    def __init__(self, t=0.2, *, reference_estimator=None):
        self.t = t
        self.reference_estimator = reference_estimator

    def _infer(self, X, y, validation, sample_weight):
        default = biased_reference(ERMClassifier(random_state=0))
        model = self._fit_reference(default, X, y, validation, sample_weight)
        codes = np.searchsorted(self.classes_, y)
        probability = model.predict_proba(X)
        self._is_easy = probability.argmax(axis=1) == codes
        confidence = probability[np.arange(len(codes)), codes]
        marked = least_confident(confidence, codes, self.t, sample_weight)
        minority = np.where(marked == 1, confidence, -np.inf)
        self.thresholds_ = np.full(len(self.classes_), -np.inf)
        np.maximum.at(self.thresholds_, codes, minority)
        return marked

    def _assign(self, X, codes):
        probability = self.reference_estimator_.predict_proba(X)
        confidence = probability[np.arange(len(codes)), codes]
        return (confidence <= self.thresholds_[codes]).astype(np.int64)


def biased_reference(estimator, models=None):
    """Return the paper's biased model for a debiased one of the same architecture.

    Parameters
    ----------
    estimator : BaseDebiasedClassifier
        Its shared parameters are taken over.
    models : HeadFactory or alike, default=None
        Makes the model. None makes a head.

    Returns
    -------
    classifier
        ERM on class-balanced batches, learning rate divided by 10, weight decay
        doubled, epoch selected by the mean recall of the classes.
    """
    numbered = with_numbers(estimator, groups_known=False)
    return (models or HeadFactory(estimator)).erm(
        balance="class",
        learning_rate=estimator.learning_rate / 10,
        weight_decay=numbered.weight_decay * 2,
        selection="group_balanced",
    )
