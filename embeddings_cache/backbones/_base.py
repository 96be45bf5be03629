"""What every backbone module shares: the request, the result, and small tools."""

import difflib
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import torch
from torch import nn

from embeddings_cache._errors import UnknownBackboneError
from embeddings_cache._fingerprint import jsonable, tensors_digest, versions
from embeddings_cache._thread_limits import own_threads
from embeddings_cache._turns import Turns
from embeddings_cache.backbones._describe import Describer
from embeddings_cache.backbones._model_kwargs import is_plain
from embeddings_cache.backbones._randomness import OwnGenerator

SEED = 0
POOLINGS = ("default", "cls", "mean")
# What each override of the preprocessing states, of the settings of a pretrained tag.
_STATED_BY = {
    "mean": ("mean",),
    "std": ("std",),
    "size": ("input_size", "crop_size", "resize_size"),
    "crop": ("crop_pct", "crop_mode", "resize_size"),
    "interpolation": ("interpolation",),
}


@dataclass(frozen=True)
class BackboneSpec:
    """What the user asked for, checked by the extractor.

    Attributes
    ----------
    family, name : str
        Library prefix and the name within it.
    modality : {"image", "text"}
        Which tower, for libraries that have both.
    pretrained : bool
        Published weights; seeded random ones otherwise.
    weights : str or None
        Local safetensors file or folder; wins over `pretrained`.
    layer : int, str or None
        Output point within the network; None is its own output.
    pooling : {"default", "cls", "mean"}
        How positions become one vector.
    model_kwargs : dict
        Passed to the library's constructor.
    preprocess : dict or callable
        Overrides of the reference preprocessing, or the whole of it.
    network : torch.nn.Module or None
        For a backbone that is a network already.
    """

    family: str
    name: str
    modality: str = "image"
    pretrained: bool = True
    weights: str | None = None
    layer: int | str | None = None
    pooling: str = "default"
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    preprocess: Any = None
    network: nn.Module | None = None

    def with_network(self, network: nn.Module) -> "BackboneSpec":
        """Return the same request for a given network."""
        return replace(self, network=network)

    @property
    def random(self) -> bool:
        """Whether the weights are seeded random numbers."""
        return self.weights is None and not self.pretrained

    @property
    def label(self) -> str:
        """The backbone as the user wrote it."""
        return f"{self.family}:{self.name}"

    def describe(self, **more: Any) -> dict[str, Any]:
        """Return the part of the key that comes from the request, and more."""
        described: dict[str, Any] = jsonable(
            {
                "family": self.family,
                "model": self.name,
                "modality": self.modality,
                "model_kwargs": _described(self.model_kwargs, "model_kwargs"),
                "output": {"layer": self.layer, "pooling": self.pooling},
                **more,
            }
        )
        return described


def _described(value: Any, where: str) -> Any:
    """Describe a value of `model_kwargs`; plain ones are what they are."""
    if isinstance(value, dict):
        return {str(k): _described(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_described(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if is_plain(value) and not (isinstance(value, float) and not isfinite(value)):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    describe = Describer(
        "model_kwargs",
        "Give plain values, or build the network yourself and give it as backbone",
    )
    described = describe.short(describe.whole(value, where))
    if isinstance(value, type) and isinstance(described, str):
        return str(value)  # a class of a library, whose version is in the key
    return {"described": described, "libraries": describe.libraries}


class _Description:
    """A field that may be given as a function, which is called when it is needed."""

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            raise AttributeError  # a dataclass takes this for a field without default
        value = vars(owner)["description"]
        if callable(value):
            value = vars(owner)["description"] = value()
        return value

    def __set__(self, owner: Any, value: Any) -> None:
        vars(owner)["description"] = value


class Cuts:
    """Texts that were cut at the network's length, until they are counted.

    A batch can be put together several times, and by threads that share a network: a
    text is noted once however often it is cut, and counted by who asks for it.
    """

    def __init__(self) -> None:
        self._noted: set[int] = set()

    def note(self, text: str) -> None:
        """Note a text that is longer than the network takes."""
        self._noted.add(hash(text))

    def take(self, texts: Iterable[str]) -> int:
        """Return how many of the texts were cut, and forget them."""
        found = [number for number in map(hash, texts) if number in self._noted]
        self._noted.difference_update(found)
        return len(found)


@dataclass
class Backbone:
    """A network ready to embed.

    Attributes
    ----------
    network : torch.nn.Module
        In evaluation mode.
    modality : {"image", "text"}
        What `prepare` takes: an RGB PIL image or a str.
    prepare : callable
        One item to what `collate` takes; runs in reader threads.
    collate : callable
        A list of prepared items to a tensor or a dict of tensors, on the CPU.
    forward : callable
        A collated batch on the network's device to a tensor (b, n_features).
    description : dict
        Everything about the backbone that changes a number. May be given as a function,
        which is called when the description is first asked for.
    note : str or None
        What the user should be told, such as that the weights are random.
    channels_last : bool
        Whether weights and batches are laid out with channels last.
    own_prepare : bool
        Whether `prepare` is a function of the user's.
    compiled : callable or None
        The compiled `forward`, once there is one.
    cuts : Cuts or None
        Of a text network, where `collate` notes the texts that it cuts.
    turns : Turns
        Which threads use the network now.
    one_at_a_time : bool
        Whether passes of several threads would disturb each other.
    built_from : str or None
        What tells it from networks that other parameters would give.
    finish : callable or None
        Called when the passes of a call are over.
    """

    network: nn.Module
    modality: str
    prepare: Callable[[Any], Any]
    collate: Callable[[list[Any]], Any]
    forward: Callable[[Any], torch.Tensor]
    description: Any = _Description()
    note: str | None = None
    channels_last: bool = False
    own_prepare: bool = False
    compiled: Callable[[Any], torch.Tensor] | None = None
    cuts: Cuts | None = None
    turns: Turns = field(default_factory=Turns, compare=False)
    one_at_a_time: bool = False
    built_from: str | None = None
    finish: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if self.modality == "text":
            # A tokenizer is told how to cut and pad anew by every call.
            self.collate = _in_turns(self.collate)

    def turn(self) -> AbstractContextManager[None]:
        """Return the context in which a thread may run `forward`."""
        return self.turns.alone() if self.one_at_a_time else self.turns.together()


def _in_turns(collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    turns = Turns()

    def collate_alone(prepared: list[Any]) -> Any:
        with turns.alone():
            return collate(prepared)

    return collate_alone


def prefers_channels_last(network: nn.Module) -> bool:
    """Whether a network is mostly convolutions, which are faster with channels last.

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
    spec: BackboneSpec, own: Mapping[str, Any], tags: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Say whose settings a file of weights gets, if its tag is not named.

    Parameters
    ----------
    spec : BackboneSpec
        The request.
    own : mapping of str to object
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
        if any(settings[k] != own[k] for k in own if k not in stated_names)
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
            with OwnGenerator(SEED), own_threads(1):
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
    n_prefix : int
        How many class and register tokens come first.
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
    """Return a function of a batch that gives the output of the submodule `layer`."""
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
        own = threading.get_ident()

        def catch(_module: nn.Module, _input: Any, output: torch.Tensor) -> None:
            # Other threads may be passing through the same network.
            if threading.get_ident() == own:
                caught.append(output)

        handle = module.register_forward_hook(catch)
        try:
            network(batch)
        finally:
            handle.remove()
        return caught[-1]

    return forward
