"""Where code comes from: Python, an installed library, or the user.

Code of a library is known by its name and the library's version. Of other installed
packages the list of digests that the installer left is known as well. Everything else
is the user's own, and is described by what it does.
"""

import hashlib
import os
import sys
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path

from embeddings_cache._fingerprint import versions
from embeddings_cache.backbones._registry import families

# Import name to distribution, of the libraries whose version is enough: their
# releases do not change. Those that networks come from register themselves. The
# packages of this project are here since their own sources decide what is described.
_LIBRARIES = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "embeddings_cache": "skdebias",
    "skdebias": "skdebias",
}
_CODE = (".py", ".so", ".pyd", ".dll", ".dylib")


def library_of(module: str) -> dict[str, str] | None:
    """Return the library that a module belongs to, None if it is the user's own.

    Parameters
    ----------
    module : str
        Name of the module, as in ``__module__``.

    Returns
    -------
    dict of str to str or None
        One entry, the distribution and its version.

    Examples
    --------
    >>> from embeddings_cache.backbones._origin import library_of
    >>> library_of("numpy.random") == {"numpy": __import__("numpy").__version__}
    True
    >>> library_of("__main__") is None
    True
    """
    top = module.partition(".")[0]
    if top in _libraries():
        return _without_local_part(_libraries()[top])
    if top in sys.stdlib_module_names and _is_pythons(top):
        return {"python": "{}.{}".format(*sys.version_info[:2])}
    return _installed(top)


@cache
def _libraries() -> dict[str, str]:
    """Return the distributions of all libraries whose version is enough."""
    packages = dict(_LIBRARIES)
    for family in families().values():
        packages |= family.packages
    return packages


def _without_local_part(name: str) -> dict[str, str]:
    return {key: text.split("+")[0] for key, text in versions(name).items()}


@cache
def _is_pythons(top: str) -> bool:
    """Tell a module of Python's from a user's file of the same name."""
    path = getattr(sys.modules.get(top), "__file__", None)
    if path is None:
        return True  # built in, frozen, or not imported, so that nothing uses it
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return _is_below(path, folders) and not _is_below(path, _site_folders())


def _site_folders() -> set[str]:
    return {sysconfig.get_path(name) for name in ("purelib", "platlib")}


def _is_below(path: str, folders: set[str]) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


@cache
def _installed(top: str) -> dict[str, str] | None:
    """Return the distribution of a package in site-packages, with a digest."""
    module = sys.modules.get(top)
    path = getattr(module, "__file__", None) or next(
        iter(getattr(module, "__path__", ())), None
    )
    if path is None or not _is_below(path, _site_folders()):
        return None  # an editable installation is its user's own code
    for name in _distributions().get(top, ()):
        record = metadata.distribution(name).read_text("RECORD")
        lines = sorted(
            line for line in (record or "").splitlines() if _is_code(line, top)
        )
        if lines:
            sha = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            return {name.lower(): f"{metadata.version(name)} {sha[:16]}"}
    return None


def _is_code(line: str, top: str) -> bool:
    return line.startswith(top) and line.split(",")[0].endswith(_CODE)


@cache
def _distributions() -> dict[str, list[str]]:
    return {
        top: sorted(set(names))
        for top, names in metadata.packages_distributions().items()
    }
