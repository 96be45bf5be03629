"""Scores of many heads at once, where a scorer only counts correct predictions."""

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.utils.metadata_routing import get_routing_for_object

from skdebias._attributes import form_groups
from skdebias._head import LogitClassifierMixin, final_head
from skdebias._sklearn import own_score_of, score_function_of, scorers_by_metric
from skdebias.metrics import (
    group_balanced_accuracy_score,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)

# Predictions of one block of heads.
_BLOCK_ENTRIES = 1 << 23


def _overall(correct, counts):
    return correct.sum(axis=0) / counts.sum()


def _lowest(correct, counts):
    return (correct / counts[:, None]).min(axis=0)


def _mean(correct, counts):
    # Added up in the order of the scores of one head: the same to the last bit.
    return np.ascontiguousarray((correct / counts[:, None]).T).mean(axis=1)


# What becomes of the correct predictions of every class, or of every group.
_BY_CLASS = {
    accuracy_score: _overall,
    balanced_accuracy_score: _mean,
    worst_class_accuracy_score: _lowest,
}
_BY_GROUP = {
    group_balanced_accuracy_score: _mean,
    worst_group_accuracy_score: _lowest,
}


class Counts:
    """Scores of the heads of one stack on some rows.

    Parameters
    ----------
    scorers : callable
        What scikit-learn's searches call with an estimator, X and y.
    y : array-like of shape (n_rows,)
    params : dict
        Parameters of the scorers for these rows.

    Raises
    ------
    ValueError
        If a scorer does anything else, or cannot be asked in the first place.
    """

    def __init__(self, scorers, y, params):
        by_metric = scorers_by_metric(scorers)
        self._single = by_metric is None
        self._functions = {
            name: _counted_function(scorer, params)
            for name, scorer in (by_metric or {"score": scorers}).items()
        }
        if None in self._functions.values():
            raise ValueError("a scorer does not only count correct predictions")
        # Rows are sorted by groups, which are parts of classes.
        groups, self._labels, _ = form_groups(np.asarray(y), params.get("attributes"))
        self._order = np.argsort(groups.ids, kind="stable")
        self._starts = np.cumsum(groups.counts) - groups.counts
        self._counts, self._classes = groups.counts, groups.cells[:, 0]
        self._y_codes = groups.y_codes[self._order]

    def __call__(self, decision_values, classes):
        """Score heads.

        Parameters
        ----------
        decision_values : ndarray of shape (n_rows, n_heads[, n_classes])
            Decision values.
        classes : ndarray of shape (n_classes,)
            Classes of the heads.

        Returns
        -------
        list of float or of dict of str to float
            What the scorers return for every head.
        """
        place = np.searchsorted(classes, self._labels).clip(max=len(classes) - 1)
        known = np.where(classes[place] == self._labels, place, -1)
        target = known[self._y_codes][:, None]
        n_heads = decision_values.shape[1]
        size = max(1, _BLOCK_ENTRIES // len(decision_values))
        correct = np.concatenate(
            [
                self._correct(decision_values[:, start : start + size], target)
                for start in range(0, n_heads, size)
            ],
            axis=1,
        )
        starts = np.flatnonzero(np.diff(self._classes, prepend=-1))
        by_class = [np.add.reduceat(v, starts) for v in (correct, self._counts)]
        scores = {
            name: (
                _BY_CLASS[function](*by_class)
                if function in _BY_CLASS
                else _BY_GROUP[function](correct, self._counts)
            ).tolist()
            for name, function in self._functions.items()
        }
        if self._single:
            return scores["score"]
        return [dict(zip(scores, values)) for values in zip(*scores.values())]

    def _correct(self, decision_values, target):
        """Count correct predictions, (n_groups, n_heads)."""
        predicted = (
            decision_values > 0
            if decision_values.ndim == 2
            else decision_values.argmax(axis=2)
        )
        hits = predicted[self._order] == target
        return np.add.reduceat(hits, self._starts, axis=0, dtype=np.int64)


def _counted_function(scorer, params):
    """Return the function that a scorer applies to predictions, if it only counts."""
    if "sample_weight" in params:
        return None
    estimator = own_score_of(scorer)
    if estimator is not None:
        head_score = type(final_head(estimator)).score
        is_accuracy = head_score in (ClassifierMixin.score, LogitClassifierMixin.score)
        return accuracy_score if is_accuracy and not params else None
    function = score_function_of(scorer)
    if function is None:
        return None
    requested = get_routing_for_object(scorer).score.requests
    asked = {name for name, alias in requested.items() if alias is True}
    renamed = any(isinstance(alias, str) for alias in requested.values())
    if renamed:
        return None
    if function in _BY_CLASS and not asked & set(params):
        return function
    if function in _BY_GROUP and asked & set(params) == {"attributes"}:
        return function
    return None
