"""Any metric of scikit-learn, group by group."""

import warnings
from functools import partial
from inspect import Parameter, Signature, signature
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    f1_score,
    fbeta_score,
    hamming_loss,
    jaccard_score,
    log_loss,
    precision_score,
    recall_score,
    top_k_accuracy_score,
    zero_one_loss,
)
from sklearn.utils import check_consistent_length

from skdebias._attributes import check_attributes, form_groups, on_host
from skdebias._groups import Groups
from skdebias._named_groups import NamedGroups, warn_of_unusable
from skdebias._sample_weight import check_sample_weight, positive
from skdebias.metrics._group import MISSING_ATTRIBUTES, check_true_labels, name_columns

# Means of something that every row has by itself: they need no second class. All other
# metrics are about how classes are told apart.
_MEANS_OVER_ROWS = (
    accuracy_score,
    brier_score_loss,
    hamming_loss,
    log_loss,
    top_k_accuracy_score,
    zero_one_loss,
)
# Metrics whose `labels` are those that are true or predicted.
_OF_PREDICTED_LABELS = (
    f1_score,
    fbeta_score,
    jaccard_score,
    precision_score,
    recall_score,
)
AGGREGATES = ("worst", "mean", "gap")
GROUPINGS = ("auto", "label_attribute", "attribute")


class GroupMetric:
    """A metric that is computed group by group and made one number.

    Parameters
    ----------
    metric : callable
        Takes true labels and predictions or scores.
    aggregate : {"worst", "mean", "gap"}
    groups : {"auto", "label_attribute", "attribute"}
    greater_is_better : bool
        Of `metric`.
    """

    def __init__(self, metric, aggregate, groups, greater_is_better):
        self.metric, self.aggregate = metric, aggregate
        self.groups, self.greater_is_better = groups, greater_is_better
        self.__name__ = f"{aggregate} {_name(metric)} of groups"
        # Scorers ask for `sample_weight`, and choose the scores of `pos_label`.
        own = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY)
            for name, parameter in signature(metric).parameters.items()
            if name in ("sample_weight", "pos_label")
        ]
        self.__signature__ = Signature(
            [
                Parameter("y_true", Parameter.POSITIONAL_OR_KEYWORD),
                Parameter("y_pred", Parameter.POSITIONAL_OR_KEYWORD),
                Parameter("attributes", Parameter.KEYWORD_ONLY, default=None),
                *own,
            ]
        )

    def __repr__(self):
        return self.__name__

    def __call__(
        self, y_true, y_pred, *, attributes=None, sample_weight=None, **kwargs
    ):
        """Return the metric of the groups as one number."""
        metric = partial(self.metric, **kwargs) if kwargs else self.metric
        rows = split_rows(
            y_true,
            attributes,
            resolve_groups(self.groups, [metric]),
            sample_weight,
            name=f"The {self!r}",
        )
        values = rows.evaluate(metric, y_pred)
        if self.aggregate == "gap":
            return float(values.max() - values.min())
        if self.aggregate == "mean":
            return float(values.mean())
        return float(values.min() if self.greater_is_better else values.max())


def resolve_groups(groups, metrics):
    """Return over which groups metrics are computed.

    Parameters
    ----------
    groups : {"auto", "label_attribute", "attribute"}
    metrics : list of callable

    Returns
    -------
    {"label_attribute", "attribute"}

    Raises
    ------
    ValueError
    """
    if groups not in GROUPINGS:
        raise ValueError(f"groups={groups!r} is none of {', '.join(GROUPINGS)}.")
    if groups != "auto":
        return groups
    by_label = all(inner_function(metric) in _MEANS_OVER_ROWS for metric in metrics)
    return "label_attribute" if by_label else "attribute"


class GroupRows(NamedTuple):
    """The rows of every group.

    Parameters
    ----------
    y : ndarray of shape (n_kept,)
        Labels of the rows that are there: those of positive weight.
    weights : ndarray of shape (n_kept,) or None
    kept : ndarray of shape (n_samples,), bool
        Which rows are there.
    by_label : bool
        Whether groups are (label, attribute) cells, and not attribute values.
    keys : dict of str to ndarray of shape (n_groups,)
        What the groups are, by column of a table.
    rows : list of ndarray
        Row numbers of every group, out of those that are there.
    """

    y: np.ndarray
    weights: np.ndarray | None
    kept: np.ndarray
    by_label: bool
    keys: dict
    rows: list

    def evaluate(self, metric, y_pred):
        """Compute a metric on every group.

        Parameters
        ----------
        metric : callable
        y_pred : array-like of shape (n_samples,) or (n_samples, n_classes)

        Returns
        -------
        ndarray of shape (n_groups,)

        Raises
        ------
        ValueError
            If the metric is undefined on a group, which is named.
        """
        y_pred = np.asarray(on_host(y_pred))
        check_consistent_length(self.kept, y_pred)
        y_pred = y_pred[self.kept]
        metric = _with_all_labels(metric, self.y, y_pred)
        # What is wrong with all rows is not the fault of a group.
        try:
            self._call(metric, y_pred, slice(None))
        except UndefinedMetricWarning as error:
            raise ValueError(f"{_name(metric)} is undefined: {error}") from error
        values = []
        for group, rows in enumerate(self.rows):
            try:
                if _needs_classes(metric) and len(np.unique(self.y[rows])) == 1:
                    raise ValueError(
                        f"all of its rows have the label {self.y[rows[0]].item()!r}, "
                        "and the metric is about how labels are told apart"
                    )
                values.append(self._call(metric, y_pred, rows))
            except (ValueError, UndefinedMetricWarning) as error:
                raise ValueError(self._undefined(metric, group, error)) from error
        return np.array(values)

    def _call(self, metric, y_pred, rows):
        """Compute a metric on some rows, where it is defined."""
        weights = {}
        if self.weights is not None:
            weights = {"sample_weight": self.weights[rows]}
        if weights and "sample_weight" not in signature(metric).parameters:
            raise TypeError(f"{_name(metric)} takes no sample_weight: leave it out.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UndefinedMetricWarning)
            value = float(metric(self.y[rows], y_pred[rows], **weights))
        if not np.isfinite(value):
            raise ValueError(f"it is {value}")
        return value

    def _undefined(self, metric, group, error):
        key = ", ".join(
            f"{k}={_plain(values[group])!r}" for k, values in self.keys.items()
        )
        remedies = ["merge its attribute value with another one"]
        if self.by_label:
            remedies.append("pass groups='attribute'")
        if "zero_division" in signature(metric).parameters:
            remedies.append("say by zero_division what the metric is there")
        return (
            f"{_name(metric)} is undefined for the group {key} of "
            f"{len(self.rows[group])} rows: {str(error).rstrip('.')}. No group is left "
            f"out in silence: {', or '.join(remedies)}, or choose a metric that every "
            "group has, such as accuracy_score or log_loss."
        )


def split_rows(y_true, attributes, groups, sample_weight=None, *, name):
    """Divide rows into groups.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
    groups : {"label_attribute", "attribute"}
    sample_weight : array-like of shape (n_samples,), default=None
    name : str
        Of the caller, for messages.

    Returns
    -------
    GroupRows
    """
    if attributes is None:
        raise TypeError(MISSING_ATTRIBUTES.format(name=name))
    y = check_true_labels(y_true)
    checked = check_attributes(attributes, len(y))
    weights, kept = positive(check_sample_weight(sample_weight, len(y)))
    kept = np.ones(len(y), bool) if kept is None else kept
    y, checked = y[kept], checked[kept]
    formed, labels, values = form_groups(y, checked, y_name="y_true")
    warn_of_unusable(NamedGroups(formed, labels, values).unusable_for_scores())
    by_label = groups == "label_attribute"
    if not by_label:
        codes = formed.cells[formed.ids, 1]
        formed = Groups.from_labels(np.zeros_like(codes), codes, 1, len(values))
    keys = {"label": labels[formed.cells[:, 0]]} if by_label else {}
    keys |= name_columns(attributes, values[formed.cells[:, 1]])
    order = np.argsort(formed.ids, kind="stable")
    rows = np.split(order, np.cumsum(formed.counts)[:-1])
    return GroupRows(y, weights, kept, by_label, keys, rows)


def group_metric_table(
    y_true, y_pred, *, metrics, attributes=None, groups="auto", sample_weight=None
):
    """Any metrics of every group, a row each.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels, of any dtype.
    y_pred : array-like of shape (n_samples,) or (n_samples, n_classes)
        What the metrics take: predicted labels, or decision values or probabilities.
    metrics : dict of str to callable
        Columns, and the metrics of :mod:`sklearn.metrics`, or others that are called in
        the same way, in them. `functools.partial` fixes arguments of theirs.
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        Spurious attributes; several columns are crossed. Required.
    groups : {"auto", "label_attribute", "attribute"}, default="auto"
        Groups are (label, attribute) cells, or attribute values. "auto" takes cells if
        all metrics are means over rows, and attribute values otherwise: see
        :func:`make_group_scorer`.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of rows, passed to the metrics. Rows of weight 0 are not there, and a
        group of such rows alone is none.

    Returns
    -------
    pandas.DataFrame
        One row per group that has samples, ordered by label, then attribute. Columns
        ``label`` (of cells), ``attribute`` or, of several columns, those of
        :func:`group_accuracy_table`, ``n`` (samples), and the metrics.

    Raises
    ------
    TypeError
        If `attributes` is not given, or weights are for a metric that takes none.
    ValueError
        If a metric is undefined for a group, which is named, or an argument is none.

    See Also
    --------
    group_accuracy_table : Accuracies with intervals.
    make_group_scorer : The worst group, their mean, or their gap, for searches.

    Examples
    --------
    >>> from sklearn.metrics import f1_score, precision_score
    >>> from skdebias.metrics import group_metric_table
    >>> group_metric_table(
    ...     [0, 1, 1, 0, 1, 1],
    ...     [0, 1, 1, 1, 1, 0],
    ...     attributes=["land", "land", "land", "water", "water", "water"],
    ...     metrics={"f1": f1_score, "precision": precision_score},
    ... )
      attribute  n   f1  precision
    0      land  3  1.0        1.0
    1     water  3  0.5        0.5
    """
    if not isinstance(metrics, dict) or not metrics:
        raise ValueError(
            f"metrics={metrics!r} must be a dict of names and metrics, such as "
            "{'f1': sklearn.metrics.f1_score}."
        )
    groups = resolve_groups(groups, list(metrics.values()))
    rows = split_rows(
        y_true, attributes, groups, sample_weight, name="group_metric_table"
    )
    columns = rows.keys | {"n": [len(numbers) for numbers in rows.rows]}
    if clashing := set(columns) & set(metrics):
        raise ValueError(
            f"metrics has names that other columns have, {sorted(clashing)}: give "
            "them others."
        )
    for name, metric in metrics.items():
        columns[name] = rows.evaluate(metric, y_pred)
    return pd.DataFrame(columns).infer_objects()


def _with_all_labels(metric, y, y_pred):
    """Tell a metric of scikit-learn which labels there are beside those of a group."""
    given = getattr(metric, "keywords", {})
    takes_labels = "labels" in signature(metric).parameters
    if not takes_labels or "labels" in given or not _is_of_scikit_learn(metric):
        return metric
    labels = np.unique(y)
    if inner_function(metric) in _OF_PREDICTED_LABELS:
        labels = np.union1d(labels, y_pred)
    return partial(metric, labels=labels)


def _needs_classes(metric):
    """Return whether a metric says nothing of rows of one class."""
    return (
        _is_of_scikit_learn(metric) and inner_function(metric) not in _MEANS_OVER_ROWS
    )


def _is_of_scikit_learn(metric):
    return inner_function(metric).__module__.startswith("sklearn.")


def inner_function(metric):
    """Return the function whose arguments `functools.partial` has fixed.

    Parameters
    ----------
    metric : callable

    Returns
    -------
    callable
    """
    while isinstance(metric, partial):
        metric = metric.func
    return metric


def _name(metric):
    function = inner_function(metric)
    return getattr(function, "__name__", repr(function))


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value
