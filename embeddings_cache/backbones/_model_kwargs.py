"""Checks of `model_kwargs`: what would load weights behind the key's back is refused.

The weights of a network are those that the library publishes, seeded random ones, or
the safetensors file of `weights`. A constructor's own options for loading are none of
these: their files are pickles, or are not looked at again when they are replaced.
Each library registers which they are. Further options are refused by the module that
builds its networks, which knows where they belong.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from embeddings_cache.backbones._registry import Family

_REMEDY = (
    "Leave it out and give weights=<safetensors file or folder>, which is known by its "
    "content"
)
_ENVIRONMENT = "Leave it out and set the environment variable HF_HOME"
_CODE = (
    "Leave it out: code that comes with a model is not run; build the network yourself "
    "and pass it as a torch.nn.Module"
)
# Where the usual way is not the way.
_REMEDIES = {
    "cache_dir": _ENVIRONMENT,
    "cache_folder": _ENVIRONMENT,
    "trust_remote_code": _CODE,
    "code_revision": _CODE,
    "backend": "Leave it out: networks run in torch",
    "pretrained": "Leave it out and give pretrained= to the extractor",
    "use_safetensors": f"{_REMEDY}: pickled checkpoints are not loaded",
}


def check_model_kwargs(family: Family, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse options that load weights or code.

    Parameters
    ----------
    family : Family
        The library.
    model_kwargs : dict
        What goes to its constructor.

    Raises
    ------
    ValueError
        The message names the option and the way.

    Examples
    --------
    >>> from embeddings_cache.backbones._model_kwargs import check_model_kwargs
    >>> from embeddings_cache.backbones import family_of
    >>> check_model_kwargs(family_of("timm:resnet50"), {"img_size": 64})
    """
    options = family.loading_options
    for where, name, value in _options(model_kwargs, "model_kwargs"):
        # Not "in", which would compare an array with False.
        if name not in options or any(value is off for off in options[name]):
            continue
        raise ValueError(
            f"{where}={value!r} decides what {family.prefix} loads, which the key of "
            f"the cache could not tell. {_REMEDIES.get(name, _REMEDY)}"
        )
    family.check_kwargs(model_kwargs)


def _options(options: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield place, name and value of every option, those in dicts too."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield f"{where}[{name!r}]", name, value
            yield from _options(value, f"{where}[{name!r}]")
    elif isinstance(options, list | tuple):
        for number, value in enumerate(options):
            yield from _options(value, f"{where}[{number}]")


def is_plain(value: Any) -> bool:
    """Return whether a value's text says all of it: numbers, texts, lists and dicts.

    Parameters
    ----------
    value : object
    """
    if isinstance(value, dict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return type(value) in (bool, int, float, str, type(None))
