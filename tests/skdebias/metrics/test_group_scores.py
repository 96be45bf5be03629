import doctest
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, recall_score

import skdebias.metrics._group
from skdebias.metrics import (
    group_balanced_accuracy_score,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)

# Groups (label, attribute): (0, 0) 3/4, (0, 1) 1/1, (1, 0) 1/2, (1, 1) 2/3.
Y_TRUE = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
Y_PRED = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 0])
ATTRIBUTES = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])
GROUP_SCORES = [worst_group_accuracy_score, group_balanced_accuracy_score]
EXPECTED = {
    worst_group_accuracy_score: 1 / 2,
    group_balanced_accuracy_score: (3 / 4 + 1 + 1 / 2 + 2 / 3) / 4,
}
WORDS = np.array(["land", "water"])


def test_doctests():
    results = doctest.testmod(skdebias.metrics._group)
    assert results.attempted >= 12
    assert results.failed == 0


@pytest.mark.parametrize("score", GROUP_SCORES)
@pytest.mark.parametrize(
    "convert",
    [
        list,
        lambda v: WORDS[v],
        lambda v: WORDS[v].astype(object),
        lambda v: v.astype(bool),
        lambda v: v.astype(float),
        lambda v: v[:, None],
        lambda v: pd.Series(WORDS[v], index=range(5, 15)),
        lambda v: pd.Series(v, dtype="Int64"),
        lambda v: pd.Categorical(WORDS[v]),
    ],
)
def test_hand_computed_for_every_container(score, convert):
    got = score(convert(Y_TRUE), convert(Y_PRED), attributes=convert(ATTRIBUTES))
    assert isinstance(got, float)
    assert got == pytest.approx(EXPECTED[score])


def test_worst_class_hand_computed():
    # Class 0: 4 of 5, class 1: 3 of 5.
    assert worst_class_accuracy_score(Y_TRUE, Y_PRED) == pytest.approx(0.6)
    assert worst_class_accuracy_score(WORDS[Y_TRUE], WORDS[Y_PRED]) == pytest.approx(
        0.6
    )


def test_against_scikit_learn_on_random_multiclass_data():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 4, (2, 500))
    a = rng.integers(0, 3, (500, 2))
    accuracies = [
        accuracy_score(y[mask], p[mask])
        for label in range(4)
        for value in np.ndindex(3, 3)
        if (mask := (y == label) & (a == value).all(axis=1)).any()
    ]
    assert len(accuracies) == 36
    assert worst_group_accuracy_score(y, p, attributes=a) == pytest.approx(
        min(accuracies)
    )
    assert group_balanced_accuracy_score(y, p, attributes=a) == pytest.approx(
        np.mean(accuracies)
    )
    assert worst_class_accuracy_score(y, p) == pytest.approx(
        recall_score(y, p, average=None).min()
    )


def test_predictions_never_seen_in_y_true_are_errors():
    a = [0, 0, 0, 0]
    assert worst_group_accuracy_score([0, 0, 1, 1], [0, 7, 1, 1], attributes=a) == 0.5
    assert worst_class_accuracy_score([0, 0, 1, 1], [-1, -1, 1, 1]) == 0.0


def test_single_sample_group_counts_in_full():
    y, p, a = [0] * 9 + [1], [0] * 10, [0] * 10
    assert worst_group_accuracy_score(y, p, attributes=a) == 0.0
    assert group_balanced_accuracy_score(y, p, attributes=a) == 0.5


def test_one_attribute_value_gives_class_scores():
    a = np.zeros(10)
    assert worst_group_accuracy_score(Y_TRUE, Y_PRED, attributes=a) == (
        worst_class_accuracy_score(Y_TRUE, Y_PRED)
    )


@pytest.mark.parametrize("score", GROUP_SCORES)
def test_without_attributes_the_error_names_the_line_to_add(score):
    with pytest.raises(TypeError) as caught:
        score(Y_TRUE, Y_PRED)
    message = str(caught.value)
    assert score.__name__ in message
    assert "sklearn.set_config(enable_metadata_routing=True)" in message


@pytest.mark.parametrize(
    ("y_true", "y_pred", "attributes", "error", "match"),
    [
        ([0, 1], [0], [0, 0], ValueError, "inconsistent numbers of samples"),
        ([0, 1], [0, 1], [0], ValueError, "attributes has 1 rows.*2 samples"),
        ([0, 1], [0.2, 0.7], [0, 0], ValueError, "y_pred must hold class labels"),
        ([0, 1], ["a", "b"], [0, 0], ValueError, "one holds strings"),
        ([0, 1], [[0, 1], [1, 0]], [0, 0], ValueError, r"y_pred must be 1-D.*\(2, 2\)"),
        ([], [], [], ValueError, "y_true is empty"),
        (["a", None], ["a", "a"], [0, 0], ValueError, "y_true has missing values"),
        ([0, 1], [0.0, np.nan], [0, 0], ValueError, "y_pred has missing values"),
        ([0, "a"], [0, 1], [0, 0], ValueError, "one holds strings"),
        ([0, 1], [0, 1], [0, None], ValueError, "attributes has missing values"),
    ],
)
def test_bad_input(y_true, y_pred, attributes, error, match):
    with pytest.raises(error, match=match):
        worst_group_accuracy_score(y_true, y_pred, attributes=attributes)


def test_import_is_light():
    code = (
        "import sys, skdebias.metrics; "
        "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
