"""Which parts of a network are trained, and which work as in evaluation."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from skdebias.finetune._network import Network


def freeze_parameters(network: Network, freeze: Any) -> None:
    """Switch off the gradients of a part of the backbone.

    Parameters
    ----------
    network : Network
    freeze : None, "backbone", or sequence of str
        Names of submodules or parameters of the backbone; ``*`` stands for anything.

    Raises
    ------
    ValueError
        If a name matches nothing.
    """
    if freeze is None:
        return
    patterns = _patterns(freeze)
    parameters = [name for name, _ in network.backbone.named_parameters()]
    modules = [name for name, _ in network.backbone.named_modules()]
    frozen_modules = []
    for pattern in patterns:
        matched = [name for name in parameters if _matches(name, pattern)]
        matched_modules = [
            name
            for name in modules
            if pattern == "*" or (name and _matches(name, pattern))
        ]
        if not matched and not matched_modules:
            known = [name for name in modules if name]
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3)
            raise ValueError(
                f"freeze={patterns}: {pattern!r} matches no parameter of the "
                f"backbone. Names like {', '.join(map(repr, near or known[:3]))}."
            )
        for name in matched:
            network.backbone.get_parameter(name).requires_grad_(False)
        frozen_modules += matched_modules
    network.frozen = tuple(frozen_modules)


def _patterns(freeze: Any) -> list[str]:
    """Return the patterns that a value of `freeze` stands for."""
    if isinstance(freeze, str) and freeze == "backbone":
        return ["*"]
    texts = isinstance(freeze, Iterable) and all(isinstance(n, str) for n in freeze)
    if isinstance(freeze, str) or not texts:
        such = [freeze] if isinstance(freeze, str) else ["layer1"]
        raise ValueError(
            f"freeze={freeze!r} must be None, 'backbone', or a list of names of "
            f"submodules, such as {such}."
        )
    return list(freeze)


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern names something, or a module that it is within."""
    within = name.startswith(f"{pattern}.") or fnmatch(name, f"{pattern}.*")
    return name == pattern or within or fnmatch(name, pattern)


def training_mode(networks: nn.Module, *, frozen_statistics: bool) -> None:
    """Switch to training, but for what is frozen.

    A module none of whose parameters is trained, those of its submodules included,
    works as in evaluation: without dropout, by its running statistics. So does one
    without parameters that is within it, or that `freeze` names.

    Parameters
    ----------
    networks : torch.nn.Module
    frozen_statistics : bool
        Whether batch normalisation keeps its statistics where its parameters are
        trained, too.
    """
    networks.train()
    for module in networks.modules():
        if isinstance(module, Network):
            for name in module.frozen:
                frozen = module.backbone.get_submodule(name)
                if not any(p.requires_grad for p in frozen.parameters()):
                    frozen.eval()
        parameters = list(module.parameters())
        fixed = bool(parameters) and not any(p.requires_grad for p in parameters)
        if fixed or (frozen_statistics and isinstance(module, _BatchNorm)):
            module.eval()
