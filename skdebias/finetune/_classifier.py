"""FineTuneClassifier: a whole network, trained by any method of the package."""

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from skdebias._base import BaseDebiasedClassifier
from skdebias._context import standard_context
from skdebias._fit import training_attributes
from skdebias._prepare import class_weights, set_fitted
from skdebias._sklearn import Interval, StrOptions, _fit_context
from skdebias._validation import refuse_booleans
from skdebias.finetune._backbone import backbone_settings
from skdebias.finetune._base import BaseNetworkClassifier, Pathlike
from skdebias.finetune._building import initial_network
from skdebias.finetune._fitting import NetworkFit, TrainedNetworks
from skdebias.finetune._input import check_fit_input
from skdebias.finetune._items import Items
from skdebias.finetune._models import NetworkFactory
from skdebias.finetune._parameters import SHARED, method_estimator
from skdebias.finetune._prediction import apply_in_blocks

# Fitted attributes of the method's estimator that are the network's too.
_OF_ESTIMATOR = (
    "classes_", "groups_", "group_counts_", "attribute_values_", "n_iter_",
    "best_epoch_", "history_", "loss_curve_",
)  # fmt: skip


class FineTuneClassifier(BaseNetworkClassifier):
    """A whole network, fine-tuned by any method of the package.

    The network is a backbone and a linear head (or one with hidden layers, as
    `estimator` says) on its embeddings. It is trained end to end with the sampling
    plan, the weighting rule and the penalty of `estimator`, which are those of its
    heads on frozen embeddings. Two-stage methods train their first model as such a
    network too.

    Parameters
    ----------
    estimator : estimator of skdebias
        The method, with its own parameters. Of the parameters that all heads share only
        `hidden_layer_sizes` counts; the others are those below, and it is an error to
        set them there. :class:`~skdebias.AFRClassifier` and
        :class:`~skdebias.DFRClassifier` retrain last layers by definition and are
        refused: use them on the result of :meth:`embed`.
    backbone : str or torch.nn.Module, default="timm:resnet18"
        As for :class:`~embeddings_cache.EmbeddingExtractor`. A module is copied; of one
        that is compiled or replicated, the module within is trained.
    pretrained : bool, default=True
        Published weights. False are seeded random ones, for training from scratch.
    weights : path-like, default=None
        Local safetensors file (a folder for sentence encoders); wins over `pretrained`.
    layer : int or str, default=None
        Output point within the backbone.
    pooling : {"default", "cls", "mean"}, default="default"
        How positions become one vector.
    model_kwargs : dict, default=None
        Passed to the library's constructor.
    preprocess : dict or callable, default=None
        Overrides of the model's reference preprocessing, or for a module the whole.
        Not with `modality="tensor"`.
    modality : {"auto", "image", "text", "tensor"}, default="auto"
        What items are. "tensor", for a module only, takes an array of numbers whose
        first axis counts items, and hands rows of it to the module in float32, or where
        the module has embeddings, integers as they are. Arrays of uint8, and integers
        of more axes than two, are refused: they may be pixels, and have to be scaled.
    freeze : None, "backbone" or list of str, default=None
        Parts that are not trained: names of submodules or parameters of the backbone,
        in which ``*`` stands for anything, such as ``["conv1", "bn1", "layer[12]"]``.
        A module none of whose parameters is trained, by this or by its own
        `requires_grad`, works as in evaluation, and so do those within it: without
        dropout, and normalising by running statistics that stay as they are.
    batch_norm : {"auto", "train", "frozen"}, default="auto"
        Whether batch normalisation keeps its running statistics and normalises by them
        in training. "auto" keeps them where a named backbone starts from trained
        weights, which is what the benchmark that GERNE's paper follows does
        (SubpopBench); weights and biases of the normalisation are trained either way.
    dropout : float, default=0.0
        Before each layer of the head.
    head_init : {"auto", "zero", "random"}, default="auto"
        Starting weights of a linear head: zero, as heads alone have them, or those of
        `torch.nn.Linear`. "auto" is zero where nothing but the head is trained, and
        random otherwise: from a head of zeros, a backbone that is trained from scratch
        learns worse features. Hidden layers always start at random.
    optimizer : {"sgd", "adamw"}, default="sgd"
        SGD with momentum, which the papers use for images, or AdamW, for texts.
    learning_rate : float, default=1e-3
        Step size after the warm-up.
    momentum : float, default=0.9
        Momentum of SGD, or the first-moment decay of AdamW.
    weight_decay : float, default=1e-2
        L2 penalty on weights, not on biases and the scales of normalisations;
        decoupled for AdamW.
    schedule : {"constant", "linear", "cosine"}, default="constant"
        How the step size falls after the warm-up, to zero at the last step.
    warmup : float, default=0.0
        Share of all steps, in [0, 1), in which it rises linearly.
    clip_norm : float, default=None
        Largest norm of the gradient of a network; 1.0 is usual for transformers.
    batch_size : int, default=128
        Rows of a step, over all batches of the method and all processes. Every group of
        a balanced batch gets at least one row, even if that takes more.
    accumulate : int, default=1
        Passes that a step is made in, each on a part of its rows, for less memory. Of
        each batch of the method and each group in it, every pass gets its share.
        Gradients and rules are those of one pass, but for batch normalisation in
        training and the saliencies of ULE, which are normalised within a pass.
    max_iter : int, default=10
        Epochs of ``ceil(n_samples / batch_size)`` steps.
    tol : float, default=1e-4
        Least progress that counts for `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without progress after which `early_stopping` stops.
    early_stopping : bool, default=False
        Stop when the validation score, or the training loss if no validation set is
        given, has stopped improving.
    selection : {"auto", "worst_group", "worst_inferred_group", "group_balanced", \
"worst_class", "accuracy", "last"}, default="auto"
        Score on the validation set given to `fit` that selects the epoch. "auto" is
        worst-group accuracy with `attributes_val`; without, the last epoch counts (with
        `early_stopping`, that of the best worst class). "worst_inferred_group" needs no
        `attributes_val`: what infers the attributes of the training items infers those
        of the validation items.
        Ties go to the epoch of the best mean of the group accuracies, then of the
        least validation loss, then to the later one.
    saliency_layer : str, default="input"
        Where :class:`~skdebias.ULEClassifier` takes saliencies: "input" (for texts the
        embedded words), "embedding", or the name of a submodule of the backbone, whose
        output it is.
    augment : callable, default=None
        From one prepared item to another one of the same shape, in training only. Of
        the random numbers of torch, numpy and Python each call has its own, the same in
        any repetition, and leaves those of the caller alone; it may write into the item
        that it gets, which is a copy. A generator that `augment`
        keeps itself is its own affair.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Compute type. "auto" is float32 on the CPU, and bfloat16 (or float16, where that
        is missing) by autocast on CUDA. The CPU computes in float32 for "float16".
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
        "auto" is what Accelerate finds: CUDA, else MPS, else the CPU. There a network
        has one core: on how many it trains must not change the result.
    num_workers : int, default=0
        Processes that read, prepare and augment items ahead, where they are not kept in
        memory. 0 are threads for images, as many as there are cores, and none where
        `augment` is given.
    memory : int, default=1024
        MiB that the prepared images of a data set may take. Those that fit are prepared
        once, in threads; others in every epoch.
    checkpoint_dir : path-like, default=None
        Where checkpoints are written, after each epoch, each whole or not at all. Every
        run has a folder of its own there, named by all that determines its result; a
        fit of the same parameters and data goes on from its last checkpoint, and one
        that was finished is not trained again. With a constant `schedule` and no
        `warmup`, one with a larger `max_iter` goes on from its end.
    checkpoint_every : int, default=None
        Also write one after every so many steps.
    random_state : int, RandomState instance or None, default=None
        Seed of the row draws, the head, dropout and augmentation. On the CPU the same
        seed gives the same network, also if it was killed and resumed. With None every
        fit has another seed; one that was killed is resumed with its own.
    verbose : int, default=0
        Above 0, a progress bar with the loss and the validation score.

    Attributes
    ----------
    network_ : torch.nn.Module
        From a prepared batch to logits (n_samples, n_logits); one logit for two
        classes, as in `decision_function`. Its ``backbone`` and ``head`` are modules.
    student_network_, biased_network_ : torch.nn.Module
        Of ULE and of LfF: the network that was trained beside it, at the same epoch.
        Files of :func:`skdebias.export.save` do not hold it.
    estimator_ : estimator of skdebias
        What the method learnt beside the network: groups, pseudo-attributes, `beta_`
        and the like.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    groups_ : ndarray of shape (n_groups, 2)
        Non-empty groups as indices into `classes_` and `attribute_values_`.
    group_counts_ : ndarray of shape (n_groups,)
        Training rows of each group.
    attribute_values_ : ndarray
        Values of the attributes, or pseudo-attributes, seen in `fit`.
    n_iter_ : int
        Epochs run.
    best_epoch_ : int
        Epoch whose weights were kept, from 1.
    loss_curve_ : list of float
        Mean training objective of every epoch.
    history_ : dict
        As for the heads: per epoch `loss`, and with a validation set
        `validation_score` and `validation_group_accuracy` of shape (n_epochs,
        n_groups), whose columns are the (label, attribute) pairs `validation_groups`.
    n_features_in_ : int
        With `modality="tensor"`, the length of the second axis of the items.

    See Also
    --------
    embeddings_cache.EmbeddingExtractor : Embeds with a frozen backbone instead.

    Notes
    -----
    Under ``accelerate launch`` every process makes the same call. A step has the same
    rows and the same gradient whatever the number of processes, but for batch
    normalisation in training and ULE's saliencies, which see the rows of a process.
    Checkpoints then need a file system that all processes share.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from skdebias import GERNEClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.finetune import FineTuneClassifier
    >>> X, y, attributes = make_spurious_classification(400, random_state=0)
    >>> clf = FineTuneClassifier(
    ...     GERNEClassifier(beta=0.5),
    ...     nn.Sequential(nn.Linear(X.shape[1], 16), nn.ReLU()),
    ...     modality="tensor",
    ...     learning_rate=0.05,
    ...     max_iter=3,
    ...     random_state=0,
    ... )
    >>> clf.fit(X, y, attributes).predict(X).shape
    (400,)
    """

    __metadata_request__fit = {
        "attributes": True,
        "X_val": True,
        "y_val": True,
        "attributes_val": True,
        "sample_weight_val": True,
        "X_unlabeled": True,
    }

    _parameter_constraints: dict[str, list[Any]] = {
        "pretrained": ["boolean"],
        "batch_norm": [StrOptions({"auto", "train", "frozen"})],
        "head_init": [StrOptions({"auto", "zero", "random"})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "optimizer": [StrOptions({"sgd", "adamw"})],
        "schedule": [StrOptions({"constant", "linear", "cosine"})],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "accumulate": [Interval(Integral, 1, None, closed="left")],
        "saliency_layer": [str],
        "augment": [callable, None],
        "precision": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "device": [StrOptions({"auto", "cpu", "cuda", "mps"})],
        "num_workers": [Interval(Integral, 0, None, closed="left")],
        "memory": [Interval(Integral, 0, None, closed="left")],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        # The name that scikit-learn gives them.
        **{
            name: BaseDebiasedClassifier._parameter_constraints[name] for name in SHARED
        },
    }

    def __init__(
        self,
        estimator: Any,
        backbone: str | torch.nn.Module = "timm:resnet18",
        *,
        pretrained: bool = True,
        weights: Pathlike | None = None,
        layer: int | str | None = None,
        pooling: str = "default",
        model_kwargs: dict[str, Any] | None = None,
        preprocess: dict[str, Any] | Callable[[Any], Any] | None = None,
        modality: str = "auto",
        freeze: Any = None,
        batch_norm: str = "auto",
        dropout: float = 0.0,
        head_init: str = "auto",
        optimizer: str = "sgd",
        learning_rate: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-2,
        schedule: str = "constant",
        warmup: float = 0.0,
        clip_norm: float | None = None,
        batch_size: int = 128,
        accumulate: int = 1,
        max_iter: int = 10,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        selection: str = "auto",
        saliency_layer: str = "input",
        augment: Callable[[Any], Any] | None = None,
        precision: str = "auto",
        device: str = "auto",
        num_workers: int = 0,
        memory: int = 1024,
        checkpoint_dir: Pathlike | None = None,
        checkpoint_every: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.backbone = backbone
        self.pretrained = pretrained
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.model_kwargs = model_kwargs
        self.preprocess = preprocess
        self.modality = modality
        self.freeze = freeze
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.head_init = head_init
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.clip_norm = clip_norm
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.selection = selection
        self.saliency_layer = saliency_layer
        self.augment = augment
        self.precision = precision
        self.device = device
        self.num_workers = num_workers
        self.memory = memory
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state
        self.verbose = verbose

    def _validate_params(self) -> None:
        super()._validate_params()
        refuse_booleans(self)

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        items: Any,
        y: Any,
        attributes: Any = None,
        *,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        attributes_val: Any = None,
        sample_weight_val: Any = None,
        X_unlabeled: Any = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        items : array-like or path-like
            Images or texts, as for :meth:`EmbeddingExtractor.transform
            <embeddings_cache.EmbeddingExtractor.transform>`: paths, PIL images, uint8
            arrays, texts, a column of a data set. Or numbers, with
            `modality="tensor"`.
        y : array-like of shape (n_samples,)
            Class labels, two or more classes.
        attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
            Spurious attributes; several columns are crossed.
        sample_weight : array-like of shape (n_samples,) or float, default=None
            As how many items each item counts, in the shares of classes and groups
            too; an item of weight 0 is left out. None is 1.
        X_val, y_val, attributes_val : array-like, default=None
            Validation items that select the epoch, and nothing else; see `selection`.
        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            As how many items each validation item counts in the scores.
        X_unlabeled : array-like or path-like, default=None
            Items without labels, for a method that learns from them, as for
            :meth:`DebiasedClassifier.fit <skdebias.DebiasedClassifier.fit>`.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        CheckpointError
            If `checkpoint_dir` cannot be written to.
        FloatingPointError
            If the training objective is no longer finite.
        MemoryError
            If a step does not fit the device.
        UnreadableItemError
            If items cannot be read.
        ValueError
            For malformed input.
        """
        with standard_context():
            trained = self._train(
                items=items,
                y=y,
                attributes=attributes,
                X_val=X_val,
                y_val=y_val,
                attributes_val=attributes_val,
                sample_weight=sample_weight,
                sample_weight_val=sample_weight_val,
                X_unlabeled=X_unlabeled,
            )
            self._set_trained(trained)
        return self

    def _train(self, **arguments: Any) -> TrainedNetworks:
        """Check the arguments of `fit`, and train."""
        estimator = method_estimator(self)
        settings = backbone_settings(self.get_params(deep=False))
        fit_input = check_fit_input(
            self,
            settings["modality"],
            **arguments,
            class_weights=partial(class_weights, estimator),
        )
        models = NetworkFactory(self, self._embed_untrained)
        return NetworkFit(
            self, estimator, settings, fit_input, models, self._origin
        ).run()

    def _set_trained(self, trained: TrainedNetworks) -> None:
        """Set fitted attributes, and drop networks of an earlier fit."""
        for stale in [name for name in vars(self) if name.endswith("_network_")]:
            delattr(self, stale)
        prepared = trained.prepared
        for head, network in zip(prepared.method.heads, trained.networks, strict=True):
            setattr(self, f"{head.prefix}network_", network)
        self.network_ = trained.networks[trained.result.result]
        self._input_shapes = trained.input_shapes
        attributes = training_attributes(prepared, trained.result)
        set_fitted(trained.estimator, prepared, attributes)
        prepared.method.check_result(trained.result)
        self.estimator_ = trained.estimator
        for name in _OF_ESTIMATOR:
            setattr(self, name, getattr(self.estimator_, name))

    def _embed_untrained(self, items: Any) -> NDArray[np.float32]:
        """Embed items with the backbone as it is before training."""
        settings = backbone_settings(self.get_params(deep=False))
        network = initial_network(self, settings, self._origin)
        source = Items(items, settings["modality"])
        return apply_in_blocks(self, network, source, lambda n, batch: n.embed(batch))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        numbers = self.modality == "tensor"
        tags.input_tags.two_d_array = numbers
        tags.input_tags.three_d_array = True
        tags.input_tags.string = not numbers
        tags.no_validation = not numbers
        return tags
