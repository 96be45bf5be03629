"""A classifier with a network: its parameters, and what the fitted network gives."""

import copy
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skdebias._context import standard_context
from skdebias._head import LogitClassifierMixin
from skdebias._serialize import write_file
from skdebias.finetune._checkpoint import to_host
from skdebias.finetune._checks import copied_module
from skdebias.finetune._extraction import (
    EmbeddingExtractor,
    quiet_files,
    saves_folders,
)
from skdebias.finetune._files import load_network, save_network
from skdebias.finetune._input import check_items
from skdebias.finetune._items import Items
from skdebias.finetune._network import ClassLogits, Network
from skdebias.finetune._prediction import apply_in_blocks

Pathlike = str | PathLike[str]


class BaseNetworkClassifier(LogitClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Classifier whose prediction is that of a network on items.

    A subclass has a constructor that sets the parameters, and a `fit` that sets the
    fitted attributes.
    """

    estimator: Any
    backbone: str | torch.nn.Module
    pretrained: bool
    weights: Pathlike | None
    layer: int | str | None
    pooling: str
    model_kwargs: dict[str, Any] | None
    preprocess: dict[str, Any] | Callable[[Any], Any] | None
    modality: str
    freeze: Any
    batch_norm: str
    dropout: float
    head_init: str
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup: float
    clip_norm: float | None
    batch_size: int
    accumulate: int
    max_iter: int
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    selection: str
    saliency_layer: str
    augment: Callable[[Any], Any] | None
    precision: str
    device: str
    num_workers: int
    memory: int
    checkpoint_dir: Pathlike | None
    checkpoint_every: int | None
    random_state: Any
    verbose: int

    network_: Network
    estimator_: Any
    classes_: NDArray[Any]
    # Sizes of one item and type, of each tensor that the network takes.
    _input_shapes: dict[str, list[Any]]
    # The network of the file that this was loaded from.
    _origin: Network | None = None

    def __sklearn_clone__(self) -> Self:
        plain: Any = copy.copy(self)
        if isinstance(self.backbone, torch.nn.Module):
            plain.backbone = None
        cloned = BaseEstimator.__sklearn_clone__(plain)
        if isinstance(self.backbone, torch.nn.Module):
            cloned.backbone = copied_module(self.backbone)
        # Of one that was loaded, what it starts from may be nowhere else.
        if self._origin is not None:
            cloned._origin = self._origin
        return cloned

    def decision_function(self, items: Any) -> NDArray[np.float32]:
        """Logits of the classes.

        Parameters
        ----------
        items : array-like or path-like
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes, the logit of `classes_[1]`.
        """
        scores = self._outputs(items, lambda network, batch: network(batch))
        return scores.ravel() if len(self.classes_) == 2 else scores

    def embed(self, items: Any) -> NDArray[np.float32]:
        """Embed items with the fine-tuned backbone.

        Parameters
        ----------
        items : array-like or path-like
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            What the head reads.

        See Also
        --------
        to_extractor : The backbone as a cached extractor.
        """
        return self._outputs(items, lambda network, batch: network.embed(batch))

    def _outputs(
        self, items: Any, function: Callable[[Network, Any], Tensor]
    ) -> NDArray[np.float32]:
        """Apply a function of network and batch to all items, in blocks."""
        check_is_fitted(self)
        network = self.network_
        modality = network.embedder.modality
        codes = self._input_shapes.get("items", [None])[-1] == "int64"
        with standard_context():
            items = check_items(
                self, items, modality, network.backbone, codes=codes, reset=False
            )
            return apply_in_blocks(self, network, Items(items, modality), function)

    @standard_context()
    def to_extractor(
        self, path: Pathlike | None = None, **parameters: Any
    ) -> EmbeddingExtractor:
        """Return the fine-tuned backbone as an extractor with a cache.

        Parameters
        ----------
        path : path-like, default=None
            Where to write the weights of a backbone that was given by name: a
            safetensors file, or for a sentence encoder a folder.
        **parameters : dict
            Other parameters of the extractor, such as `cache_dir`.

        Returns
        -------
        EmbeddingExtractor

        Raises
        ------
        ValueError
            If `path` is missing, if items are plain numbers, or if a text network
            was trained from scratch.
        """
        check_is_fitted(self)
        if self.modality == "tensor":
            raise ValueError(
                "modality='tensor': an extractor takes images or texts. Use "
                "embed(items)."
            )
        if len(self.network_.partners):
            raise ValueError(
                f"estimator={self.estimator!r}: the head reads the embeddings of "
                "several backbones, and an extractor has one. Use embed(items)."
            )
        names = ("layer", "pooling", "model_kwargs", "preprocess", "modality")
        request = {name: getattr(self, name) for name in names}
        if not isinstance(self.backbone, str):
            module = clone(self.network_.backbone, safe=False)
            return EmbeddingExtractor(module, **request, **parameters)
        if path is None:
            raise ValueError(
                f"path=None: the weights of {self.backbone!r} have to be written "
                "somewhere; give the name of a safetensors file."
            )
        weights = Path(path)
        _write_backbone(self.network_, self.backbone, weights)
        return EmbeddingExtractor(
            self.backbone, pretrained=False, weights=weights, **request, **parameters
        )

    def to_torch(self) -> ClassLogits:
        """Return the network as a module with one logit per class.

        Returns
        -------
        torch.nn.Module
            Takes a prepared batch: a tensor, or for texts the tensors of the tokenizer
            one after the other. The softmax of its output (n_samples, n_classes) is
            `predict_proba`; the first of two logits is 0.

        See Also
        --------
        skdebias.export.to_onnx : The same as an ONNX file.
        """
        check_is_fitted(self)
        return ClassLogits(self.network_, self._input_shapes).eval()

    def save(self, path: Pathlike) -> None:
        """Write the fitted classifier to a safetensors file.

        Parameters
        ----------
        path : path-like
            File to write. It appears complete or not at all.

        Raises
        ------
        TypeError
            If a parameter has no safe representation.

        See Also
        --------
        load : The way back.
        """
        check_is_fitted(self)
        save_network(self, Path(path))

    @classmethod
    def load(
        cls,
        path: Pathlike,
        *,
        backbone: torch.nn.Module | None = None,
        preprocess: Callable[[Any], Any] | None = None,
        augment: Callable[[Any], Any] | None = None,
    ) -> Self:
        """Read a classifier that :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
        backbone : torch.nn.Module, default=None
            The architecture, if it was no name. It is copied, and the copy gets the
            weights of the file; another fit starts from those of `backbone` itself.
        preprocess, augment : callable, default=None
            If they were functions: a file holds no code.

        Returns
        -------
        FineTuneClassifier

        Raises
        ------
        ValueError
            If the file is damaged, or of another architecture.
        """
        code = {"backbone": backbone, "preprocess": preprocess, "augment": augment}
        classifier, network = load_network(cls, Path(path), code)
        classifier.network_ = classifier._origin = network
        return classifier


def _write_backbone(network: Network, name: str, path: Path) -> None:
    """Write the weights of a backbone that was given by name, for an extractor."""
    backbone: Any = network.backbone
    if network.has_folder:
        with quiet_files():
            backbone.save(str(path))
    elif saves_folders(name):
        raise ValueError(
            f"backbone={name!r}, pretrained=False: a text network trained "
            "from scratch has no folder that an extractor could read. Use "
            "embed(items)."
        )
    else:
        write_file(path, to_host(backbone.state_dict()), {"backbone": name})
