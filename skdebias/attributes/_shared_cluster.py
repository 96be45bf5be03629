"""Pseudo-attributes from clusters that all classes share."""

from numbers import Integral

import numpy as np
import torch

from skdebias._sklearn import Interval
from skdebias.attributes._base import BasePseudoAttributes
from skdebias.attributes._clustering import Clustering, check_n_clusters, k_means
from skdebias.attributes._gradients import FactoredGradients, principal_components
from skdebias.attributes._rows import check_range, feature_mean


class SharedClusterPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes from clusters that all classes share.

    The mean of its class is taken from every row, and all rows are clustered at once by
    k-means: what varies most beside the class, in the same way in all classes. No
    model is trained, and no mistakes are looked at, so that hard rows are not taken for
    a group. An attribute that is a main direction of the embedding, such as a person's
    gender, is found; one that is not is missed.

    Parameters
    ----------
    n_clusters : int, default=16
        Clusters. More of them split an attribute's values further, which costs little
        unless the cells of class and cluster get small.
    n_components : int, default=30
        Principal components of the centred rows that are clustered.
    device : str, default="auto"
        Torch device of the components; "auto" takes CUDA where there is one.
    random_state : int, RandomState instance or None, default=None
        Seed of the components and of k-means.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,)
        Cluster of every row, from the largest, 0, to the smallest.
    cluster_sizes_ : ndarray of shape (n_classes, n_clusters)
        Rows of every class in every cluster.

    See Also
    --------
    XRMPseudoAttributes : Finds what a model gets wrong.
    GradientClusterPseudoAttributes : Clusters how a model is wrong.

    Notes
    -----
    Features are centred, never scaled: standardise X if its columns have different
    units.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.attributes import SharedClusterPseudoAttributes
    >>> rng = np.random.default_rng(0)
    >>> y, attributes = rng.integers(0, 2, (2, 400))
    >>> X = rng.normal(size=(400, 8))
    >>> X[:, 0] += 3 * y
    >>> X[:, 1] += 6 * attributes
    >>> clusters = SharedClusterPseudoAttributes(2, random_state=0).fit_predict(X, y)
    >>> bool((clusters == attributes).mean() in (0.0, 1.0))
    True
    """

    _parameter_constraints: dict = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self, n_clusters=16, *, n_components=30, device="auto", random_state=None
    ):
        self.n_clusters = n_clusters
        self.n_components = n_components
        self.device = device
        self.random_state = random_state

    def _infer(self, X, y, validation, sample_weight):
        X, features, codes, seed = self._begin(X, y)
        check_n_clusters(self.n_clusters, len(codes))
        with torch.no_grad():
            check_range(features)
            means = []
            for c in range(len(self.classes_)):
                rows = np.flatnonzero(codes == c)
                weights = None if sample_weight is None else sample_weight[rows]
                means.append(feature_mean(features, rows, weights))
            self._means = torch.stack(means).cpu()
            rows = self._centred(features, codes, sample_weight)
            components = principal_components(rows, self.n_components, seed)
        _, centers = k_means(components.scores, self.n_clusters, seed, sample_weight)
        self._clustering = Clustering(components, centers)
        inferred = self._assign(X, codes)
        self.cluster_sizes_ = np.zeros((len(means), self.n_clusters), dtype=np.int64)
        np.add.at(self.cluster_sizes_, (codes, inferred), 1)
        return inferred

    def _assign(self, X, codes):
        _, features = self._on_device(X)
        with torch.no_grad():
            return self._clustering.assign(self._centred(features, codes))

    def _centred(self, features, codes, sample_weight=None):
        """Return the rows without the means of their classes, as gradients."""
        rows = _ClassCentred(features, codes, self._means.to(features.device))
        ones = torch.ones(len(codes), 1, device=features.device)
        zero = torch.zeros(features.n_features, device=features.device)
        return FactoredGradients(rows, np.arange(len(codes)), ones, zero, sample_weight)


class _ClassCentred:
    """Rows without the means of their classes, computed as they are gathered."""

    def __init__(self, features, codes, means):
        self._features, self._means = features, means
        self._codes = torch.from_numpy(codes)
        self.device = features.device
        self.n_rows, self.n_features = features.n_rows, features.n_features

    def rows(self, index):
        """Gather centred rows, in float32."""
        codes = self._codes[index.cpu()].to(self.device)
        return self._features.rows(index) - self._means[codes]
