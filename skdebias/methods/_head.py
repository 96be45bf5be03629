"""What a method says of a head that it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Weights of the layers (n_out, n_in), input to output, and their biases.
Parameters = tuple[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]]

#: Where a linear head may start, see :class:`Head`.
STARTS = ("auto", "zero", "random", "first")


@dataclass(frozen=True, eq=False)
class Head:
    """One of the heads that a method trains side by side.

    Parameters
    ----------
    name : str, default=""
        What precedes the head's fitted attributes, as `student` does in
        `student_coef_`. The result has no name; of heads that are alternatives, all
        have one.
    start : {"auto", "zero", "random", "first"}, default="auto"
        Where a linear head starts: at zero, at small random weights of its own, or
        where the first head of the method does. "auto" is zero for a head that is
        alone. Several heads with one objective would stay equal from there, and start
        at random. Hidden layers start at random always.
    weight_decay : float, default=None
        None is that of the estimator.
    epochs : int, default=None
        Epoch after which the head is frozen while others go on; None is never.
    anchor : (sequence of ndarray, sequence of ndarray), default=None
        Weights of the layers, each of shape (n_out, n_in), and their biases: where the
        head starts, and where weight decay pulls it, biases included. None pulls the
        weights to zero.
    first_epoch : int, default=1
        Of a whole network, the epoch in which its training begins; it stays as it
        starts until then. Epochs before the result's are never kept.
    clean : bool, default=False
        Of a whole network, whether it sees items without `augment` once it is frozen.
    layer : str, default=None
        Of a whole network, the submodule of the backbone that its head reads, in the
        place of the embedding: the network is as shallow as that.

    Examples
    --------
    >>> from skdebias.methods import Head
    >>> student = Head("student", weight_decay=0.1, epochs=5)
    >>> student.prefix
    'student_'
    """

    name: str = ""
    start: Literal["auto", "zero", "random", "first"] = "auto"
    weight_decay: float | None = None
    epochs: int | None = None
    anchor: Parameters | None = None
    first_epoch: int = 1
    clean: bool = False
    layer: str | None = None

    def trains_in(self, epoch: int) -> bool:
        """Return whether the head is trained in an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 1.

        Returns
        -------
        bool
        """
        return self.first_epoch <= epoch and (
            self.epochs is None or epoch <= self.epochs
        )

    @property
    def prefix(self) -> str:
        """What precedes the names of the head's fitted attributes."""
        return f"{self.name}_" if self.name else ""


@dataclass(frozen=True)
class Auxiliary:
    """A small head on a layer of a whole network, in training only.

    It belongs to the network of the method's result. A penalty runs it by
    :meth:`ForwardPass.auxiliary`, and what it makes of the outputs trains it.

    Parameters
    ----------
    name : str
        By which the penalty calls it.
    layer : str, default="embedding"
        What it reads: "embedding", "input", or the name of a submodule of the backbone.
        Maps and sequences are averaged over their positions.
    n_outputs : int or str, default=None
        Number of its outputs. A text is the name of a layer as wide; None is as many as
        the network has logits.
    hidden_layer_sizes : tuple of int, default=()
        Sizes of its hidden ReLU layers.
    rate : float, default=1.0
        Its step size, in units of that of the network.

    Examples
    --------
    >>> from skdebias.methods import Auxiliary
    >>> Auxiliary("sieve", "layer1", hidden_layer_sizes=(64,)).layer
    'layer1'
    """

    name: str
    layer: str = "embedding"
    n_outputs: int | str | None = None
    hidden_layer_sizes: tuple[int, ...] = ()
    rate: float = 1.0


def initial_state(heads: Sequence[Head], position: int) -> tuple[int, bool]:
    """Return how the weights of a head are drawn.

    Parameters
    ----------
    heads : sequence of Head
        Those of one method.
    position : int
        Which of them.

    Returns
    -------
    stream : int
        Number of the random stream of the weights, the same for equal starts.
    from_zero : bool
        Whether a linear head starts at zero instead.
    """
    stream, head = position, heads[position]
    if head.start == "first":
        stream, head = 0, heads[0]
    zero = head.start == "zero" or (head.start == "auto" and len(heads) == 1)
    return stream, zero
