"""Fitted estimators as plain values, and what such values may be.

A file is believed only as far as the table of this module goes: names, types and shapes
of fitted attributes. A new fitted attribute is added to it, or the estimators that have
it cannot be saved.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from skdebias._debiased import SavedMethod, saved
from skdebias._saved_inferrer import SavedInferrer, saved_inferrer
from skdebias._serialize import decode, encode
from skdebias._sklearn import validate_params

# Lengths by name; the same name is the same length within one estimator.
_Lengths = dict[str, int]
_Check = Callable[[Any, _Lengths], bool]


def describe_estimator(
    estimator: Any, prefix: str, arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Return class, parameters and fitted attributes in JSON; arrays go to `arrays`.

    Parameters
    ----------
    estimator : estimator
        Of a known class, see :func:`known_class`.
    prefix : str
        What the names of its arrays begin with; ends with a dot.
    arrays : dict
        Filled with the arrays by name.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If a parameter or fitted attribute has no safe representation.
    ValueError
        If a parameter or fitted attribute is not one that a fit accepts or sets.
    """
    kind = type(estimator).__name__
    params = estimator.get_params(deep=False)
    if "random_state" in params and not isinstance(params["random_state"], int):
        params["random_state"] = None  # a generator's state is not worth keeping
    if "method" in params:
        method = saved(params["method"])
        params["method"] = {"name": method.name, "fields": method.fields}
    inferrer = saved_inferrer(params.get("pseudo_attributes"))
    if inferrer is not None:
        params["pseudo_attributes"] = {"name": inferrer.name, "params": inferrer.params}
    fitted = {
        key: value
        for key, value in vars(estimator).items()
        if key.endswith("_") and not key.startswith("_")
    }
    described = {
        "class": kind,
        "params": encode(params, f"{prefix}params", arrays),
        "fitted": encode(fitted, f"{prefix}fitted", arrays),
    }
    # What could not be loaded again is not written in the first place.
    rebuild_estimator(described, arrays)
    return described


def rebuild_estimator(
    description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Any:
    """Return the estimator that :func:`describe_estimator` described.

    Parameters
    ----------
    description : mapping
        What it returned.
    arrays : mapping of str to ndarray

    Returns
    -------
    estimator

    Raises
    ------
    ValueError
        If the class, a parameter or a fitted attribute is not a known one, or its
        value not one that a fit accepts or sets.
    """
    params = decode(description["params"], arrays)
    if "method" in params:
        params["method"] = _saved_method(params["method"])
    if params.get("pseudo_attributes") is not None:
        params["pseudo_attributes"] = _saved_inferrer(params["pseudo_attributes"])
    estimator = known_class(description["class"])(**params)
    validate_params(estimator)
    fitted = decode(description["fitted"], arrays)
    check_fitted(fitted, _KNOWN_OF_A_SCALER if _is_scaler(estimator) else _KNOWN)
    if _is_scaler(estimator):
        check_scaler(estimator, fitted)
    for key, value in fitted.items():
        setattr(estimator, key, value)
    return estimator


def _saved_inferrer(value: Any) -> SavedInferrer:
    """Return an estimator of pseudo-attributes of a file, whose form is checked."""
    named = isinstance(value, dict) and value.keys() == {"name", "params"}
    if not (
        named
        and isinstance(value["name"], str)
        and value["name"].isidentifier()
        and isinstance(value["params"], dict)
        and all(isinstance(key, str) and key.isidentifier() for key in value["params"])
    ):
        raise ValueError(f"its pseudo_attributes is {_describe(value)}")
    return SavedInferrer(value["name"], value["params"])


def _saved_method(value: Any) -> SavedMethod:
    """Return a method of a file, of which only the form is checked."""
    named = isinstance(value, dict) and value.keys() == {"name", "fields"}
    if not (
        named
        and isinstance(value["name"], str)
        and value["name"].isidentifier()
        and isinstance(value["fields"], dict)
        and all(isinstance(key, str) and key.isidentifier() for key in value["fields"])
    ):
        raise ValueError(f"its method is {_describe(value)}")
    return SavedMethod(value["name"], value["fields"])


def known_class(name: str) -> type:
    """Return the class of a name; only heads and StandardScaler are known.

    Parameters
    ----------
    name : str

    Returns
    -------
    type

    Raises
    ------
    ValueError
        If the name is another one.
    """
    import skdebias

    heads = [known for known in skdebias.__all__ if known.endswith("Classifier")]
    if name == StandardScaler.__name__:
        return StandardScaler
    if name not in heads:
        raise ValueError(
            f"it holds a {name!r}, which this version of skdebias does not have: "
            f"upgrade skdebias (it knows {', '.join(heads)})"
        )
    kind: type = getattr(skdebias, name)
    return kind


def _is_scaler(estimator: Any) -> bool:
    return isinstance(estimator, StandardScaler)


def check_fitted(
    fitted: dict[str, Any], known: "Mapping[str, _Check] | None" = None
) -> None:
    """Raise unless fitted attributes are known, of the right type and shape, finite.

    Parameters
    ----------
    fitted : dict
        Fitted attributes of one estimator or transformer, by name.
    known : mapping of str to callable, default=None
        Checks by name. None is those of heads.

    Raises
    ------
    ValueError
        If an attribute is unknown or cannot be what a fit sets.
    """
    lengths: _Lengths = {}
    # What others are measured against comes first.
    ordered = sorted(fitted, key=lambda name: (name not in _FIRST, name))
    known = _KNOWN if known is None else known
    for name in ordered:
        if name not in known:
            raise ValueError(f"{name} is not a fitted attribute that skdebias knows")
        if not known[name](fitted[name], lengths):
            raise ValueError(f"{name} is {_describe(fitted[name])}, which no fit sets")


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
    for prefix in ("", "student_", "biased_", "first_"):
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


def _describe(value: Any) -> str:
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


def _layers(n_inputs: str) -> _Check:
    """Accept weights that can be multiplied in turn."""

    def check(value: Any, lengths: _Lengths) -> bool:
        if not isinstance(value, list) or len(value) < 2:
            return False
        names = [n_inputs, *(f"{n_inputs} {i}" for i in range(1, len(value))), "logits"]
        return all(
            _array("f", n_in, n_out)(layer, lengths)
            for layer, n_in, n_out in zip(value, names, names[1:])
        )

    return check


def _biases(n_inputs: str) -> _Check:
    def check(value: Any, lengths: _Lengths) -> bool:
        if not isinstance(value, list) or len(value) < 2:
            return False
        names = [*(f"{n_inputs} {i}" for i in range(1, len(value))), "logits"]
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
    "intercepts_": _biases("features"),
    "n_iter_": _number(int, 0),
    "best_epoch_": _either(_none, _number(int, 0)),
    "loss_curve_": _numbers,
    "history_": _history,
    # Heads that are trained beside or before the final one.
    "student_coef_": _array("f", "logits", "student"),
    "student_intercept_": _array("f", "logits"),
    "student_coefs_": _layers("student"),
    "student_intercepts_": _biases("student"),
    "biased_coef_": _array("f", "logits", "features"),
    "biased_intercept_": _array("f", "logits"),
    "biased_coefs_": _layers("biased"),
    "biased_intercepts_": _biases("biased"),
    "first_coef_": _array("f", "logits", "features"),
    "first_intercept_": _array("f", "logits"),
    "first_coefs_": _layers("first"),
    "first_intercepts_": _biases("first"),
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
