"""Descriptions of preprocessing: transforms that are known to be deterministic.

The transforms that give the same pixels every time are registered by their libraries,
and described by all their attributes. Everything else is refused unless it carries a
description of its own: chance, and code that nobody has looked at.
"""

import sys
import types
from itertools import chain
from typing import Any

import torch
from torch import nn

from embeddings_cache.backbones._code import replaced_functions
from embeddings_cache.backbones._declared import declared
from embeddings_cache.backbones._describe import Describer
from embeddings_cache.backbones._registry import families

# Where the transforms that libraries register find what they do.
_FUNCTIONS = (
    "torchvision.transforms.functional",
    "torchvision.transforms.v2.functional",
    "torch.nn.functional",
)
_CHANCES = ("random_scale_prob", "random_aspect_prob")


def _deterministic() -> set[Any]:
    """Return what is registered, of the libraries that are imported."""
    transforms: set[Any] = {nn.Sequential, nn.Identity, nn.Flatten}
    listed = [family.transforms.items() for family in families().values()]
    for module, names in chain(*listed):
        scope = vars(sys.modules.get(module, types.ModuleType(module)))
        transforms |= {scope[name] for name in names.split() if name in scope}
    return transforms


class _Deterministic(Describer):
    """Describes what is listed, and plain values; code and chance are refused."""

    def __call__(self, value: Any, where: str) -> Any:
        # ToDtype may have a table of types.
        known = isinstance(value, type) and issubclass(value, torch.Tensor)
        if callable(value) and not known:
            declaration = declared(value, where)
            if declaration is not None:
                return declaration
            self._admit(value, where)
        return super().__call__(value, where)

    def _admit(self, value: Any, where: str) -> None:
        known = _deterministic()
        if isinstance(value, types.FunctionType | type):
            if value not in known or isinstance(value, type):
                kind = "class" if isinstance(value, type) else "function"
                raise self.refusal(where, f"the {kind} {value.__qualname__}")
            return
        name = type(value).__name__
        if type(value) not in known:
            raise self.refusal(
                where,
                f"{name}, which is not among the transforms of torchvision and timm "
                "that are known to give the same pixels every time,",
            )
        # timm's and open_clip's own resizing can be random, and is not by default.
        state = getattr(value, "__dict__", {})
        several = isinstance(state.get("interpolation"), list | tuple)
        if several or any(state.get(chance) for chance in _CHANCES):
            raise self.refusal(where, f"{name} with random settings")


def describe_transform(
    transform: Any, *, allow_random: bool = False, name: str = "preprocess"
) -> Any:
    """Describe a transform of images by everything that changes a pixel.

    Parameters
    ----------
    transform : callable
        If it, or a part of it, has an attribute ``cache_description``, that is taken at
        its word.
    allow_random : bool, default=False
        Describe any transform or function, random ones included, as a network is
        described: for training. Otherwise only the transforms of torchvision and timm
        that give the same pixels every time.
    name : str, default="preprocess"
        The parameter, for messages.

    Returns
    -------
    JSON value
        The same in every process.

    Raises
    ------
    UndescribableError
        If it cannot be described, or is random and may not be.

    Examples
    --------
    >>> from torchvision.transforms import v2
    >>> from embeddings_cache.backbones._transforms import describe_transform
    >>> small, large = (describe_transform(v2.Resize(size)) for size in (8, 9))
    >>> small == large
    False
    """
    declaration = declared(transform, name)
    if declaration is not None:
        return declaration
    remedy = (
        "Set an attribute that changes whenever its numbers do, and for numbers that "
        f"are the same every time only: {name}.cache_description = "
        "'resize 64, scale to [0, 1], v1'"
    )
    if allow_random:
        remedy = (
            "Set an attribute that changes whenever what it does changes: "
            f"{name}.cache_description = 'flip, crop 28, v1'"
        )
    kind = Describer if allow_random else _Deterministic
    describe = kind(name, remedy)
    for place, function in replaced_functions(describe, _FUNCTIONS).items():
        describe(function, place)
    described = describe.short(describe.whole(transform, name))
    return {
        "transform": described,
        "libraries": dict(sorted(describe.libraries.items())),
    }
