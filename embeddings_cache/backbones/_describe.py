"""What a network, or any value it holds, is described by: all of it, or it is refused.

A description is plain JSON. It is the same in every process for the same value: it has
no address, no hash and no order of a set in it. A value of a kind that is not listed
here is an :class:`UndescribableError` that names where it was found.
"""

import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import logging
import pathlib
import re
import types
import typing
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from embeddings_cache._errors import UndescribableError
from embeddings_cache._fingerprint import canonical_json, tensors_digest
from embeddings_cache.backbones import _code, _modules, _tensors
from embeddings_cache.backbones._declared import declared
from embeddings_cache.backbones._origin import library_of

_SHORT = 200  # characters of JSON; a longer part becomes its digest
_LARGE = 1 << 63  # Python refuses to write much larger numbers in decimal

# Their text is exact, and the same everywhere.
_BY_TEXT = (
    decimal.Decimal, fractions.Fraction, uuid.UUID, datetime.date, datetime.time,
    datetime.timedelta, datetime.timezone, pathlib.PurePath, types.GenericAlias,
    types.UnionType, type(typing.Any), type(typing.Union[int, str]),  # noqa: UP007
    type(list[int]),
    typing.TypeVar, torch.dtype, torch.device, torch.layout, torch.memory_format,
    np.dtype, type(Ellipsis), type(NotImplemented),
)  # fmt: skip
_RANDOM = (torch.Generator, np.random.Generator, np.random.RandomState)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, types.MappingProxyType)


class Describer:
    """Describes values; what was described once is referred to by its number.

    Parameters
    ----------
    subject : str
        The parameter that the value was given as, for messages.
    remedy : str
        What to do about a value that is refused.
    weights : mapping of int to str, default={}
        Names of the tensors, by identity, whose content is digested elsewhere.
    training : bool, default=False
        Whether what only training depends on is described too.
    parts : collection of int, default=()
        Identities of all modules of a network in evaluation mode: others that it uses
        have to be in evaluation mode by themselves.

    Attributes
    ----------
    libraries : dict of str to str
        Versions of the libraries whose code was met.
    patched : dict of type to list of str
        Members of libraries' classes that others put there, of classes that were met.
    """

    def __init__(
        self,
        subject: str,
        remedy: str,
        weights: Mapping[int, str] = types.MappingProxyType({}),
        *,
        training: bool = False,
        parts: Collection[int] = (),
    ) -> None:
        self.subject = subject
        self.remedy = remedy
        self.weights = weights
        self.training = training
        self.parts = parts
        self.libraries: dict[str, str] = {}
        self.patched: dict[type, list[str]] = {}
        self._origins: dict[str, dict[str, str] | None] = {}
        self._numbers: dict[Any, int] = {}
        self._count = 0
        self._alive: list[Any] = []  # an identity is that of a living object only

    def __call__(self, value: Any, where: str) -> Any:
        """Describe a value.

        Parameters
        ----------
        value : object
        where : str
            Its place, for messages.

        Returns
        -------
        JSON value

        Raises
        ------
        UndescribableError
            If the value, or a part of it, is of no known kind.
        """
        plain = _PLAIN.get(type(value))
        if plain is not None:
            return plain(value)
        for kinds, describe in _KINDS:
            if isinstance(value, kinds):
                return describe(self, value, where)
        return self._object(value, where)

    def whole(self, value: Any, where: str) -> Any:
        """Describe a value; one that is nested beyond measure is refused."""
        try:
            return self(value, where)
        except RecursionError as error:
            raise self.refusal(where, "nested too deeply") from error

    def refusal(self, where: str, what: str) -> UndescribableError:
        """Return the error for a value without a description.

        Parameters
        ----------
        where : str
            Its place.
        what : str
            What it is, after "is".
        """
        return UndescribableError(
            f"{self.subject}: {where} is {what} and has no description, so results "
            f"made with it could not be told from others. {self.remedy}"
        )

    def library(self, module: str | None) -> bool:
        """Return whether a module is a library's; its version is noted then."""
        origin = self._origin(module)
        self.libraries.update(origin or {})
        return origin is not None

    def is_library(self, module: str | None) -> bool:
        """Return whether a module is a library's, without noting its version.

        Which libraries happen to be imported must not be in a description.
        """
        return self._origin(module) is not None

    def _origin(self, module: str | None) -> dict[str, str] | None:
        if not module:
            return None
        if module not in self._origins:
            self._origins[module] = library_of(module)
        return self._origins[module]

    def short(self, tree: Any) -> Any:
        """Return a description, or its digest if it is long."""
        text = canonical_json(tree)
        if len(text) <= _SHORT:
            return tree
        return {"sha256": hashlib.sha256(text).hexdigest()}

    def seen(self, value: Any, key: Any = None) -> Any:
        """Return a reference to a value that was begun before, else None; begin it."""
        key = id(value) if key is None else key
        if key in self._numbers:
            return {"see": self._numbers[key]}
        self._count += 1
        self._numbers[key] = self._count
        self._alive.append(value)
        return None

    @contextlib.contextmanager
    def inside(self, value: Any) -> Iterator[Any]:
        """Give a reference to a container that holds itself, else None."""
        reference = self.seen(value)
        try:
            yield reference
        finally:
            if reference is None:
                # Equal containers are described alike, be they one object or two.
                del self._numbers[id(value)]

    def attributes(self, state: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Describe attributes by name; their order changes no number."""
        return {
            name: self.short(self(state[name], f"{where}.{name}"))
            for name in sorted(state)
        }

    def _object(self, value: Any, where: str) -> Any:
        """Describe an object that holds nothing but Python attributes."""
        declaration = declared(value, where)
        if declaration is not None:
            return declaration
        kind = type(value)
        if not _is_pure(kind):
            label = f"{kind.__module__}.{kind.__qualname__}"
            raise self.refusal(where, f"of the type {label}")
        return self.seen(value) or {
            "object": _code.describe_class(self, kind, where),
            "state": self.attributes(_code.state_of(value), where),
        }


# Classes of C whose instances hold no more than their attributes.
_EMPTY = (object, types.SimpleNamespace)


def _is_pure(kind: type) -> bool:
    """Return whether instances of a class hold attributes only, and nothing in C."""
    bases = [base for base in kind.__mro__ if base not in _EMPTY]
    if not bases:
        return kind is types.SimpleNamespace
    if any(not base.__flags__ & _code.HEAP_TYPE for base in bases):
        return False
    word = tuple.__itemsize__
    slots = sum(
        isinstance(member, types.MemberDescriptorType)
        for base in bases
        for member in vars(base).values()
    )
    # An instance may have a dictionary and a list of weak references.
    base = max(empty.__basicsize__ for empty in _EMPTY if issubclass(kind, empty))
    most = base + word * (slots + 2)
    return kind.__itemsize__ == 0 and kind.__basicsize__ <= most


def _float(value: float) -> Any:
    # JSON has no nan; it writes -0.0 and every finite number exactly.
    return value if np.isfinite(value) else {"float": repr(value)}


def _int(value: int) -> Any:
    return value if abs(value) < _LARGE else {"int": hex(value)}


def _bytes(value: bytes | bytearray) -> Any:
    name = type(value).__name__
    return {name: hashlib.sha256(value).hexdigest(), "length": len(value)}


def _container(describe: Describer, value: Any, where: str) -> Any:
    with describe.inside(value) as reference:
        if reference is not None:
            return reference
        items = _items(describe, value, where)
    if type(value) is list:
        return items
    if isinstance(value, deque):
        items.append({"maxlen": value.maxlen})
    if type(value) in (*_CONTAINERS, OrderedDict):
        return {type(value).__name__: items}
    return _subclass(describe, value, where, items)


def _items(describe: Describer, value: Any, where: str) -> Any:
    if isinstance(value, dict | types.MappingProxyType):
        return [
            [describe(name, f"{where} (a key)"), describe(part, f"{where}[{name!r}]")]
            for name, part in value.items()
        ]
    if isinstance(value, set | frozenset):
        # Each by itself, so that numbers do not depend on the order of the set.
        parts = [alone(describe)(part, f"{where} (an element)") for part in value]
        return sorted(parts, key=canonical_json)
    return [describe(part, f"{where}[{i}]") for i, part in enumerate(value)]


def alone(describe: Describer) -> Describer:
    """Return a describer of the same kind that has seen nothing yet."""
    fresh = type(describe)(
        describe.subject,
        describe.remedy,
        describe.weights,
        training=describe.training,
        parts=describe.parts,
    )
    fresh.libraries = describe.libraries
    return fresh


def _subclass(describe: Describer, value: Any, where: str, items: Any) -> Any:
    """Describe an instance of a class that extends a built-in one."""
    state = _code.state_of(value)
    if isinstance(value, dict) and hasattr(value, "default_factory"):
        state["default_factory"] = value.default_factory
    return {
        "object": _code.describe_class(describe, type(value), where),
        "items": items,
        "state": describe.attributes(state, where),
    }


def _scalar_subclass(describe: Describer, value: Any, where: str) -> Any:
    plain = next(
        plain(value) for base, plain in _VALUES.items() if isinstance(value, base)
    )
    return _subclass(describe, value, where, describe(plain, where))


def _enum(describe: Describer, value: enum.Enum, where: str) -> Any:
    return {
        "enum": _code.describe_class(describe, type(value), where),
        "name": value.name,
        "value": describe(value.value, f"{where}.value"),
    }


def _pattern(describe: Describer, value: "re.Pattern[Any]", where: str) -> Any:
    return {"pattern": describe(value.pattern, where), "flags": value.flags}


def _slice(describe: Describer, value: slice | range, where: str) -> Any:
    parts = (value.start, value.stop, value.step)
    return {type(value).__name__: [describe(part, where) for part in parts]}


def _partial(describe: Describer, value: "functools.partial[Any]", where: str) -> Any:
    return {
        "partial": describe(value.func, f"{where}.func"),
        "args": describe(value.args, f"{where}.args"),
        "keywords": describe(value.keywords, f"{where}.keywords"),
    }


def _reference(describe: Describer, value: "weakref.ref[Any]", where: str) -> Any:
    return {"reference": describe(value(), where)}


def _random(describe: Describer, value: Any, where: str) -> Any:
    raise describe.refusal(where, f"a random generator ({type(value).__name__})")


def _text(_describe: Describer, value: Any, _where: str) -> Any:
    return {type(value).__name__: str(value)}


def _logger(_describe: Describer, value: logging.Logger, _where: str) -> Any:
    return {"logger": value.name}  # what it writes changes no number


# The plain value of a subclass, whatever its own methods say.
_VALUES: dict[type, Callable[[Any], Any]] = {
    int: lambda value: int.__add__(value, 0),
    float: lambda value: float.__mul__(value, 1.0),
    complex: lambda value: complex.__mul__(value, 1.0),
    str: str.__str__,
    bytes: lambda value: bytes(memoryview(value)),
    bytearray: lambda value: bytearray(memoryview(value)),
}
_PLAIN: dict[type, Callable[[Any], Any]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    str: lambda value: value,
    int: _int,
    float: _float,
    complex: lambda value: {"complex": [_float(value.real), _float(value.imag)]},
    bytes: _bytes,
    bytearray: _bytes,
}

# The first kind that a value is an instance of describes it.
_KINDS: tuple[tuple[Any, Callable[[Describer, Any, str], Any]], ...] = (
    (enum.Enum, _enum),
    (torch.Tensor, _tensors.describe_tensor),
    (nn.Module, _modules.describe_module),
    (fx.Graph, _modules.describe_graph),
    (_RANDOM, _random),
    (np.generic, _tensors.describe_scalar),
    (np.ndarray, _tensors.describe_array),
    (_code.FUNCTIONS, _code.describe_function),
    (_code.C_FUNCTIONS, _code.describe_c_function),
    (_code.OPERATORS, _code.describe_operator),
    (_code.WRAPPERS, _code.describe_wrapper),
    (functools.partial, _partial),
    (type, _code.describe_class),
    (types.ModuleType, _code.describe_python_module),
    ((slice, range), _slice),
    (_BY_TEXT, _text),
    (re.Pattern, _pattern),
    (logging.Logger, _logger),
    (weakref.ref, _reference),
    (_CONTAINERS, _container),
    (tuple(_VALUES), _scalar_subclass),
)


_REMEDY = (
    "Make it of plain values, tensors and Python code, or set cache_description on the "
    "network to a text that changes whenever its numbers do"
)


def describe_network(network: nn.Module, *, training: bool = False) -> dict[str, Any]:
    """Describe a network of the user's: its tensors, and everything else about it.

    Parameters
    ----------
    network : torch.nn.Module
        If it has an attribute ``cache_description``, this is taken at its word for
        everything but the tensors.
    training : bool, default=False
        Whether to describe what only training depends on: which tensors require
        gradients, and the hooks on them.

    Returns
    -------
    dict
        ``weights``, ``network`` and ``libraries``; plain JSON values, the same in every
        process.

    Raises
    ------
    UndescribableError
        If an attribute, a hook or a piece of code has no description; the message names
        it.

    Examples
    --------
    >>> from torch import nn
    >>> from embeddings_cache.backbones._describe import describe_network
    >>> plain, leaky = nn.Sequential(nn.ReLU()), nn.Sequential(nn.LeakyReLU())
    >>> describe_network(plain) == describe_network(nn.Sequential(nn.ReLU()))
    True
    >>> describe_network(plain) == describe_network(leaky)
    False
    """
    named = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    weights: dict[int, str] = {}
    for name, tensor in named:
        if _tensors.is_plain(tensor):
            weights.setdefault(id(tensor), name)
    declaration = declared(network, "network")
    first = {name: tensor for name, tensor in named if weights.get(id(tensor)) == name}
    evaluated = not (training or network.training)
    parts = {id(module) for module in network.modules()} if evaluated else ()
    describe = Describer("backbone", _REMEDY, weights, training=training, parts=parts)
    described: dict[str, Any] = declaration or {}
    if declaration is None:
        described = {
            "module": describe.whole(network, "backbone"),
            "global_hooks": _modules.global_hooks(describe),
        }
    elif training or len(first) < len({id(tensor) for _, tensor in named}):
        described = declaration | {"tensors": describe(dict(named), "backbone")}
    return {
        "weights": {"tensors": tensors_digest(first.items())},
        "network": described,
        "libraries": dict(sorted(describe.libraries.items())),
    }
