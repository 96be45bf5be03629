"""The context in which both packages compute: nothing of the caller reaches a number.

Torch and numpy have switches that change what the same code computes. Some belong to
the calling thread: autocast, gradients, default devices, modes that intercept
operations, rounding of the smallest numbers. Others belong to the process: the default
type, the precision of products, the kernels that may be used. `standard_context` sets
all of them to what they are in a fresh process, and gives back the caller's.

Both packages have this file, and share the switches of the process: two owners that did
not know of each other would give them back under one another's computations.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

_NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# For what is numpy's alone.
plain_numpy = np.errstate(**_NUMPY)  # type: ignore[arg-type]

_LEAST = sys.float_info.min


class SharedSwitch:
    """A switch of the process that threads hold at a value together.

    The first to hold it remembers the caller's value, and the last gives it back, so
    that no thread takes the value from another. Where two values are wanted at once,
    the one of the higher rank holds.

    Parameters
    ----------
    read : callable
        Returns the present value.
    write : callable
        Sets a value.

    Examples
    --------
    >>> from skdebias._context import SharedSwitch
    >>> state = {"precise": False}
    >>> switch = SharedSwitch(
    ...     lambda: state["precise"], lambda value: state.update(precise=value)
    ... )
    >>> with switch.held(True):
    ...     print(state)
    {'precise': True}
    >>> state
    {'precise': False}
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._wanted: list[tuple[int, Any, int]] = []  # rank, value, thread
        self._before: Any = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    @contextmanager
    def held(self, value: Any, rank: int = 0) -> Iterator[None]:
        """Hold the switch at a value.

        Parameters
        ----------
        value : object
            What it is set to.
        rank : int, default=0
            Which value holds where several are wanted: that of the highest rank.
        """
        entry = rank, value, threading.get_ident()
        with self._lock:
            if not self._wanted:
                self._before = self._read()
            self._wanted.append(entry)
            self._set(self._foremost())
        try:
            yield
        finally:
            with self._lock:
                before = self._foremost()
                self._wanted.remove(entry)
                if self._wanted:
                    self._set(self._foremost())
                elif self._read() == before:
                    # Otherwise it was turned meanwhile, by a thread of the caller's.
                    self._set(self._before)

    def _foremost(self) -> Any:
        return max(self._wanted, key=lambda entry: entry[0])[1]

    def _set(self, value: Any) -> None:
        if self._read() != value:
            self._write(value)

    def _after_fork(self) -> None:
        """Forget the threads that are not in this process."""
        self._lock = threading.Lock()
        held, thread = bool(self._wanted), threading.get_ident()
        self._wanted = [entry for entry in self._wanted if entry[2] == thread]
        if held and not self._wanted:
            self._set(self._before)


@contextmanager
def standard_context(*, products: bool = True) -> Iterator[None]:
    """Compute as in a fresh process, whatever the caller has set.

    Inside, gradients are recorded, nothing is cast or intercepted, tensors are made in
    float32 on the CPU unless their type or device is named, and products of float32
    numbers are computed in float32. Switches of the process are set by the first thread
    that is inside and given back by the last.

    Parameters
    ----------
    products : bool, default=True
        Whether the precision of products is set, too, while which torch's own exporter
        refuses to work.

    See Also
    --------
    SharedSwitch : How threads share a switch of the process.

    Notes
    -----
    May be used as a decorator. Without torch in the process only numpy's own switches
    are set.

    Examples
    --------
    >>> import torch
    >>> from skdebias._context import standard_context
    >>> with torch.inference_mode(), torch.device("meta"), standard_context():
    ...     print(torch.ones(2).device, torch.is_grad_enabled())
    cpu True
    """
    with ExitStack() as stack:
        stack.enter_context(np.errstate(**_NUMPY))  # type: ignore[arg-type]
        if "torch" in sys.modules:
            from skdebias._precision import exact_float32

            stack.enter_context(_own_thread())
            if products:
                stack.enter_context(exact_float32())
            for switch, value in switches().values():
                stack.enter_context(switch.held(value))
        yield


@contextmanager
def _own_thread() -> Iterator[None]:
    """Set what belongs to the calling thread."""
    import torch

    with ExitStack() as stack:
        stack.enter_context(_without_modes())
        stack.enter_context(_without_casts())
        stack.enter_context(_gradual_underflow())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            # What is saved for a backward pass is what it finds.
            keep = torch.autograd.graph.saved_tensors_hooks(_same, _same)
            stack.enter_context(keep)
        yield


def _same(value: Any) -> Any:
    return value


@contextmanager
def _without_modes() -> Iterator[None]:
    """Take away what intercepts operations: default devices, fake tensors, vmap."""
    import torch
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    from torch.overrides import _pop_mode, _push_mode
    from torch.utils._python_dispatch import _disable_current_modes

    functions = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    try:
        with ExitStack() as stack:
            if torch._C._len_torch_dispatch_stack():
                stack.enter_context(_disable_current_modes())
            if torch._C._functorch.peek_interpreter_stack() is not None:
                stack.enter_context(temporarily_clear_interpreter_stack())
            yield
    finally:
        for mode in reversed(functions):
            _push_mode(mode)


@contextmanager
def _without_casts() -> Iterator[None]:
    """Leave autocast, all the way out.

    Weights that were cast are remembered until the outermost autocast is left; within
    one of the caller's, those of the first step of a training would be used in all.
    """
    import torch

    cast = [device for device in _DEVICES if _casts(device)]
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    for device in cast:
        torch.set_autocast_enabled(device, False)
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    if depth:
        torch.clear_autocast_cache()
    try:
        yield
    finally:
        for _ in range(depth):
            torch.autocast_increment_nesting()
        for device in cast:
            torch.set_autocast_enabled(device, True)


_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "maia", "xla", "ipu")


def _casts(device: str) -> bool:
    import torch

    try:
        return torch.is_autocast_enabled(device)
    except RuntimeError:  # a kind that this version does not know
        return False


@contextmanager
def _gradual_underflow() -> Iterator[None]:
    """Compute with numbers below the least normal one, in this thread."""
    import torch

    # Torch can set this and cannot tell it; the processor can.
    flushed = _LEAST / 2 == 0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


_KERNELS = ("flash", "mem_efficient", "math", "cudnn")
# The only one that can be differentiated twice.
PLAIN_ATTENTION = (False, False, True, False)


def switches() -> dict[str, tuple[SharedSwitch, Any]]:
    """Return the switches of the process, each with what a fresh process has.

    Returns
    -------
    dict of str to (SharedSwitch, object)
        The values of "attention" are tuples of bool, which say of the flash, the
        memory-efficient, the plain and the cuDNN kernel whether it may be used.
    """
    import torch

    switches: dict[str, tuple[SharedSwitch, Any]] | None
    switches = vars(torch).get("_standard_switches")
    # A dictionary sets a default once, whatever threads do.
    return switches or vars(torch).setdefault("_standard_switches", _made_switches())


def _made_switches() -> dict[str, tuple[SharedSwitch, Any]]:
    import torch

    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    dtype = SharedSwitch(torch.get_default_dtype, torch.set_default_dtype)
    return {
        "dtype": (dtype, torch.float32),
        "mkldnn": (_flag(mkldnn, "enabled"), True),
        "mkldnn deterministic": (_flag(mkldnn, "deterministic"), False),
        "cudnn": (_flag(cudnn, "enabled"), True),
        "cudnn benchmark": (_flag(cudnn, "benchmark"), False),
        "attention": (_attention_kernels(), (True,) * len(_KERNELS)),
    }


def _flag(owner: Any, name: str) -> SharedSwitch:
    return SharedSwitch(lambda: getattr(owner, name), lambda v: setattr(owner, name, v))


def _attention_kernels() -> SharedSwitch:
    from torch.backends import cuda

    def read() -> tuple[bool, ...]:
        return tuple(getattr(cuda, f"{name}_sdp_enabled")() for name in _KERNELS)

    def write(allowed: tuple[bool, ...]) -> None:
        for name, value in zip(_KERNELS, allowed, strict=True):
            getattr(cuda, f"enable_{name}_sdp")(value)

    return SharedSwitch(read, write)
