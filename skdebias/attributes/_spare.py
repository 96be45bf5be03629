"""Pseudo-attributes from clusters of the outputs of an early model (SPARE)."""

from numbers import Integral

import numpy as np
from sklearn.metrics import pairwise_distances_argmin, silhouette_score

from skdebias._erm import ERMClassifier
from skdebias._prepare import draw_seed
from skdebias._sklearn import HasMethods, Interval, StrOptions
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.attributes._clustering import check_n_clusters, k_means
from skdebias.attributes._rows import spread_draws

# Numbers of clusters that "auto" goes through.
_N_CLUSTERS = (2, 3, 4, 5)
# From this silhouette on, clusters are groups, and balance is enough.
_CLEAR = 0.9
# Rows of a class that the silhouette is computed on: its cost is quadratic.
_SILHOUETTE_ROWS = 2000
_TINY = np.finfo(np.float64).tiny


class SPAREPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes from clusters of the outputs of an early model (SPARE) [1]_.

    What is easy is learned first. After an epoch, the outputs of a model tell the rows
    of a class in which the shortcut is right from those in which it is not; k-means
    separates them, class by class.

    Parameters
    ----------
    n_clusters : int or "auto", default="auto"
        Clusters of every class. "auto" takes for each the number out of 2 to 5 with
        the best silhouette.
    reference_estimator : classifier, default=None
        The early model, which has `predict_proba`. None trains a linear head for one
        epoch.
    random_state : int, RandomState instance or None, default=None
        Seed of k-means and of the rows that the silhouette is computed on.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        Cluster of every row within its class, from the largest, 0, to the smallest.
    cluster_sizes_ : ndarray of shape (n_classes, n_most_clusters)
        Rows of every class in every cluster.
    silhouettes_ : ndarray of shape (n_classes,)
        Mean silhouette of the clusters of every class, 0 where there is one only.
    powers_ : tuple of float, one per class
        Power of the sampling that the paper would choose: 1 where the silhouette is at
        least 0.9, else 2. :class:`~skdebias.methods.SPARE` takes them as `power`.
    reference_estimator_ : classifier
        The fitted early model.

    See Also
    --------
    skdebias.methods.SPARE : The sampling that goes with them.
    GradientClusterPseudoAttributes : Clusters gradients, which hold features too.

    Notes
    -----
    It costs an early model and a few runs of k-means. It depends on how early the model
    is: later, the outputs say whether a row is hard rather than why. Of two classes
    the outputs are one number, which is cut at a threshold within each class.

    References
    ----------
    .. [1] Yang, Gan, Dziugaite and Mirzasoleiman, "Identifying Spurious Biases Early in
       Training through the Lens of Simplicity Bias", AISTATS 2024, algorithm 1.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.attributes import SPAREPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import SPARE
    >>> X, y, attributes = make_spurious_classification(1000, random_state=0)
    >>> clusters = SPAREPseudoAttributes(random_state=0).fit(X, y)
    >>> bool((attributes != y)[clusters.pseudo_attributes_ > 0].mean() > 0.2)
    True
    >>> clf = DebiasedClassifier(SPARE(clusters.powers_), random_state=0)
    >>> clf.fit(X, y, clusters.pseudo_attributes_).coef_.shape
    (1, 20)
    """

    _parameter_constraints: dict = {
        "n_clusters": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "reference_estimator": [HasMethods(["fit", "predict_proba"]), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self, n_clusters="auto", *, reference_estimator=None, random_state=None
    ):
        self.n_clusters = n_clusters
        self.reference_estimator = reference_estimator
        self.random_state = random_state

    def _infer(self, X, y, validation, sample_weight):
        default = ERMClassifier(max_iter=1, random_state=0)
        model = self._fit_reference(default, X, y, validation, sample_weight)
        seed = int(draw_seed(self.random_state))
        codes = np.searchsorted(self.classes_, y)
        if self.n_clusters != "auto":
            check_n_clusters(self.n_clusters, len(codes))
        outputs = _outputs(model, X)
        self._is_easy = outputs.argmax(axis=1) == codes
        inferred = np.zeros(len(codes), dtype=np.int64)
        self._centers, silhouettes = [], []
        for c in range(len(self.classes_)):
            rows = np.flatnonzero(codes == c)
            weights = None if sample_weight is None else sample_weight[rows]
            clusters, centers, silhouette = self._clustered(
                outputs[rows], weights, seed
            )
            inferred[rows] = clusters
            self._centers.append(centers)
            silhouettes.append(silhouette)
        self.silhouettes_ = np.array(silhouettes)
        self.powers_ = tuple(1.0 if s >= _CLEAR else 2.0 for s in silhouettes)
        most = max(map(len, self._centers))
        self.cluster_sizes_ = np.zeros((len(self.classes_), most), dtype=np.int64)
        np.add.at(self.cluster_sizes_, (codes, inferred), 1)
        return inferred

    def _clustered(self, points, weights, seed):
        """Return clusters and centres of a class, and their silhouette."""
        numbers = _N_CLUSTERS if self.n_clusters == "auto" else (self.n_clusters,)
        found = []
        for number in numbers:
            clusters, centers = k_means(points, number, seed, weights)
            silhouette = _silhouette(points, clusters, weights, seed)
            found.append((clusters, centers, silhouette))
        # The first of the best: ties go to fewer clusters.
        return max(found, key=lambda one: one[2])

    def _assign(self, X, codes):
        outputs = _outputs(self.reference_estimator_, X)
        inferred = np.zeros(len(codes), dtype=np.int64)
        for c, centers in enumerate(self._centers):
            rows = np.flatnonzero(codes == c)
            if len(rows):
                inferred[rows] = pairwise_distances_argmin(outputs[rows], centers)
        return inferred


def _outputs(model, X):
    """Return the logits of a model, less their mean over the classes."""
    p = np.asarray(model.predict_proba(X), dtype=np.float64)
    logs = np.log(np.maximum(p, _TINY))
    return logs - logs.mean(axis=1, keepdims=True)


def _silhouette(points, clusters, weights, seed):
    """Return the mean silhouette of a sample of the rows of a class, by weight."""
    weights = np.ones(len(points)) if weights is None else weights
    rows = spread_draws(weights, _SILHOUETTE_ROWS, np.random.default_rng(seed))
    points, clusters = points[rows], clusters[rows]
    if not 2 <= len(np.unique(clusters)) < len(clusters):
        return 0.0
    return float(silhouette_score(points, clusters))
