"""A prepared fit is a value: all that training needs, and nothing set on an estimator.

Single fits, batched searches and whole networks bring an estimator to where its
training begins through :func:`prepare`, and set what comes of it in one go.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from skdebias._annotations import check_same_kind, count_missing, read_annotations
from skdebias._first_stage import (
    FirstStage,
    FirstStageHooks,
    check_annotations,
    refuse_gaps,
    run_first_stage,
    uses_attributes,
    warn_of_missing_or_ignored,
)
from skdebias._groups import Groups
from skdebias._named_groups import NamedGroups, warn_of_unusable
from skdebias._rows import refuse_beyond_float32
from skdebias._sample_weight import of_all_rows
from skdebias._sklearn import ROWS_LIKE_X, through_pipelines
from skdebias._training_data import TrainingData, weighed
from skdebias._validation import (
    VALIDATED,
    about,
    encode_classes,
    encode_validation_set,
    has_validation_set,
    validate_features,
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
    candidates : tuple of skdebias.methods.Method, default=()
        What a solver that chooses on held-out rows takes instead.
    """

    data: TrainingData
    encoded: Encoded
    stage: FirstStage
    method: Any
    candidates: tuple[Any, ...] = ()

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
            "group_counts_": self.groups.sizes,
            **self.stage.learned,
            **self._of_all_rows(),
        }

    def _of_all_rows(self) -> dict[str, Any]:
        """What was learned row by row, over the rows of weight 0 too."""
        kept = self.data.kept
        names = _BY_ROW & self.stage.learned.keys()
        if kept is None:
            return {}
        return {name: of_all_rows(self.stage.learned[name], kept) for name in names}


# Fitted attributes with one entry per row.
_BY_ROW = {"pseudo_attributes_", "confidence_"}


class FitHooks(FirstStageHooks):
    """What an estimator says of its fit, for the functions of this module to ask.

    A hook returns, and sets nothing on the estimator.
    """

    def _training_data(self, X, y, **fit_params):
        """Return what `fit` was given as a whole.

        Parameters
        ----------
        X, y : ndarray
            Validated.
        **fit_params : dict
            The seed and the other arguments of `fit`.

        Returns
        -------
        TrainingData
        """
        return TrainingData(X, y, **fit_params)

    def _class_weights(self, y, sample_weight):
        """Return by what the weights of rows are multiplied for their classes.

        Parameters
        ----------
        y : ndarray of shape (n_samples,)
            Labels.
        sample_weight : ndarray of shape (n_samples,) or None
            What the rows count without it.

        Returns
        -------
        ndarray of shape (n_samples,) or None
            None for 1.
        """
        return None

    def _make_method(self, data, stage):
        """Return the method that the parameters stand for.

        Parameters
        ----------
        data : TrainingData
        stage : FirstStage

        Returns
        -------
        skdebias.methods.Method or None
            None for a head that the engine does not train.
        """
        return None


def draw_seed(random_state):
    """Return the seed of every stage of a fit.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        The parameter of the estimator.

    Returns
    -------
    int
    """
    return check_random_state(random_state).randint(np.iinfo(np.int32).max)


def training_data(estimator, X, y, *, seed=None, **fit_params):
    """Return what `fit` was given as a whole.

    Parameters
    ----------
    estimator : HeadClassifier
    X, y : ndarray
        Validated.
    seed : int, default=None
        Of every stage of the fit; drawn if it is None.
    **fit_params : dict
        Other arguments of `fit`, as they are.

    Returns
    -------
    TrainingData
    """
    if seed is None:
        seed = draw_seed(estimator.random_state)
    for name in {*ROWS_LIKE_X} & {*fit_params}:
        fit_params[name] = through_pipelines(fit_params[name])
    data = estimator._training_data(X, y, seed=seed, **fit_params)
    return weighed(data, estimator._class_weights)


def class_weights(estimator, y, sample_weight):
    """Return by what the weights of rows are multiplied for their classes.

    Parameters
    ----------
    estimator : HeadClassifier
    y : ndarray of shape (n_samples,)
        Labels.
    sample_weight : ndarray of shape (n_samples,) or None
        What the rows count without it.

    Returns
    -------
    ndarray of shape (n_samples,) or None
        None for 1.
    """
    return estimator._class_weights(y, sample_weight)


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
    check_annotations(estimator, data.attributes, data.attributes_val, len(data.y))
    validation = _encode_validation(estimator, data, classes)
    if data.attributes is not None and data.attributes_val is not None:
        check_same_kind(data.attributes, data.attributes_val)
    return Encoded(classes, y_codes, validation)


def _encode_validation(estimator, data, classes):
    """Return the encoded validation set, None if there is none."""
    if not has_validation_set(
        data.X_val, data.y_val, data.attributes_val, data.sample_weight_val
    ):
        return None
    with about("X_val"):
        X_val = validate_features(estimator, data.X_val, reset=False)
        refuse_beyond_float32(X_val)
    return encode_validation_rows(
        X_val,
        data.y_val,
        data.attributes_val,
        classes,
        blind_selection(estimator, data.attributes_val),
        data.sample_weight_val,
    )


def blind_selection(estimator, attributes_val):
    """Return the score by which an estimator selects, before groups are inferred.

    Parameters
    ----------
    estimator : HeadClassifier, or a network
    attributes_val : array-like or None

    Returns
    -------
    str
        That of the parameter; what "auto" is without attributes: the last epoch, unless
        a score is needed.
    """
    if estimator.selection != "auto":
        return estimator.selection
    if count_missing(attributes_val, "attributes_val") != "all":
        return "worst_group"
    # Of all epochs, the one with the best worst class is often one of the first, in
    # which little has been learned yet, and that with the best worst inferred group is
    # on average no better than the last where training is stable. Early stopping and
    # what has no epochs need a score all the same.
    needs_score = getattr(estimator, "early_stopping", True)
    return "worst_class" if needs_score else "last"


def encode_validation_rows(X, y, attributes, classes, selection, weights=None):
    """Encode a validation set, so far as that can be done before a first stage.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_samples, n_features), or items
    y : array-like of shape (n_samples,)
    attributes : array-like or None
        If some are missing, :func:`prepare` fills them; if all are, it infers them for
        a selection by inferred groups.
    classes : ndarray of shape (n_classes,)
        Classes of the training set.
    selection : str
        The estimator's parameter.
    weights : ndarray of shape (n_samples,), default=None
        Positive weights of the rows.

    Returns
    -------
    dict
        What `encode_validation_set` returns.
    """
    missing = count_missing(attributes, "attributes_val")
    if selection == "worst_inferred_group" and missing != "all":
        raise ValueError(
            "selection='worst_inferred_group' infers the attributes of the validation "
            "rows, and attributes_val was given: choose selection='worst_group', or "
            "leave attributes_val out."
        )
    if missing == "some":
        encoded = encode_validation_set(X, y, None, classes, "last", weights)
        read_annotations(attributes, len(encoded["y"]), "attributes_val")
        return encoded
    attributes = None if missing == "all" else attributes
    return encode_validation_set(X, y, attributes, classes, selection, weights)


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
    # Of several heads that share what is encoded, not all need fill the gaps.
    refuse_gaps(estimator, data.attributes, data.attributes_val)
    warn_of_missing_or_ignored(estimator, data)
    if stage is None:
        stage = run_first_stage(estimator, data, encoded)
    encoded = _with_inferred_groups(estimator, data, encoded, stage)
    method, candidates = estimator._make_method(data, stage), ()
    if method is not None:
        from skdebias.methods._checks import for_groups  # torch, which others lack

        if not stage.inferred:
            candidates = method.candidates(stage.groups)
        method = for_groups(method, stage.groups, inferred=stage.inferred)
    return Prepared(data, encoded, stage, method, candidates or (method,))


def _with_inferred_groups(estimator, data, encoded, stage):
    """Encode the validation set with the attributes that a first stage inferred.

    Those that were given stay. Where none were, they are inferred for a selection by
    the worst of the inferred groups alone.
    """
    missing = count_missing(data.attributes_val, "attributes_val")
    selection = blind_selection(estimator, data.attributes_val)
    is_whole = missing == "none" or (
        missing == "all" and selection != "worst_inferred_group"
    )
    if encoded.validation is None or is_whole:
        return encoded
    validation = encode_validation_set(
        encoded.validation["X"],
        data.y_val,
        stage.attributes_of_validation(data, encoded),
        encoded.classes,
        selection,
        data.sample_weight_val,
    )
    return replace(encoded, validation=validation)


def warn_of_attributes(estimator, prepared):
    """Warn once if the groups of a fit cannot do what they are meant for.

    Parameters
    ----------
    estimator : HeadClassifier
    prepared : Prepared
    """
    reasons = []
    given = count_missing(prepared.data.attributes) != "all"
    if given and uses_attributes(estimator):
        named = NamedGroups(
            prepared.groups, prepared.classes, prepared.stage.attribute_values
        )
        reasons.append(named.unusable_for_training())
    if prepared.validation is not None:
        reasons.append(prepared.validation["unusable"])
    warn_of_unusable(*reasons)


def set_fitted(estimator, prepared, attributes):
    """Set what came before training, and what training gave, as fitted attributes.

    Those of an earlier fit are dropped.

    Parameters
    ----------
    estimator : HeadClassifier
    prepared : Prepared
    attributes : mapping of str to object
        Of the training.
    """
    for name in [*vars(estimator)]:
        if name.endswith("_") and name not in VALIDATED and name[0] != "_":
            delattr(estimator, name)
    for name, value in (prepared.learned | attributes).items():
        setattr(estimator, name, value)
