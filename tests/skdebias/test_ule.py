"""ULEClassifier: parameters, fitted attributes, guard, and a student's own features."""

import warnings

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import cross_validate

from skdebias import (
    AntiClassifierWarning,
    AttributesIgnoredWarning,
    ERMClassifier,
    ULEClassifier,
)
from skdebias.metrics import worst_group_accuracy_score

PAPER = {
    "saliency": "logit",
    "normalize": "max",
    "normalize_over": "sample",
    "student_loss": "ce",
}
FAST = {"learning_rate": 0.02, "max_iter": 8, "batch_size": 64, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    a = np.where(rng.random(600) < 0.9, y, 1 - y)
    X = rng.normal(size=(600, 10)) + np.outer(2 * y - 1, np.eye(10)[0])
    X += 2 * np.outer(2 * a - 1, np.eye(10)[1])
    return X.astype(np.float32), y, a


@pytest.fixture(scope="module")
def other(data):
    """Embeddings of the same rows, of another width."""
    X, _, _ = data
    mixing = np.random.default_rng(1).normal(size=(10, 6))
    return (X @ mixing).astype(np.float32)


def _angle(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    "options", [{}, {"balance": None}, PAPER], ids=["default", "unbalanced", "paper"]
)
def test_lam_one_is_erm(data, options):
    X, y, _ = data
    balance = options.get("balance", "class")
    erm = ERMClassifier(balance=balance, **FAST).fit(X, y)
    ule = ULEClassifier(1.0, **options, **FAST).fit(X, y)
    np.testing.assert_allclose(ule.coef_, erm.coef_, atol=1e-6)
    np.testing.assert_allclose(ule.intercept_, erm.intercept_, atol=1e-6)
    unlearned = ULEClassifier(0.8, **options, **FAST).fit(X, y)
    assert np.abs(unlearned.coef_ - erm.coef_).max() > 0.05


@pytest.mark.parametrize(
    ("arguments", "share", "gain"),
    [({}, 0.9, 0.0), ({"lam": 0.5, "balance": None}, 0.3, 0.15)],
)
def test_it_unlearns_a_shortcut_of_generated_data(data, arguments, share, gain):
    """Where the student is more biased than the teacher, as ULE presumes."""
    X, y, a = data
    options = FAST | {"max_iter": 40}
    erm = ERMClassifier(**options).fit(X, y)
    ule = ULEClassifier(**arguments, **options).fit(X, y)
    shares = [c.coef_[0, 1] / c.coef_[0, 0] for c in (erm, ule)]
    assert shares[1] < share * shares[0]
    scores = [
        worst_group_accuracy_score(y, c.predict(X), attributes=a) for c in (erm, ule)
    ]
    assert scores[1] > scores[0] + gain


def test_the_student_is_kept_and_does_not_see_lam(data):
    X, y, _ = data
    students = [ULEClassifier(lam, **FAST).fit(X, y) for lam in (0.8, 1.0)]
    np.testing.assert_allclose(
        students[0].student_coef_, students[1].student_coef_, rtol=1e-5
    )
    assert students[0].student_intercept_.shape == (1,)
    assert np.abs(students[0].coef_ - students[1].coef_).max() > 0.05


def test_cosine_is_that_of_the_weights(data):
    X, y, _ = data
    clf = ULEClassifier(0.8, **FAST).fit(X, y)
    assert clf.best_epoch_ == clf.n_iter_ == len(clf.cosine_)
    expected = _angle(clf.coef_, clf.student_coef_)
    assert clf.cosine_[-1] == pytest.approx(expected, abs=1e-5)
    three = (y + (X[:, 2] > 0.5)).clip(0, 2)
    clf = ULEClassifier(0.9, **FAST).fit(X, three)
    centred = [c - c.mean(0) for c in (clf.coef_, clf.student_coef_)]
    assert clf.cosine_[-1] == pytest.approx(_angle(*centred), abs=1e-5)


def test_the_student_has_a_weight_decay_of_its_own(data):
    X, y, _ = data
    weak, strong = (
        ULEClassifier(1.0, student_weight_decay=decay, **FAST).fit(X, y)
        for decay in (1e-2, 3.0)
    )
    np.testing.assert_allclose(weak.coef_, strong.coef_, rtol=1e-5)
    norms = [np.linalg.norm(c.student_coef_) for c in (weak, strong)]
    assert norms[1] < 0.7 * norms[0]


def test_the_student_can_be_frozen(data):
    X, y, _ = data
    two = ULEClassifier(1.0, **FAST | {"max_iter": 2}).fit(X, y)
    frozen = ULEClassifier(1.0, student_epochs=2, **FAST).fit(X, y)
    free = ULEClassifier(1.0, **FAST).fit(X, y)
    np.testing.assert_array_equal(frozen.student_coef_, two.student_coef_)
    assert np.abs(free.student_coef_ - two.student_coef_).max() > 0.01
    np.testing.assert_allclose(frozen.coef_, free.coef_, rtol=1e-5)


def _anti():
    """Starts as the student goes and then turns away from it."""
    return ULEClassifier(0.1, **FAST | {"learning_rate": 0.1, "max_iter": 6})


def test_the_guard_keeps_an_epoch_from_before_the_cliff_and_warns(data):
    X, y, _ = data
    with pytest.warns(AntiClassifierWarning, match=r"Raise lam \(now 0.1\)") as caught:
        clf = _anti().fit(X, y)
    assert caught[0].filename == __file__
    assert clf.cosine_.min() < -0.9
    assert clf.best_epoch_ < clf.n_iter_ == 6
    assert clf.best_epoch_ == np.flatnonzero(clf.cosine_ < -0.5)[0]
    kept = _angle(clf.coef_, clf.student_coef_)
    assert kept == pytest.approx(clf.cosine_[clf.best_epoch_ - 1], abs=1e-4)
    assert kept >= -0.5


def test_the_guard_is_silent_on_a_sound_fit(data):
    X, y, _ = data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ULEClassifier(0.9, **FAST).fit(X, y)
        ULEClassifier(1.0, hidden_layer_sizes=(8,), **FAST).fit(X, y)


def test_a_validation_score_chooses_over_the_guard(data):
    """Labels turned round: the negative of the student is what validation wants."""
    X, y, _ = data
    with pytest.warns(AntiClassifierWarning):
        clf = _anti().fit(X, y, X_val=X, y_val=1 - y)
    assert clf.best_epoch_ > 1
    assert clf.score(X, y) < 0.5


def test_hidden_layers(data):
    X, y, _ = data
    clf = ULEClassifier(0.9, hidden_layer_sizes=(8,), **FAST).fit(X, y)
    assert [c.shape for c in clf.student_coefs_] == [(10, 8), (8, 1)]
    assert not hasattr(clf, "student_coef_")
    assert clf.score(X, y) > 0.8
    assert len(clf.cosine_) == 8
    logits = clf.decision_function(X)
    student = clone(clf)
    student.__dict__.update(vars(clf))
    student.coefs_, student.intercepts_ = clf.student_coefs_, clf.student_intercepts_
    correlation = np.corrcoef(logits, student.decision_function(X))[0, 1]
    assert clf.cosine_[-1] == pytest.approx(correlation, abs=0.1)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_warm_start_goes_on_with_both_heads(data, hidden):
    X, y, _ = data
    options = FAST | {"hidden_layer_sizes": hidden, "warm_start": True, "momentum": 0}
    clf = ULEClassifier(1.0, **options | {"max_iter": 3}).fit(X, y)
    loss = clf.loss_curve_[-1]
    last = (clf.student_coef_ if not hidden else clf.student_coefs_[0]).copy()
    clf.set_params(max_iter=1, learning_rate=1e-8).fit(X, y)
    now = clf.student_coef_ if not hidden else clf.student_coefs_[0]
    np.testing.assert_allclose(now, last, atol=1e-5)
    assert clf.loss_curve_[-1] == pytest.approx(loss, abs=0.05)
    assert loss < 0.8


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_x_student_is_what_the_student_reads(data, other, hidden):
    X, y, a = data
    options = FAST | {"hidden_layer_sizes": hidden}
    clf = ULEClassifier(1.0, **options)
    clf.fit(X, y, X_student=other, X_val=X, y_val=y, attributes_val=a)
    teacher = ULEClassifier(1.0, **options)
    teacher.fit(X, y, X_val=X, y_val=y, attributes_val=a)
    assert clf.best_epoch_ == teacher.best_epoch_
    student = ULEClassifier(1.0, **options | {"max_iter": clf.best_epoch_})
    student.fit(other, y)
    names = ["coef_"] if not hidden else ["coefs_"]
    for name in names:
        for own, alone in zip(getattr(clf, name), getattr(teacher, name)):
            np.testing.assert_allclose(own, alone, atol=1e-5)
        for own, alone in zip(
            getattr(clf, f"student_{name}"), getattr(student, f"student_{name}")
        ):
            np.testing.assert_allclose(own, alone, atol=1e-5)
    np.testing.assert_array_equal(clf.predict(X), teacher.predict(X))


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_the_gram_penalty_decorrelates_teacher_and_student(data, other, hidden):
    X, y, _ = data
    options = FAST | {"max_iter": 30, "hidden_layer_sizes": hidden}
    plain, opposed = (
        ULEClassifier(lam, **options).fit(X, y, X_student=other) for lam in (1.0, 0.3)
    )
    assert opposed.cosine_[-1] < plain.cosine_[-1] - 0.1


def test_x_student_may_be_a_float16_memory_map(data, other, tmp_path):
    X, y, _ = data
    np.save(tmp_path / "student.npy", other.astype(np.float16))
    mapped = np.load(tmp_path / "student.npy", mmap_mode="r")
    clf = ULEClassifier(0.8, **FAST).fit(X, y, X_student=mapped)
    plain = ULEClassifier(0.8, **FAST).fit(X, y, X_student=other.astype(np.float16))
    np.testing.assert_array_equal(clf.coef_, plain.coef_)


def test_x_student_is_checked(data, other):
    X, y, _ = data
    with pytest.raises(ValueError, match="X_student has 599 rows and X has 600"):
        ULEClassifier(**FAST).fit(X, y, X_student=other[1:])
    with pytest.raises(ValueError, match="divergence='mse'"):
        ULEClassifier(divergence="l1", **FAST).fit(X, y, X_student=other)
    broken = other.copy()
    broken[3, 3] = np.nan
    with pytest.raises(ValueError, match="X_student contains NaN"):
        ULEClassifier(**FAST).fit(X, y, X_student=broken)
    clf = ULEClassifier(0.9, **FAST).fit(X, y, X_student=other)
    # The rows are let go of.
    assert not any(np.shape(value) == other.shape for value in vars(clf).values())


def test_x_student_is_routed(data, other):
    X, y, _ = data
    with config_context(enable_metadata_routing=True):
        scores = cross_validate(
            ULEClassifier(0.9, **FAST),
            X,
            y,
            cv=3,
            params={"X_student": other},
            return_estimator=True,
        )
    for fitted in scores["estimator"]:
        assert fitted.student_coef_.shape == (1, 6)
        assert fitted.coef_.shape == (1, 10)


def test_attributes_do_not_matter(data):
    X, y, a = data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without = ULEClassifier(0.9, **FAST).fit(X, y)
        with pytest.warns(AttributesIgnoredWarning):
            with_ = ULEClassifier(0.9, **FAST).fit(X, y, a)
    np.testing.assert_array_equal(with_.coef_, without.coef_)
    assert len(with_.group_counts_) == 4
