"""The libraries that networks come from: each registers itself in its own folder.

Adding a library is adding a folder here, and nothing else. Its ``__init__`` registers
what is known of the library without importing it, and imports nothing heavy itself; a
module in it has ``build(spec) -> Backbone`` and is imported when a network is built.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from embeddings_cache._errors import MissingExtraError

#: Values of an option that loads nothing when it is off.
OFF = (None, False)


def _nothing_more(model_kwargs: Mapping[str, Any]) -> None:
    return


@dataclass(frozen=True)
class Family:
    """The networks of one library, and what is known of them without importing it.

    Attributes
    ----------
    prefix : str
        What a backbone's name begins with, before the colon.
    builder : str
        Module that has ``build(spec) -> Backbone``.
    modalities : tuple of str
        What the networks take; the first one is what "auto" means.
    example : str
        A whole name, for messages.
    order : int
        Place among all families in messages, of the lowest number first.
    extra : str
        Extra of this project that installs the library.
    distributions : tuple of str
        Distributions whose versions are in the key of a network, beside torch.
    packages : mapping of str to str
        Import names to distributions: code of these packages is known by the version,
        since their releases do not change.
    loading_options : mapping of str to tuple
        Arguments of the library's constructors that load weights or code, at any depth,
        with the values that load nothing.
    check_kwargs : callable
        Raises ValueError for other `model_kwargs` that would load something.
    folders : bool
        Whether trained networks are folders, with files beside the weights that
        describe them; `weights`, or the name, is such a folder then.
    hub_names : tuple of str
        Beginnings of names whose configuration is elsewhere: on a hub, or in a folder
        that can refer to one.
    transforms : mapping of str to str
        Transforms of images that give the same pixels every time: their names, by the
        module that has them.
    """

    prefix: str
    builder: str
    modalities: tuple[str, ...]
    example: str
    order: int = 100
    extra: str = ""
    distributions: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    loading_options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    check_kwargs: Callable[[Mapping[str, Any]], None] = _nothing_more
    folders: bool = False
    hub_names: tuple[str, ...] = ()
    transforms: Mapping[str, str] = field(default_factory=dict)

    def require(self, module: str) -> Any:
        """Import a module of the library, or name the command that installs it.

        Parameters
        ----------
        module : str

        Returns
        -------
        module

        Raises
        ------
        MissingExtraError
            If it cannot be imported.
        """
        try:
            return import_module(module)
        except ImportError as error:
            raise MissingExtraError(
                f"backbone='{self.prefix}:...' needs the package {module}, which "
                f"cannot be imported ({error}). Run: pip install "
                f'"skdebias[{self.extra}]"'
            ) from error


_registered: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make the networks of a library known.

    Parameters
    ----------
    family : Family

    Returns
    -------
    Family
        The same.
    """
    _registered[family.prefix] = family
    return family


@cache
def _import_libraries() -> None:
    """Import every folder beside this file; each registers its library."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.ispkg:
            import_module(f"embeddings_cache.backbones.{module.name}")


def families() -> dict[str, Family]:
    """Return what is registered, by prefix.

    Returns
    -------
    dict of str to Family
    """
    _import_libraries()
    ordered = sorted(_registered.values(), key=lambda family: family.order)
    return {family.prefix: family for family in ordered}
