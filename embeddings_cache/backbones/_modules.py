"""Descriptions of torch modules: class, attributes, hooks and submodules."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module

from embeddings_cache.backbones import _code
from embeddings_cache.backbones._code import state_of
from embeddings_cache.backbones._declared import declared

if TYPE_CHECKING:
    from embeddings_cache.backbones._describe import Describer

# What torch keeps in every module. Modes are set by whoever runs the network, and the
# hooks of loading and saving do not run in a forward pass.
_BOOKKEEPING = frozenset(
    {
        "training",
        "_parameters",
        "_buffers",
        "_modules",
        "_non_persistent_buffers_set",
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_is_full_backward_hook",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_compiled_call_impl",
    }
)
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)
# The graph of a traced module, of which the others are made.
_TRACED = frozenset(
    {"_graph", "_code", "_lineno_map", "_prologue_start", "_replace_hooks"}
)


def describe_module(describe: "Describer", module: nn.Module, where: str) -> Any:
    """Describe a module and all that it holds.

    Parameters
    ----------
    describe : Describer
    module : torch.nn.Module
    where : str
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise describe.refusal(where, "a TorchScript module (give the Python module)")
    declaration = declared(module, where)
    if declaration is not None:
        return declaration | {"tensors": _tensors(describe, module, where)}
    reference = describe.seen(module)
    if reference is not None:
        return reference
    if id(module) not in describe.parts and _is_left_training(describe, module):
        raise describe.refusal(
            where,
            "in training mode, where its numbers depend on chance or on the batch, and "
            "no part of the network (make it one, or call its eval()),",
        )
    if _is_optimized(module) or module._compiled_call_impl is not None:
        return _compiled(describe, module, where)
    state = {k: v for k, v in state_of(module).items() if k not in _BOOKKEEPING}
    described = {"class": _code.describe_class(describe, type(module), where)}
    if isinstance(module, fx.GraphModule):
        described["graph"] = describe_graph(describe, module.graph, where)
        state = {name: value for name, value in state.items() if name not in _TRACED}
    described |= {
        "state": describe.attributes(state, where),
        "tensors": _own_tensors(describe, module, where),
        "hooks": [
            [kind, *hook]
            for kind in _HOOKS
            for hook in _hooks(describe, module, kind, where)
        ],
        # Their order is that of a Sequential.
        "modules": [
            [name, None if child is None else describe(child, f"{where}.{name}")]
            for name, child in module._modules.items()
        ],
    }
    return {name: part for name, part in described.items() if part or name == "class"}


def _is_left_training(describe: "Describer", module: nn.Module) -> bool:
    """Return whether an evaluated network uses a module that nobody evaluates."""
    forward = getattr(type(module).forward, "__code__", None)
    depends = forward is not None and "training" in forward.co_names
    return bool(describe.parts) and module.training and depends


def _own_tensors(describe: "Describer", module: nn.Module, where: str) -> Any:
    tensors: dict[str, Any] = {**module._parameters, **module._buffers}
    return {
        name: describe(tensors[name], f"{where}.{name}") for name in sorted(tensors)
    }


def _tensors(describe: "Describer", module: nn.Module, where: str) -> Any:
    """Describe all tensors of a module that declares the rest of itself."""
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    tensors = {name: describe(tensor, f"{where}.{name}") for name, tensor in named}
    return describe.short(tensors)


def _hooks(
    describe: "Describer", module: nn.Module, kind: str, where: str
) -> list[list[Any]]:
    """Describe the hooks of one kind, in the order in which they run."""
    hooks: Mapping[int, Any] = getattr(module, kind)
    with_kwargs = getattr(module, f"{kind}_with_kwargs", {})
    always = getattr(module, f"{kind}_always_called", {})
    return [
        [
            describe.short(describe(hook, f"{where}.{kind}[{number}]")),
            bool(with_kwargs.get(key)),
            bool(always.get(key)),
        ]
        for number, (key, hook) in enumerate(hooks.items())
    ]


def global_hooks(describe: "Describer") -> list[Any]:
    """Describe the hooks that run in every module, and what replaced torch's functions.

    Parameters
    ----------
    describe : Describer
    """
    names = ("_global_forward_pre_hooks", "_global_forward_hooks")
    replaced = _code.replaced_functions(describe, ("torch", "torch.nn.functional"))
    return [
        [name, describe(hook, f"torch.nn.modules.module.{name}")]
        for name in names
        for hook in getattr(torch_module, name).values()
    ] + [
        [name, describe(function, name)]
        for name, function in replaced.items()
        # What was added to torch runs where the user's code names it.
        if name.removeprefix("torch.") in torch.__all__ or ".nn." in name
    ]


def _is_optimized(module: nn.Module) -> bool:
    """Return whether torch.compile made a module; its package is slow to import."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _compiled(describe: "Describer", module: Any, where: str) -> Any:
    """Describe a compiled module as what was compiled, and by which compiler."""
    if _is_optimized(module):
        inner, compiler = module._orig_mod, module.dynamo_ctx.compiler_config
        if compiler is not None:
            return {"compiled": describe(inner, where)}
    raise describe.refusal(
        where,
        "compiled in another way than by torch.compile(network) (give the network "
        "itself; compile=True compiles it)",
    )


def describe_graph(describe: "Describer", graph: fx.Graph, where: str) -> Any:
    """Describe a traced graph: the nodes in order, and the functions they call.

    Parameters
    ----------
    describe : Describer
    graph : torch.fx.Graph
    where : str
    """

    def name_of(node: fx.Node) -> str:
        return node.name

    nodes = [
        [
            node.op,
            node.name,
            describe(node.target, f"{where}.graph.{node.name}"),
            describe(_plain(fx.map_arg(node.args, name_of)), f"{where}.graph"),
            describe(_plain(fx.map_arg(node.kwargs, name_of)), f"{where}.graph"),
        ]
        for node in graph.nodes
    ]
    return describe.short(nodes)


def _plain(value: Any) -> Any:
    """Turn torch's immutable lists and dicts into plain ones."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    if type(value) in (list, tuple, fx.immutable_collections.immutable_list):
        return [_plain(part) for part in value]
    return value
