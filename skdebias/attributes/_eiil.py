"""Pseudo-attributes that make the IRM penalty of a reference model largest (EIIL)."""

from numbers import Integral, Real

import numpy as np
import torch
from scipy.special import xlogy
from scipy.stats import norm

from skdebias._erm import ERMClassifier
from skdebias._prepare import draw_seed
from skdebias._sklearn import HasMethods, Interval, StrOptions
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.attributes._error_set import EmptyErrorSetError
from skdebias.methods import uniform

_TINY = np.finfo(np.float64).tiny


class EIILPseudoAttributes(BasePseudoAttributes):
    """Environments that make the IRM penalty of a reference model largest (EIIL) [1]_.

    With the loss of row i derived in the scale of its logits, `g_i`, the penalty of two
    environments is the sum of the squared means of `g` over each. It is convex in the
    shares of the rows in the environments, so that it is largest where one holds the
    rows with `g_i > 0` and the other the rest: no optimisation is needed. `g_i` is the
    loss of the row less the entropy of its predicted probabilities: a row is in the
    environment 1 if the reference is worse on it than it expects to be.

    With two classes these are exactly the rows that the reference gets wrong, those of
    :class:`ErrorSetPseudoAttributes`. What JTT and EIIL differ in is what they do next:
    EIIL trains :class:`~skdebias.methods.IRM`, or GroupDRO on the cells of class and
    environment.

    Parameters
    ----------
    solver : {"closed_form", "adam"}, default="closed_form"
        "adam" is the published optimisation of logits of the shares, from random
        starts. It comes to the same split, where it converges.
    learning_rate : float, default=1e-3
        Of Adam; positive.
    max_iter : int, default=10000
        Steps of Adam, each over all rows.
    reference_estimator : classifier, default=None
        Has `predict_proba`, and is to rely on the shortcut. None trains a linear head
        for one epoch.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts of Adam.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        1 for the environment on which the reference is worse, 0 for the other.
    reference_estimator_ : classifier
        The fitted reference.

    See Also
    --------
    ErrorSetPseudoAttributes : The same split for two classes.
    XRMPseudoAttributes : Mistakes of models on rows that they have not seen.

    Notes
    -----
    It costs one reference model. Rows that were not trained on are assigned by the sign
    of `g`, whatever the solver. Like all splits by mistakes, it finds hard rows too: on
    noisy labels it is no good guess of an attribute.

    References
    ----------
    .. [1] Creager, Jacobsen and Zemel, "Environment Inference for Invariant Learning",
       ICML 2021, equations 3 and 4. The closed form is ours.

    Examples
    --------
    >>> from skdebias.attributes import EIILPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(400, random_state=0)
    >>> environments = EIILPseudoAttributes().fit_predict(X, y)
    >>> bool((attributes != y)[environments == 1].mean() > 0.9)
    True
    """

    _parameter_constraints: dict = {
        "solver": [StrOptions({"closed_form", "adam"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "reference_estimator": [HasMethods(["fit", "predict_proba"]), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        solver="closed_form",
        *,
        learning_rate=1e-3,
        max_iter=10000,
        reference_estimator=None,
        random_state=None,
    ):
        self.solver = solver
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.reference_estimator = reference_estimator
        self.random_state = random_state

    def _infer(self, X, y, validation, sample_weight):
        default = ERMClassifier(max_iter=1, random_state=0)
        model = self._fit_reference(default, X, y, validation, sample_weight)
        codes = np.searchsorted(self.classes_, y)
        probabilities = model.predict_proba(X)
        self._is_easy = probabilities.argmax(axis=1) == codes
        slopes = scale_slopes(probabilities, codes)
        inferred = slopes > 0
        if inferred.all() or not inferred.any():
            raise EmptyErrorSetError(
                "reference_estimator is nowhere worse than it expects to be, or "
                "everywhere, so that one of the environments is empty: train it for "
                "fewer epochs (max_iter) or with more weight_decay, or if it predicts "
                "one class throughout, standardise X."
            )
        if self.solver == "adam":
            seed = int(draw_seed(self.random_state))
            weights = np.ones(len(codes)) if sample_weight is None else sample_weight
            shares = optimized_shares(
                slopes, weights, self.learning_rate, self.max_iter, seed
            )
            inferred = shares > 0.5
            # Which of two environments is called 1 is chance in the optimisation.
            if _mean(slopes, weights, inferred) < _mean(slopes, weights, ~inferred):
                inferred = ~inferred
        return inferred.astype(np.int64)

    def _assign(self, X, codes):
        slopes = scale_slopes(self.reference_estimator_.predict_proba(X), codes)
        return (slopes > 0).astype(np.int64)


def scale_slopes(probabilities, codes):
    """Return the derivative of every row's cross-entropy in the scale of its logits.

    Parameters
    ----------
    probabilities : ndarray of shape (n_samples, n_classes)
    codes : ndarray of shape (n_samples,)
        Class codes.

    Returns
    -------
    ndarray of shape (n_samples,)
        `sum_c (p_c - [c = y]) log p_c`, in which constants of the logits cancel.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    of_label = np.log(np.maximum(p[np.arange(len(codes)), codes], _TINY))
    return xlogy(p, p).sum(axis=1) - of_label


def optimized_shares(slopes, weights, learning_rate, max_iter, seed):
    """Return the shares of the rows in an environment that Adam finds.

    Parameters
    ----------
    slopes : ndarray of shape (n_samples,)
        What :func:`scale_slopes` returned.
    weights : ndarray of shape (n_samples,)
        Positive weights of the rows.
    learning_rate : float
    max_iter : int
    seed : int
        Of the starts, standard normal logits.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    drawn = uniform(seed, 0, "EIIL starts", (len(slopes),)).numpy().astype(np.float64)
    starts = norm.ppf(drawn + 2.0**-25)  # the numbers are multiples of 2 ** -24
    shares = torch.from_numpy(starts).requires_grad_()
    terms = torch.from_numpy(slopes * weights / weights.sum())
    optimizer = torch.optim.Adam([shares], lr=learning_rate)
    with torch.enable_grad():
        for _ in range(max_iter):
            q = shares.sigmoid()
            penalty = (q @ terms).square() + ((1.0 - q) @ terms).square()
            optimizer.zero_grad()
            (-0.5 * penalty).backward()
            optimizer.step()
    return shares.detach().sigmoid().numpy()


def _mean(slopes, weights, rows):
    """Return the mean of some rows; of none, the least there is."""
    return np.average(slopes[rows], weights=weights[rows]) if rows.any() else -np.inf
