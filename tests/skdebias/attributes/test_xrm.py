"""Twin heads that imitate each other's mistakes."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skdebias import GERNEClassifier
from skdebias._device import resolve_device
from skdebias._engine._features import Features
from skdebias.attributes import NothingInferredWarning, XRMPseudoAttributes
from skdebias.attributes._last_layer import logistic, logits
from skdebias.attributes._xrm import imitated, separation, split_classes
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import worst_group_accuracy_score

CPU = resolve_device("cpu")


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_probability_of_a_flip_is_that_of_the_paper(n_classes):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, n_classes)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labels = (p.argmax(1) + 1) % n_classes
    drawn = (np.arange(20000) + 0.5) / 20000
    flipped = np.stack([imitated(labels, p, np.full(5, u)) for u in drawn])
    assert set(np.unique(flipped[:, 0])) == {labels[0], p[0].argmax()}
    expected = (p.max(1) - 1 / n_classes) * n_classes / (n_classes - 1)
    np.testing.assert_allclose((flipped != labels).mean(0), expected, atol=1e-4)


def test_no_doubt_always_flips_and_chance_never_does():
    labels = np.array([0, 0])
    p = np.array([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    for u in (0.0, 0.999):
        np.testing.assert_array_equal(imitated(labels, p, np.full(2, u)), [1, 0])


def test_halves_have_the_same_share_of_every_class():
    codes = np.repeat([0, 1, 2, 3], [101, 37, 2, 1])
    first, second = split_classes(codes, 0)
    np.testing.assert_array_equal(np.sort([*first, *second]), np.arange(len(codes)))
    counts = [np.bincount(codes[half], minlength=4) for half in (first, second)]
    assert np.abs(counts[0] - counts[1]).max() == 1
    assert counts[0][2] == counts[1][2] == 1
    # At random, and of another seed other ones.
    assert 20 < (first[:51] % 2).sum() < 31
    assert (split_classes(codes, 1)[0] != first).any()


def test_without_flips_each_twin_is_a_logistic_regression_on_its_half():
    X, y, _ = make_spurious_classification(600, n_features=8, random_state=0)
    model = XRMPseudoAttributes(
        0.1, balance=None, n_rounds=1, round_iter=500, random_state=3
    ).fit(X, y)
    seed = int(np.random.RandomState(3).randint(np.iinfo(np.int32).max))
    features = Features(X, CPU)
    wrong = []
    for half in split_classes(y, seed):
        # Two logits share the penalty of one.
        head = logistic(Features(X[half], CPU), y[half], 2, 0.2)
        wrong.append(logits(features, head).argmax(1).numpy() != y)
    assert (wrong[0] != wrong[1]).any()
    np.testing.assert_array_equal(model.pseudo_attributes_, wrong[0] | wrong[1])
    assert model.flip_rate_ == 0.0


def test_row_weights_are_rows_so_many_times():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    y = rng.integers(0, 3, 60)
    times = rng.integers(1, 4, 60)
    weighted = logistic(Features(X, CPU), y, 3, 0.1, times.astype(float))
    rows = np.repeat(np.arange(60), times)
    repeated = logistic(Features(X[rows], CPU), y[rows], 3, 0.1)
    np.testing.assert_allclose(weighted.weight, repeated.weight, atol=2e-3)
    # The centre is another, the function is not.
    torch.testing.assert_close(
        logits(Features(X, CPU), weighted).diff(dim=1),
        logits(Features(X, CPU), repeated).diff(dim=1),
        atol=5e-3,
        rtol=0,
    )


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_conflicting_rows_are_found(n_classes):
    X, y, attributes = make_spurious_classification(
        4000, n_classes=n_classes, n_attributes=n_classes, random_state=0
    )
    model = XRMPseudoAttributes(random_state=0).fit(X[:2000], y[:2000])
    for rows in (slice(0, 2000), slice(2000, None)):  # and new ones
        marked = model.predict(X[rows], y[rows]) == 1
        conflicting = (attributes != y)[rows]
        assert conflicting[marked].mean() > 0.9  # precision
        assert marked[conflicting].mean() > 0.85  # recall
    assert model.separation_ > 1.8
    assert model.weight_decay_ in (0.03, 0.3, 3.0)


def test_a_balanced_head_on_what_is_found_does_what_known_attributes_do():
    X, y, attributes = make_spurious_classification(3000, random_state=0)
    train, test = slice(0, 2000), slice(2000, None)
    worst = {}
    for name, inferrer, given in (
        ("known", None, attributes[train]),
        ("inferred", XRMPseudoAttributes(random_state=0), None),
        ("class-balanced", XRMPseudoAttributes(min_separation=1e6), None),
    ):
        model = GERNEClassifier(pseudo_attributes=inferrer, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NothingInferredWarning)
            model.fit(X[train], y[train], given)
        worst[name] = worst_group_accuracy_score(
            y[test], model.predict(X[test]), attributes=attributes[test]
        )
    assert worst["inferred"] > worst["known"] - 0.05
    assert worst["inferred"] > worst["class-balanced"] + 0.1


def test_hard_rows_alone_are_no_attribute():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    X = rng.normal(size=(2000, 20)).astype(np.float32)
    X[:, 0] += 2 * y - 1
    with pytest.warns(NothingInferredWarning, match=r"separation \d.*min_separation=0"):
        model = XRMPseudoAttributes(random_state=0).fit(X, y)
    assert model.separation_ < 1.08
    assert not model.pseudo_attributes_.any()
    assert not model.predict(X[:100], y[:100]).any()
    taken = clone(model).set_params(min_separation=0.0).fit(X, y)
    assert 0.1 < taken.pseudo_attributes_.mean() < 0.3


def test_separation_of_a_normal_tail_is_one_and_of_two_clouds_more():
    rng = np.random.default_rng(0)
    margin, codes = rng.normal(size=200000), np.zeros(200000, int)
    for share in (0.02, 0.3, 0.5):
        cut = np.quantile(margin, share)
        assert abs(separation(margin, margin < cut, codes) - 1.0) < 0.02
    apart = margin - 6.0 * (np.arange(200000) % 10 == 0)
    assert separation(apart, apart < -3, codes) > 2.0
    assert separation(margin, np.zeros(200000, bool), codes) == 0.0


def test_weights_of_rows_are_rows_so_many_times_in_the_separation():
    rng = np.random.default_rng(0)
    margin, codes = rng.normal(size=200), rng.integers(0, 2, 200)
    times = rng.integers(1, 5, 200)
    repeated = (np.repeat(x, times) for x in (margin, margin < -0.5, codes))
    expected = separation(*repeated)
    assert abs(separation(margin, margin < -0.5, codes, times) - expected) < 1e-9


def test_rows_of_no_weight_are_left_out_and_constant_weights_are_none():
    X, y, _ = make_spurious_classification(600, random_state=0)
    weights = np.repeat([2.0, 0.0], [500, 100])
    model = XRMPseudoAttributes(0.3, random_state=0)
    weighted = model.fit_predict(X, y, sample_weight=weights)
    np.testing.assert_array_equal(weighted[500:], -1)
    alone = model.fit_predict(X[:500], y[:500])
    assert (weighted[:500] == alone).mean() > 0.99  # rounded differently


def test_a_permutation_of_the_rows_finds_the_same_rows():
    X, y, _ = make_spurious_classification(2000, random_state=1)
    order = np.random.default_rng(0).permutation(2000)
    model = XRMPseudoAttributes(random_state=0)
    found = model.fit_predict(X, y)
    permuted = model.fit_predict(X[order], y[order])
    # Others are drawn into the halves; the conflicting rows are those that they are.
    assert (permuted != found[order]).mean() < 0.01


def test_the_same_seed_gives_the_same():
    X, y, _ = make_spurious_classification(1000, n_classes=3, random_state=0)
    labels = np.array(["a", "b", "c"])[y]
    first = XRMPseudoAttributes(random_state=0).fit(X, y)
    second = XRMPseudoAttributes(random_state=0).fit(X.astype(np.float64), labels)
    np.testing.assert_array_equal(first.pseudo_attributes_, second.pseudo_attributes_)
    assert first.separation_ == second.separation_


def _with_a_rare_class(share):
    X, y, attributes = make_spurious_classification(3000, random_state=0)
    kept = (y == 0) | (np.random.default_rng(0).random(3000) < share)
    return X[kept], y[kept], attributes[kept]


def test_both_balances_mark_what_each_of_them_does():
    X, y, _ = _with_a_rare_class(0.3)
    alone, both = (
        [
            XRMPseudoAttributes(0.1, balance=balance, random_state=0).fit_predict(X, y)
            for balance in balances
        ]
        for balances in ((None, "class"), ("both",))
    )
    assert (alone[0] != alone[1]).any()
    np.testing.assert_array_equal(both[0], alone[0] & alone[1])


def test_twins_that_see_one_class_alone_do_not_count():
    X, y, attributes = _with_a_rare_class(0.05)
    with pytest.warns(NothingInferredWarning):
        XRMPseudoAttributes(3.0, balance=None, random_state=0).fit(X, y)
    both = XRMPseudoAttributes(3.0, random_state=0).fit_predict(X, y) == 1
    balanced = XRMPseudoAttributes(3.0, balance="class", random_state=0)
    np.testing.assert_array_equal(both, balanced.fit_predict(X, y))
    assert (attributes != y)[both].mean() > 0.7


def test_all_components_are_all_features():
    X, y, _ = make_spurious_classification(1000, n_features=40, random_state=0)
    rotated, whole = (
        XRMPseudoAttributes(0.3, n_components=n, random_state=0).fit(X, y)
        for n in (39, None)
    )
    assert (rotated.pseudo_attributes_ != whole.pseudo_attributes_).mean() < 0.01


@pytest.mark.filterwarnings("ignore::skdebias.attributes.NothingInferredWarning")
def test_a_class_of_one_row():
    X, y, _ = make_spurious_classification(300, random_state=0)
    y = y.copy()
    y[:1] = 2
    model = XRMPseudoAttributes(min_separation=0.0, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict(X, y), model.pseudo_attributes_)


def test_constant_features_infer_nothing():
    y = np.arange(40) % 2
    with pytest.warns(NothingInferredWarning):
        model = XRMPseudoAttributes().fit(np.ones((40, 3)), y)
    assert model.separation_ == 0.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": "best"}, "weight_decay"),
        ({"balance": "group"}, "balance"),
        ({"n_rounds": 0}, "n_rounds"),
        ({"n_components": 0}, "n_components"),
        ({"min_separation": True}, "min_separation"),
    ],
)
def test_parameters_are_checked(settings, named):
    X, y, _ = make_spurious_classification(50, random_state=0)
    with pytest.raises(ValueError, match=named):
        XRMPseudoAttributes(**settings).fit(X, y)
