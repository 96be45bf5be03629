"""The name of a run: a digest of what determines its result, and of nothing else."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from skdebias import __version__
from skdebias.finetune._extraction import UndescribableError, describe_code


def digest(description: Mapping[str, Any]) -> str:
    """Return the name that stands for a description.

    Parameters
    ----------
    description : mapping
        Of values that :func:`canonical` takes.

    Returns
    -------
    str
        24 hexadecimal digits.
    """
    said = {"skdebias": __version__, **description}
    text = json.dumps(canonical(said, "checkpoint_dir"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def canonical(value: Any, name: str) -> Any:
    """Return what a value says in JSON: the same for equal values of any type.

    Parameters
    ----------
    value : object
        None, texts, numbers, arrays, tensors, containers of these, dataclasses,
        estimators and classes.
    name : str
        What the value is, for the error.

    Returns
    -------
    object

    Raises
    ------
    UndescribableError
        If the value, or a part of it, is of no known kind.
    """
    if value is None or isinstance(value, bool | np.bool_ | str):
        return bool(value) if isinstance(value, np.bool_) else value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return int(number) if number.is_integer() else number
    if isinstance(value, Mapping):
        return {
            str(key): canonical(part, f"{name}[{key!r}]") for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [canonical(part, f"{name}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return {"array": array_digest(value)}
    if isinstance(value, np.random.RandomState):
        return {"state": canonical(value.get_state(legacy=False), name)}
    if isinstance(value, type):
        return {"class": _describe_class(value, name)}
    parts = _parts(value)
    if parts is None:
        raise UndescribableError(
            f"{name}={value!r} is of no kind that tells a run from another one, so "
            "that another run's network could be taken for its own: use numbers, texts "
            "or estimators, or leave checkpoint_dir=None"
        )
    described = {key: canonical(part, f"{name}.{key}") for key, part in parts.items()}
    return {"class": _describe_class(type(value), name), "parts": described}


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return all that a dataclass holds, or the parameters of an estimator."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {**getattr(value, "__dict__", {}), **fields}
    if hasattr(value, "get_params"):
        params: Mapping[str, Any] = value.get_params(deep=False)
        return params
    return None


def _describe_class(kind: type, name: str) -> list[Any]:
    """Return the name of a class, and by its code what is not a library's."""
    remedy = "Put the class into a module, or leave checkpoint_dir=None"
    described = describe_code(kind, name, remedy)
    # The libraries' versions are those of the backbone's description.
    return [f"{kind.__module__}.{kind.__qualname__}", described]


def array_digest(values: np.ndarray) -> str:
    """Return a digest of the numbers or texts of an array, whatever their width.

    Parameters
    ----------
    values : ndarray
        Of no objects.

    Returns
    -------
    str
    """
    if values.dtype.kind in "iub":
        values = values.astype(np.int64)
    elif values.dtype.kind == "f":
        values = values.astype(np.float64)
    head = repr((values.dtype.str, values.shape)).encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()
