"""How many threads an operation of the calling thread has inside it.

OpenMP and MKL count the threads of each thread of Python separately, so that a thread
can be given a number of its own while others keep theirs. Both packages have this file.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")

_SETTING = Lock()
#: The libraries that were loaded when there were so many modules.
_known: tuple[int, list[Any]] = (0, [])


def thread_pools() -> list[Any]:
    """Return threadpoolctl's handles on all libraries that have threads of their own.

    Returns
    -------
    list of threadpoolctl.LibController
    """
    global _known
    n_modules = len(sys.modules)
    if _known[0] != n_modules:  # a look at what is loaded takes milliseconds
        _known = n_modules, ThreadpoolController().lib_controllers
    return _known[1]


@contextmanager
def own_threads(number: int) -> Iterator[None]:
    """Run a block of the calling thread whose operations have a number of threads.

    Parameters
    ----------
    number : int
        For the operations of torch and the libraries that use OpenMP.
    """
    put_back = set_own_threads(number)
    try:
        yield
    finally:
        for setter, threads in reversed(put_back):
            setter(threads)


def set_own_threads(number: int) -> list[tuple[Callable[[int], Any], int]]:
    """Give a number of threads to each operation of the calling thread.

    Parameters
    ----------
    number : int

    Returns
    -------
    list of (callable, int)
        What puts back what was changed, last change last.
    """
    import torch

    # In a new thread torch would set its number again when it is first used.
    torch_threads = torch.get_num_threads()
    put_back: list[tuple[Callable[[int], Any], int]] = []
    set_mkl_threads = mkl_setter()
    if set_mkl_threads is not None:
        put_back.append((set_mkl_threads, set_mkl_threads(number)))
    elif torch.backends.mkl.is_available():
        _set_torch_threads(number)
        put_back.append((_set_torch_threads, torch_threads))
    for library in thread_pools():
        threads = library.num_threads
        if library.user_api == "openmp" and threads != number:
            library.set_num_threads(number)
            put_back.append((library.set_num_threads, threads))
    return put_back


@cache
def mkl_setter() -> Callable[[int], int] | None:
    """Return what sets the threads of MKL's products in the calling thread.

    It returns their number before, which is 0 where they follow OpenMP. None is
    returned where torch has no MKL, or keeps it to itself.
    """
    import torch

    for path in sorted(Path(torch.__file__).parent.glob("lib/*torch_cpu.*")):
        try:
            setter: Any = ctypes.CDLL(str(path)).MKL_Set_Num_Threads_Local
        except (OSError, AttributeError):
            continue
        setter.argtypes, setter.restype = [ctypes.c_int], ctypes.c_int
        return setter
    return None


def _set_torch_threads(number: int) -> None:
    """Set how many threads torch's operations have in the calling thread.

    `torch.set_num_threads` also sets what threads begin with that have not used torch
    yet. That is put back, which takes another thread.
    """
    import torch

    with _SETTING:
        beginning = in_new_thread(torch.get_num_threads)
        torch.set_num_threads(number)
        in_new_thread(partial(torch.set_num_threads, beginning))


def in_new_thread(task: Callable[[], Result]) -> Result:
    """Return what a task returns in a thread that has done nothing before."""
    results: list[Result] = []
    thread = Thread(target=lambda: results.append(task()))
    thread.start()
    thread.join()
    return results[0]
