"""The networks of a fit, up to where training begins."""

import copy
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from skdebias._engine._loss import n_logits
from skdebias._prepare import Prepared
from skdebias._warnings import warn_caller
from skdebias.finetune._accelerate import agree_on_weights
from skdebias.finetune._checks import (
    about_items,
    check_parameters_of,
    copied_module,
    plain_module,
)
from skdebias.finetune._draws import may_draw
from skdebias.finetune._extraction import SeededGenerator
from skdebias.finetune._freezing import freeze_parameters
from skdebias.finetune._items import Items
from skdebias.finetune._layers import AuxiliaryHeads, make_auxiliaries
from skdebias.finetune._network import Network
from skdebias.finetune._networks import check_point
from skdebias.finetune._parameters import warn_of_ineffective
from skdebias.methods import Method
from skdebias.methods._head import initial_state

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier


def initial_network(
    classifier: "BaseNetworkClassifier",
    settings: dict[str, Any],
    origin: Network | None,
) -> Network:
    """Return a network without a head, with the weights that training starts from.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    settings : dict
        What :func:`backbone_settings` returned.
    origin : Network or None
        The network of the file that the classifier was loaded from, which stands in
        for weights that are not there any more.

    Returns
    -------
    Network
    """
    backbone = classifier.backbone
    if not isinstance(backbone, str):
        backbone = copied_module(plain_module(backbone))
        check_parameters_of(backbone)
        # One that was made at random may be another in each process.
        agree_on_weights(backbone)
    try:
        network = Network(backbone, settings)
    except (OSError, ValueError) as error:
        if origin is None or not origin.is_of(classifier.backbone, settings):
            raise
        warn_caller(
            f"backbone={classifier.backbone!r}, weights={classifier.weights!r}: what "
            "training started from when this classifier was saved is not there "
            f"({error}). Training starts from the backbone in the file, which is "
            "trained already."
        )
        network = copy.deepcopy(origin)
        network.head = torch.nn.Sequential()
        network.partners = torch.nn.ModuleList()
    check_parameters_of(network.backbone)
    return network


def check_heads(method: Method) -> None:
    """Refuse heads that a network cannot be given.

    Parameters
    ----------
    method : Method

    Raises
    ------
    ValueError
    """
    if any(head.anchor is not None for head in method.heads):
        raise ValueError(
            f"{type(method).__name__} pulls its head to an anchor, which whole "
            "networks have not: fit it on FineTuneClassifier.embed(items)."
        )


def add_heads(
    classifier: "BaseNetworkClassifier",
    networks: list[Network],
    hidden_layer_sizes: list[int],
    prepared: Prepared,
    source: Items,
) -> tuple[dict[str, list[Any]], AuxiliaryHeads]:
    """Freeze what is frozen, and give the networks their heads.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    networks : list of Network
        One for each head of the method.
    hidden_layer_sizes : list of int
    prepared : Prepared
    source : Items
        Training items.

    Returns
    -------
    input_shapes : dict of str to list
        Sizes of one item and type, of each tensor that a network takes.
    auxiliary : AuxiliaryHeads
        What the method trains beside them.
    """
    method, seed = prepared.method, prepared.data.seed
    embedder = networks[0].embedder
    batch = next(source.batches(embedder, [(0, np.arange(1))]))
    embeddings = [_embed(network, batch, seed) for network in networks]
    embedding, joint = embeddings[-1], method.joint_embeddings
    n_joint = sum(own.shape[1] for own in embeddings)
    takes_saliencies = _takes_saliencies(method)
    for number, network in enumerate(networks):
        freeze_parameters(network, classifier.freeze)
        trained = any(p.requires_grad for p in network.backbone.parameters())
        network.add_head(
            n_joint if joint else embeddings[number].shape[1],
            hidden_layer_sizes,
            n_logits(len(prepared.classes)),
            classifier.dropout,
            seed,
            initial_state(method.heads, number)[0],
            from_zero=_starts_at_zero(
                classifier.head_init, method, number, head_alone=not trained
            ),
        )
        if takes_saliencies:
            check_point(network, classifier.saliency_layer, batch)
    sees_clean = any(head.clean for head in method.heads)
    if sees_clean and classifier.augment is None and not may_draw(networks[-1].train()):
        warn_caller(
            f"{type(method).__name__} lives on noise in what the result is trained on, "
            "and there is none: give augment, or a dropout above 0."
        )
    if trained and not embedding.requires_grad:
        warn_caller(
            "The backbone returns embeddings that its weights get no gradient "
            "from, so that the head alone is trained: leave out detach() and "
            "torch.no_grad() in its forward, or give freeze='backbone'."
        )
    warn_of_ineffective(
        classifier, networks[0], hidden_layer_sizes, takes_saliencies=takes_saliencies
    )
    if joint:
        # Auxiliary heads read the own embedding of a network.
        return _shapes(batch, embedder.modality), AuxiliaryHeads()
    with about_items(batch):
        auxiliary = make_auxiliaries(method, networks[-1], batch, seed)
    return _shapes(batch, embedder.modality), auxiliary


def _embed(network: Network, batch: Any, seed: int) -> Tensor:
    """Embed a batch before training, and name the items if the backbone fails."""
    network.eval()
    with SeededGenerator(seed), about_items(batch):
        return network.embed(batch)


def _takes_saliencies(method: Method) -> bool:
    """Return whether a method has a penalty; one without takes no saliencies."""
    penalty = cast(MethodType, type(method).penalty)
    return penalty.__func__ is not cast(MethodType, Method.penalty).__func__


def _starts_at_zero(
    head_init: str, method: Method, number: int, *, head_alone: bool
) -> bool:
    """Return whether a linear head does; of the network it may be trained alone."""
    _, from_zero = initial_state(method.heads, number)
    if head_init == "zero" and not from_zero:
        raise ValueError(
            f"head_init='zero' would keep the {method.n_heads} heads of "
            f"{type(method).__name__} equal: choose 'auto' or 'random'."
        )
    return {"auto": head_alone and from_zero, "zero": True, "random": False}[head_init]


def _shapes(batch: Any, modality: str) -> dict[str, list[Any]]:
    """Return sizes of one item and type of each tensor of a batch, by name."""
    if not isinstance(batch, dict):
        batch = {"images" if modality == "image" else "items": batch}
    return {
        name: [*tensor.shape[1:], str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in batch.items()
        if isinstance(tensor, Tensor)
    }
