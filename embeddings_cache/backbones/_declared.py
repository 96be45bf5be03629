"""The description that an object carries itself, taken at its word."""

import re
from typing import Any

from embeddings_cache._errors import UndescribableError
from embeddings_cache._fingerprint import canonical_json, jsonable

IDENTITY = "cache_description"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def declared(value: Any, where: str) -> dict[str, Any] | None:
    """Return the declaration of an object, None if it has none.

    Parameters
    ----------
    value : object
        May have an attribute ``cache_description``.
    where : str
        Its place, for messages.

    Raises
    ------
    UndescribableError
        If the declaration is not made of plain values, or has an address in it,
        which is another one in every process.

    Examples
    --------
    >>> from embeddings_cache.backbones._declared import declared
    >>> def halve(image):
    ...     return image / 2
    >>> halve.cache_description = "halve, v1"
    >>> declared(halve, "preprocess")
    {'declared': 'halve, v1'}
    """
    declaration = getattr(value, IDENTITY, None)
    if declaration is None:
        return None
    try:
        plain = jsonable(declaration)
        text = canonical_json(plain).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(where, declaration, f"has no plain form ({error})") from error
    if _ADDRESS.search(text):
        raise _refusal(where, declaration, "has the address of an object in it")
    return {"declared": plain}


def _refusal(where: str, declaration: Any, why: str) -> UndescribableError:
    return UndescribableError(
        f"{where}.{IDENTITY}={declaration!r} {why}. Give a text, or numbers and texts "
        "in lists and dicts, that changes whenever the numbers do"
    )
