"""Random splits with equal shares of every group."""

import warnings

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from skdebias._named_groups import join_descriptions
from skdebias.model_selection._strata import (
    make_strata,
    rank_by_appearance,
)


class AttributeStratifiedShuffleSplit(StratifiedShuffleSplit):
    """Random splitter that stratifies on label x attribute.

    Training and test set have the same shares of all (label, attribute) groups, up
    to rounding. A group with a single sample cannot be in both: the single samples
    of a class are pooled into one stratum, or join the smallest other group of
    their class if there is only one, with a warning.

    The splitter requests ``attributes``: with
    ``sklearn.set_config(enable_metadata_routing=True)``, scikit-learn's searches and
    :func:`~sklearn.model_selection.cross_validate` pass them on.

    Parameters
    ----------
    n_splits : int, default=10
        Number of splits.
    test_size : float or int, default=None
        Share or number of test samples; the complement of `train_size` if None, 0.1
        if both are None.
    train_size : float or int, default=None
        Share or number of training samples; the complement of `test_size` if None.
    random_state : int, RandomState instance or None, default=None
        Seed of the splits.

    See Also
    --------
    AttributeStratifiedKFold : Folds that cover every row exactly once.
    sklearn.model_selection.StratifiedShuffleSplit : Stratifies on the label only.

    Notes
    -----
    Splits do not depend on the names of labels and attributes, only on the partition
    into groups and the order of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.model_selection import AttributeStratifiedShuffleSplit
    >>> X = np.zeros((40, 1))
    >>> y = np.repeat([0, 1], 20)
    >>> place = np.tile([0, 0, 0, 1], 10)
    >>> splitter = AttributeStratifiedShuffleSplit(
    ...     n_splits=1, test_size=0.2, random_state=0
    ... )
    >>> train, test = next(splitter.split(X, y, attributes=place))
    >>> np.bincount(2 * y[test] + place[test])
    array([3, 1, 3, 1])
    """

    # scikit-learn reads this: the request is on without set_split_request.
    __metadata_request__split = {"attributes": True}

    def split(self, X, y, groups=None, *, attributes=None):
        """Generate the training and test indices of every split.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; only its length matters.
        y : array-like of shape (n_samples,)
            Labels.
        groups : None
            Ignored, exists for API compatibility.
        attributes : array-like of shape (n_samples,) or (n_samples, n_columns)
            Spurious attributes; several columns are crossed. Required.

        Returns
        -------
        iterator of (ndarray, ndarray)
            Indices of the training and the test rows, in random order.

        Raises
        ------
        TypeError
            If `attributes` is not given, which happens inside scikit-learn's
            searches when metadata routing is off.
        ValueError
            If lengths differ, values are missing, a class has only one sample, or
            training or test set are smaller than the number of groups.
        """
        if groups is not None:
            warnings.warn(
                f"The groups parameter is ignored by {type(self).__name__}; it "
                "stratifies on y and attributes.",
                UserWarning,
                stacklevel=2,
            )
        strata = make_strata(X, y, attributes, name=type(self).__name__)
        single = np.flatnonzero(strata.groups.counts == 1)
        if len(single):
            names = join_descriptions([strata.describe(group) for group in single])
            warnings.warn(
                "Groups with a single sample cannot be in both training and test "
                f"set: {names}. They are drawn together with other samples of their "
                "class, so some splits test or train without them.",
                UserWarning,
                stacklevel=2,
            )
        return self._generate(_pool_single_samples(strata))

    def get_n_splits(self, X=None, y=None, groups=None, *, attributes=None):
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups, attributes : object
            Ignored. Searches pass what they pass to :meth:`split`.

        Returns
        -------
        int
            The number of splits.
        """
        return self.n_splits

    def _generate(self, stratum_of_row):
        codes = rank_by_appearance(stratum_of_row)[
            np.unique(stratum_of_row, return_inverse=True)[1]
        ]
        try:
            yield from super().split(np.zeros((len(codes), 1)), codes)
        except ValueError as error:
            raise ValueError(
                f"{error} Here the classes are the {codes.max() + 1} groups of label "
                f"and attribute; test_size={self.test_size} and "
                f"train_size={self.train_size} must leave room for one sample of "
                "each. Use AttributeStratifiedKFold for smaller data."
            ) from error


def _pool_single_samples(strata):
    """Return strata of the rows: groups, but for those of a single sample."""
    cells, counts = strata.groups.cells, strata.groups.counts
    _, first_row = np.unique(strata.groups.ids, return_index=True)
    target = np.arange(len(counts))
    for label in np.unique(cells[counts == 1, 0]):
        of_class = np.flatnonzero(cells[:, 0] == label)
        single = of_class[counts[of_class] == 1]
        if len(of_class) == 1:
            raise ValueError(
                f"Class {strata.labels[label]} has only one sample, which cannot be "
                "in both training and test set. Drop it or merge classes."
            )
        if len(single) > 1:
            target[single] = single[0]
        else:
            larger = of_class[counts[of_class] > 1]
            # Ties go to the group seen first: its name must not matter.
            by_size = np.lexsort((first_row[larger], counts[larger]))
            target[single] = larger[by_size[0]]
    return target[strata.groups.ids]
