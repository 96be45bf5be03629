"""Searches that train candidates and folds as stacks of heads."""

from numbers import Integral

import numpy as np
from sklearn.model_selection import ParameterGrid, ParameterSampler

from skdebias._sklearn import Interval
from skdebias.model_selection._base_search import BaseBatchedSearchCV


class BatchedGridSearchCV(BaseBatchedSearchCV):
    """Exhaustive search whose heads are trained side by side.

    Scikit-learn's :class:`~sklearn.model_selection.GridSearchCV` fits one candidate on
    one fold at a time. The heads of this package share their embeddings: here, the
    candidates of a fold that differ in learning rate, weight decay, momentum and in the
    method's own numbers (such as beta and c) are one stack, trained by one matrix
    product per step. Every head sees the rows it would see alone, so the results are
    those of the stock search with the same integer `random_state`, up to rounding.

    Parameters
    ----------
    estimator : estimator of skdebias, or Pipeline that ends in one
        The steps before it are fitted once per fold and setting of theirs.
    param_grid : dict or list of dict
        Lists of settings to try. A parameter that cannot be stacked, such as
        `max_iter`, splits the grid into several stacks.
    scoring : str, callable, list, tuple or dict, default=None
        As for GridSearchCV, and names of :func:`skdebias.metrics.get_scorer_names`,
        such as "worst_group_accuracy". Scorers of groups get the attributes.
    cv : int, splitter or iterable, default=None
        None is :class:`AttributeStratifiedKFold` where attributes are given, and
        stratified 5-fold where not.
    refit : bool, str or callable, default=True
        As for GridSearchCV.
    return_train_score : bool, default=False
    error_score : "raise" or float, default=nan
        Score of a candidate whose fit fails, such as one beyond the bound of beta or
        one that diverges. The others of its stack go on.
    max_heads : int or "auto", default="auto"
        Most heads of a stack; results do not depend on it. "auto" keeps a stack within
        about 256 MiB; as many train at once as torch has threads.
    verbose : int, default=0
        A progress bar that counts the fits that have been scored.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As of GridSearchCV. The fit time of a candidate is its share of its stack's.
        For GERNE also `extrapolation_strength`, `s = c (1 + beta)`: in expectation,
        candidates of equal `s` are the same.
    best_estimator_, best_score_, best_params_, best_index_, refit_time_ : object
        As of GridSearchCV.
    scorer_, n_splits_, multimetric_ : object
        As of GridSearchCV.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    BatchedRandomizedSearchCV : Draws the candidates from distributions.
    BatchedHalvingGridSearchCV : Trains only the better candidates to the end.

    Examples
    --------
    >>> from skdebias import GERNEClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.metrics import worst_group_accuracy_scorer
    >>> from skdebias.model_selection import BatchedGridSearchCV
    >>> X, y, attributes = make_spurious_classification(600, random_state=0)
    >>> search = BatchedGridSearchCV(
    ...     GERNEClassifier(max_iter=5, random_state=0),
    ...     {"beta": [-1.0, 0.0, 1.0], "learning_rate": [1e-3, 1e-2]},
    ...     scoring=worst_group_accuracy_scorer,
    ... )
    >>> search = search.fit(X, y, attributes=attributes)
    >>> search.best_params_["beta"] > -1
    True
    >>> search.cv_results_["extrapolation_strength"].tolist()
    [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    """

    _parameter_constraints: dict = {
        **BaseBatchedSearchCV._parameter_constraints,
        "param_grid": [dict, list],
    }

    def __init__(
        self,
        estimator,
        param_grid,
        *,
        scoring=None,
        cv=None,
        refit=True,
        return_train_score=False,
        error_score=np.nan,
        max_heads="auto",
        verbose=0,
    ):
        super().__init__(
            estimator,
            scoring=scoring,
            cv=cv,
            refit=refit,
            return_train_score=return_train_score,
            error_score=error_score,
            max_heads=max_heads,
            verbose=verbose,
        )
        self.param_grid = param_grid

    def _candidates(self):
        return ParameterGrid(self.param_grid)


class BatchedRandomizedSearchCV(BaseBatchedSearchCV):
    """Randomised search whose heads are trained side by side.

    See :class:`BatchedGridSearchCV` for what a stack is and when results are equal to
    those of scikit-learn's :class:`~sklearn.model_selection.RandomizedSearchCV`.

    Parameters
    ----------
    estimator : estimator of skdebias, or Pipeline that ends in one
    param_distributions : dict or list of dict
        Distributions with `rvs`, or lists to draw from.
    n_iter : int, default=10
        Number of candidates.
    scoring : str, callable, list, tuple or dict, default=None
        As for :class:`BatchedGridSearchCV`, and so are the following.
    cv : int, splitter or iterable, default=None
    refit : bool, str or callable, default=True
    return_train_score : bool, default=False
    error_score : "raise" or float, default=nan
    max_heads : int or "auto", default="auto"
    verbose : int, default=0
    random_state : int, RandomState instance or None, default=None
        Of the draws of candidates.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As of :class:`BatchedGridSearchCV`.
    best_estimator_, best_score_, best_params_, best_index_, refit_time_ : object
        As of RandomizedSearchCV.
    scorer_, n_splits_, multimetric_ : object
        As of RandomizedSearchCV.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has string column names.

    See Also
    --------
    BatchedGridSearchCV : Tries every setting of a grid.
    BatchedHalvingGridSearchCV : Trains only the better candidates to the end.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from skdebias import GroupDROClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.model_selection import BatchedRandomizedSearchCV
    >>> X, y, attributes = make_spurious_classification(600, random_state=0)
    >>> search = BatchedRandomizedSearchCV(
    ...     GroupDROClassifier(max_iter=5, random_state=0),
    ...     {"step_size": loguniform(1e-3, 1)},
    ...     n_iter=4,
    ...     random_state=0,
    ... )
    >>> len(search.fit(X, y, attributes=attributes).cv_results_["params"])
    4
    """

    _parameter_constraints: dict = {
        **BaseBatchedSearchCV._parameter_constraints,
        "param_distributions": [dict, list, tuple],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator,
        param_distributions,
        *,
        n_iter=10,
        scoring=None,
        cv=None,
        refit=True,
        return_train_score=False,
        error_score=np.nan,
        max_heads="auto",
        verbose=0,
        random_state=None,
    ):
        super().__init__(
            estimator,
            scoring=scoring,
            cv=cv,
            refit=refit,
            return_train_score=return_train_score,
            error_score=error_score,
            max_heads=max_heads,
            verbose=verbose,
        )
        self.param_distributions = param_distributions
        self.n_iter = n_iter
        self.random_state = random_state

    def _candidates(self):
        return ParameterSampler(
            self.param_distributions, self.n_iter, random_state=self.random_state
        )
