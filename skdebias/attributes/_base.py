"""Base class of the estimators that infer spurious attributes."""

from abc import ABCMeta, abstractmethod
from os import PathLike

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from skdebias._context import standard_context
from skdebias._device import resolve_device
from skdebias._engine._features import Features
from skdebias._engine._threads import one_thread
from skdebias._prepare import draw_seed
from skdebias._sample_weight import of_all_rows, refuse_unweighted
from skdebias._sklearn import _fit_context, _num_samples
from skdebias._training_data import TrainingData, weighed
from skdebias._validation import (
    check_labels,
    encode_classes,
    has_validation_set,
    refuse_booleans,
    validate_features,
)
from skdebias._warnings import AttributesIgnoredWarning, is_routed, warn_once


class BasePseudoAttributes(BaseEstimator, metaclass=ABCMeta):
    """Base class of estimators that infer one pseudo-attribute per training row.

    A subclass implements :meth:`_infer` and :meth:`_assign`. One that trains a model
    sets `_is_easy`, whether it gets a training row right.
    """

    _is_easy = None

    def _validate_params(self):
        super()._validate_params()
        refuse_booleans(self)

    #: Whether it learns from rows that have attributes, and fills those of others.
    uses_attributes = False

    @abstractmethod
    def _infer(self, X, y, validation, sample_weight):
        """Return the pseudo-attribute of every row; may set fitted attributes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        validation : dict
            `X_val` and `y_val`, possibly None, and `sample_weight_val` if there is any.
        sample_weight : ndarray of shape (n_samples,) or None
            Positive weights of the rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """

    @abstractmethod
    def _assign(self, X, codes):
        """Return the pseudo-attribute of other rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        codes : ndarray of shape (n_samples,)
            Indices into `classes_`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X,
        y,
        attributes=None,
        *,
        sample_weight=None,
        X_val=None,
        y_val=None,
        attributes_val=None,
        sample_weight_val=None,
    ):
        """Infer the pseudo-attributes of the training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,)
            Class labels.
        attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
            Attributes of some rows, for what learns from them; the others are missing
            (NaN, None, pandas' NA).
        sample_weight : array-like of shape (n_samples,) or float, default=None
            As how many rows each row counts; a row of weight 0 is left out, and its
            pseudo-attribute is -1. None is 1.
        X_val, y_val : array-like, default=None
            Validation set that selects the epoch of a reference model, where there is
            one.
        attributes_val : array-like, default=None
            Attributes of the validation rows, likewise.
        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            As how many rows each validation row counts.

        Returns
        -------
        self : object
            With `pseudo_attributes_`.

        Raises
        ------
        ValueError
            If the input is malformed: wrong lengths, NaN, a single class, a negative
            weight.
        """
        y = self._checked_labels(X, y)
        data = weighed(
            TrainingData(
                X,
                y,
                attributes,
                X_val,
                y_val,
                attributes_val,
                0,
                sample_weight=sample_weight,
                sample_weight_val=sample_weight_val,
            )
        )
        X, y, attributes = data.X, data.y, data.attributes
        X_val, y_val, attributes_val = data.X_val, data.y_val, data.attributes_val
        self.classes_, _ = encode_classes(y, type(self).__name__)
        given = {"attributes": attributes, "attributes_val": attributes_val}
        if not self.uses_attributes:
            self._warn_if_ignored(**given)
            given = {}
        weights_val = data.sample_weight_val
        if has_validation_set(X_val, y_val, given.get("attributes_val"), weights_val):
            y_val = self._checked_labels(X_val, y_val, "_val")
        validation = {"X_val": X_val, "y_val": y_val}
        if weights_val is not None:
            validation["sample_weight_val"] = weights_val
        with standard_context(), one_thread():
            inferred = self._infer(X, y, validation, data.sample_weight, **given)
        kept = data.kept
        self.pseudo_attributes_ = (
            inferred if kept is None else of_all_rows(inferred, kept)
        )
        return self

    def _warn_if_ignored(self, **given):
        """Warn of attributes that nothing is learned from."""
        names = [name for name, values in given.items() if values is not None]
        if names and not is_routed():
            warn_once(
                f"{type(self).__name__} infers attributes without any: "
                f"{' and '.join(names)} given to fit are ignored. "
                "SSAPseudoAttributes learns from rows that have them.",
                AttributesIgnoredWarning,
            )

    def _checked_labels(self, X, y, suffix=""):
        """Check labels, and that there is one per row of X, which may be items."""
        y = check_labels(y, f"y{suffix}")
        # A folder of items, named by its path, says only later how many it holds.
        n_rows = len(y) if isinstance(X, (str, PathLike)) else _num_samples(X)
        if n_rows != len(y):
            raise ValueError(
                f"X{suffix} has {n_rows} rows and y{suffix} has {len(y)}: pass one "
                "label per row."
            )
        return y

    def fit_predict(
        self,
        X,
        y,
        attributes=None,
        *,
        sample_weight=None,
        X_val=None,
        y_val=None,
        attributes_val=None,
        sample_weight_val=None,
    ):
        """Infer and return the pseudo-attributes of the training rows.

        Parameters
        ----------
        X, y, attributes, sample_weight : array-like
            As for :meth:`fit`, and so are the following.
        X_val, y_val, attributes_val, sample_weight_val : array-like, default=None

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        self.fit(
            X,
            y,
            attributes,
            sample_weight=sample_weight,
            X_val=X_val,
            y_val=y_val,
            attributes_val=attributes_val,
            sample_weight_val=sample_weight_val,
        )
        return self.pseudo_attributes_

    def predict(self, X, y):
        """Assign labelled rows, such as those of a validation set, as in training.

        A pseudo-attribute says how a row relates to its own label, so the labels are
        needed. With the validation rows assigned, a method can be selected by the worst
        of its inferred groups where no attribute is known at all.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels, all of them seen in training.

        Returns
        -------
        ndarray of shape (n_samples,)
            Pseudo-attributes with the meaning of `pseudo_attributes_`.

        Raises
        ------
        ValueError
            If a label did not occur in training, or if the input is malformed.
        """
        check_is_fitted(self)
        y = self._checked_labels(X, y)
        position = np.searchsorted(self.classes_, y)
        codes = np.minimum(position, len(self.classes_) - 1)
        unseen = self.classes_[codes] != y
        if unseen.any():
            raise ValueError(
                f"y holds {y[unseen][0]!r}, which did not occur in training: the "
                f"classes are {self.classes_.tolist()}."
            )
        with standard_context(), one_thread():
            return self._assign(X, codes)

    def _begin(self, X, y):
        """Return what an inference from embeddings starts with.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
            Labels out of `classes_`.

        Returns
        -------
        X : ndarray or Tensor of shape (n_samples, n_features)
            Validated.
        features : Features
            Its rows, on the device.
        codes : ndarray of shape (n_samples,)
            Class codes.
        seed : int
        """
        X, features = self._on_device(X, reset=True)
        codes = np.searchsorted(self.classes_, y).astype(np.int64)
        return X, features, codes, int(draw_seed(self.random_state))

    def _on_device(self, X, *, reset=False):
        """Return validated embeddings, and their rows on the device."""
        X = validate_features(self, X, reset=reset)
        return X, Features(X, resolve_device(self.device))

    def _fit_reference(self, default, X, y, validation, sample_weight):
        """Fit the reference model, or the default one, and keep it."""
        chosen = (
            default if self.reference_estimator is None else self.reference_estimator
        )
        selection_set = {} if validation["X_val"] is None else validation
        weights = {}
        if sample_weight is not None:
            refuse_unweighted(chosen.fit, f"reference_estimator={chosen!r}")
            weights["sample_weight"] = sample_weight
        self.reference_estimator_ = clone(chosen).fit(X, y, **weights, **selection_set)
        return self.reference_estimator_
