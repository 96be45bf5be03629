"""Pseudo-attributes of rows that were not trained on."""

import numpy as np
import pytest
from sklearn.base import clone

from skdebias.datasets import make_spurious_classification
from tests._instances import PSEUDO_ATTRIBUTES

pytestmark = pytest.mark.filterwarnings(
    "ignore::skdebias.attributes.WeakClustersWarning"
)


def _set(part):
    """The first 900 rows of a set are trained on, the other 3000 are new."""
    X, y, attributes = make_spurious_classification(3900, n_classes=3, random_state=0)
    rows = slice(0, 900) if part == "training" else slice(900, None)
    return X[rows], np.array(["a", "b", "c"])[y[rows]], attributes[rows]


@pytest.fixture(scope="module")
def fitted():
    X, y, _ = _set("training")
    return {
        name: clone(inferrer).fit(X, y) for name, inferrer in PSEUDO_ATTRIBUTES.items()
    }


@pytest.mark.parametrize("name", PSEUDO_ATTRIBUTES)
def test_training_rows_keep_their_pseudo_attributes(fitted, name):
    X, y, _ = _set("training")
    np.testing.assert_array_equal(
        fitted[name].predict(X, y), fitted[name].pseudo_attributes_
    )


@pytest.mark.parametrize("name", PSEUDO_ATTRIBUTES)
def test_a_row_is_assigned_by_itself(fitted, name):
    X, y, _ = _set("new")
    together = fitted[name].predict(X, y)
    alone = [fitted[name].predict(X[i : i + 1], y[i : i + 1])[0] for i in range(40)]
    np.testing.assert_array_equal(together[:40], alone)
    assert len(np.unique(together)) > 1


@pytest.mark.parametrize("name", ["confidence", "errors", "clusters", "logistic"])
def test_new_conflicting_rows_are_found_as_in_training(fitted, name):
    shares = []
    for part in ("training", "new"):
        X, y, attributes = _set(part)
        minority = fitted[name].predict(X, y) > 0
        conflicting = attributes != np.searchsorted(["a", "b", "c"], y)
        shares.append(conflicting[minority].mean())
        assert shares[-1] > 1.3 * conflicting.mean()
    assert abs(shares[0] - shares[1]) < 0.1


def test_errors_are_those_of_the_reference(fitted):
    X, y, _ = _set("new")
    model = fitted["errors"]
    wrong = model.reference_estimator_.predict(X) != y
    np.testing.assert_array_equal(model.predict(X, y), wrong)


@pytest.mark.parametrize("name", PSEUDO_ATTRIBUTES)
def test_an_unseen_label_is_refused(fitted, name):
    X, _, _ = _set("new")
    with pytest.raises(ValueError, match=r"holds .*'d'.*did not occur in training"):
        fitted[name].predict(X[:2], np.array(["a", "d"]))


def test_labels_missing_from_the_new_rows_are_fine(fitted):
    X, y, _ = _set("training")
    only = y == "b"
    for model in fitted.values():
        np.testing.assert_array_equal(
            model.predict(X[only], y[only]), model.pseudo_attributes_[only]
        )
