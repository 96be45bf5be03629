"""The folder of checkpoints, which many runs share: each has a folder of its own."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from skdebias._atomic import is_dead, make_folder, new_owner
from skdebias._warnings import warn_caller
from skdebias.finetune._accelerate import agreed
from skdebias.finetune._checkpoint import (
    Checkpoints,
    CheckpointWarning,
    UnusableCheckpointError,
    naming_checkpoint_dir,
)
from skdebias.finetune._optimization import TrainConfig
from skdebias.finetune._state import Checkpoint
from skdebias.finetune._training import NetworkTraining

_OWNER = ".run-"
_OPEN = f"{_OWNER}open"
_NAME = re.compile(r"[0-9a-f]{24}-(\d+)")


class Runs:
    """The runs below a `checkpoint_dir`.

    Parameters
    ----------
    checkpoint_dir : path-like
        As the user gave it.

    Raises
    ------
    CheckpointError
        If there is something else than a folder of that name.
    TypeError, ValueError
        If it cannot be the name of a folder.
    """

    def __init__(self, checkpoint_dir: Any) -> None:
        if isinstance(checkpoint_dir, bytes) or not isinstance(
            checkpoint_dir, str | os.PathLike
        ):
            raise TypeError(
                f"checkpoint_dir={checkpoint_dir!r} must be the path of a folder, or "
                "None for no checkpoints."
            )
        path = os.fspath(checkpoint_dir)
        if not path or "\0" in path:
            raise ValueError(f"checkpoint_dir={path!r} cannot be the name of a folder.")
        self.root = Path(path).expanduser()
        with naming_checkpoint_dir(self.root):
            if self.root.exists() and not self.root.is_dir():
                raise NotADirectoryError(20, "it is a file, not a folder")

    @property
    def memo(self) -> Path:
        """Where it is kept which file of items has which content."""
        return self.root / ".items"

    def find(self, name: str, config: TrainConfig) -> Checkpoints:
        """Return the checkpoints of a run that has a seed.

        Parameters
        ----------
        name : str
            Digest of what determines the run but for `max_iter`.
        config : TrainConfig

        Returns
        -------
        Checkpoints
        """
        if config.extensible:
            return Checkpoints(self.root / name, self.root, extensible=True)
        checkpoints = Checkpoints(self.root / f"{name}-{config.max_iter}", self.root)
        lengths = map(_number, self._folders(name))
        shorter = [length for length in lengths if length < config.max_iter]
        if shorter and not checkpoints.folder.exists():
            warn_caller(
                f"max_iter={config.max_iter}: checkpoint_dir has the same run with "
                f"max_iter={max(shorter)}, but it cannot be extended, because with "
                f"schedule={config.schedule!r} and warmup={config.warmup:g} its rates "
                "were those of its own length. The network is trained from the start.",
                CheckpointWarning,
            )
        return checkpoints

    def _folders(self, name: str) -> list[Path]:
        """Return the folders whose names are a digest and a number."""
        paths = self.root.glob(f"{name}-*")
        return [path for path in paths if _NAME.fullmatch(path.name)]

    @contextlib.contextmanager
    def unseeded(
        self, name: str, seed: int, main: bool
    ) -> Iterator[tuple[int, Checkpoints]]:
        """Yield seed and checkpoints of a run without a seed, and own it meanwhile.

        A run that was interrupted is gone on with, with the seed that it drew; every
        other call has a seed of its own. A run belongs to one process: to another one
        only when that is known to be dead, or has let go of it by an exception.

        Parameters
        ----------
        name : str
            Digest of what determines the run but for the seed.
        seed : int
            Of a new run.
        main : bool
            Whether this is the first process of several that make the same fit.

        Yields
        ------
        seed : int
        checkpoints : Checkpoints
        """
        mark = None
        if main:
            with naming_checkpoint_dir(self.root):
                mark = self._claim(name) or self._begin(name, seed)
        mark = agreed(mark)
        folder = mark.parent
        try:
            yield _number(folder), Checkpoints(folder, self.root)
        except FloatingPointError:
            # It would end in the same way once more.
            _remove(mark)
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                mark.rename(folder / _OPEN)
            raise
        _remove(mark)

    def _claim(self, name: str) -> Path | None:
        """Take over a run that nobody goes on with."""
        for folder in sorted(self._folders(name)):
            for mark in folder.glob(f"{_OWNER}*"):
                if mark.name != _OPEN and not is_dead(mark.name.removeprefix(_OWNER)):
                    continue
                claimed = folder / f"{_OWNER}{new_owner()}"
                # Only one of several processes can rename it.
                with contextlib.suppress(FileNotFoundError):
                    mark.rename(claimed)
                    return claimed
        return None

    def _begin(self, name: str, seed: int) -> Path:
        folder = self.root / f"{name}-{seed}"
        make_folder(folder)
        mark = folder / f"{_OWNER}{new_owner()}"
        mark.touch()
        return mark


def resumed(
    start: Callable[[Checkpoint | None], NetworkTraining],
    checkpoints: Checkpoints | None,
    last_step: int,
) -> NetworkTraining:
    """Return a training that goes on from the newest checkpoint that it can.

    Parameters
    ----------
    start : callable
        From a checkpoint, or None, to a new training.
    checkpoints : Checkpoints or None
    last_step : int
        Of the run.

    Returns
    -------
    NetworkTraining

    Raises
    ------
    CheckpointError
        If there is something to train, and no checkpoint could be written.
    """
    if checkpoints is None:
        return start(None)
    for path, tensors, header in checkpoints.newest_first(last_step):
        try:
            training = start((tensors, header))
        except UnusableCheckpointError as error:
            checkpoints.set_aside(path, error)
            continue
        if training.done:
            checkpoints.tidy(path)
        else:
            checkpoints.check_writable()
        return training
    checkpoints.check_writable()
    return start(None)


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
