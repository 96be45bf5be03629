"""Two ways for a disk to misbehave, put under every call of the store; and kills.

`FailingCall` lets one call fail, be cut short or end the process. `PowerLoss` keeps a
model of what a disk has for certain and makes the folders that a power cut could
leave: whatever was not synced may be there, torn, or gone, in any combination.
`Instants` numbers the instants of a run, at any of which it may be killed.
"""

import mmap
import os
import random
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from embeddings_cache.store import _io

CHANGING = (
    "mkdir", "open_new", "write", "sync", "close", "rename", "sync_folder", "unlink",
    "touch",
)  # fmt: skip
READING = ("open_read", "read_some", "size_of", "stat", "list_folder", "map_file")


class PatchedCalls:
    """Replace functions of `_io` while in the context; `call` gets every call."""

    names = (*CHANGING, *READING)

    def __enter__(self) -> "PatchedCalls":
        self._real = {name: getattr(_io, name) for name in self.names}
        for name, real in self._real.items():
            setattr(_io, name, self._replacement(name, real))
        return self

    def __exit__(self, *error: object) -> None:
        for name, real in self._real.items():
            setattr(_io, name, real)

    def _replacement(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: self.call(name, real, args)

    def call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        raise NotImplementedError


class FailingCall(PatchedCalls):
    """The `number`-th call goes wrong.

    Parameters
    ----------
    number : int
        Which call, from 0.
    how : {"before", "after", "short", "exit"}
        Raise instead of the call, or after it was carried out; write or read half of
        the bytes (all later calls too); end the process without any clean-up.
    code : int
        The error number to raise.
    """

    def __init__(self, number: int, how: str, code: int = 0) -> None:
        self.number = number
        self.how = how
        self.code = code
        self.n_calls = 0

    @property
    def reached(self) -> bool:
        """Whether there were so many calls."""
        return self.n_calls > self.number

    def call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        now = self.n_calls == self.number
        self.n_calls += 1
        if self.how == "short":
            return _halved(name, real, args) if self.reached else real(*args)
        if not now:
            return real(*args)
        if self.how == "exit":
            os._exit(99)
        if self.how == "after" or name == "close":
            # A failed close has closed the file all the same.
            real(*args)
        raise OSError(self.code, os.strerror(self.code))


def _halved(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    *head, last = args
    if name in ("write", "read_some") and len(last) > 1:
        return real(*head, memoryview(last)[: len(last) // 2])
    return real(*args)


class Instants:
    """Numbers the instants of a run, and does something at one of them.

    An instant is a call of a function, of Python or of C, or its end, in any thread.
    Unlike times, as many pass on a slow machine as on a fast one.

    Parameters
    ----------
    number : int
        Which instant, from 0.
    then : callable
        Called at this instant.
    """

    def __init__(self, number: int, then: Callable[[], object]) -> None:
        self._number = number
        self._then = then
        self._numbers = count()
        # In memory that processes forked from this one share.
        self._seen = mmap.mmap(-1, 8)

    @property
    def n_seen(self) -> int:
        """How many instants there were, once the run is over."""
        return int.from_bytes(self._seen[:], "little")

    def __enter__(self) -> "Instants":
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        self._seen[:] = next(self._numbers).to_bytes(8, "little")

    def _event(self, *what: object) -> None:
        if next(self._numbers) == self._number:
            self._then()


class PowerCut(BaseException):
    """The machine stops here."""


class _File:
    """An inode: the bytes written, and those that were synced (None: never)."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.synced: bytes | None = None


class _Folder:
    """A directory: entries on the disk, and the changes since it was synced."""

    def __init__(self) -> None:
        self.synced: dict[str, _File | _Folder] = {}
        self.pending: list[tuple[str, _File | _Folder | None]] = []

    def entries(self) -> "dict[str, _File | _Folder]":
        return _applied(self.synced, self.pending)


def _applied(
    entries: "dict[str, _File | _Folder]",
    changes: "list[tuple[str, _File | _Folder | None]]",
) -> "dict[str, _File | _Folder]":
    found = dict(entries)
    for name, node in changes:
        if node is None:
            found.pop(name, None)
        else:
            found[name] = node
    return found


class PowerLoss(PatchedCalls):
    """Record what is certain to be on the disk, and cut the power at a call.

    Parameters
    ----------
    base : Path
        An empty folder that the disk has; everything happens below it.
    number : int or None
        The call before which the power fails; None for never.
    """

    names = CHANGING

    def __init__(self, base: Path, number: int | None = None) -> None:
        self._base = base
        self._number = number
        self._root = _Folder()
        self._open: dict[int, _File] = {}
        self.n_calls = 0

    def call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.n_calls == self._number:
            raise PowerCut
        self.n_calls += 1
        result = real(*args)
        getattr(self, f"_{name}")(result, *args)
        return result

    def _at(self, path: Path) -> "_File | _Folder":
        node: _File | _Folder = self._root
        for part in path.relative_to(self._base).parts:
            assert isinstance(node, _Folder)
            node = node.entries()[part]
        return node

    def _change(self, path: Path, node: "_File | _Folder | None") -> None:
        folder = self._at(path.parent)
        assert isinstance(folder, _Folder)
        folder.pending.append((path.name, node))

    def _mkdir(self, _: None, path: Path) -> None:
        self._change(path, _Folder())

    def _open_new(self, fd: int, path: Path) -> None:
        self._open[fd] = _File()
        self._change(path, self._open[fd])

    def _write(self, done: int, fd: int, data: Any) -> None:
        self._open[fd].written += memoryview(data).cast("B")[:done]

    def _sync(self, _: None, fd: int) -> None:
        self._open[fd].synced = bytes(self._open[fd].written)

    def _close(self, _: None, fd: int) -> None:
        self._open.pop(fd, None)  # files opened for reading are not in the model

    def _rename(self, _: None, source: Path, target: Path) -> None:
        node = self._at(source)
        self._change(source, None)
        self._change(target, node)

    def _sync_folder(self, _: None, path: Path) -> None:
        folder = self._at(path)
        assert isinstance(folder, _Folder)
        folder.synced, folder.pending = folder.entries(), []

    def _unlink(self, _: None, path: Path) -> None:
        self._change(path, None)

    def _touch(self, _: None, path: Path) -> None:
        folder = self._at(path.parent)
        assert isinstance(folder, _Folder)
        if path.name not in folder.entries():
            self._change(path, _File())

    def leave(self, target: Path, rng: random.Random, kept: float) -> None:
        """Make a folder that the disk could have after the power cut.

        Parameters
        ----------
        target : Path
            Where to make it.
        rng : random.Random
            Chooses what else survived.
        kept : float
            Probability that a change which was not synced is on the disk: 0 for none,
            1 for all.
        """
        _materialise(self._root, target, rng, kept)


def _materialise(
    folder: _Folder, target: Path, rng: random.Random, kept: float
) -> None:
    target.mkdir(mode=0o700)
    survived = [change for change in folder.pending if rng.random() < kept]
    for name, node in _applied(folder.synced, survived).items():
        if isinstance(node, _Folder):
            _materialise(node, target / name, rng, kept)
        else:
            (target / name).write_bytes(_content(node, rng, kept))


def _content(file: _File, rng: random.Random, kept: float) -> bytes:
    if file.synced == file.written or rng.random() < kept * 0.5:
        return bytes(file.written)
    start = len(file.synced or b"")
    lost = rng.randint(start, len(file.written))
    tail = b"\0" * (len(file.written) - lost) if rng.random() < 0.5 else b""
    return bytes(file.written[:lost]) + tail
