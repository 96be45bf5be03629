"""Which of many columns is the shortcut: all of them against one plain head."""

import warnings
from numbers import Integral

import numpy as np
import pandas as pd
from scipy.special import ndtri
from sklearn.base import clone, is_classifier
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed

from skdebias._attributes import on_host
from skdebias._blas import blas_on_one_thread
from skdebias._erm import ERMClassifier
from skdebias._named_groups import UnusableAttributesWarning, join_descriptions
from skdebias._rows import as_array
from skdebias._sklearn import _safe_indexing
from skdebias._validation import check_labels, encode_classes
from skdebias._warnings import warn_caller
from skdebias.inspection._columns import read_columns
from skdebias.inspection._comparisons import (
    FEWEST,
    Comparisons,
    cramers_v,
    explained_error,
    surest_gap,
    worst_group,
)
from skdebias.inspection._decodability import decodability
from skdebias.metrics._intervals import normal_quantile, wilson_interval

# Share of audits of harmless columns in which one may be flagged.
_MISS = 0.05


def audit_attributes(
    X, y, candidates, *, estimator=None, cv=5, random_state=None, n_jobs=None
):
    """Tell which of many candidate attributes a plain head's errors depend on.

    A plain head is trained once per fold, and its out-of-fold errors are looked at by
    every column of `candidates`: does some (label, value) group fare worse than the
    other rows of its class, and by more than the size of the group and the number of
    columns let one expect? The column that does most harm comes first.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. A float32 copy is made and standardised.
    y : array-like of shape (n_samples,)
        Labels, of any dtype, of two classes or more.
    candidates : data frame, array-like or dict of shape (n_samples, n_columns)
        One candidate attribute per column: numbers, strings, booleans, categories,
        dates. Numbers and dates of more than 20 distinct values are cut at their
        quintiles into 5 bins, ``(low, high]``; integers that are names, such as those
        of hospitals, are taken as such if they are passed as strings or as a pandas
        categorical. Rows whose value is missing (NaN, None, ``pandas.NA``) are left out
        of the numbers of that column; if missing may itself be the shortcut, pass
        ``column.isna()`` too.
    estimator : classifier, default=None
        The plain head; a clone is fitted per fold, to the rows of `X` as they are. None
        is ``ERMClassifier(solver="lbfgs")`` on standardised features.
    cv : int, splitter or iterable of (train, test), default=5
        Folds; every row must be in one test part. An int is that of a
        `StratifiedKFold` which shuffles.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, and of the groups that are inferred.
    n_jobs : int or None, default=None
        Folds whose plain heads are fitted at once, as in scikit-learn.

    Returns
    -------
    pandas.DataFrame
        One row per column of `candidates`, whose names are the index, sorted by
        ``gap_low``, the harm that is certain. Its columns:

        ``n``, ``n_values``, ``binned``
            Rows that have a value, distinct values or bins, and whether it was cut.
        ``association``
            Cramer's V with the label, corrected for chance (Bergsma), in [0, 1].
        ``worst_group``, ``worst_group_n``, ``worst_group_accuracy``
            The (label, value) group of the lowest accuracy, its rows and accuracy.
        ``worst_group_low``, ``worst_group_high``
            Interval of the lowest of the groups' true accuracies.
        ``gap_group``, ``gap``, ``gap_low``, ``gap_high``
            The group that falls behind the other rows of its class most surely, by how
            much, and the interval of that difference.
        ``p_value``
            Of that group's accuracy if the values were exchanged at random within the
            class (exact), times the number of groups of all columns.
        ``explained_error``
            Share of all errors on rows with a value that would vanish if groups fared
            like the other rows of their class; excesses that chance gives count less.
        ``decodability``
            Out-of-fold balanced accuracy of a linear head that predicts the column
            from X; ``1 / n_values`` is chance.
        ``flagged``
            Whether ``gap_low > 0`` and ``p_value <= 0.05``.

        Groups of fewer than 5 rows are left out of all but `association`. What cannot
        be told of a column, such as one that does not vary within any class, is NaN,
        its groups are None, and an ``UnusableAttributesWarning`` names it.
        ``.attrs`` holds the `accuracy` of the plain head, `n_errors`, `n_splits`, and
        `inferred`: the groups that are found without any column, see the notes.

    Raises
    ------
    TypeError, ValueError
        If X holds NaN, infinity or no numbers, if `y` are no classes, if lengths
        differ, if columns of `candidates` have the same name or values that cannot be
        compared, if `estimator` is no classifier, or if `cv` is no partition.

    See Also
    --------
    skdebias.metrics.group_accuracy_table : All groups of one column.
    skdebias.attributes : Estimators that infer an attribute.

    Notes
    -----
    *Intervals.* Out-of-fold predictions of one data set come from heads whose training
    rows overlap, so that they vary more over data sets than independent ones would.
    Following Nadeau and Bengio [1]_, the variance of an accuracy is enlarged by
    ``1 + n_splits * n_test / n_train`` (2.25 for 5 folds): the groups count as so many
    times fewer rows. Intervals of gaps (Newcombe's, of Wilson intervals [2]_) hold
    simultaneously, at 95 %, for all groups of all columns (Bonferroni), those of the
    worst groups for all columns.

    *Flags.* If the values of a column are exchangeable within the classes, as far as
    the head is concerned, the exact test finds them guilty of nothing in 95 of 100
    audits, whatever the number of columns. The interval must agree, because the weights
    of a head have small chance correlations with harmless columns that X holds: another
    training set would have others.

    *What a flag does not say.* The column need not be the cause. Columns that go along
    with the shortcut are flagged too, as is one that makes items hard, such as blur,
    which no balancing will mend. A shortcut has high association, decodability and gap
    at once. With 1,000,000 rows tiny gaps are certain: look at `gap` and
    `explained_error`, and not only at `flagged`.

    *Inferred groups.* ``table.attrs["inferred"]`` has the clusters of the gradients of
    :class:`~skdebias.attributes.GradientClusterPseudoAttributes`:
    ``pseudo_attributes`` (one per row), ``silhouette``, ``weak`` (whether the clusters
    are no clearer than those of any cloud), and ``groups``, records of label,
    pseudo-attribute, rows, accuracy, and the ends of its interval. If they are clear,
    and no column is flagged, the shortcut is not in the table. They are lists and
    numbers, so that the table can be written to a file.

    References
    ----------
    .. [1] C. Nadeau, Y. Bengio. Inference for the generalization error. Machine
       Learning 52, 2003.
    .. [2] R. G. Newcombe. Interval estimation for the difference between independent
       proportions. Statistics in Medicine 17, 1998. Method 10.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.inspection import audit_attributes
    >>> X, y, place = make_spurious_classification(2000, random_state=0)
    >>> rng = np.random.default_rng(0)
    >>> candidates = {
    ...     "age": rng.normal(40, 10, 2000),
    ...     "camera": rng.choice(["Canon", "Nikon", "Sony"], 2000),
    ...     "place": np.array(["land", "water"])[place],
    ... }
    >>> table = audit_attributes(X, y, candidates, random_state=0)
    >>> table.index[0], table["flagged"].sum()
    ('place', np.int64(1))
    >>> table.loc["place", "gap_group"]
    (1, 'land')
    """
    y = check_labels(y, "y")
    check_classification_targets(y)
    classes, codes = encode_classes(y, "audit_attributes")
    X = on_host(as_array(X))
    checked = _as_float32(X)
    if len(checked) != len(y):
        raise ValueError(
            f"X has {len(checked)} rows and y has {len(y)}: pass one label per row."
        )
    _check_estimator(estimator)
    columns = read_columns(candidates, len(y))
    rng = check_random_state(random_state)
    splits = _partition(cv, y, codes, classes, rng)
    Z = StandardScaler().fit_transform(checked)
    if estimator is None:
        rows, head = Z, ERMClassifier(solver="lbfgs")
    else:
        rows, head = X if hasattr(X, "iloc") else np.asarray(X), estimator
    correct = _out_of_fold(head, rows, y, splits, n_jobs)
    with blas_on_one_thread():
        decoded = decodability(Z, columns, splits)
    overlap = _overlap(splits)
    comparisons = [Comparisons.of(column, codes, correct) for column in columns]
    records = _records(columns, classes, comparisons, overlap)
    table = pd.DataFrame(records, index=_index(columns))
    table.insert(len(table.columns) - 1, "decodability", decoded)
    # Equal harm, such as none at all, leaves columns in the order given.
    table = table.sort_values("gap_low", ascending=False, kind="stable")
    table.attrs = {
        "accuracy": float(correct.mean()),
        "n_errors": int((~correct).sum()),
        "n_splits": len(splits),
        "inferred": _inferred(Z, codes, classes, correct, overlap, rng),
    }
    _warn_of_unusable(table)
    return table


def _as_float32(X):
    """Return embeddings as an array of numbers."""
    try:
        return check_array(X, dtype=np.float32, input_name="X")
    except ValueError as error:
        if "could not convert" not in str(error):
            raise
        raise ValueError(
            f"X must hold numbers, the embeddings: {error}. Columns of words belong "
            "into candidates."
        ) from error


def _check_estimator(estimator):
    if estimator is None:
        return
    if isinstance(estimator, type) or not is_classifier(estimator):
        raise TypeError(
            f"estimator must be a classifier that is not fitted, such as "
            f"LogisticRegression(), or None, but is {estimator!r}."
        )


def _partition(cv, y, codes, classes, rng):
    """Return the folds as pairs of row numbers; every row is tested once."""
    if isinstance(cv, Integral) and not isinstance(cv, bool):
        counts = np.bincount(codes)
        if cv < 2 or counts.min() < cv:
            few = counts.argmin()
            raise ValueError(
                f"cv={cv}, but there must be 2 folds at least, and no more than rows "
                f"of any class (class {classes[few]!s} has {counts[few]})."
            )
        seed = int(rng.randint(np.iinfo(np.int32).max))
        cv = StratifiedKFold(int(cv), shuffle=True, random_state=seed)
    numbers = np.arange(len(y))
    splitter = check_cv(cv, codes, classifier=True)
    splits = [
        (numbers[train], numbers[test])
        for train, test in splitter.split(np.zeros((len(y), 1)), codes)
    ]
    tested = np.concatenate([test for _, test in splits])
    if len(splits) < 2 or not np.array_equal(np.sort(tested), numbers):
        raise ValueError(
            f"cv={cv!r} does not test every row once: pass a number of folds, or a "
            "splitter such as StratifiedKFold or GroupKFold.split(X, y, groups)."
        )
    return splits


def _out_of_fold(head, X, y, splits, n_jobs):
    """Return whether the head of the fold in which a row is tested gets it right."""
    predictions = Parallel(n_jobs=n_jobs)(
        delayed(_predict)(head, X, y, *split) for split in splits
    )
    correct = np.zeros(len(y), dtype=bool)
    for (_, test), predicted in zip(splits, predictions):
        correct[test] = predicted == y[test]
    return correct


def _predict(head, X, y, train, test):
    fitted = clone(head).fit(_safe_indexing(X, train), y[train])
    return np.asarray(fitted.predict(_safe_indexing(X, test)))


def _overlap(splits):
    """Return by how much the overlap of the folds enlarges the variance of a mean."""
    shares = [len(test) / len(train) for train, test in splits]
    return 1 + len(splits) * float(np.mean(shares))


def _records(columns, classes, comparisons, overlap):
    """Return the rows of the table, but for the decodability."""
    n_tests = max(sum(int(groups.comparable.sum()) for groups in comparisons), 1)
    z = float(ndtri(1 - _MISS / n_tests / 2))
    level = 1 - _MISS / len(columns)
    labels = classes.tolist()
    records = []
    for column, groups in zip(columns, comparisons):
        names = [(labels[y], column.values[value]) for y, value in groups.cells]
        record = {
            "n": int(groups.crossing.sum()),
            "n_values": len(column.values),
            "binned": column.binned,
            "association": cramers_v(groups.crossing),
            **worst_group(groups, names, overlap, level),
            **surest_gap(groups, names, overlap, z, n_tests),
            "explained_error": explained_error(groups),
        }
        sure = record["gap_low"] > 0 and record["p_value"] <= _MISS
        records.append({**record, "flagged": bool(sure)})
    return records


def _index(columns):
    names = [column.name for column in columns]
    return pd.Index(names, name="column", tupleize_cols=False)


def _inferred(Z, codes, classes, correct, overlap, rng):
    """Describe groups that are inferred from features and labels alone."""
    from skdebias.attributes._gradient_cluster import (
        GradientClusterPseudoAttributes,
        WeakClustersWarning,
    )

    seed, z = int(rng.randint(np.iinfo(np.int32).max)), normal_quantile(1 - _MISS)
    inferrer = GradientClusterPseudoAttributes(random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = inferrer.fit_predict(Z, codes)
    weak = any(issubclass(w.category, WeakClustersWarning) for w in caught)
    groups = []
    for label, value in np.unique(np.stack([codes, values], 1), axis=0):
        hits = correct[(codes == label) & (values == value)]
        low, high = wilson_interval(hits.mean(), len(hits) / overlap, z)
        groups.append(
            {
                "label": classes[label].tolist(),
                "pseudo_attribute": int(value),
                "n": len(hits),
                "accuracy": float(hits.mean()),
                "low": float(low),
                "high": float(high),
            }
        )
    return {
        "groups": groups,
        "silhouette": float(inferrer.silhouette_),
        "weak": weak,
        "pseudo_attributes": values.tolist(),
    }


def _warn_of_unusable(table):
    """Say which columns nothing can be told of."""
    unusable = table.index[table["gap"].isna()]
    if len(unusable):
        named = join_descriptions([repr(name) for name in unusable])
        warn_caller(
            f"Of these columns of candidates nothing can be told: {named}. They do not "
            f"vary within any class, or have no group of {FEWEST} rows with as many "
            "others of its class: pass what many rows have in common, such as their "
            "source, or bin values.",
            UnusableAttributesWarning,
        )
