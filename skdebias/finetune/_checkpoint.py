"""Checkpoints of a training run: one file each, whole or not there.

A checkpoint is a safetensors file whose header holds what is no tensor, as JSON. It is
written under another name, put on the disk and then renamed, so that a run killed at
any instruction finds either the old one or the new one.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skdebias._atomic import TEMPORARY, make_folder, new_owner, remove_dead_partials
from skdebias._serialize import read_file, write_file
from skdebias._warnings import warn_caller
from skdebias.methods import Method

_FORMAT = "skdebias-checkpoint-3"
_KEPT = 2  # should the last one turn out to be damaged
_NAME = re.compile(r"(?P<kind>step|done)-(?P<step>\d{9,})\.safetensors")
_DAMAGED = "damaged-"
_PLAIN = (bool, int, float, str, type(None))


class CheckpointError(OSError):
    """`checkpoint_dir` cannot be read or written; `errno` says why.

    A `FileExistsError`, a full disk or a lack of permission lead to it. Checkpoints
    that were written before are as they were.
    """


class UnusableCheckpointError(ValueError):
    """What a file holds is not a state of this run."""


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be used: it is damaged, or of a run of another length.

    Training goes on from an older one, or from the start.

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

    While the run is made, the last two of them are kept; when it is over, the last one
    alone. Several processes may make the same run: each writes whole files, and takes
    away none that another one may still need.

    Parameters
    ----------
    folder : Path
        Of this run alone.
    root : Path
        The `checkpoint_dir` that it is in, for messages.
    extensible : bool, default=False
        Whether the run's end is to be the start of a longer one.
    """

    def __init__(self, folder: Path, root: Path, *, extensible: bool = False) -> None:
        self.folder = folder
        self.extensible = extensible
        self._root = root

    def newest_first(
        self, last_step: int
    ) -> Iterator[tuple[Path, dict[str, Tensor], dict[str, Any]]]:
        """Yield the checkpoints that are whole.

        Parameters
        ----------
        last_step : int
            The run's last one: those of a longer run are not looked at.

        Yields
        ------
        path : Path
        tensors : dict of str to Tensor
        header : dict
        """
        with naming_checkpoint_dir(self._root):
            newest_first = self._files(last_step)[::-1]
        for path in newest_first:
            try:
                with naming_checkpoint_dir(self._root):
                    tensors, header = read_file(path, _FORMAT, torch=True)
            except CheckpointError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue  # another process, which is further, has made room
            except ValueError as error:
                self.set_aside(path, error)
                continue
            yield path, tensors, header

    def set_aside(self, path: Path, error: Exception) -> None:
        """Rename a checkpoint that cannot be used, and warn.

        Parameters
        ----------
        path : Path
        error : Exception
            What is wrong with it.
        """
        with contextlib.suppress(OSError):
            path.rename(path.with_name(f"{_DAMAGED}{path.name}"))
        warn_caller(
            f"checkpoint_dir: {error}. It is set aside as "
            f"{_DAMAGED}{path.name}, and training goes on from an older checkpoint, "
            "or from the start if there is none.",
            CheckpointWarning,
        )

    def check_writable(self) -> None:
        """Make the folder, and refuse one that cannot be written to.

        Raises
        ------
        CheckpointError
        """
        with naming_checkpoint_dir(self._root):
            make_folder(self.folder)
            probe = self.folder / f"{TEMPORARY}{new_owner()}"
            try:
                probe.touch(exist_ok=False)
            finally:
                probe.unlink(missing_ok=True)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        header: dict[str, Any],
        *,
        done: bool = False,
    ) -> Path:
        """Write the checkpoint of a step, then remove older ones.

        Parameters
        ----------
        step : int
            Steps made.
        tensors : mapping of str to Tensor
        header : dict
        done : bool, default=False
            Whether this is the run's last step.

        Returns
        -------
        Path

        Raises
        ------
        CheckpointError
            If it cannot be written; those before are as they were.
        """
        path = self.folder / f"{'done' if done else 'step'}-{step:09d}.safetensors"
        with naming_checkpoint_dir(self._root):
            make_folder(self.folder)
            write_file(path, to_host(tensors), {**header, "format": _FORMAT})
        # What is left over harms nobody.
        with contextlib.suppress(OSError):
            remove_dead_partials(self.folder, path.stat().st_mtime)
            self._clear(step, 0 if done else _KEPT)
        return path

    def tidy(self, path: Path) -> None:
        """Remove what the end of a run has left, if it was killed just then.

        Parameters
        ----------
        path : Path
            The checkpoint of the end.
        """
        name = _NAME.fullmatch(path.name)
        if name is not None and name["kind"] == "done":
            with contextlib.suppress(OSError):
                self._clear(int(name["step"]), 0)

    def _clear(self, step: int, n_kept: int) -> None:
        """Remove all but some checkpoints up to a step; ends of runs stay."""
        old = [path for path in self._files(step) if path.name.startswith("step")]
        if n_kept == 0:
            old += self.folder.glob(f"{_DAMAGED}*")
        for path in old[: len(old) - n_kept]:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _files(self, last_step: int) -> list[Path]:
        """Return the checkpoints up to a step, in order."""
        if not self.folder.is_dir():
            return []
        names = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        steps = [(int(m["step"]), path) for m, path in names if m is not None]
        return [path for step, path in sorted(steps, key=_first) if step <= last_step]


def _first(pair: tuple[int, Path]) -> int:
    return pair[0]


@contextlib.contextmanager
def naming_checkpoint_dir(root: Path) -> Iterator[None]:
    """Turn errors of the disk into a CheckpointError that names `checkpoint_dir`.

    Parameters
    ----------
    root : Path
        The user's `checkpoint_dir`.
    """
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise CheckpointError(
            error.errno,
            f"checkpoint_dir={str(root)!r} cannot be used ({why}). Checkpoints that "
            "were written before are as they were: make room, or choose a folder that "
            "can be written to, and fit again to go on from them",
        ) from error


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
        return {
            "list": [snapshot(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        }
    if isinstance(value, dict):
        pairs = [(k, snapshot(v, f"{name}.{k}", tensors)) for k, v in value.items()]
        return {"dict": [[key, part] for key, part in pairs]}
    # A rule of a method of the user's has what every rule has.
    stateful = type(value).__module__.startswith("skdebias.methods") or hasattr(
        type(value), "select"
    )
    if stateful and not isinstance(value, Method):
        attributes = vars(value).items()
        parts = {k: snapshot(v, f"{name}.{k}", tensors) for k, v in attributes}
        return {"object": parts}
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
    _check_kind(current, described)
    if "tensor" in described:
        value = tensors[described["tensor"]]
        if isinstance(current, Tensor):
            _check_alike(current, value)
            return value.to(current.device)
        return value.to(device)
    if "array" in described:
        values = tensors[described["array"]].numpy()
        if isinstance(current, np.ndarray):
            _check_alike(current, values)
        return values
    if "value" in described:
        return described["value"]
    if "list" in described:
        parts = described["list"]
        items = current if isinstance(current, list | tuple) else []
        padded = [*items, *[None] * (len(parts) - len(items))]
        kind = type(current) if isinstance(current, list | tuple) else list
        return kind(restore(b, d, tensors, device) for b, d in zip(padded, parts))
    if "dict" in described:
        values_by_key = current if isinstance(current, dict) else {}
        return {
            key: restore(values_by_key.get(key), part, tensors, device)
            for key, part in described["dict"]
        }
    for key, part in described.get("object", {}).items():
        setattr(current, key, restore(getattr(current, key), part, tensors, device))
    return current


def _check_kind(current: Any, described: Any) -> None:
    """Refuse what no run writes in the place of what is there."""
    if not isinstance(described, dict):
        raise UnusableCheckpointError("a checkpoint has no state where one should be")
    if isinstance(current, _PLAIN):
        # What a method has not counted yet may become anything but an object.
        if not described or "object" in described:
            raise UnusableCheckpointError("a checkpoint is of another method")
        return
    kinds = [kind for kind in snapshot(current, "", {}) if kind in described]
    if not kinds and described not in ({}, {"value": None}):
        raise UnusableCheckpointError("a checkpoint is of another method")
    if described == {} and snapshot(current, "", {}) != {}:
        raise UnusableCheckpointError("a checkpoint lacks the state of the method")
    if "object" in described and described["object"].keys() != vars(current).keys():
        raise UnusableCheckpointError("a checkpoint is of another method")


def _check_alike(current: Any, value: Any) -> None:
    if (current.shape, current.dtype) != (value.shape, value.dtype):
        raise UnusableCheckpointError(
            f"a checkpoint has {value.dtype} of shape {tuple(value.shape)} where this "
            f"run has {current.dtype} of shape {tuple(current.shape)}"
        )
