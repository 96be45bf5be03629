"""Input saliencies of whole networks, by a second backward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from skdebias.finetune._layers import AuxiliaryHeads
from skdebias.methods import ForwardPass
from skdebias.methods._saliency import Measure


@dataclass(frozen=True)
class NetworkPass(ForwardPass):
    """The recorded forward pass of networks side by side, for a penalty.

    Parameters
    ----------
    outputs : sequence of Tensor of shape (R, n_logits)
        Logits of each network, which `logits` are made of.
    points : sequence of Tensor of shape (R, ...)
        What they can be differentiated in.
    layers : sequence of sequence of Tensor of shape (R, width)
        Embedding and outputs of the hidden layers of the head, of each network.
    named : sequence of mapping of str to Tensor of shape (R, width)
        What the layers yield that the method names, of each network.
    auxiliaries : AuxiliaryHeads or None
        The auxiliary heads of the method.
    heads : sequence of torch.nn.Module
        That of each network.
    """

    outputs: Sequence[Tensor]
    points: Sequence[Tensor]
    layers: Sequence[Sequence[Tensor]]
    named: Sequence[Mapping[str, Tensor]] = ()
    auxiliaries: AuxiliaryHeads | None = None
    heads: Sequence[nn.Module] = ()

    recorded: ClassVar[bool] = True

    @property
    def hidden(self) -> Sequence[Tensor]:
        """Embeddings, then outputs of the hidden layers of the heads, (M, R, width)."""
        return [torch.stack(of_networks).float() for of_networks in zip(*self.layers)]

    def layer(self, name: str) -> Tensor:
        """Return what a layer of the networks yields, (M, R, width)."""
        if any(name not in outputs for outputs in self.named):
            raise ValueError(
                f"The penalty asks for the layer {name!r}, which the method does not "
                "name: return it from Method.layers."
            )
        return torch.stack([outputs[name].float() for outputs in self.named])

    def auxiliary(self, name: str, features: Tensor, *, frozen: bool = False) -> Tensor:
        """Return what an auxiliary head says of features, (n, n_outputs)."""
        if self.auxiliaries is None or name not in self.auxiliaries:
            raise ValueError(
                f"The penalty asks for the auxiliary head {name!r}, which the method "
                "does not have: return it from Method.auxiliaries."
            )
        return self.auxiliaries.run(name, features, frozen=frozen)

    def head_logits(self, head: int, embeddings: Tensor) -> Tensor:
        """Return what the head of a network says of other embeddings."""
        logits: Tensor = self.heads[head](embeddings)
        return logits.float()

    def saliencies(self, heads: Tensor, values: Tensor) -> "RecordedSaliencies":
        """Return gradients of outputs at the points, not yet computed."""
        chosen = heads.tolist()
        return RecordedSaliencies(
            [self.outputs[head] for head in chosen],
            [self.points[head] for head in chosen],
            values,
        )


@dataclass(frozen=True)
class RecordedSaliencies:
    """Gradients of combinations of logits in the points they depend on.

    Parameters
    ----------
    outputs : list of Tensor of shape (R, n_logits)
    points : list of Tensor of shape (R, ...)
    values : Tensor of shape (B, R, n_logits)
        The combinations.
    """

    outputs: list[Tensor]
    points: list[Tensor]
    values: Tensor

    def gradients(self, create_graph: bool) -> Tensor:
        """Return the saliencies.

        Parameters
        ----------
        create_graph : bool
            Whether they are to be differentiated again.

        Returns
        -------
        Tensor of shape (B, R, D)
        """
        gradients = [
            torch.autograd.grad(
                output,
                point,
                # What the combination itself depends on is not differentiated here.
                grad_outputs=value.to(output.dtype),
                create_graph=create_graph,
                retain_graph=True,
            )[0]
            for output, point, value in zip(self.outputs, self.points, self.values)
        ]
        half = (torch.float16, torch.bfloat16)
        return torch.stack(
            [(g.float() if g.dtype in half else g).flatten(1) for g in gradients]
        )

    def oppose(
        self, student: Self, measure: Measure, weights: Tensor
    ) -> tuple[Tensor, None, list[Tensor]]:
        """Return the measure, recorded for the second backward pass."""
        constant = student.gradients(create_graph=False).detach()
        own = self.gradients(create_graph=True)
        values, _ = measure.of_coordinates(constant, own, weights)
        return values, None, []
