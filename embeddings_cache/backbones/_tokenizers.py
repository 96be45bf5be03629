"""What a tokenizer is, by content: two that split one text in two ways must differ."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any


def describe_tokenizer(tokenizer: Any) -> str | None:
    """Return the SHA-256 of a tokenizer's own files or text; None for no tokenizer.

    Parameters
    ----------
    tokenizer : object or None
        Of transformers (fast or not), tokenizers, or sentence-transformers.
    """
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        return hashlib.sha256(backend.to_str().encode()).hexdigest()
    save = getattr(tokenizer, "save_pretrained", None) or tokenizer.save
    sha = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()
