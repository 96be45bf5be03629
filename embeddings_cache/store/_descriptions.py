"""What a backbone was described as, so that a warm run need not build it.

The description of a backbone needs its weights. It is remembered under a digest of
everything it follows from, all of which can be told without torch. What is not certain
is not remembered.

A run that has to compute something builds the network and compares the two.
"""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from embeddings_cache._fingerprint import digest
from embeddings_cache.store import _io
from embeddings_cache.store._atomic import write_atomically
from embeddings_cache.store._file_hashes import memo_folder

_LIMIT = 64 << 20


class StaleDescriptionError(Exception):
    """The network that was built is not the one that was remembered (internal)."""


class DescriptionCache:
    """Remembers the description of one backbone.

    Parameters
    ----------
    root : Path
        The cache folder.
    make_request : callable
        Returns the digest of everything that the description follows from, or None if
        that is not certain. Called once, when it is needed first.
    """

    def __init__(self, root: Path, make_request: Callable[[], str | None]) -> None:
        self._folder = memo_folder(root) / "backbones"
        self._make_request = make_request

    @cached_property
    def _request(self) -> str | None:
        return self._make_request()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._request}.json"

    def get(self) -> tuple[dict[str, Any], str | None] | None:
        """Return the description and the note of the backbone; None if not certain."""
        if self._request is None:
            return None
        try:
            content = json.loads(_io.read_file(self._path, _LIMIT))
            description, note = content["description"], content["note"]
            intact = content["checksum"] == digest([self._request, description, note])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (description, note) if intact else None

    def put(self, description: dict[str, Any], note: str | None) -> None:
        """Remember a backbone that was built; an unwritable cache forgets."""
        if self._request is None:
            return
        content = {
            "description": description,
            "note": note,
            "checksum": digest([self._request, description, note]),
        }
        try:
            write_atomically(self._path, json.dumps(content).encode())
        except OSError:
            return
