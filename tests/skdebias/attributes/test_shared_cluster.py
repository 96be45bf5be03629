"""Clusters that all classes share."""

import numpy as np
import pytest

from skdebias.attributes import SharedClusterPseudoAttributes


def _two_directions(n=900, n_classes=3, seed=0):
    """The attribute is the largest direction within the classes, and tied to them."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    attributes = (rng.random(n) < np.where(y == 0, 0.9, 0.2)).astype(int)
    X = rng.normal(size=(n, 12))
    X[:, :n_classes] += 4 * np.eye(n_classes)[y]
    X[:, -1] += 6 * attributes
    return X, y, attributes


def test_the_means_of_the_classes_are_no_clusters():
    X, y, _ = _two_directions()
    X[:, :3] += 40 * np.eye(3)[y]  # far more than the attribute
    found = SharedClusterPseudoAttributes(3, random_state=0).fit_predict(X, y)
    counts = np.zeros((3, 3))
    np.add.at(counts, (y, found), 1)
    assert (counts > 0).all(), "a cluster of one class alone"


def test_an_attribute_that_is_a_main_direction_is_found_in_all_classes():
    X, y, attributes = _two_directions(1800)
    model = SharedClusterPseudoAttributes(4, random_state=0).fit(X[:900], y[:900])
    for rows in (slice(0, 900), slice(900, None)):
        found, known = model.predict(X[rows], y[rows]), attributes[rows]
        # Class-centred values of a class lie apart by its share of the attribute, so
        # that it takes more clusters than values.
        hits = sum(np.bincount(known[found == k]).max() for k in np.unique(found))
        assert hits / len(known) > 0.75
    assert (model.cluster_sizes_.sum(0)[:-1] >= model.cluster_sizes_.sum(0)[1:]).all()
    np.testing.assert_array_equal(
        model.cluster_sizes_.sum(0), np.bincount(model.pseudo_attributes_)
    )


def test_a_permutation_of_the_rows_permutes_the_clusters():
    X, y, _ = _two_directions()
    order = np.random.default_rng(1).permutation(len(y))
    model = SharedClusterPseudoAttributes(5, random_state=0)
    found = model.fit_predict(X, y)
    # The sums of the components are rounded differently.
    assert (model.fit_predict(X[order], y[order]) == found[order]).mean() > 0.99


def test_equal_rows_and_classes_of_one_row():
    X = np.repeat(np.eye(3), [20, 20, 1], axis=0)
    y = np.repeat([0, 1, 2], [20, 20, 1])
    model = SharedClusterPseudoAttributes(4, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict(X, y), model.pseudo_attributes_)
    assert model.cluster_sizes_.shape == (3, 4)


def test_more_clusters_than_rows_are_refused():
    X, y, _ = _two_directions(10, 2)
    with pytest.raises(ValueError, match=r"n_clusters=16 .* 10 rows"):
        SharedClusterPseudoAttributes().fit(X, y)
