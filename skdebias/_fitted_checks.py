"""What the fitted attributes of estimators may be.

A file is believed only as far as the table of this module goes: names, types and shapes
of fitted attributes. A new fitted attribute is added to it, or the estimators that have
it cannot be saved.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

# Lengths by name; the same name is the same length within one estimator.
_Lengths = dict[str, int]
_Check = Callable[[Any, _Lengths], bool]


def check_fitted(fitted: dict[str, Any]) -> None:
    """Raise unless attributes of a head are known, of the right type and shape, finite.

    Parameters
    ----------
    fitted : dict
        Fitted attributes by name.

    Raises
    ------
    ValueError
        If an attribute is unknown or cannot be what a fit sets.
    """
    _check(fitted, lambda name: _KNOWN.get(name) or _of_another_head(name))


def check_fitted_scaler(fitted: dict[str, Any]) -> None:
    """Raise unless attributes of a scaler are known, of the right type and shape.

    Parameters
    ----------
    fitted : dict
        Fitted attributes by name.

    Raises
    ------
    ValueError
        If an attribute is unknown or cannot be what a fit sets.
    """
    _check(fitted, _KNOWN_OF_A_SCALER.get)


def _check(fitted: dict[str, Any], check_of: Callable[[str], "_Check | None"]) -> None:
    """Raise unless all values pass the checks of their names."""
    lengths: _Lengths = {}
    # What others are measured against comes first.
    ordered = sorted(fitted, key=lambda name: (name not in _FIRST, name))
    for name in ordered:
        check = check_of(name)
        if check is None:
            raise ValueError(f"{name} is not a fitted attribute that skdebias knows")
        if not check(fitted[name], lengths):
            raise ValueError(f"{name} is {described(fitted[name])}, which no fit sets")


def check_head(fitted: dict[str, Any]) -> None:
    """Raise unless fitted attributes are those of a head that can predict.

    Parameters
    ----------
    fitted : dict
        Fitted attributes that :func:`check_fitted` accepts.

    Raises
    ------
    ValueError
        If something is missing.
    """
    needed = {"classes_", "n_features_in_"}
    hidden = "coefs_" in fitted
    needed |= {"coefs_", "intercepts_"} if hidden else {"coef_", "intercept_"}
    _refuse_lacking(needed, fitted)
    prefixes = [m["prefix"] for m in map(_ANOTHER_HEAD.fullmatch, fitted) if m]
    for prefix in ("", *prefixes):
        linear, layers, biases = (
            f"{prefix}{name}_" for name in ("coef", "coefs", "intercepts")
        )
        if linear in fitted and layers in fitted:
            raise ValueError(f"it has both {linear} and {layers}")
        if len(fitted.get(layers, ())) != len(fitted.get(biases, ())):
            raise ValueError(f"{layers} and {biases} differ in their number of layers")


def check_scaler(scaler: StandardScaler, fitted: dict[str, Any]) -> None:
    """Raise unless fitted attributes are what a scaler with its settings applies.

    Parameters
    ----------
    scaler : StandardScaler
        With its parameters set.
    fitted : dict
        Fitted attributes that :func:`check_fitted` accepts.

    Raises
    ------
    ValueError
        If something is missing, or divides by zero.
    """
    _refuse_lacking({"n_features_in_", "mean_", "var_", "scale_"}, fitted)
    if scaler.with_mean and fitted["mean_"] is None:
        raise ValueError("mean_ is None, but with_mean=True")
    if scaler.with_std == (fitted["scale_"] is None):
        raise ValueError(f"scale_ does not go with with_std={scaler.with_std}")
    if scaler.with_std and not (fitted["scale_"] > 0).all():
        raise ValueError("scale_ has values that are not positive")


def _refuse_lacking(needed: set[str], fitted: dict[str, Any]) -> None:
    missing = sorted(needed - set(fitted))
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")


def described(value: Any) -> str:
    """Say in a few words what a value is.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
    """
    if isinstance(value, np.ndarray):
        finite = value.dtype.kind not in "fc" or np.isfinite(value).all()
        return f"an array of {value.dtype} of shape {value.shape}" + (
            "" if finite else " with NaN or infinity"
        )
    return f"a {type(value).__name__}" + (f" ({value!r:.40})" if value == value else "")


def _fits(shape: tuple[int, ...], wanted: tuple[Any, ...], lengths: _Lengths) -> bool:
    """Return whether a shape is the wanted one; lengths that were open are noted."""
    if len(shape) != len(wanted):
        return False
    return all(
        length > 0 and length == lengths.setdefault(name, length)
        if isinstance(name, str)
        else length == name
        for length, name in zip(shape, wanted)
        if name is not None
    )


def _array(kinds: str, *wanted: Any, finite: bool = True) -> _Check:
    def check(value: Any, lengths: _Lengths) -> bool:
        return (
            isinstance(value, np.ndarray)
            and value.dtype.kind in kinds
            and _fits(value.shape, wanted, lengths)
            and (
                not finite or value.dtype.kind != "f" or bool(np.isfinite(value).all())
            )
        )

    return check


def _layers(n_inputs: str, head: str = "") -> _Check:
    """Accept weights that can be multiplied in turn."""

    def check(value: Any, lengths: _Lengths) -> bool:
        if not isinstance(value, list) or len(value) < 2:
            return False
        names = [n_inputs, *(f"{head} {i}" for i in range(1, len(value))), "logits"]
        return all(
            _array("f", n_in, n_out)(layer, lengths)
            for layer, n_in, n_out in zip(value, names, names[1:])
        )

    return check


def _biases(head: str = "") -> _Check:
    def check(value: Any, lengths: _Lengths) -> bool:
        if not isinstance(value, list) or len(value) < 2:
            return False
        names = [*(f"{head} {i}" for i in range(1, len(value))), "logits"]
        return all(_array("f", name)(bias, lengths) for bias, name in zip(value, names))

    return check


def _number(kind: type, low: float = -np.inf) -> _Check:
    def check(value: Any, _: _Lengths) -> bool:
        return type(value) in (int, kind) and (value != value or value >= low)

    return check


def _name(*names: str) -> _Check:
    return lambda value, _: type(value) is str and value in names


def _either(*checks: _Check) -> _Check:
    return lambda value, lengths: any(check(value, lengths) for check in checks)


def _none(value: Any, _: _Lengths) -> bool:
    return value is None


def _n_features(value: Any, lengths: _Lengths) -> bool:
    return type(value) is int and value > 0 and _fits((value,), ("features",), lengths)


def _classes(value: Any, lengths: _Lengths) -> bool:
    if not _array("biufUSOMm", "classes")(value, lengths) or len(value) < 2:
        return False
    lengths["logits"] = 1 if len(value) == 2 else len(value)
    if value.dtype.kind == "O" and not all(_is_scalar(label) for label in value):
        return False
    try:
        # What a fit sets is sorted and without duplicates; NaT and NaN are neither.
        return bool((value[:-1] < value[1:]).all())
    except TypeError:
        return False


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | bytes)


def _names(value: Any, lengths: _Lengths) -> bool:
    return _array("O", "features")(value, lengths) and all(
        isinstance(name, str) for name in value
    )


def _counts(*wanted: Any) -> _Check:
    array = _array("iu", *wanted)
    return lambda value, lengths: array(value, lengths) and not (value < 0).any()


def _attribute_values(value: Any, lengths: _Lengths) -> bool:
    for shape in (("attributes",), ("attributes", None)):
        # Infinity is a value like others; NaN and NaT are missing ones.
        if _array("biufUSOMm", *shape, finite=False)(value, lengths):
            return bool((value == value).all())
    return False


def _inferred(value: Any, lengths: _Lengths) -> bool:
    """Accept attributes of training rows, of which there may be any number."""
    return _attribute_values(value, {})


def _groups(value: Any, lengths: _Lengths) -> bool:
    if not _array("iu", "groups", 2)(value, lengths) or (value < 0).any():
        return False
    highest = value.max(axis=0, initial=-1)
    limits = [lengths.get(name, np.inf) for name in ("classes", "attributes")]
    return bool((highest < limits).all())


def _numbers(value: Any, _: _Lengths) -> bool:
    return isinstance(value, list) and all(type(x) in (int, float) for x in value)


def _pair(value: Any, _: _Lengths) -> bool:
    return isinstance(value, tuple) and [type(x) for x in value] == [float, float]


def _history(value: Any, _: _Lengths) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(name, str) for name in value)
        and all(_plain(entries) for entries in value.values())
    )


def _plain(value: Any) -> bool:
    """Return whether a value is None, a scalar, an array, or a list of such."""
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return (
        value is None
        or _is_scalar(value)
        or isinstance(value, np.ndarray | np.datetime64 | np.timedelta64)
    )


def _head_name(value: Any, _: _Lengths) -> bool:
    return type(value) is str and value.isidentifier()


def _head_names(value: Any, lengths: _Lengths) -> bool:
    return isinstance(value, list) and all(_head_name(name, lengths) for name in value)


# Heads that are trained beside or before the result, by the names that methods give.
_ANOTHER_HEAD = re.compile(
    r"(?P<prefix>[a-zA-Z]\w*_)(?P<kind>coef|intercept|coefs|intercepts)_", re.ASCII
)


def _of_another_head(name: str) -> _Check | None:
    """Return the check of an array of another head than the result, if it is one."""
    match = _ANOTHER_HEAD.fullmatch(name)
    if match is None:
        return None
    head = match["prefix"]
    # A student may see an embedding of its own.
    n_inputs = head if head == "student_" else "features"
    checks = {
        "coef": _array("f", "logits", n_inputs),
        "intercept": _array("f", "logits"),
        "coefs": _layers(n_inputs, head),
        "intercepts": _biases(head),
    }
    return checks[match["kind"]]


_FIRST = ("n_features_in_", "classes_", "attribute_values_")
_KNOWN: dict[str, _Check] = {
    # Every head.
    "n_features_in_": _n_features,
    "feature_names_in_": _names,
    "classes_": _classes,
    "attribute_values_": _attribute_values,
    "groups_": _groups,
    "group_counts_": _counts("groups"),
    "coef_": _array("f", "logits", "features"),
    "intercept_": _array("f", "logits"),
    "coefs_": _layers("features"),
    "intercepts_": _biases(),
    "n_iter_": _number(int, 0),
    "best_epoch_": _either(_none, _number(int, 0)),
    "loss_curve_": _numbers,
    "history_": _history,
    # Which of several heads is the result.
    "chosen_head_": _head_name,
    "head_names_": _head_names,
    "head_scores_": _array("f", None),
    # What "auto" chose.
    "weight_decay_": _number(float, 0),
    "weight_decay_path_": _history,
    "selected_strength_": _number(float),
    "strength_path_": _history,
    # What single methods learn.
    "beta_": _number(float),
    "beta_bounds_": _pair,
    "extrapolated_distribution_": _array("f", "classes", "attributes", finite=False),
    "pseudo_attributes_": _inferred,
    "warmup_": _name("mean_difference", "epochs", "logistic"),
    "cluster_sizes_": _array("iu", None, None),
    "silhouette_": _number(float),
    "group_weights_": _array("f", "groups"),
    "label_shares_": _array("f", "attributes", "classes"),
    "cosine_": _array("f", None, finite=False),
    "confidence_": _array("f", None, finite=False),
    "effective_sample_size_": _number(float),
    "C_": _number(float),
    "C_scores_": _array("f", None, finite=False),
}
_KNOWN_OF_A_SCALER: dict[str, _Check] = {
    "n_features_in_": _n_features,
    "feature_names_in_": _names,
    "mean_": _either(_none, _array("f", "features")),
    "var_": _either(_none, _array("f", "features")),
    "scale_": _either(_none, _array("f", "features")),
    "n_samples_seen_": _either(_number(float, 0), _array("iuf", "features")),
}
