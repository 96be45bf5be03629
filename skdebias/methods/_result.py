"""What a method is shown when training is over."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class TrainingResult(Protocol):
    """What a method is shown when training is over.

    Attributes
    ----------
    history : dict of str to list of ndarray
        Per epoch `loss` (n_heads,), and what the penalty showed.
    best_epoch : ndarray of shape (n_heads,)
        Epoch that was kept, from 1.
    weighting : Weighting or None
        In its final state, for all methods of the stack.
    objective : Objective or None
        The same of it.
    position : int
        Number of the method among those of its stack.
    shares : ndarray of shape (1, n_strata) or None
        From the deterministic solver, weight of every stratum's mean loss at the end.
    """

    history: dict[str, list[NDArray[np.float64]]]
    best_epoch: NDArray[np.int64]
    weighting: Any
    objective: Any
    position: int
    shares: NDArray[np.float64] | None
