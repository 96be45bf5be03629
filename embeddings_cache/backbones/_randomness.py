"""Random numbers that follow from a seed, whatever else draws random numbers.

What initialises a network, dropout and augmentations draw from torch's generator of the
process, from which any thread may draw at the same time. So every operation that draws
is handed a generator of its own here, below all libraries, and the process's is not
touched. The numbers are those of the process's generator with the same seed.
"""

import functools
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


class SeededGenerator(TorchDispatchMode):
    """Let all that this thread draws on the CPU come from one generator.

    Parameters
    ----------
    seed : int
        Of the generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        """Draw as from the start with a seed.

        Parameters
        ----------
        seed : int
        """
        self._generator.manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, with the generator if it draws."""
        kwargs = dict(kwargs or {})
        if not _may_draw(func) or not _on_the_cpu(args, kwargs):
            return func(*args, **kwargs)
        seeded = func if _has_generator(func) else _with_generator(func)
        if seeded is not None:
            if kwargs.get("generator") is None:
                kwargs["generator"] = self._generator
            return seeded(*args, **kwargs)
        # In inference mode operations that consist of others come whole.
        if func.has_kernel_for_dispatch_key(_COMPOSITE):
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        if _drops_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        raise RuntimeError(
            f"{func} draws random numbers from the generator of the process only, so "
            "what is drawn would not follow from its seed: draw with another function "
            "of torch"
        )


@functools.cache
def _may_draw(func: Any) -> bool:
    # Attention says so by an argument alone.
    return torch.Tag.nondeterministic_seeded in func.tags or "dropout_p" in _names(func)


@functools.cache
def _names(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


def _on_the_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether an operation draws on the CPU, and not on another device."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == "cpu"
    first = args[0] if args else None
    return not isinstance(first, torch.Tensor) or first.device.type == "cpu"


def _has_generator(func: Any) -> bool:
    return "generator" in _names(func)


@functools.cache
def _with_generator(func: Any) -> Any:
    """Return the overload of an operation that takes a generator, if there is one."""
    packet = func.overloadpacket
    for name in packet.overloads():
        overload = getattr(packet, name)
        names = _names(overload)
        rest = tuple(n for n in names if n != "generator")
        if "generator" in names and rest == _names(func):
            return overload
    return None


def _drops_nothing(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether an operation of attention is told to drop nothing."""
    arguments = dict(zip(_names(func), args)) | kwargs
    return "dropout_p" in _names(func) and arguments.get("dropout_p", 0.0) == 0.0
