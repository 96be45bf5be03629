"""The process-wide switches of PyTorch that let products lose digits, held in place.

TF32 and its like are switched for the whole process, and since PyTorch 2.9 by two
generations of switches: `torch.set_float32_matmul_precision` and `allow_tf32`, and
`fp32_precision` of `torch.backends` and what is below. Reading an older one raises once
the newer ones say something that it cannot. What is embedded or fitted here is to be
what the key or the seed says, so these switches are set for as long as it takes.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Switches of the sums of half-precision products, and what PyTorch sets them to.
_HALF_PRODUCTS = {
    "allow_fp16_reduced_precision_reduction": True,
    "allow_bf16_reduced_precision_reduction": True,
    "allow_fp16_accumulation": False,
}


class _Holders:
    """Who needs exact products at the moment."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.restore: Callable[[], None] | None = None


# One for the process, whichever package is asked: skdebias and embeddings_cache have
# this file both. Two that did not know of each other would give the switches back under
# one another's computations.
_holders: _Holders = vars(torch).setdefault("_exact_float32_holders", _Holders())


def _after_fork() -> None:
    # The thread that held it may not be in this process.
    _holders.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products and convolutions in float32, whatever the caller set.

    Sums of float16 and bfloat16 products are those that are PyTorch's default. The
    switches are the process's: they are set by the first thread that needs them and
    given back by the last, so that no thread takes them from another.
    """
    with _holders.lock:
        if not _holders.count:
            _holders.restore = _pin()
        _holders.count += 1
    try:
        yield
    finally:
        with _holders.lock:
            _holders.count -= 1
            if not _holders.count and _holders.restore is not None:
                _holders.restore()
                _holders.restore = None


def _pin() -> Callable[[], None]:
    """Set every switch; return what gives the caller's values back."""
    newer = hasattr(torch.backends, "fp32_precision")
    parts = [_pin_half_products(), _pin_newer() if newer else _pin_older()]

    def restore() -> None:
        for give_back in parts:
            give_back()

    return restore


def _pin_half_products() -> Callable[[], None]:
    matmul: Any = torch.backends.cuda.matmul
    saved = {}
    for name, default in _HALF_PRODUCTS.items():
        if hasattr(matmul, name):  # the last one came with PyTorch 2.7
            split = f"{name}_split_k"
            value = getattr(matmul, name)
            saved[name] = (
                (value, getattr(matmul, split)) if hasattr(matmul, split) else value
            )
            setattr(matmul, name, default)

    def restore() -> None:
        for name, value in saved.items():
            setattr(matmul, name, value)

    return restore


def _pin_older() -> Callable[[], None]:
    """Set the switches of PyTorch before 2.9."""
    products = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

    def restore() -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions

    return restore


def _pin_newer() -> Callable[[], None]:
    """Set `fp32_precision`, wide switches first.

    A convolution that follows a wider switch is not written to: it has a default that
    nothing brings back. So the older `cudnn.allow_tf32`, which writes to it, stays.
    """
    backends: Any = torch.backends
    cuda, cpu = backends.cudnn, backends.mkldnn
    products = [backends.cuda.matmul, cpu.matmul]
    narrow = [*products, cuda.conv, cuda.rnn, cpu.conv, cpu.rnn]
    before = {switch: switch.fp32_precision for switch in (backends, cuda, *narrow)}
    older = _older_products()
    own_values = {backends: before[backends], cuda: _own_value(cuda, [backends])}
    own_values |= {switch: _own_value(switch, [backends, cuda]) for switch in narrow}
    free = [cuda.conv, cuda.rnn, cpu.conv, cpu.rnn]
    written = [s for s, value in own_values.items() if value != "none" or s not in free]
    for switch in written:
        switch.fp32_precision = "ieee"
    if older is not None:
        torch.set_float32_matmul_precision("highest")  # it writes to the products

    def restore() -> None:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for switch in written:
            switch.fp32_precision = own_values[switch]
        for switch in written:
            # A default that no value stands for, such as that of an environment.
            if switch.fp32_precision != before[switch]:
                switch.fp32_precision = before[switch]

    return restore


def _older_products() -> str | None:
    """Return the older switch of products; None if the newer ones contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _own_value(switch: Any, wider: list[Any]) -> str:
    """Return what a switch itself is set to; "none" if it follows a wider one.

    Reading it gives what holds, wherever that was set, so the wider ones are turned:
    what follows them turns with them. They are "ieee" in the end.
    """
    values = []
    for value in ("none", "ieee"):
        for other in wider:
            other.fp32_precision = value
        values.append(switch.fp32_precision)
    return str(values[0]) if values[0] == values[1] else "none"
