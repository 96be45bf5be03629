"""GERNE without attributes: the biased reference, its pseudo-minority, the bounds."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone

from skdebias import ERMClassifier, GERNEClassifier
from skdebias.attributes import (
    ConfidencePseudoAttributes,
)
from skdebias.attributes._confidence import biased_reference
from skdebias.datasets import make_spurious_classification
from skdebias.methods import GERNE, beta_bounds
from tests._instances import PSEUDO_ATTRIBUTES


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(800, random_state=0)


def test_reference_is_the_papers():
    """Learning rate / 10, weight decay * 2, class-balanced, same architecture."""
    model = GERNEClassifier(
        learning_rate=0.02,
        weight_decay=0.3,
        hidden_layer_sizes=(7,),
        batch_size=64,
        selection="worst_group",
        random_state=5,
    )
    reference = biased_reference(model).get_params()
    assert reference["learning_rate"] == pytest.approx(0.002)
    assert reference["weight_decay"] == pytest.approx(0.6)
    assert reference["balance"] == "class"
    assert reference["reweight"] is None
    # Without validation attributes the groups are the classes: class-balanced accuracy.
    assert reference["selection"] == "group_balanced"
    assert reference["hidden_layer_sizes"] == (7,)
    assert reference["batch_size"] == 64
    assert reference["random_state"] == 5


def test_unknown_case_is_the_known_case_on_the_pseudo_attributes(data):
    X, y, _ = data
    model = GERNEClassifier(1.0, t=0.1, max_iter=5, random_state=0).fit(X, y)
    pseudo = ConfidencePseudoAttributes(
        0.1, reference_estimator=biased_reference(model)
    ).fit_predict(X, y)
    np.testing.assert_array_equal(model.pseudo_attributes_, pseudo)
    known = clone(model).fit(X, y, attributes=pseudo)
    np.testing.assert_array_equal(model.coef_, known.coef_)
    assert not hasattr(known, "pseudo_attributes_")


def test_refit_with_attributes_drops_the_pseudo_attributes(data):
    X, y, attributes = data
    model = GERNEClassifier(1.0, max_iter=2, random_state=0).fit(X, y)
    assert not hasattr(model.fit(X, y, attributes=attributes), "pseudo_attributes_")


def test_beyond_the_bounds_raises_if_known_and_warns_if_inferred(data):
    X, y, attributes = data
    model = GERNEClassifier(
        beta=30.0, t=0.25, max_iter=1, learning_rate=1e-6, random_state=0
    )
    with pytest.raises(ValueError, match="outside the bounds"):
        clone(model).fit(X, y, attributes=attributes)
    with pytest.warns(UserWarning, match="outside the bounds") as caught:
        clone(model).fit(X, y)
    assert caught[0].filename == __file__
    for choice, context in (
        ("raise", pytest.raises(ValueError, match="outside")),
        ("warn", pytest.warns(UserWarning, match="outside")),
    ):
        with context:
            clone(model).set_params(out_of_bounds=choice).fit(X, y)


def test_clip_stays_at_the_bound_of_the_pseudo_groups(data):
    X, y, _ = data
    model = GERNEClassifier(
        beta=30.0, t=0.25, out_of_bounds="clip", max_iter=1, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    high = beta_bounds(y, model.pseudo_attributes_, 0.5)[1]
    assert model.beta_ == pytest.approx(high)
    # At the bound the pseudo-majority has no weight left.
    np.testing.assert_allclose(model.extrapolated_distribution_[:, 0], 0.0, atol=1e-12)


@pytest.mark.parametrize("beta", [-1.0, 0.0, 5.0])
def test_half_of_even_classes_is_class_balanced_training(beta):
    """With t = 1/2 both batches have the same distribution, whatever beta is."""
    X, y, _ = make_spurious_classification(400, random_state=0)
    model = GERNEClassifier(
        beta=beta, t=0.5, coupling="shared", max_iter=3, random_state=0
    ).fit(X, y)
    assert model.group_counts_.tolist() == [100] * 4
    np.testing.assert_allclose(model.extrapolated_distribution_, 0.5)
    assert model.beta_bounds_ == (-np.inf, np.inf)
    reference = GERNEClassifier(
        beta=0.0, t=0.5, coupling="shared", max_iter=3, random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(model.coef_, reference.coef_, atol=1e-5)


@pytest.mark.parametrize(("beta", "c"), [(1.0, 0.5), (2.0, 0.4), (-0.5, 1.0)])
def test_extrapolated_distribution_of_proposition_1(data, beta, c):
    """p_ext of the true attribute follows from that of the pseudo-attribute.

    `p_ext(a|y) = sum_k p_ext(k|y) p(a|k,y)`: the true attribute is only moved as far
    as the pseudo-minority is richer in it.
    """
    X, y, attributes = data
    model = GERNEClassifier(
        beta, c, t=0.1, out_of_bounds="warn", max_iter=1, random_state=0
    ).fit(X, y)
    pseudo = model.pseudo_attributes_
    method = GERNE(beta, c)
    plan = method.plan(_groups(y, pseudo))
    weight = np.zeros(len(y))
    for batch in plan.batches:
        share = batch.probabilities / np.bincount(plan.strata)
        weight += batch.factor * share[plan.strata]
    for label in (0, 1):
        n = (y == label).sum()
        # Exactly floor(t n) rows are marked, so p_b(1|y) = t.
        expected = 0.1 + c * (1 + beta) * (0.5 - 0.1)
        got = model.extrapolated_distribution_[label, 1]
        assert got == pytest.approx(expected, abs=1.0 / n)
        inside = (y == label) & (attributes != label)
        by_rows = 2 * weight[inside].sum()
        by_formula = sum(
            model.extrapolated_distribution_[label, k]
            * (inside & (pseudo == k)).sum()
            / ((y == label) & (pseudo == k)).sum()
            for k in (0, 1)
        )
        assert by_rows == pytest.approx(by_formula, abs=1e-9)


def _groups(y, attributes):
    from skdebias._groups import Groups

    return Groups.from_labels(y, attributes, 2, 2)


@pytest.mark.parametrize("inferrer", PSEUDO_ATTRIBUTES.values(), ids=PSEUDO_ATTRIBUTES)
def test_any_pseudo_attributes(data, inferrer):
    X, y, _ = data
    model = GERNEClassifier(pseudo_attributes=inferrer, max_iter=2, random_state=0)
    model.fit(X, y)
    np.testing.assert_array_equal(
        model.pseudo_attributes_, clone(inferrer).fit_predict(X, y)
    )
    assert not hasattr(inferrer, "pseudo_attributes_")  # a clone was fitted


def test_any_reference_estimator(data):
    from sklearn.linear_model import LogisticRegression

    X, y, _ = data
    reference = LogisticRegression(C=1e-3)
    model = GERNEClassifier(
        t=0.1, reference_estimator=reference, max_iter=2, random_state=0
    ).fit(X, y)
    expected = ConfidencePseudoAttributes(0.1, reference_estimator=reference)
    np.testing.assert_array_equal(model.pseudo_attributes_, expected.fit_predict(X, y))


def test_an_ensemble_as_reference_estimator(data):
    """An unfitted forest raises when it is asked for its truth value."""
    from sklearn.ensemble import RandomForestClassifier

    X, y, _ = data
    forest = RandomForestClassifier(n_estimators=5, max_depth=2, random_state=0)
    model = GERNEClassifier(
        t=0.1, reference_estimator=forest, max_iter=2, random_state=0
    )
    expected = ConfidencePseudoAttributes(0.1, reference_estimator=forest)
    np.testing.assert_array_equal(
        model.fit(X, y).pseudo_attributes_, expected.fit_predict(X, y)
    )


def test_the_reference_epoch_is_chosen_on_validation(data):
    X, y, attributes = data
    model = GERNEClassifier(t=0.1, max_iter=4, random_state=0)
    model.fit(
        X,
        y,
        X_val=X[:200],
        y_val=y[:200],
        attributes_val=attributes[:200],
    )
    alone = clone(model)
    reference = biased_reference(alone).fit(X, y, X_val=X[:200], y_val=y[:200])
    expected = ConfidencePseudoAttributes(0.1, reference_estimator=Fitted(reference))
    np.testing.assert_array_equal(model.pseudo_attributes_, expected.fit_predict(X, y))


class Fitted(ERMClassifier):
    """A reference that is fitted already."""

    def __init__(self, model=None):
        super().__init__()
        self.model = model

    def __sklearn_clone__(self):
        return self

    def fit(self, X, y):
        return self.model
