"""CORAL, MMD, CausIRL and CnC: distances, limits, refusals and what they are for."""

from itertools import combinations

import numpy as np
import pytest
import torch
from representation_methods import discrepancy, moments_apart
from sklearn.base import clone

from skdebias import DebiasedClassifier, MissingAttributesWarning
from skdebias.attributes import PredictedClassPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.methods import CORAL, ERM, MMD, CausIRL, CnC, Groups
from skdebias.methods._cnc import anchor_groups

METHODS = {
    "coral": CORAL(),
    "mmd": MMD(),
    "causirl": CausIRL(),
    "causirl, mmd": CausIRL(distance_of="mmd"),
    "cnc": CnC(),
}
QUICK = {
    "hidden_layer_sizes": (6,),
    "learning_rate": 0.05,
    "max_iter": 4,
    "random_state": 0,
    "device": "cpu",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*accuracy:UserWarning")


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(
        400, n_features=8, correlation=0.9, random_state=0
    )


@pytest.mark.parametrize("n_parts", [2, 4])
@pytest.mark.parametrize(("method", "atol"), [(CORAL(), 1e-6), (MMD(), 1e-5)])
def test_values_and_derivatives_of_a_distance(method, atol, n_parts):
    """Of three heads, against the mean over pairs; one part has a single row."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(3, 40, 5)) * 0.3).float()
    part = rng.integers(n_parts, size=40)
    part[0] = n_parts
    numbers = np.arange(n_parts + 1)
    shares = torch.from_numpy((part == numbers[:, None]).astype(np.float32))
    shares[n_parts] = 0.0  # what the penalty makes of it
    shares[:n_parts] /= shares[:n_parts].sum(1, keepdim=True)

    def by_pairs(head):
        parts = [head[part == number] for number in range(n_parts)]
        apart = []
        for one, other in combinations(parts, 2):
            if isinstance(method, CORAL):
                apart.append(moments_apart(one, other))
            else:
                equal = (torch.ones(len(p)) for p in (one, other))
                apart.append(discrepancy(one, other, *equal, method.gammas))
        return torch.stack(apart).mean()

    found, expected = (rows.clone().requires_grad_() for _ in range(2))
    values = method.distance(found, shares.expand(3, -1, -1))
    reference = torch.stack([by_pairs(head) for head in expected])
    np.testing.assert_allclose(values.detach(), reference.detach(), atol=atol)
    values.sum().backward()
    reference.sum().backward()
    np.testing.assert_allclose(found.grad, expected.grad, atol=atol)


def test_without_its_weight_it_is_group_balanced_erm(data):
    X, y, a = data
    erm = DebiasedClassifier(ERM(balance="group"), **QUICK).fit(X, y, a)
    for method in (CORAL(0.0), MMD(0.0), CausIRL(0.0), CnC(0.0)):
        fitted = DebiasedClassifier(method, **QUICK).fit(X, y, a)
        for ours, theirs in zip(fitted.coefs_, erm.coefs_):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_linear_head_is_refused(name, data):
    X, y, a = data
    model = DebiasedClassifier(METHODS[name])
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=.*FineTuneClassifier"):
        model.fit(X, y, a)
    with pytest.raises(ValueError, match=rf"which {type(METHODS[name]).__name__} has"):
        model.set_params(solver="lbfgs").fit(X, y, a)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_again_and_with_other_numbers_for_other_seeds(name, data):
    X, y, a = data
    model = DebiasedClassifier(METHODS[name], **QUICK)
    first, again = (clone(model).fit(X, y, a).coefs_[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = model.set_params(random_state=1).fit(X, y, a).coefs_[0]
    assert abs(first - other).max() > 1e-3


WRONG = {
    "penalty_weight": (CORAL(-1.0), r"penalty_weight=-1.0 of CORAL: .* at least 0"),
    "no number": (MMD("strong"), "penalty_weight='strong' of MMD"),
    "balance": (
        CausIRL(balance="group"),
        "balance='group' of CausIRL: .*'class'",
    ),
    "distance": (CausIRL(distance_of="l2"), "distance_of='l2' .*'coral', 'mmd'"),
    "gammas": (MMD(gammas=(1.0, -1.0)), r"gammas=\(1.0, -1.0\) of MMD .*positive"),
    "one gamma": (CausIRL(gammas=1.0), "gammas=1.0 of CausIRL .*tuple"),
    "weight": (CnC(1.0), r"weight=1.0 of CnC: .*\[0, 0.99\]"),
    "temperature": (CnC(temperature=0.0), "temperature=0.0 of CnC"),
}


@pytest.mark.parametrize("name", WRONG)
def test_fields_that_cannot_be(name, data):
    X, y, a = data
    method, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        DebiasedClassifier(method, **QUICK).fit(X, y, a)


def test_one_environment_is_plain_training_with_a_warning(data):
    X, y, _ = data
    for method in (CORAL(), MMD(), CnC(0.5)):
        with pytest.warns(MissingAttributesWarning):
            fitted = DebiasedClassifier(method, **QUICK).fit(X, y)
        assert all(np.isfinite(coef).all() for coef in fitted.coefs_)


@pytest.mark.filterwarnings("ignore::skdebias.UnusableAttributesWarning")
def test_attributes_in_some_classes_only():
    X, y, a = make_spurious_classification(
        400, n_features=8, n_classes=3, n_attributes=4, random_state=0
    )
    a = np.where((y == 0) & (a > 0), 1, a)
    for method in METHODS.values():
        fitted = DebiasedClassifier(method, **QUICK).fit(X, y, a)
        assert all(np.isfinite(coef).all() for coef in fitted.coefs_)


def test_alignment_hides_the_attribute():
    """Hidden layers tell the attribute less, where the penalty counts."""
    X, y, a = make_spurious_classification(1500, correlation=0.9, random_state=0)
    X = X.astype(np.float32)
    apart = {}
    for method in (CORAL(0.0), CORAL(3.0), MMD(3.0), CausIRL(10.0)):
        model = DebiasedClassifier(
            method,
            hidden_layer_sizes=(16,),
            learning_rate=0.05,
            max_iter=15,
            random_state=0,
        ).fit(X, y, a)
        hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
        hidden /= hidden.std()
        # Within a class: the labels tell the classes apart, and are to.
        gaps = [
            hidden[(y == k) & (a == 1)].mean(0) - hidden[(y == k) & (a == 0)].mean(0)
            for k in (0, 1)
        ]
        apart[method] = np.square(gaps).sum()
    plain, *aligned = apart.values()
    assert all(value < 0.5 * plain for value in aligned), apart


# --- correct-n-contrast --------------------------------------------------------------


def test_anchors_are_the_rows_that_the_first_model_gets_right():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 900, p=[0.85, 0.1, 0.05])
    # It predicts the largest class for most rows of the others.
    right = rng.random(900) < np.array([0.95, 0.3, 0.2])[y]
    predicted = np.where(right, y, (y + 1 + rng.integers(2, size=900)) % 3)
    predicted[~right & (y > 0)] = 0
    groups = Groups.from_labels(y, predicted, 3, 3)
    np.testing.assert_array_equal(
        groups.cells[anchor_groups(groups)], [[0, 0], [1, 1], [2, 2]]
    )


def test_contrast_draws_a_class_together():
    """Rows of a class of other predictions come closer than rows of other classes."""
    X, y, _ = make_spurious_classification(1500, correlation=0.9, random_state=0)
    X = X.astype(np.float32)
    closer = []
    for weight in (0.0, 0.75):
        model = DebiasedClassifier(
            CnC(weight, temperature=0.5),
            pseudo_attributes=PredictedClassPseudoAttributes(),
            hidden_layer_sizes=(16,),
            learning_rate=0.05,
            max_iter=15,
            random_state=0,
        ).fit(X, y)
        predicted = model.pseudo_attributes_
        hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
        hidden /= np.linalg.norm(hidden, axis=1, keepdims=True) + 1e-9
        anchors = hidden[(y == 0) & (predicted == 0)]
        positives = hidden[(y == 0) & (predicted == 1)]
        negatives = hidden[(y == 1) & (predicted == 0)]
        closer.append((anchors @ positives.T).mean() - (anchors @ negatives.T).mean())
    assert closer[1] > closer[0] + 0.1, closer


# --- files ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", [MMD(gammas=(0.5, 2.0)), CnC(0.5)])
def test_a_file_carries_the_method(method, data, tmp_path):
    X, y, a = data
    model = DebiasedClassifier(method, **QUICK).fit(X, y, a)
    save(model, tmp_path / "head.safetensors")
    loaded = load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(
        loaded.decision_function(X), model.decision_function(X)
    )
    again = clone(loaded).fit(X, y, a)
    np.testing.assert_array_equal(again.coefs_[0], model.coefs_[0])
