"""A prepared fit is a value: all that training needs, and nothing set on an estimator.

Single fits, batched searches and whole networks bring an estimator to where its
training begins through :func:`prepare`, and set what comes of it in one go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skdebias._attributes import Groups
from skdebias._named_groups import NamedGroups, warn_of_unusable
from skdebias._validation import (
    TrainingData,
    check_encodable,
    check_same_kind,
    encode_classes,
    encode_groups,
)


@dataclass(frozen=True)
class Encoded:
    """Labels and validation set as the engine takes them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Class labels.
    y_codes : ndarray of shape (n_samples,)
        Index of the class of every training row.
    validation : dict or None
        What `encode_validation_set` returned.
    """

    classes: np.ndarray
    y_codes: np.ndarray
    validation: dict[str, Any] | None


@dataclass(frozen=True)
class FirstStage:
    """What an estimator learned before its own training.

    Parameters
    ----------
    attributes : array-like of shape (n_samples,) or (n_samples, n_attributes) or None
        Those to train with: given, or inferred.
    inferred : bool, default=False
        Whether they were inferred.
    learned : mapping of str to object, default={}
        Fitted attributes of the estimator.
    for_method : mapping of str to object, default={}
        What else the method is made of.
    groups : Groups, default=None
        Of the attributes; :func:`run_first_stage` adds them.
    attribute_values : ndarray, default=None
        What the attribute codes of the groups stand for.
    """

    attributes: Any
    inferred: bool = False
    learned: Mapping[str, Any] = field(default_factory=dict)
    for_method: Mapping[str, Any] = field(default_factory=dict)
    groups: Groups | None = None
    attribute_values: np.ndarray | None = None


@dataclass(frozen=True)
class Prepared:
    """An estimator's fit, at the point where training begins.

    Parameters
    ----------
    data : TrainingData
        What `fit` was given.
    encoded : Encoded
        Labels and validation set.
    stage : FirstStage
        What was learned before, with the groups to train on.
    method : skdebias.methods.Method or None
        What trains the head, for these groups. None where the engine does not.
    """

    data: TrainingData
    encoded: Encoded
    stage: FirstStage
    method: Any

    @property
    def classes(self) -> np.ndarray:
        """Class labels."""
        return self.encoded.classes

    @property
    def y_codes(self) -> np.ndarray:
        """Index of the class of every training row."""
        return self.encoded.y_codes

    @property
    def validation(self) -> dict[str, Any] | None:
        """The encoded validation set."""
        return self.encoded.validation

    @property
    def groups(self) -> Groups:
        """Groups of the training rows."""
        return self.stage.groups

    @property
    def learned(self) -> dict[str, Any]:
        """Fitted attributes that do not come of training."""
        return {
            "classes_": self.classes,
            "attribute_values_": self.stage.attribute_values,
            "groups_": self.groups.cells,
            "group_counts_": self.groups.counts,
            **self.stage.learned,
        }


def encode(estimator, data):
    """Encode labels and validation set.

    Parameters
    ----------
    estimator : HeadClassifier
    data : TrainingData

    Returns
    -------
    Encoded
    """
    classes, y_codes = encode_classes(data.y, type(estimator).__name__)
    if data.attributes is not None:
        # Before anything is trained, and where they are not used too.
        check_encodable(data.attributes, len(data.y))
    validation = estimator._encode_validation(data, classes)
    if data.attributes is not None and data.attributes_val is not None:
        check_same_kind(data.attributes, data.attributes_val)
    return Encoded(classes, y_codes, validation)


def run_first_stage(estimator, data, encoded):
    """Learn what comes before training, and form the groups.

    Parameters
    ----------
    estimator : HeadClassifier
    data : TrainingData
    encoded : Encoded

    Returns
    -------
    FirstStage
        With groups.
    """
    stage = estimator._first_stage(data)
    groups, attribute_values = encode_groups(
        stage.attributes,
        encoded.y_codes,
        len(encoded.classes),
        type(estimator).__name__ if estimator._needs_attributes() else None,
    )
    return replace(stage, groups=groups, attribute_values=attribute_values)


def prepare(estimator, data, encoded=None, stage=None):
    """Bring an estimator to where its training begins.

    Parameters
    ----------
    estimator : HeadClassifier
        Nothing is set on it.
    data : TrainingData
        Validated.
    encoded : Encoded, default=None
        Labels and validation set, if they are encoded already.
    stage : FirstStage, default=None
        What another estimator with the same parameters of a first stage learned on the
        same rows from the same seed.

    Returns
    -------
    Prepared
    """
    if encoded is None:
        encoded = encode(estimator, data)
    if stage is None:
        stage = run_first_stage(estimator, data, encoded)
    method = estimator._make_method(data, stage)
    if method is not None:
        from skdebias.methods._checks import for_groups  # torch, which others lack

        method = for_groups(method, stage.groups, inferred=stage.inferred)
    return Prepared(data, encoded, stage, method)


def warn_of_attributes(estimator, prepared):
    """Warn once if the groups of a fit cannot do what they are meant for.

    Parameters
    ----------
    estimator : HeadClassifier
    prepared : Prepared
    """
    reasons = []
    if prepared.data.attributes is not None and estimator._uses_attributes():
        named = NamedGroups(
            prepared.groups, prepared.classes, prepared.stage.attribute_values
        )
        reasons.append(named.unusable_for_training())
    if prepared.validation is not None:
        reasons.append(prepared.validation["unusable"])
    warn_of_unusable(*reasons)
