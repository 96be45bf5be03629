"""Backbone and head as one module, and the few of them a method trains together."""

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skdebias._engine._heads import initial_parameters
from skdebias.finetune._checks import check_embeddings, check_tensor, plain_module
from skdebias.finetune._encoder_files import encoder_folder
from skdebias.finetune._extraction import (
    Backbone,
    BackboneSpec,
    EmbeddingExtractor,
    UndescribableError,
    build_backbone,
    describe_network,
    layer_output,
    load_weights,
    network_settings,
    pool,
    saves_folders,
)


def build_tools(backbone: Any, settings: Mapping[str, Any]) -> Backbone:
    """Build a network with its preprocessing.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        As for :class:`embeddings_cache.EmbeddingExtractor`; of a module, the very
        object is used.
    settings : mapping
        The other fields of the extractor's request; `modality` may be ``"tensor"``.

    Returns
    -------
    Backbone
    """
    if isinstance(backbone, nn.Module):
        backbone = plain_module(backbone)
    if settings["modality"] != "tensor":
        return build_backbone(backbone, **settings)
    spec = BackboneSpec(
        "torch",
        type(backbone).__name__,
        "tensor",
        layer=settings["layer"],
        pooling=settings["pooling"],
        network=backbone,
    )
    if settings["weights"] is not None:
        weights = str(Path(settings["weights"]).expanduser())
        load_weights(backbone, weights, spec.label)
    output = {}
    forward = backbone
    if spec.layer is not None or spec.pooling != "default":
        output = {"layer": spec.layer, "pooling": spec.pooling}
        inner = backbone if spec.layer is None else layer_output(spec, backbone)
        forward = partial(_pooled, spec, inner)
    return Backbone(
        network=backbone,
        modality="tensor",
        prepare=torch.as_tensor,
        collate=torch.stack,
        forward=forward,
        description={"family": "torch", "modality": "tensor", **output},
    )


def _pooled(spec: BackboneSpec, inner: Callable[[Any], Any], batch: Any) -> Tensor:
    output = inner(batch)
    check_tensor(output)
    return pool(spec, output)


def has_folder(backbone: Any, settings: Mapping[str, Any]) -> bool:
    """Return whether a network is described by files beside its weights.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    settings : mapping
        As for :func:`build_tools`.

    Returns
    -------
    bool
    """
    trained = settings["pretrained"] or settings["weights"] is not None
    return isinstance(backbone, str) and saves_folders(backbone) and trained


def rebuild_tools(
    backbone: Any, settings: Mapping[str, Any], folder: Path | None = None
) -> Backbone:
    """Build a network whose weights are at hand: none are read or downloaded.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    settings : mapping
        With which it was built at first.
    folder : Path, default=None
        Of its files, where :func:`has_folder` says that it has some.

    Returns
    -------
    Backbone
        Of no weights in particular.
    """
    own = dict(settings)
    if folder is None:
        own |= {"pretrained": False, "weights": None}
    else:
        own["weights"] = str(folder)
    return build_tools(backbone, own)


def describe_backbone(tools: Backbone) -> dict[str, Any]:
    """Describe a network before it is trained, and what its items go through.

    Parameters
    ----------
    tools : Backbone
        As from :func:`build_tools`.

    Returns
    -------
    dict
        Plain JSON values, the same in every process.

    Raises
    ------
    UndescribableError
        If something about a network of the user's cannot be described.
    """
    try:
        described: dict[str, Any] = tools.description
        if described["family"] != "torch":
            return described  # by name, and built anew
        return described | describe_network(tools.network, training=True)
    except UndescribableError as error:
        raise UndescribableError(
            f"{error}. Or leave checkpoint_dir=None: only a run that can go on needs "
            "to be told from others"
        ) from error


class Network(nn.Module):
    """A backbone, and a head of linear layers on its embeddings.

    Parameters
    ----------
    backbone : str or torch.nn.Module
    settings : mapping
        As for :func:`build_tools`.
    tools : Backbone, default=None
        Built of both already.

    Attributes
    ----------
    backbone : torch.nn.Module
    head : torch.nn.Sequential
        Set by :meth:`add_head`.
    tools : Backbone
        Preprocessing, and the function from a batch to embeddings.
    """

    def __init__(
        self,
        backbone: Any,
        settings: Mapping[str, Any],
        tools: Backbone | None = None,
    ) -> None:
        super().__init__()
        self._request = backbone if isinstance(backbone, str) else None
        # Submodules of the backbone that freeze_parameters has named.
        self.frozen: tuple[str, ...] = ()
        self._settings = dict(settings)
        self._set_tools(build_tools(backbone, settings) if tools is None else tools)
        self.head = nn.Sequential()

    def _set_tools(self, tools: Backbone) -> None:
        self.backbone = tools.network
        self.tools = tools

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
        layers: list[nn.Module] = []
        start = initial_parameters(sizes, seed, number, from_zero=from_zero)
        for weight, bias in zip(*start):
            linear = nn.utils.skip_init(nn.Linear, weight.shape[1], len(bias))
            linear.load_state_dict(
                {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
            )
            layers += [nn.Dropout(dropout), linear, nn.ReLU()]
        self.head = nn.Sequential(*layers[:-1])
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
        embeddings = self.tools.forward(batch)
        check_embeddings(embeddings, batch)
        return embeddings.float()

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
        # The functions of the tools are closures; a name builds them again.
        state = {name: value for name, value in vars(self).items() if name != "tools"}
        if next(self.head.parameters()).device.type != "cpu":
            # For a machine that has no such device.
            modules = copy.deepcopy(dict(self._modules))
            state["_modules"] = {name: m.to("cpu") for name, m in modules.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        trained = self.backbone
        if self._request is None:
            self.tools = rebuild_tools(trained, self._settings)
            return
        with ExitStack() as files:
            folder = None
            if self.has_folder:
                folder = files.enter_context(encoder_folder(trained))
            self._set_tools(rebuild_tools(self._request, self._settings, folder))
        self.backbone.load_state_dict(trained.state_dict())
        self.backbone.to(next(trained.parameters()).device).train(trained.training)


class ClassLogits(nn.Module):
    """A network with one logit per class; the first of two is 0.

    Parameters
    ----------
    network : Network
    names : sequence of str
        Of what a batch consists of; a single one is a tensor, several are a dict.
    """

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (n_samples, n_classes) of a prepared batch, part by part."""
        whole = inputs[0] if len(self.names) == 1 else dict(zip(self.names, inputs))
        logits: Tensor = self.network(whole)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits


@dataclass(frozen=True)
class Points:
    """Tensors within the graph of the logits.

    Not a list: of tensors that a module returns, what is wrapped around it (autocast,
    replicas) makes copies, which the logits do not depend on.

    Parameters
    ----------
    tensors : list of Tensor
        One of each network, that its logits can be differentiated in.
    """

    tensors: list[Tensor]


class Networks(nn.Module):
    """The networks that a method trains side by side, run on the same rows.

    Parameters
    ----------
    members : sequence of Network
    point : str, default=None
        Where saliencies are taken: "input", "embedding", or the name of a submodule of
        the backbone. None takes none.
    """

    def __init__(self, members: Sequence[Network], point: str | None = None) -> None:
        super().__init__()
        self.members = _Members(members)
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


class _Members(nn.ModuleList):
    """The list that runs its networks itself: no list without a pass is sharded."""

    def forward(self, batch: Any, point: str | None) -> tuple[list[Tensor], Points]:
        if point is None:
            return [member(batch) for member in self], Points([])
        if point == "input" and _is_numbers(batch):
            # The same rows for all, so that one tensor will do.
            batch = batch.detach().requires_grad_()
        logits, points = [], []
        for member in self:
            with _caught(member, point, batch) as caught:
                logits.append(member(batch))
            points.append(caught[-1])
        return logits, Points(points)


@contextmanager
def _caught(member: Network, point: str, batch: Any) -> Iterator[list[Tensor]]:
    """Catch the tensor at a point of the network while it runs."""
    if point == "input" and _is_numbers(batch):
        yield [batch]
        return
    module = _module_at(member, point)
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


def _module_at(member: Network, point: str) -> nn.Module:
    """Return the module whose output, or input, is the point."""
    if point == "embedding":
        return member.head
    backbone = member.backbone
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
    """Whether a batch can be differentiated in: no words, nor their codes."""
    return isinstance(batch, Tensor) and batch.is_floating_point()


def freeze_parameters(network: Network, freeze: Any) -> None:
    """Switch off the gradients of a part of the backbone.

    Parameters
    ----------
    network : Network
    freeze : None, "backbone", or sequence of str
        Names of submodules or parameters of the backbone; ``*`` stands for anything.

    Raises
    ------
    ValueError
        If a name matches nothing.
    """
    if freeze is None:
        return
    if isinstance(freeze, str) and freeze == "backbone":
        freeze = ["*"]
    texts = isinstance(freeze, Iterable) and all(isinstance(n, str) for n in freeze)
    if isinstance(freeze, str) or not texts:
        such = [freeze] if isinstance(freeze, str) else ["layer1"]
        raise ValueError(
            f"freeze={freeze!r} must be None, 'backbone', or a list of names of "
            f"submodules, such as {such}."
        )
    names = [name for name, _ in network.backbone.named_parameters()]
    modules = [name for name, _ in network.backbone.named_modules()]
    frozen = []
    for pattern in freeze:
        own = [n for n in names if _matches(n, pattern)]
        parts = [n for n in modules if pattern == "*" or (n and _matches(n, pattern))]
        if not own and not parts:
            known = [name for name in modules if name]
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3)
            raise ValueError(
                f"freeze={list(freeze)}: {pattern!r} matches no parameter of the "
                f"backbone. Names like {', '.join(map(repr, near or known[:3]))}."
            )
        for name in own:
            network.backbone.get_parameter(name).requires_grad_(False)
        frozen += parts
    network.frozen = tuple(frozen)


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names something, or a module that it is within."""
    within = name.startswith(f"{pattern}.") or fnmatch(name, f"{pattern}.*")
    return name == pattern or within or fnmatch(name, pattern)


# Of torch's own modules, those whose passes may draw random numbers.
_DRAWING = ("Dropout", "RReLU", "Fractional", "Attention", "Transformer", "RNN", "LSTM",
            "GRU")  # fmt: skip


def may_draw(networks: nn.Module) -> bool:
    """Return whether passes in training may draw random numbers.

    Parameters
    ----------
    networks : torch.nn.Module

    Returns
    -------
    bool
        False if every part is a module of torch, or of this package, that draws none.
    """
    for module in networks.modules():
        kind = type(module)
        known = kind.__module__.startswith(("torch.nn.modules.", __name__))
        hooked = module._forward_hooks or module._forward_pre_hooks
        patched = "forward" in vars(module)
        named = any(name in kind.__name__ for name in _DRAWING)
        drawing = named and getattr(module, "p", 1) != 0
        if not known or hooked or patched or drawing:
            return True
    return False


def training_mode(networks: nn.Module, *, frozen_statistics: bool) -> None:
    """Switch to training, but for what is frozen.

    A module none of whose parameters is trained, those of its submodules included,
    works as in evaluation: without dropout, by its running statistics. So does one
    without parameters that is within it, or that `freeze` names.

    Parameters
    ----------
    networks : torch.nn.Module
    frozen_statistics : bool
        Whether batch normalisation keeps its statistics where its parameters are
        trained, too.
    """
    networks.train()
    for module in networks.modules():
        if isinstance(module, Network):
            for name in module.frozen:
                part = module.backbone.get_submodule(name)
                if not any(p.requires_grad for p in part.parameters()):
                    part.eval()
        own = list(module.parameters())
        fixed = bool(own) and not any(p.requires_grad for p in own)
        if fixed or (frozen_statistics and isinstance(module, _BatchNorm)):
            module.eval()


def backbone_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extractor's checked request out of a classifier's parameters.

    Parameters
    ----------
    parameters : mapping
        The classifier's own.

    Returns
    -------
    dict

    Raises
    ------
    TypeError, ValueError
        For a value that cannot be used.
    """
    names = (
        "pretrained", "weights", "layer", "pooling", "model_kwargs", "preprocess",
        "modality",
    )  # fmt: skip
    own = {name: parameters[name] for name in names}
    backbone = parameters["backbone"]
    if own["modality"] == "tensor":
        if not isinstance(backbone, nn.Module):
            raise TypeError(
                f"modality='tensor' needs a torch.nn.Module as backbone, which takes "
                f"items as they are; backbone={backbone!r} prepares them itself."
            )
        for name, remedy in (
            ("model_kwargs", "the module is built already"),
            ("preprocess", "prepare the array, or do it in the module's forward"),
        ):
            if own[name]:
                raise ValueError(
                    f"{name}={own[name]!r} has no effect with modality='tensor': "
                    f"leave it at None; {remedy}."
                )
        return {**own, "model_kwargs": {}}
    extractor = EmbeddingExtractor(backbone, **own)
    return network_settings(extractor)
