"""Pseudo-attributes from clusters of last-layer gradients (UGC)."""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import silhouette_samples

from skdebias._erm import ERMClassifier
from skdebias._head import fitted_layers
from skdebias._sklearn import HasMethods, Interval, StrOptions
from skdebias._warnings import warn_caller
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.attributes._clustering import Clustering, check_n_clusters, k_means
from skdebias.attributes._gradients import (
    FactoredGradients,
    principal_components,
    residuals,
)
from skdebias.attributes._last_layer import (
    LastLayer,
    check_finite,
    logistic,
    logits,
    margins,
    mean_difference,
    moved,
)
from skdebias.attributes._rows import check_range, feature_mean, spread_draws

# Rows of a clustering that the silhouette is computed on: its cost is quadratic.
_SILHOUETTE_ROWS = 2000
# Spread of the scores, relative to the largest gradient, that rounding can cause.
_ROUNDING = 1e-5
# What the best cut through normally distributed margins reaches, wherever it is made.
_WEAK_SILHOUETTE = 0.58


# Up to so many features a logistic regression is tried where clusters are weak. With
# embeddings its clusters were weak wherever those of the mean difference were.
_FEW_FEATURES = 100


class _Found(NamedTuple):
    """What one warm-up led to."""

    warmup: str
    layer: LastLayer
    clusters: np.ndarray
    clusterings: list
    silhouette: float
    is_easy: np.ndarray


class WeakClustersWarning(UserWarning):
    """Warning that gradient clusters carry no signal.

    K-means always returns clusters; a low silhouette says that they are no further
    apart than the two sides of a cut through a single cloud, as they are when no row
    conflicts with the spurious attribute. Turn it into an error
    with ``warnings.simplefilter("error", WeakClustersWarning)``.
    """


class GradientClusterPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes from clusters of last-layer gradients (UGC) [1]_.

    The gradient of a row's loss in the weights of the last layer is
    `g_i = (softmax(z_i) - onehot(y_i)) x_i^T`. Rows that conflict with a shortcut have
    large residuals in a direction of their own. The gradients are reduced by PCA, in
    factored form, and clustered by k-means.

    Parameters
    ----------
    n_clusters : int, default=2
        Clusters of k-means, per class or in all.
    warmup : {"auto", "mean_difference", "epochs", "logistic"}, default="auto"
        The classifier whose gradients are taken. "mean_difference" is the linear head
        along the differences of the class means, its scale fitted by a line search: no
        hyper-parameter, no seed. "epochs" trains `reference_estimator` briefly, as in
        the paper. "logistic" fits an L2-regularised logistic regression. "auto" is
        "mean_difference", unless its clusters are weak, X has at most 100 features, and
        "logistic" on X has clusters that are not.
    warmup_epochs : int, default=1
        Epochs of the default reference estimator.
    per_class : bool, default=True
        Cluster every class by itself. The paper clusters all rows at once, which tends
        to return the classes.
    pool : bool, default=True
        Make the largest cluster the majority (0) and all others together the minority
        (1). Otherwise the clusters are numbered by size, the largest 0.
    signature : {"gradient", "gradient_norm"}, default="gradient"
        Cluster the gradients, or only their norms; the norm was better with many
        classes.
    n_components : int, default=10
        Principal components of the gradients, computed for each clustering by itself.
    weight_decay : float, default=0.01
        L2 penalty of `warmup="logistic"`, on the mean loss as for the head estimators.
    reference_estimator : classifier, default=None
        The network of `warmup="epochs"`, a head estimator of skdebias. Its hidden
        activations, if any, are the features of the last layer, also for "logistic",
        which refits its last layer; "mean_difference" and "auto" always work on X. None
        is a linear head trained for `warmup_epochs`.
    device : str, default="auto"
        Torch device; "auto" takes CUDA where there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of the warm-up, the PCA, k-means and the silhouette's rows.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        Cluster of every row; with `pool`, 0 for the majority and 1 for the rest.
    warmup_ : str
        The warm-up that was taken.
    cluster_sizes_ : ndarray of shape (n_classes, n_clusters)
        Rows of every class in every cluster, before pooling. Clusters are sorted by
        size, per class or in all.
    silhouette_ : float
        Mean silhouette, within the classes, of the margins of (a sample of) the rows:
        own logit minus the largest other. Margins rather than gradients, because the
        exponential tail of the residuals makes any split of the gradients look clean.
    reference_estimator_ : classifier
        The fitted network, where one was trained.

    See Also
    --------
    ConfidencePseudoAttributes : Marks a fixed fraction of every class.
    ErrorSetPseudoAttributes : Marks the rows that a model gets wrong.

    Notes
    -----
    Features are centred at their mean, not scaled: standardise X if its columns have
    different units. Gradients are not normalised: in the binary case a gradient of
    unit length is the feature itself, up to sign, and says nothing about the loss.
    Bias gradients are left out.

    References
    ----------
    .. [1] "Unsupervised Gradient Clustering for robustness to spurious correlations",
       2025. Per-class clustering, pooling and the mean-difference warm-up are ours.

    Examples
    --------
    >>> from skdebias.attributes import GradientClusterPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(1000, random_state=0)
    >>> clusters = GradientClusterPseudoAttributes(random_state=0).fit(X, y)
    >>> conflicting = attributes != y
    >>> minority = clusters.pseudo_attributes_ == 1
    >>> bool(conflicting[minority].mean() > 2 * conflicting.mean())
    True
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "warmup": [StrOptions({"auto", "mean_difference", "epochs", "logistic"})],
        "warmup_epochs": [Interval(Integral, 1, None, closed="left")],
        "per_class": ["boolean"],
        "pool": ["boolean"],
        "signature": [StrOptions({"gradient", "gradient_norm"})],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "reference_estimator": [HasMethods(["fit", "predict_proba"]), None],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_clusters=2,
        *,
        warmup="auto",
        warmup_epochs=1,
        per_class=True,
        pool=True,
        signature="gradient",
        n_components=10,
        weight_decay=0.01,
        reference_estimator=None,
        device="auto",
        random_state=None,
    ):
        self.n_clusters = n_clusters
        self.warmup = warmup
        self.warmup_epochs = warmup_epochs
        self.per_class = per_class
        self.pool = pool
        self.signature = signature
        self.n_components = n_components
        self.weight_decay = weight_decay
        self.reference_estimator = reference_estimator
        self.device = device
        self.random_state = random_state

    def _infer(self, X, y, validation, sample_weight):
        X, features, codes, seed = self._begin(X, y)
        check_n_clusters(self.n_clusters, len(codes))
        with torch.no_grad():
            check_range(features)
            found = self._found(features, X, y, codes, validation, seed, sample_weight)
        self.warmup_, self.silhouette_ = found.warmup, found.silhouette
        self._layer = moved(found.layer, torch.device("cpu"))
        self._clusterings, self._is_easy = found.clusterings, found.is_easy
        shape = len(self.classes_), self.n_clusters
        self.cluster_sizes_ = np.zeros(shape, dtype=np.int64)
        np.add.at(self.cluster_sizes_, (codes, found.clusters), 1)
        self._warn_of_weak_clusters()
        return self._pooled(found.clusters)

    def _found(self, features, X, y, codes, *rest):
        """Return the clusters; of "auto", those of the first warm-up unless weak."""
        if self.warmup != "auto":
            return self._try(self.warmup, features, X, y, codes, *rest)
        first = self._try("mean_difference", features, X, y, codes, *rest)
        if first.silhouette > _WEAK_SILHOUETTE or features.n_features > _FEW_FEATURES:
            return first
        second = self._try("logistic", features, X, y, codes, *rest)
        return second if second.silhouette > _WEAK_SILHOUETTE else first

    def _try(self, warmup, features, X, y, codes, validation, seed, sample_weight):
        """Return the clusters after one warm-up."""
        features, layer = self._warm_up(
            warmup, features, X, y, codes, validation, seed, sample_weight
        )
        z = logits(features, layer)
        check_finite(z, f"warmup={warmup!r}")
        clusters, clusterings = self._cluster(
            features, layer, codes, z, seed, sample_weight
        )
        inferred = self._pooled(clusters)
        silhouette = _silhouette(
            margins(z, codes), codes, inferred, seed, sample_weight
        )
        is_easy = z.argmax(1).cpu().numpy() == codes
        return _Found(warmup, layer, clusters, clusterings, silhouette, is_easy)

    def _pooled(self, clusters):
        return np.minimum(clusters, 1) if self.pool else clusters

    def _assign(self, X, codes):
        _, features = self._on_device(X)
        clusters = np.zeros(len(codes), dtype=np.int64)
        with torch.no_grad():
            features = self._last_layer_features(features)
            layer = moved(self._layer, features.device)
            residual = residuals(logits(features, layer), codes)
            for unit, model in enumerate(self._clusterings):
                inside = codes == unit if self.per_class else np.ones_like(codes, bool)
                rows = np.flatnonzero(inside)
                if model is not None and len(rows):
                    gradients = _gradients(features, rows, residual, layer.center)
                    clusters[rows] = model.assign(gradients)
        return self._pooled(clusters)

    def _warm_up(self, warmup, features, X, y, codes, validation, seed, sample_weight):
        """Return the features of the last layer, and that layer."""
        n_classes = int(codes.max()) + 1
        if warmup == "mean_difference":
            return features, mean_difference(features, codes, n_classes, sample_weight)
        if not self._has_reference():
            return features, self._logistic(features, codes, sample_weight)
        default = ERMClassifier(max_iter=self.warmup_epochs, random_state=seed)
        model = self._fit_reference(default, X, y, validation, sample_weight)
        features = self._last_layer_features(features)
        if warmup == "logistic":
            return features, self._logistic(features, codes, sample_weight)
        last = fitted_layers(model)[-1]
        return features, _last_layer(features, last, sample_weight)

    def _last_layer_features(self, features):
        """Return what the last layer reads: the activations of a network, or X."""
        if not self._has_reference():
            return features
        return _Activations(features, fitted_layers(self.reference_estimator_)[:-1])

    def _has_reference(self):
        if self.warmup in ("auto", "mean_difference"):
            return False
        return self.warmup == "epochs" or self.reference_estimator is not None

    def _logistic(self, features, codes, sample_weight):
        n_classes = int(codes.max()) + 1
        return logistic(features, codes, n_classes, self.weight_decay, sample_weight)

    def _cluster(self, features, layer, codes, z, seed, sample_weight):
        """Return the k-means cluster of every row, and what assigns others."""
        residual = residuals(z, codes)
        units = [np.arange(len(codes))]
        if self.per_class:
            units = [np.flatnonzero(codes == c) for c in range(len(self.classes_))]
        clusters = np.zeros(len(codes), dtype=np.int64)
        clusterings = [None] * len(units)
        for unit, rows in enumerate(units):
            if len(rows) < 2:
                continue  # a single row is a cluster of its own
            weights = None if sample_weight is None else sample_weight[rows]
            gradients = _gradients(features, rows, residual, layer.center, weights)
            norms, components = gradients.norms()[:, None].cpu().numpy(), None
            points = norms
            if self.signature == "gradient":
                components = principal_components(gradients, self.n_components, seed)
                points = components.scores
            if np.ptp(points, axis=0).max() <= _ROUNDING * norms.max():
                continue  # equal rows: k-means would cluster their rounding errors
            clusters[rows], centers = k_means(points, self.n_clusters, seed, weights)
            clusterings[unit] = Clustering(components, centers)
        return clusters, clusterings

    def _warn_of_weak_clusters(self):
        if self.silhouette_ > _WEAK_SILHOUETTE:
            return
        warn_caller(
            f"The silhouette of the pseudo-attributes is {self.silhouette_:.2f}; a cut "
            f"through a single cloud reaches {_WEAK_SILHOUETTE}. The clusters may be "
            "the tail of the classes rather than the rows that conflict with a "
            "spurious attribute: compare with ERMClassifier(balance='class') on a "
            "validation set, or try another warmup (such as 'logistic') or signature.",
            WeakClustersWarning,
        )


class _Activations:
    """Rows of the last hidden layer of a network, computed as they are gathered."""

    def __init__(self, features, layers):
        self._features = features
        self.device = features.device
        self.n_rows = features.n_rows
        self._layers = [
            (torch.from_numpy(w).to(self.device), torch.from_numpy(b).to(self.device))
            for w, b in layers
        ]
        hidden = [weight.shape[1] for weight, _ in self._layers]
        self.n_features = hidden[-1] if hidden else features.n_features

    def rows(self, index):
        """Gather rows of activations, in float32."""
        out = self._features.rows(index)
        for weight, bias in self._layers:
            out = (out @ weight + bias).relu()
        return out


def _last_layer(features, layer, sample_weight):
    """Return a fitted last layer on centred features; two logits for two classes."""
    weight, bias = (torch.from_numpy(array).to(features.device) for array in layer)
    weight = weight.T
    if len(weight) == 1:
        weight = torch.cat([-weight, weight]) / 2
        bias = torch.cat([-bias, bias]) / 2
    center = feature_mean(features, np.arange(features.n_rows), sample_weight)
    return LastLayer(weight, bias + weight @ center, center)


def _gradients(features, rows, residual, center, sample_weight=None):
    of_rows = residual[torch.from_numpy(rows)]
    return FactoredGradients(features, rows, of_rows, center, sample_weight)


def _silhouette(margin, codes, inferred, seed, sample_weight):
    """Return the mean silhouette of (a sample of) the margins within the classes.

    Of rows with weights it is a sample that has each of them as often as its weight
    says, rounded up or down.
    """
    rng = np.random.default_rng(seed)
    values, sizes = [], []
    for c in range(codes.max() + 1):
        rows = np.flatnonzero(codes == c)
        sizes.append(len(rows) if sample_weight is None else sample_weight[rows].sum())
        if sample_weight is not None:
            rows = rows[spread_draws(sample_weight[rows], _SILHOUETTE_ROWS, rng)]
        elif len(rows) > _SILHOUETTE_ROWS:
            rows = rng.choice(rows, _SILHOUETTE_ROWS, replace=False)
        labels = inferred[rows]
        defined = 2 <= len(np.unique(labels)) < len(rows)
        points = margin[rows, None]
        # In one piece, whatever joblib is told elsewhere.
        values.append(
            silhouette_samples(points, labels, n_jobs=1).mean() if defined else 0.0
        )
    return float(np.average(values, weights=sizes))
