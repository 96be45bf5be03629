"""Building a library's network: its refusals, its weights, and what users are told."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from embeddings_cache._errors import UnknownBackboneError
from embeddings_cache._fingerprint import tensors_digest, versions
from embeddings_cache._thread_limits import own_threads
from embeddings_cache.backbones._base import BackboneSpec
from embeddings_cache.backbones._randomness import SeededGenerator

SEED = 0
# What each override of the preprocessing states, of the settings of a pretrained tag.
_STATED_BY = {
    "mean": ("mean",),
    "std": ("std",),
    "size": ("input_size", "crop_size", "resize_size"),
    "crop": ("crop_pct", "crop_mode", "resize_size"),
    "interpolation": ("interpolation",),
}


def prefers_channels_last(network: nn.Module) -> bool:
    """Return whether a network is mostly convolutions, and faster with channels last.

    A patch embedding is one convolution, and the only one of a vision transformer.
    """
    return sum(isinstance(module, nn.Conv2d) for module in network.modules()) > 1


def random_weights() -> dict[str, Any]:
    """Describe weights that come from the seed alone."""
    return {"random_seed": SEED, **library_versions("torch")}


def describe_weights(spec: BackboneSpec, network: nn.Module) -> dict[str, Any]:
    """Describe a network's weights: the seed, or the digest of all its tensors."""
    if spec.random:
        return random_weights()
    return {"tensors": tensors_digest(network.state_dict().items())}


def library_versions(*names: str) -> dict[str, str]:
    """Return versions without their local part: "2.6.0+cpu" is "2.6.0"."""
    return {name: text.split("+")[0] for name, text in versions(*names).items()}


def random_note(spec: BackboneSpec) -> str | None:
    """Say that the weights are random, if they are."""
    if not spec.random:
        return None
    return f"{spec.label}: seeded random weights (pretrained=False), not trained"


def unknown_name(spec: BackboneSpec, names: Iterable[str]) -> UnknownBackboneError:
    """Return the error for a name the library does not have, with near names."""
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(spec.name.lower(), lower, n=3, cutoff=0.5)
    hint = ", ".join(f"'{spec.family}:{lower[name]}'" for name in near)
    return UnknownBackboneError(
        f"backbone='{spec.label}' is not a model of {spec.family}. "
        + (f"Near names: {hint}" if hint else "No name is near it")
    )


def refuse_kwargs(spec: BackboneSpec, remedies: Mapping[str, str]) -> None:
    """Refuse arguments of a library's constructor that have no place here.

    Parameters
    ----------
    spec : BackboneSpec
        The request.
    remedies : mapping of str to str
        What to do instead, by the argument's name.
    """
    for name, remedy in remedies.items():
        if name in spec.model_kwargs:
            raise ValueError(
                f"model_kwargs has {name!r}, which has no place here: {remedy}"
            )


def settings_note(
    spec: BackboneSpec,
    default: Mapping[str, Any],
    tags: Mapping[str, Mapping[str, Any]],
) -> str | None:
    """Say whose settings a file of weights gets, if its tag is not named.

    Parameters
    ----------
    spec : BackboneSpec
        The request.
    default : mapping of str to object
        The settings it gets: those of the library's default tag.
    tags : mapping of str to mapping
        The settings of every pretrained tag, by the name that asks for it.

    Returns
    -------
    str or None
        None where all tags agree on what the request does not state itself.
    """
    stated = _STATED_BY.keys() & set(spec.preprocess or ())
    stated_names = {name for given in stated for name in _STATED_BY[given]}
    others = [
        name
        for name, settings in tags.items()
        if any(settings[k] != default[k] for k in default if k not in stated_names)
    ]
    if spec.weights is None or not others:
        return None
    return (
        f"{spec.label}: weights= does not say how images were prepared; they are as "
        f"for the library's default weights. Others need '{spec.family}:{others[0]}'"
        f"{' or the like' if others[1:] else ''}"
    )


def construct(spec: BackboneSpec, build: Callable[[], Any]) -> Any:
    """Call a library's constructor; its refusals become errors that say what to do."""
    try:
        if spec.random or spec.weights is not None:
            # Orthogonal weights are products.
            with SeededGenerator(SEED), own_threads(1):
                return _on_the_cpu(spec, build())
        return build()
    except TypeError as error:
        raise ValueError(
            f"model_kwargs={spec.model_kwargs!r} is refused by {spec.label}: {error}"
        ) from error
    except (OSError, RuntimeError) as error:
        if not spec.pretrained or spec.weights is not None:
            raise
        raise OSError(
            f"pretrained=True: the weights of {spec.label} cannot be loaded ({error}). "
            "Without a network give weights=<safetensors file or folder>, or "
            "pretrained=False for seeded random weights"
        ) from error


def _on_the_cpu(spec: BackboneSpec, built: Any) -> Any:
    """Refuse a network without numbers, and one that was made elsewhere."""
    tensors = built.state_dict().values() if isinstance(built, nn.Module) else ()
    places = {tensor.device.type for tensor in tensors} - {"cpu"}
    if places:
        raise RuntimeError(
            f"{spec.label} was built on {', '.join(sorted(places))} instead of the "
            "CPU: another thread changes how torch builds networks (as "
            "accelerate.init_empty_weights does). Build the extractor's network before"
        )
    return built
