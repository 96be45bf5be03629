"""What a backbone was described as, so that a warm run need not build it.

The description of a backbone needs its weights. It is remembered under a digest of
everything it follows from, all of which can be told without torch: the extractor's
parameters, the content of every local file of weights, the versions of the libraries,
and this package's own sources. What is not certain is not remembered: networks of the
user's own, and published weights, which can change behind their name.

A run that has to compute something builds the network and compares the two.
"""

import hashlib
import json
import os
import sys
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from embeddings_cache import _io
from embeddings_cache._fingerprint import digest, jsonable, versions
from embeddings_cache._images import fills_truncated
from embeddings_cache._memo import FileMemo, file_state, memo_folder
from embeddings_cache._model_kwargs import is_plain
from embeddings_cache._special import expanded

_LIMIT = 64 << 20
_MAX_FILES = 1000
_LIBRARIES = (
    "torch", "torchvision", "timm", "open_clip_torch", "sentence-transformers",
    "transformers", "tokenizers", "huggingface_hub", "safetensors", "pillow", "numpy",
)  # fmt: skip
# Without one of these, Linux has no GPU that torch could use.
_GPU_NODES = (
    "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-ctrl", "/dev/dxg",
    "/dev/kfd",
)  # fmt: skip


class StaleDescriptionError(Exception):
    """The network that was built is not the one that was remembered (internal)."""


class Recall:
    """Remembers the description of one backbone.

    Parameters
    ----------
    root : Path
        The cache folder.
    settings : dict
        The extractor's parameters that a backbone is built from.
    memo : FileMemo
        Knows the content of files of weights.
    """

    def __init__(self, root: Path, settings: dict[str, Any], memo: FileMemo) -> None:
        self._folder = memo_folder(root) / "backbones"
        self._settings = settings
        self._memo = memo

    @cached_property
    def _request(self) -> str | None:
        return _request(self._settings, self._memo)

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._request}.json"

    def get(self) -> tuple[dict[str, Any], str | None] | None:
        """Return description and note of the backbone; None if not certain."""
        if self._request is None:
            return None
        try:
            content = json.loads(_io.read_file(self._path, _LIMIT))
            description, note = content["description"], content["note"]
            whole = content["checksum"] == digest([self._request, description, note])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (description, note) if whole else None

    def put(self, description: dict[str, Any], note: str | None) -> None:
        """Remember a backbone that was built; an unwritable cache forgets."""
        if self._request is None:
            return
        content = {
            "description": description,
            "note": note,
            "checksum": digest([self._request, description, note]),
        }
        path = self._folder / f"{self._request}.{os.getpid()}.tmp"
        try:
            _io.make_folder(self._folder)
            path.write_text(json.dumps(content))
            _io.rename(path, self._path)
        except OSError:
            return


def _request(settings: dict[str, Any], memo: FileMemo) -> str | None:
    """Digest everything a description follows from; None if something may hide."""
    files = _weights_files(settings)
    if files is None or not is_plain(settings["model_kwargs"]):
        return None
    try:
        return digest(
            {
                "settings": jsonable({**settings, "weights": None}),
                "files": {name: memo.digest(path) for name, path in files.items()},
                "libraries": versions(*_LIBRARIES),
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
    if not isinstance(backbone, str) or ":" not in backbone:
        return None
    family, _, name = backbone.partition(":")
    # timm and open_clip read the configuration of such a model from the hub, and it
    # can name a tokenizer or a text network that is elsewhere.
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return None
    if weights is None and family == "sentence-transformers" and settings["pretrained"]:
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


@cache
def _sources_digest() -> str:
    """Digest this package's code, which decides what is described and how."""
    folder = Path(__file__).parent
    sha = hashlib.sha256()
    for path in sorted([*folder.glob("_*.py"), *folder.glob("backbones/*.py")]):
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()


def compute_without_torch(device: Any, precision: str) -> dict[str, Any] | None:
    """Describe the arithmetic as `describe_compute` does, if that needs no torch.

    Where torch is imported already it is asked.
    """
    if "torch" in sys.modules:
        return None
    if precision in ("bfloat16", "float16"):
        return {"dtype": precision, "tf32": False}
    no_gpu = sys.platform == "linux" and not any(map(os.path.exists, _GPU_NODES))
    if device == "cpu" or (device == "auto" and no_gpu):
        return {"dtype": "float32", "tf32": False}
    return None
