"""Nested cross-validation of many methods at once: who trains, who chooses, who scores.

Every row that is scored belongs to one of K folds. Where nothing else chooses, the
parameters for fold i are chosen on the other folds in turn, on fold j by heads that saw
neither i nor j. Such a head serves twice, for j as well as for i: K (K - 1) / 2
trainings take the place of the K (K - 1) of a search within every outer fold.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator

from skdebias._head import LogitClassifierMixin
from skdebias._sklearn import _BaseScorer
from skdebias.model_selection._split_fits import SplitFits
from skdebias.model_selection._split_scores import ScoringConfig

#: In the place of a fold: rows that choose parameters, and rows that only train.
CHOOSING, TRAINING = -1, -2


@dataclass(frozen=True)
class FoldedRows:
    """Rows of a comparison, and what each of them is for.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
    attributes : ndarray or None
        Of the rows that are scored; others may have anything.
    folds : ndarray of shape (n_rows,)
        Number of the fold in which a row is scored, CHOOSING or TRAINING.
    inferred : ndarray of shape (n_rows,), default=None
        Groups that were inferred, for a score beside the others.
    """

    X: np.ndarray
    y: np.ndarray
    attributes: np.ndarray | None
    folds: np.ndarray
    inferred: np.ndarray | None = None

    @property
    def n_folds(self):
        return int(self.folds.max()) + 1

    def trained_on(self, annotated, without=()):
        """Return the rows that a head is trained on.

        Parameters
        ----------
        annotated : bool
            Whether the method needs attributes, and so the rows that have them.
        without : collection of int
            Folds that must not reach the fit.

        Returns
        -------
        ndarray of int
        """
        if (self.folds == TRAINING).any() and not annotated:
            return np.flatnonzero(self.folds == TRAINING)
        scored = (self.folds >= 0) & ~np.isin(self.folds, [*without])
        return np.flatnonzero(scored)

    def choosing_fits(self, annotated, outer=None):
        """Return the fits whose scores choose the parameters for an outer fold.

        Parameters
        ----------
        annotated : bool
            As of :meth:`trained_on`.
        outer : int, default=None
            The fold that must be in none of it; None is the choice for all rows.

        Returns
        -------
        list of (frozenset of int, int)
            Folds that are left out of a fit, and the part that it is scored on.
        """
        outside = frozenset() if outer is None else frozenset({outer})
        if (self.folds == CHOOSING).any():
            return [(outside, CHOOSING)]
        others = [fold for fold in range(self.n_folds) if fold != outer]
        if (self.folds == TRAINING).any() and not annotated:
            return [(frozenset(), fold) for fold in others]
        return [(outside | {fold}, fold) for fold in others]


@dataclass
class Contender:
    """A method in a comparison.

    Parameters
    ----------
    name : str
    estimator : Pipeline
        Unfitted; that of all heads is the same, into which a setting puts the head.
    settings : list of dict
        Parameters of `estimator` to try, one for each candidate.
    shown : list of dict
        The same as users know them.
    annotated : bool
        Whether the method is told the attributes of the rows that it trains on.
    skipped : str
        Why it is not compared; empty if it is.
    seconds : float
        What its fits and their scores have taken.
    error : str
        Of the last fit that failed.
    chosen : list of int
        Number of the setting for every outer fold, repetition by repetition.
    """

    name: str
    estimator: BaseEstimator
    settings: list
    shown: list
    annotated: bool
    skipped: str = ""
    seconds: float = 0.0
    error: str = ""
    chosen: list = field(default_factory=list)


class Measure(NamedTuple):
    """A score, and which of the rows' values its scorer is given.

    Parameters
    ----------
    scorer : callable
    attributes : ndarray of shape (n_rows,), or None
    """

    scorer: Callable
    attributes: np.ndarray | None


class NestedRun:
    """Fits of a comparison on one division of the rows into folds.

    Parameters
    ----------
    rows : FoldedRows
    measures : dict of str to Measure
        The first one chooses.
    report : callable
        Called for every fit that has been scored.
    """

    def __init__(self, rows, measures, report):
        self._rows, self._measures, self._report = rows, measures, report
        self._metric = next(iter(measures))

    def choose(self, contenders, outer_folds):
        """Choose the setting of every method for every outer fold.

        Parameters
        ----------
        contenders : list of Contender
        outer_folds : sequence of int, or of None for the choice for all rows

        Returns
        -------
        list of dict of (int or None) to int
            By method, the number of the setting for every outer fold. A method none of
            whose settings has all its scores is skipped from then on.
        """
        scores = [{} for _ in contenders]
        for numbers in self._alike(contenders, searched=True):
            group = [contenders[number] for number in numbers]
            fits = self._choosing_fits(group[0].annotated, outer_folds)
            measures = {self._metric: self._measures[self._metric]}
            out = self._run(group, list(fits.items()), measures)
            for number, of_method in zip(numbers, out):
                scores[number] = of_method
        return [
            self._best(contender, scores[number], outer_folds)
            for number, contender in enumerate(contenders)
        ]

    def evaluate(self, contenders, chosen):
        """Score the chosen settings on the outer folds.

        Parameters
        ----------
        contenders : list of Contender
        chosen : list of dict of int to int
            As :meth:`choose` returns it.

        Returns
        -------
        list of dict of str to ndarray of shape (n_folds,)
            By method, all measures on every fold. A method that fails on one is skipped
            from then on.
        """
        n_folds = self._rows.n_folds
        results = [
            {name: np.full(n_folds, np.nan) for name in self._measures} for _ in chosen
        ]
        for numbers in self._alike(contenders):
            for fold in range(n_folds):
                group = [
                    _with_setting(contenders[number], chosen[number][fold])
                    for number in numbers
                ]
                without = frozenset({fold})
                out = self._run(group, [(without, {fold})], self._measures)
                for number, scores, one in zip(numbers, out, group):
                    contender = contenders[number]
                    contender.seconds += one.seconds
                    contender.skipped = contender.skipped or one.skipped
                    for name in self._measures:
                        value = scores[fold, without, name][0]
                        results[number][name][fold] = value
        return results

    def _alike(self, contenders, searched=False):
        """Return the numbers of the methods that are trained by one run."""
        groups = {}
        for number, contender in enumerate(contenders):
            if contender.skipped or (searched and len(contender.settings) == 1):
                continue
            key = id(contender.estimator), contender.annotated
            groups.setdefault(key, []).append(number)
        return groups.values()

    def _choosing_fits(self, annotated, outer_folds):
        """Return the fits for all outer folds, each with the parts it is scored on."""
        fits = {}
        for outer in outer_folds:
            for without, part in self._rows.choosing_fits(annotated, outer):
                fits.setdefault(without, set()).add(part)
        return fits

    def _run(self, group, splits, measures):
        """Fit all settings of some methods on some splits.

        Returns
        -------
        list of dict of (int, frozenset, str) to ndarray of shape (n_settings,)
            By method: scores on a part, without some folds, by a measure.
        """
        rows, annotated = self._rows, group[0].annotated
        numbered = [
            (
                rows.trained_on(annotated, without),
                np.flatnonzero(np.isin(rows.folds, [*parts])),
            )
            for without, parts in splits
        ]
        candidates = [setting for one in group for setting in one.settings]
        score_params = {"fold": rows.folds, "row": np.arange(len(rows.y))}
        fits = SplitFits(
            group[0].estimator,
            candidates,
            ScoringConfig(PartScorer(measures), False, np.nan),
            max_heads="auto",
            verbose=0,
            report=self._report,
        )
        fit_params = {"attributes": rows.attributes} if annotated else {}
        out = iter(fits.run(rows.X, rows.y, numbered, fit_params, score_params))
        return [self._read(one, out, splits, measures) for one in group]

    def _read(self, contender, out, splits, measures):
        """Read the results of one method off those of a run."""
        scores = {}
        for number in range(len(contender.settings)):
            for without, parts in splits:
                result = next(out)
                contender.seconds += result["fit_time"] + result["score_time"]
                error = result["fit_error"] or result["score_error"]
                if error is not None:
                    contender.error = _last_line(error)
                values = result["test_scores"]
                for part in parts:
                    for name in measures:
                        key = part, without, name
                        found = scores.setdefault(
                            key, np.full(len(contender.settings), np.nan)
                        )
                        if isinstance(values, dict):
                            found[number] = values[part, name]
        if all(np.isnan(values).all() for values in scores.values()):
            contender.skipped = contender.error or "its scores are NaN"
        return scores

    def _best(self, contender, scores, outer_folds):
        """Return the number of the best setting for every outer fold."""
        if len(contender.settings) == 1 or contender.skipped:
            return dict.fromkeys(outer_folds, 0)
        best = {}
        for outer in outer_folds:
            fits = self._rows.choosing_fits(contender.annotated, outer)
            means = np.mean(
                [scores[part, without, self._metric] for without, part in fits], axis=0
            )
            if np.isnan(means).all():
                error = contender.error or "its scores are NaN"
                contender.skipped = f"no setting was trained on all folds: {error}"
                return dict.fromkeys(outer_folds, 0)
            best[outer] = int(np.nanargmax(means))
        return best

    def n_fits(self, contenders, outer_folds):
        """Return how many fits the choice and the scores on outer folds take.

        Parameters
        ----------
        contenders : list of Contender
        outer_folds : sequence

        Returns
        -------
        int
        """
        number = 0
        for contender in contenders:
            if contender.skipped:
                continue
            number += sum(outer is not None for outer in outer_folds)
            if len(contender.settings) > 1:
                fits = self._choosing_fits(contender.annotated, outer_folds)
                number += len(fits) * len(contender.settings)
        return number


class PartScorer(_BaseScorer):
    """Scores of the parts of the scored rows, each by itself, by several measures.

    Parameters
    ----------
    measures : dict of str to Measure
    """

    def __init__(self, measures):
        self._measures = measures

    def __call__(self, estimator, X, y, *, fold, row):
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : HeadClassifier
            It is asked once for its answers.
        X : array-like
            What its decision function takes, one for each row.
        y : array-like of shape (n_rows,)
        fold, row : ndarray of shape (n_rows,)
            The part of every row, and its number among all rows.

        Returns
        -------
        dict of (int, str) to float
            By part and measure.
        """
        y, values = np.asarray(y), estimator.decision_function(X)
        scores = {}
        for part in np.unique(fold):
            inside = np.flatnonzero(fold == part)
            answers = Answers(estimator.classes_, values[inside])
            for name, measure in self._measures.items():
                params = {}
                if measure.attributes is not None:
                    params = {"attributes": measure.attributes[row[inside]]}
                score = measure.scorer(answers, inside, y[inside], **params)
                scores[int(part), name] = score
        return scores


class Answers(LogitClassifierMixin, BaseEstimator):
    """Classifier that knows its decision values for the rows that it is asked for.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    values : ndarray of shape (n_rows,) or (n_rows, n_classes)
    """

    def __init__(self, classes, values):
        self.classes_, self._values = classes, values

    def decision_function(self, X):
        """Return the decision values."""
        return self._values

    def predict_proba(self, X):
        """Return the probabilities of the classes."""
        if self._values.ndim == 1:
            positive = expit(self._values)
            return np.column_stack([1 - positive, positive])
        return softmax(self._values, axis=1)


def _with_setting(contender, number):
    """Return a method with one setting, that no fit has taken time of."""
    settings = [contender.settings[number]]
    return replace(contender, settings=settings, seconds=0.0, skipped="", chosen=[])


def _last_line(error):
    """Return what a traceback ends with, without the name of the exception."""
    line = error.strip().splitlines()[-1]
    return line.partition(": ")[2] or line
