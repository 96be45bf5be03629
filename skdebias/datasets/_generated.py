"""Generated data in which an attribute predicts the label, but not for every row."""

import numbers

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skdebias._blas import blas_on_one_thread


def make_spurious_classification(
    n_samples=1000,
    *,
    n_features=20,
    n_classes=2,
    n_attributes=2,
    correlation=0.95,
    core_strength=2.0,
    spurious_strength=4.0,
    noise=1.0,
    directions=None,
    return_X_y=True,
    random_state=None,
):
    """Generate classes that are spuriously correlated with an attribute.

    Every row is the sum of the direction of its class, the direction of its
    attribute, and Gaussian noise::

        X[i] = core_strength * directions[y[i]]
               + spurious_strength * directions[n_classes + attributes[i]]
               + noise * N(0, I)

    The directions are random and orthonormal. Class ``k`` comes with attribute ``k``
    (modulo `n_attributes`) in a share `correlation` of its rows, and with the other
    attributes equally often in the rest. When the attribute is stronger than the
    class, a classifier trained on average accuracy reads the attribute.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows, divided evenly over the classes.
    n_features : int, default=20
        Number of columns, at least ``n_classes + n_attributes``.
    n_classes : int, default=2
        Number of classes.
    n_attributes : int, default=2
        Number of attribute values.
    correlation : float, default=0.95
        Share of the rows of a class with its own attribute, in [0, 1]. The numbers
        of rows are exact up to rounding. ``1 / n_attributes`` gives balanced groups,
        for a test set.
    core_strength : float, default=2.0
        Length of the class directions.
    spurious_strength : float, default=4.0
        Length of the attribute directions.
    noise : float, default=1.0
        Standard deviation of the noise in every feature.
    directions : array-like of shape (n_directions, n_features), default=None
        The ``n_directions = n_classes + n_attributes`` directions of another call,
        so that a test set follows the same rule as the training set. Drawn at random
        if None.
    return_X_y : bool, default=True
        If False, return a Bunch.
    random_state : int, RandomState instance or None, default=None
        Seed of directions, noise and order.

    Returns
    -------
    (X, y, attributes) : tuple if `return_X_y` is True
        `X` of shape (n_samples, n_features), float64; `y` and `attributes` of shape
        (n_samples,), int64.
    data : :class:`~sklearn.utils.Bunch` if `return_X_y` is False
        With entries `X`, `y`, `attributes` and `directions`.

    Raises
    ------
    ValueError
        If a parameter is out of range, or `directions` has the wrong shape.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.datasets import make_spurious_classification
    >>> train = make_spurious_classification(
    ...     n_samples=200, random_state=0, return_X_y=False
    ... )
    >>> np.bincount(2 * train.y + train.attributes)
    array([95,  5,  5, 95])

    A balanced test set from the same distribution of rows within groups:

    >>> X_test, y_test, attributes_test = make_spurious_classification(
    ...     n_samples=200, correlation=0.5, directions=train.directions, random_state=1
    ... )
    >>> np.bincount(2 * y_test + attributes_test)
    array([50, 50, 50, 50])
    """
    _check_sizes(n_samples, n_features, n_classes, n_attributes)
    _check_numbers(correlation, core_strength, spurious_strength, noise)
    rng = check_random_state(random_state)
    directions = _check_directions(
        directions, n_classes + n_attributes, n_features, rng
    )
    y, attributes = _draw_groups(n_samples, n_classes, n_attributes, correlation, rng)
    X = noise * rng.standard_normal((n_samples, n_features))
    X += core_strength * directions[y]
    X += spurious_strength * directions[n_classes + attributes]
    if return_X_y:
        return X, y, attributes
    return Bunch(X=X, y=y, attributes=attributes, directions=directions)


def _draw_groups(n_samples, n_classes, n_attributes, correlation, rng):
    """Draw labels and attributes with exact group sizes, in random order."""
    y = np.arange(n_samples) % n_classes
    attributes = np.empty(n_samples, dtype=np.int64)
    for label in range(n_classes):
        rows = np.flatnonzero(y == label)
        aligned = label % n_attributes
        n_aligned = len(rows) if n_attributes == 1 else round(correlation * len(rows))
        others = np.delete(np.arange(n_attributes), aligned)
        attributes[rows[:n_aligned]] = aligned
        if n_aligned < len(rows):
            attributes[rows[n_aligned:]] = np.resize(others, len(rows) - n_aligned)
    order = rng.permutation(n_samples)
    return y[order].astype(np.int64), attributes[order]


def _check_directions(directions, n_directions, n_features, rng):
    if directions is None:
        drawn = rng.standard_normal((n_features, n_directions))
        with blas_on_one_thread():
            # The rows of the transposed Q factor are orthonormal.
            return np.linalg.qr(drawn)[0].T
    directions = np.asarray(directions, dtype=np.float64)
    if directions.shape != (n_directions, n_features):
        raise ValueError(
            f"directions has shape {directions.shape}, but n_classes + n_attributes "
            f"and n_features ask for {(n_directions, n_features)}. Pass the "
            "directions of a call with the same sizes."
        )
    return directions


def _check_sizes(n_samples, n_features, n_classes, n_attributes):
    minima = {
        "n_samples": (n_samples, n_classes),
        "n_features": (n_features, n_classes + n_attributes),
        "n_classes": (n_classes, 2),
        "n_attributes": (n_attributes, 1),
    }
    for name, (number, minimum) in minima.items():
        if not isinstance(number, numbers.Integral) or number < minimum:
            raise ValueError(
                f"{name} must be an integer of at least {minimum}, but is {number!r}."
            )


def _check_numbers(correlation, core_strength, spurious_strength, noise):
    if not 0 <= correlation <= 1:
        raise ValueError(
            f"correlation must lie in [0, 1], but is {correlation!r}. It is the share "
            "of the rows of a class that have the attribute of that class."
        )
    lengths = {
        "core_strength": core_strength,
        "spurious_strength": spurious_strength,
        "noise": noise,
    }
    for name, number in lengths.items():
        if not 0 <= number < np.inf:
            raise ValueError(
                f"{name} must be finite and not negative, but is {number!r}."
            )
