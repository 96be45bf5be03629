"""Sentence encoders: published, from a local folder, or of seeded random weights."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embeddings_cache._errors import WeightsError
from embeddings_cache._fingerprint import jsonable, tensors_digest
from embeddings_cache._paths import expanded, refuse_special_below
from embeddings_cache._thread_limits import own_threads
from embeddings_cache.backbones._base import Backbone, BackboneSpec, Cuts
from embeddings_cache.backbones._building import (
    SEED,
    construct,
    library_versions,
    refuse_kwargs,
)
from embeddings_cache.backbones._output import POOLINGS, check_pooling
from embeddings_cache.backbones._randomness import SeededGenerator
from embeddings_cache.backbones._tokenizers import describe_tokenizer
from embeddings_cache.backbones.sentence_transformers import FAMILY
from embeddings_cache.backbones.sentence_transformers._bars import quiet_files
from embeddings_cache.backbones.sentence_transformers._pooling import pooled_tokens

# Arguments of `SentenceTransformer`; the other ones are the transformer's.
_OWN_KWARGS = frozenset(
    {
        "prompts", "default_prompt_name", "truncate_dim", "revision",
        "processor_kwargs", "config_kwargs",
    }
)  # fmt: skip
_NOT_HERE = {
    "trust_remote_code": "code that comes with a model is not run; build the network "
    "yourself and pass it as a torch.nn.Module",
    "device": "give device= to the extractor",
    "device_map": "give device= to the extractor",
    "backend": "networks run in torch",
    "use_safetensors": "pickled checkpoints are not loaded",
}
# transformers sets this on parameters that it has read from a file.
_LOADED = "_is_hf_initialized"
# What a configuration says of where it comes from.
_ORIGIN = frozenset({"_name_or_path", "name_or_path", "transformers_version"})


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
        from embeddings_cache.backbones.sentence_transformers._random import (
            build_random,
        )

        return build_random(spec)
    return _build_trained(spec)


def _build_trained(spec: BackboneSpec) -> Backbone:
    library = FAMILY.require("sentence_transformers")
    source = spec.weights or spec.name
    folder = expanded(source)
    local = folder.is_dir()
    if local:
        refuse_special_below(folder, "weights" if spec.weights else "backbone")
        _check_folder(spec, folder)
    elif spec.weights is not None:
        raise WeightsError(
            f"weights={spec.weights!r}: a sentence encoder is a folder with its "
            "modules, tokenizer and model.safetensors; there is no such folder"
        )
    # What a folder has no tensor for, such as a pooler that nothing reads, is drawn.
    with quiet_files(quiet=local), SeededGenerator(SEED), own_threads(1):
        network = construct(
            spec,
            lambda: library.SentenceTransformer(
                str(folder) if local else source,
                device="cpu",
                local_files_only=local,
                trust_remote_code=False,
                **_constructor_kwargs(spec),
            ),
        )
    _check_modality(spec, network)
    _check_complete(spec, network)
    description = _describe(spec, network)
    cuts = Cuts()
    return Backbone(
        network=network,
        modality="text",
        prepare=str,
        collate=_collate(network, cuts),
        forward=_forward(spec, network),
        description=description,
        cuts=cuts,
    )


def _constructor_kwargs(spec: BackboneSpec) -> dict[str, Any]:
    """Split `model_kwargs` into the library's own arguments and the transformer's."""
    refuse_kwargs(spec, _NOT_HERE)
    library: dict[str, Any] = {}
    transformer: dict[str, Any] = {}
    for name, value in spec.model_kwargs.items():
        (library if name in _OWN_KWARGS else transformer)[name] = value
    if not {"dtype", "torch_dtype"} & set(transformer):
        # The library computes in the type of the file; `precision` says what it is.
        transformer["dtype"] = torch.float32
    return {**library, "model_kwargs": {"use_safetensors": True, **transformer}}


def _check_modality(spec: BackboneSpec, network: Any) -> None:
    if not network.supports("text"):
        raise ValueError(
            f"backbone='{spec.label}' takes {', '.join(map(str, network.modalities))} "
            "and no texts. Images go to 'timm:...', 'torchvision:...' or "
            "'open_clip:...'"
        )


def _check_complete(spec: BackboneSpec, network: nn.Module) -> None:
    """Refuse a transformer with tensors that its file did not have.

    The library draws them at random, and says so in its log alone. A pooler is often
    left out, since few models read it.
    """
    for transformer in filter(_is_transformer, network.modules()):
        parameters = dict(transformer.named_parameters())
        loaded = {name for name, p in parameters.items() if hasattr(p, _LOADED)}
        missing = [name for name in parameters if name not in loaded]
        pooled = _reads_pooler(network)
        unread = [name for name in missing if pooled or "pooler" not in name]
        if loaded and unread:
            raise WeightsError(
                f"the weights of {spec.label} lack {len(unread)} tensors of a "
                f"{type(transformer).__name__} ({', '.join(unread[:3])}"
                f"{', ...' if unread[3:] else ''}), which would be random. Save the "
                "whole model again"
            )


def _reads_pooler(network: nn.Module) -> bool:
    """Return whether texts are embedded by a transformer's pooler."""
    configs = [getattr(module, "modality_config", {}) for module in network.modules()]
    texts = [config.get("text", {}) for config in configs if isinstance(config, dict)]
    return any("pooler_output" in str(text.get("method_output_name")) for text in texts)


def _prompt(network: Any) -> str | None:
    """Return what the library's `encode` puts before a text, if no other is named."""
    if network.default_prompt_name is None:
        return None
    prompt: str | None = network.prompts.get(network.default_prompt_name)
    return prompt


def _collate(network: Any, cuts: Cuts) -> Callable[[list[str]], dict[str, Any]]:
    """Return the function from texts to features, as `encode` makes them."""
    prompt = _prompt(network)

    def collate(texts: list[str]) -> dict[str, Any]:
        features = network.preprocess(texts, prompt=prompt)
        for text, cut in zip(texts, _cut(network, features, texts, prompt or "")):
            if cut:
                cuts.note(text)
        return dict(features)

    return collate


def _cut(network: Any, features: Any, texts: list[str], prompt: str) -> Iterable[bool]:
    """Tell which texts lost their end to the network's maximum length."""
    encodings = getattr(features, "encodings", None)
    if encodings:
        return [bool(encoding.overflowing) for encoding in encodings]
    mask, limit = features.get("attention_mask"), _limit(network)
    if not isinstance(mask, torch.Tensor) or limit is None or mask.shape[1] < limit:
        return []
    full = (mask.sum(1) >= limit).tolist()
    return [
        is_full and _length(network.tokenizer, prompt + text) > limit
        for text, is_full in zip(texts, full)
    ]


def _limit(network: Any) -> int | None:
    """Return how many tokens the network takes; None for any number."""
    limit = network.max_seq_length
    return int(limit) if limit is not None and math.isfinite(limit) else None


def _length(tokenizer: Any, text: str) -> int:
    """Count the tokens of a whole text; tokenizers of words return them as a list."""
    if hasattr(tokenizer, "save_pretrained"):
        return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    return len(tokenizer.tokenize(text))


def _check_folder(spec: BackboneSpec, folder: Path) -> None:
    """Refuse folders with weights that would have to be unpickled."""
    for path in folder.rglob("*.bin"):
        pickled = path.match("pytorch_model*.bin") or path.match("adapter_model.bin")
        if pickled and not any(path.parent.glob("*.safetensors")):
            raise WeightsError(
                f"{path.parent} has no safetensors file, so it cannot be loaded for "
                f"{spec.label}. Pickled checkpoints are not loaded: save the model "
                "again with safe_serialization=True"
            )


def _describe(spec: BackboneSpec, network: Any) -> dict[str, Any]:
    """Describe a loaded encoder by content, so that its folder's name is no matter."""
    described = spec.describe(
        libraries=library_versions(*FAMILY.distributions, "torch"),
        weights={"tensors": tensors_digest(network.state_dict().items())},
        modules=[
            {
                "name": name,
                "class": f"{type(module).__module__}.{type(module).__qualname__}",
                **_module_config(module),
            }
            for name, module in network.named_modules()
            if hasattr(module, "get_config_dict") or _is_transformer(module)
        ],
        preprocess={
            "max_length": _limit(network),
            "prompt": _prompt(network),
            "truncate_dim": network.truncate_dim,
        },
    )
    # The weights are known by content: the name or folder they came from is not
    # part of what changes a number.
    described["model"] = "by content"
    return described


def _is_transformer(module: nn.Module) -> bool:
    return hasattr(module, "config_class") and hasattr(module, "config")


def _module_config(module: Any) -> dict[str, Any]:
    """Describe what a module computes with, beside its tensors."""
    if _is_transformer(module):
        config = module.config.to_dict()
        return {"config": _plain({k: v for k, v in config.items() if k not in _ORIGIN})}
    tokenizer = vars(module).get("tokenizer", getattr(module, "tokenizer", None))
    return {
        "config": _plain(module.get_config_dict()),
        "tokenizer": describe_tokenizer(tokenizer),
        "sides": [
            getattr(tokenizer, name, None)
            for name in ("padding_side", "truncation_side", "pad_token_id")
        ],
    }


def _plain(value: Any) -> Any:
    """Return a configuration in JSON; what has no such form is an error."""
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return jsonable(value)


def _forward(spec: BackboneSpec, network: Any) -> Callable[[Any], torch.Tensor]:
    embed = partial(_sentence_embedding, spec, network)
    if spec.layer is not None or spec.pooling != "default":
        embed = partial(_own_pooling, spec, network)
        if getattr(network[0], "auto_model", None) is None:
            raise ValueError(
                f"layer={spec.layer!r}, pooling={spec.pooling!r}: {spec.label} has no "
                "transformer to take them from; leave layer=None and pooling='default'"
            )
    return partial(_by_length, embed) if _padding_shows(embed, network) else embed


def _own_pooling(
    spec: BackboneSpec, network: Any, features: dict[str, Any]
) -> torch.Tensor:
    """Return the vector that `layer` and `pooling` of the request ask for."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    tokens = {name: features[name] for name in names if name in features}
    pooled = tokens["attention_mask"]
    if not all(getattr(module, "include_prompt", True) for module in network):
        # The first of the real tokens are the prompt's, which have no part in it.
        place = pooled.cumsum(dim=1)
        pooled = pooled * (place > features.get("prompt_length", 0))
    return pooled_tokens(spec, network[0].auto_model, tokens, pooled)


def _sentence_embedding(
    spec: BackboneSpec, network: Any, features: dict[str, Any]
) -> torch.Tensor:
    """Return what the library's `encode` returns for a batch of features."""
    output = network(dict(features))
    if "sentence_embedding" not in output:
        raise ValueError(
            f"backbone='{spec.label}': its last module gives no sentence embedding but "
            f"{', '.join(output)}; add a Pooling module and save it again"
        )
    embedding: torch.Tensor = output["sentence_embedding"]
    return embedding[..., : network.truncate_dim]


@torch.inference_mode()
def _padding_shows(
    embed: Callable[[dict[str, Any]], torch.Tensor], network: Any
) -> bool:
    """Return whether a text has another embedding beside a longer one.

    So it is where positions are counted from the padding on, on the left, or where a
    convolution reaches into it. An embedding is kept for its text, whatever else is
    in the batch.
    """
    if any(isinstance(module, nn.Conv1d) for module in network.modules()):
        return True
    side = getattr(getattr(network, "tokenizer", None), "padding_side", "right")
    if side != "left":
        return False
    network.eval()
    prompt = _prompt(network)
    alone, beside = (
        embed(network.preprocess(texts, prompt=prompt))[0]
        for texts in (["a"], ["a", "a long text " * 4])
    )
    scale = alone.abs().max().clamp(min=1e-6)
    return bool((alone - beside).abs().max() > 1e-4 * scale)


def _by_length(
    embed: Callable[[dict[str, Any]], torch.Tensor], features: dict[str, Any]
) -> torch.Tensor:
    """Return the embeddings of a batch from texts of equal length, without padding."""
    mask = features["attention_mask"].bool()
    lengths = mask.sum(1)
    parts, order = [], []
    for length in lengths.unique().tolist():
        rows = torch.nonzero(lengths == length).flatten()
        columns = mask[rows[0]]
        part = {name: _select(value, rows, columns) for name, value in features.items()}
        parts.append(embed(part))
        order.append(rows)
    return torch.cat(parts)[torch.cat(order).argsort()]


def _select(value: Any, rows: torch.Tensor, columns: torch.Tensor) -> Any:
    """Return some rows of a feature, and of these the positions that are no padding."""
    if not isinstance(value, torch.Tensor):
        return value
    chosen = value[rows]
    positions = value.ndim > 1 and value.shape[1] == len(columns) and columns.any()
    return chosen[:, columns] if positions else chosen
