"""From what changes a number to a digest: the two kinds of key of the cache.

An *extractor key* is the SHA-256 of a canonical JSON text that declares library
and version, model, weights, preprocessing, output point and number formats. An
*item key* is the SHA-256 of an item's bytes. Neither contains a path, a time or
anything hashed from a live Python object.
"""

import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SCHEMA = 1
KEY_BYTES = 32


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises
    ------
    TypeError
        For values without a JSON form; they must be described first.
    """
    text = json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )
    return text.encode("ascii")


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def jsonable(value: Any) -> Any:
    """Turn tuples, paths, numpy and torch scalars into plain JSON values.

    Raises
    ------
    TypeError
        If the value, or a part of it, has no declared JSON form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(name): jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(jsonable(part) for part in value)
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, type) or type(value).__module__ == "torch":
        return str(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON form")


def tensors_digest(tensors: Iterable[tuple[str, "torch.Tensor"]]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors.

    Parameters
    ----------
    tensors : iterable of (str, torch.Tensor)
        In any order; they are sorted by name.

    Returns
    -------
    str
        64 hexadecimal digits. The device of the tensors does not matter.
    """
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        head = [name, str(tensor.dtype), list(tensor.shape)]
        sha.update(canonical_json(head))
        # A conjugate or negative view has its bytes written out first.
        tensor = tensor.detach().to("cpu").resolve_conj().resolve_neg()
        flat = tensor.contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()


def versions(*distributions: str) -> dict[str, str]:
    """Return the installed versions of distributions, "absent" where missing."""
    installed = {}
    for name in distributions:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "absent"
    return installed
