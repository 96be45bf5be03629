"""A copy of a network of the user's, which nobody else uses.

The user may train a network, or use it, in another thread while it embeds. A copy has
training flags, weights and buffers of its own: what the user does does not reach the
embeddings, what happens here does not reach the user, and the key describes exactly
what computes.
"""

import copy
from collections.abc import Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

_PLAIN = (bool, int, float, str, type(None))
_WHY = (
    "The extractor computes with a copy of its own, so that a network which is trained "
    "or used elsewhere at the same time cannot change an embedding."
)


class PrivateCopy:
    """A network in evaluation mode that shares nothing with the original.

    Parameters
    ----------
    original : torch.nn.Module
        It is only read.

    Attributes
    ----------
    network : torch.nn.Module
        The copy.

    Raises
    ------
    TypeError
        If the network cannot be copied.
    """

    def __init__(self, original: nn.Module) -> None:
        self.network, copies = private_copy(original, _WHY)
        # Those in lists, which eval() would not reach, too.
        for module in [*copies, *self.network.modules()]:
            module.training = False
        self._pairs = list(zip(original.modules(), self.network.modules(), strict=True))
        self._before = [_plain(own) for _, own in self._pairs]

    def report(self) -> None:
        """Set on the original what passes have set on the copy: its own counters.

        Only numbers and texts; weights, buffers and training flags stay the user's.
        """
        for (theirs, own), before in zip(self._pairs, self._before, strict=True):
            now = _plain(own)
            for name, value in now.items():
                if name not in before or before[name] != value:
                    vars(theirs)[name] = value
        self._before = [_plain(own) for _, own in self._pairs]


def private_copy(original: nn.Module, why: str) -> tuple[nn.Module, list[nn.Module]]:
    """Return a copy of a network that computes with nothing of the original.

    Parameters
    ----------
    original : torch.nn.Module
        It is only read.
    why : str
        For the error: a sentence that says what the copy is for.

    Returns
    -------
    network : torch.nn.Module
    copies : list of torch.nn.Module
        The copies of all modules that the network holds, those in lists too.

    Raises
    ------
    TypeError
        If the network cannot be copied.
    """
    try:
        network, memo = _copied(original, plainly=False)
    except Exception:
        # Some say how they are pickled, or that they are not: not how they are copied.
        try:
            network, memo = _copied(original, plainly=True)
        except Exception as error:
            raise _refusal(original, str(error), why) from error
    copies = [value for value in memo.values() if isinstance(value, nn.Module)]
    known = {id(module) for module in [network, *copies]}
    if any(id(module) in known for module in original.modules()):
        raise _refusal(original, "its __deepcopy__ returns the original", why)
    for module in [network, *copies]:
        _rebind(module, memo)
    return network, copies


def _copied(original: nn.Module, *, plainly: bool) -> tuple[nn.Module, dict[int, Any]]:
    """Return a copy and what became what, by the identities of the originals.

    Parameters
    ----------
    original : torch.nn.Module
    plainly : bool
        Whether modules are copied attribute by attribute, whatever their classes say.
    """
    memo: dict[int, Any] = {
        # Copying refuses tensors within a graph, such as activations it kept.
        id(tensor): tensor.detach().clone()
        for tensor in _tensors(original, set())
        if not tensor.is_leaf
    }
    if plainly:
        modules = list(original.modules())
        memo |= {id(module): object.__new__(type(module)) for module in modules}
        for module in modules:
            attributes = {k: copy.deepcopy(v, memo) for k, v in vars(module).items()}
            vars(memo[id(module)]).update(attributes)
    return copy.deepcopy(original, memo), memo


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training" and not name.startswith("_") and type(value) in _PLAIN
    }


def _refusal(network: nn.Module, reason: str, why: str) -> TypeError:
    return TypeError(
        f"backbone={type(network).__name__}(...) cannot be copied ({reason}). {why} "
        "Leave out what cannot be copied, or give the class a __deepcopy__"
    )


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Yield the tensors that hang on a module as plain attributes."""
    if isinstance(value, torch.Tensor):
        yield value
        return
    if not isinstance(value, nn.Module | dict | list | tuple | set):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        value = vars(value)
    for part in value.values() if isinstance(value, dict) else value:
        yield from _tensors(part, seen)


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _rebind(module: nn.Module, memo: dict[int, Any]) -> None:
    """Let functions on a copied module use the copy where they hold the original.

    Copying leaves functions as they are, such as a hook, or a forward pass that was
    put on the network and calls the one before.
    """
    attributes = vars(module)
    for values in [
        attributes,
        *(attributes[name] for name in _HOOKS if attributes.get(name)),
    ]:
        for name, value in list(values.items()):
            if isinstance(value, FunctionType | MethodType):
                values[name] = _rebound(value, memo, {})


def _rebound(value: Any, memo: dict[int, Any], done: dict[int, Any]) -> Any:
    """Return a value with the parts of the original replaced by their copies."""
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    if isinstance(value, MethodType):
        owner = _rebound(value.__self__, memo, done)
        function = _rebound(value.__func__, memo, done)
        same = owner is value.__self__ and function is value.__func__
        return value if same else MethodType(function, owner)
    if not isinstance(value, FunctionType):
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value  # a function that holds itself
    cells = tuple(_cell(cell, memo, done) for cell in value.__closure__ or ())
    defaults = tuple(_rebound(v, memo, done) for v in value.__defaults__ or ())
    if cells != (value.__closure__ or ()) or any(
        new is not old for new, old in zip(defaults, value.__defaults__ or ())
    ):
        code, scope, name = value.__code__, value.__globals__, value.__name__
        new = FunctionType(code, scope, name, defaults or None, cells or None)
        new.__kwdefaults__ = value.__kwdefaults__
        new.__qualname__, new.__module__ = value.__qualname__, value.__module__
        new.__dict__.update(vars(value))
        done[id(value)] = new
    return done[id(value)]


def _cell(cell: CellType, memo: dict[int, Any], done: dict[int, Any]) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # nothing is in it yet
        return cell
    new = _rebound(content, memo, done)
    return cell if new is content else CellType(new)
