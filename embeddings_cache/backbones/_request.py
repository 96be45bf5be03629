"""What the description of a backbone follows from, told without building it.

These are the extractor's parameters, the content of every local file of weights, the
versions of the libraries, and this package's own sources. Not certain are networks of
the user's own, and published weights, which can change behind their name.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from embeddings_cache._fingerprint import digest, jsonable, versions
from embeddings_cache._paths import expanded
from embeddings_cache.backbones import split_name
from embeddings_cache.backbones._model_kwargs import is_plain
from embeddings_cache.backbones._registry import families
from embeddings_cache.items._images import fills_truncated
from embeddings_cache.store._file_hashes import FileHashCache, file_state

_PACKAGE = Path(__file__).parents[1]
_MAX_FILES = 1000
_LIBRARIES = ("torch", "huggingface_hub", "safetensors", "pillow", "numpy")


def description_request(
    settings: dict[str, Any], file_hashes: FileHashCache
) -> str | None:
    """Digest everything a description follows from.

    Parameters
    ----------
    settings : dict
        The extractor's parameters that a backbone is built from.
    file_hashes : FileHashCache
        Knows the content of files of weights.

    Returns
    -------
    str or None
        None if the description may follow from something that cannot be told here.
    """
    files = _weights_files(settings)
    if files is None or not is_plain(settings["model_kwargs"]):
        return None
    try:
        return digest(
            {
                "settings": jsonable({**settings, "weights": None}),
                "files": {
                    name: file_hashes.digest(path) for name, path in files.items()
                },
                "libraries": versions(*_libraries()),
                "sources": _sources_digest(),
                "truncated": fills_truncated(),
            }
        )
    except (TypeError, ValueError, OSError):
        return None


def _weights_files(settings: dict[str, Any]) -> dict[str, Path] | None:
    """Return the local files that a backbone is built from; None if there are others.

    Seeded random weights need none.
    """
    backbone, weights = settings["backbone"], settings["weights"]
    if not isinstance(backbone, str):
        return None
    prefix, name = split_name(backbone)
    family = families()[prefix]
    # The configuration of such a network can name a tokenizer or a text network that
    # is elsewhere.
    if name.startswith(family.hub_names):
        return None
    if weights is None and family.folders and settings["pretrained"]:
        weights = name if expanded(name).is_dir() else None
    if weights is None:
        return None if settings["pretrained"] else {}
    path = expanded(weights)
    if not path.is_dir():
        return {"file": path}
    files = {str(p.relative_to(path)): p for p in path.rglob("*") if p.is_file()}
    # An adapter names the model it belongs to, which is elsewhere.
    foreign = any(Path(entry).name == "adapter_config.json" for entry in files)
    return None if foreign or len(files) > _MAX_FILES else files


def files_state(settings: dict[str, Any]) -> str:
    """Tell local files of weights that were replaced from those that were loaded."""
    files = list((_weights_files(settings) or {}).values())
    _, local, folder = str(settings["backbone"]).partition(":local-dir:")
    if local:
        files += sorted(expanded(folder).glob("*"))
    states = [file_state(path) or b"" for path in files]
    return b"".join(states).hex()


def _libraries() -> list[str]:
    """Return the distributions that any description can follow from."""
    names = {name for family in families().values() for name in family.distributions}
    return sorted({*_LIBRARIES, *names})


@cache
def _sources_digest() -> str:
    """Digest this package's code, which decides what is described and how."""
    sha = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        name = path.relative_to(_PACKAGE).as_posix()
        sha.update(name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()
