"""What compiled code refers to by name: globals, attributes, modules it imports."""

import builtins
import dis
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import torch

from embeddings_cache.backbones._origin import library_of

# With these, code finds an attribute whose name is not in it.
_LOOKING_UP = frozenset({"getattr", "vars", "__dict__", "attrgetter"})
DUNDER = re.compile("__.*__")


class Names(typing.NamedTuple):
    """What code refers to by name: globals, attributes, modules it imports."""

    globals: set[str]
    attributes: set[str]
    imports: set[tuple[int, str]]
    texts: set[str]


def names_of(code: types.CodeType) -> Names:
    names = Names(set(), set(), set(), set())
    names.texts.update(part for part in code.co_consts if isinstance(part, str))
    level = 0
    for step in dis.get_instructions(code):
        if "GLOBAL" in step.opname or step.opname == "LOAD_NAME":
            names.globals.add(step.argval)
        elif "ATTR" in step.opname or step.opname in ("LOAD_METHOD", "IMPORT_FROM"):
            names.attributes.add(step.argval)
        elif step.opname == "IMPORT_NAME":
            names.imports.add((level, step.argval))
            names.attributes.update(step.argval.split("."))
        if step.opname.startswith("LOAD_") and type(step.argval) is int:
            # `import` puts how many folders it goes up two steps before the name.
            level = step.argval
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            for mine, theirs in zip(names, names_of(part)):
                mine |= theirs  # type: ignore[operator]
    return names


def looked_up(names: Names) -> set[str] | None:
    """Return the attributes of modules that code may use; None if it may use any."""
    if names.globals & _LOOKING_UP or names.attributes & _LOOKING_UP:
        return None
    return names.attributes


def added_names(names: Names, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what code names that the user added to Python's names or to tensors."""
    python_names = vars(builtins)
    for name in sorted((names.globals - set(scope)) & set(python_names)):
        value = python_names[name]
        kind = value if isinstance(value, type) else type(value)
        function_or_number = (types.FunctionType, int, float, str)
        if not DUNDER.fullmatch(name) and (
            isinstance(value, function_or_number)
            or kind.__module__ not in ("builtins", "_sitebuiltins")
        ):
            yield name, value
    for name in sorted(names.attributes & set(vars(torch.Tensor))):
        value = vars(torch.Tensor)[name]
        if isinstance(value, types.FunctionType) and not library_of(
            value.__globals__.get("__name__", "")
        ):
            yield f"Tensor.{name}", value
