"""The few networks that a method trains together, and where saliencies are taken."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from skdebias.finetune._network import Network


@dataclass(frozen=True)
class Points:
    """Tensors within the graph of the logits.

    Not a list: of tensors that a module returns, what is wrapped around it (autocast,
    replicas) makes copies, which the logits do not depend on.

    Parameters
    ----------
    tensors : list of Tensor
        One of each network, that its logits can be differentiated in.
    layers : list of list of Tensor
        Of each network, the embedding and the outputs of the hidden layers of the head.
    """

    tensors: list[Tensor]
    layers: list[list[Tensor]]


class Networks(nn.Module):
    """The networks that a method trains side by side, run on the same rows.

    Parameters
    ----------
    networks : sequence of Network
    point : str, default=None
        Where saliencies are taken: "input", "embedding", or the name of a submodule of
        the backbone. None takes none.
    """

    def __init__(self, networks: Sequence[Network], point: str | None = None) -> None:
        super().__init__()
        # Checkpoints call their tensors by this name.
        self.members = _NetworkList(networks)
        self.point = point

    def forward(self, batch: Any) -> tuple[list[Tensor], Points]:
        """Run all networks.

        Parameters
        ----------
        batch : Tensor or dict of Tensor

        Returns
        -------
        logits : list of Tensor of shape (n_samples, n_logits)
            Of each network.
        points : Points
            In training, where there is a point; else empty.
        """
        point = self.point if self.training else None
        outputs: tuple[list[Tensor], Points] = self.members(batch, point)
        return outputs


class _NetworkList(nn.ModuleList):
    """A list that runs its networks itself: no list without a pass is sharded."""

    def __iter__(self) -> Iterator[Network]:
        return cast(Iterator[Network], super().__iter__())

    def forward(self, batch: Any, point: str | None) -> tuple[list[Tensor], Points]:
        if point is None:
            return [network(batch) for network in self], Points([], [])
        if point == "input" and _is_numbers(batch):
            # The same rows for all, so that one tensor will do.
            batch = batch.detach().requires_grad_()
        logits, points, layers = [], [], []
        for network in self:
            with (
                _caught(network, point, batch) as caught,
                _caught_layers(network.head) as hidden,
            ):
                logits.append(network(batch))
            points.append(caught[-1])
            layers.append(hidden)
        return logits, Points(points, layers)


@contextmanager
def _caught_layers(head: nn.Sequential) -> Iterator[list[Tensor]]:
    """Catch what goes into a head and what its hidden layers yield while it runs."""
    caught: list[Tensor] = []
    handles = [head.register_forward_pre_hook(lambda _, inputs: caught.append(*inputs))]
    for module in head:
        if isinstance(module, nn.ReLU):
            handle = module.register_forward_hook(lambda *call: caught.append(call[-1]))
            handles.append(handle)
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _caught(network: Network, point: str, batch: Any) -> Iterator[list[Tensor]]:
    """Catch the tensor at a point of the network while it runs."""
    if point == "input" and _is_numbers(batch):
        yield [batch]
        return
    module = _module_at(network, point)
    caught: list[Tensor] = []

    def catch(tensor: Tensor) -> None:
        # Behind frozen layers nothing is recorded before this point.
        caught.append(tensor if tensor.requires_grad else tensor.requires_grad_())

    if point == "embedding":
        handle = module.register_forward_pre_hook(lambda _, inputs: catch(inputs[0]))
    else:
        handle = module.register_forward_hook(lambda _, __, output: catch(output))
    try:
        yield caught
    finally:
        handle.remove()


def _module_at(network: Network, point: str) -> nn.Module:
    """Return the module whose output, or input, is the point."""
    if point == "embedding":
        return network.head
    backbone = network.backbone
    if point == "input":  # of words: what they are embedded as
        for module in backbone.modules():
            getter = getattr(module, "get_input_embeddings", None)
            if getter is not None:
                return getter()
        raise ValueError(
            "saliency_layer='input': items of this backbone are codes of words, and it "
            "does not say which layer embeds them. Give the name of that layer."
        )
    known = [name for name, _ in backbone.named_modules() if name]
    if point not in known:
        near = difflib.get_close_matches(point, known, n=3, cutoff=0.3)
        raise ValueError(
            f"saliency_layer={point!r} is not the name of a submodule of the backbone: "
            "choose 'input', 'embedding' or a name like "
            f"{', '.join(map(repr, near or known[-3:]))}."
        )
    return backbone.get_submodule(point)


def check_point(network: Network, point: str, batch: Any) -> None:
    """Refuse a point that the network does not have.

    Parameters
    ----------
    network : Network
    point : str
    batch : Tensor or dict of Tensor

    Raises
    ------
    ValueError
    """
    if not (point == "input" and _is_numbers(batch)):
        _module_at(network, point)


def _is_numbers(batch: Any) -> bool:
    """Return whether a batch can be differentiated in: no words, nor their codes."""
    return isinstance(batch, Tensor) and batch.is_floating_point()
