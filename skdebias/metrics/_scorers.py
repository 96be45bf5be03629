"""Scorers that already carry their metadata request."""

from sklearn import config_context
from sklearn.metrics import make_scorer

from skdebias.metrics._group import (
    group_balanced_accuracy_score,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)


def _make_group_scorer(score_func):
    """Make a scorer that requests ``attributes``.

    Requests can only be set while routing is on; the context leaves the global
    setting as it was. The object is a scorer of scikit-learn's own class, which
    ``sklearn.callback.ScoringMonitor`` relies on.
    """
    with config_context(enable_metadata_routing=True):
        return make_scorer(score_func).set_score_request(attributes=True)


#: Scorer of :func:`worst_group_accuracy_score`; requests ``attributes``.
worst_group_accuracy_scorer = _make_group_scorer(worst_group_accuracy_score)

#: Scorer of :func:`group_balanced_accuracy_score`; requests ``attributes``.
group_balanced_accuracy_scorer = _make_group_scorer(group_balanced_accuracy_score)

#: Scorer of :func:`worst_class_accuracy_score`; needs no attributes.
worst_class_accuracy_scorer = make_scorer(worst_class_accuracy_score)
