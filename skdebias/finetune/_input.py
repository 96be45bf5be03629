"""What `fit` and the predictions of a network are given, checked."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skdebias._annotations import check_same_kind, refuse_names
from skdebias._attributes import on_host
from skdebias._debiased import check_unlabeled
from skdebias._first_stage import check_annotations
from skdebias._prepare import Encoded, blind_selection, encode_validation_rows
from skdebias._rows import refuse_masked
from skdebias._sklearn import through_pipelines
from skdebias._training_data import TrainingData, weighed
from skdebias._validation import (
    about,
    encode_classes,
    has_validation_set,
)
from skdebias.finetune._items import Items
from skdebias.finetune._numbers import number_type, plain_array, refuse_loaders

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier


@dataclass(frozen=True)
class FitInput:
    """The arguments of a fit, checked.

    Parameters
    ----------
    items : array-like
        As the first stage of a method gets them.
    source : Items
        The same, as networks read them.
    y : ndarray of shape (n_samples,)
    attributes, X_val, y_val, attributes_val : array-like or None
    sample_weight : ndarray of shape (n_samples,) or None
        Positive weights of the items.
    sample_weight_val : array-like or None
        Positive weights of the validation items.
    kept : ndarray of shape (n_given,), bool, or None
        Which of the items that `fit` was given these are.
    encoded : Encoded
        Labels and validation set, whose rows are Items.
    unlabeled : Items or None
        Items without labels.
    """

    items: Any
    source: Items
    y: NDArray[Any]
    attributes: Any
    X_val: Any
    y_val: Any
    attributes_val: Any
    sample_weight: NDArray[np.float64] | None
    sample_weight_val: Any
    kept: NDArray[np.bool_] | None
    encoded: Encoded
    unlabeled: Items | None = None

    def training_data(self, seed: int, models: Any) -> TrainingData:
        """Return what the method's estimator is prepared with.

        Parameters
        ----------
        seed : int
        models : NetworkFactory
            Where its first stage gets its models.

        Returns
        -------
        TrainingData
        """
        return TrainingData(
            self.items,
            self.y,
            self.attributes,
            self.X_val,
            self.y_val,
            self.attributes_val,
            seed,
            models,
            sample_weight=self.sample_weight,
            sample_weight_val=self.sample_weight_val,
            kept=self.kept,
        )


def check_fit_input(
    classifier: "BaseNetworkClassifier",
    modality: str,
    items: Any,
    y: Any,
    attributes: Any,
    X_val: Any,
    y_val: Any,
    attributes_val: Any,
    sample_weight: Any = None,
    sample_weight_val: Any = None,
    class_weights: Callable[..., Any] | None = None,
    X_unlabeled: Any = None,
) -> FitInput:
    """Check the arguments of a fit before anything is trained.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
        Remembers the number of features, and their names.
    modality : {"image", "text", "tensor"}
    items, y, attributes, X_val, y_val, attributes_val : array-like or None
        As `fit` was given them.
    sample_weight, sample_weight_val : array-like, default=None
        Likewise.
    class_weights : callable, default=None
        As for :func:`skdebias._training_data.weighed`.
    X_unlabeled : array-like, default=None
        Items without labels.

    Returns
    -------
    FitInput
    """
    check_unlabeled(classifier.estimator, X_unlabeled, type(classifier).__name__)
    refuse_names(attributes, items)
    refuse_names(attributes_val, X_val, "attributes_val")
    items = check_items(classifier, items, modality, classifier.backbone)
    y = _checked_labels(y)
    source = Items(items, modality)
    if len(source) != len(y):
        raise ValueError(
            f"items has {len(source)} entries and y has {len(y)}: pass one label "
            "per item."
        )
    given = TrainingData(
        items,
        y,
        attributes,
        through_pipelines(X_val),
        y_val,
        attributes_val,
        0,
        sample_weight=sample_weight,
        sample_weight_val=sample_weight_val,
    )
    data = weighed(given, class_weights)
    items, y, attributes = data.X, data.y, data.attributes
    X_val, y_val, attributes_val = data.X_val, data.y_val, data.attributes_val
    if data.kept is not None:
        source = Items(items, modality)
    classes, y_codes = encode_classes(y, type(classifier).__name__, "items")
    check_annotations(classifier.estimator, attributes, attributes_val, len(y))
    codes = getattr(items, "dtype", None) == np.int64
    further = partial(_further_items, classifier, modality=modality, codes=codes)
    validation = None
    if has_validation_set(X_val, y_val, attributes_val, data.sample_weight_val):
        validation = encode_validation_rows(
            further(X_val, name="X_val"),
            y_val,
            attributes_val,
            classes,
            blind_selection(classifier, attributes_val),
            data.sample_weight_val,
        )
    if attributes is not None and attributes_val is not None:
        check_same_kind(attributes, attributes_val)
    unlabeled = None
    if X_unlabeled is not None:
        X_unlabeled = through_pipelines(X_unlabeled)
        unlabeled = further(X_unlabeled, name="X_unlabeled")
        _check_alike(items, X_unlabeled, modality)
    source.check()
    encoded = Encoded(classes, y_codes, validation)
    return FitInput(
        items,
        source,
        y,
        attributes,
        X_val,
        y_val,
        attributes_val,
        data.sample_weight,
        data.sample_weight_val,
        data.kept,
        encoded,
        unlabeled,
    )


def _checked_labels(y: Any) -> NDArray[Any]:
    if y is None:
        raise ValueError(
            "fit requires y to be passed, but the target y is None: pass one label "
            "per item."
        )
    refuse_masked(y, "y")
    labels: NDArray[Any] = column_or_1d(on_host(y), warn=True)
    check_classification_targets(labels)
    return labels


def _further_items(
    classifier: "BaseNetworkClassifier",
    items: Any,
    *,
    modality: str,
    codes: bool,
    name: str,
) -> Items:
    """Return items beside those that have labels in training, checked."""
    with about(name):
        checked = check_items(
            classifier, items, modality, classifier.backbone, codes=codes, reset=False
        )
    source = Items(checked, modality, name)
    source.check()
    return source


def _check_alike(items: Any, X_unlabeled: Any, modality: str) -> None:
    """Refuse arrays that cannot be put into one batch."""
    if modality != "tensor":
        return
    expected, found = (np.shape(array)[1:] for array in (items, X_unlabeled))
    if expected != found:
        raise ValueError(
            f"X_unlabeled has items of shape {found}, and items has {expected}: pass "
            "items without labels in the form of those with labels."
        )


def check_items(
    classifier: "BaseNetworkClassifier",
    items: Any,
    modality: str,
    network: Any,
    *,
    codes: bool | None = None,
    reset: bool = True,
) -> Any:
    """Check items, and make numbers of those that are numbers.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
        Remembers the number of features, and their names.
    items : array-like or path-like
    modality : {"image", "text", "tensor"}
    network : str or torch.nn.Module
        The backbone.
    codes : bool, default=None
        As for :func:`number_type`.
    reset : bool, default=True
        Whether these are the items of `fit`, or must be like them.

    Returns
    -------
    array-like or path-like
    """
    refuse_loaders(items)
    if modality != "tensor":
        # Their readers look at them; what can be read once only is kept.
        once = not hasattr(items, "__len__") and isinstance(items, Iterable)
        return list(items) if once and not isinstance(items, os.PathLike) else items
    items = plain_array(items)
    dtype = number_type(items, network, codes)
    return validate_data(classifier, items, allow_nd=True, dtype=dtype, reset=reset)
