"""The folder of a sentence encoder within the file of a network.

A sentence encoder is a folder: weights, and beside them what its modules are and how
its tokenizer splits texts. The weights are in the file of a network anyway; the other
files go there as bytes, so that nothing but the file is needed to build the encoder.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skdebias.finetune._extraction import quiet_files

_FILES, _WEIGHTS = "file.", "weights."
_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
# Data only: what the library would run, or unpickle, is not among them.
_NAME = re.compile(rf"({_PART}/)*{_PART}\.(json|jinja|md|model|spm|tiktoken|txt|vocab)")
_WEIGHTS_NAME = re.compile(rf"({_PART}/)*{_PART}\.safetensors")


@contextmanager
def encoder_folder(encoder: Any) -> Iterator[Path]:
    """Yield a temporary folder that an encoder can be loaded from.

    Parameters
    ----------
    encoder : sentence_transformers.SentenceTransformer

    Yields
    ------
    Path
    """
    with _temporary() as folder:
        with quiet_files():
            encoder.save(str(folder), create_model_card=False)
        yield folder


def pack_encoder(
    encoder: Any, state: Mapping[str, Tensor], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """Put the files of an encoder among the tensors of a network's file.

    Parameters
    ----------
    encoder : sentence_transformers.SentenceTransformer
    state : mapping of str to Tensor
        Tensors that are in the file already, by their names there.
    tensors : dict
        Filled with what is not there yet.

    Returns
    -------
    dict
        For each file of weights the names of its tensors, and where they are.

    Raises
    ------
    TypeError
        If the encoder has a file that is not known to be data.
    """
    layout: dict[str, Any] = {}
    with encoder_folder(encoder) as folder:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if _WEIGHTS_NAME.fullmatch(name):
                layout[name] = _pack_weights(path, name, state, tensors)
            elif _NAME.fullmatch(name):
                content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
                tensors[f"{_FILES}{name}"] = torch.from_numpy(content.copy())
            else:
                raise TypeError(
                    f"backbone: the sentence encoder has the file {name!r}, which is "
                    "not known to be data only, so it cannot be saved."
                )
    return layout


def _pack_weights(
    path: Path, name: str, state: Mapping[str, Tensor], tensors: dict[str, Tensor]
) -> dict[str, str]:
    from safetensors.torch import load_file

    places = {}
    for key, value in load_file(path).items():
        same = [
            other
            for other, known in state.items()
            if other.endswith(f".{key}")
            and known.dtype == value.dtype
            and torch.equal(known.cpu(), value)
        ]
        places[key] = same[0] if same else f"{_WEIGHTS}{name}:{key}"
        if not same:
            tensors[places[key]] = value
    return places


@contextmanager
def unpacked_encoder(
    layout: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[Path]:
    """Yield a temporary folder of the files that :func:`pack_encoder` packed.

    Parameters
    ----------
    layout : mapping
        What it returned.
    tensors : mapping of str to Tensor
        Those of the file.

    Yields
    ------
    Path

    Raises
    ------
    ValueError
        If a name is not one that it writes, or a module would be no module of the
        library.
    """
    from safetensors.torch import save_file

    with _temporary() as folder:
        for key, content in tensors.items():
            if not key.startswith(_FILES):
                continue
            path = _inside(folder, key.removeprefix(_FILES), _NAME)
            data = content.numpy().tobytes()
            if path.name == "modules.json":
                _check_modules(data)
            path.write_bytes(data)
        for name, places in layout.items():
            weights = {key: tensors[p].contiguous() for key, p in places.items()}
            save_file(weights, _inside(folder, name, _WEIGHTS_NAME), {"format": "pt"})
        yield folder


def _inside(folder: Path, name: str, allowed: re.Pattern[str]) -> Path:
    if not allowed.fullmatch(name):
        raise ValueError(f"it has a file of the name {name!r}")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_modules(data: bytes) -> None:
    for module in json.loads(data):
        if not str(module["type"]).startswith("sentence_transformers."):
            raise ValueError(
                f"its encoder has a module {module['type']!r}, which is not one of "
                "sentence-transformers"
            )


@contextmanager
def _temporary() -> Iterator[Path]:
    # Where files cannot be removed while they are mapped, they stay.
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name)
