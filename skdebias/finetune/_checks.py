"""What is refused of backbones and their outputs before anything is trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from skdebias.finetune._extraction import copy_network, is_out_of_memory

_UNINITIALIZED = (UninitializedBuffer, UninitializedParameter)
# Errors of a network's own code on items that it does not take.
_OF_THE_NETWORK = (
    RuntimeError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
)


def wrapped_module(module: nn.Module) -> nn.Module | None:
    """Return what a compiled or replicated module was made of; None for others.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    torch.nn.Module or None
    """
    if isinstance(module, DataParallel | DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    return getattr(module, "_orig_mod", None)  # of torch.compile


def is_wrapped(module: nn.Module) -> bool:
    """Return whether a module was compiled or replicated."""
    return wrapped_module(module) is not None


def plain_module(module: nn.Module) -> nn.Module:
    """Return the module itself of one that was compiled or replicated.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        The very object within, whose state has the names of its own.

    Raises
    ------
    TypeError
        If it is a script, or wrapped within, or in shards.
    """
    inner = wrapped_module(module)
    if inner is not None:
        return plain_module(inner)
    for name, submodule in module.named_modules():
        where = f"backbone.{name}" if name else "backbone"
        if isinstance(submodule, torch.jit.ScriptModule):
            raise TypeError(
                f"{where} is a {type(submodule).__name__}, whose layers cannot be "
                "frozen nor copied safely: give the torch.nn.Module that it was "
                "scripted from."
            )
        if isinstance(submodule, FSDPModule | FullyShardedDataParallel):
            raise TypeError(
                f"{where} is sharded already: give the module as it was before, and "
                "let accelerate launch --use_fsdp shard it."
            )
        if wrapped_module(submodule) is not None:
            raise TypeError(
                f"{where} is a {type(submodule).__name__}, which changes the names "
                "of its weights: give the backbone with the plain module in its place."
            )
    return module


def copied_module(module: nn.Module) -> nn.Module:
    """Return a copy of a backbone that is trained in its place.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        If it cannot be copied.
    ValueError
        If the copy would be trained in another way.
    """
    for name, value in module.named_parameters():
        # torch has no other way to say which hooks a tensor has.
        if value._backward_hooks or value._post_accumulate_grad_hooks:
            raise ValueError(
                f"backbone: {name!r} has a hook on its gradient, which no copy of the "
                "network has: register it on a tensor within forward, use "
                "torch.nn.Module.register_full_backward_hook, or freeze."
            )
    return copy_network(module, "A copy is trained, and the network stays as it is.")


def check_parameters_of(network: nn.Module) -> None:
    """Refuse weights that cannot be trained from.

    Parameters
    ----------
    network : torch.nn.Module
        A backbone.

    Raises
    ------
    ValueError
        If a parameter has no values yet, is not in float32 or not finite, or if a
        buffer is NaN.
    """
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if isinstance(value, _UNINITIALIZED) or value.is_meta:
            raise ValueError(
                f"backbone: {name!r} has no values yet: run the network once on a "
                "batch, or load its weights, before it is given."
            )
    for name, value in network.named_parameters():
        numbers = value.is_floating_point() or value.is_complex()
        if numbers and value.dtype != torch.float32:
            raise ValueError(
                f"backbone: {name!r} is in {value.dtype}, and weights are trained in "
                "float32: give backbone.float() (precision='bfloat16' computes in "
                "bfloat16 nevertheless)."
            )
        if numbers and not bool(value.isfinite().all()):
            raise ValueError(
                f"backbone: {name!r} has values that are not finite before training: "
                "look at the weights that it is given with, or at `weights`."
            )
    for name, value in network.named_buffers():
        if value.is_floating_point() and bool(value.isnan().any()):
            raise ValueError(
                f"backbone: the buffer {name!r} has NaN values before training: look "
                "at the state that it is given with, or at `weights`."
            )


def check_embeddings(embeddings: Any, batch: Any) -> None:
    """Refuse an output that is not one vector of numbers per item.

    Parameters
    ----------
    embeddings : object
        What a backbone returned.
    batch : Tensor or dict of Tensor
        Of what.

    Raises
    ------
    ValueError
    """
    check_tensor(embeddings)
    if embeddings.ndim != 2:
        raise ValueError(
            f"the backbone returned shape {tuple(embeddings.shape)}; an embedding "
            "is one vector per item: choose layer and pooling, or return "
            "(n, n_features)."
        )
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return  # sizes are symbols
    if not embeddings.shape[1]:
        raise ValueError("the backbone returned embeddings without any feature.")
    n_items = _n_items(batch)
    if n_items is not None and len(embeddings) != n_items:
        raise ValueError(
            f"the backbone returned {len(embeddings)} rows for {n_items} items: an "
            "embedding is one vector per item, in their order."
        )


def check_tensor(output: Any) -> None:
    """Refuse an output that is no tensor of real numbers.

    Parameters
    ----------
    output : object
        What a backbone returned.

    Raises
    ------
    ValueError
    """
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the backbone returned {_described(output)}; an embedding is one tensor "
            "(n, n_features): give a module whose forward returns the part that is "
            "wanted, or choose layer."
        )
    if output.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            "the backbone returned a tensor that was made in torch.inference_mode(), "
            "which nothing can be trained on: leave it out of its forward."
        )
    if not output.is_floating_point():
        raise ValueError(
            f"the backbone returned a tensor of {output.dtype}; an embedding has real "
            "numbers that can be differentiated."
        )


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with {', '.join(map(repr, output))}"
    if is_dataclass(output):
        names = [field.name for field in fields(output)]
        return f"a {kind} with {', '.join(map(repr, names))}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {len(output)}"
    return "None" if output is None else f"a {kind}"


def _n_items(batch: Any) -> int | None:
    values = batch.values() if isinstance(batch, Mapping) else [batch]
    return next((len(v) for v in values if isinstance(v, Tensor)), None)


@contextmanager
def about_items(batch: Any) -> Iterator[None]:
    """Name the items in errors of a network that does not take them.

    Parameters
    ----------
    batch : Tensor or dict of Tensor
        Prepared items.

    Raises
    ------
    ValueError
    """
    try:
        yield
    except _OF_THE_NETWORK as error:
        if is_out_of_memory(error):
            raise
        if isinstance(batch, Tensor):
            shown = f"{batch.dtype} of shape {('n', *batch.shape[1:])}".replace("'", "")
        else:
            shown = f"a {type(batch).__name__}"
        raise ValueError(
            f"the backbone fails on items as they are prepared for it, {shown} "
            f"({type(error).__name__}: {error}). Give items of the type and shape that "
            "its forward takes."
        ) from error


def takes_codes(network: nn.Module) -> bool:
    """Return whether a network embeds integers, such as the codes of words.

    Parameters
    ----------
    network : torch.nn.Module

    Returns
    -------
    bool
    """
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in network.modules())


def largest_code(network: nn.Module) -> int:
    """Return the largest code that any embedding of a network has a vector for.

    Parameters
    ----------
    network : torch.nn.Module

    Returns
    -------
    int
    """
    return max(
        module.num_embeddings - 1
        for module in network.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    )
