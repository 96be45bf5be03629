"""The name of a run: a digest of what determines its result, and of nothing else."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from skdebias import __version__
from skdebias._annotations import count_missing, read_annotations
from skdebias._attributes import encode_attributes
from skdebias._base import shared_parameters
from skdebias.finetune._backbone import describe_backbone
from skdebias.finetune._extraction import (
    UndescribableError,
    describe_code,
    describe_transform,
)
from skdebias.finetune._input import FitInput
from skdebias.finetune._network import Network
from skdebias.finetune._optimization import TrainConfig
from skdebias.finetune._parameters import SHARED

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier


def describe_run(
    classifier: "BaseNetworkClassifier",
    estimator: Any,
    network: Network,
    config: TrainConfig,
    fit_input: FitInput,
    accelerator: Any,
    memo: Path,
) -> dict[str, Any]:
    """Return what determines the result, but for seed, groups and method.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    estimator : BaseDebiasedClassifier
        The method's.
    network : Network
        As it is before training.
    config : TrainConfig
    fit_input : FitInput
    accelerator : accelerate.Accelerator
    memo : Path
        Where it is kept which file has which content.

    Returns
    -------
    dict
        Of values that :func:`canonical` takes. Names of runs depend on its keys.
    """
    clf, stopping, augment = classifier, None, None
    if clf.early_stopping:
        stopping = [clf.tol, clf.n_iter_no_change]
    if clf.augment is not None:
        augment = describe_transform(clf.augment, allow_random=True, name="augment")
    description = {
        "backbone": describe_backbone(network.embedder),
        "freeze": clf.freeze,
        "head": [clf.dropout, clf.head_init, list(estimator.hidden_layer_sizes)],
        "saliency_layer": clf.saliency_layer,
        "recipe": config.described(),
        "stopping": stopping,
        "augment": augment,
        "compute": [accelerator.device.type, accelerator.mixed_precision],
        "items": fit_input.source.digest(memo),
    }
    validation = fit_input.encoded.validation
    if validation is not None:
        description["validation"] = [
            validation["X"].digest(memo),
            validation["y"],
            validation["groups"].ids,
            validation["selection"],
        ]
        # Names of runs without weights are those of versions that knew none.
        if validation["groups"].weights is not None:
            description["validation"].append(validation["groups"].weights)
    if fit_input.sample_weight is not None:
        description["sample_weight"] = fit_input.sample_weight
    if fit_input.unlabeled is not None:
        description["unlabeled"] = fit_input.unlabeled.digest(memo)
    return description


def describe_request(
    run: Mapping[str, Any],
    classifier: "BaseNetworkClassifier",
    estimator: Any,
    fit_input: FitInput,
) -> dict[str, Any]:
    """Return what determines the result, but for the seed, before it is trained.

    Parameters
    ----------
    run : mapping
        What :func:`describe_run` returned.
    classifier : BaseNetworkClassifier
    estimator : BaseDebiasedClassifier
        The method's.
    fit_input : FitInput

    Returns
    -------
    dict
        Of values that :func:`canonical` takes.
    """
    of_classifier = {*shared_parameters(), *SHARED, "random_state"}
    parameters = estimator.get_params(deep=False).items()
    request = {
        **run,
        "max_iter": classifier.max_iter,
        "estimator": type(estimator),
        "parameters": {k: v for k, v in parameters if k not in of_classifier},
        "y": fit_input.encoded.y_codes,
        "attributes": _describe_attributes(fit_input.attributes),
    }
    # Groups of whole attributes are in what describe_run returned.
    if count_missing(fit_input.attributes_val) == "some":
        request["attributes_val"] = _describe_attributes(fit_input.attributes_val)
    return request


def _describe_attributes(attributes: Any) -> Any:
    """Return what groups are formed of, or inferred from where some are missing."""
    if attributes is None:
        return None
    if count_missing(attributes) == "none":
        return encode_attributes(attributes)[0]
    array, annotated = read_annotations(attributes, len(attributes))
    if not annotated.any():
        return [annotated]
    codes, values = encode_attributes(array[annotated])
    return [annotated, codes, [str(value) for value in values.tolist()]]


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
    versioned = {"skdebias": __version__, **description}
    text = json.dumps(canonical(versioned, "checkpoint_dir"), sort_keys=True)
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
