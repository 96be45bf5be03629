"""K-means on scores of rows, and the assignment of other rows."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from skdebias.attributes._last_layer import moved


def check_n_clusters(n_clusters, n_rows):
    """Refuse more clusters than rows.

    Parameters
    ----------
    n_clusters, n_rows : int

    Raises
    ------
    ValueError
    """
    if n_clusters > n_rows:
        raise ValueError(
            f"n_clusters={n_clusters} is more than the {n_rows} rows of X: choose "
            "fewer."
        )


class Clustering:
    """Assignment of gradients to the nearest of the centres of training.

    Parameters
    ----------
    components : PrincipalComponents or None
        Where the centres lie; None is the norms of the gradients.
    centers : ndarray of shape (n_clusters, n_components)
    """

    def __init__(self, components, centers):
        if components is not None:  # the scores are those of the training rows
            components = replace(components, scores=components.scores[:0])
            components = moved(components, torch.device("cpu"))
        self._components = components
        self._centers = centers

    def assign(self, gradients):
        """Return the cluster of every row.

        Parameters
        ----------
        gradients : FactoredGradients

        Returns
        -------
        ndarray of shape (n_rows,)
        """
        if self._components is None:
            points = gradients.norms()[:, None]
        else:
            points = gradients.scores(moved(self._components, gradients.mean.device))
        return pairwise_distances_argmin(points.cpu().numpy(), self._centers)


def k_means(points, n_clusters, seed, sample_weight=None):
    """Cluster by k-means; numbered by size, the same in any order of the rows.

    Parameters
    ----------
    points : ndarray of shape (n_rows, n_components)
    n_clusters : int
        There are fewer if there are fewer distinct rows.
    seed : int
    sample_weight : ndarray of shape (n_rows,), default=None
        Positive weights of the rows.

    Returns
    -------
    clusters : ndarray of shape (n_rows,)
    centers : ndarray of shape (n_clusters, n_components)
    """
    order = np.lexsort(points.T[::-1])
    distinct = len(np.unique(points, axis=0))
    model = KMeans(min(n_clusters, distinct), n_init=10, random_state=seed)
    clusters = np.empty(len(points), dtype=np.int64)
    weights = None if sample_weight is None else sample_weight[order]
    clusters[order] = model.fit_predict(points[order], sample_weight=weights)
    by_size = np.argsort(-np.bincount(clusters, sample_weight), kind="stable")
    rank = np.empty(len(by_size), dtype=np.int64)
    rank[by_size] = np.arange(len(by_size))
    return rank[clusters], model.cluster_centers_[by_size]
