"""What is asked of scikit-learn beyond its public interface, and why.

Private names of scikit-learn are imported here and nowhere else, so that a release
which renames one is met in one file. They keep their names.

- Constraints of parameters, and the context of a fit that checks them, are what all
  estimators of scikit-learn declare and use.
- The scorers and helpers of its searches make batched searches fail, warn and score as
  they do.
- The rest reads data the way scikit-learn does: lengths, rows, parameters of `fit` per
  fold.
"""

import sys
from collections.abc import Callable
from copy import deepcopy
from inspect import signature
from typing import NamedTuple

from sklearn.base import _fit_context
from sklearn.metrics._scorer import (
    _BaseScorer,
    _MultimetricScorer,
    _PassthroughScorer,
    _Scorer,
)
from sklearn.model_selection._search import (
    BaseSearchCV,
    _insert_error_scores,
    _warn_or_raise_about_fit_failures,
)
from sklearn.model_selection._validation import _score
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import _check_method_params, _num_samples

__all__ = [
    "BaseSearchCV",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "ScorerParts",
    "StrOptions",
    "_BaseScorer",
    "_MultimetricScorer",
    "_PassthroughScorer",
    "_check_method_params",
    "_fit_context",
    "_insert_error_scores",
    "_num_samples",
    "_safe_indexing",
    "_score",
    "_warn_or_raise_about_fit_failures",
    "asking_for_weights",
    "own_score_of",
    "score_function_of",
    "scorer_parts",
    "scorers_by_metric",
    "through_pipelines",
    "validate_parameter_constraints",
    "validate_params",
]


def validate_params(estimator):
    """Check the parameters of an estimator as its `fit` does.

    Parameters
    ----------
    estimator : estimator

    Raises
    ------
    InvalidParameterError
    """
    estimator._validate_params()


def scorers_by_metric(scorer):
    """Return the scorers of several metrics.

    Parameters
    ----------
    scorer : callable
        What scikit-learn's searches call with an estimator, X and y.

    Returns
    -------
    dict of str to callable, or None
        None for a scorer of one metric.
    """
    return scorer._scorers if isinstance(scorer, _MultimetricScorer) else None


def own_score_of(scorer):
    """Return the estimator whose own `score` a scorer stands for.

    Parameters
    ----------
    scorer : callable

    Returns
    -------
    estimator or None
        None for a scorer of another kind.
    """
    return scorer._estimator if isinstance(scorer, _PassthroughScorer) else None


def asking_for_weights(scorer):
    """Return a scorer of several metrics whose metrics ask for `sample_weight`.

    Parameters
    ----------
    scorer : callable
        What scikit-learn's searches call with an estimator, X and y.

    Returns
    -------
    callable
        Those of its metrics that take weights are given them where metadata are routed;
        a scorer of one metric takes what it is called with, and is returned as it is.
    """
    asking = deepcopy(scorer)
    for scorer in (scorers_by_metric(asking) or {}).values():
        if isinstance(scorer, _BaseScorer):
            takes = signature(scorer._score_func).parameters
            # It replaces all that was requested before.
            requests = get_routing_for_object(scorer).score.requests
            weights = {"sample_weight": "sample_weight" in takes}
            scorer.set_score_request(**requests | weights)
    return asking


def score_function_of(scorer):
    """Return the function that a scorer applies to labels and predictions.

    Parameters
    ----------
    scorer : callable

    Returns
    -------
    callable or None
        None for a scorer that does anything else with an estimator, or with what the
        function returns.
    """
    parts = scorer_parts(scorer)
    if parts is None or not parts.greater_is_better or parts.kwargs:
        return None
    return parts.function if parts.response_method == "predict" else None


class ScorerParts(NamedTuple):
    """What a scorer of scikit-learn does.

    Parameters
    ----------
    function : callable
        Takes true labels and what the response method returns.
    response_method : str or tuple of str, or None
        None if it is unknown.
    greater_is_better : bool
        Of `function`.
    kwargs : dict
        Arguments of `function`.
    """

    function: Callable
    response_method: str | tuple[str, ...] | None
    greater_is_better: bool
    kwargs: dict


def scorer_parts(scorer):
    """Take a scorer apart.

    Parameters
    ----------
    scorer : callable

    Returns
    -------
    ScorerParts or None
        None for one that does anything else with an estimator.
    """
    if type(scorer) is not _Scorer:
        return None
    return ScorerParts(
        scorer._score_func,
        scorer._response_method,
        scorer._sign == 1,
        dict(scorer._kwargs),
    )


#: Arguments of `fit` with rows that are transformed as those of X are.
ROWS_LIKE_X = ("X_val", "X_unlabeled")


def through_pipelines(X_val):
    """Return validation rows as the pipelines that are fitting transform X.

    A pipeline of scikit-learn 1.9 hands `X_val` to its last step as it came, unless
    its `transform_input` says otherwise; later versions transform it (scikit-learn
    #34263). A head that is trained on scaled rows and chosen on raw ones is wrong
    without a word, so the steps are applied here. A pipeline that has transformed the
    rows itself is known by the rows: they are not the object that it was given.

    Parameters
    ----------
    X_val : object or None
        As `fit` of an estimator was given it.

    Returns
    -------
    object or None
    """
    if X_val is None:
        return None
    for steps in reversed(list(_steps_before(X_val))):
        X_val = steps.transform(X_val)
    return X_val


def _steps_before(X_val):
    """Yield the fitted steps that the rows have missed, innermost pipeline first."""
    frame, seen = sys._getframe(2), None
    while frame is not None:
        variables, name = frame.f_locals, frame.f_code.co_name
        pipeline = variables.get("self")
        # `_fit` fits the steps before the last one, and is called by the others.
        fitting = name in ("_fit", "fit", "fit_transform", "fit_predict")
        if fitting and isinstance(pipeline, Pipeline) and pipeline is not seen:
            seen = pipeline
            inner = name == "_fit"
            fit_params = variables.get("raw_params" if inner else "params") or {}
            steps = pipeline[: variables.get("step_idx", 0) if inner else -1]
            if len(steps) and any(value is X_val for value in fit_params.values()):
                yield steps
        frame = frame.f_back
