"""Input conversion that scikit-learn's validation does not cover."""

from contextlib import contextmanager

import numpy as np
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from skdebias._annotations import family, read_annotations, shown
from skdebias._attributes import factorize, form_groups, on_host, refuse_missing
from skdebias._named_groups import NamedGroups
from skdebias._rows import (
    PRECISIONS,
    as_array,
    check_large_array,
    is_device_tensor,
    refuse_beyond_float32,
    refuse_masked,
)
from skdebias._sklearn import Interval, InvalidParameterError
from skdebias._warnings import warn_caller

# What validation sets on an estimator, before anything is fitted.
VALIDATED = ("n_features_in_", "feature_names_in_")


def refuse_booleans(estimator):
    """Refuse True where a number is meant, which scikit-learn takes for 1.

    Parameters
    ----------
    estimator : estimator
        Its parameters meet its constraints.

    Raises
    ------
    InvalidParameterError
    """
    values = estimator.get_params(deep=False)
    for name, constraints in estimator._parameter_constraints.items():
        numeric = any(isinstance(constraint, Interval) for constraint in constraints)
        if isinstance(values.get(name), bool) and numeric:
            raise InvalidParameterError(
                f"The {name!r} parameter of {type(estimator).__name__} must be a "
                f"number. Got {values[name]} instead."
            )


def validate_features(estimator, X, *, reset):
    """Check embeddings, which are neither copied nor upcast where they are floats.

    Parameters
    ----------
    estimator : estimator
        Remembers the number of features, and their names.
    X : array-like or Tensor of shape (n_samples, n_features)
    reset : bool
        Whether X is that of `fit`, or must be like it.

    Returns
    -------
    ndarray, or Tensor on another device than the CPU
    """
    X = as_array(X)
    if not is_device_tensor(X):
        checked = check_large_array(X, estimator)
        return validate_data(
            estimator, X, dtype=PRECISIONS, ensure_all_finite=not checked, reset=reset
        )
    if reset:
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return X


def validate_training_rows(estimator, X, y):
    """Check what an estimator is fitted to.

    Parameters
    ----------
    estimator : estimator
        Remembers the number of features, and their names.
    X : array-like or Tensor of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)

    Returns
    -------
    X : ndarray, or Tensor on another device than the CPU
        Neither copied nor upcast where it is of floats.
    y : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If the lengths differ, if there are NaN, infinite or huge values, or if the
        labels are no classes.
    """
    refuse_masked(y, "y")
    X, y = as_array(X), on_host(y)
    if is_device_tensor(X):
        y = validate_data(estimator, X="no_validation", y=y)
        estimator.n_features_in_ = X.shape[1]
        if len(y) != len(X):
            raise ValueError(
                f"X has {len(X)} rows and y has {len(y)}: pass one label per row."
            )
    else:
        checked = check_large_array(X, estimator)
        X, y = validate_data(
            estimator, X, y, dtype=PRECISIONS, ensure_all_finite=not checked
        )
    check_classification_targets(y)
    refuse_beyond_float32(X)
    return X, y


def encode_classes(y, user, what="rows"):
    """Encode labels, of which there must be two at least.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    user : str
        Estimator that is named in the error message.
    what : str, default="rows"
        What the user passes more of.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
    codes : ndarray of shape (n_samples,), int64

    Raises
    ------
    ValueError
        If there is a single class.
    """
    classes, codes = factorize(y, "y")
    if len(classes) < 2:
        raise ValueError(
            f"{user} needs at least 2 classes, but y holds 1 class, {classes[0]}: pass "
            f"{what} of other classes too (those of sample_weight 0 do not count)."
        )
    return classes, codes


def has_validation_set(X_val, y_val, attributes_val, sample_weight_val=None):
    """Return whether `fit` was given a validation set.

    Parameters
    ----------
    X_val, y_val, attributes_val, sample_weight_val : object or None

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If it was given in part.
    """
    parts = X_val, y_val, attributes_val, sample_weight_val
    if all(part is None for part in parts):
        return False
    if X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(
            f"{missing}=None, but another part of the validation set was given: pass "
            "X_val and y_val together."
        )
    return True


@contextmanager
def about(name):
    """Say in errors of scikit-learn's checks, which speak of X, what is meant.

    Parameters
    ----------
    name : str
        Argument that is checked.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} does not fit X: {error}") from error


def check_labels(y, name):
    """Check class labels as scikit-learn checks `y`, under the name of an argument.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    name : str

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If the labels are not 1-D, if one is missing or infinite, or if they are
        numbers that are no classes.
    """
    refuse_masked(y, name)
    try:
        y = column_or_1d(on_host(y), input_name=name, warn=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be 1-D, one class label per row: {error}"
        ) from error
    refuse_missing(y, name)
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name=name)
    if len(y) and y.dtype.kind not in "biuUS":
        kind = type_of_target(y, input_name=name)
        if kind not in ("binary", "multiclass"):
            raise ValueError(
                f"{name} must hold class labels, but its type is {kind!r}: pass "
                "classes, not numbers to regress on or rows of indicators."
            )
    return y


def name_groups(y, attributes, y_name="y", name="attributes"):
    """Form the groups of labels and attributes that nobody has looked at yet.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    attributes : array-like
        Rows of which they are missing belong to no group.
    y_name, name : str
        What they are called in messages.

    Returns
    -------
    NamedGroups
    """
    y = check_labels(y, y_name)
    array, annotated = read_annotations(attributes, len(y), name)
    if not annotated.all():
        y, array = y[annotated], array[annotated]
    return NamedGroups(*form_groups(y, array, y_name=y_name, name=name))


def encode_validation_set(X, y, attributes, classes, selection, weights=None):
    """Encode a validation set against the classes of the training set.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    attributes : array-like or None
    classes : ndarray of shape (n_classes,)
        Classes of the training set.
    selection : str
        The estimator's parameter.
    weights : ndarray of shape (n_samples,), default=None
        Positive weights of the rows.

    Returns
    -------
    dict
        `X`, `y` (codes, -1 for a class unseen in training), `groups`, `selection`
        resolved, `labels`, the (label, attribute) pair of every group, and
        `unusable`, what is wrong with the attributes, if anything.
    """
    y = check_labels(y, "y_val")
    if len(y) != len(X):
        raise ValueError(
            f"X_val has {len(X)} rows and y_val has {len(y)}: pass one label per row."
        )
    if not len(y):
        raise ValueError("X_val and y_val have no rows: pass some, or neither.")
    if selection == "worst_group" and attributes is None:
        raise ValueError(
            "selection='worst_group' needs attributes_val, which is None: pass it, or "
            "choose selection='worst_inferred_group'."
        )
    groups, classes_val, values = form_groups(
        y, attributes, y_name="y_val", name="attributes_val", weights=weights
    )
    y_codes = groups.y_codes
    positions = _positions(classes_val, classes, y_codes)
    unusable = ""
    if attributes is not None and selection in ("worst_group", "group_balanced"):
        named = NamedGroups(groups, classes_val, values)
        unusable = named.unusable_for_scores("attributes_val")
    return {
        "X": X,
        "y": positions[y_codes].astype(np.int64),
        "groups": groups,
        "selection": selection,
        "labels": [(classes_val[c], values[a]) for c, a in groups.cells],
        "unusable": unusable,
    }


def rows_to_learn_from(encoded, name):
    """Return the rows, class codes and groups of the validation set.

    Parameters
    ----------
    encoded : dict or None
        What :func:`encode_validation_set` returned.
    name : str
        Of the method that learns from them.

    Returns
    -------
    X : ndarray or Tensor of shape (n_val_samples, n_features)
    y : ndarray of shape (n_val_samples,)
    groups : Groups

    Raises
    ------
    ValueError
        If there is no validation set, or if it has classes that training rows lack.
    """
    if encoded is None:
        raise ValueError(
            f"{name} learns from the rows of a validation set: pass X_val and y_val to "
            "fit, and attributes_val where they are known."
        )
    if encoded["y"].min() < 0:
        raise ValueError(
            f"{name} learns from the rows of the validation set, and y_val holds "
            "labels that y does not: drop these rows."
        )
    return encoded["X"], encoded["y"], encoded["groups"]


def _positions(classes_val, classes, y_codes_val):
    """Return the places of the classes of `y_val` among those of y, -1 for none."""
    positions = np.full(len(classes_val), -1)
    if family(classes_val) == family(classes):
        nearest = np.searchsorted(classes, classes_val).clip(max=len(classes) - 1)
        positions = np.where(classes[nearest] == classes_val, nearest, -1)
    unseen = positions < 0
    if unseen.all():
        raise ValueError(
            f"y_val holds none of the classes of y: y_val has {shown(classes_val)}, y "
            f"has {shown(classes)}. Code both in the same way."
        )
    if unseen.any():
        n_rows = int(unseen[y_codes_val].sum())
        warn_caller(
            f"y_val holds labels that y does not, {shown(classes_val[unseen])}, in "
            f"{n_rows} of {len(y_codes_val)} rows, which always count as wrong: code y "
            "and y_val in the same way, or drop these rows.",
        )
    return positions
