"""The rows of one cross-validation split, as the heads see them."""

from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object, process_routing

from skdebias._head import final_head
from skdebias._sklearn import ROWS_LIKE_X, _safe_indexing
from skdebias._validation import VALIDATED, validate_training_rows


class SplitRows(NamedTuple):
    """Rows of one split, validated and transformed.

    Parameters
    ----------
    X : ndarray or Tensor of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
    train, test : ndarray
        Row numbers in X.
    validation_attributes : dict of str to object
        Attributes that validation sets on a head.
    preprocessing : Pipeline or None
        Fitted steps that X has been through.
    """

    X: object
    y: np.ndarray
    train: np.ndarray
    test: np.ndarray
    validation_attributes: dict
    preprocessing: Pipeline | None


class RowPreparer:
    """Brings the rows of a search to where the heads take them.

    Parameters
    ----------
    estimator : HeadClassifier, or Pipeline that ends in one
    X, y : array-like
        All rows.
    """

    def __init__(self, estimator, X, y):
        self._estimator, self._X, self._y = estimator, X, y
        self._validated = None

    def prepare(self, train, test, pipeline, fit_params):
        """Validate the rows of a split; fit and apply the steps before the head.

        Parameters
        ----------
        train, test : ndarray
            Row numbers.
        pipeline : Pipeline or None
        fit_params : dict
            Arguments of `fit` for the training rows.

        Returns
        -------
        rows : SplitRows
        fit_params : dict
            Those of the head.
        """
        if pipeline is not None:
            return _transformed(pipeline, self._X, self._y, train, test, fit_params)
        if self._validated is None:
            self._validated = _validated(clone(self._estimator), self._X, self._y)
        X, y, attributes = self._validated
        return SplitRows(X, y, train, test, attributes, None), fit_params


def _transformed(pipeline, X, y, train, test, fit_params):
    """Fit the steps before the head to the training rows, and apply them to all."""
    params = process_routing(pipeline, "fit", **fit_params)[pipeline.steps[-1][0]]
    params = dict(params.fit)
    steps, y = pipeline[:-1], np.asarray(y)
    wanted = get_routing_for_object(steps).consumes("fit_transform", fit_params)
    transformed = [
        steps.fit_transform(
            _safe_indexing(X, train),
            y[train],
            **{name: fit_params[name] for name in wanted},
        ),
        steps.transform(_safe_indexing(X, test)),
    ]
    for name in {*ROWS_LIKE_X, *(pipeline.transform_input or ())} & set(params):
        params[name] = steps.transform(params[name])
    X = np.concatenate([np.asarray(block) for block in transformed])
    y = np.concatenate([y[train], y[test]])
    numbers, n_train = np.arange(len(X)), len(train)
    X, y, attributes = _validated(clone(pipeline[-1]), X, y)
    return (
        SplitRows(X, y, numbers[:n_train], numbers[n_train:], attributes, steps),
        params,
    )


def _validated(model, X, y):
    """Check X and y as `fit` would; return them and what that set on the head."""
    model = final_head(model)
    X, y = validate_training_rows(model, X, y)
    names = [name for name in VALIDATED if hasattr(model, name)]
    return X, y, {name: getattr(model, name) for name in names}
