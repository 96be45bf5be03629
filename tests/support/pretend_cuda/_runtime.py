"""`torch.cuda` as it is on a machine that has devices."""

import functools
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch._dynamo  # it lists the functions of torch when it is first imported

from pretend_cuda._log import Log
from pretend_cuda._mode import PretenceMode
from pretend_cuda._state import (
    current_device,
    current_pretence,
    enter,
    leave,
    numbered,
    set_device,
)

_REAL_GENERATOR = torch.Generator


class _Generator(_REAL_GENERATOR):
    """A generator that says where it is; its numbers are those of the CPU."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made._where = numbered(device)
        return made

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: self._where)


class _Stream:
    def __init__(self, device=None, priority=0):
        self.device = numbered("cuda" if device is None else device)

    def wait_stream(self, stream):
        pass

    def wait_event(self, event):
        pass

    def record_event(self, event=None):
        event = event or _Event()
        event.record(self)
        return event

    def synchronize(self):
        current_pretence().log.note("wait", "Stream.synchronize")


class _Event:
    """An event, which guards the copies that are under way on its device."""

    def __init__(self, *_, **__):
        pass

    def record(self, stream=None):
        pretence = current_pretence()
        device = (stream or _Stream()).device
        for other, count in pretence.under_way.items():
            if count and other != device:
                pretence.log.problem(
                    f"an event is recorded on {device} while {count} copies to the "
                    f"host are under way on {other}: it does not wait for them"
                )
        pretence.under_way.clear()

    def synchronize(self):
        current_pretence().log.note("wait", "Event.synchronize")

    def query(self):
        return True

    def wait(self, stream=None):
        pass

    def elapsed_time(self, other):
        return 1.0


class _Pretence:
    """What is pretended, and what has happened to it."""

    def __init__(self, n_devices, free_bytes, capability):
        self.log = Log()
        self.under_way = Counter()
        self.n_devices = n_devices
        self.free_bytes = free_bytes
        self.capability = capability
        self._pinned = set()

    def pin(self, tensor):
        self._pinned.add(tensor.untyped_storage().data_ptr())
        return tensor

    def is_pinned(self, tensor):
        if tensor.device.type != "cpu":
            return False
        return tensor.untyped_storage().data_ptr() in self._pinned


def _bf16_is_supported(including_emulation=True):
    return including_emulation or current_pretence().capability >= (8, 0)


@contextmanager
def _on(device):
    """The context of a device, as `torch.cuda.device`."""
    before = current_device()
    if device is not None:
        set_device(numbered(device).index)
    try:
        yield
    finally:
        set_device(before)


def _on_stream(stream):
    return _on(None if stream is None else stream.device)


def _set_device(device):
    set_device(numbered(device).index)


def _patches(pretence):
    capability = pretence.capability

    def check(device=None):
        numbered(device)

    def properties(device=None):
        check(device)
        return mock.Mock(
            major=capability[0],
            minor=capability[1],
            total_memory=80 << 30,
            multi_processor_count=132,
        )

    def answer(value):
        def asked(device=None, *_, **__):
            check(device)
            return value

        return asked

    nothing = answer(None)
    given = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: pretence.n_devices,
        "current_device": current_device,
        "set_device": _set_device,
        "device": _on,
        "stream": _on_stream,
        "Stream": _Stream,
        "Event": _Event,
        "current_stream": _Stream,
        "default_stream": _Stream,
        "is_bf16_supported": _bf16_is_supported,
        "get_device_properties": properties,
        "get_device_capability": answer(capability),
        "get_device_name": answer("pretended GPU"),
        "mem_get_info": answer((pretence.free_bytes, 80 << 30)),
        "synchronize": lambda *_: pretence.log.note("wait", "synchronize"),
        "get_rng_state": lambda *_: torch.random.get_rng_state(),
    }
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated"):
        given[name] = answer(0)
    for name in (
        "empty_cache",
        "manual_seed",
        "manual_seed_all",
        "reset_peak_memory_stats",
        "set_rng_state",
        "_lazy_init",
    ):
        given[name] = lambda *_, **__: None
    yield from (mock.patch.object(torch.cuda, k, v) for k, v in given.items())
    yield mock.patch.object(torch, "Generator", _Generator)
    yield _autocast_patch()
    for name in (
        "_accelerator_graph_capture_health_check",
        "_cuda_graph_capture_health_check",
    ):
        if hasattr(torch.optim.Optimizer, name):
            yield mock.patch.object(torch.optim.Optimizer, name, nothing)
    # A parameter that moves stays the object that an optimizer knows.
    swapping = "get_swap_module_params_on_conversion"
    yield mock.patch.object(torch.__future__, swapping, return_value=True)
    yield _thread_patch()
    yield _stack_patch()


def _autocast_patch():
    start = torch.autocast.__init__

    def on_cpu(autocast, device_type, dtype=None, *args, **kwargs):
        if device_type == "cuda":
            device_type, dtype = "cpu", dtype or torch.float16
        start(autocast, device_type, dtype, *args, **kwargs)

    return mock.patch.object(torch.autocast, "__init__", on_cpu)


def _thread_patch():
    """New threads pretend too: a mode is one thread's."""
    run = threading.Thread.run

    @functools.wraps(run)
    def pretending(thread):
        with PretenceMode(), torch.autograd.set_multithreading_enabled(False):
            run(thread)

    return mock.patch.object(threading.Thread, "run", pretending)


def _stack_patch():
    """Whoever takes the caller's modes away leaves the one that stands for devices."""
    count = torch._C._len_torch_function_stack

    def without_pretence():
        n = count()
        lowest = torch._C._get_function_stack_at(0) if n else None
        return n - isinstance(lowest, PretenceMode)

    return mock.patch.object(torch._C, "_len_torch_function_stack", without_pretence)


def _forget_devices():
    """Let Accelerate, which remembers the process's devices, look anew."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def pretend_cuda(*, n_devices=1, free_bytes=80 << 30, capability=(9, 0)):
    """Pretend that the machine has CUDA devices.

    Parameters
    ----------
    n_devices : int, default=1
    free_bytes : int, default=80 GiB
        What is free on each of them.
    capability : tuple of int, default=(9, 0)
        Below (8, 0) bfloat16 is emulated.

    Yields
    ------
    Log
    """
    pretence = _Pretence(n_devices, free_bytes, capability)
    with ExitStack() as stack:
        enter(pretence)
        stack.callback(leave)
        stack.callback(_forget_devices)
        for patch in _patches(pretence):
            stack.enter_context(patch)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(PretenceMode())
        yield pretence.log
