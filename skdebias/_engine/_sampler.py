"""Index plans: which row fills which slot at which step, drawn on the CPU."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skdebias.methods import SamplingPlan, slot_table

# Index matrices are drawn in blocks of at most this many entries.
_BLOCK_ENTRIES = 1 << 19


class IndexSampler:
    """Draws the rows of every step as a pure function of a seed and a plan.

    Each slot is a counter-based stream of its own (Philox, keyed by the seed, with
    stream, stratum and position in the counter). The rows a plan sees therefore do not
    depend on the device, on the other plans of a stack, or on how draws are blocked.

    Parameters
    ----------
    plans : sequence of SamplingPlan
        Plans of the heads, over the same strata.
    batch_size : int
        Rows of one step over all batches of one plan.
    seed : int
        Seed in [0, 2**64).
    rows : ndarray of shape (n_rows,), default=None
        Row numbers that the plans' local row numbers stand for. None is the identity.

    Attributes
    ----------
    n_slots : int
        Rows gathered at each step.
    weights : ndarray of shape (n_slots, n_plans)
        Signed weights of the slots.
    strata : ndarray of shape (n_slots,)
        Stratum that each slot is drawn from.
    """

    def __init__(
        self,
        plans: Sequence[SamplingPlan],
        batch_size: int,
        seed: int,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._seed = seed
        self._replacement = plans[0].replacement
        self._table = slot_table(plans, batch_size)
        self.weights = self._table.weights
        self.strata = self._table.stratum
        self.n_slots = len(self._table.stratum)
        strata = plans[0].strata
        # Small numbers are sorted in linear time.
        small = strata.astype(np.min_scalar_type(int(strata.max())))
        members = np.argsort(small, kind="stable")
        self._members = members if rows is None else rows[members]
        self._sizes = np.bincount(strata)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        weights = plans[0].draw_weights
        #: Of every stratum, the sums of the weights up to each of its rows.
        self._sums = None
        if weights is not None:
            by_stratum = np.split(weights[members], self._starts[1:])
            self._sums = [np.cumsum(of_stratum) for of_stratum in by_stratum]

    def steps(self, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """Yield the row numbers of steps `start` to `stop - 1`.

        Parameters
        ----------
        start, stop : int
            Step range.

        Yields
        ------
        ndarray of shape (n_slots,)
        """
        # Philox counters advance four draws at a time: blocks start on multiples of 4.
        block = max(4, _BLOCK_ENTRIES // self.n_slots // 4 * 4)
        first = start // block * block
        for begin in range(first, stop, block):
            drawn = self._block(begin, min(block, stop - begin))
            yield from drawn[max(start - begin, 0) :]

    def _block(self, begin: int, n_steps: int) -> NDArray[np.int64]:
        draw = self._independent if self._replacement else self._shuffled
        offsets = draw(begin, n_steps)
        return self._members[self._starts[self._table.stratum] + offsets]

    def _independent(self, begin: int, n_steps: int) -> NDArray[np.int64]:
        """Offsets within the strata, each drawn by weight with replacement."""
        raw = np.empty((self.n_slots, n_steps), dtype=np.uint64)
        generator = np.random.Philox(key=[self._seed, 0])
        state = generator.state
        slots = zip(self._table.position, self._table.stratum, self._table.stream)
        for i, (position, stratum, stream) in enumerate(slots):
            state["state"]["counter"][:] = (begin // 4, position, stratum, stream)
            generator.state = state
            raw[i] = generator.random_raw(n_steps)
        uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        if self._sums is None:
            sizes = self._sizes[self._table.stratum]
            return (uniform * sizes[:, None]).astype(np.int64).T.copy()
        offsets = np.empty(uniform.shape, dtype=np.int64)
        for stratum in np.unique(self._table.stratum):
            slots = self._table.stratum == stratum
            offsets[slots] = self._at_shares(stratum, uniform[slots])
        return offsets.T.copy()

    def _at_shares(
        self, stratum: int, shares: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Rows of a stratum that lie at these shares of its weight, in [0, 1)."""
        assert self._sums is not None  # noqa: S101, as callers have seen
        sums = self._sums[stratum]
        found = np.searchsorted(sums, shares * sums[-1], side="right")
        return np.minimum(found, len(sums) - 1)

    def _shuffled(self, begin: int, n_steps: int) -> NDArray[np.int64]:
        """Offsets that walk each stratum through, reshuffled at every pass.

        With weights, a pass of n offsets has every row as often as n times its share of
        the weight says, rounded up or down so that the mean over passes is exact.
        """
        offsets = np.empty((n_steps, self.n_slots), dtype=np.int64)
        table = self._table
        pairs = np.unique(np.stack([table.stream, table.stratum], 1), axis=0)
        for stream, stratum in pairs:
            slots = np.flatnonzero(
                (table.stream == stream) & (table.stratum == stratum)
            )
            size, count = int(self._sizes[stratum]), len(slots)
            low, high = begin * count, (begin + n_steps) * count
            passes = range(low // size, (high - 1) // size + 1)
            walk = np.concatenate(
                [self._permutation(size, n, stratum, stream) for n in passes]
            )
            skip = low - passes[0] * size
            walk = walk[skip : skip + count * n_steps]
            offsets[:, slots] = walk.reshape(n_steps, count)
        return offsets

    def _permutation(
        self, size: int, number: int, stratum: int, stream: int
    ) -> NDArray[np.int64]:
        bits = np.random.Philox(
            key=[self._seed, 1], counter=[0, number, stratum, stream]
        )
        generator = np.random.Generator(bits)
        order = generator.permutation(size)
        if self._sums is None:
            return order
        return self._at_shares(stratum, (order + generator.random()) / size)
