"""Validation scores per epoch, the best epoch of every head, and early stopping."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack
from skdebias._engine._loss import cross_entropy, predicted_class
from skdebias._groups import Groups

# Attributes of a tracker that change from epoch to epoch.
_STATE = (
    "active", "n_iter", "best_epoch", "chosen", "history", "_guarded", "_best",
    "_ties", "_reference", "_stale",
)  # fmt: skip
# Losses that differ by less, relative to the larger of them and 1, are equal: rounding
# must not choose an epoch.
_EQUAL = 1e-6


@dataclass(frozen=True)
class ValidationScorer:
    """How a validation set chooses an epoch.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Class codes of the training encoding; -1 for a class unseen in training, which
        is always counted as wrong.
    groups : Groups
        Groups of the validation rows.
    selection : {"worst_group", "worst_inferred_group", "group_balanced", \
"worst_class", "accuracy", "last"}
        The score that selects the epoch. Groups are inferred before.
    """

    y: NDArray[np.int64]
    groups: Groups
    selection: str

    def group_results(
        self, stack: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracy and mean loss of every head in every validation group.

        Parameters
        ----------
        stack : HeadStack or NetworkStack

        Returns
        -------
        accuracies, losses : ndarray of shape (n_groups, n_total_heads)
            The loss of a class that is unseen in training is 0: no head can lower it.
        """
        raise NotImplementedError

    def weights(self, device: torch.device) -> torch.Tensor | None:
        """Return the weights of the rows; None where they have none.

        Parameters
        ----------
        device : torch.device

        Returns
        -------
        Tensor of shape (n_samples,) or None
            In double precision where the device has it: equal accuracies must come out
            equal, whichever rows they are made of.
        """
        if self.groups.weights is None:
            return None
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.from_numpy(self.groups.weights).to(device, dtype)

    def group_accuracies(self, stack: Any) -> NDArray[np.float64]:
        """Accuracy of every head in every validation group.

        Parameters
        ----------
        stack : HeadStack or NetworkStack

        Returns
        -------
        ndarray of shape (n_groups, n_total_heads)
        """
        return self.group_results(stack)[0]

    def score(self, accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reduce group accuracies, or negative losses, to the selection score.

        Parameters
        ----------
        accuracies : ndarray of shape (n_groups, n_total_heads)

        Returns
        -------
        ndarray of shape (n_total_heads,)
        """
        counts = self.groups.counts[:, None].astype(float)
        if self.selection in ("worst_group", "worst_inferred_group"):
            return accuracies.min(0)
        if self.selection == "group_balanced":
            return accuracies.mean(0)
        if self.selection == "worst_class":
            classes = self.groups.cells[:, 0]
            members = classes == np.unique(classes)[:, None]
            return (members @ (accuracies * counts) / (members @ counts)).min(0)
        return (accuracies * counts).sum(0) / counts.sum()

    def tie_breakers(
        self, accuracies: NDArray[np.float64], losses: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what chooses among epochs of one score, the first of them first.

        The mean of the group accuracies, then the score of the losses. The worst loss
        alone would not do: while a group is never right, its loss is least where
        nothing has been learnt.

        Parameters
        ----------
        accuracies, losses : ndarray of shape (n_groups, n_total_heads)

        Returns
        -------
        ndarray of shape (2, n_total_heads)
            Larger is better; finite.
        """
        with np.errstate(invalid="ignore"):
            ties = np.stack([accuracies.mean(0), self.score(-losses)])
        return np.nan_to_num(ties, nan=-1e300, neginf=-1e300)


def best_head(score: NDArray[np.float64], ties: NDArray[np.float64]) -> int:
    """Return which of the heads of a method is the best; of equals, the first.

    Parameters
    ----------
    score : ndarray of shape (n_heads,)
    ties : ndarray of shape (n_ties, n_heads)
        What :meth:`ValidationScorer.tie_breakers` returned.

    Returns
    -------
    int
    """
    # lexsort: the last key counts most, and the largest of all comes last.
    order = np.lexsort([-np.arange(len(score)), *ties[::-1], score])
    return int(order[-1])


def count_hits_and_losses(
    logits: torch.Tensor,
    y: torch.Tensor,
    ids: torch.Tensor,
    n_groups: int,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum hits and losses over the rows of each group.

    Parameters
    ----------
    logits : Tensor of shape (n_streams, n_rows, n_heads, n_logits)
    y : Tensor of shape (n_rows,)
        Class codes; -1 is a class unseen in training, which has no loss.
    ids : Tensor of shape (n_rows,)
        Group numbers.
    n_groups : int
    weights : Tensor of shape (n_rows,), default=None
        As how many rows each of them counts.

    Returns
    -------
    Tensor of shape (2, n_groups, n_streams * n_heads)
        Hits, and losses.
    """
    losses, _ = cross_entropy(logits, y.clamp_min(0).expand(len(logits), -1))
    losses = torch.where((y >= 0)[:, None], losses, 0.0)
    hits = predicted_class(logits) == y[:, None]
    values = torch.stack([hits.to(losses.dtype), losses])  # (2, S, rows, M)
    values = values.transpose(1, 2).flatten(2)
    # A product, whose order of summation is the same in any repetition.
    members = torch.nn.functional.one_hot(ids, n_groups).T.to(losses.dtype)
    if weights is not None:
        members = members * weights
        values = values.to(weights.dtype)
    return members @ values


@dataclass(frozen=True)
class HeadValidationScorer(ValidationScorer):
    """A validation set that scores every head of a stack.

    Parameters
    ----------
    features : Features or JoinedFeatures
        Validation rows.
    """

    features: Features | JoinedFeatures

    def group_results(
        self, stack: HeadStack
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Accuracy and mean loss of every head in every validation group.

        Parameters
        ----------
        stack : HeadStack

        Returns
        -------
        accuracies, losses : ndarray of shape (n_groups, n_total_heads)
        """
        device = self.features.device
        y = torch.from_numpy(self.y).to(device)
        ids = torch.from_numpy(self.groups.ids).to(device)
        weights = self.weights(device)
        n_groups = len(self.groups.counts)
        total = stack.n_heads * stack.n_streams
        dtype = None if weights is None else weights.dtype
        sums = torch.zeros(2, n_groups, total, dtype=dtype, device=device)
        for where, block in self.features.chunks():
            logits, _ = stack.forward(block.expand(stack.n_streams, -1, -1))
            sums += count_hits_and_losses(
                logits,
                y[where],
                ids[where],
                n_groups,
                None if weights is None else weights[where],
            )
        means = sums.double().cpu().numpy() / self.groups.counts[:, None]
        return means[0], means[1]


@dataclass(frozen=True)
class Stopping:
    """When to stop, and which epoch to keep.

    Parameters
    ----------
    early_stopping : bool
        Stop a head after `n_iter_no_change` epochs without progress by more than `tol`
        in its validation score, or in its training loss without a validation set.
    tol : float
    n_iter_no_change : int
    """

    early_stopping: bool = False
    tol: float = 1e-4
    n_iter_no_change: int = 10


@dataclass
class Tracker:
    """Keeps the best epoch of every head and says which heads still train.

    Parameters
    ----------
    stack : HeadStack or NetworkStack
        What is in training.
    stopping : Stopping
    validation : ValidationScorer or None
    heads_per_method : int, default=1
        Heads that are trained side by side; the last of them speaks for all.
    alternatives : bool, default=False
        The one with the best validation score speaks for all instead, epoch by epoch;
        without a validation set the first does.
    first_epoch : int, default=1
        In which the training of the last of them begins: none before is kept.

    Attributes
    ----------
    chosen : ndarray of shape (n_total_heads,)
        Position, among the heads of its method, of the one that spoke for all in the
        epoch that was kept.
    """

    stack: Any
    stopping: Stopping
    validation: ValidationScorer | None
    heads_per_method: int = 1
    alternatives: bool = False
    first_epoch: int = 1
    history: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = self.stack.n_heads * self.stack.n_streams
        self.active = np.ones(total, dtype=bool)
        self.n_iter = np.zeros(total, dtype=int)
        self.best_epoch = np.zeros(total, dtype=int)
        self.chosen = self._leading(None, None)
        self._kept: Any = None
        self._guarded = False
        self._best = np.full(total, -np.inf)
        self._ties = np.full((2, total), -1e300)
        self._reference = np.full(total, -np.inf)
        self._stale = np.zeros(total, dtype=int)

    @property
    def selects(self) -> bool:
        """Whether a validation score chooses the epoch."""
        return self.validation is not None and self.validation.selection != "last"

    def update(
        self,
        epoch: int,
        losses: NDArray[np.float64],
        observed: Mapping[str, NDArray] | None = None,
    ) -> bool:
        """Record an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 1.
        losses : ndarray of shape (n_total_heads,)
            Mean training objective of the epoch.
        observed : mapping of str to ndarray of shape (n_total_heads,), default=None
            What else the epoch showed, for the history. Where a boolean entry `sound`
            is False and no validation score chooses, an earlier epoch stays kept.

        Returns
        -------
        bool
            True when no head has anything left to do.
        """
        self.n_iter[self.active] = epoch
        self._record("loss", losses)
        progress, ties = -losses, np.full_like(self._ties, -1e300)
        leading = self._leading(None, None)
        if self.validation is not None:
            accuracies, validation_losses = self.validation.group_results(self.stack)
            self._record("validation_group_accuracy", accuracies)
            score = self.validation.score(accuracies)
            self._record("validation_score", score)
            of_equals = self.validation.tie_breakers(accuracies, validation_losses)
            leading = self._leading(score, of_equals)
            if self.selects:
                progress, ties = score, of_equals
        spokesmen = self.first_heads + leading
        self._guarded = "sound" in (observed or {})
        for name, values in (observed or {}).items():
            self._record(name, values)
        if epoch < self.first_epoch:
            return False
        progress, ties = progress[spokesmen], ties[:, spokesmen]
        better = self._improve(progress, ties)
        # Without selection the last sound epoch counts, up to a head's early stop.
        sound = (observed or {}).get("sound", np.ones_like(self.active))
        last = self.active & (sound | (self.best_epoch == 0))
        kept = better if self.selects else last
        self.chosen[kept] = leading[kept]
        self._keep(kept, epoch)
        if self.stopping.early_stopping:
            advanced = progress > self._reference + self.stopping.tol
            self._reference[advanced] = progress[advanced]
            self._stale = np.where(advanced, 0, self._stale + 1)
            self.active &= self._stale < self.stopping.n_iter_no_change
        return not self.active.any()

    @property
    def first_heads(self) -> NDArray[np.int64]:
        """Number of the first head of the method of every head."""
        numbers = np.arange(self.stack.n_heads * self.stack.n_streams)
        return numbers - numbers % self.heads_per_method

    @property
    def results(self) -> NDArray[np.int64]:
        """Numbers of the heads that are the results of their methods."""
        return (self.first_heads + self.chosen)[:: self.heads_per_method]

    def _leading(
        self,
        score: NDArray[np.float64] | None,
        ties: NDArray[np.float64] | None,
    ) -> NDArray[np.int64]:
        """Return which head of its method speaks for every head."""
        n_heads = self.heads_per_method
        first = self.first_heads
        if not self.alternatives:
            return np.full(len(first), n_heads - 1)
        if score is None or ties is None:
            return np.zeros(len(first), dtype=int)
        ranked = [
            best_head(score[i : i + n_heads], ties[:, i : i + n_heads])
            for i in first[::n_heads]
        ]
        return np.repeat(ranked, n_heads)

    def _improve(
        self, progress: NDArray[np.float64], ties: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return which heads have not been better before; of equals, the later one."""
        greater, equal = progress > self._best, progress == self._best
        for value, known in zip(ties, self._ties):
            margin = _EQUAL * np.maximum(1.0, np.abs(known))
            greater |= equal & (value > known + margin)
            equal &= np.abs(value - known) <= margin
        best = np.where(equal, np.maximum(ties, self._ties), ties)
        better: NDArray[np.bool_] = self.active & (greater | equal)
        self._best[better], self._ties[:, better] = progress[better], best[:, better]
        return better

    def _record(self, name: str, values: NDArray[np.float64]) -> None:
        self.history.setdefault(name, []).append(values)

    def _keep(self, heads: NDArray[np.bool_], epoch: int) -> None:
        self.best_epoch[heads] = epoch
        if not (self.selects or self.stopping.early_stopping or self._guarded):
            return
        if self._kept is None:
            self._kept = self.stack.clone()
        elif heads.any():
            self._kept.copy_heads(self.stack, torch.from_numpy(np.flatnonzero(heads)))

    def select(self, heads: NDArray[np.int64]) -> None:
        """Forget all but the given heads, of which the stack still consists.

        Parameters
        ----------
        heads : ndarray of shape (n_kept,)
            Head numbers; the history of the others goes too.
        """
        self.active, self.n_iter = self.active[heads], self.n_iter[heads]
        self.best_epoch, self._best = self.best_epoch[heads], self._best[heads]
        self.chosen = self.chosen[heads]
        self._ties = self._ties[:, heads]
        self._reference, self._stale = self._reference[heads], self._stale[heads]
        for epochs in self.history.values():
            epochs[:] = [values[..., heads] for values in epochs]
        if self._kept is not None:
            self._kept.select(torch.from_numpy(heads))

    def result(self) -> Any:
        """Return the heads of the epochs that were kept."""
        return self.stack if self._kept is None else self._kept

    def state(self) -> dict[str, Any]:
        """Return what a new tracker needs in order to go on; the kept heads apart."""
        return {name: getattr(self, name) for name in _STATE}

    def resume(self, state: Mapping[str, Any], kept: Any) -> None:
        """Go on from a state.

        Parameters
        ----------
        state : mapping
            What :meth:`state` returned.
        kept : HeadStack, KeptNetworks or None
            What :meth:`result` returned, if it was not the stack itself.
        """
        for name in _STATE:
            setattr(self, name, state[name])
        self._kept = kept
