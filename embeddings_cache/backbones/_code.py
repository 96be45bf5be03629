"""Descriptions of functions, classes and Python modules: by the code that would run.

Code of a library is its name; the library's version stands beside it. Code of the
user's is the compiled code, not the text of the file, which may have been edited after
it was imported or may hold several functions on one line. With a function goes all it
refers to: its defaults, the variables it encloses, and the globals of its module.

Compiled code belongs to a version of Python, which stands beside it too.
"""

import builtins
import contextlib
import functools
import importlib.util
import inspect
import sys
import types
import weakref
from collections.abc import Iterable
from enum import EnumType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from embeddings_cache.backbones._declared import declared
from embeddings_cache.backbones._lookups import (
    DUNDER,
    Names,
    added_names,
    looked_up,
    names_of,
)

if TYPE_CHECKING:
    from embeddings_cache.backbones._describe import Describer


HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not a class of C, or not an old one
FUNCTIONS = (types.FunctionType, types.MethodType)
C_FUNCTIONS = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    np.ufunc,
)
OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
WRAPPERS = (
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
    functools.partialmethod,
    type(functools.lru_cache(lambda: None)),
)
_READ: "weakref.WeakSet[type]" = weakref.WeakSet()
# Members of classes that say where an attribute is, and nothing else.
_PLACES = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    type(vars(Names)["globals"]),  # a field of a tuple
)
_TORCH_OPERATORS = (
    "aten",
    "prim",
    "prims",
    "torchvision",
    "quantized",
    "_c10d_functional",
)
# What Python and the standard library keep in a class about its definition.
_DEFINITION = frozenset(
    {
        "__module__", "__dict__", "__weakref__", "__doc__", "__qualname__",
        "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__",
        "__conditional_annotations__", "__firstlineno__", "__static_attributes__",
        "__parameters__", "__orig_bases__", "__abstractmethods__", "_abc_impl",
        "__dataclass_fields__", "__dataclass_params__", "__match_args__",
        "__protocol_attrs__", "__non_callable_proto_members__", "__subclasshook__",
        "_is_protocol", "_is_runtime_protocol", "__classcell__", "__final__",
        "cache_description",
    }
)  # fmt: skip
_ENUM = frozenset(
    {
        "_generate_next_value_", "_member_names_", "_member_map_", "_value2member_map_",
        "_unhashable_values_", "_unhashable_values_map_", "_hashable_values_",
        "_member_type_", "_value_repr_", "_use_args_", "_new_member_", "__new__",
        "_singles_mask_", "_all_bits_", "_flag_mask_", "_boundary_", "_inverted_",
    }
)  # fmt: skip


def state_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots too."""
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):
                    state[name] = member.__get__(value)
    return state


def describe_function(describe: "Describer", function: Any, where: str) -> Any:
    """Describe a function, or a method with the object it is bound to.

    Parameters
    ----------
    describe : Describer
    function : function or bound method
    where : str
    """
    if isinstance(function, types.MethodType):
        return {
            "method": describe(function.__func__, where),
            "of": describe(function.__self__, f"{where}.__self__"),
        }
    declaration = declared(function, where)
    if declaration is not None:
        return declaration
    compiled = vars(function).get("_torchdynamo_orig_callable")
    if compiled is not None and describe.library(function.__globals__["__name__"]):
        if function.get_compiler_config() is None:
            raise describe.refusal(where, "compiled with a backend of the user's")
        return {"compiled": describe(compiled, where)}
    # Not function.__module__, which functools.wraps copies from another function.
    module = function.__globals__.get("__name__")
    name = function.__code__.co_qualname
    library = describe.library(module)
    if library and "<" not in name:
        return {"function": f"{module}.{name}"}
    return describe.seen(function) or {
        "function": f"{module}.{name}" if library else function.__name__,
        **_function(describe, function, where, with_globals=not library),
    }


def _function(
    describe: "Describer", function: Any, where: str, *, with_globals: bool
) -> dict[str, Any]:
    """Describe what a function does: code, defaults, and what it refers to."""
    code = function.__code__
    parts = {
        "code": describe_code(describe, code, where),
        "defaults": [function.__defaults__, function.__kwdefaults__],
        "closure": {
            name: _content(cell)
            for name, cell in zip(code.co_freevars, function.__closure__ or ())
        },
        "attributes": dict(vars(function)),
    }
    described = {
        name: describe.short(describe(part, f"{where} ({name})"))
        for name, part in parts.items()
        if name != "code" and part
    }
    described["code"] = describe.short(parts["code"])
    if with_globals:
        described["globals"] = describe.short(_globals(describe, function, where))
    return described


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "(empty)"


def describe_code(describe: "Describer", code: types.CodeType, where: str) -> Any:
    """Describe compiled code; lines, file names and its own name are left out.

    Parameters
    ----------
    describe : Describer
    code : code object
    where : str
    """
    describe.libraries["python"] = "{}.{}".format(*sys.version_info[:2])
    constants = [
        describe_code(describe, part, where)
        if isinstance(part, types.CodeType)
        else describe(part, f"{where} (a constant)")
        for part in code.co_consts
    ]
    return {
        "code": describe(code.co_code, where),
        "exceptions": describe(code.co_exceptiontable, where),
        "names": [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars],
        "arguments": [
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags,
        ],
        "constants": constants,
    }


def _globals(describe: "Describer", function: Any, where: str) -> dict[str, Any]:
    """Describe the globals that a function refers to, by name."""
    names = names_of(function.__code__)
    scope = function.__globals__
    wanted = names.globals | (names.texts if "globals" in names.globals else set())
    attributes = looked_up(names)
    described = {}
    for name in sorted(wanted & set(scope)):
        place = f"{where} → {name}"
        described[name] = _named(describe, scope[name], attributes, place)
    for name, value in added_names(names, scope):
        described[f"added {name}"] = describe(value, f"{where} → {name}")
    for level, name in sorted(names.imports):
        imported = _imported(level, name, scope.get("__package__"))
        described[f"import {'.' * level}{name}"] = (
            "absent"
            if imported is None
            else _named(describe, imported, attributes, f"{where} → {name}")
        )
    return described


def _imported(level: int, name: str, package: str | None) -> Any:
    """Return the module that an import statement inside of a function finds."""
    try:
        full = importlib.util.resolve_name("." * level + name, package)
        module = importlib.import_module(full)
        return module if level else sys.modules[full.partition(".")[0]]
    except ImportError:
        return None


def _named(
    describe: "Describer", value: Any, attributes: Iterable[str] | None, where: str
) -> Any:
    """Describe a global: of a module, only the attributes that the code names."""
    if isinstance(value, types.ModuleType):
        return describe_python_module(describe, value, where, attributes)
    return describe(value, where)


def describe_python_module(
    describe: "Describer",
    module: types.ModuleType,
    where: str,
    names: Iterable[str] | None = None,
) -> Any:
    """Describe a Python module: a library's by name, the user's by its attributes.

    Parameters
    ----------
    describe : Describer
    module : module
    where : str
    names : iterable of str, default=None
        The attributes that are used; None is all that are not private.
    """
    library = describe.library(module.__name__)
    scope = vars(module)
    if names is None:
        names = [] if library else [n for n in scope if not DUNDER.fullmatch(n)]
    used = sorted(set(names) & set(scope))
    if library:
        # A function of the user's in a library's module was put there.
        used = [name for name in used if _is_foreign(describe, scope[name])]
        described = {"module": module.__name__}
    else:
        described = {"module": "(the user's)"}
    reference = describe.seen(module, (id(module), *used)) if used else None
    if reference is not None:
        return reference
    attributes = {
        name: describe.short(_named(describe, scope[name], names, f"{where}.{name}"))
        for name in used
    }
    return described | ({"attributes": attributes} if attributes else {})


def _is_foreign(describe: "Describer", value: Any) -> bool:
    """Return whether something is, or wraps, a function that no library defines."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    return isinstance(value, types.FunctionType) and not describe.is_library(
        value.__globals__.get("__name__")
    )


def describe_c_function(describe: "Describer", function: Any, where: str) -> Any:
    """Describe a function that is not Python code: by name, if it is a library's.

    Parameters
    ----------
    describe : Describer
    function : builtin function or method, or ufunc
    where : str
    """
    owner = getattr(function, "__self__", None)
    kind = getattr(function, "__objclass__", None)
    name = getattr(function, "__qualname__", function.__name__)
    if owner is not None and not isinstance(owner, types.ModuleType):
        return {"method": name, "of": describe(owner, f"{where}.__self__")}
    module = getattr(function, "__module__", None) or getattr(kind, "__module__", None)
    if isinstance(function, np.ufunc):
        module = _home_of_ufunc(function)
    if not describe.library(module):
        raise describe.refusal(where, f"the compiled function {name}")
    return {"function": f"{module}.{name}"}


def _home_of_ufunc(function: np.ufunc) -> str | None:
    """Return the module that a ufunc is from; ufuncs of the user's are in none."""
    for name in ("numpy", "scipy.special"):
        if getattr(sys.modules.get(name), function.__name__, None) is function:
            return name
    return None


def describe_operator(describe: "Describer", operator: Any, where: str) -> Any:
    """Describe an operator of torch by name; operators of the user's are refused.

    Parameters
    ----------
    describe : Describer
    operator : OpOverload or OpOverloadPacket
    where : str
    """
    name = str(operator)
    if name.partition(".")[0].partition("::")[0] not in _TORCH_OPERATORS:
        raise describe.refusal(where, f"the registered operator {name}")
    describe.library("torch")
    return {"operator": name}


def describe_wrapper(describe: "Describer", wrapper: Any, where: str) -> Any:
    """Describe a property, a class or static method, or a function with a cache.

    Parameters
    ----------
    describe : Describer
    wrapper : property, staticmethod, classmethod, cached_property, lru_cache
    where : str
    """
    if isinstance(wrapper, property):
        parts: Any = [wrapper.fget, wrapper.fset, wrapper.fdel]
    elif isinstance(wrapper, functools.partialmethod):
        parts = [wrapper.func, wrapper.args, wrapper.keywords]
    elif isinstance(wrapper, functools.cached_property):
        parts = wrapper.func
    else:
        parts = wrapper.__wrapped__
    return {type(wrapper).__name__: describe(parts, where)}


def describe_class(describe: "Describer", kind: type, where: str) -> Any:
    """Describe a class: a library's by name, the user's with bases and attributes.

    Parameters
    ----------
    describe : Describer
    kind : type
    where : str
    """
    label = f"{kind.__module__}.{kind.__qualname__}"
    # What is executed outside of any module says that it is a built-in.
    stray = kind.__module__ == "builtins" and bool(kind.__flags__ & HEAP_TYPE)
    if stray or not describe.library(kind.__module__):
        return describe.seen(kind) or _own_class(describe, kind, label, where)
    scope = vars(kind)
    patched = patched_names(describe, kind)
    # Libraries extend the user's classes: that of a parametrized module, for one.
    own_bases = [base for base in kind.__mro__[1:] if patched_names(describe, base)]
    bases = kind.__bases__ if _is_made(kind) or own_bases else ()
    if not patched and bases in ((), (object,)):
        return label
    return describe.seen(kind) or {
        "class": label,
        "bases": [describe_class(describe, base, where) for base in bases],
        "patched": describe.attributes({name: scope[name] for name in patched}, label),
    }


def patched_names(describe: "Describer", kind: type) -> list[str]:
    """Return the members of a library's class that were put there by others.

    Parameters
    ----------
    describe : Describer
    kind : type
    """
    if not describe.is_library(kind.__module__):
        return []
    if kind not in describe.patched:
        describe.patched[kind] = sorted(
            name
            for name, value in vars(kind).items()
            if _is_foreign(describe, value) or _is_moved(kind, value)
        )
    return describe.patched[kind]


def _is_moved(kind: type, value: Any) -> bool:
    """Return whether a module's method is that of a class it does not derive from."""
    if not isinstance(value, types.FunctionType) or not issubclass(kind, nn.Module):
        return False
    owner = value.__code__.co_qualname.rpartition(".")[0]
    known = {base.__qualname__ for base in kind.__mro__}
    return bool(owner) and "<" not in owner and owner not in known


def replaced_functions(describe: "Describer", modules: Iterable[str]) -> dict[str, Any]:
    """Return the functions of libraries' modules that the user replaced, by name.

    Parameters
    ----------
    describe : Describer
    modules : iterable of str
    """
    return {
        f"{module}.{name}": value
        for module in modules
        for name, value in sorted(vars(sys.modules.get(module, builtins)).items())
        if module in sys.modules and _is_foreign(describe, value)
    }


def _is_made(kind: type) -> bool:
    """Return whether a library's class is not one of those that its modules name."""
    if "." in kind.__qualname__:
        return "<locals>" in kind.__qualname__
    return getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind


def _own_class(describe: "Describer", kind: type, label: str, where: str) -> Any:
    _need_text(describe, kind, where)
    skipped = _DEFINITION
    if isinstance(kind, EnumType):
        skipped |= _ENUM | set(kind.__members__)
    members: dict[str, Any] = {
        name: value
        for name, value in vars(kind).items()
        if name not in skipped and not isinstance(value, _PLACES)
    }
    described = {
        "class": label,
        "bases": [describe_class(describe, base, where) for base in kind.__bases__],
        "members": describe.attributes(members, f"{where} ({kind.__name__})"),
    }
    if isinstance(kind, EnumType):
        values: dict[str, Any] = {name: kind[name].value for name in kind.__members__}
        described["values"] = describe(values, label)
    if not describe.library(type(kind).__module__):
        described["metaclass"] = describe_class(describe, type(kind), where)
    return described


def _need_text(describe: "Describer", kind: type, where: str) -> None:
    """Refuse a class whose text nobody can read, so that nobody can tell it either."""
    if kind in _READ or _is_readable(kind):
        _READ.add(kind)
        return
    raise describe.refusal(
        where,
        f"of the class {kind.__qualname__}, whose code cannot be read (put it into a "
        "module),",
    )


def _is_readable(kind: type) -> bool:
    """Return whether a class's text can be read, or (in a notebook) a method's."""
    methods = [part for part in vars(kind).values() if inspect.isfunction(part)]
    # What is made of fields alone has no text.
    if not methods or hasattr(kind, "_fields") or hasattr(kind, "__dataclass_fields__"):
        return True
    parts: list[Any] = [kind, *methods]
    for part in parts:
        with contextlib.suppress(OSError, TypeError):
            return bool(inspect.getsource(part))
    return False
