"""Checks of the extractor's parameters: name, value and remedy in every message."""

import numbers
import os
from typing import Any

from embeddings_cache._paths import expanded, refuse_special_below, refuse_url
from embeddings_cache.backbones._model_kwargs import check_model_kwargs

_CHOICES = {
    "pooling": ("default", "cls", "mean"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
    "storage_dtype": ("float16", "float32"),
    "worker_type": ("auto", "thread", "process"),
    "modality": ("auto", "image", "text"),
}


def check_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the parameters and fill in what they leave open.

    Parameters
    ----------
    parameters : dict
        Those of `EmbeddingExtractor`.

    Returns
    -------
    dict
        The same names; `modality` resolved, `weights` a str, `model_kwargs` a dict.

    Raises
    ------
    ValueError, TypeError
        For a value that cannot be used.
    """
    from embeddings_cache.backbones import family_of, resolve_modality

    checked = dict(parameters)
    for name, allowed in _CHOICES.items():
        if checked[name] not in allowed:
            raise ValueError(
                f"{name}={checked[name]!r} must be one of "
                f"{', '.join(repr(choice) for choice in allowed)}"
            )
    _check_backbone(checked["backbone"])
    _check_number("batch_size", checked["batch_size"], 1)
    _check_number("num_workers", checked["num_workers"], 0)
    if checked["worker_type"] == "process" and checked["num_workers"] == 0:
        raise ValueError(
            "worker_type='process' and num_workers=0, which reads in the calling "
            "thread: give num_workers of at least 1"
        )
    for name in ("pretrained", "progress", "compile", "rehash"):
        if not isinstance(checked[name], bool):
            raise TypeError(f"{name}={checked[name]!r} must be True or False")
    if checked["weights"] is not None:
        checked["weights"] = _checked_weights(checked["weights"])
    layer = checked["layer"]
    if isinstance(layer, bool) or not isinstance(layer, int | str | type(None)):
        raise TypeError(
            f"layer={layer!r} must be a block's number, a submodule's name, or None"
        )
    if not isinstance(checked["model_kwargs"], dict | type(None)):
        raise TypeError(
            f"model_kwargs={checked['model_kwargs']!r} must be a dict or None"
        )
    model_kwargs: dict[str, Any] = dict(checked["model_kwargs"] or {})
    if isinstance(checked["backbone"], str):
        check_model_kwargs(family_of(checked["backbone"]), model_kwargs)
    checked["model_kwargs"] = model_kwargs
    checked["modality"] = resolve_modality(checked["backbone"], checked["modality"])
    return checked


def _check_backbone(backbone: Any) -> None:
    if isinstance(backbone, str):
        return
    from torch import nn

    if not isinstance(backbone, nn.Module):
        raise TypeError(
            f"backbone={backbone!r} must be '<library>:<name>', such as "
            "'timm:resnet50', or a torch.nn.Module"
        )


def _checked_weights(weights: Any) -> str:
    """Return the path of local weights, which is that of a file or folder here."""
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(
            f"weights={weights!r} must be the path of a safetensors file or folder"
        )
    path = expanded(weights)
    refuse_url(path, "weights")
    refuse_special_below(path, "weights")
    return str(path)


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, str) and value == "auto":
        return
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise ValueError(
            f"{name}={value!r} must be 'auto' or a whole number of at least {least}"
        )
