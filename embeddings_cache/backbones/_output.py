"""Where in a network an embedding is taken, and how positions become one vector."""

import difflib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from embeddings_cache.backbones._base import BackboneSpec

POOLINGS = ("default", "cls", "mean")


def check_pooling(spec: BackboneSpec, allowed: Iterable[str]) -> None:
    """Refuse a pooling that means nothing for this network."""
    allowed = tuple(allowed)
    if spec.pooling not in allowed:
        raise ValueError(
            f"pooling={spec.pooling!r} has no meaning for {spec.label}"
            f"{'' if spec.layer is None else f' at layer={spec.layer!r}'}; "
            f"use one of {', '.join(allowed)}"
        )


def pool(spec: BackboneSpec, x: torch.Tensor, n_prefix: int = 0) -> torch.Tensor:
    """Make one vector per item out of an inner layer's output.

    Parameters
    ----------
    spec : BackboneSpec
        For its pooling and for messages.
    x : torch.Tensor
        (b, d), (b, d, h, w) or (b, tokens, d).
    n_prefix : int, default=0
        How many class and register tokens come first.

    Returns
    -------
    torch.Tensor of shape (b, d)

    Raises
    ------
    ValueError
        If the output has another form, or the pooling means nothing for it.

    Examples
    --------
    >>> import torch
    >>> from embeddings_cache.networks import BackboneSpec, pool
    >>> spec = BackboneSpec("torch", "Net", layer="blocks.1", pooling="mean")
    >>> pool(spec, torch.ones(2, 5, 3), n_prefix=1).shape
    torch.Size([2, 3])
    """
    if not isinstance(x, torch.Tensor):
        raise ValueError(
            f"layer={spec.layer!r} of {spec.label} gives a {type(x).__name__}, and an "
            "embedding is one tensor: choose another layer, or for a module of your "
            "own return the part that is wanted"
        )
    if x.ndim == 2:
        check_pooling(spec, ["default"])
        return x
    if x.ndim == 4:
        check_pooling(spec, ["default", "mean"])
        return x.float().mean(dim=(2, 3))
    if x.ndim != 3:
        raise ValueError(
            f"layer={spec.layer!r} of {spec.label} gives shape {tuple(x.shape)}; "
            "choose a layer with one vector, a map, or a sequence per item"
        )
    check_pooling(spec, POOLINGS if n_prefix else ["default", "mean"])
    if n_prefix and spec.pooling != "mean":
        return x[:, 0]
    return x[:, n_prefix:].float().mean(dim=1)


def layer_output(
    spec: BackboneSpec, network: nn.Module
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function of a batch that gives the output of the submodule `layer`.

    Parameters
    ----------
    spec : BackboneSpec
        For its layer and for messages.
    network : torch.nn.Module

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If the network has no submodule of that name.

    Examples
    --------
    >>> import torch
    >>> from embeddings_cache.networks import BackboneSpec, layer_output
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> forward = layer_output(BackboneSpec("torch", "Net", layer="0"), network)
    >>> forward(torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """
    names = [name for name, _ in network.named_modules() if name]
    if not isinstance(spec.layer, str) or spec.layer not in names:
        near = difflib.get_close_matches(str(spec.layer), names, n=3, cutoff=0.3)
        raise ValueError(
            f"layer={spec.layer!r} is not the name of a submodule of {spec.label}. "
            f"Names like {', '.join(repr(name) for name in near or names[-3:])}"
        )
    module = network.get_submodule(spec.layer)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        thread = threading.get_ident()

        def catch(_module: nn.Module, _input: Any, output: torch.Tensor) -> None:
            # Other threads may be passing through the same network.
            if threading.get_ident() == thread:
                caught.append(output)

        handle = module.register_forward_hook(catch)
        try:
            network(batch)
        finally:
            handle.remove()
        return caught[-1]

    return forward
