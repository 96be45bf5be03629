"""Group scores, their scorers, tables with intervals, and plots."""

from skdebias.metrics._group import (
    group_balanced_accuracy_score,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)
from skdebias.metrics._group_metrics import group_metric_table
from skdebias.metrics._intervals import corrected_interval
from skdebias.metrics._plot import GroupAccuracyDisplay
from skdebias.metrics._scorers import (
    get_scorer,
    get_scorer_names,
    group_balanced_accuracy_scorer,
    make_group_scorer,
    worst_class_accuracy_scorer,
    worst_group_accuracy_scorer,
)
from skdebias.metrics._table import group_accuracy_table, group_summary

__all__ = [
    "GroupAccuracyDisplay",
    "corrected_interval",
    "get_scorer",
    "get_scorer_names",
    "group_accuracy_table",
    "group_balanced_accuracy_score",
    "group_balanced_accuracy_scorer",
    "group_metric_table",
    "group_summary",
    "make_group_scorer",
    "worst_class_accuracy_score",
    "worst_class_accuracy_scorer",
    "worst_group_accuracy_score",
    "worst_group_accuracy_scorer",
]
