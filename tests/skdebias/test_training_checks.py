"""A head that is of no use on its own training rows says so."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from skdebias import (
    AFRClassifier,
    CollapsedHeadWarning,
    DebiasedClassifier,
    ERMClassifier,
    GERNEClassifier,
    JTTClassifier,
    LfFClassifier,
    UGCClassifier,
    ULEClassifier,
)
from skdebias._prepare import prepare, training_data
from skdebias._training_checks import warn_if_collapsed
from skdebias.attributes import ConfidencePseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.methods import GERNE
from skdebias.model_selection import BatchedGridSearchCV
from tests._instances import ONE_OF_EACH

NOTHING = dict.fromkeys(["attributes", "X_val", "y_val", "attributes_val"])


def _imbalanced(n_rows=2000, share=0.1, seed=0):
    X, y, attributes = make_spurious_classification(n_rows, random_state=seed)
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero((y == 0) | (rng.random(n_rows) < share))
    return X[kept], y[kept], attributes[kept]


def _unit_norm(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("head", [ERMClassifier(), JTTClassifier(balance=None)])
def test_unit_norm_embeddings_without_a_scaler(head):
    X, y, _ = _imbalanced()
    head = clone(head).set_params(max_iter=2, random_state=0, learning_rate=1e-5)
    with pytest.warns(CollapsedHeadWarning, match="Standardise X") as caught:
        head.fit(_unit_norm(X), y)
    assert __file__ in {warning.filename for warning in caught}
    assert len(set(head.predict(_unit_norm(X)))) == 1


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_ordinary_fits_say_nothing(name, n_classes):
    X, y, attributes = make_spurious_classification(
        600, n_classes=n_classes, random_state=0
    )
    head = ONE_OF_EACH[name].make(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", CollapsedHeadWarning)
        head.fit(X, y, attributes)


def test_a_balanced_head_on_a_rare_class_is_no_collapse():
    """Accuracy below the majority's share is what balancing asks for."""
    X, y, attributes = _imbalanced(share=0.03)
    X = X + 3 * np.random.default_rng(0).normal(size=X.shape)
    head = GERNEClassifier(1.0, max_iter=20, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapsedHeadWarning)
        head.fit(X, y, attributes)
    assert head.score(X, y) < np.mean(y == 0)


def test_a_head_that_answers_at_random_is_a_collapse():
    X, y, _ = _imbalanced()
    flipped = ERMClassifier(max_iter=5, random_state=0).fit(X, y)
    prepared = prepare(flipped, training_data(flipped, X, y, **NOTHING))
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapsedHeadWarning)
        warn_if_collapsed(flipped, prepared, flipped._logits)
    flipped.coef_, flipped.intercept_ = -flipped.coef_, -flipped.intercept_
    with pytest.warns(CollapsedHeadWarning, match="class-balanced accuracy"):
        warn_if_collapsed(flipped, prepared, flipped._logits)


def _two_cues(n_noise, n_rows=2000):
    """A weak cue of both classes, and a shortcut that fails in every tenth row."""
    rng = np.random.default_rng(0)
    y = np.arange(n_rows) % 2
    shortcut = np.where(rng.random(n_rows) < 0.9, y, 1 - y)
    cue = y + 3 * rng.normal(size=n_rows)
    X = np.column_stack([cue, shortcut, rng.normal(size=(n_rows, n_noise))])
    return StandardScaler().fit_transform(X).astype(np.float32), y


FAST = {"learning_rate": 1e-2, "max_iter": 20, "random_state": 0}
# Too strong a setting of every method that starts from another model, and the number of
# useless features it is driven into.
TOO_STRONG = {
    "JTT": (JTTClassifier(1000, balance=None, **FAST), 20),
    "AFR": (
        AFRClassifier(100.0, regularization=0.0, **FAST | {"weight_decay": 1.0}),
        20,
    ),
    "GERNE": (GERNEClassifier(beta=2.5, t=0.1, **FAST), 20),
    "UGC": (UGCClassifier(robust="group_dro", **FAST), 20),
    "LfF": (
        LfFClassifier(biased_weight_decay=0.01, **FAST | {"learning_rate": 0.1}),
        300,
    ),
    "ULE": (ULEClassifier(0.3, **FAST), 20),
    "any method": (
        DebiasedClassifier(
            GERNE(2.5), pseudo_attributes=ConfidencePseudoAttributes(0.1), **FAST
        ),
        20,
    ),
}


@pytest.mark.parametrize("name", TOO_STRONG)
def test_a_head_that_lost_what_its_first_stage_could_do(name):
    head, n_noise = TOO_STRONG[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CollapsedHeadWarning)
        with pytest.warns(CollapsedHeadWarning, match="that the model it started from"):
            clone(head).fit(*_two_cues(n_noise))


@pytest.mark.parametrize(
    "kind", [JTTClassifier, AFRClassifier, LfFClassifier, ULEClassifier]
)
def test_untouched_it_keeps_them(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", CollapsedHeadWarning)
        kind(random_state=0).fit(*_two_cues(20))


@pytest.mark.parametrize("convert", [np.float16, np.float64, torch.from_numpy])
def test_all_kinds_of_rows(convert):
    X, y, _ = _imbalanced()
    X = _unit_norm(X)
    X = convert(X) if convert is torch.from_numpy else X.astype(convert)
    with pytest.warns(CollapsedHeadWarning):
        ERMClassifier(max_iter=1, random_state=0, learning_rate=1e-5).fit(X, y)


def test_sorted_rows_are_looked_at_evenly(monkeypatch):
    from skdebias import _training_checks

    monkeypatch.setattr(_training_checks, "_ROWS", 50)
    X, y, _ = make_spurious_classification(600, random_state=0)
    order = np.argsort(y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapsedHeadWarning)
        ERMClassifier(random_state=0).fit(X[order], y[order])


def test_a_search_warns_once_for_its_best():
    X, y, _ = _imbalanced()
    head = ERMClassifier(max_iter=1, random_state=0)
    grid = {"learning_rate": [1e-6, 1e-5]}
    with pytest.warns(CollapsedHeadWarning) as caught:
        BatchedGridSearchCV(head, grid, cv=3).fit(_unit_norm(X), y)
    assert sum(w.category is CollapsedHeadWarning for w in caught) == 1
