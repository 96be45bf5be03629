"""FineTuneClassifier: a whole network, trained by any method of the package."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn.modules.batchnorm import _BatchNorm

from skdebias._attributes import encode_attributes, on_host
from skdebias._base import BaseDebiasedClassifier, shared_parameters
from skdebias._context import standard_context
from skdebias._engine._loss import n_logits
from skdebias._engine._selection import Stopping
from skdebias._engine._threads import one_thread
from skdebias._fit import training_attributes
from skdebias._head import LogitClassifierMixin
from skdebias._prepare import Encoded, prepare, set_fitted, warn_of_attributes
from skdebias._rows import refuse_masked
from skdebias._serialize import write_file
from skdebias._sklearn import Interval, StrOptions, _fit_context, through_pipelines
from skdebias._validation import (
    TrainingData,
    about,
    check_encodable,
    check_same_kind,
    encode_classes,
    encode_validation_set,
    has_validation_set,
    refuse_booleans,
)
from skdebias._warnings import warn_caller
from skdebias.finetune._backbone import backbone_settings, describe_backbone
from skdebias.finetune._checkpoint import to_host
from skdebias.finetune._checks import (
    about_items,
    check_parameters_of,
    copied_module,
    is_wrapped,
    plain_module,
)
from skdebias.finetune._extraction import (
    EmbeddingExtractor,
    SeededGenerator,
    auto_workers,
    describe_transform,
    is_out_of_memory,
    quiet_files,
    resolve_precision,
    saves_folders,
    to_device,
)
from skdebias.finetune._files import load_network, save_network
from skdebias.finetune._freezing import freeze_parameters
from skdebias.finetune._items import Items
from skdebias.finetune._models import NetworkFactory
from skdebias.finetune._network import ClassLogits, Network
from skdebias.finetune._networks import check_point
from skdebias.finetune._numbers import number_type, plain_array, refuse_loaders
from skdebias.finetune._run_key import digest
from skdebias.finetune._runs import Runs, resumed
from skdebias.finetune._training import (
    NetworkTraining,
    NetworkValidationScorer,
    TrainConfig,
    agree_on_weights,
    agreed,
    make_accelerator,
)
from skdebias.methods import Method
from skdebias.methods._head import initial_state

# What training reads of the parameters, not of those of `estimator`.
_SHARED = (
    "learning_rate", "momentum", "weight_decay", "batch_size", "max_iter", "tol",
    "n_iter_no_change", "early_stopping", "selection", "verbose",
)  # fmt: skip
# Parameters of `estimator` that also say something about a network.
_OF_ESTIMATOR = ("hidden_layer_sizes",)


class FineTuneClassifier(LogitClassifierMixin, MetaEstimatorMixin, BaseEstimator):
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
    selection : {"auto", "worst_group", "group_balanced", "worst_class", "accuracy", \
"last"}, default="auto"
        Score on the validation set given to `fit` that selects the epoch. "auto" is
        worst-group accuracy with `attributes_val`, worst-class accuracy without.
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
    }

    _parameter_constraints: dict = {
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
        **{
            name: BaseDebiasedClassifier._parameter_constraints[name]
            for name in _SHARED
        },
    }

    def __init__(
        self,
        estimator,
        backbone="timm:resnet18",
        *,
        pretrained=True,
        weights=None,
        layer=None,
        pooling="default",
        model_kwargs=None,
        preprocess=None,
        modality="auto",
        freeze=None,
        batch_norm="auto",
        dropout=0.0,
        head_init="auto",
        optimizer="sgd",
        learning_rate=1e-3,
        momentum=0.9,
        weight_decay=1e-2,
        schedule="constant",
        warmup=0.0,
        clip_norm=None,
        batch_size=128,
        accumulate=1,
        max_iter=10,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        selection="auto",
        saliency_layer="input",
        augment=None,
        precision="auto",
        device="auto",
        num_workers=0,
        memory=1024,
        checkpoint_dir=None,
        checkpoint_every=None,
        random_state=None,
        verbose=0,
    ):
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

    def _validate_params(self):
        super()._validate_params()
        refuse_booleans(self)

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        items,
        y,
        attributes=None,
        *,
        X_val=None,
        y_val=None,
        attributes_val=None,
    ):
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
        X_val, y_val, attributes_val : array-like, default=None
            Validation items that select the epoch, and nothing else; see `selection`.

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
            return self._fit(items, y, attributes, X_val, y_val, attributes_val)

    def _fit(self, items, y, attributes, X_val, y_val, attributes_val):
        inner = self._inner()
        settings = backbone_settings(self.get_params(deep=False))
        items = self._validate(items, settings["modality"], self.backbone)
        if y is None:
            raise ValueError(
                "fit requires y to be passed, but the target y is None: pass one label "
                "per item."
            )
        refuse_masked(y, "y")
        y = column_or_1d(on_host(y), warn=True)
        check_classification_targets(y)
        source = Items(items, settings["modality"])
        if len(source) != len(y):
            raise ValueError(
                f"items has {len(source)} entries and y has {len(y)}: pass one label "
                "per item."
            )
        runs = None if self.checkpoint_dir is None else Runs(self.checkpoint_dir)
        classes, y_codes = encode_classes(y, type(self).__name__, "items")
        if attributes is not None:
            check_encodable(attributes, len(y))
        X_val = through_pipelines(X_val)
        codes = getattr(items, "dtype", None) == np.int64
        validation = self._encode_validation(
            X_val, y_val, attributes_val, classes, settings["modality"], codes
        )
        if attributes is not None and attributes_val is not None:
            check_same_kind(attributes, attributes_val)
        source.check()
        accelerator = self._accelerator()
        if self.precision == "float16" and accelerator.device.type == "cpu":
            warn_caller(
                "precision='float16' has no effect on the CPU, which computes in "
                "float32: choose 'bfloat16' for less memory."
            )
        seed = agreed(
            check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        )
        members = [self._initial_network(settings)]
        recipe = self._recipe()
        run = None
        if runs is not None:
            run = self._describe_run(
                runs, members[0], recipe, inner, source, validation, accelerator
            )
        with contextlib.ExitStack() as claimed:
            checkpoints = None
            if run is not None and self.random_state is None:
                request = self._describe_request(run, inner, y_codes, attributes)
                seed, checkpoints = claimed.enter_context(
                    runs.unseeded(digest(request), seed, accelerator.is_main_process)
                )
            data = TrainingData(
                items, y, attributes, X_val, y_val, attributes_val, seed,
                NetworkFactory(self),
            )  # fmt: skip
            encoded = Encoded(classes, y_codes, validation)
            with one_thread(accelerator.device):
                prepared = prepare(inner, data, encoded)
            warn_of_attributes(inner, prepared)
            method = prepared.method
            self._check_heads(method)
            if run is not None and checkpoints is None:
                run |= {"seed": seed, "groups": prepared.groups.ids, "method": method}
                checkpoints = runs.find(digest(run), recipe)

            def start(found):
                training, self._input_shapes = self._start_training(
                    members.pop() if members else self._initial_network(settings),
                    inner, prepared, recipe, source, accelerator, checkpoints, found,
                )  # fmt: skip
                return training

            training = resumed(start, checkpoints, recipe.n_steps(len(y)))
            fitted = training.run(type(inner).__name__, bool(self.verbose))
        for stale in [name for name in vars(self) if name.endswith("_network_")]:
            delattr(self, stale)
        for head, network in zip(method.heads, training.networks(), strict=True):
            setattr(self, f"{head.prefix}network_", network)
        self._set_fitted(inner, prepared, fitted)
        return self

    def _inner(self):
        """Return the method's estimator, with the parameters of this one."""
        own = self.estimator
        if not isinstance(own, BaseDebiasedClassifier) or not own._trains_networks:
            raise TypeError(
                f"estimator={own!r} does not train whole networks: choose an estimator "
                "of skdebias such as GERNEClassifier. AFRClassifier and DFRClassifier "
                "retrain last layers; fit them on FineTuneClassifier.embed(items)."
            )
        defaults = type(own).__init__.__kwdefaults__
        for name in shared_parameters():
            value = getattr(own, name)
            if name in _OF_ESTIMATOR or value == defaults[name]:
                continue
            here = {"solver": "optimizer"}.get(name, name)
            remedy = f"give {here} to FineTuneClassifier itself"
            if here not in self._get_param_names():
                remedy = f"leave it at {defaults[name]!r}"
            raise ValueError(
                f"estimator__{name}={value!r} has no effect on a network: {remedy}."
            )
        given = {name: getattr(self, name) for name in _SHARED}
        inner = clone(own).set_params(**given)
        inner._validate_params()
        return inner

    def _validate(self, items, modality, network=None, *, codes=None, reset=True):
        refuse_loaders(items)
        if modality != "tensor":
            # Their readers look at them; what can be read once only is kept.
            once = not hasattr(items, "__len__") and isinstance(items, Iterable)
            return list(items) if once and not isinstance(items, os.PathLike) else items
        items = plain_array(items)
        dtype = number_type(items, network, codes)
        return validate_data(self, items, allow_nd=True, dtype=dtype, reset=reset)

    def _encode_validation(
        self, X_val, y_val, attributes_val, classes, modality, codes
    ):
        if not has_validation_set(X_val, y_val, attributes_val):
            return None
        with about("X_val"):
            checked = self._validate(
                X_val, modality, self.backbone, codes=codes, reset=False
            )
        judged = Items(checked, modality, "X_val")
        judged.check()
        return encode_validation_set(
            judged, y_val, attributes_val, classes, self.selection
        )

    def _accelerator(self):
        precision = self.precision
        if precision == "auto":
            on_cuda = self.device in ("auto", "cuda") and torch.cuda.is_available()
            device = torch.device("cuda" if on_cuda else "cpu")
            name = str(resolve_precision("auto", device))
            precision = name.removeprefix("torch.")
        made = make_accelerator(self.device, precision)
        if precision == "float16" and made.device.type == "cpu":
            warn_caller(
                "precision='float16' has no effect on the CPU, which computes in "
                "float32: choose 'bfloat16' or 'float32'."
            )
        return made

    def _initial_network(self, settings):
        backbone = self.backbone
        if not isinstance(backbone, str):
            backbone = copied_module(plain_module(backbone))
            check_parameters_of(backbone)
            # One that was made at random may be another in each process.
            agree_on_weights(backbone)
        origin = getattr(self, "_origin", None)
        try:
            network = Network(backbone, settings)
        except (OSError, ValueError) as error:
            if origin is None or not origin.is_of(self.backbone, settings):
                raise
            network = self._from_origin(origin, error)
        check_parameters_of(network.backbone)
        return network

    def _from_origin(self, origin, error):
        """Return a network that starts from the weights of the file it came from."""
        warnings.warn(
            f"backbone={self.backbone!r}, weights={self.weights!r}: what training "
            f"started from when this classifier was saved is not there ({error}). "
            "Training starts from the backbone in the file, which is trained already.",
            UserWarning,
            stacklevel=4,
        )
        network = copy.deepcopy(origin)
        network.head = torch.nn.Sequential()
        return network

    def __sklearn_clone__(self):
        plain = copy.copy(self)
        if isinstance(self.backbone, torch.nn.Module):
            plain.backbone = None
        cloned = BaseEstimator.__sklearn_clone__(plain)
        if isinstance(self.backbone, torch.nn.Module):
            cloned.backbone = copied_module(self.backbone)
        # Of one that was loaded, what it starts from may be nowhere else.
        if hasattr(self, "_origin"):
            cloned._origin = self._origin
        return cloned

    def _finish_networks(self, members, inner, prepared, source):
        """Give the networks their heads; return the shapes of what they take."""
        first, method, seed = members[0], prepared.method, prepared.data.seed
        batch = next(source.batches(first.embedder, [(0, np.arange(1))]))
        first.eval()
        with SeededGenerator(seed), about_items(batch):
            embedding = first.embed(batch)
        n_features = embedding.shape[1]
        hidden = [int(size) for size in inner.hidden_layer_sizes]
        # A method without a penalty takes no saliencies anywhere.
        has_point = type(method).penalty.__func__ is not Method.penalty.__func__
        for number, member in enumerate(members):
            freeze_parameters(member, self.freeze)
            alone = not any(p.requires_grad for p in member.backbone.parameters())
            member.add_head(
                n_features,
                hidden,
                n_logits(len(prepared.classes)),
                self.dropout,
                seed,
                initial_state(method.heads, number)[0],
                from_zero=self._starts_at_zero(method, number, alone=alone),
            )
            if has_point:
                check_point(member, self.saliency_layer, batch)
        if not (alone or embedding.requires_grad):
            warn_caller(
                "The backbone returns embeddings that its weights get no gradient "
                "from, so that the head alone is trained: leave out detach() and "
                "torch.no_grad() in its forward, or give freeze='backbone'."
            )
        self._warn_of_what_is_ignored(first, hidden, has_point)
        return _shapes(batch, first.embedder.modality)

    def _starts_at_zero(self, method, number, *, alone):
        """Whether a linear head does, `alone` being that nothing else is trained."""
        _, from_zero = initial_state(method.heads, number)
        if self.head_init == "zero" and not from_zero:
            raise ValueError(
                f"head_init='zero' would keep the {method.n_heads} heads of "
                f"{type(method).__name__} equal: choose 'auto' or 'random'."
            )
        return {"auto": alone and from_zero, "zero": True, "random": False}[
            self.head_init
        ]

    @staticmethod
    def _check_heads(method):
        """Refuse what a network cannot be given."""
        if any(head.anchor is not None for head in method.heads):
            raise ValueError(
                f"{type(method).__name__} pulls its head to an anchor, which whole "
                "networks have not: fit it on FineTuneClassifier.embed(items)."
            )

    def _warn_of_what_is_ignored(self, network, hidden, has_point):
        """Say which parameters say nothing about this network and method."""
        modules = network.backbone.modules()
        normalised = any(isinstance(part, _BatchNorm) for part in modules)
        for name, ignored, reason in (
            ("batch_norm", self.batch_norm != "auto" and not normalised,
             "the backbone has no batch normalisation"),
            ("checkpoint_every", self.checkpoint_every and self.checkpoint_dir is None,
             "there is no checkpoint_dir"),
            ("head_init", self.head_init == "zero" and hidden,
             "a head with hidden layers cannot learn from zero, and starts at random"),
            ("saliency_layer", self.saliency_layer != "input" and not has_point,
             "the method takes no saliencies"),
            ("pretrained", not self.pretrained and not isinstance(self.backbone, str),
             "a module is trained from the weights that it has"),
        ):  # fmt: skip
            if ignored:
                value = getattr(self, name)
                warn_caller(f"{name}={value!r} has no effect: {reason}.")
        if isinstance(self.backbone, torch.nn.Module) and is_wrapped(self.backbone):
            kind = type(self.backbone).__name__
            warn_caller(
                f"backbone is a {kind}: the module within it is trained, as it was "
                "before it was compiled or replicated. Accelerate uses several devices."
            )

    def _pass_rows(self, accelerator):
        """Rows of one forward pass of one process."""
        passes = self.accumulate * accelerator.num_processes
        return max(1, -(-self.batch_size // passes))

    def _recipe(self):
        trained = isinstance(self.backbone, str) and (
            self.pretrained or self.weights is not None
        )
        frozen = {"auto": trained, "train": False, "frozen": True}[self.batch_norm]
        return TrainConfig(
            self.optimizer,
            self.learning_rate,
            self.momentum,
            float(self.weight_decay),
            self.schedule,
            self.warmup,
            self.clip_norm,
            self.batch_size,
            self.accumulate,
            self.max_iter,
            frozen,
            self.augment,
            self.num_workers,
            self.checkpoint_every,
        )

    def _start_training(
        self, first, inner, prepared, recipe, source, accelerator, checkpoints, found,
    ):  # fmt: skip
        """Return the training before its first step or after the checkpoint `found`."""
        embedder, method, validation = (
            first.embedder,
            prepared.method,
            prepared.validation,
        )
        header = {} if found is None else found[1]
        last_step = recipe.n_steps(len(prepared.y_codes))
        if not header.get("stopped") and header.get("step") != last_step:
            # Else no item is read again.
            for part in (source, *([] if validation is None else [validation["X"]])):
                part.load(embedder, self.memory << 20, auto_workers(len(part)))
        settings = backbone_settings(self.get_params(deep=False))
        others = [self._initial_network(settings) for _ in range(method.n_heads - 1)]
        members = [first, *others]
        shapes = self._finish_networks(members, inner, prepared, source)
        scorer = None
        if validation is not None:
            scorer = NetworkValidationScorer(
                validation["y"],
                validation["groups"],
                validation["selection"],
                validation["X"],
                embedder,
                accelerator,
                2 * self._pass_rows(accelerator),
                self.learning_rate,
            )
        training = NetworkTraining(
            members,
            source,
            prepared.y_codes.astype(np.int64),
            prepared.groups,
            method,
            prepared.data.seed,
            recipe,
            accelerator,
            stopping=Stopping(self.early_stopping, self.tol, self.n_iter_no_change),
            validation=scorer,
            checkpoints=checkpoints,
            found=found,
            point=self.saliency_layer,
            describe=_describe_method(method),
        )
        return training, shapes

    def _describe_run(
        self, runs, network, recipe, inner, source, validation, accelerator
    ):
        """Return what determines the result, but for seed, groups and method."""
        stopping = [self.tol, self.n_iter_no_change] if self.early_stopping else None
        described = {
            "backbone": describe_backbone(network.embedder),
            "freeze": self.freeze,
            "head": [self.dropout, self.head_init, list(inner.hidden_layer_sizes)],
            "saliency_layer": self.saliency_layer,
            "recipe": recipe.described(),
            "stopping": stopping,
            "augment": None
            if self.augment is None
            else describe_transform(self.augment, allow_random=True, name="augment"),
            "compute": [accelerator.device.type, accelerator.mixed_precision],
            "items": source.digest(runs.memo),
        }
        if validation is not None:
            described["validation"] = [
                validation["X"].digest(runs.memo),
                validation["y"],
                validation["groups"].ids,
                validation["selection"],
            ]
        return described

    def _describe_request(self, run, inner, y_codes, attributes):
        """Return what determines the result, but for the seed, before it is trained."""
        shared = {*shared_parameters(), *_SHARED, "random_state"}
        own = inner.get_params(deep=False).items()
        return run | {
            "max_iter": self.max_iter,
            "estimator": type(inner),
            "parameters": {key: value for key, value in own if key not in shared},
            "y": y_codes,
            "attributes": None
            if attributes is None
            else encode_attributes(attributes)[0],
        }

    def _set_fitted(self, inner, prepared, fitted):
        training = training_attributes(prepared, fitted)
        set_fitted(inner, prepared, training)
        prepared.method.check_result(fitted)
        self.estimator_ = inner
        for name in (
            "classes_",
            "groups_",
            "group_counts_",
            "attribute_values_",
            "n_iter_",
            "best_epoch_",
            "history_",
            "loss_curve_",
        ):
            setattr(self, name, getattr(inner, name))

    def _outputs(self, items, function):
        """Apply a function of network and batch to all items, in blocks."""
        check_is_fitted(self)
        modality = self.network_.embedder.modality
        codes = self._input_shapes.get("items", [None])[-1] == "int64"
        network = self.network_.backbone
        with standard_context():
            items = self._validate(items, modality, network, codes=codes, reset=False)
            return self._blocks(self.network_, Items(items, modality), function)

    def _blocks(self, network, source, function):
        accelerator = self._accelerator()
        network = network.to(accelerator.device).eval()
        rows = 2 * self._pass_rows(accelerator)
        source.check()
        index = np.arange(len(source))
        parts = ((0, index[i : i + rows]) for i in range(0, len(index), rows))
        found = []
        threads = one_thread(accelerator.device)
        with threads, torch.inference_mode(), accelerator.autocast():
            for batch in source.batches(network.embedder, parts, self.num_workers):
                try:
                    with about_items(batch):
                        out = function(network, to_device(batch, accelerator.device))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    raise MemoryError(
                        f"a pass of {rows} items does not fit the memory of "
                        f"{accelerator.device}: lower batch_size (now "
                        f"{self.batch_size}) by set_params."
                    ) from error
                found.append(out.float().cpu().numpy())
        return np.concatenate(found)

    def decision_function(self, items):
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

    def embed(self, items):
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

    def _embed_untrained(self, items):
        """Embed items with the backbone as it is before training."""
        settings = backbone_settings(self.get_params(deep=False))
        network = self._initial_network(settings)
        source = Items(items, settings["modality"])
        return self._blocks(network, source, lambda net, batch: net.embed(batch))

    @standard_context()
    def to_extractor(self, path=None, **parameters):
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
        names = ("layer", "pooling", "model_kwargs", "preprocess", "modality")
        own = {name: getattr(self, name) for name in names}
        if self.modality == "tensor":
            raise ValueError(
                "modality='tensor': an extractor takes images or texts. Use "
                "embed(items)."
            )
        if not isinstance(self.backbone, str):
            module = clone(self.network_.backbone, safe=False)
            return EmbeddingExtractor(module, **own, **parameters)
        if path is None:
            raise ValueError(
                f"path=None: the weights of {self.backbone!r} have to be written "
                "somewhere; give the name of a safetensors file."
            )
        path = Path(path)
        backbone = self.network_.backbone
        if self.network_.has_folder:
            with quiet_files():
                backbone.save(str(path))
        elif saves_folders(self.backbone):
            raise ValueError(
                f"backbone={self.backbone!r}, pretrained=False: a text network trained "
                "from scratch has no folder that an extractor could read. Use "
                "embed(items)."
            )
        else:
            write_file(
                path, to_host(backbone.state_dict()), {"backbone": self.backbone}
            )
        return EmbeddingExtractor(
            self.backbone, pretrained=False, weights=path, **own, **parameters
        )

    def to_torch(self):
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
        return ClassLogits(self.network_, list(self._input_shapes)).eval()

    def _example(self):
        """Return a batch of zeros, and how many of its axes have no fixed size."""
        device = next(self.network_.parameters()).device
        texts = self.network_.embedder.modality == "text"
        example = {}
        for name, (*shape, dtype) in self._input_shapes.items():
            kind = getattr(torch, dtype)
            size = (2, 8) if texts else (2, *shape)
            # Of a mask, ones: a text without words has no mean.
            example[name] = torch.ones(size, dtype=kind, device=device)
        return example, 2 if texts else 1

    def save(self, path):
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
    def load(cls, path, *, backbone=None, preprocess=None, augment=None):
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
        given = {"backbone": backbone, "preprocess": preprocess, "augment": augment}
        return load_network(cls, Path(path), given)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        numbers = self.modality == "tensor"
        tags.input_tags.two_d_array = numbers
        tags.input_tags.three_d_array = True
        tags.input_tags.string = not numbers
        tags.no_validation = not numbers
        return tags


def _describe_method(method):
    """What a message on a diverged fit says of the method."""
    beta = getattr(method, "beta", None)
    return "" if beta is None else f" with beta={beta:g} and c={method.c:g}"


def _shapes(batch, modality):
    """Sizes of one item and type of each tensor of a batch, by name."""
    if not isinstance(batch, dict):
        batch = {"images" if modality == "image" else "items": batch}
    return {
        name: [*tensor.shape[1:], str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in batch.items()
        if isinstance(tensor, torch.Tensor)
    }
