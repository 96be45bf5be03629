"""Successive halving: the heads of bad candidates leave their stacks early."""

from math import ceil
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from skdebias._auto import with_numbers
from skdebias._base import BaseDebiasedClassifier
from skdebias._head import final_head
from skdebias._sklearn import (
    Interval,
    StrOptions,
    _MultimetricScorer,
    validate_parameter_constraints,
)
from skdebias.model_selection._base_search import BaseBatchedSearchCV

_RESOURCES = Interval(Integral, 1, None, closed="left")


class BatchedHalvingGridSearchCV(BaseBatchedSearchCV):
    """Grid search that trains good candidates for longer, side by side.

    As in scikit-learn's :class:`~sklearn.model_selection.HalvingGridSearchCV` all
    candidates start with few resources, here epochs, and the best `1 / factor` of them
    go on with `factor` times as many, rung by rung. No candidate starts again: heads go
    on from where they are, with the optimizer's and the method's state and in the same
    stream of draws, and those of the other candidates are removed from their stacks. A
    rung's scores are those of :class:`BatchedGridSearchCV` with that `max_iter`, up to
    rounding; see Notes.

    Parameters
    ----------
    estimator : estimator of skdebias, or Pipeline that ends in one
        Its head is trained in epochs: not DFRClassifier, no `solver="lbfgs"`, no
        `early_stopping`.
    param_grid : dict or list of dict
        Lists of settings to try, without `max_iter`.
    factor : float, default=3
        Above 1: the share of candidates that goes on is `1 / factor`.
    max_resources : int or "auto", default="auto"
        Epochs of the last rung and of the refit. "auto" is the estimator's `max_iter`.
    min_resources : int, "smallest" or "exhaust", default="exhaust"
        Epochs of the first rung. "smallest" is 1; "exhaust" as many as let the last
        rung, in which fewer than `factor` candidates are left, be that of
        `max_resources` epochs.
    aggressive_elimination : bool, default=False
        Where `min_resources` leaves too few rungs, drop candidates down to `factor` by
        the scores of the first rung instead of keeping more of them to the end.
    scoring : str, callable, list, tuple or dict, default=None
        As for BatchedGridSearchCV, and so are the following.
    cv : int, splitter or iterable, default=None
    refit : bool or str, default=True
        With several metrics the name of the one that decides, between rungs too.
    return_train_score : bool, default=False
    error_score : "raise" or float, default=nan
        Candidates without a score are the first to be dropped.
    max_heads : int or "auto", default="auto"
        Between rungs the heads and the optimizer's state of all candidates that are
        left stay in memory, on all folds; this bounds what training needs beside them.
    verbose : int, default=0

    Attributes
    ----------
    n_resources_ : list of int
        Epochs of every rung, in all.
    n_candidates_ : list of int
        Candidates of every rung.
    n_remaining_candidates_ : int
        Candidates that would have gone on after the last rung.
    n_iterations_ : int
        Number of rungs.
    n_possible_iterations_ : int
        Rungs that fit between `min_resources_` and `max_resources_`.
    n_required_iterations_ : int
        Rungs that leave fewer than `factor` candidates in the last one.
    min_resources_, max_resources_ : int
        Epochs of the first rung, unless `aggressive_elimination` needs fewer rungs, and
        of the last.
    cv_results_ : dict of ndarray
        One row per rung and candidate in it, with `iter`, the rung from 0, and
        `n_resources`, its epochs; times are those of the rung alone. The rest is as of
        BatchedGridSearchCV, `params` with the `max_iter` of the rung.
    best_index_ : int
        Row of the best candidate of the last rung.
    best_estimator_, best_score_, best_params_, refit_time_ : object
        As of GridSearchCV.
    scorer_, n_splits_, multimetric_ : object
        As of GridSearchCV.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    BatchedGridSearchCV : Trains every candidate to the end.
    BatchedRandomizedSearchCV : Draws the candidates from distributions.

    Notes
    -----
    Unlike in scikit-learn the last rung always has `max_resources` epochs, so that
    `best_score_` is a score of what is refitted. Of candidates with equal scores the
    earlier one goes on.

    What runs before the epochs of a head runs once, as it would for `max_resources`
    epochs: the first heads of AFR and, without attributes, of GERNE have as many epochs
    as the second. There, only the last rung's scores are those of another search.

    Examples
    --------
    >>> from skdebias import GERNEClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.metrics import worst_group_accuracy_scorer
    >>> from skdebias.model_selection import BatchedHalvingGridSearchCV
    >>> X, y, attributes = make_spurious_classification(600, random_state=0)
    >>> search = BatchedHalvingGridSearchCV(
    ...     GERNEClassifier(max_iter=18, random_state=0),
    ...     {"beta": [-1.0, 0.0, 1.0], "learning_rate": [1e-4, 1e-3, 1e-2]},
    ...     scoring=worst_group_accuracy_scorer,
    ... )
    >>> search = search.fit(X, y, attributes=attributes)
    >>> search.n_candidates_, search.n_resources_
    ([9, 3, 1], [2, 6, 18])
    >>> len(search.cv_results_["params"]), search.best_params_["max_iter"]
    (13, 18)
    """

    _parameter_constraints: dict = {
        **BaseBatchedSearchCV._parameter_constraints,
        "param_grid": [dict, list],
        "factor": [Interval(Real, 1, None, closed="neither")],
        "max_resources": [_RESOURCES, StrOptions({"auto"})],
        "min_resources": [_RESOURCES, StrOptions({"exhaust", "smallest"})],
        "aggressive_elimination": ["boolean"],
        "refit": ["boolean", str],
    }

    def __init__(
        self,
        estimator,
        param_grid,
        *,
        factor=3,
        max_resources="auto",
        min_resources="exhaust",
        aggressive_elimination=False,
        scoring=None,
        cv=None,
        refit=True,
        return_train_score=False,
        error_score=np.nan,
        max_heads="auto",
        verbose=0,
    ):
        super().__init__(
            estimator,
            scoring=scoring,
            cv=cv,
            refit=refit,
            return_train_score=return_train_score,
            error_score=error_score,
            max_heads=max_heads,
            verbose=verbose,
        )
        self.param_grid = param_grid
        self.factor = factor
        self.max_resources = max_resources
        self.min_resources = min_resources
        self.aggressive_elimination = aggressive_elimination

    def _candidates(self):
        return ParameterGrid(self.param_grid)

    def _n_scores(self, n_candidates):
        return None

    def _evaluate(self, candidates, scorers, data, report):
        self._check_metric(isinstance(scorers, _MultimetricScorer))
        resource = self._resource()
        groups_known = data[3].get("attributes") is not None
        self._check_candidates(candidates, resource, groups_known)
        self._plan_rungs(len(candidates))
        # What is read of max_iter before the first epoch is that of the last rung.
        of_last_rung = [c | {resource: self.max_resources_} for c in candidates]
        fits = self._split_fits(of_last_rung, scorers, report)
        remaining = np.arange(len(candidates))
        tried, results, more = [], [], {"iter": [], "n_resources": []}
        for rung, epochs in enumerate(self.n_resources_):
            if rung == 0:
                out = fits.run(*data, until=epochs)
            else:
                out = fits.resume(remaining.tolist(), epochs)
            results += self._check_results(out)
            self._check_metric(self.multimetric_)
            tried += [candidates[number] | {resource: epochs} for number in remaining]
            more["iter"] += [rung] * len(remaining)
            more["n_resources"] += [epochs] * len(remaining)
            remaining = remaining[self._best(out)]
        self.n_remaining_candidates_ = len(remaining)
        return tried, results, more

    def _check_metric(self, multimetric):
        if multimetric and not self.refit:
            raise ValueError(
                f"refit={self.refit}, but there are several metrics in scoring: name "
                "the one that decides which candidates go on."
            )

    def _resource(self):
        """Return the name of the parameter that the rungs raise."""
        if isinstance(self.estimator, Pipeline):
            return f"{self.estimator.steps[-1][0]}__max_iter"
        return "max_iter"

    def _check_candidates(self, candidates, resource, groups_known):
        """Refuse what cannot go on from where it is."""
        others = "or search with BatchedGridSearchCV."
        for candidate in candidates:
            if resource in candidate:
                raise ValueError(
                    f"param_grid has {resource}={candidate[resource]!r}, but epochs "
                    "are what the rungs raise: leave it out and set max_resources, "
                    f"{others}"
                )
            model = clone(self.estimator).set_params(**clone(candidate, safe=False))
            model = final_head(model)
            if not isinstance(model, BaseDebiasedClassifier):
                raise ValueError(
                    f"estimator={model!r} is not trained in epochs, which the rungs "
                    f"raise: choose another one, {others}"
                )
            if with_numbers(model, groups_known).solver == "lbfgs":
                stands_for = " stands for 'lbfgs' here, which"
                raise ValueError(
                    f"solver={model.solver!r}{stands_for * (model.solver == 'auto')} "
                    "has no epochs, which the rungs raise: choose "
                    f"solver='sgd' or 'adamw', {others}"
                )
            if model.early_stopping:
                raise ValueError(
                    "early_stopping=True would stop candidates that the rungs let go "
                    f"on: choose early_stopping=False, {others}"
                )

    def _plan_rungs(self, n_candidates):
        """Set how many rungs there are, and their candidates and epochs."""
        factor, most = self.factor, self.max_resources
        if most == "auto":
            head = final_head(self.estimator)
            constraints = {"max_iter": [_RESOURCES]}
            most = with_numbers(head, groups_known=False).max_iter
            params = {"max_iter": most}
            validate_parameter_constraints(constraints, params, type(head).__name__)
        required = 1 + _n_factors(n_candidates, factor)
        least = 1 if isinstance(self.min_resources, str) else self.min_resources
        if self.min_resources == "exhaust":
            least = max(1, int(most // factor ** (required - 1)))
        if least > most:
            raise ValueError(
                f"min_resources={least} is more than max_resources={most}"
                f"{', the max_iter of the estimator' * (self.max_resources == 'auto')}"
                ": lower the one or raise the other."
            )
        possible = 1 + _n_factors(most // least, factor)
        n_rungs = required if self.aggressive_elimination else min(possible, required)
        # Rungs that there is no room for repeat the first one: nothing is trained.
        skipped = required - possible if self.aggressive_elimination else 0
        powers = [max(0, rung - skipped) for rung in range(n_rungs - 1)]
        self.n_resources_ = [min(int(factor**p * least), most) for p in powers] + [most]
        self.n_candidates_ = [n_candidates]
        while len(self.n_candidates_) < n_rungs:
            self.n_candidates_.append(ceil(self.n_candidates_[-1] / factor))
        self.min_resources_, self.max_resources_ = least, most
        self.n_required_iterations_ = required
        self.n_possible_iterations_ = possible
        self.n_iterations_ = n_rungs

    def _best(self, out):
        """Return the positions of the candidates that go on, in their order."""
        scores = [result["test_scores"] for result in out]
        if self.multimetric_:
            scores = [score[self._metric()] for score in scores]
        means = np.reshape(scores, (-1, self.n_splits_)).mean(1)
        n_left = ceil(len(means) / self.factor)
        # NaN comes last, and of equal scores the earlier one first.
        return np.sort(np.argsort(-means, kind="stable")[:n_left])

    @staticmethod
    def _select_best_index(refit, refit_metric, results):
        """Return the row of the best candidate in the last rung."""
        rungs = results["iter"]
        last = np.flatnonzero(np.equal(rungs, rungs[-1]))
        scores = results[f"mean_test_{refit_metric}"][last]
        return last[0] if np.isnan(scores).all() else last[np.nanargmax(scores)]


def _n_factors(value, factor):
    """Return the largest n with `factor ** n <= value`."""
    # A quotient of logarithms might round to the next number.
    n = 0
    while factor ** (n + 1) <= value:
        n += 1
    return n
