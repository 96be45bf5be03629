"""Checks of `model_kwargs`: what would load weights behind the key's back is refused.

The weights of a network are those that the library publishes, seeded random ones, or
the safetensors file of `weights`. A constructor's own options for loading are none of
these: their files are pickles, or are not looked at again when they are replaced.
"""

from collections.abc import Iterator, Mapping
from typing import Any

# What each library's constructor would load weights or code by, at any depth, with the
# values that load nothing. Further options are refused by the library's module of
# `backbones`, which knows where they belong.
_OFF = (None, False)
_NAMES: dict[str, dict[str, tuple[Any, ...]]] = {
    "timm": dict.fromkeys(
        (
            "checkpoint_path", "pretrained", "file", "url", "hf_hub_id",
            "hf_hub_filename", "state_dict", "source", "custom_load", "cache_dir",
        ),
        _OFF,
    ),
    "torchvision": dict.fromkeys(
        ("weights", "weights_backbone", "pretrained", "pretrained_backbone"), _OFF
    ),
    "open_clip": {
        **dict.fromkeys(
            (
                "pretrained_image", "pretrained_text", "pretrained_image_path",
                "pretrained_text_path", "pretrained_hf", "require_pretrained",
                "timm_model_pretrained", "hf_model_pretrained", "cache_dir",
            ),
            _OFF,
        ),
        "weights_only": (True,),
    },
    "sentence-transformers": {
        **dict.fromkeys(
            (
                "state_dict", "gguf_file", "from_tf", "from_flax", "config",
                "adapter_kwargs", "adapter_name", "trust_remote_code", "code_revision",
                "backend", "file_name", "export", "use_kernels", "kernel_config",
                "allow_all_kernels", "cache_dir", "cache_folder", "offload_folder",
            ),
            _OFF,
        ),
        "use_safetensors": (True,),
        "weights_only": (True,),
    },
}  # fmt: skip
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


def check_model_kwargs(family: str, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse options that load weights or code.

    Parameters
    ----------
    family : str
        The library, as in a backbone's name.
    model_kwargs : dict
        What goes to its constructor.

    Raises
    ------
    ValueError
        The message names the option and the way.

    Examples
    --------
    >>> from embeddings_cache.backbones._model_kwargs import check_model_kwargs
    >>> check_model_kwargs("timm", {"img_size": 64})
    """
    names = _NAMES.get(family, {})
    for where, name, value in _options(model_kwargs, "model_kwargs"):
        # Not "in", which would compare an array with False.
        if name not in names or any(value is off for off in names[name]):
            continue
        raise ValueError(
            f"{where}={value!r} decides what {family} loads, which the key of the "
            f"cache could not tell. {_REMEDIES.get(name, _REMEDY)}"
        )
    config = model_kwargs.get("pretrained_cfg")
    if family == "timm" and not isinstance(config, str | dict | None):
        raise ValueError(
            f"model_kwargs['pretrained_cfg']={config!r} must be the tag of published "
            "weights; give weights=<safetensors file> for others"
        )


def _options(given: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield place, name and value of every option, those in dicts too."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield f"{where}[{name!r}]", name, value
            yield from _options(value, f"{where}[{name!r}]")
    elif isinstance(given, list | tuple):
        for number, value in enumerate(given):
            yield from _options(value, f"{where}[{number}]")


def is_plain(value: Any) -> bool:
    """Whether a value is written out whole by its text: numbers, texts, lists, dicts.

    Parameters
    ----------
    value : object
    """
    if isinstance(value, dict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return type(value) in (bool, int, float, str, type(None))
