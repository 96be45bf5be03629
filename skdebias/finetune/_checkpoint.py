"""Checkpoints of a training run: one file each, whole or not there.

A checkpoint is a safetensors file whose header holds what is no tensor, as JSON. It is
written under another name, put on the disk and then renamed, so that a run killed at
any instruction finds either the old one or the new one.
"""

import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skdebias._files import remove_dead_partials
from skdebias._serialize import read_file, write_file
from skdebias.finetune._extraction import make_folder
from skdebias.methods import Method

_FORMAT = "skdebias-checkpoint-3"
_KEPT = 2  # should the last one turn out to be damaged
_NAME = re.compile(r"step-(\d{9})\.safetensors")
_PLAIN = (bool, int, float, str, type(None))


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged; training goes on from an older one, or from the start.

    Turn it into an error with ``warnings.simplefilter("error", CheckpointWarning)``.
    """


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies as files take them: on the CPU, contiguous, sharing no memory.

    Parameters
    ----------
    tensors : mapping of str to Tensor

    Returns
    -------
    dict of str to Tensor
    """
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


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
                tensors, header = read_file(path, _FORMAT, torch=True)
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
        write_file(path, to_host(tensors), {**header, "format": _FORMAT})
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
