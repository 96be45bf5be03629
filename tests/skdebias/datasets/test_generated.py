import doctest

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skdebias.datasets import _generated, make_spurious_classification
from skdebias.metrics import (
    group_balanced_accuracy_score,
    worst_group_accuracy_score,
)


def test_doctests():
    results = doctest.testmod(_generated)
    assert results.attempted >= 6
    assert results.failed == 0


def test_group_sizes_are_exact():
    # 300 rows of each of 3 classes; 270 with attribute k mod 4, 10 with each other.
    _, y, a = make_spurious_classification(
        900, n_classes=3, n_attributes=4, correlation=0.9, random_state=0
    )
    counts = np.bincount(4 * y + a, minlength=12).reshape(3, 4)
    np.testing.assert_array_equal(
        counts, [[270, 10, 10, 10], [10, 270, 10, 10], [10, 10, 270, 10]]
    )


def test_more_classes_than_attributes():
    _, y, a = make_spurious_classification(
        40, n_classes=4, n_attributes=2, correlation=1, random_state=0
    )
    np.testing.assert_array_equal(a, y % 2)


def test_one_attribute():
    _, _, a = make_spurious_classification(10, n_attributes=1, correlation=0.5)
    assert not a.any()


def test_without_noise_rows_are_sums_of_orthonormal_directions():
    data = make_spurious_classification(
        50,
        noise=0,
        core_strength=2,
        spurious_strength=3,
        random_state=0,
        return_X_y=False,
    )
    np.testing.assert_allclose(
        data.directions @ data.directions.T, np.eye(4), atol=1e-12
    )
    parts = data.X @ data.directions.T
    np.testing.assert_allclose(parts[:, :2], 2 * np.eye(2)[data.y], atol=1e-12)
    np.testing.assert_allclose(parts[:, 2:], 3 * np.eye(2)[data.attributes], atol=1e-12)


def test_random_state_and_order():
    first = make_spurious_classification(100, random_state=0)
    second = make_spurious_classification(100, random_state=0)
    other = make_spurious_classification(100, random_state=1)
    for array, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(array, same)
    assert not np.allclose(first[0], other[0])
    assert not np.array_equal(first[1], np.sort(first[1]))
    assert not np.array_equal(first[1], np.arange(100) % 2)


def test_defaults_make_plain_training_read_the_attribute():
    train = make_spurious_classification(random_state=0, return_X_y=False)
    X, y, a = make_spurious_classification(
        4000, correlation=0.5, directions=train.directions, random_state=1
    )
    weights = 1 / np.bincount(2 * train.y + train.attributes)
    weights = weights[2 * train.y + train.attributes]
    plain = LogisticRegression().fit(train.X, train.y).predict(X)
    balanced = (
        LogisticRegression()
        .fit(train.X, train.y, sample_weight=weights * 250)
        .predict(X)
    )
    assert worst_group_accuracy_score(y, plain, attributes=a) < 0.7
    assert worst_group_accuracy_score(y, balanced, attributes=a) > 0.8
    assert group_balanced_accuracy_score(y, balanced, attributes=a) > 0.85


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_samples": 1}, "n_samples must be an integer of at least 2, but is 1"),
        ({"n_features": 3}, "n_features must be an integer of at least 4, but is 3"),
        ({"n_classes": 1}, "n_classes must be an integer of at least 2"),
        ({"n_attributes": 0}, "n_attributes must be an integer of at least 1"),
        ({"n_samples": 10.0}, "n_samples must be an integer"),
        ({"correlation": 1.1}, r"correlation must lie in \[0, 1\], but is 1\.1"),
        ({"noise": -1}, "noise must be finite and not negative, but is -1"),
        ({"core_strength": np.nan}, "core_strength must be finite"),
        ({"directions": np.eye(3)}, r"directions has shape \(3, 3\).*\(4, 20\)"),
    ],
)
def test_bad_parameters(parameters, match):
    with pytest.raises(ValueError, match=match):
        make_spurious_classification(**parameters)
