"""What every head estimator shares: input, groups, and prediction."""

from abc import ABCMeta, abstractmethod
from functools import cache

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skdebias._annotations import refuse_names
from skdebias._attributes import on_host
from skdebias._blas import blas_on_one_thread
from skdebias._context import plain_numpy, standard_context
from skdebias._prepare import (
    FitHooks,
    encode,
    prepare,
    set_fitted,
    training_data,
    warn_of_attributes,
)
from skdebias._rows import as_array, is_device_tensor
from skdebias._sklearn import _fit_context
from skdebias._training_checks import warn_if_collapsed, warn_of_validation_shift
from skdebias._validation import (
    refuse_booleans,
    validate_features,
    validate_training_rows,
)

# Values per block of prediction: bounds the float32 copy of float16 input.
_PREDICT_VALUES = 1 << 23

# Fitted attributes of a head: linear, or with hidden layers.
HEAD_ATTRIBUTES = ("coef_", "intercept_", "coefs_", "intercepts_")


def final_head(estimator):
    """Return the last step of a Pipeline, or the estimator itself."""
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def layer_parameters(layers):
    """Return the layers of a fitted head as the engine keeps them.

    Parameters
    ----------
    layers : sequence of (ndarray of shape (n_in, n_out), ndarray of shape (n_out,))

    Returns
    -------
    coefs : list of ndarray of shape (n_out, n_in)
    intercepts : list of ndarray
    """
    coefs = [np.ascontiguousarray(coef.T) for coef, _ in layers]
    return coefs, [intercept for _, intercept in layers]


def fitted_layers(estimator, prefix=""):
    """Return the layers of a fitted head, input to output.

    Parameters
    ----------
    estimator : HeadClassifier
    prefix : str, default=""
        What precedes the names of the fitted attributes.

    Returns
    -------
    list of (ndarray of shape (n_in, n_out), ndarray of shape (n_out,))
        Weights and biases.
    """
    if hasattr(estimator, f"{prefix}coef_"):
        coefs = [getattr(estimator, f"{prefix}coef_").T]
        return list(zip(coefs, [getattr(estimator, f"{prefix}intercept_")]))
    coefs = getattr(estimator, f"{prefix}coefs_")
    return list(zip(coefs, getattr(estimator, f"{prefix}intercepts_")))


class LogitClassifierMixin(ClassifierMixin):
    """Classifier whose predictions follow from the logits of its `decision_function`.

    One column, flattened, for two classes.
    """

    def predict(self, X):
        """Predict the class of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels out of `classes_`.
        """
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return self.classes_[(scores > 0).astype(np.intp)]
        return self.classes_[scores.argmax(axis=1)]

    def score(self, X, y, sample_weight=None):
        """Return the accuracy of the predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        return super().score(X, on_host(y), on_host(sample_weight))

    @plain_numpy
    def predict_proba(self, X):
        """Return the probability of every class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns follow `classes_`. A head trained on rebalanced batches is
            calibrated for the rebalanced distribution, not for the data as they come.
        """
        scores = self.decision_function(X)
        if scores.ndim == 1:
            positive = expit(scores)
            return np.column_stack([1.0 - positive, positive])
        return softmax(scores, axis=1)


class HeadClassifier(
    CallbackSupportMixin,
    LogitClassifierMixin,
    FitHooks,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Classifier with a linear or multi-layer head, however it is trained.

    A subclass has a parameter `random_state`, one named `selection`, and fits the head
    in :meth:`_train`.
    """

    __metadata_request__fit = {
        "attributes": True,
        "X_val": True,
        "y_val": True,
        "attributes_val": True,
        "sample_weight_val": True,
    }

    def _n_epochs(self, prepared):
        """Return how many epochs callbacks are told of; 0 for a fit in one piece."""
        return 0

    @abstractmethod
    def _train(self, prepared, task):
        """Fit the head.

        Parameters
        ----------
        prepared : Prepared
        task : FitTask
            For reporting epochs to callbacks.

        Returns
        -------
        dict of str to object
            Fitted attributes.
        """

    @_fit_context(prefer_skip_nested_validation=True)
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
        """Train the head.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings: float16, float32 or float64 array, memory map, torch tensor on
            any device, or data frame. Trained in float32, never copied as a whole.
        y : array-like of shape (n_samples,)
            Class labels, two or more classes.
        attributes : array-like of shape (n_samples,) or (n_samples, n_attributes), \
default=None
            Spurious attributes; several columns are crossed.
        sample_weight : array-like of shape (n_samples,) or float, default=None
            As how many rows each row counts, in the shares of classes and groups too;
            a row of weight 0 is left out. None is 1.
        X_val, y_val, attributes_val : array-like, default=None
            Validation set that selects the epoch, and nothing else; see `selection`.
        sample_weight_val : array-like of shape (n_val_samples,) or float, default=None
            As how many rows each validation row counts in the scores.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If the input is malformed: wrong lengths, NaN, a single class, a negative
            weight. What was fitted before is then left as it was.
        """
        return self._fit_or_restore(
            X,
            y,
            attributes,
            sample_weight=sample_weight,
            X_val=X_val,
            y_val=y_val,
            attributes_val=attributes_val,
            sample_weight_val=sample_weight_val,
        )

    def _fit_or_restore(self, X, y, attributes, **fit_params):
        """Fit, or leave everything as it was before."""
        from skdebias._engine._threads import one_thread

        before = dict(vars(self))
        try:
            with standard_context(), one_thread():
                return self._fit(X, y, attributes, fit_params, before)
        except BaseException:
            # Classes of the new labels beside an old head would predict nonsense.
            vars(self).clear()
            vars(self).update(before)
            raise

    def _fit(self, X, y, attributes, fit_params, before):
        refuse_names(attributes, X)
        refuse_names(
            fit_params["attributes_val"], fit_params["X_val"], "attributes_val"
        )
        X, y = validate_training_rows(self, X, y)
        data = training_data(self, X, y, attributes=attributes, **fit_params)
        encoded = encode(self, data)
        self._check_warm_start(before, encoded.classes)
        if encoded.validation is not None:
            warn_of_validation_shift(data.X, encoded.validation["X"])
        prepared = prepare(self, data, encoded)
        warn_of_attributes(self, prepared)
        task = FitTask(self, prepared)
        set_fitted(self, prepared, self._train(prepared, task))
        task.end(reconstruction_attributes={})
        warn_if_collapsed(self, prepared, self._logits)
        return self

    def _validate_params(self):
        super()._validate_params()
        refuse_booleans(self)

    @classmethod
    @cache
    def _get_param_names(cls):
        # A search asks for them often, and reading a signature takes a while.
        return super()._get_param_names()

    def _check_warm_start(self, before, classes):
        """Refuse to go on from a head of other data; none goes on by default."""

    def _as_rows(self, X):
        """Return checked rows as an array."""
        if not is_device_tensor(X):
            return validate_features(self, X, reset=False)
        with standard_context():
            X = validate_features(self, X, reset=False)
            return as_array(X.cpu()) if is_device_tensor(X) else X

    @plain_numpy
    def decision_function(self, X):
        """Return the logits of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes, the logit of `classes_[1]`.
        """
        check_is_fitted(self)
        scores = self._logits(self._as_rows(X))
        return scores.ravel() if len(self.classes_) == 2 else scores

    def _logits(self, X, prefix=""):
        """Return the logits of validated rows, of shape (n_samples, 1 or n_classes)."""
        layers = fitted_layers(self, prefix)
        rows = max(1, _PREDICT_VALUES // X.shape[1])
        with blas_on_one_thread():
            blocks = [
                _block_logits(X[start : start + rows], layers)
                for start in range(0, len(X), rows)
            ]
        return np.concatenate(blocks)


def _block_logits(block, layers):
    if is_device_tensor(block):
        block = as_array(block.cpu())
    out = block.astype(np.float32) if block.dtype == np.float16 else block
    for i, (coef, intercept) in enumerate(layers):
        out = (out if i == 0 else np.maximum(out, 0)) @ coef + intercept
    return out


class FitTask:
    """One fit, or one epoch of it, as scikit-learn's callbacks see it.

    Parameters
    ----------
    estimator : HeadClassifier
    prepared : Prepared
    parent : FitTask, default=None
        The fit that this is an epoch of.
    """

    def __init__(self, estimator, prepared, parent=None):
        self._estimator = estimator
        self._prepared = prepared
        data = prepared.data
        metadata = {
            name: getattr(data, name)
            for name in ("attributes", "sample_weight")
            if getattr(data, name) is not None
        }
        self._hooks = {
            "estimator": estimator,
            "X": data.X,
            "y": data.y,
            "metadata": metadata or None,
        }
        if parent is None:
            self._context = estimator._init_callback_context(
                max_subtasks=estimator._n_epochs(prepared)
            )
            self._context.call_on_fit_task_begin(**self._hooks)
        else:
            self._context = parent._context.subcontext(task_name="epoch")

    def begin_epoch(self, reconstruction_attributes):
        """Return the task of the next epoch, begun.

        Parameters
        ----------
        reconstruction_attributes : callable
            Returns the fitted attributes as they are at the call.
        """
        epoch = FitTask(self._estimator, self._prepared, parent=self)
        epoch._context.call_on_fit_task_begin(
            **epoch._hooks, reconstruction_attributes=reconstruction_attributes
        )
        return epoch

    def end(self, reconstruction_attributes):
        """End the task; return whether a callback asks to stop."""
        return self._context.call_on_fit_task_end(
            **self._hooks, reconstruction_attributes=reconstruction_attributes
        )
