"""Fitted estimators as plain values.

What fitted attributes may be is a table of :mod:`skdebias._fitted_checks`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from skdebias._debiased import SavedMethod, saved
from skdebias._fitted_checks import (
    check_fitted,
    check_fitted_scaler,
    check_scaler,
    described,
)
from skdebias._saved_inferrer import SavedInferrer, saved_inferrer
from skdebias._serialize import decode, encode
from skdebias._sklearn import validate_params


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
    if isinstance(estimator, StandardScaler):
        check_fitted_scaler(fitted)
        check_scaler(estimator, fitted)
    else:
        check_fitted(fitted)
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
        raise ValueError(f"its pseudo_attributes is {described(value)}")
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
        raise ValueError(f"its method is {described(value)}")
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
