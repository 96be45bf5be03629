"""Sampling plans: named batches as distributions over strata of the training rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A step of so many rows needs no more than the memory of most machines, however few
# rows it repeats.
_MOST_ROWS = 1 << 16


@dataclass(frozen=True)
class Batch:
    """Named batch of a sampling plan: a distribution over strata.

    Parameters
    ----------
    name : str
        Name used in histories and error messages.
    probabilities : ndarray of shape (n_strata,)
        Probability of each stratum in the batch; sums to one. Rows are uniform within
        a stratum, but for the `draw_weights` of the plan.
    factor : float, default=1.0
        Signed coefficient of the batch's mean loss in the objective.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.methods import Batch
    >>> Batch("balanced", np.full(4, 0.25))
    Batch(name='balanced', probabilities=array([0.25, 0.25, 0.25, 0.25]), factor=1.0)
    """

    name: str
    probabilities: NDArray[np.float64]
    factor: float = 1.0


@dataclass(frozen=True)
class SamplingPlan:
    """Which rows a step sees, how often, and with which signed weight.

    Parameters
    ----------
    strata : ndarray of shape (n_samples,)
        Stratum of every training row, `0..n_strata-1`, none of them empty.
    batches : tuple of Batch
        The batches of one optimizer step.
    blocks : ndarray of shape (n_strata,), default=None
        Class of each stratum. Rows of a batch are apportioned to the classes first, so
        that a class-uniform batch really holds the same number of rows per class.
    replacement : bool, default=True
        Draw rows of a stratum independently. Otherwise each stratum is walked through
        in freshly shuffled order, epoch after epoch.
    shared : bool, default=False
        All batches take prefixes of one draw per stratum instead of drawing
        independently. Every batch keeps its own distribution; the noise of their
        difference shrinks.
    row_weights : ndarray of shape (n_samples,), default=None
        Factor on the loss of every row.
    logit_offsets : ndarray of shape (n_strata, n_classes), default=None
        Added to the logits of the rows of each stratum before the cross-entropy is
        taken, and not when the head predicts. Of two classes, whose heads have one
        logit, the difference of the offsets counts.
    draw_weights : ndarray of shape (n_samples,), default=None
        Positive. Rows are drawn in proportion to it within their stratum. A method
        need not set it: the `sample_weight` of `fit` comes here, so that whatever a
        method computes on the rows of a step, it computes on a sample of the weighted
        rows.

    Examples
    --------
    Half of the rows of a step come from stratum 0, whose share of the data is two
    thirds:

    >>> import numpy as np
    >>> from skdebias.methods import Batch, SamplingPlan
    >>> strata = np.array([0, 0, 0, 0, 1, 1])
    >>> plan = SamplingPlan(strata, (Batch("all", np.array([0.5, 0.5])),))
    >>> plan.counts(batch_size=64)
    array([[32, 32]])
    """

    strata: NDArray[np.int64]
    batches: tuple[Batch, ...]
    blocks: NDArray[np.int64] | None = None
    replacement: bool = True
    shared: bool = False
    row_weights: NDArray[np.float64] | None = None
    logit_offsets: NDArray[np.float64] | None = None
    draw_weights: NDArray[np.float64] | None = None

    def counts(self, batch_size: int) -> NDArray[np.int64]:
        """Return the rows per stratum of each batch.

        Parameters
        ----------
        batch_size : int
            Rows of one step over all batches.

        Returns
        -------
        ndarray of shape (n_batches, n_strata)
            At least one row of every stratum that has positive probability, so that no
            group of the distribution is ever silently left out.
        """
        rows = max(1, batch_size // len(self.batches))
        return np.stack(
            [allocate_counts(b.probabilities, rows, self.blocks) for b in self.batches]
        )


def allocate_counts(
    probabilities: NDArray[np.float64],
    n_rows: int,
    blocks: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Apportion `n_rows` to strata by largest remainder, none of them starved.

    Parameters
    ----------
    probabilities : ndarray of shape (n_strata,)
        Target shares, summing to one.
    n_rows : int
        Rows to hand out. When fewer than the strata of positive probability, one row
        each is handed out instead.
    blocks : ndarray of shape (n_strata,), default=None
        Apportion to these blocks first, then within each of them.

    Returns
    -------
    ndarray of shape (n_strata,)
        Row counts; zero exactly where the probability is zero.

    Examples
    --------
    >>> import numpy as np
    >>> allocate_counts(np.array([0.47, 0.03, 0.25, 0.25]), 64)
    array([30,  2, 16, 16])
    """
    if blocks is not None:
        counts = np.zeros(len(probabilities), dtype=np.int64)
        share = np.bincount(blocks, weights=probabilities).astype(np.float64)
        for block, rows in enumerate(allocate_counts(share, n_rows)):
            inside = blocks == block
            if rows:
                within = probabilities[inside] / share[block]
                counts[inside] = allocate_counts(within, int(rows))
        return counts
    positive = probabilities > 0
    n_rows = max(n_rows, int(positive.sum()))
    # One row each first; the rest follows the unmet part of the ideal share.
    ideal = probabilities * n_rows
    counts = np.where(positive, np.maximum(np.floor(ideal), 1), 0).astype(np.int64)
    order = np.argsort(-(ideal - np.floor(ideal)), kind="stable")
    order = order[positive[order]]
    missing = n_rows - int(counts.sum())
    counts[order[: max(missing, 0)]] += 1
    while counts.sum() > n_rows:
        # The guaranteed rows overdrew: the most over-served stratum pays.
        surplus = np.where(counts > 1, counts - ideal, -np.inf)
        counts[int(np.argmax(surplus))] -= 1
    return counts


@dataclass(frozen=True)
class SlotTable:
    """Row slots of one step, for several plans that share their strata.

    Parameters
    ----------
    stream, stratum, position : ndarray of shape (n_slots,)
        Slot `i` holds draw number `position[i]` of `stratum[i]` in the stream of draws
        `stream[i]`. They do not depend on which other plans are in the table, only how
        many slots there are does.
    weights : ndarray of shape (n_slots, n_plans)
        Signed weight of the slot's loss under each plan.
    """

    stream: NDArray[np.int64]
    stratum: NDArray[np.int64]
    position: NDArray[np.int64]
    weights: NDArray[np.float64]


def slot_table(plans: Sequence[SamplingPlan], batch_size: int) -> SlotTable:
    """Lay the batches of one step out as slots with a signed weight per plan.

    A batch with `m` of its rows in stratum `g` puts weight
    `factor * probability[g] / m` on each, so that the expectation of the step's
    objective is exact whatever the rounding of the counts. Plans that ask for fewer
    rows of a stratum use a prefix of its slots.

    Parameters
    ----------
    plans : sequence of SamplingPlan
        Plans over the same strata with the same batches, differing in probabilities
        and factors.
    batch_size : int
        Rows of one step over all batches of one plan.

    Returns
    -------
    SlotTable

    Raises
    ------
    ValueError
        If a step would have far more rows than there are, or if the plans differ in
        what they must share.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.methods import Batch, SamplingPlan, slot_table
    >>> strata = np.array([0, 0, 0, 0, 1, 1])
    >>> plans = [
    ...     SamplingPlan(strata, (Batch("all", np.array([p, 1 - p])),))
    ...     for p in (0.5, 0.75)
    ... ]
    >>> table = slot_table(plans, batch_size=4)
    >>> table.stratum
    array([0, 0, 0, 1, 1])
    >>> table.weights.T
    array([[0.25, 0.25, 0.  , 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25, 0.  ]])
    """
    _check_alike(plans)
    first = plans[0]
    most = max(len(first.strata), _MOST_ROWS)
    if batch_size > most:
        raise ValueError(
            f"batch_size={batch_size} is too large for {len(first.strata)} rows: "
            f"choose at most {most}."
        )
    counts = np.stack([plan.counts(batch_size) for plan in plans])
    n_plans, n_batches, n_strata = counts.shape
    streams = np.zeros(n_batches, int) if first.shared else np.arange(n_batches)
    parts = []
    for stream in np.unique(streams):
        members = np.flatnonzero(streams == stream)
        largest = counts[:, members].max(axis=(0, 1))
        stratum = np.repeat(np.arange(n_strata), largest)
        position = np.concatenate([np.arange(n) for n in largest])
        weights = np.zeros((len(stratum), n_plans))
        for p, plan in enumerate(plans):
            for b in members:
                batch, count = plan.batches[b], counts[p, b]
                per_row = batch.factor * batch.probabilities / np.maximum(count, 1)
                used = position < count[stratum]
                weights[used, p] += per_row[stratum[used]]
        parts.append((np.full(len(stratum), stream), stratum, position, weights))
    stream_, stratum_, position_, weights_ = map(np.concatenate, zip(*parts))
    return SlotTable(stream_, stratum_, position_, weights_)


def _check_alike(plans: Sequence[SamplingPlan]) -> None:
    """Refuse plans that cannot be laid out as one table of slots."""
    first = plans[0]
    for plan in plans[1:]:
        alike = {
            "strata": _equal(plan.strata, first.strata),
            "blocks": _equal(plan.blocks, first.blocks),
            "draw_weights": _equal(plan.draw_weights, first.draw_weights),
            "number of batches": len(plan.batches) == len(first.batches),
            "replacement": plan.replacement == first.replacement,
            "shared": plan.shared == first.shared,
        }
        if not all(alike.values()):
            different = next(what for what, is_alike in alike.items() if not is_alike)
            raise ValueError(
                f"plans of one stack differ in their {different}, which a field that "
                "is named in `stackable` changes: leave it out of `stackable`, and "
                "its values are trained in stacks of their own."
            )


def _equal(a: NDArray | None, b: NDArray | None) -> bool:
    # The groups are shared, and so are most strata: nothing to compare then.
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
