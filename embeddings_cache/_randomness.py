"""Random numbers that follow from a seed, whatever else draws random numbers.

What initialises a network, dropout and augmentations draw from torch's generator of the
process, from which any thread may draw at the same time. So every operation that draws
is handed a generator of its own here, below all libraries, and the process's is not
touched. The numbers are those of the process's generator with the same seed.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OwnGenerator(TorchDispatchMode):
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
        """Draw as from the start with a seed."""
        self._generator.manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, with the generator if it draws."""
        kwargs = dict(kwargs or {})
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        if not drawn or not _on_the_cpu(args, kwargs):
            return func(*args, **kwargs)
        if not _has_generator(func):
            func = _with_generator(func)
        if kwargs.get("generator") is None:
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)


def _on_the_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation draws on the CPU; other devices have generators too."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == "cpu"
    first = args[0] if args else None
    return not isinstance(first, torch.Tensor) or first.device.type == "cpu"


def _has_generator(func: Any) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)


def _with_generator(func: Any) -> Any:
    """Return the overload of an operation that takes a generator.

    Raises
    ------
    RuntimeError
        If there is none: its numbers would depend on what else the process draws.
    """
    wanted = [argument.name for argument in func._schema.arguments]
    packet = func.overloadpacket
    for name in packet.overloads():
        found = getattr(packet, name)
        names = [argument.name for argument in found._schema.arguments]
        if "generator" in names and [n for n in names if n != "generator"] == wanted:
            return found
    raise RuntimeError(
        f"{func} draws random numbers from the generator of the process only, so what "
        "is drawn would not follow from its seed: draw with another function of torch"
    )
