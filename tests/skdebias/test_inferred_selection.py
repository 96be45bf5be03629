"""Epochs are selected by groups of the validation rows that nobody gave."""

import numpy as np
import pytest

from skdebias import DFRClassifier, ERMClassifier, GERNEClassifier
from skdebias.attributes import (
    ErrorSetPseudoAttributes,
    NothingInferredWarning,
    XRMPseudoAttributes,
)
from skdebias.datasets import make_spurious_classification
from skdebias.model_selection import BatchedGridSearchCV
from tests._instances import ONE_OF_EACH, QUICK

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "error::skdebias.attributes.NothingInferredWarning"
)


@pytest.fixture(scope="module")
def data():
    X, y, attributes = make_spurious_classification(
        1500, n_classes=3, n_attributes=3, random_state=0
    )
    return (X[:900], y[:900]), (X[900:], y[900:], attributes[900:])


def _scored(model):
    """Return which (label, attribute) pairs the epochs were scored by, and how."""
    table = model.history_["validation_group_accuracy"]
    pairs = [tuple(map(int, pair)) for pair in model.history_["validation_groups"]]
    return pairs, np.asarray(table), np.asarray(model.history_["validation_score"])


def _inferring(name, **settings):
    """Return an estimator that infers attributes, if its class can."""
    row = ONE_OF_EACH[name]
    if name == "ERMClassifier":
        settings["balance"] = "group"
    return row.make(
        **QUICK | {"max_iter": 5, "pseudo_attributes": ErrorSetPseudoAttributes()},
        selection="worst_inferred_group",
        **settings,
    )


INFERRING = {"UGCClassifier", "GERNEClassifier", "GroupDROClassifier", "ERMClassifier"}
INFERRING |= {"DebiasedClassifier", "DFRClassifier", "JTTClassifier"}


@pytest.mark.parametrize("name", sorted(INFERRING - {"DFRClassifier"}))
def test_estimators_that_infer_select_by_inferred_groups(name, data):
    (X, y), (X_val, y_val, _) = data
    model = _inferring(name).fit(X, y, X_val=X_val, y_val=y_val)
    pairs, table, score = _scored(model)
    assert len(pairs) > 3  # more than the classes
    np.testing.assert_array_equal(score, table.min(1))
    assert table[model.best_epoch_ - 1].min() == score.max()


@pytest.mark.parametrize("name", sorted({*ONE_OF_EACH} - INFERRING))
def test_what_infers_nothing_says_what_to_do(name, data):
    (X, y), (X_val, y_val, _) = data
    with pytest.raises(ValueError, match=r"infers none.*attributes_val=XRMPseudo"):
        _inferring(name).fit(X, y, X_val=X_val, y_val=y_val)


def test_groups_are_those_of_the_inferrer_of_the_fit(data):
    (X, y), (X_val, y_val, _) = data
    inferrer = ErrorSetPseudoAttributes()
    model = GERNEClassifier(
        1.0,
        pseudo_attributes=inferrer,
        selection="worst_inferred_group",
        max_iter=4,
        random_state=0,
    ).fit(X, y, X_val=X_val, y_val=y_val)
    inferrer.fit(X, y, X_val=X_val, y_val=y_val)
    inferred = inferrer.predict(X_val, y_val)
    given = GERNEClassifier(1.0, max_iter=4, random_state=0).fit(
        X,
        y,
        inferrer.pseudo_attributes_,
        X_val=X_val,
        y_val=y_val,
        attributes_val=inferred,
    )
    np.testing.assert_array_equal(model.coef_, given.coef_)
    assert model.history_["validation_score"] == given.history_["validation_score"]


@pytest.mark.parametrize("name", [n for n in ONE_OF_EACH if n != "DFRClassifier"])
def test_a_validation_set_without_attributes_makes_no_head_worse(name, data):
    """Keeping the epoch of the best worst class did, by up to 50 points."""
    (X, y), (X_val, y_val, _) = data
    row = ONE_OF_EACH[name]
    model = row.quick(max_iter=5).fit(X, y, X_val=X_val, y_val=y_val)
    assert model.best_epoch_ == 5
    assert len(model.history_["validation_score"]) == 5


def test_nothing_inferred_is_said_and_groups_are_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 900)
    X = rng.normal(size=(900, 10)).astype(np.float32)
    X[:, 0] += 2 * y - 1
    model = GERNEClassifier(
        pseudo_attributes=XRMPseudoAttributes(random_state=0),
        selection="worst_inferred_group",
        max_iter=5,
        random_state=0,
    )
    with pytest.warns(NothingInferredWarning):
        model.fit(X[:600], y[:600], X_val=X[600:], y_val=y[600:])
    assert len(model.history_["validation_groups"]) == 2


def test_a_label_that_training_lacks_has_no_attribute_to_infer(data):
    (X, y), (X_val, y_val, _) = data
    y_val = np.where(np.arange(len(y_val)) % 10 == 0, 7, y_val)
    model = GERNEClassifier(
        pseudo_attributes=ErrorSetPseudoAttributes(),
        selection="worst_inferred_group",
        max_iter=2,
        random_state=0,
    ).fit(X, y, X_val=X_val, y_val=y_val)
    pairs, table, _ = _scored(model)
    unseen = [label == 7 for label, _ in pairs]
    assert sum(unseen) == 1
    assert not table[:, unseen].any()


def test_given_attributes_are_not_inferred(data):
    (X, y), (X_val, y_val, a_val) = data
    model = ERMClassifier(selection="worst_inferred_group")
    with pytest.raises(ValueError, match=r"attributes_val was given.*'worst_group'"):
        model.fit(X, y, X_val=X_val, y_val=y_val, attributes_val=a_val)


def test_dfr_chooses_its_penalty_by_inferred_groups(data):
    (X, y), (X_val, y_val, _) = data
    inferrer = XRMPseudoAttributes(random_state=0)
    settings = {"n_draws": 1, "Cs": (1.0, 0.001), "random_state": 0}
    model = DFRClassifier(
        pseudo_attributes=inferrer, selection="worst_inferred_group", **settings
    )
    model.fit(X, y, X_val=X_val, y_val=y_val)
    known = DFRClassifier(**settings).fit(
        X,
        y,
        inferrer.fit_predict(X, y),
        X_val=X_val,
        y_val=y_val,
        attributes_val=inferrer.predict(X_val, y_val),
    )
    np.testing.assert_array_equal(model.coef_, known.coef_)


def test_batched_searches_select_as_single_fits_do(data):
    (X, y), (X_val, y_val, _) = data
    settings = {"selection": "worst_inferred_group", "max_iter": 3, "random_state": 0}
    base = GERNEClassifier(pseudo_attributes=ErrorSetPseudoAttributes(), **settings)
    search = BatchedGridSearchCV(base, {"weight_decay": [0.01, 1.0]}, cv=2)
    search.fit(X, y, X_val=X_val, y_val=y_val)
    alone = base.set_params(**search.best_params_).fit(X, y, X_val=X_val, y_val=y_val)
    best = search.best_estimator_
    np.testing.assert_allclose(best.coef_, alone.coef_, atol=1e-6)
    assert best.history_["validation_groups"] == alone.history_["validation_groups"]
