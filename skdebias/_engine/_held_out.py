"""Smooth errors of the heads of a stack on rows that were held out."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack

# Width of the step from right to wrong, in root mean squares of the heads' margins: a
# sharp step leaves ties among few rows, a wide one is no error any more.
_WIDTH = 0.2
# Rows at which a group's own error and the mean of all groups count alike: the error of
# a group of few rows says little by itself.
_PRIOR_ROWS = 10.0
# Groups whose errors are nearer than this share the maximum.
_TEMPERATURE = 0.03
# Rows from which the scale of the margins is taken, and rows of a block.
_SCALE_ROWS = 10_000
_BLOCK_VALUES = 1 << 20
# Margin of rows whose class is unseen in training.
_HOPELESS = -1e4


class HeldOut(NamedTuple):
    """Rows that choose.

    Parameters
    ----------
    features : Features or JoinedFeatures
    rows : ndarray of shape (n_rows,)
        Which of the features.
    y : ndarray of shape (n_rows,)
        Class codes; -1 is a class unseen in training, which is always wrong.
    ids : ndarray of shape (n_rows,)
        Groups.
    weights : ndarray of shape (n_rows,) or None
        None counts all rows alike.
    """

    features: Features | JoinedFeatures
    rows: NDArray[np.int64]
    y: NDArray[np.int64]
    ids: NDArray[np.int64]
    weights: NDArray[np.float64] | None


def group_errors(stack: HeadStack, held: HeldOut, n_groups: int) -> NDArray[np.float64]:
    """Sum the smooth errors of all heads over the rows of each group.

    The error of a row is a sigmoid of its margin, the logit of its class less the
    largest other one, in units of the margins' root mean square: heads that decay more
    have smaller logits and no smaller errors.

    Parameters
    ----------
    stack : HeadStack
        Linear heads of one stream.
    held : HeldOut
    n_groups : int

    Returns
    -------
    ndarray of shape (n_groups, n_heads)
    """
    spaced = np.arange(0, len(held.rows), -(-len(held.rows) // _SCALE_ROWS))
    spaced = spaced[held.y[spaced] >= 0]
    squares = torch.cat([m.square() for _, m in _margins(stack, held, spaced)])
    if held.weights is not None:
        share = torch.from_numpy(held.weights[spaced]).to(squares)
        squares *= (share / share.mean())[:, None]
    width = _WIDTH * squares.mean(0).sqrt()
    width = width.clamp_min(torch.finfo(width.dtype).tiny)
    sums = torch.zeros(n_groups, stack.n_heads, dtype=torch.float64)
    for places, margins in _margins(stack, held, np.arange(len(held.rows))):
        errors = torch.sigmoid(-margins / width).double().cpu()
        if held.weights is not None:
            errors *= torch.from_numpy(held.weights[places])[:, None]
        sums.index_add_(0, torch.from_numpy(held.ids[places]), errors)
    return sums.numpy()


def _margins(
    stack: HeadStack, held: HeldOut, places: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    """Yield places among the held-out rows, and margins (n_places, n_heads) there.

    The margin of a class unseen in training is far below zero.
    """
    size = max(1, _BLOCK_VALUES // max(held.features.n_features, stack.n_heads))
    for start in range(0, len(places), size):
        some = places[start : start + size]
        X = held.features.rows(torch.from_numpy(held.rows[some]))
        logits = stack.forward(X[None])[0][0].float()  # (rows, heads, logits)
        codes = torch.from_numpy(held.y[some]).to(logits.device)
        if logits.shape[2] == 1:
            margins = logits[..., 0] * (2 * codes - 1)[:, None]
        else:
            index = codes.clamp_min(0)[:, None, None].expand(-1, logits.shape[1], 1)
            others = logits.scatter(2, index, -torch.inf).amax(2)
            margins = logits.gather(2, index)[..., 0] - others
        yield some, torch.where((codes >= 0)[:, None], margins, _HOPELESS)


def smooth_error(
    sums: NDArray[np.float64], counts: NDArray[np.float64], selection: str
) -> NDArray[np.float64]:
    """Reduce the groups' errors to one number per head; smaller is better.

    Parameters
    ----------
    sums : ndarray of shape (n_groups, n_heads)
        Summed smooth errors.
    counts : ndarray of shape (n_groups,)
        Rows.
    selection : str
        "group_balanced" is the mean over groups, "accuracy" over rows; all others are
        the smooth maximum over groups, each drawn to the mean of all as far as its rows
        are few.

    Returns
    -------
    ndarray of shape (n_heads,)
    """
    present = counts > 0
    sums, n = sums[present], counts[present, None]
    if selection == "accuracy":
        return sums.sum(0) / n.sum()
    mean = (sums / n).mean(0)
    if selection == "group_balanced":
        return mean
    drawn = (sums + _PRIOR_ROWS * mean) / (n + _PRIOR_ROWS)
    spread = logsumexp(drawn / _TEMPERATURE, axis=0) - np.log(len(drawn))
    return _TEMPERATURE * spread
