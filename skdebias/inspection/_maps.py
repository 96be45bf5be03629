"""Where in an image a class score comes from: by gradients, in plain torch."""

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn.functional import interpolate

from skdebias._context import standard_context
from skdebias.export import to_torch
from skdebias.finetune._backbone import backbone_settings, build_embedder
from skdebias.finetune._base import BaseNetworkClassifier
from skdebias.finetune._extraction import to_device
from skdebias.finetune._items import Items
from skdebias.finetune._network import Network


class ClassScores(nn.Module):
    """A network with one score per class, any of which has a gradient.

    These are the logits; with two classes, the logit of each against the other.

    Parameters
    ----------
    network : torch.nn.Module
        From a prepared batch to one logit, or one per class.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        """Return the scores (n_samples, n_classes) of a prepared batch."""
        logits = self.network(batch)
        if logits.shape[1] > 2:
            return logits
        margin = logits[:, -1:]
        if logits.shape[1] == 2:
            margin = margin - logits[:, :1]
        return torch.cat([-margin, margin], 1)


def network_of(estimator, extractor):
    """Return the network of a classifier: its own, or its head on a backbone.

    Parameters
    ----------
    estimator : head, Pipeline, FineTuneClassifier or torch.nn.Module
        A module is one of the networks of a FineTuneClassifier.
    extractor : EmbeddingExtractor or None
        What a head was given the embeddings of.

    Returns
    -------
    Network
    """
    if isinstance(estimator, Network):
        return estimator
    if isinstance(estimator, BaseNetworkClassifier):
        check_is_fitted(estimator)
        return estimator.network_
    if extractor is None:
        raise ValueError(
            f"extractor=None: {type(estimator).__name__} is a head, which sees "
            "embeddings and no pixels. Give the EmbeddingExtractor that made them."
        )
    head = to_torch(estimator)
    settings = backbone_settings(extractor.get_params(deep=False))
    embedder = build_embedder(extractor.backbone, settings)
    network = Network(extractor.backbone, settings, embedder)
    network.head = head
    return network


@standard_context()
def saliency_maps(network, items, kind="input", *, layer=None, target=None):
    """Return where the scores of items come from.

    Parameters
    ----------
    network : Network
    items : array-like
        Images, as the network was trained on.
    kind : {"input", "grad_cam"} or callable
        As for :meth:`SaliencyDisplay.from_estimator`.
    layer : str or None
        Of Grad-CAM: name of a module of the backbone.
    target : ndarray of shape () or (n_items,), or None
        Codes of the classes to look at; None is the one predicted.

    Returns
    -------
    images : ndarray of shape (n_items, height, width) or (n_items, height, width, 3)
        What the network sees, in [0, 1].
    maps : ndarray of shape (n_items, height, width)
    predicted : ndarray of shape (n_items,)
        Class codes.
    """
    batch = _prepared(network, items)
    device = next(network.parameters()).device
    batch = to_device(batch, device)
    modes = [(each, each.training) for each in network.modules()]
    module = ClassScores(network).eval()
    try:
        with torch.no_grad():
            scores = module(batch)
        predicted = scores.argmax(1)
        codes = predicted if target is None else _one_per_item(target, predicted)
        with torch.enable_grad():
            if callable(kind):
                maps = _summed(kind(module, batch, codes), batch)
            elif kind == "grad_cam":
                maps = _grad_cam(module, batch, codes, layer)
            else:
                maps = _summed(_input_gradient(module, batch, codes), batch)
    finally:
        for each, training in modes:
            each.training = training
    return _shown(batch), maps, predicted.cpu().numpy()


def _prepared(network, items):
    """Return the items as the network takes them, in one batch."""
    embedder = network.embedder
    if embedder.modality == "text":
        raise ValueError("items are texts: saliencies are shown of images alone.")
    source = Items(items, embedder.modality)
    source.check()
    if not len(source):
        raise ValueError("items is empty: give at least one image.")
    rows = [(0, np.arange(len(source)))]
    (batch,) = source.batches(embedder, rows)
    shape = tuple(getattr(batch, "shape", ()))
    if len(shape) != 4 or not torch.is_floating_point(batch):
        raise ValueError(
            f"items are prepared as {type(batch).__name__} of shape {shape}: "
            "saliencies need images as numbers, (n_items, channels, height, width)."
        )
    return batch


def _one_per_item(target, predicted):
    """Return codes of classes as a tensor like the predicted ones."""
    codes = torch.as_tensor(target, device=predicted.device)
    if codes.ndim and len(codes) != len(predicted):
        raise ValueError(
            f"target has {len(codes)} labels for {len(predicted)} items: give one, or "
            "one per item."
        )
    return codes.to(predicted.dtype).expand(len(predicted))


def _input_gradient(module, batch, codes):
    """Derivative of every item's score in its pixels, (n, channels, height, width)."""
    pixels = batch.detach().clone().requires_grad_()
    return torch.autograd.grad(_chosen(module(pixels), codes), pixels)[0]


def _chosen(scores, codes):
    return scores.gather(1, codes[:, None]).sum()


def _summed(maps, batch):
    """Return maps as an array without channels, checked."""
    maps = torch.as_tensor(maps).detach().float()
    if maps.ndim == 4:
        maps = maps.sum(1)
    size = (len(batch), *batch.shape[2:])
    if tuple(maps.shape) != size:
        raise ValueError(
            f"kind returned maps of shape {tuple(maps.shape)}: return one number per "
            f"pixel, {size}, or with an axis of channels after the first."
        )
    return maps.cpu().numpy()


def _grad_cam(module, batch, codes, layer):
    """Grad-CAM at a layer, enlarged to the size of the images."""
    backbone = module.network.backbone
    if layer is None:
        watched = [m for m in backbone.modules() if not list(m.children())]
    else:
        watched = [_submodule(backbone, layer)]
    outputs = []

    def keep(_, __, output):
        if not torch.is_tensor(output) or not output.requires_grad:
            return None
        outputs.append(output)
        return output.clone()  # what follows may change it in place

    # Without it a frozen backbone would record nothing.
    pixels = batch.detach().clone().requires_grad_()
    hooks = [each.register_forward_hook(keep) for each in watched]
    try:
        score = _chosen(module(pixels), codes)
    finally:
        for hook in hooks:
            hook.remove()
    activation = _last_maps(outputs) if layer is None else _only(outputs, layer)
    (slope,) = torch.autograd.grad(score, activation)
    activation, slope = (
        _as_maps(each.detach().float(), layer) for each in (activation, slope)
    )
    weights = slope.mean((2, 3), keepdim=True)
    maps = (weights * activation).sum(1, keepdim=True).relu()
    maps = interpolate(maps, batch.shape[2:], mode="bilinear", align_corners=False)
    return maps[:, 0].cpu().numpy()


def _submodule(backbone, layer):
    try:
        return backbone.get_submodule(layer)
    except AttributeError as error:
        names = [name for name, _ in backbone.named_children()]
        raise ValueError(
            f"layer={layer!r} is no module of the backbone. Its first ones are "
            f"{', '.join(map(repr, names))}; deeper ones are named as in 'layer4.1'."
        ) from error


def _last_maps(outputs):
    """Return the last output that is maps of more than one pixel."""
    spatial = [o.ndim == 4 and o.shape[2] * o.shape[3] > 1 for o in outputs]
    last = max(np.flatnonzero(spatial), default=-1)
    if last < 0 or any(o.ndim == 3 for o in outputs[last:]):
        raise ValueError(
            "layer=None: the network does not end with convolutional maps. Name the "
            "module to look at, such as layer='blocks.11.norm1' of a transformer."
        )
    return outputs[last]


def _only(outputs, layer):
    if not outputs:
        raise ValueError(
            f"layer={layer!r} returned no tensor that the scores depend on: name "
            "another module."
        )
    return outputs[-1]


def _as_maps(output, layer):
    """Return an output as maps (n, channels, height, width)."""
    if output.ndim == 4:
        _, first, second, last = output.shape
        # Some networks have the channels last.
        return output.movedim(3, 1) if first == second != last else output
    side = int(np.sqrt(output.shape[1])) if output.ndim == 3 else 0
    if side < 2:
        raise ValueError(
            f"layer={layer!r} returned {tuple(output.shape)}: Grad-CAM needs maps "
            "(n, channels, height, width), or tokens (n, tokens, channels)."
        )
    # Tokens of classes and registers come first.
    tokens = output[:, output.shape[1] - side * side :]
    return tokens.mT.unflatten(2, (side, side))


def _shown(batch):
    """Return a batch as images in [0, 1]."""
    images = batch.detach().float().cpu()
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    if images.min() < 0 or images.max() > 1:  # normalised
        low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
        images = (images - low) / (high - low).clamp_min(1e-12)
    images = images.permute(0, 2, 3, 1).numpy()
    return images[..., 0] if images.shape[-1] == 1 else images
