"""What an estimator learns before its own training: attributes, above all."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.base import clone

from skdebias._annotations import count_missing, fill_missing, read_annotations
from skdebias._attributes import (
    as_attribute_array,
    form_groups_of_codes,
    missing_rows,
)
from skdebias._groups import Groups
from skdebias._mapped import take_rows
from skdebias._sample_weight import refuse_unweighted
from skdebias._training_data import given_weights
from skdebias._warnings import (
    AttributesIgnoredWarning,
    MissingAttributesWarning,
    is_routed,
    warn_once,
)


@dataclass(frozen=True)
class FirstStage:
    """What an estimator learned before its own training.

    Parameters
    ----------
    attributes : array-like of shape (n_samples,) or (n_samples, n_attributes) or None
        Those to train with: given, or inferred.
    inferred : bool, default=False
        Whether they were inferred, some of them at least.
    learned : mapping of str to object, default={}
        Fitted attributes of the estimator.
    for_method : mapping of str to object, default={}
        What else the method is made of.
    inferrer : estimator of `skdebias.attributes`, default=None
        What inferred attributes, fitted: its `predict(X, y)` assigns other rows.
    is_easy : ndarray of bool of shape (n_samples,), default=None
        Whether the model that was trained, if not by `inferrer`, gets a row right.
    groups : Groups, default=None
        Of the attributes; :func:`run_first_stage` adds them.
    attribute_values : ndarray, default=None
        What the attribute codes of the groups stand for.
    """

    attributes: Any
    inferred: bool = False
    learned: Mapping[str, Any] = field(default_factory=dict)
    for_method: Mapping[str, Any] = field(default_factory=dict)
    inferrer: Any = None
    is_easy: np.ndarray | None = None
    groups: Groups | None = None
    attribute_values: np.ndarray | None = None

    def attributes_of_validation(self, data, encoded):
        """Return the attributes of the validation rows: as given, else inferred.

        Parameters
        ----------
        data : TrainingData
            With `X_val` and `y_val`.
        encoded : Encoded
            With the validation set. Rows whose label is not of the training rows are
            given the attribute of another row.

        Returns
        -------
        ndarray of shape (n_val,) or (n_val, n_attributes)

        Raises
        ------
        ValueError
            If nothing was inferred, or what inferred cannot assign other rows.
        """
        if self.inferrer is None:
            raise ValueError(
                "selection='worst_inferred_group' needs a fit that infers attributes, "
                "and this one infers none: choose another selection, or infer those of "
                "the validation rows before, such as attributes_val="
                "XRMPseudoAttributes().fit(X, y).predict(X_val, y_val) with "
                "XRMPseudoAttributes of skdebias.attributes and "
                "selection='worst_group'."
            )
        if not hasattr(self.inferrer, "predict"):
            raise ValueError(
                f"the attributes of the validation rows are inferred by "
                f"{type(self.inferrer).__name__}, which cannot assign rows that it was "
                "not fitted to: choose pseudo_attributes that has predict(X, y), such "
                "as those of skdebias.attributes."
            )
        codes = encoded.validation["y"]
        # Networks read items, and what inferred them reads items too.
        X = encoded.validation["X"] if data.models is None else data.X_val
        labels, rows = encoded.classes[codes], np.flatnonzero(codes >= 0)
        if len(rows) == len(codes):
            inferred = self.inferrer.predict(X, labels)
        else:
            of_rows = self.inferrer.predict(take_rows(X, rows), labels[rows])
            inferred = np.repeat(of_rows[:1], len(codes), axis=0)
            inferred[rows] = of_rows
        return fill_missing(data.attributes_val, inferred, "attributes_val")


class FirstStageHooks:
    """What an estimator says of its first stage, for this module to ask.

    A hook returns, and sets nothing on the estimator.
    """

    def _uses_attributes(self):
        """Return whether attributes that are given change the fit."""
        return True

    def _without_attributes(self):
        """Return what `fit` does where attributes are neither given nor inferred.

        Returns
        -------
        str or None
            A clause of a warning; None if the user knows.
        """
        return (
            "every row counts as having the same attribute value, so that groups are "
            "classes"
        )

    def _inferrer(self, data):
        """Return what infers attributes that are missing.

        Parameters
        ----------
        data : TrainingData

        Returns
        -------
        estimator of `skdebias.attributes`, or None
        """
        return getattr(self, "pseudo_attributes", None)

    def _first_stage(self, data):
        """Learn what the method needs before its own training.

        Parameters
        ----------
        data : TrainingData
            Validated X and y, and the rest as it was given to `fit`.

        Returns
        -------
        FirstStage
            With the attributes to train with: those given, unless the estimator infers
            its own.
        """
        inferrer = None
        if infers_attributes(self, data.attributes, data.attributes_val):
            inferrer = self._inferrer(data)
        if inferrer is None:
            return FirstStage(data.attributes)
        return infer_attributes(inferrer, data)

    def _first_stage_parameters(self, infers):
        """Return the names of the parameters that :meth:`_first_stage` reads.

        A search runs the stage once for candidates that agree in them.

        Parameters
        ----------
        infers : bool
            Whether attributes are missing, see :func:`infers_attributes`.

        Returns
        -------
        collection of str
            `random_state` need not be named.
        """
        given = infers and getattr(self, "pseudo_attributes", None) is not None
        return {"pseudo_attributes"} if given else ()


def uses_attributes(estimator):
    """Return whether attributes that are given change the fit of an estimator.

    Parameters
    ----------
    estimator : HeadClassifier

    Returns
    -------
    bool
    """
    return estimator._uses_attributes()


def infers_attributes(estimator, attributes, attributes_val):
    """Return whether the first stage of an estimator infers attributes.

    Parameters
    ----------
    estimator : HeadClassifier
    attributes, attributes_val : array-like or None
        As `fit` was given them.

    Returns
    -------
    bool
        Whether those of training rows that it uses, or some of those of validation
        rows, are missing.
    """
    if count_missing(attributes_val, "attributes_val") == "some":
        return True
    return uses_attributes(estimator) and count_missing(attributes) != "none"


def infer_attributes(inferrer, data):
    """Return the first stage of an estimator that infers its attributes.

    Parameters
    ----------
    inferrer : estimator with `fit_predict`
        It is not changed. One that learns from annotated rows gets the attributes.
    data : TrainingData

    Returns
    -------
    FirstStage
    """
    inferrer = clone(inferrer, safe=False)
    given = {"X_val": data.X_val, "y_val": data.y_val}
    if fills_attributes(inferrer):
        given |= {"attributes": data.attributes, "attributes_val": data.attributes_val}
    weights = given_weights(data)
    if weights:
        refuse_unweighted(inferrer.fit_predict, f"pseudo_attributes={inferrer!r}")
    attributes = inferrer.fit_predict(data.X, data.y, **weights, **given)
    inferred = count_missing(data.attributes) != "none"
    return FirstStage(
        attributes, inferred, {"pseudo_attributes_": attributes}, inferrer=inferrer
    )


def first_stage_settings(estimator, infers):
    """Return the parameters that a first stage reads, but for `random_state`.

    Parameters
    ----------
    estimator : HeadClassifier
    infers : bool
        Whether attributes are missing, see :func:`infers_attributes`.

    Returns
    -------
    dict of str to object
        Empty if there is no first stage.
    """
    parameters = estimator.get_params(deep=False)
    names = sorted(estimator._first_stage_parameters(infers))
    return {name: parameters[name] for name in names}


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
    # Those with gaps are for methods that do not use them.
    missing = stage.attributes is None or count_missing(stage.attributes) != "none"
    groups, attribute_values = form_groups_of_codes(
        encoded.y_codes,
        len(encoded.classes),
        None if missing else stage.attributes,
        weights=data.sample_weight,
    )
    return replace(stage, groups=groups, attribute_values=attribute_values)


def fills_attributes(inferrer):
    """Return whether an estimator infers attributes from rows that have them.

    Parameters
    ----------
    inferrer : estimator or None

    Returns
    -------
    bool
    """
    return bool(getattr(inferrer, "uses_attributes", False))


def check_annotations(estimator, attributes, attributes_val, n_samples):
    """Check the attributes of training rows, and who fills those that are missing.

    Parameters
    ----------
    estimator : HeadClassifier
    attributes, attributes_val : array-like or None
        As `fit` was given them.
    n_samples : int
        Number of training rows.

    Raises
    ------
    TypeError
        As `check_attributes`.
    ValueError
        Likewise; or if attributes that the fit uses are missing for some rows, and
        nothing fills them.
    """
    if attributes is not None:
        # Before anything is trained, and where they are not used too.
        read_annotations(attributes, n_samples)
    refuse_gaps(estimator, attributes, attributes_val)


def refuse_gaps(estimator, attributes, attributes_val):
    """Refuse attributes that are missing for some rows, unless something fills them.

    Parameters
    ----------
    estimator : HeadClassifier
    attributes, attributes_val : array-like or None
        As `fit` was given them. Those of training rows matter if the fit uses them.

    Raises
    ------
    ValueError
    """
    if attributes is not None and uses_attributes(estimator):
        array = as_attribute_array(attributes, "attributes")
        _refuse_gaps(estimator, array, "attributes")
    if attributes_val is not None:
        array = as_attribute_array(attributes_val, "attributes_val")
        _refuse_gaps(estimator, array, "attributes_val")


def _refuse_gaps(estimator, array, name):
    """Refuse attributes of some rows, unless something fills those of the others."""
    if count_missing(array, name) != "some":
        return
    parameters = estimator.get_params(deep=False)
    chosen = parameters.get("pseudo_attributes")
    if fills_attributes(chosen):
        return
    missing = np.flatnonzero(missing_rows(array))
    remedy = (
        f"fill them from the rows that have them, {type(estimator).__name__}("
        "pseudo_attributes=SSAPseudoAttributes()) with SSAPseudoAttributes of "
        "skdebias.attributes, or drop these rows"
    )
    if "pseudo_attributes" not in parameters:
        remedy = (
            "drop these rows, or fill them before with SSAPseudoAttributes of "
            "skdebias.attributes"
        )
    cannot = ""
    if chosen is not None:
        kind = type(chosen).__name__
        cannot = f", and pseudo_attributes={kind}() does not learn from the others"
    raise ValueError(
        f"{name} has missing values in {len(missing)} of {len(array)} rows (the "
        f"first is row {missing[0]}){cannot}: {remedy}."
    )


def warn_of_missing_or_ignored(estimator, data):
    """Warn if a fit lacks attributes, or makes no use of those that it was given.

    Parameters
    ----------
    estimator : HeadClassifier
    data : TrainingData
    """
    name = type(estimator).__name__
    inferrer = getattr(estimator, "pseudo_attributes", None)
    without = count_missing(data.attributes) == "all"
    if uses_attributes(estimator):
        instead = estimator._without_attributes()
        if without and inferrer is None and instead is not None:
            warn_once(
                f"{name} was fitted without attributes: {instead}. Pass attributes= "
                "to fit (inside a Pipeline or search, after "
                "sklearn.set_config(enable_metadata_routing=True)), or say how to "
                "infer them, pseudo_attributes=, an estimator of skdebias.attributes.",
                MissingAttributesWarning,
            )
        return
    if infers_attributes(estimator, data.attributes, data.attributes_val):
        inferrer = None  # it fills those of validation rows
    if is_routed() or (without and inferrer is None):
        return
    what = "attributes given to fit are" if not without else "pseudo_attributes is"
    warn_once(
        f"{name} trains without attributes: {what} ignored. Methods that use them are "
        "ERMClassifier(balance='group'), GERNEClassifier, GroupDROClassifier and "
        "DFRClassifier; for a score by groups, pass attributes to the score alone, or "
        "attributes_val for the selection of the epoch.",
        AttributesIgnoredWarning,
    )
