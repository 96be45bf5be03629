"""The few networks that a method trains together, and where saliencies are taken."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from skdebias.finetune._layers import AuxiliaryHeads, caught_outputs, gradient_probe
from skdebias.finetune._network import Network, module_at


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
    named : list of dict of str to Tensor
        Of each network, what the layers yield that the method names.
    probe : Tensor of shape () or None
        Depends on all weights of auxiliary heads.
    """

    tensors: list[Tensor]
    layers: list[list[Tensor]]
    named: list[dict[str, Tensor]] = field(default_factory=list)
    probe: Tensor | None = None


class Networks(nn.Module):
    """The networks that a method trains side by side, run on the same rows.

    Parameters
    ----------
    networks : sequence of Network
    point : str, default=None
        Where saliencies are taken: "input", "embedding", or the name of a submodule of
        the backbone. None takes none.
    clean : sequence of int, default=()
        Networks that see clean items while they are frozen.
    layers : sequence of str, default=()
        Whose outputs a penalty gets.
    auxiliary : AuxiliaryHeads, default=None
        Heads that are trained with the networks. None is none.
    joint : bool, default=False
        Whether every head reads the embeddings of all networks.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        point: str | None = None,
        clean: Sequence[int] = (),
        layers: Sequence[str] = (),
        auxiliary: AuxiliaryHeads | None = None,
        *,
        joint: bool = False,
    ) -> None:
        super().__init__()
        # Checkpoints call their tensors by this name.
        self.members = _NetworkList(networks)
        self.members.joint = joint
        self.point = point
        self.clean = tuple(clean)
        self.layers = tuple(layers)
        self.auxiliary = AuxiliaryHeads() if auxiliary is None else auxiliary

    def forward(self, batch: Any, clean: Any = None) -> tuple[list[Tensor], Points]:
        """Run all networks.

        Parameters
        ----------
        batch : Tensor or dict of Tensor
        clean : Tensor or dict of Tensor, default=None
            The same items without augmentation.

        Returns
        -------
        logits : list of Tensor of shape (n_samples, n_logits)
            Of each network.
        points : Points
            In training, where there is a point; else empty.
        """
        point = self.point if self.training else None
        batches = [batch] * len(self.members)
        if clean is not None:
            for number in self.clean:
                if not self.members[number].training:
                    batches[number] = clean
        logits, points = self.members(batches, point, self.layers)
        if point is not None:
            points = replace(points, probe=gradient_probe(self.auxiliary))
        return logits, points


class _NetworkList(nn.ModuleList):
    """A list that runs its networks itself: no list without a pass is sharded."""

    joint = False

    def __iter__(self) -> Iterator[Network]:
        return cast(Iterator[Network], super().__iter__())

    def forward(
        self, batches: list[Any], point: str | None, names: Sequence[str]
    ) -> tuple[list[Tensor], Points]:
        if self.joint:
            return self._run_jointly(batches)
        if point is None:
            return [n(batch) for n, batch in zip(self, batches)], Points([], [])
        if point == "input" and _is_numbers(batches[0]):
            # Of the same rows for all, one tensor will do.
            leaves = {id(b): b.detach().requires_grad_() for b in batches}
            batches = [leaves[id(batch)] for batch in batches]
        logits, points, layers, named = [], [], [], []
        for network, batch in zip(self, batches):
            with (
                _caught(network, point, batch) as caught,
                _caught_layers(network.head) as hidden,
                caught_outputs(network, names, batch) as outputs,
            ):
                logits.append(network(batch))
            points.append(caught[-1])
            layers.append(hidden)
            named.append(outputs)
        return logits, Points(points, layers, named)

    def _run_jointly(self, batches: list[Any]) -> tuple[list[Tensor], Points]:
        """Run every head on the embeddings of all; it trains its own backbone alone."""
        own = [network.embed(batch) for network, batch in zip(self, batches)]
        logits, layers = [], []
        for number, network in enumerate(self):
            others = [e.detach() for k, e in enumerate(own) if k != number]
            with _caught_layers(network.head) as hidden:
                logits.append(network.head(torch.cat([own[number], *others], 1)))
            layers.append(hidden)
        return logits, Points([], layers)


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
    if point == "input":  # of words: what they are embedded as
        for module in network.backbone.modules():
            getter = getattr(module, "get_input_embeddings", None)
            if getter is not None:
                return getter()
        raise ValueError(
            "saliency_layer='input': items of this backbone are codes of words, and it "
            "does not say which layer embeds them. Give the name of that layer."
        )
    return module_at(network, point, "saliency_layer")


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
