"""What a classifier's parameters say to the method, to training, and to nobody."""

from typing import TYPE_CHECKING, Any

import torch
from sklearn.base import clone
from torch.nn.modules.batchnorm import _BatchNorm

from skdebias._base import shared_parameters, trains_networks
from skdebias._sklearn import validate_params
from skdebias._warnings import warn_caller
from skdebias.finetune._checks import is_wrapped
from skdebias.finetune._network import Network
from skdebias.finetune._optimization import TrainConfig

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier

#: What training reads of the parameters, not of those of `estimator`.
SHARED = (
    "learning_rate", "momentum", "weight_decay", "batch_size", "max_iter", "tol",
    "n_iter_no_change", "early_stopping", "selection", "verbose",
)  # fmt: skip
# Parameters of `estimator` that also say something about a network.
_OF_ESTIMATOR = ("hidden_layer_sizes",)


def method_estimator(classifier: "BaseNetworkClassifier") -> Any:
    """Return the method's estimator, with the parameters of the classifier.

    Parameters
    ----------
    classifier : BaseNetworkClassifier

    Returns
    -------
    BaseDebiasedClassifier
        Not fitted; its parameters are valid.

    Raises
    ------
    TypeError
        If the method does not train whole networks.
    ValueError
        If a parameter of the estimator has no effect on a network.
    """
    estimator = classifier.estimator
    if not trains_networks(estimator):
        raise TypeError(
            f"estimator={estimator!r} does not train whole networks: choose an "
            "estimator of skdebias such as GERNEClassifier. AFRClassifier and "
            "DFRClassifier retrain last layers; fit them on "
            "FineTuneClassifier.embed(items)."
        )
    _refuse_ineffective(estimator, classifier)
    values = {name: getattr(classifier, name) for name in SHARED}
    configured = clone(estimator).set_params(**values)
    validate_params(configured)
    return configured


def _refuse_ineffective(estimator: Any, classifier: "BaseNetworkClassifier") -> None:
    """Refuse parameters that mean something for heads on embeddings only."""
    defaults = type(estimator).__init__.__kwdefaults__
    of_classifier = classifier.get_params(deep=False)
    for name in shared_parameters():
        value = getattr(estimator, name)
        if name in _OF_ESTIMATOR or value == defaults[name]:
            continue
        here = {"solver": "optimizer"}.get(name, name)
        remedy = f"give {here} to FineTuneClassifier itself"
        if here not in of_classifier:
            remedy = f"leave it at {defaults[name]!r}"
        raise ValueError(
            f"estimator__{name}={value!r} has no effect on a network: {remedy}."
        )


def train_config(classifier: "BaseNetworkClassifier") -> TrainConfig:
    """Return how the parameters say that networks are optimised.

    Parameters
    ----------
    classifier : BaseNetworkClassifier

    Returns
    -------
    TrainConfig
    """
    starts_trained = isinstance(classifier.backbone, str) and (
        classifier.pretrained or classifier.weights is not None
    )
    frozen_statistics = {"auto": starts_trained, "train": False, "frozen": True}
    return TrainConfig(
        classifier.optimizer,
        classifier.learning_rate,
        classifier.momentum,
        float(classifier.weight_decay),
        classifier.schedule,
        classifier.warmup,
        classifier.clip_norm,
        classifier.batch_size,
        classifier.accumulate,
        classifier.max_iter,
        frozen_statistics[classifier.batch_norm],
        classifier.augment,
        classifier.num_workers,
        classifier.checkpoint_every,
    )


def rows_per_pass(classifier: "BaseNetworkClassifier", accelerator: Any) -> int:
    """Return the rows of one forward pass of one process.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    accelerator : accelerate.Accelerator

    Returns
    -------
    int
    """
    passes = classifier.accumulate * accelerator.num_processes
    return max(1, -(-classifier.batch_size // passes))


def warn_of_ineffective(
    classifier: "BaseNetworkClassifier",
    network: Network,
    hidden_layer_sizes: list[int],
    *,
    takes_saliencies: bool,
) -> None:
    """Warn of parameters that say nothing about this network and method.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
    network : Network
    hidden_layer_sizes : list of int
        Of the head.
    takes_saliencies : bool
        Whether the method does.
    """
    clf = classifier
    modules = network.backbone.modules()
    normalised = any(isinstance(module, _BatchNorm) for module in modules)
    for name, ineffective, reason in (
        ("batch_norm", clf.batch_norm != "auto" and not normalised,
         "the backbone has no batch normalisation"),
        ("checkpoint_every", clf.checkpoint_every and clf.checkpoint_dir is None,
         "there is no checkpoint_dir"),
        ("head_init", clf.head_init == "zero" and hidden_layer_sizes,
         "a head with hidden layers cannot learn from zero, and starts at random"),
        ("saliency_layer", clf.saliency_layer != "input" and not takes_saliencies,
         "the method takes no saliencies"),
        ("pretrained", not clf.pretrained and not isinstance(clf.backbone, str),
         "a module is trained from the weights that it has"),
    ):  # fmt: skip
        if ineffective:
            value = getattr(clf, name)
            warn_caller(f"{name}={value!r} has no effect: {reason}.")
    if isinstance(clf.backbone, torch.nn.Module) and is_wrapped(clf.backbone):
        kind = type(clf.backbone).__name__
        warn_caller(
            f"backbone is a {kind}: the module within it is trained, as it was "
            "before it was compiled or replicated. Accelerate uses several devices."
        )
