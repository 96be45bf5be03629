"""UGC: robust training over clusters that stand for unknown groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skdebias._groups import Groups
from skdebias.methods._group_dro import GroupDRO, GroupWeights, LogMeanExp
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._step import TrainingContext, TrainingResult


@dataclass(frozen=True)
class ClusterSampling(Method):
    """Training on batches with fixed shares of pseudo-groups.

    Parameters
    ----------
    weights : tuple of float, default=()
        Share of each group, up to a factor. Empty for equal shares, that is, inverse
        frequency weights.
    across_classes : bool, default=False
        Groups are the clusters alone, as in the paper, rather than the (class, cluster)
        cells. `weights` then has one entry per cluster.
    """

    weights: tuple[float, ...] = ()
    across_classes: bool = False

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan over the groups.

        Parameters
        ----------
        groups : Groups
            Groups of label and cluster.

        Returns
        -------
        SamplingPlan
        """
        members = cluster_groups(groups, self.across_classes)
        share = np.asarray(self.weights or np.ones(members.n_groups), dtype=np.float64)
        return SamplingPlan(members.ids, (Batch("clusters", share / share.sum()),))


@dataclass(frozen=True)
class ClusterDRO(GroupDRO):
    """GroupDRO over clusters that cut across the classes, as in the paper.

    Parameters
    ----------
    step_size, adjustment : float
        As for :class:`GroupDRO`.
    """

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the one-batch plan, uniform over clusters.

        Parameters
        ----------
        groups : Groups
            Groups of label and cluster.

        Returns
        -------
        SamplingPlan
        """
        return super().plan(cluster_groups(groups, across_classes=True))

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return nothing: there is one weight per cluster, and none per group.

        Parameters
        ----------
        groups : Groups
            Groups of label and cluster.
        fitted : TrainingResult

        Returns
        -------
        dict
        """
        return {}

    @classmethod
    def weighting(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> GroupWeights:
        """Return the rule that reweights the clusters.

        Parameters
        ----------
        methods : sequence of ClusterDRO
        context : TrainingContext

        Returns
        -------
        GroupWeights
        """
        return super().weighting(methods, _of_clusters(context))

    @classmethod
    def group_objective(
        cls, methods: Sequence[Self], context: TrainingContext
    ) -> LogMeanExp:
        """Return the deterministic objective of the clusters.

        Parameters
        ----------
        methods : sequence of ClusterDRO
        context : TrainingContext

        Returns
        -------
        LogMeanExp
        """
        return super().group_objective(methods, _of_clusters(context))


def _of_clusters(context: TrainingContext) -> TrainingContext:
    clusters = tuple(cluster_groups(groups, True) for groups in context.groups)
    return replace(context, groups=clusters)


def robust_method(
    name: str,
    groups: Groups,
    *,
    across_classes: bool = False,
    step_size: float = 0.01,
    norms: NDArray[np.floating] | None = None,
) -> Method:
    """Return the method of the second stage.

    Parameters
    ----------
    name : {"group_dro", "inverse_frequency", "feature_magnitude"}
    groups : Groups
        Groups of label and cluster.
    across_classes : bool, default=False
        Whether the groups that count are the clusters alone.
    step_size : float, default=0.01
        Of GroupDRO.
    norms : ndarray of shape (n_samples,), default=None
        Norms of the features, for "feature_magnitude".

    Returns
    -------
    Method
    """
    if name == "group_dro":
        return (ClusterDRO if across_classes else GroupDRO)(step_size)
    if name == "inverse_frequency" or norms is None:
        return ClusterSampling(across_classes=across_classes)
    members = cluster_groups(groups, across_classes)
    if members.weights is not None:
        norms = norms * members.weights
    magnitude = np.bincount(members.ids, weights=norms) / members.counts
    # Features that are all alike have no magnitude: then groups count alike.
    magnitude = magnitude if magnitude.sum() > 0 else np.ones_like(magnitude)
    return ClusterSampling(tuple(magnitude.tolist()), across_classes)


def cluster_groups(groups: Groups, across_classes: bool) -> Groups:
    """Return the pseudo-groups: (class, cluster) cells, or the clusters alone.

    Parameters
    ----------
    groups : Groups
        Groups of label and cluster.
    across_classes : bool
        Merge the cells of a cluster over the classes.

    Returns
    -------
    Groups
        The same object, or groups whose only class is 0.
    """
    if not across_classes:
        return groups
    clusters = groups.cells[groups.ids, 1]
    return Groups.from_labels(
        np.zeros_like(clusters), clusters, 1, groups.n_attributes, groups.weights
    )
