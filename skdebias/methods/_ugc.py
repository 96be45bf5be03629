"""UGC: signatures of rows by the gradients of the last layer, never N x (C D).

The gradient of a row's loss in the last layer's weights is the outer product of the
residual of its logits and its features, `g_i = d_i x_i^T`. Inner products, norms,
means and principal components of such matrices all factor, so that nothing larger than
the features themselves is ever formed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias._attributes import Groups
from skdebias.methods._group_dro import GroupDRO, GroupWeights
from skdebias.methods._method import Method, TrainingContext, TrainingResult
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._sums import add_by_number

# Float32 entries of one block of a pass over the rows.
_BLOCK_ENTRIES = 1 << 24
# Bounds of the line search: log of the scale of the mean-difference head, in units of
# the inverse spread of its logits. Separable data end at the upper one, where float32
# residuals still differ.
_LOG_SCALE = (-12.0, 3.0)


class Rows(Protocol):
    """Features that hand out rows: the embeddings, or the activations of a layer."""

    n_rows: int
    n_features: int
    device: torch.device

    def rows(self, index: Tensor) -> Tensor:
        """Gather rows in float32."""
        ...


@dataclass(frozen=True)
class LastLayer:
    """A linear classifier on features, `logits = (x - center) W^T + b`.

    Parameters
    ----------
    weight : Tensor of shape (n_classes, n_features)
    bias : Tensor of shape (n_classes,)
    center : Tensor of shape (n_features,)
    """

    weight: Tensor
    bias: Tensor
    center: Tensor


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
        clusters = tuple(cluster_groups(g, True) for g in context.groups)
        return super().weighting(methods, replace(context, groups=clusters))


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
    magnitude = np.bincount(members.ids, weights=norms) / members.counts
    # Features that are all alike have no magnitude: then groups count alike.
    magnitude = magnitude if magnitude.sum() > 0 else np.ones_like(magnitude)
    return ClusterSampling(tuple(magnitude.tolist()), across_classes)


def feature_norms(features: Rows) -> NDArray[np.float32]:
    """Euclidean norm of every row, centred at the mean of all.

    Parameters
    ----------
    features : Rows

    Returns
    -------
    ndarray of shape (n_rows,)
    """
    index = np.arange(features.n_rows)
    center = feature_mean(features, index)
    parts = [
        (features.rows(torch.from_numpy(index[where])) - center).norm(dim=1)
        for where in blocks(features, index, 0)
    ]
    return torch.cat(parts).cpu().numpy()


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
    return Groups.from_labels(np.zeros_like(clusters), clusters, 1, groups.n_attributes)


def blocks(features: Rows, index: NDArray[np.int64], width: int) -> Iterator[slice]:
    """Yield slices of `index` whose rows, `width` entries each, fit a block.

    Parameters
    ----------
    features : Rows
    index : ndarray of shape (n,)
        Row numbers.
    width : int
        Entries that a row takes beside its features.

    Yields
    ------
    slice
    """
    step = max(1, _BLOCK_ENTRIES // (features.n_features + width))
    for start in range(0, len(index), step):
        yield slice(start, min(start + step, len(index)))


def mean_difference(features: Rows, y: NDArray[np.int64], n_classes: int) -> LastLayer:
    """Fit the warm-up head that needs no hyper-parameter.

    `W_c = t (mean of class c - mean of the class means)` on features centred at their
    mean, zero biases, and the scale t that minimises the log loss: a full-batch
    gradient step from zero with an exact line search when classes are balanced.

    Parameters
    ----------
    features : Rows
    y : ndarray of shape (n_rows,)
        Class codes.
    n_classes : int

    Returns
    -------
    LastLayer
    """
    codes = torch.from_numpy(y).to(features.device)
    sums = torch.zeros(
        n_classes, features.n_features, dtype=torch.float64, device=features.device
    )
    for where in blocks(features, np.arange(len(y)), 0):
        X = features.rows(torch.arange(where.start, where.stop)).double()
        add_by_number(sums, 0, codes[where], X)
    counts = torch.bincount(codes, minlength=n_classes)[:, None]
    means, center = sums / counts, sums.sum(0) / len(y)
    direction = (means - means.mean(0)).float()
    layer = LastLayer(direction, direction.new_zeros(n_classes), center.float())
    z = logits(features, layer).double()
    target = codes[:, None]

    # In units of the spread of the logits, the bounds suit features of any scale.
    spread = float(z.std())
    if spread < torch.finfo(torch.float32).tiny:
        return layer  # the class means do not differ: no scale is better than another

    def loss(log_scale: float) -> float:
        log_p = torch.log_softmax(z * (np.exp(log_scale) / spread), dim=1)
        return float(-log_p.gather(1, target).mean())

    found = minimize_scalar(loss, bounds=_LOG_SCALE, method="bounded")
    scale = float(np.exp(found.x) / spread)
    return LastLayer(direction * scale, layer.bias, layer.center)


def logistic(
    features: Rows, y: NDArray[np.int64], n_classes: int, weight_decay: float
) -> LastLayer:
    """Fit an L2-regularised logistic regression, in blocks of rows.

    It is where training by ERM with this weight decay converges.

    Parameters
    ----------
    features : Rows
    y : ndarray of shape (n_rows,)
        Class codes.
    n_classes : int
    weight_decay : float
        Minimises the mean loss plus `weight_decay / 2` times the squared weights.

    Returns
    -------
    LastLayer
    """
    n, d, device = len(y), features.n_features, features.device
    center = feature_mean(features, np.arange(n))

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        head = torch.from_numpy(flat.reshape(n_classes, d + 1)).to(device)
        layer = LastLayer(head[:, :-1].float(), head[:, -1].float(), center)
        grad = weight_decay * head
        grad[:, -1] = 0.0
        loss = 0.5 * weight_decay * float((head[:, :-1] ** 2).sum())
        for where in blocks(features, np.arange(n), 2 * n_classes):
            index = torch.arange(where.start, where.stop)
            X = features.rows(index) - center
            log_p = torch.log_softmax(X @ layer.weight.T + layer.bias, dim=1)
            target = torch.from_numpy(y[where]).to(device)
            loss -= float(log_p.gather(1, target[:, None]).double().sum()) / n
            residual = (log_p.exp() - one_hot(target, n_classes)) / n
            grad[:, :-1] += residual.T @ X
            grad[:, -1] += residual.sum(0)
        return loss, grad.flatten().cpu().numpy()

    start = np.zeros(n_classes * (d + 1))
    found = minimize(objective, start, jac=True, method="L-BFGS-B")
    head = torch.from_numpy(found.x.reshape(n_classes, d + 1)).to(device).float()
    return LastLayer(head[:, :-1], head[:, -1], center)


def feature_mean(features: Rows, index: NDArray[np.int64]) -> Tensor:
    """Mean of some rows, summed in double precision.

    Parameters
    ----------
    features : Rows
    index : ndarray of shape (n,)

    Returns
    -------
    Tensor of shape (n_features,)
    """
    total = torch.zeros(
        features.n_features, dtype=torch.float64, device=features.device
    )
    for where in blocks(features, index, 0):
        total += features.rows(torch.from_numpy(index[where])).sum(
            0, dtype=torch.float64
        )
    return (total / len(index)).float()


def logits(features: Rows, layer: LastLayer) -> Tensor:
    """Logits of all rows.

    Parameters
    ----------
    features : Rows
    layer : LastLayer

    Returns
    -------
    Tensor of shape (n_rows, n_classes)
    """
    shift = layer.bias - layer.weight @ layer.center
    parts = [
        features.rows(torch.arange(where.start, where.stop)) @ layer.weight.T + shift
        for where in blocks(features, np.arange(features.n_rows), len(shift))
    ]
    return torch.cat(parts)


def residuals(z: Tensor, y: NDArray[np.int64]) -> Tensor:
    """Residual `softmax(z) - onehot(y)` of all rows in an orthonormal contrast.

    Residuals sum to zero over the classes. `d H`, with H an orthonormal basis of that
    hyperplane, keeps all inner products with one column less; for two classes it is
    `sqrt(2) (p_1 - y)`.

    Parameters
    ----------
    z : Tensor of shape (n_rows, n_classes)
        Logits.
    y : ndarray of shape (n_rows,)
        Class codes.

    Returns
    -------
    Tensor of shape (n_rows, n_classes - 1)
    """
    target = torch.from_numpy(y).to(z.device)
    d = torch.softmax(z, dim=1) - one_hot(target, z.shape[1])
    return d @ contrast(z.shape[1]).to(z)


def margins(z: Tensor, y: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logit of the own class above the largest other one.

    Parameters
    ----------
    z : Tensor of shape (n_rows, n_classes)
        Logits.
    y : ndarray of shape (n_rows,)
        Class codes.

    Returns
    -------
    ndarray of shape (n_rows,)
        Negative for the rows that are misclassified.
    """
    own = one_hot(torch.from_numpy(y).to(z.device), z.shape[1]).bool()
    others = z.masked_fill(own, -torch.inf).amax(1)
    return (z[own] - others).cpu().numpy()


def contrast(n_classes: int) -> Tensor:
    """Orthonormal contrast H (Helmert): columns orthogonal to the vector of ones.

    Parameters
    ----------
    n_classes : int

    Returns
    -------
    Tensor of shape (n_classes, n_classes - 1)

    Examples
    --------
    >>> contrast(2).numpy().round(4).tolist()
    [[-0.7071], [0.7071]]
    """
    H = torch.zeros(n_classes, n_classes - 1, dtype=torch.float64)
    for k in range(1, n_classes):
        H[:k, k - 1] = -1.0
        H[k, k - 1] = k
        H[:, k - 1] /= (k * (k + 1)) ** 0.5
    return H


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of gradients, for these rows and for others.

    Parameters
    ----------
    scores : ndarray of shape (n, n_components)
        Of the rows that the components were found on.
    axes : Tensor of shape (k, n_features, n_components)
    offset : Tensor of shape (n_components,)
        Scores of the mean gradient.
    """

    scores: NDArray[np.float32]
    axes: Tensor
    offset: Tensor


class FactoredGradients:
    """The gradients `r_i x_i^T` of some rows, kept as their two factors.

    Parameters
    ----------
    features : Rows
    index : ndarray of shape (n,)
        Rows of the features.
    residual : Tensor of shape (n, k)
        Residuals of these rows, in a contrast.
    center : Tensor of shape (n_features,)
        Subtracted from the features.
    """

    def __init__(
        self,
        features: Rows,
        index: NDArray[np.int64],
        residual: Tensor,
        center: Tensor,
    ) -> None:
        self._features = features
        self._index = index
        self._residual = residual
        self._center = center
        self.n_rows, self.k = residual.shape
        self.n_features = features.n_features

    @cached_property
    def mean(self) -> Tensor:
        """Mean gradient, (k, n_features, 1)."""
        ones = self._residual.new_ones(self.n_rows, 1)
        return self._transposed(ones) / self.n_rows

    def _blocks(self, width: int) -> Iterator[tuple[slice, Tensor]]:
        for where in blocks(self._features, self._index, self.k * width):
            index = torch.from_numpy(self._index[where])
            yield where, self._features.rows(index) - self._center

    def norms(self) -> Tensor:
        """Euclidean norm of every gradient, `|r_i| |x_i|`.

        Returns
        -------
        Tensor of shape (n,)
        """
        length = torch.cat([X.norm(dim=1) for _, X in self._blocks(0)])
        return length * self._residual.norm(dim=1)

    def product(self, O: Tensor) -> Tensor:  # noqa: E741
        """Product of the centred gradients with a matrix.

        Parameters
        ----------
        O : Tensor of shape (k, n_features, q)

        Returns
        -------
        Tensor of shape (n, q)
        """
        return self._product(O) - (self.mean * O).sum((0, 1))

    def scores(self, components: PrincipalComponents) -> Tensor:
        """Scores of these rows on the components of other ones.

        Parameters
        ----------
        components : PrincipalComponents

        Returns
        -------
        Tensor of shape (n, n_components)
        """
        return self._product(components.axes) - components.offset

    def _product(self, O: Tensor) -> Tensor:  # noqa: E741
        flat = O.transpose(0, 1).flatten(1)  # (n_features, k q)
        parts = []
        for where, X in self._blocks(O.shape[2]):
            out = (X @ flat).view(len(X), self.k, -1)
            parts.append((out * self._residual[where, :, None]).sum(1))
        return torch.cat(parts)

    def transposed(self, Y: Tensor) -> Tensor:
        """Product of the transposed centred gradients with a matrix.

        Parameters
        ----------
        Y : Tensor of shape (n, q)

        Returns
        -------
        Tensor of shape (k, n_features, q)
        """
        return self._transposed(Y) - self.mean * Y.sum(0)

    def _transposed(self, Y: Tensor) -> Tensor:
        out = Y.new_zeros(self.k, self.n_features, Y.shape[1])
        for where, X in self._blocks(Y.shape[1]):
            for k in range(self.k):
                out[k] += X.T @ (self._residual[where, k, None] * Y[where])
        return out


def principal_components(
    gradients: FactoredGradients, n_components: int, seed: int, n_power: int = 6
) -> PrincipalComponents:
    """Principal components of the gradients, and the scores on them.

    Randomised range finder with orthonormalised power steps: twice `n_power` passes
    over the rows, memory `O(n q + C D q)` with `q = n_components + 10`.

    Parameters
    ----------
    gradients : FactoredGradients
    n_components : int
        At most the number of rows and of columns are returned.
    seed : int
        Seed of the starting directions.
    n_power : int, default=6
        Power steps.

    Returns
    -------
    PrincipalComponents

    References
    ----------
    Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
    algorithms 4.4 and 5.1.
    """
    k, d = gradients.k, gradients.n_features
    limit = min(gradients.n_rows, k * d)
    q = min(n_components + 10, limit)
    start = np.random.default_rng(seed).standard_normal((k, d, q), dtype=np.float32)
    Y = gradients.product(torch.from_numpy(start).to(gradients.mean))
    for _ in range(n_power):
        Z = gradients.transposed(torch.linalg.qr(Y).Q)
        Z = torch.linalg.qr(Z.reshape(k * d, q)).Q.reshape(k, d, -1)
        Y = gradients.product(Z)
    basis = torch.linalg.qr(Y).Q
    small = gradients.transposed(basis).reshape(k * d, -1).T
    U, S, Vt = torch.linalg.svd(small, full_matrices=False)
    # The sign that makes a component's largest loading positive: any order of the rows
    # then gives the same scores.
    sign = Vt.gather(1, Vt.abs().argmax(1, keepdim=True)).sign()
    kept = slice(0, min(n_components, limit))
    scores = (basis @ (U * (S * sign[:, 0])))[:, kept].cpu().numpy()
    axes = (Vt * sign)[kept].T.reshape(k, d, -1)
    return PrincipalComponents(scores, axes, (gradients.mean * axes).sum((0, 1)))
