"""Group accuracies with confidence intervals."""

import numpy as np
import pandas as pd

from skdebias.metrics._group import group_outcomes, name_columns
from skdebias.metrics._intervals import (
    lowest_interval,
    normal_quantile,
    weighted_interval,
    wilson_interval,
)


def group_accuracy_table(
    y_true, y_pred, *, attributes=None, confidence_level=0.95, sample_weight=None
):
    """Accuracy of every (label, attribute) group, with Wilson intervals.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels, of any dtype.
    y_pred : array-like of shape (n_samples,)
        Predicted labels.
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        Spurious attributes; several columns are crossed. Required.
    confidence_level : float, default=0.95
        Coverage of every single interval, in (0, 1): of many groups, some are expected
        to lie outside theirs.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of rows: accuracies are weighted ones. Rows of weight 0 are not there,
        and a group of such rows alone is none. Intervals are those of as many rows as
        the weighted ones are worth, `sum(w)**2 / sum(w**2)` (Kish): a weight of 2 is a
        row that counts twice, and not two rows.

    Returns
    -------
    pandas.DataFrame
        One row per group that has samples, ordered by label, then attribute. Columns
        ``label``, ``attribute``, ``n`` (samples), ``correct``, ``accuracy``, ``low``
        and ``high`` (ends of the interval). With several attribute columns,
        ``attribute`` is replaced by ``attribute_0``, ``attribute_1``, ..., or, for a
        data frame, by ``attribute_`` followed by the name of the column. ``n`` and
        ``correct`` count rows, whatever they weigh.

    Raises
    ------
    TypeError
        If `attributes` is not given.
    ValueError
        If lengths differ, values are missing, the labels are not classes, or
        `confidence_level` is not in (0, 1).

    See Also
    --------
    group_summary : One row per method.

    References
    ----------
    .. [1] E. B. Wilson. Probable inference, the law of succession, and statistical
       inference. J. Am. Stat. Assoc. 22, 1927.
    .. [2] L. Kish. Survey Sampling. Wiley, 1965. Section 11.7, weights.

    Examples
    --------
    >>> from skdebias.metrics import group_accuracy_table
    >>> y_true = [0, 0, 0, 1, 1, 1]
    >>> y_pred = [0, 0, 0, 1, 1, 0]
    >>> place = ["land", "land", "water", "water", "land", "land"]
    >>> table = group_accuracy_table(y_true, y_pred, attributes=place)
    >>> table[["label", "attribute", "n", "correct", "accuracy"]]
       label attribute  n  correct  accuracy
    0      0      land  2        2       1.0
    1      0     water  1        1       1.0
    2      1      land  2        1       0.5
    3      1     water  1        1       1.0
    """
    z = normal_quantile(confidence_level)
    outcomes = group_outcomes(
        y_true, y_pred, attributes, sample_weight, name="group_accuracy_table"
    )
    labels, values = outcomes.groups.cells.T
    columns = {"label": outcomes.labels[labels]}
    columns |= name_columns(attributes, outcomes.attribute_values[values])
    accuracies = outcomes.accuracies
    low, high = wilson_interval(accuracies, outcomes.effective[1], z)
    columns |= {
        "n": outcomes.groups.counts,
        "correct": outcomes.correct,
        "accuracy": accuracies,
        "low": low,
        "high": high,
    }
    return pd.DataFrame(columns).infer_objects()


def group_summary(
    y_true,
    y_pred,
    *,
    attributes=None,
    confidence_level=0.95,
    train_group_counts=None,
    sample_weight=None,
):
    """Summarise one method's predictions: average, group scores and intervals.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels, of any dtype.
    y_pred : array-like of shape (n_samples,)
        Predicted labels.
    attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
        Spurious attributes; several columns are crossed. Required.
    confidence_level : float, default=0.95
        Nominal coverage of every interval, in (0, 1).
    train_group_counts : array-like of shape (n_groups,), default=None
        Number of training samples of the groups, in the order of the rows of
        :func:`group_accuracy_table` for these `y_true` and `attributes`. Adds the
        accuracy that is expected on data distributed as the training set.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of rows, see :func:`group_accuracy_table`.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``group_balanced_accuracy``, ``worst_group_accuracy`` and, with
        `train_group_counts`, ``train_weighted_accuracy``; each with ``_low`` and
        ``_high``. ``pandas.DataFrame({"ERM": group_summary(...), ...}).T`` is a table
        with one row per method.

    Raises
    ------
    TypeError
        If `attributes` is not given.
    ValueError
        If lengths differ, values are missing, the labels are not classes,
        `confidence_level` is not in (0, 1), or `train_group_counts` does not fit.

    Notes
    -----
    The intervals describe the chance in drawing the test samples, nothing else: not
    the training seed, nor the search that chose the model.

    * ``accuracy``: Wilson interval over all samples.
    * ``worst_group_accuracy``: the lowest accuracy observed is biased downwards, the
      more so the more groups there are, the smaller and the closer to each other. The
      interval is for the lowest of the groups' true accuracies, whichever group has it:
      from the lowest of the groups' single lower limits (Clopper and Pearson) to the
      lowest of their upper limits, which hold simultaneously (Sidak) over the groups
      that can be the lowest. It need not be symmetrical about the observed value, and
      if one group is clearly the worst, it is that group's own interval. In simulations
      of 1 to 100 groups of 20 to 1,000 rows each, equally good or not, 95 % intervals
      cover the truth in 95 % of the cases or more.
    * ``group_balanced_accuracy`` and ``train_weighted_accuracy``: normal interval,
      clipped to [0, 1], from the sum of the squared weights times the groups'
      variances. A group's variance is that of the Agresti-Coull adjusted proportion,
      so that a group without errors does not count as certain. It is approximate,
      and wide, when groups have only a few samples.

    Examples
    --------
    >>> from skdebias.metrics import group_summary
    >>> summary = group_summary(
    ...     [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0], attributes=[0, 0, 1, 1, 0, 0]
    ... )
    >>> summary["group_balanced_accuracy"], summary["worst_group_accuracy"]
    (0.875, 0.5)
    >>> round(summary["worst_group_accuracy_low"], 3)
    0.013
    """
    z = normal_quantile(confidence_level)
    outcomes = group_outcomes(
        y_true, y_pred, attributes, sample_weight, name="group_summary"
    )
    correct, counts = outcomes.effective
    n_groups = outcomes.groups.n_groups
    total_correct, total = outcomes.effective_total
    accuracy = total_correct / total
    uniform = np.full(n_groups, 1 / n_groups)
    scores = {
        "accuracy": (accuracy, *wilson_interval(accuracy, total, z)),
        "group_balanced_accuracy": weighted_interval(correct, counts, uniform, z),
        "worst_group_accuracy": (
            outcomes.accuracies.min(),
            *lowest_interval(correct, counts, confidence_level),
        ),
    }
    if train_group_counts is not None:
        weights = _check_train_counts(train_group_counts, n_groups)
        scores["train_weighted_accuracy"] = weighted_interval(
            correct, counts, weights, z
        )
    return {
        name + suffix: float(number)
        for name, numbers in scores.items()
        for suffix, number in zip(("", "_low", "_high"), numbers, strict=True)
    }


def _check_train_counts(train_group_counts, n_groups):
    """Return training counts as weights that sum to one."""
    counts = np.asarray(train_group_counts, dtype=np.float64)
    if counts.shape != (n_groups,):
        raise ValueError(
            f"train_group_counts must have shape ({n_groups},), one count per group "
            f"of these samples, but has shape {counts.shape}. Pass the counts in the "
            "order of the rows of group_accuracy_table, 0 for a group without "
            "training samples."
        )
    if not np.isfinite(counts).all() or (counts < 0).any() or counts.sum() == 0:
        raise ValueError(
            "train_group_counts must be finite, not negative, and not all zero, but "
            f"is {counts.tolist()}. Pass the numbers of training samples."
        )
    return counts / counts.sum()
