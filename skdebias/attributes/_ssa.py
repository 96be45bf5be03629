"""Pseudo-attributes from rows whose attributes are known (SSA)."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from skdebias._annotations import (
    check_same_kind,
    fill_missing,
    plain_values,
    read_annotations,
)
from skdebias._attributes import encode_attributes
from skdebias._erm import ERMClassifier
from skdebias._mapped import take_rows
from skdebias._quiet import ignored
from skdebias._rows import as_array
from skdebias._sklearn import Interval, StrOptions
from skdebias._validation import about, validate_features, validate_training_rows
from skdebias.attributes._base import BasePseudoAttributes


class _Rows(NamedTuple):
    """Rows with labels, attributes and weights.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_rows, n_features)
    y_codes, codes : ndarray of shape (n_rows,)
        Indices of labels and of attribute values.
    weights : ndarray of shape (n_rows,)
    """

    X: Any
    y_codes: np.ndarray
    codes: np.ndarray
    weights: np.ndarray


class SSAPseudoAttributes(BasePseudoAttributes):
    """Pseudo-attributes learned from the rows that have attributes (SSA) [1]_.

    Attributes are given for some training rows, for validation rows, or for some of
    both; the others are missing. A linear head learns the attribute of the annotated
    rows, all (label, attribute) groups counting alike, and then also that of rows which
    it is sure of: equally many of every group, as many as the smallest group has above
    the threshold `tau` (section 4.1). The rows without attributes are divided into
    folds, and a fold is filled by the head that has not learned from it. What is given
    stays as it is.

    Parameters
    ----------
    tau : float, default=0.95
        Least probability of rows that the head learns from, in (0, 1].
    n_folds : int, default=3
        Folds of the rows without attributes, one head for each.
    max_rounds : int, default=10
        Most times that a head chooses rows and learns from them; it stops before if it
        would choose the same.
    weight_decay : float, default=0.3
        L2 penalty of the heads, which suits standardised embeddings.
    absent_groups : {"raise", "exclude"}, default="raise"
        What to do if no row of a group is annotated, though other labels have its
        attribute: refuse, or take it that there is no such row.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.

    Attributes
    ----------
    pseudo_attributes_ : ndarray of shape (n_samples,) or (n_samples, n_attributes)
        Attributes of all training rows: those given, and those inferred.
    confidence_ : ndarray of shape (n_samples,)
        Probability of every attribute that was inferred; 1 where it was given.
    attribute_values_ : ndarray of shape (n_values,) or (n_values, n_attributes)
        Values that occur; several columns are crossed.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    heads_ : list of ERMClassifier
        Fitted heads, which tell indices into `attribute_values_`.
    n_rounds_ : int
        Most rounds that a head took.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    skdebias.GroupDROClassifier : What the paper trains with the attributes.

    Notes
    -----
    The paper trains networks by steps, and half of the annotated rows choose when they
    stop. Here heads are trained to convergence on all of them. The paper's smallest
    group is that of the annotated rows; here it is the group with the fewest rows above
    the threshold, so that the annotated rows need not have the proportions of the
    others.

    References
    ----------
    .. [1] Nam, Kim, Lee and Shin, "Spread Spurious Attribute: Improving Worst-group
       Accuracy with Spurious Attribute Estimation", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias import GroupDROClassifier
    >>> from skdebias.attributes import SSAPseudoAttributes
    >>> from skdebias.datasets import make_spurious_classification
    >>> X, y, attributes = make_spurious_classification(1000, random_state=0)
    >>> some = np.where(np.arange(1000) < 300, attributes, np.nan)
    >>> filled = SSAPseudoAttributes(random_state=0).fit_predict(X, y, some)
    >>> bool((filled == attributes).mean() > 0.97)
    True
    >>> clf = GroupDROClassifier(pseudo_attributes=SSAPseudoAttributes(random_state=0))
    >>> clf.fit(X, y, attributes=some).groups_.tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """

    uses_attributes = True

    _parameter_constraints: dict = {
        "tau": [Interval(Real, 0, 1, closed="right")],
        "n_folds": [Interval(Integral, 2, None, closed="left")],
        "max_rounds": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "absent_groups": [StrOptions({"raise", "exclude"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        tau=0.95,
        n_folds=3,
        *,
        max_rounds=10,
        weight_decay=0.3,
        absent_groups="raise",
        random_state=None,
    ):
        self.tau = tau
        self.n_folds = n_folds
        self.max_rounds = max_rounds
        self.weight_decay = weight_decay
        self.absent_groups = absent_groups
        self.random_state = random_state

    def _infer(
        self, X, y, validation, sample_weight, attributes=None, attributes_val=None
    ):
        X, y, X_val = self._embeddings(X, y, validation["X_val"])
        y_codes = np.searchsorted(self.classes_, y)
        known, rows, values = _read(attributes, len(y), "attributes")
        weights = _weights(sample_weight, len(y))
        sources = [(take_rows(X, rows), y_codes[rows], values, weights[rows])]
        if attributes_val is not None:
            sources.append(self._validation(X_val, validation, attributes_val))
            if attributes is not None:
                check_same_kind(attributes, attributes_val)
        annotated = self._encode(sources)
        self._check_groups(annotated, y_codes[~known])
        unknown = np.flatnonzero(~known)
        self.heads_, self.n_rounds_ = [], 0
        probability = np.ones((len(y), len(self.attribute_values_)))
        for fold in self._folds(len(unknown)):
            others = np.delete(unknown, fold)
            self._train_head(X, y_codes, weights, others, annotated)
            probability[unknown[fold]] = self._probability(
                self.heads_[-1:], take_rows(X, unknown[fold]), y_codes[unknown[fold]]
            )
        inferred = self.attribute_values_[probability.argmax(axis=1)]
        self.confidence_ = probability.max(axis=1)
        return fill_missing(attributes, inferred, "attributes")

    def _embeddings(self, X, y, X_val):
        """Check that X holds embeddings, and no items."""
        shape = getattr(X, "shape", None)
        if shape is None and isinstance(X, (list, tuple)) and len(X):
            shape = len(X), *np.shape(X[0])
        if shape is None or len(shape) != 2:
            raise ValueError(
                "SSAPseudoAttributes reads embeddings, (n_samples, n_features), and X "
                f"is {'a ' + type(X).__name__ if shape is None else shape}: fit it to "
                "embeddings of these items, and pass its pseudo_attributes_ as "
                "attributes."
            )
        X, y = validate_training_rows(self, X, y)
        if X_val is not None:
            with about("X_val"):
                X_val = validate_features(self, X_val, reset=False)
        return X, y, X_val

    def _validation(self, X_val, validation, attributes_val):
        """Return the annotated validation rows of classes that are trained."""
        y_val = validation["y_val"]
        _, rows, values = _read(attributes_val, len(y_val), "attributes_val")
        y_codes = np.searchsorted(self.classes_, y_val).clip(max=len(self.classes_) - 1)
        trained = self.classes_[y_codes[rows]] == y_val[rows]
        rows, values = rows[trained], values[trained]
        weights = _weights(validation.get("sample_weight_val"), len(y_val))
        return take_rows(X_val, rows), y_codes[rows], values, weights[rows]

    def _encode(self, sources):
        """Join annotated rows, and encode their attributes."""
        sources = [source for source in sources if len(source[1])]
        if not sources:
            raise ValueError(
                "SSAPseudoAttributes learns from rows that have attributes, and there "
                "are none: pass attributes of some training rows, or attributes_val "
                "with X_val and y_val."
            )
        X, y_codes, values, weights = zip(*sources)
        columns = [v.reshape(len(v), -1) for v in values]
        codes, self.attribute_values_ = encode_attributes(np.concatenate(columns))
        if len(self.attribute_values_) < 2:
            raise ValueError(
                "All annotated rows have the attribute "
                f"{self.attribute_values_.tolist()[0]!r}, so that there is nothing to "
                "tell apart: annotate rows of other values."
            )
        if values[0].ndim == 2 and self.attribute_values_.ndim == 1:
            self.attribute_values_ = self.attribute_values_[:, None]
        return _Rows(_join(X), np.concatenate(y_codes), codes, np.concatenate(weights))

    def _check_groups(self, annotated, y_unknown):
        """Refuse labels and groups of which nothing is known."""
        shape = len(self.classes_), len(self.attribute_values_)
        self._seen = np.zeros(shape, dtype=bool)
        self._seen[annotated.y_codes, annotated.codes] = True
        wanted = np.unique(y_unknown)
        for label in wanted[~self._seen[wanted].any(axis=1)]:
            raise ValueError(
                f"No row of label {self.classes_[label]} is annotated, and some have "
                "no attribute: annotate rows of each of its groups."
            )
        absent = np.argwhere(~self._seen[wanted])
        if len(absent) and self.absent_groups == "raise":
            named = [
                f"(label={self.classes_[wanted[label]]}, attribute="
                f"{self.attribute_values_[value]})"
                for label, value in absent[:5]
            ]
            raise ValueError(
                f"No row of {len(absent)} groups is annotated, {', '.join(named)}, and "
                "some rows of these labels have no attribute: annotate rows of these "
                "groups, or set absent_groups='exclude' of SSAPseudoAttributes if "
                "there are none."
            )

    def _folds(self, n_rows):
        """Return the places of every fold; one without places if none is needed."""
        order = check_random_state(self.random_state).permutation(n_rows)
        return [np.sort(fold) for fold in np.array_split(order, self.n_folds)]

    def _train_head(self, X, y_codes, weights, rows, annotated):
        """Train a head on annotated rows, and on some of the others in rounds."""
        head, chosen = self._head(annotated), None
        X, y_codes, weights = take_rows(X, rows), y_codes[rows], weights[rows]
        for number in range(1, self.max_rounds + 1):
            probability = self._probability([head], X, y_codes)
            kept, codes = self._confident(probability, y_codes, weights, annotated)
            if chosen is not None and np.array_equal(chosen, (kept, codes)):
                break
            chosen = kept, codes
            self.n_rounds_ = max(self.n_rounds_, number)
            if not len(kept):
                break
            more = take_rows(X, kept), y_codes[kept], codes, weights[kept]
            head = self._head(_Rows(*map(_join, zip(annotated, more))))
        self.heads_.append(head)

    def _head(self, rows):
        """Fit a head to attributes, (label, attribute) groups counting alike."""
        head = ERMClassifier(
            "group",
            solver="lbfgs",
            weight_decay=self.weight_decay,
            max_iter=500,
            random_state=0,
        )
        # Few annotated rows are the case that this is for.
        with ignored(UserWarning):
            return head.fit(
                rows.X,
                rows.codes,
                attributes=rows.y_codes,
                sample_weight=None if (rows.weights == 1).all() else rows.weights,
            )

    def _probability(self, heads, X, y_codes):
        """Return the mean probability of every attribute, given the labels."""
        if not len(y_codes):
            return np.ones((0, len(self.attribute_values_)))
        total = np.mean([head.predict_proba(X) for head in heads], axis=0)
        total = np.where(self._seen[y_codes], total, 0.0)
        return total / total.sum(axis=1, keepdims=True)

    def _confident(self, probability, y_codes, weights, annotated):
        """Choose rows so that every group has as many as the smallest one."""
        inferred, confidence = probability.argmax(axis=1), probability.max(axis=1)
        n_values = len(self.attribute_values_)
        cells = y_codes * n_values + inferred
        cells[confidence < self.tau] = -1
        sizes = np.bincount(
            annotated.y_codes * n_values + annotated.codes, annotated.weights
        )
        present = np.flatnonzero(sizes)
        of_cell = {cell: np.flatnonzero(cells == cell) for cell in present}
        size = min(sizes[cell] + weights[rows].sum() for cell, rows in of_cell.items())
        kept = [np.zeros(0, dtype=np.int64)]
        for cell, rows in of_cell.items():
            rows = rows[np.argsort(-confidence[rows], kind="stable")]
            fits = np.cumsum(weights[rows]) <= size - sizes[cell] + 1e-9
            kept.append(rows[fits])
        kept = np.sort(np.concatenate(kept))
        return kept, inferred[kept]

    def _assign(self, X, codes):
        probability = self._probability(self.heads_, X, codes)
        return self.attribute_values_[probability.argmax(axis=1)]


def _read(attributes, n_samples, name):
    """Return which rows are annotated, their numbers and values."""
    if attributes is None:
        none = np.zeros(n_samples, dtype=bool)
        return none, np.zeros(0, dtype=np.int64), np.zeros(0)
    array, annotated = read_annotations(attributes, n_samples, name)
    rows = np.flatnonzero(annotated)
    return annotated, rows, plain_values(array[rows])


def _weights(sample_weight, n_samples):
    return np.ones(n_samples) if sample_weight is None else sample_weight


def _join(parts):
    """Return arrays, or tensors on any device, as one array."""
    if len(parts) == 1:
        return parts[0]
    on_cpu = [part.cpu() if hasattr(part, "cpu") else part for part in parts]
    return np.concatenate([np.asarray(as_array(part)) for part in on_cpu])
