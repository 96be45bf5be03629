"""The rows of a comparison: what is known of them, and what each of them is for."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from skdebias._annotations import count_missing, refuse_names
from skdebias._attributes import as_attribute_array, encode_attributes, on_host
from skdebias._erm import ERMClassifier
from skdebias._named_groups import warn_of_unusable
from skdebias._rows import is_device_tensor
from skdebias._sklearn import scorer_parts
from skdebias._validation import (
    about,
    encode_classes,
    name_groups,
    validate_training_rows,
)
from skdebias.metrics import get_scorer
from skdebias.metrics._scorers import needs_attributes
from skdebias.model_selection._kfold import AttributeStratifiedKFold
from skdebias.model_selection._nested import CHOOSING, TRAINING, FoldedRows, Measure

# Rows of the sample from which groups are inferred: seconds, whatever there are.
_SAMPLE = 2000
# Rows of a class from which it is worth while.
_LEAST_TO_INFER = 20
_SCORED = 0


@dataclass(frozen=True)
class GivenRows:
    """All rows of a comparison, validated.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
    told : ndarray or None
        Attributes as they were given; of rows that have none, those of another row.
    attributes : ndarray of shape (n_rows,) or None
        Their codes.
    use : ndarray of shape (n_rows,)
        0 of rows that are divided into folds, CHOOSING or TRAINING.
    columns : Index or None
        Names of the features.
    """

    X: np.ndarray
    y: np.ndarray
    told: np.ndarray | None
    attributes: np.ndarray | None
    use: np.ndarray
    columns: object = None

    @property
    def annotated_apart(self):
        """Whether attributes are known of the validation rows alone."""
        return bool((self.use == TRAINING).any())

    @property
    def regime(self):
        """What is known of the attributes, in words."""
        choose = " Validation rows choose the parameters." * self._has_choosing
        if self.attributes is None:
            return f"No attributes are known.{choose}"
        if self.annotated_apart:
            return (
                "Attributes are known of the validation rows only, on whose folds "
                "parameters are chosen and methods are scored."
            )
        return f"Attributes of the training rows are known.{choose}"

    @property
    def _has_choosing(self):
        return bool((self.use == CHOOSING).any())

    def features(self, rows):
        """Return features as they were given, with their names if they have any."""
        X = self.X[rows]
        return X if self.columns is None else pd.DataFrame(X, columns=self.columns)


def read_rows(X, y, attributes, X_val, y_val, attributes_val):
    """Validate the arguments of a comparison.

    Parameters
    ----------
    X, y, attributes, X_val, y_val, attributes_val : array-like
        As of :func:`compare_methods`.

    Returns
    -------
    GivenRows
    """
    columns = getattr(X, "columns", None)
    refuse_names(attributes, X)
    X, y = _validated(X, y)
    classes, _ = encode_classes(y, "compare_methods")
    attributes = _known(attributes, y, "y", "attributes")
    if X_val is None:
        for name, value in (("y_val", y_val), ("attributes_val", attributes_val)):
            if value is not None:
                raise ValueError(f"{name} is given without X_val: pass both, or none.")
        codes = None if attributes is None else encode_attributes(attributes)[0]
        return GivenRows(X, y, attributes, codes, np.zeros(len(y), int), columns)
    if y_val is None:
        raise ValueError(
            "X_val is given without y_val: pass the labels of the validation rows, "
            "which choose the parameters, or leave X_val out."
        )
    with about("X_val"):
        X_val, y_val = _validated(X_val, y_val)
    if X_val.shape[1] != X.shape[1]:
        raise ValueError(
            f"X_val has {X_val.shape[1]} features and X has {X.shape[1]}: both must be "
            "embeddings of the same backbone."
        )
    if unknown := sorted({*np.unique(y_val).tolist()} - {*classes.tolist()}):
        raise ValueError(
            f"y_val has labels that y has not: {unknown}. Nothing can learn them: pass "
            "training rows of these classes, or leave the validation rows out."
        )
    attributes_val = _known(attributes_val, y_val, "y_val", "attributes_val")
    use = np.repeat([_SCORED, CHOOSING], [len(y), len(y_val)])
    if attributes is None and attributes_val is not None:
        use = np.repeat([TRAINING, _SCORED], [len(y), len(y_val)])
        attributes = np.repeat(attributes_val[:1], len(y), axis=0)
    elif attributes is not None and attributes_val is None:
        raise ValueError(
            "attributes are given without attributes_val: the validation rows choose "
            "by the score of groups, and need attributes. Pass attributes_val, or "
            "leave X_val out."
        )
    told = codes = None
    if attributes is not None:
        told = np.concatenate([attributes, attributes_val])
        codes = encode_attributes(told)[0]
    X, y = np.concatenate([X, X_val]), np.concatenate([y, y_val])
    return GivenRows(X, y, told, codes, use, columns)


def _validated(X, y):
    """Check X and y as a fit would; return them on the host, X of enough precision."""
    X, y = validate_training_rows(ERMClassifier(), X, y)
    if is_device_tensor(X):
        X = on_host(X)
    X = np.asarray(X) if X.dtype != np.float16 else np.asarray(X, dtype=np.float32)
    return X, y


def _known(attributes, y, y_name, name):
    """Return attributes of all rows, or None; warn if they are of no use."""
    missing = count_missing(attributes, name)
    if missing == "all":
        return None
    if missing == "some":
        raise ValueError(
            f"{name}: some rows have no attribute, and a score of groups needs those "
            f"of all rows. Fill them (SSAPseudoAttributes of skdebias.attributes), or "
            "pass the rows that have one as X_val, y_val and attributes_val."
        )
    named = name_groups(y, attributes, y_name, name)
    warn_of_unusable(named.unusable_for_training(name))
    return as_attribute_array(on_host(attributes), name)


def divide(given, cv, repeats, seed):
    """Divide the rows that are scored into folds.

    Parameters
    ----------
    given : GivenRows
    cv : int, splitter or iterable
    repeats : int
    seed : int

    Returns
    -------
    list of FoldedRows
        One for each repetition.
    """
    scored = np.flatnonzero(given.use == _SCORED)
    X, y = given.X[scored], given.y[scored]
    told = None if given.told is None else given.told[scored]
    if not isinstance(cv, (int, np.integer)) or isinstance(cv, bool):
        if repeats > 1:
            raise ValueError(
                f"repeats={repeats} needs cv= to be a number of folds: a splitter "
                "divides the rows in one way."
            )
        folds = [_folds_of(cv, X, y, told)]
    else:
        _check_n_folds(cv, y)
        folds = []
        for repeat in range(repeats):
            with warnings.catch_warnings():
                if repeat:  # it has been said
                    warnings.simplefilter("ignore")
                folds.append(_stratified(cv, X, y, told, seed + repeat))
    divisions = []
    for of_scored in folds:
        all_folds = given.use.copy()
        all_folds[scored] = of_scored
        divisions.append(FoldedRows(given.X, given.y, given.attributes, all_folds))
    return divisions


def _check_n_folds(cv, y):
    if cv < 3:
        raise ValueError(
            f"cv={cv} is too few folds: one is scored, one chooses the parameters, and "
            "the others are trained on. Pass 3 or more."
        )
    labels, counts = np.unique(y, return_counts=True)
    if counts.min() < cv:
        raise ValueError(
            f"class {labels[counts.argmin()]} has {counts.min()} rows, fewer than the "
            f"cv={cv} folds: pass more of them, fewer folds, or leave the class out."
        )


def _stratified(cv, X, y, told, seed):
    """Return the fold of every row."""
    if told is None:
        splitter = StratifiedKFold(cv, shuffle=True, random_state=seed % 2**31)
        return _numbered(splitter.split(X, y), len(y))
    splitter = AttributeStratifiedKFold(cv, shuffle=True, random_state=seed % 2**31)
    return _numbered(splitter.split(X, y, attributes=told), len(y))


def _folds_of(cv, X, y, told):
    """Return the fold of every row by a splitter, or by its splits."""
    if hasattr(cv, "split") and not isinstance(cv, str):
        takes = isinstance(cv, AttributeStratifiedKFold)
        splits = cv.split(X, y, **({"attributes": told} if takes else {}))
    elif np.iterable(cv) and not isinstance(cv, str):
        splits = cv
    else:
        raise ValueError(f"cv={cv!r} must be a number of folds, or a splitter.")
    folds = _numbered(splits, len(y))
    if folds.min() < 0 or folds.max() < 2:
        raise ValueError(
            f"cv={cv!r} must divide the rows into 3 folds or more: every row in the "
            "test rows of one split. Pass a number of folds, or such a splitter."
        )
    for fold in range(folds.max() + 1):
        for other in range(fold):
            left = y[(folds != fold) & (folds != other)]
            if len(np.unique(left)) < len(np.unique(y)):
                raise ValueError(
                    f"cv={cv!r}: without folds {other} and {fold}, no row of some "
                    "class is left to train on. Pass folds stratified by class."
                )
    return folds


def _numbered(splits, n_rows):
    """Number the test rows of splits; -1 of rows in none, or in several."""
    folds = np.full(n_rows, -1)
    for number, (_, test) in enumerate(splits):
        if (folds[test] >= 0).any():
            return np.full(n_rows, -1)
        folds[test] = number
    return folds


def infer_groups(given, seed):
    """Infer groups for a score beside the others, where something can be inferred.

    Parameters
    ----------
    given : GivenRows
    seed : int

    Returns
    -------
    ndarray of shape (n_rows,), or None
    """
    from skdebias.attributes import NothingInferredWarning, XRMPseudoAttributes

    sample = np.arange(len(given.y))
    if len(sample) > _SAMPLE:
        sample, _ = train_test_split(
            sample, train_size=_SAMPLE, stratify=given.y, random_state=seed % 2**31
        )
    if np.unique(given.y[sample], return_counts=True)[1].min() < _LEAST_TO_INFER:
        return None
    scaler = StandardScaler().fit(given.X[sample])
    inferrer = XRMPseudoAttributes(random_state=seed % 2**31)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingInferredWarning)
        try:
            inferrer.fit(scaler.transform(given.X[sample]), given.y[sample])
        except NothingInferredWarning:
            return None
    return np.asarray(inferrer.predict(scaler.transform(given.X), given.y))


def make_measures(scoring, given, inferred):
    """Return what is measured on every outer fold; the first one chooses.

    Parameters
    ----------
    scoring : str, callable or None
    given : GivenRows
    inferred : ndarray of shape (n_rows,), or None

    Returns
    -------
    measures : dict of str to Measure
    name : str
        Of the score that chooses.
    """
    if scoring is None:
        known = given.attributes is not None
        scoring = "worst_group_accuracy" if known else "worst_class_accuracy"
    if not isinstance(scoring, str) and scorer_parts(scoring) is None:
        raise ValueError(
            f"scoring={scoring!r} must be the name of one score, such as "
            "'worst_group_accuracy', or a scorer made by make_scorer or "
            "make_group_scorer."
        )
    scorer = get_scorer(scoring)
    name = scoring
    if not isinstance(scoring, str):
        name = getattr(scorer_parts(scorer).function, "__name__", "score")
    attributes = None
    if needs_attributes(scorer):
        if given.attributes is None:
            raise TypeError(
                f"scoring={scoring!r} needs attributes, and none are given: pass "
                "attributes, or a score that needs none, such as "
                "scoring='worst_class_accuracy'."
            )
        attributes = given.attributes
    measures = {"score": Measure(scorer, attributes)}
    if given.attributes is not None:
        for beside in ("worst_group", "group_balanced"):
            scorer = get_scorer(f"{beside}_accuracy")
            measures[beside] = Measure(scorer, given.attributes)
    elif inferred is not None:
        scorer = get_scorer("worst_group_accuracy")
        measures["worst_inferred_group"] = Measure(scorer, inferred)
    return measures | {"average": Measure(get_scorer("accuracy"), None)}, name
