"""What all searches share that train candidates and folds as stacks of heads."""

import time
from abc import abstractmethod
from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn import config_context, get_config
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import get_routing_for_object

from skdebias._annotations import count_missing, refuse_names
from skdebias._attributes import on_host
from skdebias._context import standard_context
from skdebias._first_stage import check_annotations, uses_attributes
from skdebias._head import final_head
from skdebias._named_groups import UnusableAttributesWarning, warn_of_unusable
from skdebias._sklearn import (
    ROWS_LIKE_X,
    BaseSearchCV,
    Interval,
    StrOptions,
    _check_method_params,
    _fit_context,
    _insert_error_scores,
    _warn_or_raise_about_fit_failures,
    asking_for_weights,
    scorers_by_metric,
    through_pipelines,
)
from skdebias._validation import name_groups
from skdebias._warnings import AttributesIgnoredWarning, announced, warn_caller
from skdebias.metrics import get_scorer_names
from skdebias.metrics._scorers import with_named_scorers
from skdebias.model_selection._candidates import (
    check_stackable,
    group_by_preprocessing,
)
from skdebias.model_selection._kfold import AttributeStratifiedKFold
from skdebias.model_selection._scoring import (
    name_failed_scores,
    refuse_missing_attributes,
    report_failures,
)
from skdebias.model_selection._split_fits import SplitFits
from skdebias.model_selection._split_scores import ScoringConfig


class BaseBatchedSearchCV(BaseSearchCV):
    """Search of scikit-learn whose candidates are trained side by side.

    Scores, ranks, the choice of the best candidate and prediction are scikit-learn's.
    A subclass says in :meth:`_candidates` what is tried.
    """

    _parameter_constraints: dict = {
        **{
            name: BaseSearchCV._parameter_constraints[name]
            for name in (
                "estimator",
                "refit",
                "cv",
                "verbose",
                "error_score",
                "return_train_score",
            )
        },
        "scoring": [
            StrOptions(set(get_scorer_names())),
            callable,
            list,
            tuple,
            dict,
            None,
        ],
        "max_heads": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
    }

    @abstractmethod
    def __init__(
        self,
        estimator,
        *,
        scoring=None,
        cv=None,
        refit=True,
        return_train_score=False,
        error_score=np.nan,
        max_heads="auto",
        verbose=0,
    ):
        self.estimator = estimator
        self.scoring = scoring
        self.cv = cv
        self.refit = refit
        self.return_train_score = return_train_score
        self.error_score = error_score
        self.max_heads = max_heads
        self.verbose = verbose

    @abstractmethod
    def _candidates(self):
        """Return the list of parameter settings to try."""

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, attributes=None, **params):
        """Train all candidates on all folds, and the best one on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings, or whatever the first step of a Pipeline takes.
        y : array-like of shape (n_samples,)
            Class labels.
        attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
            Spurious attributes. They reach the estimator, the splitter and the scorers
            that ask for them, whether metadata routing is enabled or not.
        **params : dict of str -> object
            Further arguments of the estimator's `fit`, such as `X_val`, or of the
            splitter or scorers. Those with one entry per row are split with X.
            `sample_weight` goes where it was requested if metadata routing is enabled,
            and otherwise to the estimator, unless it is a Pipeline, and to the scorers
            that take it, as in scikit-learn's searches.

        Returns
        -------
        self : object
            Fitted search.

        Raises
        ------
        ValueError
            If the estimator cannot be stacked, or if all fits failed.
        """
        check_stackable(self.estimator, type(self).__name__)
        refuse_names(attributes, X)
        if count_missing(attributes) != "all":
            params = params | {"attributes": on_host(attributes)}
        if params.get("sample_weight") is not None:
            params = params | {"sample_weight": on_host(params["sample_weight"])}
        params = params | self._validation_rows(params)
        from skdebias._engine._threads import one_thread

        unrouted = {}
        if not get_config()["enable_metadata_routing"] and not self._is_pipeline():
            unrouted = {"sample_weight": on_host(params.pop("sample_weight", None))}
            unrouted = {k: v for k, v in unrouted.items() if v is not None}
        routed = config_context(enable_metadata_routing=True)
        with standard_context(), one_thread(), routed:
            X, y = indexable(X, on_host(y))
            self._check_attributes(y, params)
            with announced(UnusableAttributesWarning, AttributesIgnoredWarning):
                return self._search(X, y, params, unrouted)

    def _is_pipeline(self):
        return final_head(self.estimator) is not self.estimator

    def _validation_rows(self, params):
        """Apply the steps of a Pipeline that the search is a step of.

        Here, because the fits of the candidates take the rows as they are.
        """
        routing = get_routing_for_object(final_head(self.estimator))
        aliases = [(name, routing.fit.requests.get(name)) for name in ROWS_LIKE_X]
        names = [alias if isinstance(alias, str) else name for name, alias in aliases]
        return {
            name: through_pipelines(params[name])
            for name in names
            if params.get(name) is not None
        }

    def _check_attributes(self, y, params):
        """Check attributes as a whole: of a wrong length they would not be split."""
        attributes = params.get("attributes")
        reasons = []
        if attributes is not None and y is not None:
            named = name_groups(y, attributes)
            check_annotations(
                final_head(self.estimator),
                attributes,
                params.get("attributes_val"),
                len(y),
            )
            if uses_attributes(final_head(self.estimator)):
                reasons.append(named.unusable_for_training())
            else:
                reasons.append(named.unusable_for_scores())
        y_val, attributes_val = params.get("y_val"), params.get("attributes_val")
        if attributes_val is not None and y_val is not None:
            named = name_groups(y_val, attributes_val, "y_val", "attributes_val")
            reasons.append(named.unusable_for_scores("attributes_val"))
        warn_of_unusable(*reasons)

    def _search(self, X, y, params, unrouted):
        scorers, _ = self._get_scorers()
        refuse_missing_attributes(scorers, params, type(self).__name__)
        params = _check_method_params(X, params=params)
        splitter = self._splitter(y, params)
        routed = self._route(splitter, params)
        fit_params, score_params = routed.estimator.fit, routed.scorer.score
        asking = scorers
        if unrouted:
            unrouted = _check_method_params(X, params=unrouted)
            fit_params = fit_params | unrouted
            if self._check_scorers_accept_sample_weight():
                score_params = score_params | unrouted
                asking = asking_for_weights(scorers)
        if "attributes" in params:
            self._warn_if_ignored(routed)
        callback = self._init_callback_context(
            max_subtasks=1 + (self.refit is not False)
        ).call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=None)

        splits = list(splitter.split(X, y, **routed.splitter.split))
        self.n_splits_ = len(splits)
        candidates = list(self._candidates())
        if not (splits and candidates):
            raise ValueError(
                f"No fits were performed: there are {len(candidates)} candidates and "
                f"{len(splits)} splits."
            )
        data = X, y, splits, fit_params, score_params
        task = callback.subcontext(
            task_name="search", max_subtasks=self._n_scores(len(candidates))
        ).call_on_fit_task_begin(estimator=self)
        report = partial(self._report, task)
        tried, out, more = self._evaluate(candidates, asking, data, report)
        task.call_on_fit_task_end(estimator=self)
        more = more | extrapolation_strength(self.estimator, tried)
        results = self._format_results(tried, self.n_splits_, out, more)

        if self.refit or not self.multimetric_:
            self._choose_best(tried, results)
        if self.refit:
            self._refit(X, y, fit_params, callback)
        self.scorer_ = scorers_by_metric(scorers) or scorers
        self.cv_results_ = results
        callback.call_on_fit_task_end(estimator=self, X=X, y=y, metadata=None)
        return self

    def _warn_if_ignored(self, routed):
        """Warn if nothing in a search has a use for the attributes."""
        if "attributes" in {*routed.splitter.split, *routed.scorer.score}:
            return
        candidates = group_by_preprocessing(self.estimator, list(self._candidates()))
        heads = [head for _, heads in candidates for _, head in heads]
        if any(map(uses_attributes, heads)):
            return
        warn_caller(
            f"{type(self).__name__}: the attributes given to fit are ignored. No "
            "candidate trains with them, and neither the splitter nor the scorers ask "
            "for them: pass cv=None or scoring=worst_group_accuracy_scorer, or leave "
            "them out.",
            AttributesIgnoredWarning,
        )

    def _choose_best(self, tried, results):
        """Set which candidate is the best one, and its score."""
        metric = self._metric()
        self.best_index_ = self._select_best_index(self.refit, metric, results)
        if not callable(self.refit):
            self.best_score_ = results[f"mean_test_{metric}"][self.best_index_]
            _refuse_no_score(self.best_score_, metric)
        self.best_params_ = tried[self.best_index_]

    def _n_scores(self, n_candidates):
        """Return how many fits are scored, None if that is not known in advance."""
        return n_candidates * self.n_splits_

    def _report(self, task):
        """Tell callbacks that a fit has been scored."""
        scored = task.subcontext(task_name="candidate-split-evaluation")
        scored.call_on_fit_task_begin(estimator=self)
        scored.call_on_fit_task_end(estimator=self)

    def _evaluate(self, candidates, scorers, data, report):
        """Fit and score the candidates.

        Parameters
        ----------
        candidates : list of dict
        scorers : callable
        data : tuple
            The arguments of :meth:`SplitFits.run`.
        report : callable
            Called for every fit that has been scored.

        Returns
        -------
        tried : list of dict
            Settings, one for each row of `cv_results_`.
        out : list of dict
            Results of every split, row by row.
        more : dict of str to list
            Further columns of `cv_results_`.
        """
        fits = self._split_fits(candidates, scorers, report)
        return candidates, self._check_results(fits.run(*data)), {}

    def _split_fits(self, candidates, scorers, report):
        return SplitFits(
            self.estimator,
            candidates,
            ScoringConfig(scorers, self.return_train_score, self.error_score),
            max_heads=self.max_heads,
            verbose=self.verbose,
            report=report,
        )

    def _check_results(self, out):
        """Report fits that failed, and see what the scorers return."""
        _warn_or_raise_about_fit_failures(out, self.error_score)
        if callable(self.scoring):
            _insert_error_scores(out, self.error_score)
            name_failed_scores(out, self.error_score)
        scores = out[0]["test_scores"]
        self.multimetric_ = isinstance(scores, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(scores)
        decides = self.multimetric_ and isinstance(self.refit, str)
        report_failures(out, self.error_score, self.refit if decides else None)
        return out

    def _get_scorers(self):
        # Names of this package are unknown to the base class.
        scoring, self.scoring = self.scoring, with_named_scorers(self.scoring)
        try:
            return super()._get_scorers()
        finally:
            self.scoring = scoring

    def _metric(self):
        """Return the name of the score that decides, as `cv_results_` has it."""
        return self.refit if self.multimetric_ else "score"

    def _splitter(self, y, params):
        """Return the splitter; with attributes the default stratifies on groups."""
        if self.cv is None and "attributes" in params:
            return AttributeStratifiedKFold()
        return check_cv(self.cv, y, classifier=is_classifier(self.estimator))

    def _route(self, splitter, params):
        # Routing asks the search for its splitter, which is not yet `cv`.
        cv, self.cv = self.cv, splitter
        try:
            return self._get_routed_params_for_fit(params)
        finally:
            self.cv = cv

    def _refit(self, X, y, fit_params, callback):
        self.best_estimator_ = clone(self.estimator).set_params(
            **clone(self.best_params_, safe=False)
        )
        task = callback.subcontext(task_name="refit-with-best-params")
        with task.propagate_callback_context(self.best_estimator_):
            task.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=None)
            start = time.perf_counter()
            self.best_estimator_.fit(X, y, **fit_params)
            self.refit_time_ = time.perf_counter() - start
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_
        task.call_on_fit_task_end(estimator=self, X=X, y=y, metadata=None)


def _refuse_no_score(best_score, metric):
    """Refuse a best candidate that is so only because no other has a score either."""
    if np.isnan(best_score):
        raise ValueError(
            f"No candidate has a {metric} on every split, so that there is no best "
            "one: see the warnings of this search for what failed, or set "
            "error_score='raise'."
        )


def extrapolation_strength(estimator, candidates):
    """Return `s = c (1 + beta)` of every candidate, where it has both.

    Parameters
    ----------
    estimator : estimator or Pipeline
    candidates : list of dict

    Returns
    -------
    dict of str to list
        Empty for methods without these parameters.
    """
    defaults = estimator.get_params()
    names = {}
    for name in ("beta", "c"):
        keys = [key for key in defaults if key == name or key.endswith(f"__{name}")]
        if len(keys) != 1:
            return {}
        names[name] = keys[0]
    strengths = []
    for candidate in candidates:
        beta, c = (candidate.get(names[n], defaults[names[n]]) for n in ("beta", "c"))
        numbers = isinstance(beta, Real) and isinstance(c, Real)
        strengths.append(float(c * (1 + beta)) if numbers else np.nan)
    return {"extrapolation_strength": strengths}
