"""The network that an extractor's parameters ask for: its description, and itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embeddings_cache._fingerprint import SCHEMA
from embeddings_cache._progress import Progress
from embeddings_cache._settings import RunConfig
from embeddings_cache._turns import Turns, turns_of
from embeddings_cache.backbones._model_kwargs import is_plain
from embeddings_cache.backbones._request import files_state
from embeddings_cache.compute._arithmetic import (
    compute_without_torch,
    describe_compute,
)
from embeddings_cache.items._images import fills_truncated
from embeddings_cache.store._descriptions import DescriptionCache

if TYPE_CHECKING:
    import torch

    from embeddings_cache.backbones._base import Backbone

_BACKBONE_PARAMETERS = (
    "backbone", "pretrained", "weights", "layer", "pooling", "model_kwargs",
    "preprocess", "modality",
)  # fmt: skip
_BUILDING = Turns()
_BATCH_SIZES = {"cpu": 32, "mps": 64, "cuda": 256}
# Larger activations than these make a CPU's memory allocator slower than its cores.
_CPU_IMAGES = 8


@dataclass(frozen=True)
class Request:
    """What one call of an extractor asks for.

    Attributes
    ----------
    parameters : dict
        The extractor's, checked.
    """

    parameters: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters that a network and its preprocessing are built from."""
        return {name: self.parameters[name] for name in _BACKBONE_PARAMETERS}

    @property
    def built_from(self) -> str | None:
        """What tells networks apart within a process, the state of their files too.

        The device is part of it: another thread may be using the network where it is.
        None if they cannot be told apart: the text of a class or a function says
        nothing of its code.
        """
        settings = self.settings
        if not is_plain(settings["model_kwargs"]):
            return None
        told = repr((settings, self.parameters["device"], fills_truncated()))
        return told + files_state(settings)

    def resolve(self) -> "tuple[torch.device, torch.dtype]":
        """Return the device and the type that the network computes in."""
        from embeddings_cache.compute._device import resolve_device, resolve_precision

        backbone = self.parameters["backbone"]
        network = None if isinstance(backbone, str) else backbone
        device = resolve_device(self.parameters["device"], network)
        return device, resolve_precision(self.parameters["precision"], device)

    def describe(self, backbone: "Backbone") -> dict[str, Any]:
        """Return the description that is digested to the extractor's key."""
        compute = describe_compute(self.resolve()[1])
        return self._described(backbone.description, compute)

    def recall(
        self, remembered: DescriptionCache, progress: Progress
    ) -> dict[str, Any] | None:
        """Return the description as it was remembered; None if that is not certain."""
        content = remembered.get()
        if content is None:
            return None
        described, note = content
        compute = compute_without_torch(
            self.parameters["device"], self.parameters["precision"]
        )
        if compute is None:
            compute = describe_compute(self.resolve()[1])
        if note:
            progress.line(note)
        return self._described(described, compute)

    def _described(
        self, backbone: dict[str, Any], compute: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            **backbone,
            "compute": compute,
            "storage": self.parameters["storage_dtype"],
        }

    def run_config(self, backbone: "Backbone", num_workers: int) -> RunConfig:
        """Return how to run a network, on a device that the machine has."""
        from embeddings_cache.compute._device import usable_device

        device, dtype = self.resolve()
        device = usable_device(device)
        size = self.parameters["batch_size"]
        if size == "auto":
            size = _BATCH_SIZES.get(device.type, 32)
            if device.type == "cpu" and backbone.modality == "image":
                size = _CPU_IMAGES
        return RunConfig(
            device,
            dtype,
            self.parameters["storage_dtype"],
            int(size),
            num_workers,
            self.parameters["worker_type"],
            self.parameters["compile"],
        )


class NetworkSlot:
    """The network of an extractor's last calls, which later ones may use.

    Attributes
    ----------
    backbone : Backbone or None
    """

    def __init__(self) -> None:
        self.backbone: Backbone | None = None

    def at_hand(self, request: Request) -> "Backbone | None":
        """Return the network of an earlier call, if it would be built alike."""
        backbone = self.backbone
        if backbone is None or backbone.turns.interrupted:
            return None
        wanted = request.built_from
        return backbone if wanted and backbone.built_from == wanted else None

    def load(self, request: Request, progress: Progress) -> "Backbone":
        """Return the network at hand, else build one."""
        at_hand = self.at_hand(request)
        if at_hand is not None:
            return at_hand
        from embeddings_cache.backbones import build_backbone

        settings = request.settings
        # Libraries switch bars and initialisation for the process while they build.
        with _BUILDING.alone():
            at_hand = self.at_hand(request)
            if at_hand is not None:
                return at_hand
            built_from = request.built_from
            if not isinstance(settings["backbone"], str):
                return _build_private(settings)
            backbone = build_backbone(**settings)
            # For good: a thread that ends must not switch it back under others.
            backbone.network.eval()
            backbone.built_from = built_from
            self.backbone = backbone
        if backbone.note:
            progress.line(backbone.note)
        return backbone


def _build_private(settings: dict[str, Any]) -> "Backbone":
    """Make a backbone of a copy of the user's network.

    It can change between calls, so each has a copy, and describes that.
    """
    from embeddings_cache.backbones import build_backbone
    from embeddings_cache.backbones._copies import PrivateCopy

    network = settings["backbone"]
    copy = PrivateCopy(network)
    backbone = build_backbone(**{**settings, "backbone": copy.network})
    # What its code keeps outside of it would still be shared by calls.
    backbone.turns, backbone.one_at_a_time = turns_of(network), True
    backbone.finish = copy.report
    return backbone
