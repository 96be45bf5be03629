"""Heads of several candidates that are trained as one stack and scored one by one."""

import time
from typing import NamedTuple

import numpy as np

from skdebias._head import HeadClassifier
from skdebias._prepare import Prepared, set_fitted
from skdebias.model_selection._stack_limits import scored_blocks


class StackMember(NamedTuple):
    """A candidate on one split, at the point where its training begins.

    Parameters
    ----------
    number : int
        Of the candidate.
    model : HeadClassifier
    prepared : Prepared
    """

    number: int
    model: HeadClassifier
    prepared: Prepared


class CandidateStack:
    """Heads that are trained as one, and scored one by one.

    Parameters
    ----------
    members : list of StackMember
    scores : SplitScores
    rows : SplitRows
    train : ndarray
        Row numbers to train on: those of the split, without rows of weight 0.
    features : Features
        Of all rows.
    on_scored : callable
        Called without arguments for every fit that has been scored, or has failed.
    """

    def __init__(self, members, scores, rows, train, features, on_scored):
        self._members, self._scores, self._rows = members, scores, rows
        kept = members[0].prepared.data.kept
        self._train_rows = train if kept is None else train[kept]
        self._features, self._on_scored = features, on_scored
        self._joins_embeddings = members[0].prepared.data.X_student is not None
        self._begun = False
        self._fit = self._error = None

    def train(self, until=None):
        """Train the heads and let them answer; safe in any thread.

        Parameters
        ----------
        until : int, default=None
            Stop after so many epochs in all, ready to go on.

        Returns
        -------
        CandidateStack
        """
        try:
            self._train(until)
        except Exception as error:
            # Told by `score`, in the calling thread.
            self._fit, self._error = None, error
        return self

    def _train(self, until):
        start = time.perf_counter()
        if not self._begun:
            self._fit, self._begun = self._start_fit(), True
        self._trained = self._fit.run(until)
        fitted = self._fit.fitted
        if until is None:
            self._fit = None  # the state of training is larger than the heads
        self._decision_values = None
        if not self._joins_embeddings:
            self._decision_values = self._decide(fitted)
        self._diverged = fitted.diverged.reshape(len(self._members), -1).max(1)
        self._source = fitted.source
        self._seconds = (time.perf_counter() - start) / len(self._members)

    def _start_fit(self):
        """Bring the heads to the first step."""
        from skdebias._fit import StackFit

        rows, prepared = self._rows, [member.prepared for member in self._members]
        training_rows = {}
        if not self._joins_embeddings:
            classes = prepared[0].classes
            codes = np.searchsorted(classes, rows.y).clip(max=len(classes) - 1)
            training_rows = {
                "features": self._features,
                "rows": self._train_rows,
                "codes": codes,
            }
        # Otherwise the two embeddings are joined, for the training rows alone.
        return StackFit(
            [member.model for member in self._members],
            prepared,
            allow_divergence=True,
            **training_rows,
        )

    def score(self):
        """Score the trained heads, and record what kept others from being trained."""
        from skdebias._engine._sgd import divergence

        if self._error is not None:
            self._fail_all()
            return
        decision_values, self._decision_values = self._decision_values, None
        counted = None
        for position, member in enumerate(self._members):
            if self._diverged[position]:
                epoch, rate = int(self._diverged[position]), member.model.learning_rate
                self._fail(member, divergence(epoch, rate))
            else:
                self._set_fitted(position)
                if counted is None and decision_values:
                    classes = member.model.classes_
                    counted = self._scores.count(decision_values, classes)
                self._score_head(position, decision_values, counted)
            self._on_scored()

    def _set_fitted(self, position):
        """Give a head what training has learned."""
        member, trained = self._members[position], self._trained[position]
        set_fitted(member.model, member.prepared, trained.attributes)
        trained.method.check_result(trained.result)

    def _score_head(self, position, decision_values, counted):
        same_as = None
        if self._source is not None and self._source[position] != position:
            same_as = self._members[self._source[position]].number
        self._scores.score(
            self._members[position].number,
            self._members[position].model,
            self._rows.preprocessing,
            decision_values
            and {name: values[:, position] for name, values in decision_values.items()},
            self._seconds,
            counted=counted and counted[position],
            same_as=same_as,
        )

    def _fail_all(self):
        """Record what ended the training of all heads."""
        for member in self._members:
            self._fail(member, self._error)
            self._on_scored()

    def _fail(self, member, error):
        try:
            raise error
        except Exception:
            self._scores.fail(member.number)

    def select(self, numbers):
        """Drop the heads of other candidates and those that diverged.

        Parameters
        ----------
        numbers : set of int

        Returns
        -------
        bool
            Whether any are left.
        """
        if self._error is not None:
            return False
        remaining = [
            position
            for position, member in enumerate(self._members)
            if member.number in numbers and not self._diverged[position]
        ]
        if remaining:
            self._members = [self._members[position] for position in remaining]
            self._fit.select(remaining)
        return bool(remaining)

    def _decide(self, fitted):
        """Return decision values (n_rows, n_models[, n_classes]) of every part."""
        import torch

        results = slice(None)
        if fitted.results is not None:
            results = torch.from_numpy(fitted.results).to(fitted.stack.coefs[0].device)
        decision_values = {}
        for name in self._scores.parts:
            blocks = []
            for rows in scored_blocks(getattr(self._rows, name)):
                index = torch.as_tensor(rows)[None]
                logits, _ = fitted.stack.forward(self._features.rows(index))
                blocks.append(logits[0, :, results].cpu().numpy())
            values = np.concatenate(blocks)
            decision_values[name] = values[..., 0] if values.shape[2] == 1 else values
        return decision_values
