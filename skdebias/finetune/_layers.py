"""Layers within backbones that methods name, and auxiliary heads on them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from skdebias._engine._heads import initial_parameters
from skdebias.finetune._extraction import SeededGenerator
from skdebias.finetune._network import Network, linear_layers, module_at
from skdebias.methods import Method

# Of the random streams of a run, those of heads come first.
_FIRST_STREAM = 1000


def layers_of(method: Method) -> tuple[str, ...]:
    """Return the names of all layers that a method asks for, each once.

    Parameters
    ----------
    method : Method

    Returns
    -------
    tuple of str
    """
    read = [head.layer for head in method.auxiliaries]
    return tuple(dict.fromkeys((*method.layers, *read)))


@contextmanager
def caught_outputs(
    network: Network, names: Sequence[str], batch: Any
) -> Iterator[dict[str, Tensor]]:
    """Catch what layers yield while a network runs, one vector per item.

    Parameters
    ----------
    network : Network
    names : sequence of str
        "input", "embedding", or names of submodules of the backbone.
    batch : Tensor or dict of Tensor
        What the network will run on.

    Yields
    ------
    dict of str to Tensor of shape (n_samples, width)
    """
    caught: dict[str, Tensor] = {}

    def catch(name: str, output: Any) -> None:
        caught[name] = _vectors(name, output)

    with ExitStack() as handles:
        for name in names:
            if name == "input":
                if not (isinstance(batch, Tensor) and batch.is_floating_point()):
                    raise ValueError(
                        "layer='input': items of this backbone are codes of words, "
                        "and no numbers. Name a layer of the backbone."
                    )
                caught[name] = batch.float().flatten(1)
                continue
            module = module_at(network, name, "layer")
            if name == "embedding":
                handle = module.register_forward_pre_hook(
                    lambda _, inputs, name=name: catch(name, inputs[0])
                )
            else:
                handle = module.register_forward_hook(
                    lambda _, __, output, name=name: catch(name, output)
                )
            handles.callback(handle.remove)
        yield caught


def _vectors(name: str, output: Any) -> Tensor:
    """Average a layer's output over its positions."""
    if isinstance(output, tuple | list) and output:
        output = output[0]  # as blocks of transformers return it
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        found = type(output).__name__ if shape is None else f"shape {shape}"
        raise ValueError(
            f"layer={name!r} yields {found}: choose a layer with one vector, a map "
            "(n, channels, height, width), or a sequence (n, length, width) per item."
        )
    if output.ndim == 2:
        return output
    return output.mean((2, 3) if output.ndim == 4 else 1)


class AuxiliaryHeads(nn.ModuleDict):
    """The auxiliary heads of a method, by name."""

    def run(self, name: str, features: Tensor, *, frozen: bool) -> Tensor:
        """Return the outputs of a head, as :meth:`ForwardPass.auxiliary` says."""
        head = self[name]
        if not frozen:
            outputs: Tensor = head(features)
            return outputs
        constants = {key: value.detach() for key, value in head.named_parameters()}
        outputs = functional_call(head, constants, (features,))
        return outputs


def make_auxiliaries(
    method: Method, network: Network, batch: Any, seed: int
) -> AuxiliaryHeads:
    """Return the auxiliary heads of a method before training.

    Parameters
    ----------
    method : Method
    network : Network
        Of the result, with its head and what of it is frozen.
    batch : Tensor or dict of Tensor
        Items to try it on.
    seed : int

    Returns
    -------
    AuxiliaryHeads

    Raises
    ------
    ValueError
        If there is no such layer, or if it cannot be trained.
    """
    heads = AuxiliaryHeads()
    asked = layers_of(method)
    if not asked:
        return heads
    widths = [h.n_outputs for h in method.auxiliaries if isinstance(h.n_outputs, str)]
    network.eval()
    with (
        SeededGenerator(seed),
        caught_outputs(network, [*{*asked, *widths}], batch) as caught,
    ):
        n_logits = network(batch).shape[1]
    _check_caught(method, caught, asked, widths)
    for number, head in enumerate(method.auxiliaries):
        n_outputs = n_logits if head.n_outputs is None else head.n_outputs
        if isinstance(n_outputs, str):
            n_outputs = caught[n_outputs].shape[1]
        sizes = [caught[head.layer].shape[1], *head.hidden_layer_sizes, n_outputs]
        start = initial_parameters(sizes, seed, _FIRST_STREAM + number, from_zero=False)
        heads[head.name] = nn.Sequential(*linear_layers(start))
    return heads


def _check_caught(
    method: Method, caught: Mapping[str, Tensor], asked: Sequence[str], widths: Any
) -> None:
    """Refuse layers that the backbone does not run, or that are frozen."""
    name = type(method).__name__
    for layer in (*asked, *widths):
        if layer not in caught:
            raise ValueError(
                f"layer={layer!r} of {name} is not run by the backbone: name one that "
                "its embedding depends on."
            )
    frozen = [n for n in asked if n != "input" and not caught[n].requires_grad]
    if frozen:
        raise ValueError(
            f"{name} trains what leads to the layer {frozen[0]!r}, and all of it is "
            "frozen: leave it out of freeze, or name a later layer."
        )


def gradient_probe(heads: AuxiliaryHeads) -> Tensor | None:
    """Return a number that depends on all weights of auxiliary heads.

    Replicas look for parameters that a pass has not used, and a penalty uses these
    after the pass.

    Parameters
    ----------
    heads : AuxiliaryHeads

    Returns
    -------
    Tensor of shape () or None
        None if there are none.
    """
    sums = [parameter.sum() for parameter in heads.parameters()]
    return torch.stack(sums).sum() if sums else None
