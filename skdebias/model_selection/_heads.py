"""Which of several heads to use, and which rows to label in order to know."""

from copy import copy
from itertools import combinations
from numbers import Integral

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skdebias._attributes import form_groups_of_codes
from skdebias._head import HEAD_ATTRIBUTES, final_head
from skdebias._validation import check_labels


def choose_head(model, X, y, attributes=None):
    """Return a fitted model whose result is the head that is best on labelled rows.

    Parameters
    ----------
    model : DebiasedClassifier, or Pipeline that ends in one
        Fitted, by a method whose heads are alternatives, such as
        :class:`~skdebias.methods.DivDis` or :class:`~skdebias.methods.DBAT`. It is
        left as it is.
    X : array-like of shape (n_samples, n_features)
        A few rows in which the correlation is broken, such as those that
        :func:`rows_to_label` names.
    y : array-like of shape (n_samples,)
        Their labels, out of `classes_`.
    attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
        The best head has the best accuracy, or with attributes the best accuracy in
        its worst (label, attribute) group. Ties go to the best mean of the groups
        (which are classes where there are no attributes), then to the least loss, then
        to the earlier head.

    Returns
    -------
    DebiasedClassifier or Pipeline
        A copy with the arrays of that head as its result, its name as `chosen_head_`,
        and the scores of all heads as `head_scores_`. Its `history_` remains that of
        the fit.

    Raises
    ------
    ValueError
        If the model has one head only, or the rows are malformed.

    See Also
    --------
    rows_to_label : Which rows tell most.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier, UnchosenHeadWarning
    >>> from skdebias.methods import DivDis
    >>> from skdebias.model_selection import choose_head, rows_to_label
    >>> rng = np.random.default_rng(0)
    >>> y, U = rng.integers(0, 2, 200), rng.integers(0, 2, (200, 2)) - 0.5
    >>> X, target = np.stack([y, y], axis=1) - 0.5, (U[:, 1] > 0).astype(int)
    >>> clf = DebiasedClassifier(DivDis(), learning_rate=0.1, random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", UnchosenHeadWarning)
    ...     clf = clf.fit(X, y, X_unlabeled=U)
    >>> rows = rows_to_label(clf, U, 5)
    >>> choose_head(clf, U[rows], target[rows]).score(U, target)
    1.0
    """
    # torch, which predicting does not need
    import torch

    from skdebias._engine._selection import (
        ValidationScorer,
        best_head,
        count_hits_and_losses,
    )

    models = _one_of_each(model)
    classes = final_head(model).classes_
    codes = _codes(check_labels(y, "y"), classes)
    logits = np.stack([one.decision_function(X) for one in models], axis=1)
    if len(logits) != len(codes):
        raise ValueError(
            f"X has {len(logits)} rows and y has {len(codes)}: pass one label per row."
        )
    groups, _ = form_groups_of_codes(codes, len(classes), attributes)
    logits = logits.reshape(1, len(codes), len(models), -1).astype(np.float64)
    rows = torch.from_numpy(logits), torch.from_numpy(codes)
    sums = count_hits_and_losses(*rows, torch.from_numpy(groups.ids), len(groups.cells))
    accuracies, losses = sums.numpy() / groups.counts[:, None]
    selection = "accuracy" if attributes is None else "worst_group"
    scorer = ValidationScorer(codes, groups, selection)
    scores = scorer.score(accuracies)
    best = models[best_head(scores, scorer.tie_breakers(accuracies, losses))]
    final_head(best).head_scores_ = scores
    return best


def rows_to_label(model, X, n_rows=10):
    """Return which rows to label in order to choose among the heads of a model.

    Those on which the heads disagree most: a label of a row on which they agree tells
    nothing.

    Parameters
    ----------
    model : DebiasedClassifier, or Pipeline that ends in one
        Fitted, by a method whose heads are alternatives.
    X : array-like of shape (n_samples, n_features)
        Rows to choose from, such as those that were given to `fit` as `X_unlabeled`.
    n_rows : int, default=10
        How many, at most `n_samples`.

    Returns
    -------
    ndarray of shape (n_rows,)
        Row numbers, from the largest disagreement on; of equal ones, the earlier row.

    Raises
    ------
    ValueError
        If the model has one head only, or there are not so many rows.

    See Also
    --------
    choose_head : Takes the labels.
    head_disagreement : By how much the heads disagree.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.methods import DBAT
    >>> from skdebias.model_selection import rows_to_label
    >>> rng = np.random.default_rng(0)
    >>> y, U = rng.integers(0, 2, 200), rng.integers(0, 2, (200, 2)) * [1, 2]
    >>> X, labels = np.stack([y, 2 * y], axis=1), U[:9, 0]
    >>> clf = DebiasedClassifier(DBAT(), learning_rate=0.1, random_state=0)
    >>> clf = clf.fit(X, y, X_unlabeled=U, X_val=U[:9], y_val=labels)
    >>> rows_to_label(clf, [[0, 0], [0, 2], [1, 2]], 1)
    array([1])
    """
    disagreement = head_disagreement(model, X)
    whole = isinstance(n_rows, Integral) and not isinstance(n_rows, bool)
    if not (whole and 1 <= n_rows <= len(disagreement)):
        raise ValueError(
            f"n_rows={n_rows!r} must be a whole number between 1 and the "
            f"{len(disagreement)} rows of X."
        )
    return np.argsort(-disagreement, kind="stable")[:n_rows]


def head_disagreement(model, X):
    """Return how far the heads of a fitted model are from agreeing on each row.

    Parameters
    ----------
    model : DebiasedClassifier, or Pipeline that ends in one
        Fitted, by a method whose heads are alternatives.
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples,)
        Half the L1 distance of the probabilities that two heads give the classes, in
        [0, 1]; the mean over all pairs of heads.

    Raises
    ------
    ValueError
        If the model has one head only.

    See Also
    --------
    rows_to_label : The rows of the largest disagreement.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.methods import DBAT
    >>> from skdebias.model_selection import head_disagreement
    >>> rng = np.random.default_rng(0)
    >>> y, U = rng.integers(0, 2, 200), rng.integers(0, 2, (200, 2)) * [1, 2]
    >>> X, labels = np.stack([y, 2 * y], axis=1), U[:9, 0]
    >>> clf = DebiasedClassifier(DBAT(), learning_rate=0.1, random_state=0)
    >>> clf = clf.fit(X, y, X_unlabeled=U, X_val=U[:9], y_val=labels)
    >>> together, apart = head_disagreement(clf, [[1, 2], [0, 2]])
    >>> bool(apart > 2 * together)
    True
    """
    probabilities = [one.predict_proba(X) for one in _one_of_each(model)]
    distances = [
        np.abs(p - q).sum(axis=1) / 2 for p, q in combinations(probabilities, 2)
    ]
    return np.mean(distances, axis=0)


def _one_of_each(model):
    """Return copies of a model, each with another of its heads as the result."""
    head = final_head(model)
    check_is_fitted(head)
    names = getattr(head, "head_names_", None)
    if names is None:
        raise ValueError(
            f"{type(head).__name__} has one head, so there is none to choose: fit it "
            "by a method whose heads are alternatives, such as "
            "DebiasedClassifier(DivDis()) or DebiasedClassifier(DBAT())."
        )
    return [_with_result(model, head, name) for name in names]


def _with_result(model, head, name):
    """Return a copy of a model whose result is the head of a name."""
    chosen = copy(head)
    for attribute in HEAD_ATTRIBUTES:
        if hasattr(head, f"{name}_{attribute}"):
            setattr(chosen, attribute, getattr(head, f"{name}_{attribute}"))
    chosen.chosen_head_ = name
    if model is head:
        return chosen
    pipeline = copy(model)
    pipeline.steps = [*model.steps[:-1], (model.steps[-1][0], chosen)]
    return pipeline


def _codes(y, classes):
    """Return the places of labels among the classes of a model."""
    codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    unseen = classes[codes] != y
    if unseen.any():
        raise ValueError(
            f"y holds {y[unseen].tolist()[0]!r}, which is none of the classes of the "
            f"model: they are {classes.tolist()}."
        )
    return codes.astype(np.int64)
