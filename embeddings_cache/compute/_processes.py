"""Reading ahead in processes, in order, whatever becomes of a process.

The processes are those of loky, which scikit-learn's `n_jobs` uses: they start afresh
instead of being forked, and a script needs no ``if __name__ == "__main__"`` for them.
They import what the function needs, and neither the network nor the store.
"""

import gc
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

# Where joblib has cloudpickle differs between its versions; loky knows.
from joblib.externals.loky.cloudpickle_wrapper import dumps, loads
from joblib.externals.loky.process_executor import (
    ProcessPoolExecutor,
    ShutdownExecutorError,
)

from embeddings_cache.compute._shared_memory import Filled, SharedMemoryPool, Slot, fill

T = TypeVar("T")

_START_SECONDS = 600.0
_VALUE_SECONDS = 600.0
_LOST = (BrokenProcessPool, ShutdownExecutorError)


class WorkerStartError(RuntimeError):
    """No process can work with this function; the message says why."""


class WorkerProcesses:
    """Processes that apply one function, for use in a ``with`` statement.

    When a process dies or does not answer, the values it can have held are tried
    again, each alone; a value that ends its process then too is given up.

    Parameters
    ----------
    function : callable
        Sent to every process once.
    workers : int
        Number of processes.
    initializer : callable, default=None
        Called in every process first.

    Raises
    ------
    WorkerStartError
        If the function cannot be sent to a process, or the process cannot load it.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        workers: int,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        try:
            payload = dumps((function, initializer))
        # Whatever a part of it raises when it is asked for its state.
        except Exception as error:
            raise WorkerStartError(f"it cannot be pickled ({error})") from error
        self._workers = _WorkerPool(payload, workers)
        self._alone = _WorkerPool(payload, 1)
        self._memory: SharedMemoryPool | None = None

    def __enter__(self) -> "WorkerProcesses":
        self._workers.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.stop()
        self._alone.stop()
        if self._memory is not None:
            self._memory.close()

    def map(
        self, values: Iterable[T], ahead: int, lost: Callable[[T, str], Any]
    ) -> Iterator[Any]:
        """Yield the results in the order of the values.

        Parameters
        ----------
        values : iterable
            Sent one at a time.
        ahead : int
            How many results may wait.
        lost : callable
            The result of a value that was given up, from the value and the reason.
        """
        values = iter(values)
        waiting: deque[_Task] = deque()
        while True:
            for value in islice(values, ahead - len(waiting)):
                slot = self._memory.take() if self._memory else None
                waiting.append(_Task(value, self._workers.submit(value, slot), slot))
            if not waiting:
                return
            if _is_lost(waiting[0].future):
                yield from self._one_by_one(waiting, lost)
                continue
            task = waiting.popleft()
            result = task.future.result()
            if self._memory is None and isinstance(result.values, np.ndarray):
                self._memory = SharedMemoryPool(ahead, result.values.nbytes)
            yield self._unpacked(result, task.slot)

    def _one_by_one(
        self, waiting: "deque[_Task]", lost: Callable[[Any, str], Any]
    ) -> Iterator[Any]:
        """Yield all that waits; what has no result yet is tried alone."""
        self._workers.stop()
        while waiting:
            value, future, slot = waiting.popleft()
            if _is_lost(future):
                future = self._alone.submit(value, slot)
            if _is_lost(future):
                reason = _reason(future)
                self._alone.stop()
                if self._memory is not None:
                    self._memory.give_back(slot)
                yield lost(value, reason)
            else:
                yield self._unpacked(future.result(), slot)
        self._alone.stop()

    def _unpacked(self, result: "_Result", slot: Slot | None) -> Any:
        values = result.values
        if self._memory is not None:
            if isinstance(values, Filled) and slot is not None:
                values = self._memory.array(slot, values)
            self._memory.give_back(slot)
        if result.tensor:
            import torch

            return torch.from_numpy(values)
        return values


class _Task(NamedTuple):
    """A value on its way, and where its result may be put."""

    value: Any
    future: Future[Any]
    slot: Slot | None


class _Result(NamedTuple):
    """A result on its way; a tensor travels as its array."""

    values: Any
    tensor: bool


class _WorkerPool:
    """A number of processes, started at the first value and again after a stop."""

    def __init__(self, payload: bytes, workers: int) -> None:
        self._payload = payload
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, value: Any, slot: Slot | None) -> Future[Any]:
        pool = self.start()
        try:
            future: Future[Any] = pool.submit(_call, value, slot)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        return future

    def start(self) -> ProcessPoolExecutor:
        """Return the processes, which are seen to work when they are new."""
        if self._pool is not None:
            return self._pool
        pool = ProcessPoolExecutor(
            self._workers,
            initializer=_start_worker,
            initargs=(self._payload, os.getpid()),
            # The processes share the cores already.
            env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        started = False
        try:
            # A process that cannot start must not count as one that a value ended.
            failure = pool.submit(_failure).result(_START_SECONDS)
            started = failure is None
        except (*_LOST, TimeoutError) as error:
            raise WorkerStartError("a process ends before it begins") from error
        finally:
            if not started:
                pool.shutdown(kill_workers=True)
        if failure is not None:
            raise WorkerStartError(failure)
        self._pool = pool
        return pool

    def stop(self) -> None:
        """Kill the processes: they hold nothing, and one may not answer."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.shutdown(kill_workers=True)


def _is_lost(future: Future[Any]) -> bool:
    """Wait for a value; True if its process ended, or does not answer."""
    if not wait([future], timeout=_VALUE_SECONDS).done:
        return True
    return isinstance(future.exception(), _LOST)


def _reason(future: Future[Any]) -> str:
    if not future.done():
        return f"takes more than {_VALUE_SECONDS:.0f} seconds to read"
    return (
        "ended the process that read it, twice: a fault in the decoder, or too little "
        "memory"
    )


# What follows runs in the processes.

_function: Callable[[Any], Any] | None = None
_start_error: str | None = None


def _start_worker(payload: bytes, parent: int) -> None:
    global _function, _start_error
    # Ctrl-C goes to the whole group; it is the parent that ends the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        _function, initializer = loads(payload)
        if initializer is not None:
            initializer()
        # loky collects garbage every second: not among all that was imported.
        gc.freeze()
    # Told to the parent when it asks.
    except Exception as error:
        _start_error = f"{type(error).__name__} in a new process: {error}"


def _follow(parent: int) -> None:
    """End when the parent has ended, however it did."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _failure() -> str | None:
    return _start_error


def _call(value: Any, slot: Slot | None) -> _Result:
    assert _function is not None  # noqa: S101, the parent asked for _failure
    values = _function(value)
    torch = sys.modules.get("torch")
    tensor = torch is not None and isinstance(values, torch.Tensor)
    if tensor:
        try:
            values = values.numpy()
        except (TypeError, RuntimeError):
            tensor = False  # bfloat16, or on a device: torch pickles it
    if isinstance(values, np.ndarray):
        values = fill(slot, values) or values
    return _Result(values, tensor)
