import doctest

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import skdebias.metrics._table
from skdebias.metrics import group_accuracy_table, group_summary

# Groups (label, attribute): (0, 0) 3/4, (0, 1) 1/1, (1, 0) 1/2, (1, 1) 2/3.
Y_TRUE = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
Y_PRED = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 0])
ATTRIBUTES = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])


def test_doctests():
    results = doctest.testmod(skdebias.metrics._table)
    assert results.attempted >= 8
    assert results.failed == 0


def test_table_hand_computed():
    table = group_accuracy_table(Y_TRUE, Y_PRED, attributes=ATTRIBUTES)
    assert list(table.columns) == [
        "label",
        "attribute",
        "n",
        "correct",
        "accuracy",
        "low",
        "high",
    ]
    assert table["label"].tolist() == [0, 0, 1, 1]
    assert table["attribute"].tolist() == [0, 1, 0, 1]
    assert table["n"].tolist() == [4, 1, 2, 3]
    assert table["correct"].tolist() == [3, 1, 1, 2]
    np.testing.assert_allclose(table["accuracy"], [0.75, 1.0, 0.5, 2 / 3])


@pytest.mark.parametrize("confidence_level", [0.5, 0.95, 0.99])
def test_intervals_are_wilsons(confidence_level):
    table = group_accuracy_table(
        Y_TRUE, Y_PRED, attributes=ATTRIBUTES, confidence_level=confidence_level
    )
    for row in table.itertuples():
        expected = binomtest(row.correct, row.n).proportion_ci(
            confidence_level, method="wilson"
        )
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_intervals_at_the_ends():
    # Wilson by hand for 0 of 10 at 95 %: [0, z**2 / (n + z**2)] = [0, 0.27753].
    table = group_accuracy_table([0] * 10, [1] * 10, attributes=[0] * 10)
    assert table["low"][0] == 0
    assert table["high"][0] == pytest.approx(0.27753, abs=1e-5)
    table = group_accuracy_table([0] * 10, [0] * 10, attributes=[0] * 10)
    assert table["high"][0] == 1
    assert table["low"][0] == pytest.approx(1 - 0.27753, abs=1e-5)


def test_several_columns_get_a_column_each():
    a = np.column_stack([ATTRIBUTES, 1 - ATTRIBUTES])
    table = group_accuracy_table(Y_TRUE, Y_PRED, attributes=a)
    assert list(table.columns[:3]) == ["label", "attribute_0", "attribute_1"]
    assert table["attribute_0"].tolist() == [0, 1, 0, 1]
    assert table["attribute_1"].tolist() == [1, 0, 1, 0]
    frame = pd.DataFrame(
        {"place": np.array(["land", "water"])[ATTRIBUTES], "n": 1 - ATTRIBUTES}
    )
    table = group_accuracy_table(Y_TRUE, Y_PRED, attributes=frame)
    assert list(table.columns[:3]) == ["label", "attribute_place", "attribute_n"]
    assert table["attribute_place"].tolist() == ["land", "water", "land", "water"]
    assert table["attribute_n"].dtype.kind == "i"
    assert table["n"].tolist() == [4, 1, 2, 3]


def test_table_without_attributes():
    with pytest.raises(TypeError, match="enable_metadata_routing=True"):
        group_accuracy_table(Y_TRUE, Y_PRED)


@pytest.mark.parametrize("confidence_level", [0, 1, 95, -0.5])
def test_bad_confidence_level(confidence_level):
    with pytest.raises(ValueError, match=f"confidence_level.*{confidence_level}"):
        group_accuracy_table(
            Y_TRUE, Y_PRED, attributes=ATTRIBUTES, confidence_level=confidence_level
        )


def test_summary_hand_computed():
    summary = group_summary(
        Y_TRUE, Y_PRED, attributes=ATTRIBUTES, train_group_counts=[70, 10, 0, 20]
    )
    assert summary["accuracy"] == pytest.approx(0.7)
    assert summary["group_balanced_accuracy"] == pytest.approx(
        (3 / 4 + 1 + 1 / 2 + 2 / 3) / 4
    )
    assert summary["worst_group_accuracy"] == 0.5
    assert summary["train_weighted_accuracy"] == pytest.approx(
        0.7 * 0.75 + 0.1 * 1 + 0.2 * 2 / 3
    )
    expected = binomtest(7, 10).proportion_ci(0.95, method="wilson")
    got = summary["accuracy_low"], summary["accuracy_high"]
    assert got == pytest.approx((expected.low, expected.high))


def test_group_balanced_interval_by_hand():
    # Two groups of 100 with 90 and 60 correct. Agresti-Coull with z = 1.959964:
    # (90 + 1.920729) / 103.841459 = 0.885203, variance 0.000978596;
    # (60 + 1.920729) / 103.841459 = 0.596301, variance 0.002318219;
    # standard error sqrt(sum) / 2 = 0.028709; half width 0.056268.
    y = np.zeros(200, dtype=int)
    p = np.r_[np.zeros(90), np.ones(10), np.zeros(60), np.ones(40)].astype(int)
    summary = group_summary(y, p, attributes=np.repeat([0, 1], 100))
    assert summary["group_balanced_accuracy"] == pytest.approx(0.75)
    half = summary["group_balanced_accuracy_high"] - 0.75
    assert half == pytest.approx(0.056268, abs=2e-6)
    assert summary["group_balanced_accuracy_low"] == pytest.approx(0.75 - half)


def test_group_balanced_interval_covers():
    rng = np.random.default_rng(0)
    shares, sizes = np.array([0.98, 0.9, 0.8, 0.7]), np.array([400, 30, 30, 100])
    a = np.repeat(np.arange(4), sizes)
    covered = 0
    for _ in range(300):
        p = (rng.random(len(a)) > shares[a]).astype(int)
        summary = group_summary(np.zeros(len(a), dtype=int), p, attributes=a)
        covered += (
            summary["group_balanced_accuracy_low"]
            <= shares.mean()
            <= summary["group_balanced_accuracy_high"]
        )
    # Binomial(300, 0.95) is at least 276 with probability 0.99.
    assert covered >= 276


def test_a_perfect_small_group_is_not_certain():
    summary = group_summary([0, 0, 1], [0, 0, 1], attributes=[0, 0, 0])
    assert summary["group_balanced_accuracy_low"] < 0.8
    assert summary["group_balanced_accuracy_high"] == 1


def test_summary_rows_make_a_table():
    rows = {
        name: group_summary(Y_TRUE, predictions, attributes=ATTRIBUTES)
        for name, predictions in {"a": Y_PRED, "b": Y_TRUE}.items()
    }
    frame = pd.DataFrame(rows).T
    assert frame.loc["b", "worst_group_accuracy"] == 1
    assert frame.dtypes.eq(float).all()


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ([1, 2, 3], r"shape \(4,\).*has shape \(3,\)"),
        ([1, 2, 3, -4], "not negative"),
        ([0, 0, 0, 0], "not all zero"),
        ([1, 2, 3, np.nan], "finite"),
    ],
)
def test_bad_train_counts(counts, match):
    with pytest.raises(ValueError, match=match):
        group_summary(Y_TRUE, Y_PRED, attributes=ATTRIBUTES, train_group_counts=counts)
