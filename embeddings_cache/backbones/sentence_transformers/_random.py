"""Text transformers at full size with seeded random weights, without any download."""

import hashlib
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from embeddings_cache.backbones._base import Backbone, BackboneSpec, Cuts
from embeddings_cache.backbones._building import (
    construct,
    library_versions,
    random_note,
    random_weights,
    unknown_name,
)
from embeddings_cache.backbones.sentence_transformers import FAMILY
from embeddings_cache.backbones.sentence_transformers._pooling import pooled_tokens

_MINILM = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
# name -> (model class of transformers, its configuration's changes)
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-base-uncased": ("Bert", {}),
    "bert-base-cased": ("Bert", {"vocab_size": 28996}),
    "bert-large-uncased": ("Bert", _LARGE),
    "distilbert-base-uncased": ("DistilBert", {}),
    "roberta-base": (
        "Roberta",
        {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    ),
    "all-MiniLM-L6-v2": ("Bert", {**_MINILM, "num_hidden_layers": 6}),
    "all-MiniLM-L12-v2": ("Bert", {**_MINILM, "num_hidden_layers": 12}),
}
_MAX_LENGTH = 512
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_random(spec: BackboneSpec) -> Backbone:
    """Build a known architecture by name, with a character tokenizer made here."""
    transformers = FAMILY.require("transformers")
    name = spec.name.split("/")[-1]
    if name not in _ARCHITECTURES:
        if Path(spec.name).is_dir():
            raise ValueError(
                f"backbone='{spec.label}' is a folder with weights of its own; leave "
                "pretrained=True to load them"
            )
        raise unknown_name(spec, _ARCHITECTURES)
    family, changes = _ARCHITECTURES[name]
    settings = {**changes, **spec.model_kwargs}
    config = construct(
        spec, lambda: getattr(transformers, f"{family}Config")(**settings)
    )
    network = construct(spec, lambda: getattr(transformers, f"{family}Model")(config))
    tokenizer = _character_tokenizer(config.max_position_embeddings, config.vocab_size)
    text = tokenizer.to_str()
    note = random_note(spec)
    cuts = Cuts()
    return Backbone(
        network=network,
        modality="text",
        prepare=str,
        collate=_collate(tokenizer, config, cuts, with_types=family == "Bert"),
        forward=lambda tokens: pooled_tokens(
            spec, network, tokens, tokens["attention_mask"]
        ),
        description=spec.describe(
            libraries=library_versions("transformers", "tokenizers", "torch"),
            weights=random_weights(),
            preprocess={
                "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
                "tokens": "characters of a vocabulary made here, not the published one",
            },
        ),
        note=f"{note}; texts are split into characters, not into its own word pieces",
        cuts=cuts,
    )


def _collate(
    tokenizer: Any, config: Any, cuts: Cuts, *, with_types: bool
) -> Callable[[list[str]], dict[str, torch.Tensor]]:
    """Return the function from texts to the model's padded inputs."""
    pad = getattr(config, "pad_token_id", None) or 0

    def collate(texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = tokenizer.encode_batch(texts)
        for text, entry in zip(texts, encoded):
            if entry.overflowing:
                cuts.note(text)
        ids = torch.tensor([entry.ids for entry in encoded])
        mask = torch.tensor([entry.attention_mask for entry in encoded])
        tokens = {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}
        if with_types:
            tokens["token_type_ids"] = torch.zeros_like(ids)
        return tokens

    return collate


def _character_tokenizer(positions: int, vocab_size: int) -> Any:
    """Return a WordPiece tokenizer over printable ASCII and Latin letters."""
    tokenizers = FAMILY.require("tokenizers")
    latin = "".join(chr(code) for code in range(0xA1, 0x250))
    letters = string.digits + string.ascii_letters + string.punctuation + latin
    words = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words[:vocab_size])}
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            vocabulary, unk_token=_SPECIAL[1], max_input_chars_per_word=_MAX_LENGTH
        )
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # RoBERTa counts positions from 2; two fewer fit every model here.
    tokenizer.enable_truncation(max_length=min(_MAX_LENGTH, positions - 2))
    tokenizer.enable_padding(pad_id=0, pad_token=_SPECIAL[0])
    return tokenizer
