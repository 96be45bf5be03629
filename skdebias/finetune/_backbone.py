"""The backbone that a classifier's parameters ask for, with its preprocessing."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skdebias.finetune._checks import check_tensor, plain_module
from skdebias.finetune._extraction import (
    Backbone,
    BackboneSpec,
    EmbeddingExtractor,
    UndescribableError,
    build_backbone,
    describe_network,
    layer_output,
    load_weights,
    network_settings,
    pool,
    saves_folders,
)


def backbone_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extractor's checked request out of a classifier's parameters.

    Parameters
    ----------
    parameters : mapping
        The classifier's own.

    Returns
    -------
    dict

    Raises
    ------
    TypeError, ValueError
        For a value that cannot be used.
    """
    names = (
        "pretrained", "weights", "layer", "pooling", "model_kwargs", "preprocess",
        "modality",
    )  # fmt: skip
    request = {name: parameters[name] for name in names}
    backbone = parameters["backbone"]
    if request["modality"] == "tensor":
        if not isinstance(backbone, nn.Module):
            raise TypeError(
                f"modality='tensor' needs a torch.nn.Module as backbone, which takes "
                f"items as they are; backbone={backbone!r} prepares them itself."
            )
        for name, remedy in (
            ("model_kwargs", "the module is built already"),
            ("preprocess", "prepare the array, or do it in the module's forward"),
        ):
            if request[name]:
                raise ValueError(
                    f"{name}={request[name]!r} has no effect with modality='tensor': "
                    f"leave it at None; {remedy}."
                )
        return {**request, "model_kwargs": {}}
    return network_settings(EmbeddingExtractor(backbone, **request))


def build_embedder(backbone: Any, settings: Mapping[str, Any]) -> Backbone:
    """Build a network with its preprocessing.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        As for :class:`embeddings_cache.EmbeddingExtractor`; of a module, the very
        object is used.
    settings : mapping
        The other fields of the extractor's request; `modality` may be ``"tensor"``.

    Returns
    -------
    Backbone
    """
    if isinstance(backbone, nn.Module):
        backbone = plain_module(backbone)
    if settings["modality"] != "tensor":
        return build_backbone(backbone, **settings)
    return _embedder_of_numbers(backbone, settings)


def _embedder_of_numbers(backbone: nn.Module, settings: Mapping[str, Any]) -> Backbone:
    """Return a module that takes rows of an array as they are."""
    spec = BackboneSpec(
        "torch",
        type(backbone).__name__,
        "tensor",
        layer=settings["layer"],
        pooling=settings["pooling"],
        network=backbone,
    )
    if settings["weights"] is not None:
        weights = str(Path(settings["weights"]).expanduser())
        load_weights(backbone, weights, spec.label)
    output: dict[str, Any] = {}
    forward: Callable[[Any], Any] = backbone
    if spec.layer is not None or spec.pooling != "default":
        output = {"layer": spec.layer, "pooling": spec.pooling}
        inner = backbone if spec.layer is None else layer_output(spec, backbone)
        forward = partial(_pooled, spec, inner)
    return Backbone(
        network=backbone,
        modality="tensor",
        prepare=torch.as_tensor,
        collate=torch.stack,
        forward=forward,
        description={"family": "torch", "modality": "tensor", **output},
    )


def _pooled(spec: BackboneSpec, inner: Callable[[Any], Any], batch: Any) -> Tensor:
    output = inner(batch)
    check_tensor(output)
    return pool(spec, output)


def has_folder(backbone: Any, settings: Mapping[str, Any]) -> bool:
    """Return whether a network is described by files beside its weights.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    settings : mapping
        As for :func:`build_embedder`.

    Returns
    -------
    bool
    """
    trained = settings["pretrained"] or settings["weights"] is not None
    return isinstance(backbone, str) and saves_folders(backbone) and trained


def rebuild_embedder(
    backbone: Any, settings: Mapping[str, Any], folder: Path | None = None
) -> Backbone:
    """Build a network whose weights are at hand: none are read or downloaded.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    settings : mapping
        With which it was built at first.
    folder : Path, default=None
        Of its files, where :func:`has_folder` says that it has some.

    Returns
    -------
    Backbone
        Of no weights in particular.
    """
    source: dict[str, Any]
    if folder is None:
        source = {"pretrained": False, "weights": None}
    else:
        source = {"weights": str(folder)}
    return build_embedder(backbone, {**settings, **source})


def describe_backbone(embedder: Backbone) -> dict[str, Any]:
    """Describe a network before it is trained, and what its items go through.

    Parameters
    ----------
    embedder : Backbone
        As from :func:`build_embedder`.

    Returns
    -------
    dict
        Plain JSON values, the same in every process.

    Raises
    ------
    UndescribableError
        If something about a network of the user's cannot be described.
    """
    try:
        described: dict[str, Any] = embedder.description
        if described["family"] != "torch":
            return described  # by name, and built anew
        return described | describe_network(embedder.network, training=True)
    except UndescribableError as error:
        raise UndescribableError(
            f"{error}. Or leave checkpoint_dir=None: only a run that can go on needs "
            "to be told from others"
        ) from error
