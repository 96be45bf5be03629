"""The scores of all candidates on one cross-validation split."""

import time
from collections.abc import Callable
from traceback import format_exc
from typing import NamedTuple

from sklearn import config_context
from sklearn.pipeline import Pipeline

from skdebias._sklearn import (
    _BaseScorer,
    _check_method_params,
    _PassthroughScorer,
    _safe_indexing,
    scorers_by_metric,
)
from skdebias.model_selection._counting import Counts
from skdebias.model_selection._scoring import score


class ScoringConfig(NamedTuple):
    """What a search wants to know of its fits.

    Parameters
    ----------
    scorers : callable
        What scikit-learn's searches call with an estimator, X and y.
    return_train_score : bool
    error_score : "raise" or float
    """

    scorers: Callable
    return_train_score: bool
    error_score: object


class SplitScores:
    """Scores and results of one split.

    Parameters
    ----------
    config : ScoringConfig
    n_candidates : int
    X, y : array-like
        All rows, as the search was given them.
    train, test : ndarray
        Row numbers.
    score_params : dict
        Parameters of the scorers, for all rows.
    """

    def __init__(self, config, n_candidates, X, y, train, test, score_params):
        #: One for every candidate, None for those that have not been scored.
        self.results = [None] * n_candidates
        self._config = config
        self._rows = {"test": test}
        if config.return_train_score:
            self._rows["train"] = train
        self._y = {name: _safe_indexing(y, rows) for name, rows in self._rows.items()}
        self._X = _CachedSubset(X)
        self._uses_predictions_only = _uses_predictions_only(config.scorers)
        self._scorers_checked = False
        # Counts of every part; None until the scorers were asked, empty if no help.
        self._counts = None
        self._params = {
            name: _check_method_params(X, params=score_params, indices=rows)
            for name, rows in self._rows.items()
        }

    @property
    def parts(self):
        """Names of the parts that are scored, out of "test" and "train"."""
        return list(self._rows)

    def restart(self):
        """Forget all results but those of failed fits."""
        self.results = [r if r and r["fit_error"] else None for r in self.results]

    def fail(self, number):
        """Record the exception that is being handled.

        Parameters
        ----------
        number : int
            Of the candidate.
        """
        scores = self._config.error_score
        if scores == "raise":
            raise  # noqa: PLE0704
        if (by_metric := scorers_by_metric(self._config.scorers)) is not None:
            scores = dict.fromkeys(by_metric, scores)
        self._record(number, dict.fromkeys(self._rows, scores), 0, 0, format_exc())

    def count(self, decision_values, classes):
        """Score all heads of a stack at once.

        Parameters
        ----------
        decision_values : dict of str to ndarray of shape (n_rows, n_heads[, n_classes])
            Decision values of every part.
        classes : ndarray of shape (n_classes,)

        Returns
        -------
        list of dict of str to scores, or None
            What :meth:`score` takes, for every head; None until it has been called
            once, or if the scorers do more than to count correct predictions.
        """
        if not self._counts:
            return None
        start = time.perf_counter()
        by_part = [
            counts(decision_values[name], classes)
            for name, counts in self._counts.items()
        ]
        self._counting_time = (time.perf_counter() - start) / len(by_part[0])
        return [dict(zip(self._counts, of_head)) for of_head in zip(*by_part)]

    def score(
        self,
        number,
        model,
        preprocessing,
        decision_values,
        fit_time,
        *,
        counted=None,
        same_as=None,
    ):
        """Score a fitted head.

        Parameters
        ----------
        number : int
            Of the candidate.
        model : HeadClassifier
        preprocessing : Pipeline or None
            Fitted steps before the head.
        decision_values : dict of str to ndarray, or None
            Decision values of every part, where they are at hand.
        fit_time : float
        counted : dict of str to scores, default=None
            Scores of every part, where :meth:`count` has determined them.
        same_as : int, default=None
            A candidate that has been scored and gives the same answers.
        """
        start = time.perf_counter()
        if same_as is not None and self._uses_predictions_only:
            self.results[number] = self.results[same_as] | {"score_time": 0.0}
            return
        if counted is not None:
            self._record(number, counted, fit_time, self._counting_time, None)
            return
        scores, error = self._score_parts(model, preprocessing, decision_values)
        self._scorers_checked = True
        if (
            self._counts is None
            and decision_values is not None
            and self._uses_predictions_only
        ):
            self._enable_counting(decision_values, model.classes_, scores)
        seconds = time.perf_counter() - start
        self._record(number, scores, fit_time, seconds, None, error)

    def _score_parts(self, model, preprocessing, decision_values):
        """Return the scores of every part, and the first error of a scorer."""
        estimator = model
        if preprocessing is not None and not self._uses_predictions_only:
            # A function may look at the estimator; scorers only want its answers.
            estimator = Pipeline([*preprocessing.steps, ("head", model)])
            preprocessing = decision_values = None
        scores, first_error = {}, None
        for name, rows in self._rows.items():
            if decision_values is not None:
                # Scorers that only want answers get row numbers: X is not copied.
                X = rows if self._uses_predictions_only else self._X[rows]
                model.decision_function = _CachedDecision(
                    model, X, decision_values[name]
                )
            else:
                X = self._X[rows]
                if preprocessing is not None:
                    X = preprocessing.transform(X)
            try:
                scores[name], error = self._score_part(name, estimator, X)
            finally:
                vars(model).pop("decision_function", None)
            first_error = first_error or error
        return scores, first_error

    def _score_part(self, name, estimator, X):
        # The scorers' own parameters are the same for every candidate.
        with config_context(skip_parameter_validation=self._scorers_checked):
            return score(
                estimator,
                X,
                self._y[name],
                self._config.scorers,
                self._params[name],
                self._config.error_score,
            )

    def _enable_counting(self, decision_values, classes, scores):
        """Count from now on if that gives these scores of a head."""
        self._counts = {}
        try:
            counts = {
                name: Counts(self._config.scorers, self._y[name], self._params[name])
                for name in self._rows
            }
            of_head = {
                name: count(decision_values[name][:, None], classes)[0]
                for name, count in counts.items()
            }
        except (TypeError, ValueError):
            return
        if of_head == scores:
            self._counts = counts

    def _record(self, number, scores, fit_time, score_time, error, score_error=None):
        result = {
            "test_scores": scores["test"],
            "n_test_samples": len(self._rows["test"]),
            "fit_time": fit_time,
            "score_time": score_time,
            "fit_error": error,
            "score_error": score_error,
        }
        if "train" in scores:
            result["train_scores"] = scores["train"]
        self.results[number] = result


class _CachedSubset:
    """Rows of X, copied when they are first asked for and kept until others are."""

    def __init__(self, X):
        self._X, self._rows, self._subset = X, None, None

    def __getitem__(self, rows):
        if rows is not self._rows:
            self._rows, self._subset = rows, _safe_indexing(self._X, rows)
        return self._subset


class _CachedDecision:
    """Decision function that knows the answer for one X."""

    # Scorers of several metrics tell the methods that they share by their names.
    __name__ = "decision_function"

    def __init__(self, model, X, values):
        self._model, self._X, self._values = model, X, values

    def __call__(self, X):
        if X is self._X:
            return self._values
        return type(self._model).decision_function(self._model, X)


def _uses_predictions_only(scorers):
    """Return whether scorers only call the estimator's response methods."""
    if (by_metric := scorers_by_metric(scorers)) is not None:
        return all(map(_uses_predictions_only, by_metric.values()))
    return isinstance(scorers, (_BaseScorer, _PassthroughScorer))
