"""Fitted networks as files without code in them."""

import contextlib
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from skdebias._engine._loss import n_logits
from skdebias._fitted import describe_estimator, rebuild_estimator
from skdebias._fitted_checks import check_fitted
from skdebias._serialize import (
    NETWORK_FORMAT,
    decode,
    encode,
    read_file,
    reading,
    write_file,
)
from skdebias._warnings import warn_caller
from skdebias.finetune._backbone import (
    backbone_settings,
    has_folder,
    rebuild_embedder,
)
from skdebias.finetune._checkpoint import to_host
from skdebias.finetune._checks import copied_module
from skdebias.finetune._encoder_files import pack_encoder, unpacked_encoder
from skdebias.finetune._extraction import Backbone
from skdebias.finetune._network import Network

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier

# What a file cannot hold, and load is given instead.
_CODE = ("backbone", "preprocess", "augment")
_FITTED = (
    "classes_", "groups_", "group_counts_", "attribute_values_", "n_iter_",
    "best_epoch_", "loss_curve_", "history_", "n_features_in_", "feature_names_in_",
    "_input_shapes",
)  # fmt: skip


def save_network(classifier: "BaseNetworkClassifier", path: Path) -> None:
    """Write a fitted classifier.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    path : Path
    """
    arrays: dict[str, np.ndarray] = {}
    network = classifier.network_
    header = _header(classifier, arrays)
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors = {f"array.{k}": torch.from_numpy(v) for k, v in arrays.items()}
    if network.has_folder:
        header["files"] = pack_encoder(network.backbone, state, tensors)
    header["prepared"] = _preparation(network.embedder)
    write_file(path, to_host(tensors | state), header)


def _header(
    classifier: "BaseNetworkClassifier", arrays: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Return what a file says beside weights; arrays go to `arrays`."""
    parameters = classifier.get_params(deep=False)
    estimator = parameters.pop("estimator")
    code = [name for name in _CODE if _is_code(parameters[name])]
    for name in (*code, "checkpoint_dir"):
        parameters[name] = None
    if not isinstance(parameters["random_state"], int):
        parameters["random_state"] = None
    if parameters["weights"] is not None:
        parameters["weights"] = str(parameters["weights"])
    fitted = {n: getattr(classifier, n) for n in _FITTED if hasattr(classifier, n)}
    layers = classifier.network_.linear_layers
    n_partners = len(classifier.network_.partners)
    return {
        "format": NETWORK_FORMAT,
        "code": code,
        "parameters": encode(parameters, "params", arrays),
        "estimator": describe_estimator(estimator, "estimator.", arrays),
        "fitted_estimator": describe_estimator(
            classifier.estimator_, "estimator_.", arrays
        ),
        "fitted": encode(fitted, "fitted", arrays),
        "sizes": [layer.in_features for layer in layers] + [layers[-1].out_features],
        **({"partners": n_partners} if n_partners else {}),
    }


def load_network(
    kind: type["BaseNetworkClassifier"], path: Path, code_values: Mapping[str, Any]
) -> tuple[Any, Network]:
    """Read what :func:`save_network` wrote.

    Parameters
    ----------
    kind : type
        FineTuneClassifier.
    path : Path
    code_values : mapping
        What the file cannot hold, by name; None where there is no need.

    Returns
    -------
    classifier : FineTuneClassifier
        Without its network.
    network : Network
        In evaluation.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is not a file.")
    tensors, header = read_file(path, NETWORK_FORMAT, torch=True)
    with reading(path):
        code = [name for name in _CODE if name in header["code"]]
    _check_code(code, code_values)
    with reading(path):
        classifier = _rebuild(kind, header, tensors, code_values)
        sizes = _check_head(header, tensors, classifier)
        settings = backbone_settings(classifier.get_params(deep=False))
    try:
        parts = [
            _build(classifier.backbone, settings, header, tensors)
            for _ in range(1 + int(header.get("partners", 0)))
        ]
        network = parts[0]
        network.partners = nn.ModuleList(parts[1:])
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        # Of what a library makes of a name and of files that may be forged.
        raise ValueError(
            f"path={str(path)!r}: backbone={classifier.backbone!r} of this file cannot "
            f"be built here, before its weights are set: {error!r}"
        ) from error
    network.add_head(sizes[0], sizes[1:-1], sizes[-1], classifier.dropout, seed=0)
    try:
        network.load_state_dict(_under("network.", tensors))
    except RuntimeError as error:
        raise ValueError(
            f"path={str(path)!r} holds the weights of another architecture than "
            f"backbone={classifier.backbone!r}: {error}"
        ) from error
    _compare_preparation(path, header["prepared"], network.embedder)
    return classifier, network.eval()


def _build(
    backbone: Any,
    settings: Mapping[str, Any],
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Network:
    """Return the network of a file before its weights; the file is all it needs."""
    if not isinstance(backbone, str):
        backbone = copied_module(backbone)  # the user's own stays as it is
    with contextlib.ExitStack() as files:
        folder = None
        if has_folder(backbone, settings):
            packed = unpacked_encoder(header["files"], tensors)
            folder = files.enter_context(packed)
        embedder = rebuild_embedder(backbone, settings, folder)
    return Network(backbone, settings, embedder)


def _check_head(
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    classifier: "BaseNetworkClassifier",
) -> list[int]:
    """Return the sizes of the layers of the head, if they are those of the file."""
    sizes: list[int] = header["sizes"]
    layers = [
        list(value.shape[::-1])
        for name, value in tensors.items()
        if name.startswith("network.head.") and value.ndim == 2
    ]
    wanted = [list(pair) for pair in pairwise(sizes)]
    if not wanted or sorted(layers) != sorted(wanted):
        raise ValueError("its header has other sizes than its head")
    if sizes[-1] != n_logits(len(classifier.classes_)):
        raise ValueError("its head has not as many outputs as there are classes")
    if any(value.isnan().any() for value in tensors.values()):
        raise ValueError("it has weights that are NaN")
    return sizes


def _preparation(embedder: Backbone) -> dict[str, Any]:
    """Return how items become tensors, but for the versions of libraries."""
    described = dict(embedder.description.get("preprocess") or {})
    described.pop("image", None)
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def _compare_preparation(
    path: Path, before: Mapping[str, Any], embedder: Backbone
) -> None:
    """Warn if items are prepared in another way than before."""
    now = _preparation(embedder)
    changed = [n for n in {*before, *now} if before.get(n) != now.get(n)]
    if changed:
        name = sorted(changed)[0]
        warn_caller(
            f"path={str(path)!r}: items are prepared in another way than those the "
            f"network was trained on, as by another version of a library: {name} was "
            f"{before.get(name)!r} and is {now.get(name)!r}. Give preprocess= as it "
            "was, or train again."
        )


def _check_code(code: list[str], values: Mapping[str, Any]) -> None:
    """Raise unless there are values for exactly what the file cannot hold."""
    for name, value in values.items():
        if (name in code) == (value is None):
            raise ValueError(
                f"{name}={value!r}: the classifier "
                + ("was" if value is None else "was not")
                + f" trained with {name} of your own, which the file does not hold"
            )


def _rebuild(
    kind: type["BaseNetworkClassifier"],
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    code_values: Mapping[str, Any],
) -> Any:
    """Return the classifier that a header describes, without its network."""
    arrays = _under("array.", tensors, lambda value: value.numpy())
    parameters = decode(header["parameters"], arrays)
    parameters |= {k: value for k, value in code_values.items() if value is not None}
    estimator = rebuild_estimator(header["estimator"], arrays)
    classifier = kind(estimator=estimator, **parameters)
    fitted = decode(header["fitted"], arrays)
    unknown = [name for name in fitted if name not in _FITTED]
    if unknown:
        raise ValueError(f"{unknown[0]} is no fitted attribute")
    _check_shapes(fitted["_input_shapes"])
    check_fitted({k: v for k, v in fitted.items() if not k.startswith("_")})
    for name, value in fitted.items():
        setattr(classifier, name, value)
    classifier.estimator_ = rebuild_estimator(header["fitted_estimator"], arrays)
    return classifier


def _check_shapes(shapes: Mapping[str, list[Any]]) -> None:
    """Raise unless these are sizes and types of the parts of an item."""
    for name, (*sizes, dtype) in shapes.items():
        are_sizes = all(type(size) is int and size >= 0 for size in sizes)
        if not (are_sizes and isinstance(getattr(torch, dtype), torch.dtype)):
            raise ValueError(f"items have no part {name!r} of {sizes} and {dtype!r}")


def _is_code(value: Any) -> bool:
    return isinstance(value, nn.Module) or callable(value)


def _under(
    prefix: str,
    tensors: Mapping[str, Tensor],
    convert: Callable[[Tensor], Any] = lambda value: value,
) -> dict[str, Any]:
    """Return what is named with a prefix, under the rest of the name."""
    return {
        name.removeprefix(prefix): convert(value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
