"""Linear classifiers on features, fitted by passes over their rows."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn.functional import one_hot

from skdebias.attributes._rows import Rows, blocks, feature_mean
from skdebias.methods._sums import add_by_number

# Bounds of the line search: log of the scale of the mean-difference head, in units of
# the inverse spread of its logits. Separable data end at the upper one, where float32
# residuals still differ.
_LOG_SCALE = (-12.0, 3.0)


@dataclass(frozen=True)
class LastLayer:
    """Linear classifier on features, `logits = (x - center) W^T + b`.

    Parameters
    ----------
    weight : Tensor of shape (n_classes, n_features)
    bias : Tensor of shape (n_classes,)
    center : Tensor of shape (n_features,)
    """

    weight: Tensor
    bias: Tensor
    center: Tensor


def logits(features: Rows, layer: LastLayer) -> Tensor:
    """Return the logits of all rows.

    Parameters
    ----------
    features : Rows
    layer : LastLayer

    Returns
    -------
    Tensor of shape (n_rows, n_classes)
    """
    shift = layer.bias - layer.weight @ layer.center
    by_block = [
        features.rows(torch.arange(where.start, where.stop)) @ layer.weight.T + shift
        for where in blocks(features, np.arange(features.n_rows), len(shift))
    ]
    return torch.cat(by_block)


def mean_difference(
    features: Rows,
    y: NDArray[np.int64],
    n_classes: int,
    sample_weight: NDArray[np.float64] | None = None,
) -> LastLayer:
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
    sample_weight : ndarray of shape (n_rows,), default=None
        Positive weights of the rows.

    Returns
    -------
    LastLayer
    """
    codes = torch.from_numpy(y).to(features.device)
    weights = _weights(sample_weight, features)
    sums = torch.zeros(
        n_classes, features.n_features, dtype=torch.float64, device=features.device
    )
    for where in blocks(features, np.arange(len(y)), 0):
        X = features.rows(torch.arange(where.start, where.stop)).double()
        X = X if weights is None else X * weights[where, None]
        add_by_number(sums, 0, codes[where], X)
    counts = torch.bincount(codes, weights, minlength=n_classes)[:, None]
    total = len(y) if weights is None else weights.sum()
    means, center = sums / counts, sums.sum(0) / total
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
        of_class = log_p.gather(1, target)
        if weights is not None:
            return float(-(weights @ of_class) / total)
        return float(-of_class.mean())

    minimum = minimize_scalar(loss, bounds=_LOG_SCALE, method="bounded")
    scale = float(np.exp(minimum.x) / spread)
    return LastLayer(direction * scale, layer.bias, layer.center)


def logistic(
    features: Rows,
    y: NDArray[np.int64],
    n_classes: int,
    weight_decay: float,
    sample_weight: NDArray[np.float64] | None = None,
    *,
    index: NDArray[np.int64] | None = None,
    start: LastLayer | None = None,
    max_iter: int = 15000,
) -> LastLayer:
    """Fit an L2-regularised logistic regression, in blocks of rows.

    It is where training by ERM with this weight decay converges.

    Parameters
    ----------
    features : Rows
    y : ndarray of shape (n,)
        Class codes.
    n_classes : int
    weight_decay : float
        Minimises the mean loss plus `weight_decay / 2` times the squared weights.
    sample_weight : ndarray of shape (n,), default=None
        Positive weights of the rows.
    index : ndarray of shape (n,), default=None
        Rows of the features that are fitted. None is all of them.
    start : LastLayer, default=None
        Where to start; it has the centre of the rows. None starts at zero.
    max_iter : int, default=15000
        Most iterations.

    Returns
    -------
    LastLayer
    """
    n, d, device = len(y), features.n_features, features.device
    index = np.arange(n) if index is None else index
    if start is None:
        center = feature_mean(features, index, sample_weight)
    else:
        center = start.center
    weights = _weights(sample_weight, features)
    shares = None if weights is None else (weights / weights.sum())[:, None]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        head = torch.from_numpy(flat.reshape(n_classes, d + 1)).to(device)
        layer = LastLayer(head[:, :-1].float(), head[:, -1].float(), center)
        grad = weight_decay * head
        grad[:, -1] = 0.0
        loss = 0.5 * weight_decay * float((head[:, :-1] ** 2).sum())
        for where in blocks(features, index, 2 * n_classes):
            X = features.rows(torch.from_numpy(index[where])) - center
            log_p = torch.log_softmax(X @ layer.weight.T + layer.bias, dim=1)
            target = torch.from_numpy(y[where]).to(device)
            of_class = log_p.gather(1, target[:, None]).double()
            residual = log_p.exp() - one_hot(target, n_classes)
            if shares is None:
                loss, residual = loss - float(of_class.sum()) / n, residual / n
            else:
                loss -= float((shares[where] * of_class).sum())
                residual = residual * shares[where].to(residual.dtype)
            grad[:, :-1] += residual.T @ X
            grad[:, -1] += residual.sum(0)
        return loss, grad.flatten().cpu().numpy()

    initial = np.zeros((n_classes, d + 1))
    if start is not None:
        initial[:, :-1], initial[:, -1] = start.weight.cpu(), start.bias.cpu()
    minimum = minimize(
        objective,
        initial.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter},
    )
    head = torch.from_numpy(minimum.x.reshape(n_classes, d + 1)).to(device).float()
    return LastLayer(head[:, :-1], head[:, -1], center)


def _weights(
    sample_weight: NDArray[np.float64] | None, features: Rows
) -> Tensor | None:
    if sample_weight is None:
        return None
    return torch.from_numpy(sample_weight).to(features.device)


def margins(z: Tensor, y: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return by how much the logit of the true class exceeds all others.

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
    true_class = one_hot(torch.from_numpy(y).to(z.device), z.shape[1]).bool()
    others = z.masked_fill(true_class, -torch.inf).amax(1)
    return (z[true_class] - others).cpu().numpy()


def check_finite(z: Tensor, what: str) -> None:
    """Refuse features on which logits are not finite.

    Parameters
    ----------
    z : Tensor
        Logits.
    what : str
        Whose they are.

    Raises
    ------
    ValueError
    """
    if not bool(z.isfinite().all()):
        raise ValueError(
            f"X cannot be used: the logits of {what} are not finite. "
            "Standardise X, for example with sklearn.preprocessing.StandardScaler."
        )


def moved(fitted: Any, device: torch.device) -> Any:
    """Return a dataclass with its tensors on a device; fitted ones lie on the CPU.

    Parameters
    ----------
    fitted : dataclass
    device : torch.device

    Returns
    -------
    dataclass
    """
    of_tensors = {
        name: value.to(device)
        for name, value in vars(fitted).items()
        if isinstance(value, Tensor)
    }
    return replace(fitted, **of_tensors)
