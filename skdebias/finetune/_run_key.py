"""The name of a run: a digest of what determines its result, and of nothing else."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from skdebias import __version__
from skdebias.finetune._extraction import UndescribableError

# Classes of these libraries are known by name and version.
_KNOWN = ("builtins", "numpy", "sklearn", "skdebias", "torch")


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
        None, texts, numbers, arrays, tensors, containers of these, dataclasses and
        estimators.
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
    """Return the fields of a dataclass or the parameters of an estimator."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if hasattr(value, "get_params") and not isinstance(value, type):
        params: Mapping[str, Any] = value.get_params(deep=False)
        return params
    return None


def _describe_class(kind: type, name: str) -> list[str]:
    """Return the name of a class and digests of its source, unless a library's."""
    described = [f"{kind.__module__}.{kind.__qualname__}"]
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in _KNOWN:
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError) as error:
            raise UndescribableError(
                f"{name}: the code of {base.__qualname__} cannot be read, so that runs "
                "of it cannot be told from those of another one: put the class into a "
                "module, or leave checkpoint_dir=None"
            ) from error
        described.append(hashlib.sha256(source.encode()).hexdigest())
    return described


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
