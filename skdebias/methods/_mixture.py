"""Rows of a step that are mixed with others before they are looked at."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class DrawnRows:
    """What is known of the rows of a step before they are run.

    Parameters
    ----------
    weights : Tensor of shape (S, R, M)
        Signed slot weights of the plans, loss factors of the rows included.
    strata : Tensor of shape (S, R)
        Stratum of the plan that the slot was drawn from.
    rows : Tensor of shape (S, R)
        Row numbers in the whole data set; on any device, unlike all else.
    y : Tensor of shape (S, R)
        Class codes.
    number : int
        Steps that were made before, in earlier epochs too.
    """

    weights: Tensor
    strata: Tensor
    rows: Tensor
    y: Tensor
    number: int


@dataclass(frozen=True)
class Mixture:
    """With which other row each row of a step is mixed, and how much.

    A row `x_r` of label `y_r` becomes `w x_r + (1 - w) x_p`, whose loss is
    `w L(y_r) + (1 - w) L(y_p)`: that of a label which is mixed as the row is.

    Parameters
    ----------
    partners : Tensor of shape (S, R)
        Slot `p` of every row's partner; its own for a row that stays as it is.
    weights : Tensor of shape (S, R, n_methods)
        Share `w` of the row itself, in [0, 1].

    Examples
    --------
    Two rows, of which the first becomes a quarter of itself, under one method:

    >>> import torch
    >>> from skdebias.methods import Mixture
    >>> share = torch.tensor([[[0.25], [1.0]]])
    >>> Mixture(torch.tensor([[1, 1]]), share).weights.shape
    torch.Size([1, 2, 1])
    """

    partners: Tensor
    weights: Tensor


class Mixing(Protocol):
    """Rule that mixes the rows of a step, for all methods of a stack at once.

    It has no state, and draws by :func:`uniform`: trainers ask more than once. What
    layers do with the mixed rows is left to them: an affine first layer of stacked
    heads mixes its outputs, which is the same and lets them share their products.

    See Also
    --------
    Method.mixing : Makes one.

    Examples
    --------
    Every row with the next one, half and half:

    >>> import torch
    >>> from skdebias.methods import Mixture
    >>> class Neighbours:
    ...     def __init__(self, n_methods):
    ...         self.n_methods = n_methods
    ...
    ...     def __call__(self, drawn):
    ...         partners = torch.arange(drawn.y.shape[1]).roll(-1).expand(drawn.y.shape)
    ...         halves = torch.full((*drawn.y.shape, self.n_methods), 0.5)
    ...         return Mixture(partners.to(drawn.y.device), halves.to(drawn.y.device))
    ...
    ...     def select(self, methods):
    ...         self.n_methods = len(methods)
    """

    def __call__(self, drawn: DrawnRows) -> Mixture:
        """Return how the rows of a step are mixed.

        Parameters
        ----------
        drawn : DrawnRows

        Returns
        -------
        Mixture
        """
        ...

    def select(self, methods: Tensor) -> None:
        """Drop all other methods.

        Parameters
        ----------
        methods : Tensor of shape (n_kept,)
            Positions among the methods of a stream, the same in every stream.
        """
        ...
