"""Base class of the estimators that infer spurious attributes."""

from abc import ABCMeta, abstractmethod

from sklearn.base import BaseEstimator, _fit_context, clone


class BasePseudoAttributes(BaseEstimator, metaclass=ABCMeta):
    """Infers one pseudo-attribute per training row.

    A subclass implements :meth:`_infer`.
    """

    @abstractmethod
    def _infer(self, X, y, validation):
        """Return the pseudo-attribute of every row; may set fitted attributes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        validation : dict
            `X_val` and `y_val`, possibly None.

        Returns
        -------
        ndarray of shape (n_samples,)
        """

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, *, X_val=None, y_val=None):
        """Infer the pseudo-attributes of the training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,)
            Class labels.
        X_val, y_val : array-like, default=None
            Validation set that selects the epoch of a reference model, where there is
            one.

        Returns
        -------
        self : object
            With `pseudo_attributes_`.
        """
        self.pseudo_attributes_ = self._infer(X, y, {"X_val": X_val, "y_val": y_val})
        return self

    def fit_predict(self, X, y, *, X_val=None, y_val=None):
        """Infer and return the pseudo-attributes of the training rows.

        Parameters
        ----------
        X, y, X_val, y_val : array-like
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self.fit(X, y, X_val=X_val, y_val=y_val).pseudo_attributes_

    def _fit_reference(self, default, X, y, validation):
        """Fit the reference model, or the default one, and keep it."""
        chosen = (
            default if self.reference_estimator is None else self.reference_estimator
        )
        self.reference_estimator_ = clone(chosen)
        if validation["X_val"] is None:
            return self.reference_estimator_.fit(X, y)
        return self.reference_estimator_.fit(X, y, **validation)
