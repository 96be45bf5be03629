"""Scores that fail: kept with their cause, told once, and never chosen by."""

import warnings
from traceback import format_exc

import numpy as np
from sklearn.utils.metadata_routing import get_routing_for_object

from skdebias._sklearn import _score, scorers_by_metric
from skdebias.metrics._scorers import needs_attributes


def score(estimator, X, y, scorers, params, error_score):
    """Score a fitted estimator; what a scorer raises becomes `error_score`.

    Parameters
    ----------
    estimator : estimator
    X, y : array-like
    scorers : callable
        What scikit-learn's searches call with an estimator, X and y.
    params : dict
        Parameters of the scorers.
    error_score : "raise" or float

    Returns
    -------
    scores : float or dict of str to float
    error : str or None
        Traceback of the first scorer that failed.

    Raises
    ------
    ValueError
        If a scorer returns no number.
    Exception
        What a scorer raises, with `error_score="raise"`.
    """
    errors = []

    def tried(*args, **kwargs):
        try:
            scores = scorers(*args, **kwargs)
        except Exception:
            if error_score == "raise":
                raise
            errors.append(format_exc())
            return error_score
        if not isinstance(scores, dict):
            return scores
        # Scikit-learn's multimetric scorer puts tracebacks in the place of scores.
        errors.extend(value for value in scores.values() if isinstance(value, str))
        return {k: error_score if isinstance(v, str) else v for k, v in scores.items()}

    scores = _score(estimator, X, y, tried, params, "raise")
    return scores, errors[0] if errors else None


def refuse_missing_attributes(scorers, params, search):
    """Refuse a search whose scorers need attributes and get none, before it trains.

    Parameters
    ----------
    scorers : callable
        What scikit-learn's searches call with an estimator, X and y.
    params : dict
        What `fit` of the search was given beside X and y.
    search : str
        Named in the message.

    Raises
    ------
    TypeError
    """
    by_metric = scorers_by_metric(scorers) or {None: scorers}
    for metric, scorer in by_metric.items():
        if not needs_attributes(scorer):
            continue
        named = f"scoring={scorer!r}" if metric is None else f"scoring[{metric!r}]"
        request = get_routing_for_object(scorer).score.requests.get("attributes")
        if request is None or request is False:
            raise TypeError(
                f"{named} needs attributes, and does not request them: make it by "
                "make_group_scorer, or call set_score_request(attributes=True) on it, "
                "with sklearn.set_config(enable_metadata_routing=True) before."
            )
        argument = "attributes" if request is True else request
        if params.get(argument) is None:
            raise TypeError(
                f"{named} needs the spurious attributes of the rows, and there are "
                f"none: pass {argument}=... to fit of {search}, or choose a score that "
                "needs none, such as scoring='worst_class_accuracy'."
            )


def name_failed_scores(out, error_score):
    """Give fits whose scorer failed the metrics that it names for others, in place.

    Parameters
    ----------
    out : list of dict
    error_score : float
    """
    for part in ("test_scores", "train_scores"):
        scores = [result[part] for result in out if part in result]
        named = next((s for s in scores if isinstance(s, dict)), {})
        for result in out if named else ():
            if not isinstance(result[part], dict):
                result[part] = dict.fromkeys(named, error_score)


def report_failures(out, error_score, metric=None):
    """Warn once of scorers that failed; refuse a search without a single score.

    Parameters
    ----------
    out : list of dict
        Results of all fits, with `test_scores`, `fit_error` and `score_error`.
    error_score : "raise" or float
    metric : str, default=None
        The metric that decides, where there are several; None stands for all.

    Raises
    ------
    ValueError
        If all scores are NaN.
    """
    errors = [result["score_error"] for result in out]
    failed = [error for error in errors if error is not None]
    scores = np.array([_values(result["test_scores"], metric) for result in out])
    if np.isnan(scores.astype(float)).all():
        raise ValueError(
            f"All the {len(out)} scores are NaN, so that there is no best candidate. "
            f"{_cause(failed, [result['fit_error'] for result in out])}"
        )
    if failed:
        warnings.warn(
            f"Scoring failed for {len(failed)} of {len(out)} fits, whose score is set "
            f"to {error_score}; error_score='raise' stops there. The first error was:"
            f"\n{failed[0]}",
            UserWarning,
            stacklevel=2,
        )


def _values(scores, metric):
    if not isinstance(scores, dict):
        return [scores]
    return list(scores.values()) if metric is None else [scores[metric]]


def _cause(score_errors, fit_errors):
    """Name the first error, if there was one."""
    errors = [*score_errors, *(error for error in fit_errors if error is not None)]
    if not errors:
        return (
            "The scorers of scoring= returned NaN and raised nothing: look at what "
            "they do with a fold that lacks a class or a group."
        )
    return f"error_score='raise' stops at the first error, which was:\n{errors[0]}"
