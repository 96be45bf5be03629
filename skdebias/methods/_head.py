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
        Epochs after which the head is frozen while others go on; None is never.
    anchor : (sequence of ndarray, sequence of ndarray), default=None
        Weights of the layers, each of shape (n_out, n_in), and their biases: where the
        head starts, and where weight decay pulls it, biases included. None pulls the
        weights to zero.

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

    @property
    def prefix(self) -> str:
        """What precedes the names of the head's fitted attributes."""
        return f"{self.name}_" if self.name else ""


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
