"""K folds with equal shares of every group."""

import warnings

import numpy as np
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import check_random_state

from skdebias._named_groups import join_descriptions
from skdebias.model_selection._strata import (
    make_strata,
    rank_by_appearance,
)


class AttributeStratifiedKFold(StratifiedKFold):
    """K-fold splitter that stratifies on label x attribute.

    Every row is in the test set of exactly one fold. The number of samples of every
    (label, attribute) group, and of every class, differs by at most one between
    folds, as far as the samples go round. A group with fewer than `n_splits` samples
    is spread over as many folds as it has samples, with a warning.

    The splitter requests ``attributes``: with
    ``sklearn.set_config(enable_metadata_routing=True)``, scikit-learn's searches and
    :func:`~sklearn.model_selection.cross_validate` pass them on.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to shuffle the samples of every group before they are split.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling; leave None without it.

    See Also
    --------
    AttributeStratifiedShuffleSplit : Random splits of a chosen size.
    sklearn.model_selection.StratifiedKFold : Stratifies on the label only.

    Notes
    -----
    Folds do not depend on the names of labels and attributes, only on the partition
    into groups and the order of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.model_selection import AttributeStratifiedKFold
    >>> X = np.zeros((8, 1))
    >>> y = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> place = ["land", "land", "water", "water", "land", "land", "water", "water"]
    >>> splitter = AttributeStratifiedKFold(n_splits=2)
    >>> for train, test in splitter.split(X, y, attributes=place):
    ...     print(test)
    [0 2 4 6]
    [1 3 5 7]
    """

    # scikit-learn reads this: the request is on without set_split_request.
    __metadata_request__split = {"attributes": True}

    def split(self, X, y, groups=None, *, attributes=None):
        """Generate the training and test indices of every fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; only its length matters.
        y : array-like of shape (n_samples,)
            Labels.
        groups : None
            Ignored, exists for API compatibility. Groups that must not be split
            apart are another matter; see
            :class:`~sklearn.model_selection.StratifiedGroupKFold`.
        attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
            Spurious attributes; several columns are crossed. Required.

        Returns
        -------
        iterator of (ndarray, ndarray)
            Indices of the training and the test rows, sorted.

        Raises
        ------
        TypeError
            If `attributes` is not given, which happens inside scikit-learn's
            searches when metadata routing is off.
        ValueError
            If lengths differ, values are missing, or there are fewer samples than
            folds.
        """
        if groups is not None:
            warnings.warn(
                f"The groups parameter is ignored by {type(self).__name__}; it "
                "stratifies on y and attributes.",
                UserWarning,
                stacklevel=2,
            )
        strata = make_strata(X, y, attributes, name=type(self).__name__)
        n_samples = len(strata.groups.ids)
        if self.n_splits > n_samples:
            raise ValueError(
                f"n_splits={self.n_splits} is more than the number of samples, "
                f"{n_samples}. Use fewer folds."
            )
        rare = np.flatnonzero(strata.groups.counts < self.n_splits)
        if len(rare) and not strata.unusable_for_scores():  # which has been said
            names = join_descriptions([strata.describe(group) for group in rare])
            warnings.warn(
                f"Groups with fewer samples than n_splits={self.n_splits} are absent "
                f"from some test folds: {names}. Group scores of these folds are "
                "taken over the groups that are there.",
                UserWarning,
                stacklevel=2,
            )
        return self._generate(self._assign_folds(strata.groups))

    def get_n_splits(self, X=None, y=None, groups=None, *, attributes=None):
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups, attributes : object
            Ignored. Searches pass what they pass to :meth:`split`.

        Returns
        -------
        int
            The number of folds.
        """
        return self.n_splits

    def _generate(self, fold_of_row):
        for fold in range(self.n_splits):
            is_test = fold_of_row == fold
            yield np.flatnonzero(~is_test), np.flatnonzero(is_test)

    def _assign_folds(self, groups):
        """Return the fold number of every row.

        Rows are lined up class by class and, within the class, group by group, and
        dealt to the folds in turn. Both classes and groups are contiguous in this
        line, so neither can differ by more than one between folds. Within a group,
        folds are blocks in the order of the data, as in StratifiedKFold.
        """
        rng = check_random_state(self.random_state)
        class_rank = rank_by_appearance(groups.y_codes)
        group_rank = rank_by_appearance(groups.ids)
        _, class_index = np.unique(groups.cells[:, 0], return_inverse=True)
        fold_of_row = np.empty(len(groups.ids), dtype=np.int64)
        start = 0
        for group in np.lexsort((group_rank, class_rank[class_index])):
            stop = start + groups.counts[group]
            folds = np.sort(np.arange(start, stop) % self.n_splits)
            if self.shuffle:
                rng.shuffle(folds)
            fold_of_row[groups.ids == group] = folds
            start = stop
        return fold_of_row
