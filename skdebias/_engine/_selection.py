"""Validation scores per epoch, the best epoch of every head, and early stopping."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._attributes import Groups
from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import HeadStack
from skdebias._engine._loss import predicted_class

# Attributes of a tracker that change from epoch to epoch.
_STATE = (
    "active", "n_iter", "best_epoch", "history", "_guarded", "_best", "_reference",
    "_stale",
)  # fmt: skip


class Trained(Protocol):
    """What is in training: a stack of heads, or networks side by side."""

    @property
    def n_heads(self) -> int:
        """Heads of a stream."""
        ...

    n_streams: int

    def clone(self) -> Self:
        """Return a deep copy."""
        ...

    def copy_heads(self, source: Self, heads: torch.Tensor) -> None:
        """Overwrite the given heads, all of whose streams are numbered through."""
        ...

    def keep(self, heads: torch.Tensor) -> None:
        """Drop all but the given heads."""
        ...


@dataclass(frozen=True)
class Selection:
    """How a validation set chooses an epoch.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Class codes of the training encoding; -1 for a class unseen in training, which
        is always counted as wrong.
    groups : Groups
        Groups of the validation rows.
    selection : {"worst_group", "group_balanced", "worst_class", "accuracy", "last"}
        The score that selects the epoch.
    """

    y: NDArray[np.int64]
    groups: Groups
    selection: str

    def group_accuracies(self, stack: Any) -> NDArray[np.float64]:
        """Accuracy of every head in every validation group.

        Parameters
        ----------
        stack : Trained

        Returns
        -------
        ndarray of shape (n_groups, n_total_heads)
        """
        raise NotImplementedError

    def score(self, accuracies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reduce group accuracies to the selection score.

        Parameters
        ----------
        accuracies : ndarray of shape (n_groups, n_total_heads)

        Returns
        -------
        ndarray of shape (n_total_heads,)
        """
        counts = self.groups.counts[:, None].astype(float)
        if self.selection == "worst_group":
            return accuracies.min(0)
        if self.selection == "group_balanced":
            return accuracies.mean(0)
        if self.selection == "worst_class":
            classes = self.groups.cells[:, 0]
            members = classes == np.unique(classes)[:, None]
            return (members @ (accuracies * counts) / (members @ counts)).min(0)
        return (accuracies * counts).sum(0) / counts.sum()


@dataclass(frozen=True)
class Validation(Selection):
    """A validation set that scores every head of a stack.

    Parameters
    ----------
    features : Features or JoinedFeatures
        Validation rows.
    """

    features: Features | JoinedFeatures

    def group_accuracies(self, stack: HeadStack) -> NDArray[np.float64]:
        """Accuracy of every head in every validation group.

        Parameters
        ----------
        stack : HeadStack

        Returns
        -------
        ndarray of shape (n_groups, n_total_heads)
        """
        device = self.features.device
        y = torch.from_numpy(self.y).to(device)
        ids = torch.from_numpy(self.groups.ids).to(device)
        total = stack.n_heads * stack.n_streams
        correct = torch.zeros(len(self.groups.counts), total, device=device)
        for where, block in self.features.chunks():
            logits, _ = stack.forward(block.expand(stack.n_streams, -1, -1))
            hits = predicted_class(logits) == y[where, None]  # (S, rows, M)
            hits = hits.transpose(0, 1).flatten(1).to(correct.dtype)
            correct.index_add_(0, ids[where], hits)
        counts = self.groups.counts[:, None]
        return correct.double().cpu().numpy() / counts


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
    stack : Trained
        What is in training.
    stopping : Stopping
    validation : Selection or None
    heads_per_method : int, default=1
        Heads that are trained side by side; the last of them speaks for all.
    """

    stack: Any
    stopping: Stopping
    validation: Selection | None
    heads_per_method: int = 1
    history: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = self.stack.n_heads * self.stack.n_streams
        self.active = np.ones(total, dtype=bool)
        self.n_iter = np.zeros(total, dtype=int)
        self.best_epoch = np.zeros(total, dtype=int)
        self._kept: Any = None
        self._guarded = False
        self._best = np.full(total, -np.inf)
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
        progress = -losses
        if self.validation is not None:
            accuracies = self.validation.group_accuracies(self.stack)
            self._record("validation_group_accuracy", accuracies)
            score = self.validation.score(accuracies)
            self._record("validation_score", score)
            if self.selects:
                progress = score
        progress = progress.reshape(-1, self.heads_per_method)[:, -1]
        progress = progress.repeat(self.heads_per_method)
        better = self.active & (progress > self._best)
        self._best[better] = progress[better]
        self._guarded = "sound" in (observed or {})
        for name, values in (observed or {}).items():
            self._record(name, values)
        # Without selection the last sound epoch counts, up to a head's early stop.
        sound = (observed or {}).get("sound", np.ones_like(self.active))
        last = self.active & (sound | (self.best_epoch == 0))
        self._keep(better if self.selects else last, epoch)
        if self.stopping.early_stopping:
            advanced = progress > self._reference + self.stopping.tol
            self._reference[advanced] = progress[advanced]
            self._stale = np.where(advanced, 0, self._stale + 1)
            self.active &= self._stale < self.stopping.n_iter_no_change
        return not self.active.any()

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

    def keep(self, heads: NDArray[np.int64]) -> None:
        """Forget all but the given heads, of which the stack still consists.

        Parameters
        ----------
        heads : ndarray of shape (n_kept,)
            Head numbers; the history of the others goes too.
        """
        self.active, self.n_iter = self.active[heads], self.n_iter[heads]
        self.best_epoch, self._best = self.best_epoch[heads], self._best[heads]
        self._reference, self._stale = self._reference[heads], self._stale[heads]
        for epochs in self.history.values():
            epochs[:] = [values[..., heads] for values in epochs]
        if self._kept is not None:
            self._kept.keep(torch.from_numpy(heads))

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
        kept : Trained or None
            What :meth:`result` returned, if it was not the stack itself.
        """
        for name in _STATE:
            setattr(self, name, state[name])
        self._kept = kept
