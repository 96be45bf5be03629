"""What every backbone module shares: the request, the result, and small tools."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import torch
from torch import nn

from embeddings_cache._fingerprint import jsonable
from embeddings_cache._turns import Turns
from embeddings_cache.backbones._describe import Describer
from embeddings_cache.backbones._model_kwargs import is_plain


@dataclass(frozen=True)
class BackboneSpec:
    """What the user asked for, checked by the extractor.

    Parameters
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
        """Return the same request for a network that is built already.

        Parameters
        ----------
        network : torch.nn.Module

        Returns
        -------
        BackboneSpec
        """
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
        """Return the part of the key that comes from the request, and more.

        Parameters
        ----------
        **more
            Further parts, by name.

        Returns
        -------
        dict
            Plain JSON values.
        """
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
        cut = [number for number in map(hash, texts) if number in self._noted]
        self._noted.difference_update(cut)
        return len(cut)


@dataclass
class Backbone:
    """A network ready to embed.

    Parameters
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
        """Return the context in which a thread may run `forward`.

        Returns
        -------
        context manager
        """
        return self.turns.alone() if self.one_at_a_time else self.turns.together()


def _in_turns(collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    turns = Turns()

    def collate_alone(prepared: list[Any]) -> Any:
        with turns.alone():
            return collate(prepared)

    return collate_alone
