"""Checkpoints of a training run: one file each, whole or not there.

A checkpoint is a safetensors file whose header holds what is no tensor, as JSON. It is
written under another name, put on the disk and then renamed, so that a run killed at
any instruction finds either the old one or the new one.
"""

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skdebias._files import remove_dead_partials, written_whole
from skdebias.finetune._extraction import make_folder
from skdebias.methods import Method

_FORMAT = "skdebias-checkpoint-2"
_KEPT = 2  # should the last one turn out to be damaged
_NAME = re.compile(r"step-(\d{9})\.safetensors")
_PLAIN = (bool, int, float, str, type(None))


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged; training goes on from an older one, or from the start.

    Turn it into an error with ``warnings.simplefilter("error", CheckpointWarning)``.
    """


def write_file(path: Path, tensors: Mapping[str, Tensor], header: Any) -> None:
    """Write tensors and a header, atomically.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    header : object
        Anything JSON can say.
    """
    from safetensors.torch import save_file

    # Shared memory is refused, and some of it may be on another device.
    own = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    text = json.dumps(header)
    with written_whole(path) as temporary:
        save_file(own, temporary, {"skdebias": text, "digest": _digest(text, own)})


def read_file(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what :func:`write_file` wrote.

    Parameters
    ----------
    path : Path

    Returns
    -------
    tensors : dict of str to Tensor
    header : object

    Raises
    ------
    ValueError
        If the file is damaged, or another one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            text = metadata["skdebias"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != _digest(text, tensors):
            raise ValueError(f"{path} is damaged: its content has changed")
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or no file of skdebias ({error})"
        ) from error
    return tensors, json.loads(text)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Digest of the content of a file."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        # As bytes: numpy does not know all of torch's types.
        found.update(tensors[name].flatten().view(torch.uint8).numpy())
    return found.hexdigest()


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : Path
        Of this run alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest checkpoint that is whole; None if there is none."""
        for path in sorted(self._files(), reverse=True):
            try:
                tensors, header = read_file(path)
                if header.get("format") != _FORMAT:
                    raise ValueError(
                        f"{path} has format {header.get('format')!r}, and this version "
                        f"reads {_FORMAT!r}"
                    )
            except ValueError as error:
                warnings.warn(
                    f"checkpoint_dir: {error}. It is left out, and training goes on "
                    "from an older checkpoint, or from the start if there is none.",
                    CheckpointWarning,
                    stacklevel=2,
                )
                continue
            return tensors, header
        return None

    def save(
        self, step: int, tensors: Mapping[str, Tensor], header: dict[str, Any]
    ) -> Path:
        """Write the checkpoint of a step, then remove those before the last two.

        Parameters
        ----------
        step : int
            Steps made.
        tensors : mapping of str to Tensor
        header : dict

        Returns
        -------
        Path
        """
        make_folder(self.folder)
        path = self.folder / f"step-{step:09d}.safetensors"
        write_file(path, tensors, {**header, "format": _FORMAT})
        for old in sorted(self._files())[:-_KEPT]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        with contextlib.suppress(FileNotFoundError):
            remove_dead_partials(self.folder, path.stat().st_mtime)
        return path

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]


def snapshot(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Describe the state of an object in JSON; its tensors go to `tensors`.

    Parameters
    ----------
    value : object
        Tensors, arrays, numbers, texts, containers of them, and objects with such
        attributes. What else it has is taken for settings and left out.
    name : str
        Prefix of the names of the tensors.
    tensors : dict
        Filled.

    Returns
    -------
    object
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
        return {"array": name}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if isinstance(value, list | tuple):
        parts = [snapshot(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return {"list": parts}
    if isinstance(value, dict):
        pairs = [(k, snapshot(v, f"{name}.{k}", tensors)) for k, v in value.items()]
        return {"dict": [[key, part] for key, part in pairs]}
    stateful = type(value).__module__.startswith("skdebias.methods")
    if stateful and not isinstance(value, Method):
        own = vars(value).items()
        return {"object": {k: snapshot(v, f"{name}.{k}", tensors) for k, v in own}}
    return {}


def restore(
    current: Any, described: Any, tensors: Mapping[str, Tensor], device: torch.device
) -> Any:
    """Return what :func:`snapshot` described; objects are filled in place.

    Parameters
    ----------
    current : object
        As it is before the first step.
    described : object
    tensors : mapping
    device : torch.device
        Of tensors that were not there before the first step.

    Returns
    -------
    object
    """
    if "tensor" in described:
        where = current.device if isinstance(current, Tensor) else device
        return tensors[described["tensor"]].to(where)
    if "array" in described:
        return tensors[described["array"]].numpy()
    if "value" in described:
        return described["value"]
    if "list" in described:
        parts = described["list"]
        before = current if isinstance(current, list | tuple) else []
        padded = [*before, *[None] * (len(parts) - len(before))]
        kind = type(current) if isinstance(current, list | tuple) else list
        return kind(restore(b, d, tensors, device) for b, d in zip(padded, parts))
    if "dict" in described:
        before = current if isinstance(current, dict) else {}
        return {
            key: restore(before.get(key), part, tensors, device)
            for key, part in described["dict"]
        }
    if "object" in described:
        for key, part in described["object"].items():
            own = restore(getattr(current, key), part, tensors, device)
            setattr(current, key, own)
    return current
