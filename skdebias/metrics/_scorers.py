"""Scorers that already carry their metadata request, and their names."""

from copy import deepcopy
from inspect import Parameter, signature

import sklearn.metrics
from sklearn import config_context
from sklearn.metrics import make_scorer

from skdebias._sklearn import ScorerParts, scorer_parts
from skdebias.metrics._group import (
    group_balanced_accuracy_score,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)
from skdebias.metrics._group_metrics import (
    AGGREGATES,
    GroupMetric,
    inner_function,
    resolve_groups,
)

# How scikit-learn names functions of which less is better, and arguments of functions
# that take no predicted labels.
_LOSSES = ("_loss", "_error", "_deviance")
_NO_LABELS = ("y_score", "y_prob", "y_proba", "pred_decision")


def _request_attributes(scorer):
    """Make a scorer request ``attributes``.

    Requests can only be set while routing is on; the context leaves the global
    setting as it was. The object is a scorer of scikit-learn's own class, which
    ``sklearn.callback.ScoringMonitor`` relies on.
    """
    with config_context(enable_metadata_routing=True):
        return scorer.set_score_request(attributes=True)


def make_group_scorer(
    metric,
    *,
    aggregate="worst",
    groups="auto",
    response_method=None,
    greater_is_better=None,
    **metric_kwargs,
):
    """Make a scorer of any metric, computed group by group.

    It goes where scikit-learn and this package take ``scoring=``, and requests
    ``attributes``.

    Parameters
    ----------
    metric : callable, or str
        A metric of :mod:`sklearn.metrics`; a function that is called in the same way; a
        name that scikit-learn has for a scorer, such as ``"roc_auc"``; or a scorer.
    aggregate : {"worst", "mean", "gap"}, default="worst"
        What becomes of the groups' values: the worst one (the highest of a loss); their
        mean, in which every group counts alike; or the best less the worst, of which
        less is better.
    groups : {"auto", "label_attribute", "attribute"}, default="auto"
        Groups are (label, attribute) cells, or attribute values. Accuracy is one of
        cells everywhere in this package; AUC, precision and F1 say how well classes are
        told apart and need rows of several. So "auto" takes cells for means over rows
        (accuracy, zero-one and Hamming loss, log loss, Brier score, top-k accuracy),
        and attribute values for all other metrics, your own included.
    response_method : str or tuple of str, default=None
        What the metric takes: "predict", "predict_proba" or "decision_function". None
        is what scikit-learn's scorer of the metric has, and "predict" of others. It
        must be given for others that take ``y_score``, ``y_proba`` or
        ``pred_decision``.
    greater_is_better : bool, default=None
        None is what scikit-learn's scorer of the metric has; functions of other names
        are losses if these end in ``_loss``, ``_error`` or ``_deviance``. As in
        scikit-learn, the score of a loss is negative.
    **metric_kwargs : dict
        Arguments of `metric`.

    Returns
    -------
    callable
        A scorer of scikit-learn's own class.

    Raises
    ------
    TypeError
        If `metric` does not take `metric_kwargs`.
    ValueError
        If an argument is none of those above, or a name is unknown.

    See Also
    --------
    group_metric_table : The value of every group.

    Notes
    -----
    A group on which the metric is undefined, such as the AUC of rows of one class, is
    an error that names it: to leave it out would make another score of every fold. Many
    metrics say by ``zero_division=`` what they are there.

    To use weights, request them beside the attributes, as ``set_score_request``
    replaces what was requested:
    ``scorer.set_score_request(attributes=True, sample_weight=True)``.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.metrics import f1_score, roc_auc_score
    >>> from skdebias import ERMClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.metrics import make_group_scorer
    >>> X, y, attributes = make_spurious_classification(600, random_state=0)
    >>> model = ERMClassifier(random_state=0).fit(X, y)
    >>> worst_auc = make_group_scorer(roc_auc_score)
    >>> f1_gap = make_group_scorer(f1_score, aggregate="gap", average="macro")
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = [
    ...         s(model, X, y, attributes=attributes) for s in (worst_auc, f1_gap)
    ...     ]
    >>> scores[0] > 0.5, scores[1] < 0
    (True, True)
    """
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate={aggregate!r} is none of {', '.join(AGGREGATES)}.")
    resolve_groups(groups, [])
    parts = _metric_parts(metric)
    response_method = response_method or parts.response_method
    if response_method is None:
        raise ValueError(
            f"metric={metric!r} takes no predicted labels, and scikit-learn has no "
            "scorer of it: pass response_method='decision_function' or "
            "'predict_proba'."
        )
    if greater_is_better is None:
        greater_is_better = parts.greater_is_better
    kwargs = parts.kwargs | metric_kwargs
    if taken := {"attributes", "sample_weight"} & set(kwargs):
        raise TypeError(
            f"{', '.join(sorted(taken))} belongs to rows, and scores are of different "
            "rows: pass it to fit of the search, or to cross_validate as params."
        )
    signature(parts.function).bind_partial(**kwargs)
    scorer = make_scorer(
        GroupMetric(parts.function, aggregate, groups, bool(greater_is_better)),
        response_method=response_method,
        greater_is_better=bool(greater_is_better) and aggregate != "gap",
        **kwargs,
    )
    return _request_attributes(scorer)


def _metric_parts(metric):
    """Return what scikit-learn's scorer of a metric does."""
    if isinstance(metric, str):
        parts = scorer_parts(get_scorer(metric))
    elif (parts := scorer_parts(metric)) is None and callable(metric):
        parts = _registered(metric)
    if parts is None:
        raise ValueError(
            f"metric={metric!r} must be a function of true labels and predictions, the "
            "name of a scorer of scikit-learn, or a scorer made by make_scorer."
        )
    if "attributes" in signature(parts.function).parameters:
        raise ValueError(
            f"metric={metric!r} is one of groups already: use its scorer as it is."
        )
    return parts


def _registered(function):
    """Return what scikit-learn's scorer of a function does, or what its name says."""
    inner = inner_function(function)
    for name in sklearn.metrics.get_scorer_names():
        parts = scorer_parts(sklearn.metrics.get_scorer(name))
        if parts is not None and parts.function is inner:
            _, response_method, greater_is_better, _ = parts
            return ScorerParts(function, response_method, greater_is_better, {})
    is_loss = getattr(inner, "__name__", "").endswith(_LOSSES)
    of_labels = not set(_NO_LABELS) & set(signature(inner).parameters)
    return ScorerParts(function, "predict" if of_labels else None, not is_loss, {})


#: Scorer of :func:`worst_group_accuracy_score`; requests ``attributes``.
worst_group_accuracy_scorer = _request_attributes(
    make_scorer(worst_group_accuracy_score)
)

#: Scorer of :func:`group_balanced_accuracy_score`; requests ``attributes``.
group_balanced_accuracy_scorer = _request_attributes(
    make_scorer(group_balanced_accuracy_score)
)

#: Scorer of :func:`worst_class_accuracy_score`; needs no attributes.
worst_class_accuracy_scorer = make_scorer(worst_class_accuracy_score)

_NAMED = {
    "worst_group_accuracy": worst_group_accuracy_scorer,
    "group_balanced_accuracy": group_balanced_accuracy_scorer,
    "worst_class_accuracy": worst_class_accuracy_scorer,
    "neg_worst_group_log_loss": make_group_scorer(sklearn.metrics.log_loss),
}


def get_scorer_names():
    """Return the names that ``scoring=`` of the searches of this package takes.

    Searches of scikit-learn know only their own; there, use :func:`get_scorer`.

    Returns
    -------
    list of str
        Those of this package, then those of scikit-learn.

    Examples
    --------
    >>> from skdebias.metrics import get_scorer_names
    >>> get_scorer_names()[:3]
    ['worst_group_accuracy', 'group_balanced_accuracy', 'worst_class_accuracy']
    """
    return [*_NAMED, *sklearn.metrics.get_scorer_names()]


def get_scorer(scoring):
    """Return the scorer of a name, out of this package's and scikit-learn's.

    Parameters
    ----------
    scoring : str or callable
        One of :func:`get_scorer_names`. Anything else is returned as it is.

    Returns
    -------
    callable
        A copy, whose request can be changed.

    Raises
    ------
    ValueError
        If there is no scorer of this name.

    Examples
    --------
    >>> from skdebias.metrics import get_scorer
    >>> get_scorer("worst_group_accuracy")
    make_scorer(worst_group_accuracy_score, response_method='predict')
    """
    if not isinstance(scoring, str):
        return scoring
    if scoring in _NAMED:
        return deepcopy(_NAMED[scoring])
    if scoring in sklearn.metrics.get_scorer_names():
        return sklearn.metrics.get_scorer(scoring)
    raise ValueError(
        f"There is no scorer of the name {scoring!r}. Those of skdebias are "
        f"{', '.join(_NAMED)}; those of scikit-learn are "
        f"{', '.join(sklearn.metrics.get_scorer_names())}."
    )


def with_named_scorers(scoring):
    """Put scorers in the place of names of this package.

    Parameters
    ----------
    scoring : object
        As a search is given it.

    Returns
    -------
    object
        What searches of scikit-learn take.

    Raises
    ------
    ValueError
        If one of several names is unknown.
    """
    if isinstance(scoring, dict):
        return {name: get_scorer(value) for name, value in scoring.items()}
    if isinstance(scoring, (list, tuple)):
        names = [name for name in scoring if isinstance(name, str)]
        # What is wrong with others, scikit-learn says.
        if len(set(names)) == len(scoring):
            return {name: get_scorer(name) for name in names} or scoring
        return scoring
    return get_scorer(scoring)


def needs_attributes(scorer):
    """Return whether a scorer cannot do without attributes.

    Parameters
    ----------
    scorer : callable

    Returns
    -------
    bool
    """
    parts = scorer_parts(scorer)
    if parts is None:
        return False
    if isinstance(parts.function, GroupMetric):
        return True
    if parts.function in (worst_group_accuracy_score, group_balanced_accuracy_score):
        return True
    parameter = signature(parts.function).parameters.get("attributes")
    return parameter is not None and parameter.default is Parameter.empty
