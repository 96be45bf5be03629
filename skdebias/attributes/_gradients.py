"""Gradients of the last layer as signatures of rows, never N x (C D).

The gradient of a row's loss in the last layer's weights is the outer product of the
residual of its logits and its features, `g_i = d_i x_i^T`. Inner products, norms,
means and principal components of such matrices all factor, so that nothing larger than
the features themselves is ever formed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias.attributes._rows import Rows, blocks


def residuals(z: Tensor, y: NDArray[np.int64]) -> Tensor:
    """Return the residuals `softmax(z) - onehot(y)` in an orthonormal contrast.

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


def contrast(n_classes: int) -> Tensor:
    """Return the Helmert contrast H: orthonormal columns that sum to zero.

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
    """Gradients `r_i x_i^T` of some rows, kept as their two factors.

    Parameters
    ----------
    features : Rows
    index : ndarray of shape (n,)
        Rows of the features.
    residual : Tensor of shape (n, k)
        Residuals of these rows, in a contrast.
    center : Tensor of shape (n_features,)
        Subtracted from the features.
    sample_weight : ndarray of shape (n,), default=None
        Positive weights of these rows, in the mean and the principal components.
    """

    def __init__(
        self,
        features: Rows,
        index: NDArray[np.int64],
        residual: Tensor,
        center: Tensor,
        sample_weight: NDArray[np.float64] | None = None,
    ) -> None:
        self._features = features
        self._index = index
        self._residual = residual
        self._center = center
        self.n_rows, self.k = residual.shape
        self.n_features = features.n_features
        self._weights: Tensor | None = None
        if sample_weight is not None:
            relative = torch.from_numpy(sample_weight / sample_weight.mean())
            self._weights = relative.to(residual)[:, None]

    @cached_property
    def mean(self) -> Tensor:
        """Mean gradient, (k, n_features, 1)."""
        ones = self._residual.new_ones(self.n_rows, 1)
        counted = ones if self._weights is None else self._weights
        return self._transposed(counted) / self.n_rows

    def weighted(self, Y: Tensor) -> Tensor:
        """Multiply rows by the roots of their weights.

        Parameters
        ----------
        Y : Tensor of shape (n, q)

        Returns
        -------
        Tensor of shape (n, q)
        """
        return Y if self._weights is None else Y * self._weights.sqrt()

    def unweighted(self, Y: Tensor) -> Tensor:
        """Divide rows by the roots of their weights, as :meth:`weighted` multiplies."""
        return Y if self._weights is None else Y / self._weights.sqrt()

    def _blocks(self, width: int) -> Iterator[tuple[slice, Tensor]]:
        for where in blocks(self._features, self._index, self.k * width):
            index = torch.from_numpy(self._index[where])
            yield where, self._features.rows(index) - self._center

    def norms(self) -> Tensor:
        """Return the Euclidean norm of every gradient, `|r_i| |x_i|`.

        Returns
        -------
        Tensor of shape (n,)
        """
        length = torch.cat([X.norm(dim=1) for _, X in self._blocks(0)])
        return length * self._residual.norm(dim=1)

    def product(self, O: Tensor) -> Tensor:  # noqa: E741
        """Multiply the centred gradients by a matrix.

        Parameters
        ----------
        O : Tensor of shape (k, n_features, q)

        Returns
        -------
        Tensor of shape (n, q)
        """
        return self._product(O) - (self.mean * O).sum((0, 1))

    def scores(self, components: PrincipalComponents) -> Tensor:
        """Return the scores of these rows on the components of other ones.

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
        by_block = []
        for where, X in self._blocks(O.shape[2]):
            out = (X @ flat).view(len(X), self.k, -1)
            by_block.append((out * self._residual[where, :, None]).sum(1))
        return torch.cat(by_block)

    def transposed(self, Y: Tensor) -> Tensor:
        """Multiply the transposed centred gradients by a matrix.

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
    """Compute the principal components of the gradients, and the scores on them.

    Randomised range finder with orthonormalised power steps: twice `n_power` passes
    over the rows, memory `O(n q + C D q)` with `q = n_components + 10`. Weights count
    as repetitions: rows are multiplied by their roots, and the scores divided by them.

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
    begin = torch.from_numpy(start).to(gradients.mean)
    Y = gradients.weighted(gradients.product(begin))
    for _ in range(n_power):
        Z = gradients.transposed(gradients.weighted(torch.linalg.qr(Y).Q))
        Z = torch.linalg.qr(Z.reshape(k * d, q)).Q.reshape(k, d, -1)
        Y = gradients.weighted(gradients.product(Z))
    basis = torch.linalg.qr(Y).Q
    small = gradients.transposed(gradients.weighted(basis)).reshape(k * d, -1).T
    U, S, Vt = torch.linalg.svd(small, full_matrices=False)
    # The sign that makes a component's largest loading positive: any order of the rows
    # then gives the same scores.
    sign = Vt.gather(1, Vt.abs().argmax(1, keepdim=True)).sign()
    kept = slice(0, min(n_components, limit))
    projected = basis @ (U * (S * sign[:, 0]))
    scores = gradients.unweighted(projected)[:, kept].cpu().numpy()
    axes = (Vt * sign)[kept].T.reshape(k, d, -1)
    return PrincipalComponents(scores, axes, (gradients.mean * axes).sum((0, 1)))
