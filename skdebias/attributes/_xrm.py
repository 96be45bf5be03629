"""Pseudo-attributes from twin heads that imitate each other's mistakes (XRM)."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm

from skdebias._engine._features import Features
from skdebias._sklearn import Interval, StrOptions
from skdebias._warnings import warn_caller
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.attributes._gradients import FactoredGradients, principal_components
from skdebias.attributes._last_layer import (
    LastLayer,
    check_finite,
    logistic,
    logits,
    margins,
    moved,
)
from skdebias.attributes._rows import check_range, feature_mean
from skdebias.methods import uniform

# Strengths of the penalty that "auto" goes through, the weakest first.
_DECAYS = (0.03, 0.3, 3.0)
# The strongest penalty is taken whose separation is no worse than this share of the
# best.
_AS_GOOD = 0.95


class NothingInferredWarning(UserWarning):
    """Warning that no spurious attribute can be inferred from the mistakes of a model.

    All rows then have the same pseudo-attribute, so that groups are classes, and a
    method that balances them balances classes. Turn it into an error with
    ``warnings.simplefilter("error", NothingInferredWarning)``.
    """


class XRMPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes from twin heads that imitate each other's mistakes (XRM) [1]_.

    Each of two linear heads is trained on a random half of the rows. In every round
    the labels of a half are held against the other head, which has not seen them: with
    a probability that grows with its confidence, its prediction becomes the label that
    the half is trained on from then on. A mistake that follows a shortcut is thereby
    repeated and enforced. The rows whose own label at least one of the heads misses at
    the end (the cross-mistakes) are one environment, all others the other.

    Mistakes are not attributes. Where the hard rows of a class are hard by themselves,
    the environments are hard and easy rows, and a method that balances them trades one
    against the other. The fit therefore asks whether the rows of a class fall in two
    along the heads, and says so if they do not; see `min_separation`.

    Parameters
    ----------
    weight_decay : float or "auto", default="auto"
        L2 penalty of the heads, on the mean loss as for the head estimators. A head
        that is free to learn every row makes no mistakes that mean anything; one that
        is held too tight sees nothing but the largest differences. "auto" tries 0.03,
        0.3 and 3, and takes the strongest of those that separate the rows best, or
        nearly so.
    balance : {"both", "class", None}, default="both"
        Count all classes alike ("class"), or all rows (None). With "both" there are
        two pairs of twins, one of each kind, and a row is marked if both pairs miss it:
        without balance the mistakes of a rare class are all its rows that look like
        another class, and with it those of a frequent one.
    min_separation : float, default=1.1
        Least separation of a pair of twins that counts. If there is no such pair,
        nothing is inferred, all pseudo-attributes are 0, and
        :class:`NothingInferredWarning` is raised. 0 takes whatever is found.
    n_components : int or None, default=100
        Principal components of the features that the heads are trained on; None is all
        features. Where there are more of them, this saves time and changes little.
    n_rounds : int, default=12
        Rounds. With 1 no label is flipped, and the mistakes are those of two halves.
    round_iter : int, default=5
        L-BFGS iterations of every round, from where the head was.
    device : str, default="auto"
        Torch device; "auto" takes CUDA where there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of the halves and of the flips.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        1 for the cross-mistakes, 0 for the rest.
    separation_ : float
        By how much more of the variance of the margins (own logit minus the largest
        other, of both twins) the cross-mistakes explain within a class than a cut of
        as many rows off a normal distribution does, as a ratio; the mean over classes
        and pairs. Sums of many features are nearly normal, with a ratio of 1, unless
        something splits the rows.
    flip_rate_ : float
        Share of the rows whose label of the last round was not their own, likewise.
    weight_decay_ : float
        The penalty that was used.

    See Also
    --------
    ErrorSetPseudoAttributes : The mistakes of one model that has seen the rows.
    SharedClusterPseudoAttributes : Looks at no mistakes at all.

    Notes
    -----
    The paper trains networks and flips in every step; here the heads are convex
    problems, a round stands for several steps, and the penalty takes the place of the
    number of steps and of the learning rate, to which the paper's form is sensitive.
    Both halves have the same share of every class. `balance="both"`, the choice of the
    penalty and `min_separation` are ours.

    References
    ----------
    .. [1] Pezeshki, Bouchacourt, Ibrahim, Ballas, Vincent and Lopez-Paz, "Discovering
       environments with XRM", ICML 2024.

    Examples
    --------
    >>> from skdebias.attributes import XRMPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(1000, random_state=0)
    >>> environments = XRMPseudoAttributes(random_state=0).fit_predict(X, y)
    >>> bool((attributes != y)[environments == 1].mean() > 0.9)
    True
    """

    _parameter_constraints: dict = {
        "weight_decay": [
            Interval(Real, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "balance": [StrOptions({"both", "class"}), None],
        "min_separation": [Interval(Real, 0, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "round_iter": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        weight_decay="auto",
        *,
        balance="both",
        min_separation=1.1,
        n_components=100,
        n_rounds=12,
        round_iter=5,
        device="auto",
        random_state=None,
    ):
        self.weight_decay = weight_decay
        self.balance = balance
        self.min_separation = min_separation
        self.n_components = n_components
        self.n_rounds = n_rounds
        self.round_iter = round_iter
        self.device = device
        self.random_state = random_state

    def _infer(self, X, y, validation, sample_weight):
        X, features, codes, seed = self._begin(X, y)
        decays = [self.weight_decay]
        if self.weight_decay == "auto":
            decays = [*_DECAYS]
        with torch.no_grad():
            check_range(features)
            reduced, restore = self._reduced(features, seed, sample_weight)
            found = [
                self._found(reduced, codes, decay, seed, sample_weight)
                for decay in decays
            ]
        separations = np.array([np.mean([p.separation for p in one]) for one in found])
        good = separations >= _AS_GOOD * separations.max()
        chosen = int(np.flatnonzero(good)[-1])
        self.weight_decay_ = float(decays[chosen])
        pairs = [p for p in found[chosen] if p.separation >= self.min_separation]
        self._pairs = [
            [moved(restore(head), torch.device("cpu")) for head in pair.twins]
            for pair in pairs
        ]
        pairs = pairs or found[chosen]
        self.separation_ = float(np.mean([pair.separation for pair in pairs]))
        self.flip_rate_ = float(np.mean([pair.flip_rate for pair in pairs]))
        if not self._pairs:
            self._warn_that_nothing_is_inferred()
        return self._assign(X, codes)

    def _warn_that_nothing_is_inferred(self):
        warn_caller(
            "XRMPseudoAttributes infers nothing: the rows that the heads get wrong are "
            f"no more apart from the others (separation {self.separation_:.2f}) than "
            "the tail of a single cloud is (1), so that they are hard rows rather than "
            "rows with another attribute. All rows get the same pseudo-attribute, and "
            "groups are classes. Annotate some rows and use SSAPseudoAttributes, try "
            "SharedClusterPseudoAttributes, or set min_separation=0 to take the "
            "mistakes all the same.",
            NothingInferredWarning,
        )

    def _assign(self, X, codes):
        _, features = self._on_device(X)
        marked = np.full(len(codes), bool(self._pairs))
        with torch.no_grad():
            for twins in self._pairs:
                twins = [moved(head, features.device) for head in twins]
                marked &= _mistakes([logits(features, head) for head in twins], codes)
        return marked.astype(np.int64)

    def _reduced(self, features, seed, sample_weight):
        """Return what the heads are trained on, and what makes them heads on X."""
        if self.n_components is None or features.n_features <= self.n_components:
            return features, lambda head: head
        index = np.arange(features.n_rows)
        center = feature_mean(features, index, sample_weight)
        # The rows themselves are gradients of residual 1.
        rows = FactoredGradients(
            features, index, center.new_ones(len(index), 1), center, sample_weight
        )
        components = principal_components(rows, self.n_components, seed)
        axes = components.axes[0]

        def restore(head):
            bias = head.bias - head.weight @ head.center
            return LastLayer(head.weight @ axes.T, bias, center)

        return Features(components.scores, features.device), restore

    def _found(self, features, codes, decay, seed, sample_weight):
        """Train the pairs of twins of one penalty."""
        balances = (None, "class") if self.balance == "both" else (self.balance,)
        given = np.ones(len(codes)) if sample_weight is None else sample_weight
        pairs = []
        for balance in balances:
            weights = given / np.bincount(codes, given)[codes] if balance else given
            twins, labels = self._train(features, codes, decay, weights, seed)
            outputs = [logits(features, head) for head in twins]
            margin = sum(margins(z, codes) for z in outputs)
            apart = separation(margin, _mistakes(outputs, codes), codes, given)
            flip_rate = float(np.average(labels != codes, weights=given))
            pairs.append(_Pair(twins, apart, flip_rate))
        return pairs

    def _train(self, features, codes, decay, weights, seed):
        """Return the twins, and the labels that they were trained on at last."""
        n_classes = len(self.classes_)
        # Two logits for two classes: their penalty is half that of the single one that
        # heads have.
        decay = decay * (2.0 if n_classes == 2 else 1.0)
        center = feature_mean(features, np.arange(len(codes)), weights)
        zero = center.new_zeros(n_classes, features.n_features)
        twins = [LastLayer(zero, zero[:, 0].clone(), center)] * 2
        halves = split_classes(codes, seed)
        labels = codes.copy()
        for number in range(self.n_rounds):
            if number:
                outputs = [logits(features, head) for head in twins]
                labels = self._flipped(labels, halves, outputs, number, seed)
            twins = [
                logistic(
                    features,
                    labels[rows],
                    n_classes,
                    decay,
                    weights[rows],
                    index=rows,
                    start=head,
                    max_iter=self.round_iter,
                )
                for rows, head in zip(halves, twins)
            ]
        for head in twins:
            check_finite(head.weight, "the heads")
        return twins, labels

    def _flipped(self, labels, halves, outputs, number, seed):
        """Return the labels of a round: each half imitates the head of the other."""
        probabilities = np.empty(outputs[0].shape, dtype=np.float32)
        for rows, z in zip(halves, reversed(outputs)):
            held_out = z[torch.from_numpy(rows).to(z.device)]
            probabilities[rows] = torch.softmax(held_out, dim=1).cpu().numpy()
        drawn = uniform(seed, number, "XRM flips", (len(labels),)).numpy()
        return imitated(labels, probabilities, drawn)


class _Pair(NamedTuple):
    """Two heads that were trained against each other."""

    twins: list
    separation: float
    flip_rate: float


def split_classes(codes, seed):
    """Split rows in two halves at random, class by class.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
        Class codes.
    seed : int

    Returns
    -------
    list of two ndarray
        Row numbers, ascending. Of a class of an odd number of rows, the first and the
        second half have one more in turn.
    """
    drawn = uniform(seed, 0, "XRM halves", (len(codes),)).numpy()
    order = np.lexsort([drawn, codes])  # by class, at random within
    second = np.arange(len(codes)) % 2 == 1
    return [np.sort(order[~second]), np.sort(order[second])]


def imitated(labels, probabilities, drawn):
    """Flip labels to the predictions of a head that has not seen them.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        Class codes.
    probabilities : ndarray of shape (n_samples, n_classes)
        What the head says of each row.
    drawn : ndarray of shape (n_samples,)
        Uniform in [0, 1).

    Returns
    -------
    ndarray of shape (n_samples,)
        The prediction with probability `(p - 1/K) K/(K - 1)`, where p is its
        probability and K the number of classes: never where all classes are as likely,
        always where there is no doubt. Otherwise the label.
    """
    n_classes = probabilities.shape[1]
    confidence = probabilities.max(axis=1)
    flip = drawn < (confidence - 1 / n_classes) * n_classes / (n_classes - 1)
    return np.where(flip, probabilities.argmax(axis=1), labels)


def separation(margin, marked, codes, sample_weight=None):
    """Return how far marked rows are from the others, next to a normal distribution.

    Parameters
    ----------
    margin : ndarray of shape (n_samples,)
    marked : ndarray of shape (n_samples,), bool
    codes : ndarray of shape (n_samples,)
        Class codes.
    sample_weight : ndarray of shape (n_samples,), default=None
        Positive weights of the rows.

    Returns
    -------
    float
        Share of the variance of the margins within a class that the marks explain, in
        units of what they would explain if they were the tail of a normal distribution;
        the mean over classes. 0 for a class without marked rows, or with no others.
    """
    weights = np.ones(len(codes)) if sample_weight is None else sample_weight
    ratios = []
    for c in range(codes.max() + 1):
        rows = codes == c
        values, is_marked, w = margin[rows].astype(float), marked[rows], weights[rows]
        share = np.average(is_marked, weights=w)
        variance = np.average((values - np.average(values, weights=w)) ** 2, weights=w)
        if not 0 < share < 1 or variance == 0:
            ratios.append(0.0)
            continue
        inside, outside = (
            np.average(values[which], weights=w[which])
            for which in (is_marked, ~is_marked)
        )
        explained = share * (1 - share) * (inside - outside) ** 2 / variance
        ratios.append(explained * share * (1 - share) / norm.pdf(norm.ppf(share)) ** 2)
    return float(np.mean(ratios))


def _mistakes(outputs, codes):
    """Return which rows at least one of the heads gets wrong."""
    first, second = (z.argmax(dim=1).cpu().numpy() != codes for z in outputs)
    return first | second
