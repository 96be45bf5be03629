"""How many heads train as one stack."""

from itertools import pairwise

# Bytes that a stack may take with max_heads="auto". As many stacks as there are threads
# train at once.
_STACK_BYTES = 1 << 28
_SCORED_ROWS = 16384
# Multiply-adds of a step from which a part of a stack is worth a thread of its own, and
# the stacks of all splits that large ones are divided into: whatever the number of
# threads is, or a result would depend on it.
_PART_WORK = 16_000_000
_PARTS = 16


def n_parallel_stacks(n_splits, solver):
    """Return how many stacks a search trains at the same time, threads permitting.

    Parameters
    ----------
    n_splits : int
    solver : str or None

    Returns
    -------
    int
    """
    # The deterministic solver divides the rows of a stack, and not its heads.
    return n_splits if solver == "lbfgs" else max(n_splits, _PARTS)


def scored_blocks(rows):
    """Yield row numbers in blocks that are scored at once.

    Parameters
    ----------
    rows : ndarray

    Yields
    ------
    ndarray
    """
    for start in range(0, len(rows), _SCORED_ROWS):
        yield rows[start : start + _SCORED_ROWS]


class StackLimits:
    """Divides candidates into stacks.

    Parameters
    ----------
    max_heads : int or "auto"
    n_splits : int
    """

    def __init__(self, max_heads, n_splits):
        self._max_heads = max_heads
        self._n_splits = n_splits

    def most_candidates(self, model, widths, n_rows, n_heads, n_candidates):
        """Divide candidates evenly; return how many one stack holds at most.

        Parameters
        ----------
        model : BaseDebiasedClassifier
            With its solver named.
        widths : list of int
            Features, units of the hidden layers, and outputs of a head.
        n_rows : int
            Rows that are scored.
        n_heads : int
            Heads of a candidate.
        n_candidates : int

        Returns
        -------
        int
        """
        n_weights = sum(a * b for a, b in pairwise(widths))
        most = n_candidates
        if self._max_heads == "auto":
            # Weights, gradients, two moments, kept ones; activations and what follows.
            # The deterministic solver remembers 20 steps and gradients in double.
            copies = 100 if model.solver == "lbfgs" else 6
            n_outputs = sum(widths[1:])
            floats = copies * n_weights + 16 * model.batch_size * n_outputs
            floats += 3 * min(n_rows, 4 * _SCORED_ROWS) * n_outputs
            most = _STACK_BYTES // (4 * floats * n_heads)
        else:
            most = self._max_heads // n_heads
        n_stacks = -(-n_candidates // max(1, most))
        if model.solver != "lbfgs":  # which divides the rows
            work = model.batch_size * n_weights * n_heads * n_candidates
            n_parts = -(-_PARTS // self._n_splits)
            n_stacks = max(n_stacks, min(n_parts, work // _PART_WORK))
        return -(-n_candidates // n_stacks)
