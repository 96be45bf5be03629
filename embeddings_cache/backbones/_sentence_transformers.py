"""Sentence encoders: published, from a local folder, or of seeded random weights."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embeddings_cache._errors import WeightsError
from embeddings_cache._fingerprint import tensors_digest
from embeddings_cache.backbones._base import (
    POOLINGS,
    Backbone,
    BackboneSpec,
    check_pooling,
    construct,
    library_versions,
    require,
)

_FAMILY = "sentence-transformers"


def build(spec: BackboneSpec) -> Backbone:
    """Build ``sentence-transformers:<name or folder>``."""
    if spec.preprocess is not None:
        raise ValueError(
            f"preprocess={spec.preprocess!r}: a text backbone has its tokenizer only; "
            "leave preprocess=None"
        )
    check_pooling(spec, POOLINGS)
    if spec.layer is not None and not isinstance(spec.layer, int):
        raise ValueError(
            f"layer={spec.layer!r} must be the number of a transformer block, "
            "counted from 1 or from the end with -1"
        )
    if spec.random:
        from embeddings_cache.backbones._random_text import build_random

        return build_random(spec)
    return _build_trained(spec)


def _build_trained(spec: BackboneSpec) -> Backbone:
    library = require("sentence_transformers", _FAMILY)
    source = spec.weights or spec.name
    folder = Path(source).expanduser()
    local = folder.is_dir()
    if local:
        _check_folder(spec, folder)
    elif spec.weights is not None:
        raise WeightsError(
            f"weights={spec.weights!r}: a sentence encoder is a folder with its "
            "modules, tokenizer and model.safetensors; there is no such folder"
        )
    with quiet_files(quiet=local):
        network = construct(
            spec,
            lambda: library.SentenceTransformer(
                str(folder) if local else source,
                device="cpu",
                local_files_only=local,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, **spec.model_kwargs},
            ),
        )
    tokenize = getattr(network, "preprocess", None) or network.tokenize
    return Backbone(
        network=network,
        modality="text",
        prepare=str,
        collate=lambda texts: dict(tokenize(texts)),
        forward=_forward(spec, network),
        description=_describe(spec, network),
    )


@contextmanager
def quiet_files(*, quiet: bool = True) -> Iterator[None]:
    """Switch off the library's own bars for local files.

    Parameters
    ----------
    quiet : bool, default=True
        Whether to do so.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if quiet:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if quiet and shown:
            logging.enable_progress_bar()


def _check_folder(spec: BackboneSpec, folder: Path) -> None:
    if not any(folder.rglob("*.safetensors")):
        raise WeightsError(
            f"{folder} has no safetensors file, so it cannot be loaded for "
            f"{spec.label}. Pickled checkpoints are not loaded: save the model again "
            "with safe_serialization=True"
        )


def _describe(spec: BackboneSpec, network: Any) -> dict[str, Any]:
    """Describe a loaded encoder by content, so that its folder's name is no matter."""
    tokenizer = network.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(tokenizer)
    modules: list[dict[str, Any]] = [
        {
            "class": f"{type(module).__module__}.{type(module).__qualname__}",
            "config": getattr(module, "get_config_dict", dict)(),
        }
        for module in network
    ]
    described = spec.describe(
        libraries=library_versions("sentence-transformers", "transformers", "torch"),
        weights={"tensors": tensors_digest(network.state_dict().items())},
        modules=modules,
        preprocess={
            "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
            "max_length": network.max_seq_length,
            "lower_case": getattr(tokenizer, "do_lower_case", None),
            "prompts": network.prompts,
            "prompt": network.default_prompt_name,
        },
    )
    # The weights are known by content: the name or folder they came from is not
    # part of what changes a number.
    described["model"] = "by content"
    return described


def _forward(spec: BackboneSpec, network: Any) -> Callable[[Any], torch.Tensor]:
    if spec.layer is None and spec.pooling == "default":

        def whole(features: dict[str, Any]) -> torch.Tensor:
            output: torch.Tensor = network(dict(features))["sentence_embedding"]
            return output

        return whole
    transformer = network[0].auto_model

    def inner(features: dict[str, Any]) -> torch.Tensor:
        names = ("input_ids", "attention_mask", "token_type_ids")
        tokens = {name: features[name] for name in names if name in features}
        return pooled_tokens(spec, transformer, tokens)

    return inner


def pooled_tokens(
    spec: BackboneSpec, transformer: nn.Module, tokens: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return CLS or the mean over real tokens of a transformer's output."""
    output = transformer(**tokens, output_hidden_states=spec.layer is not None)
    hidden = output.last_hidden_state
    if spec.layer is not None:
        states = output.hidden_states
        # hidden_states[0] are the embeddings before the first block.
        number = int(spec.layer) + (len(states) if int(spec.layer) < 0 else 0)
        if not 1 <= number < len(states):
            raise ValueError(
                f"layer={spec.layer!r} must be a block of {spec.label}: 1 to "
                f"{len(states) - 1}, or -{len(states) - 1} to -1"
            )
        hidden = states[number]
    if spec.pooling == "cls":
        first: torch.Tensor = hidden[:, 0]
        return first
    mask = tokens["attention_mask"].unsqueeze(-1).to(torch.float32)
    mean: torch.Tensor = (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return mean
