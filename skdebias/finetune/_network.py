"""Backbone and head as one module."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skdebias._engine._heads import initial_parameters
from skdebias.finetune._backbone import build_embedder, has_folder, rebuild_embedder
from skdebias.finetune._checks import check_embeddings
from skdebias.finetune._encoder_files import encoder_folder
from skdebias.finetune._extraction import Backbone


class Network(nn.Module):
    """A backbone, and a head of linear layers on its embeddings.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    settings : mapping
        As for :func:`build_embedder`.
    embedder : Backbone, default=None
        Built of both already.

    Attributes
    ----------
    backbone : torch.nn.Module
    head : torch.nn.Sequential
        Set by :meth:`add_head`.
    embedder : Backbone
        Preprocessing, and the function from a batch to embeddings.
    partners : torch.nn.ModuleList
        Networks without heads whose embeddings the head reads, after the own.
    """

    def __init__(
        self,
        backbone: Any,
        settings: Mapping[str, Any],
        embedder: Backbone | None = None,
    ) -> None:
        super().__init__()
        self._request = backbone if isinstance(backbone, str) else None
        # Submodules of the backbone that freeze_parameters has named.
        self.frozen: tuple[str, ...] = ()
        self._settings = dict(settings)
        if embedder is None:
            embedder = build_embedder(backbone, settings)
        self._set_embedder(embedder)
        self.head = nn.Sequential()
        self.partners = nn.ModuleList()

    def bare(self) -> "Network":
        """Return a network of the same backbone, the very module, without a head."""
        request = self.backbone if self._request is None else self._request
        return Network(request, self._settings, self.embedder)

    def _set_embedder(self, embedder: Backbone) -> None:
        self.backbone = embedder.network
        self.embedder = embedder

    def add_head(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int],
        n_logits: int,
        dropout: float,
        seed: int,
        number: int = 0,
        *,
        from_zero: bool = True,
    ) -> Self:
        """Put a head on the backbone, with the starting weights of heads alone.

        Parameters
        ----------
        n_features : int
            Of the embeddings.
        hidden_layer_sizes : sequence of int
        n_logits : int
        dropout : float
            Before each linear layer.
        seed : int
        number : int, default=0
            Which network of a method that trains several.
        from_zero : bool, default=True
            Whether a linear head starts at zero.

        Returns
        -------
        Network
            Itself.
        """
        sizes = [n_features, *hidden_layer_sizes, n_logits]
        start = initial_parameters(sizes, seed, number, from_zero=from_zero)
        self.head = nn.Sequential(*linear_layers(start, dropout))
        return self

    @property
    def has_folder(self) -> bool:
        """Whether files beside its weights describe the backbone."""
        return self._request is not None and has_folder(self._request, self._settings)

    def is_of(self, backbone: Any, settings: Mapping[str, Any]) -> bool:
        """Return whether the backbone was built by these arguments, or is a module."""
        request = backbone if isinstance(backbone, str) else None
        return self._request == request and repr(self._settings) == repr(settings)

    @property
    def linear_layers(self) -> list[nn.Linear]:
        """The layers of the head, input to output."""
        return [layer for layer in self.head if isinstance(layer, nn.Linear)]

    def embed(self, batch: Any) -> Tensor:
        """Embeddings of a collated batch.

        Parameters
        ----------
        batch : Tensor or dict of Tensor

        Returns
        -------
        Tensor of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If the backbone does not return one vector per item.
        """
        embeddings = self.embedder.forward(batch)
        check_embeddings(embeddings, batch)
        if not len(self.partners):
            return embeddings.float()
        others = [cast(Network, partner).embed(batch) for partner in self.partners]
        return torch.cat([embeddings.float(), *others], 1)

    def forward(self, batch: Any) -> Tensor:
        """Logits of a collated batch; one of them for two classes.

        Parameters
        ----------
        batch : Tensor or dict of Tensor

        Returns
        -------
        Tensor of shape (n_samples, n_logits)
        """
        logits: Tensor = self.head(self.embed(batch))
        return logits

    def __getstate__(self) -> dict[str, Any]:
        # The functions of the embedder are closures; a name builds them again.
        state = {name: part for name, part in vars(self).items() if name != "embedder"}
        known = next(self.parameters(), None)
        if known is not None and known.device.type != "cpu":
            # The copy may be opened on a machine that has no such device.
            modules = copy.deepcopy(dict(self.named_children()))
            state["_modules"] = {name: m.to("cpu") for name, m in modules.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        trained = self.backbone
        if self._request is None:
            self.embedder = rebuild_embedder(trained, self._settings)
            return
        with ExitStack() as files:
            folder = None
            if self.has_folder:
                folder = files.enter_context(encoder_folder(trained))
            self._set_embedder(rebuild_embedder(self._request, self._settings, folder))
        self.backbone.load_state_dict(trained.state_dict())
        self.backbone.to(next(trained.parameters()).device).train(trained.training)


def linear_layers(
    start: tuple[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]],
    dropout: float | None = None,
) -> list[nn.Module]:
    """Return the modules of a head.

    Parameters
    ----------
    start : (sequence of ndarray, sequence of ndarray)
        Weights of the layers, and biases.
    dropout : float, default=None
        Before each linear layer. None is no module for it.

    Returns
    -------
    list of torch.nn.Module
    """
    layers: list[nn.Module] = []
    for weight, bias in zip(*start):
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], len(bias))
        linear.load_state_dict(
            {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
        )
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
        layers += [linear, nn.ReLU()]
    return layers[:-1]


def module_at(network: Network, point: str, parameter: str) -> nn.Module:
    """Return the module whose output, or input, is a point of a network.

    Parameters
    ----------
    network : Network
    point : str
        "embedding", or the name of a submodule of the backbone.
    parameter : str
        That names it, for the error.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        If there is no such submodule.
    """
    if point == "embedding":
        return network.head
    known = [name for name, _ in network.backbone.named_modules() if name]
    if point not in known:
        near = difflib.get_close_matches(point, known, n=3, cutoff=0.3)
        raise ValueError(
            f"{parameter}={point!r} is not the name of a submodule of the backbone: "
            "choose 'input', 'embedding' or a name like "
            f"{', '.join(map(repr, near or known[-3:]))}."
        )
    return network.backbone.get_submodule(point)


class ClassLogits(nn.Module):
    """A network with one logit per class; the first of two is 0.

    Parameters
    ----------
    network : Network
    input_shapes : mapping of str to list
        What a batch consists of, by name: sizes of one item, and name of the type. A
        single tensor is a batch by itself, several are a dict.
    """

    def __init__(
        self, network: Network, input_shapes: Mapping[str, Sequence[Any]]
    ) -> None:
        super().__init__()
        self.network = network
        self.input_shapes = dict(input_shapes)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits (n_samples, n_classes) of a prepared batch."""
        batch: Any = inputs[0]
        if len(self.input_shapes) > 1:
            batch = dict(zip(self.input_shapes, inputs))
        logits: Tensor = self.network(batch)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits

    def example_inputs(self) -> tuple[dict[str, Tensor], int]:
        """Return a batch to trace the module with.

        Returns
        -------
        inputs : dict of str to Tensor
            Two items of ones: of a mask, because a text without words has no mean.
        n_free_axes : int
            How many of its first axes may have another length.
        """
        device = next(self.network.parameters()).device
        is_text = self.network.embedder.modality == "text"
        inputs = {}
        for name, (*shape, dtype) in self.input_shapes.items():
            size = (2, 8) if is_text else (2, *shape)
            inputs[name] = torch.ones(size, dtype=getattr(torch, dtype), device=device)
        return inputs, 2 if is_text else 1
