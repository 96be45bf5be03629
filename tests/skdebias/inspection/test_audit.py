"""The audit of candidate columns: what it counts, what it flags, what it refuses."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, UnusableAttributesWarning
from skdebias.datasets import make_spurious_classification
from skdebias.inspection import audit_attributes
from skdebias.inspection._audit import _overlap, _records
from skdebias.inspection._columns import Column, read_columns
from skdebias.inspection._comparisons import (
    Comparisons,
    cramers_v,
    explained_error,
    surest_gap,
)
from skdebias.inspection._decodability import decodability
from skdebias.metrics import group_accuracy_table

N = 400


@pytest.fixture(scope="module")
def data():
    X, y, place = make_spurious_classification(N, random_state=0)
    rng = np.random.default_rng(0)
    candidates = pd.DataFrame(
        {
            "camera": rng.choice(["Canon", "Nikon", "Sony"], N),
            "place": np.array(["land", "water"])[place],
            "age": rng.normal(40, 10, N),
        }
    )
    return X, np.array(["cow", "bird"])[y], candidates


@pytest.fixture(scope="module")
def table(data):
    return audit_attributes(*data, random_state=0)


def _draws():
    path = Path(__file__).parents[3] / "examples" / "audit_draws.py"
    spec = importlib.util.spec_from_file_location("audit_draws", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_planted_shortcut_is_first_and_alone_and_none_is_seen_where_none_is():
    counts = _draws().count(8, 600)
    assert counts["planted: first"] == 8
    assert counts["planted: flagged"] >= 4  # 600 rows have 15 in each rare group
    assert counts["planted: no other"] >= 7
    assert counts["none: nothing flagged"] >= 7


def _column(codes, n_values=2):
    return Column("column", codes, [*range(n_values)], False)


@pytest.mark.parametrize(("share", "accuracy"), [(0.02, 0.99), (0.5, 0.6)])
def test_flags_of_harmless_columns_are_rare_whatever_their_groups(share, accuracy):
    rng = np.random.default_rng(0)
    flagged = 0
    for _ in range(40):
        codes = rng.integers(0, 2, 300)
        correct = rng.random(300) < np.where(codes == 1, accuracy, 0.9)
        columns = [_column((rng.random(300) < share) * 1) for _ in range(10)]
        groups = [Comparisons.of(column, codes, correct) for column in columns]
        records = _records(columns, np.arange(2), groups, overlap=1.0)
        flagged += any(record["flagged"] for record in records)
    assert flagged <= 2


def test_the_p_value_is_that_of_permutations_within_the_class():
    codes, values = np.repeat([0, 1], 60), np.tile([0, 0, 0, 1], 30)
    correct = np.ones(120, dtype=bool)
    correct[np.flatnonzero((codes == 1) & (values == 1))[:6]] = False
    correct[[0, 5, 61, 66]] = False
    groups = Comparisons.of(_column(values), codes, correct)
    names = [tuple(cell) for cell in groups.cells.tolist()]
    found = surest_gap(groups, names, 1.0, 1.96, n_tests=1)
    assert found["gap_group"] == (1, 1)
    assert found["gap"] == pytest.approx(43 / 45 - 9 / 15)
    rng = np.random.default_rng(0)
    in_class = np.flatnonzero(codes == 1)
    hits = [
        correct[rng.permutation(in_class)[values[in_class] == 1]].sum()
        for _ in range(20000)
    ]
    assert found["p_value"] == pytest.approx(np.mean(np.array(hits) <= 9), abs=1e-3)
    many = surest_gap(groups, names, 1.0, 1.96, n_tests=30)
    assert many["p_value"] == pytest.approx(30 * found["p_value"])


def test_explained_error_is_the_excess_less_what_chance_gives():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], 5000)
    values = rng.integers(0, 2, 10000)
    harmless = Comparisons.of(_column(values), codes, rng.random(10000) < 0.9)
    assert explained_error(harmless) < 0.05
    # In class 1 half of the rows err four times as often as the others.
    rate = np.where((codes == 1) & (values == 1), 0.4, 0.1)
    groups = Comparisons.of(_column(values), codes, rng.random(10000) >= rate)
    assert explained_error(groups) == pytest.approx(0.3 * 2500 / 1750, abs=0.05)
    flawless = Comparisons.of(_column(values), codes, np.ones(10000, dtype=bool))
    assert explained_error(flawless) == 0.0


def test_cramers_v():
    assert cramers_v(np.array([[50, 0], [0, 50]])) == pytest.approx(1.0)
    assert cramers_v(np.array([[25, 25], [25, 25]])) == 0.0
    # phi = (ad - bc) / sqrt(products of the margins) of a table without chance.
    v = cramers_v(np.array([[80000, 20000], [30000, 70000]]))
    assert v == pytest.approx(0.5025, abs=1e-3)
    assert np.isnan(cramers_v(np.array([[5, 5]])))
    assert np.isnan(cramers_v(np.eye(6, dtype=int)))


def test_accuracies_are_those_of_cross_validated_predictions(data):
    X, y, candidates = data
    cv = StratifiedKFold(4, shuffle=True, random_state=3)
    head = LogisticRegression()
    table = audit_attributes(X, y, candidates, estimator=head, cv=cv)
    predictions = cross_val_predict(head, X, y, cv=cv)
    assert table.attrs["accuracy"] == (predictions == y).mean()
    assert table.attrs["n_errors"] == (predictions != y).sum()
    assert table.attrs["n_splits"] == 4
    groups = group_accuracy_table(y, predictions, attributes=candidates["place"])
    worst = groups.loc[groups["accuracy"].idxmin()]
    row = table.loc["place"]
    assert row["worst_group"] == (worst["label"], worst["attribute"])
    assert row["worst_group_n"] == worst["n"]
    assert row["worst_group_accuracy"] == pytest.approx(worst["accuracy"])
    assert row["worst_group_low"] < worst["low"]
    assert row["worst_group_high"] > worst["high"]


def test_the_default_head_is_erm_on_standardised_features(data):
    X, y, candidates = data
    cv = StratifiedKFold(3)
    head = make_pipeline(StandardScaler(), ERMClassifier(solver="lbfgs"))
    scaled = StandardScaler().fit_transform(X)
    default = audit_attributes(1000 * X + 5, y, candidates, cv=cv, random_state=0)
    given = audit_attributes(
        scaled, y, candidates, cv=cv, random_state=0, estimator=head[-1]
    )
    pd.testing.assert_frame_equal(default, given, atol=1e-6)


def test_every_column_has_a_row_and_the_harm_that_is_sure_sorts_them(data, table):
    assert table.index[0] == "place"
    assert {*table.index} == {*data[2]}
    assert table.index.name == "column"
    assert table["flagged"].tolist() == [True, False, False]
    assert table["gap_low"].is_monotonic_decreasing
    assert (table["gap_low"] <= table["gap"]).all()
    assert (table["gap"] <= table["gap_high"]).all()
    place = table.loc["place"]
    assert place["association"] > 0.8
    assert place["decodability"] > 0.95
    assert 0.05 < place["explained_error"] <= 1
    assert table.loc["camera", "decodability"] == pytest.approx(1 / 3, abs=0.1)
    assert table.loc["age", "n_values"] == 5
    assert table["binned"].tolist() == [name == "age" for name in table.index]


def test_the_table_is_the_same_again_and_with_workers(data, table):
    with parallel_config(backend="threading"):
        again = audit_attributes(*data, random_state=0, n_jobs=2)
    pd.testing.assert_frame_equal(table, again)
    assert table.attrs == again.attrs


def test_a_table_can_be_shown_joined_and_written(table):
    assert "place" in repr(pd.concat([table, table]))
    assert json.loads(json.dumps(table.attrs)) == table.attrs


def test_groups_are_inferred_without_any_column(data, table):
    _, y, candidates = data
    inferred = table.attrs["inferred"]
    values = np.array(inferred["pseudo_attributes"])
    assert values.shape == (N,)
    groups = pd.DataFrame(inferred["groups"])
    assert groups["n"].sum() == N
    assert {*groups["label"]} == {"bird", "cow"}
    assert (groups["accuracy"].between(groups["low"], groups["high"])).all()
    common = {"bird": "water", "cow": "land"}
    conflicting = candidates["place"].to_numpy() != [common[label] for label in y]
    assert conflicting[values == 1].mean() > 3 * conflicting.mean()
    assert not inferred["weak"]


def test_clusters_of_nothing_are_called_weak():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 10)), rng.integers(0, 2, 300)
    table = audit_attributes(X, y, rng.integers(0, 2, 300), random_state=0)
    assert table.attrs["inferred"]["weak"]
    assert not table["flagged"].any()


def _codes(values):
    (column,) = read_columns({"it": values}, len(values))
    return column


@pytest.mark.parametrize(
    ("values", "codes", "names"),
    [
        (["b", "a", None, "b"], [1, 0, -1, 1], ["a", "b"]),
        ([True, False, True, True], [1, 0, 1, 1], [False, True]),
        ([2.5, np.nan, 1, 1], [1, -1, 0, 0], [1.0, 2.5]),
        (pd.array([3, None, 1, 1], "Int64"), [1, -1, 0, 0], [1, 3]),
        (pd.array([True, None, False, True], "boolean"), [1, -1, 0, 1], [False, True]),
        (pd.Categorical(["x", "z", None, "x"]), [0, 1, -1, 0], ["x", "z"]),
        (pd.Series(["q", "p", pd.NA, "q"], dtype="string"), [1, 0, -1, 1], ["p", "q"]),
    ],
)
def test_columns_of_all_kinds(values, codes, names):
    column = _codes(values)
    assert column.codes.tolist() == codes
    assert column.values == names
    assert not column.binned


def test_measurements_are_cut_at_their_quintiles():
    column = _codes(np.append(np.arange(100.0), np.nan))
    assert column.binned
    assert column.values == ["<= 20", "(20, 40]", "(40, 60]", "(60, 80]", "> 80"]
    assert np.bincount(column.codes[:-1]).tolist() == [21, 20, 20, 20, 19]
    assert column.codes[-1] == -1


def test_a_value_that_most_rows_have_makes_bins_fewer():
    often_least = _codes(np.concatenate([np.zeros(190), np.arange(1, 31)]))
    assert often_least.values == ["<= 0", "> 0"]
    often_most = _codes(np.concatenate([np.full(190, 99), np.arange(30)]))
    assert often_most.values == ["<= 29", "> 29"]
    assert np.bincount(often_most.codes).tolist() == [30, 190]


def test_dates_and_infinity_are_binned_and_numbers_that_are_names_are_not():
    days = pd.date_range("2020-01-01", periods=50)
    for values in (days, days.tz_localize("CET"), days.to_series()):
        assert len(_codes(values).values) == 5
    assert _codes(days).values[0].startswith("<= 2020-01-11")
    assert len(_codes(np.append(np.arange(40.0), [np.inf, -np.inf])).values) == 5
    hospitals = np.arange(60) % 30
    assert len(_codes(hospitals).values) == 5
    assert len(_codes(hospitals.astype(str)).values) == 30
    assert len(_codes(pd.Categorical(hospitals)).values) == 30


def test_arrays_series_dicts_and_frames_are_the_same_columns(data):
    values = data[2]["place"].to_numpy()
    for candidates, name in [
        (values, 0),
        (values[:, None], 0),
        (pd.Series(values), 0),
        (pd.Series(values, name="place"), "place"),
        ({"place": [*values]}, "place"),
        (pd.DataFrame({"place": values}, index=np.arange(N)[::-1]), "place"),
    ]:
        (column,) = read_columns(candidates, N)
        assert column.name == name
        assert column.values == ["land", "water"]
        assert (np.array(column.values)[column.codes] == values).all()


def test_rows_without_a_value_are_left_out_of_that_column(data):
    X, y, candidates = data
    missing = np.arange(N) % 4 == 0
    partly = candidates["place"].where(~missing)
    table = audit_attributes(X, y, {"partly": partly}, random_state=0, cv=3)
    row = table.loc["partly"]
    assert row["n"] == (~missing).sum()
    crossing = pd.crosstab(y[~missing], candidates["place"][~missing]).to_numpy()
    assert row["association"] == pytest.approx(cramers_v(crossing))
    assert row["worst_group_n"] in crossing


def test_columns_that_say_nothing_are_named_and_come_last(data):
    X, y, candidates = data
    odd = candidates.assign(one=1, id=np.arange(N).astype(str), label=y, gone=None)
    with pytest.warns(UnusableAttributesWarning, match="'one', 'id', 'label', 'gone'"):
        table = audit_attributes(X, y, odd, random_state=0, cv=2)
    assert table.index[0] == "place"
    assert [*table.index[3:]] == ["one", "id", "label", "gone"]
    assert not table["flagged"][3:].any()
    assert table.loc["label", "association"] == 1
    assert table["decodability"].isna()[["one", "id", "gone"]].all()


def test_decodability_is_near_that_of_a_balanced_logistic_regression():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((1000, 60)) @ np.diag(np.linspace(2, 0.2, 60))
    rare = (rng.random(1000) < 0.06).astype(int)
    Z += 2 * rare[:, None] * rng.standard_normal(60) / np.sqrt(60)
    five = rng.integers(0, 5, 1000)
    Z += (1.2 * rng.standard_normal((5, 60)) / np.sqrt(60))[five]
    Z = StandardScaler().fit_transform(Z).astype(np.float32)
    columns = {"rare": rare, "five": five, "nothing": rng.integers(0, 2, 1000)}
    splits = [*KFold(5).split(Z)]
    got = decodability(Z, read_columns(columns, 1000), splits)
    for column, share in zip(columns.values(), got):
        head = LogisticRegression(class_weight="balanced", C=0.01)
        reference = cross_val_predict(head, Z, column, cv=KFold(5))
        assert share == pytest.approx(
            balanced_accuracy_score(column, reference), abs=0.05
        )


def test_folds_that_leave_rows_out_of_training_are_summed_by_themselves():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((200, 4)).astype(np.float32)
    values = (Z[:, 0] > 0).astype(int)
    rows = np.arange(200)
    halves = [(rows[:100], rows[100:]), (rows[100:], rows[:100])]
    shorter = [(train[:60], test) for train, test in halves]
    (whole,) = decodability(Z, [_column(values)], halves)
    (less,) = decodability(Z, [_column(values)], shorter)
    assert whole > 0.9
    assert less > 0.85
    assert less != whole
    assert _overlap(halves) == 3
    assert _overlap([*KFold(5).split(rows)]) == pytest.approx(2.25)


def test_features_may_be_frames_half_precision_or_more_than_rows(data):
    X, y, candidates = data
    wide = np.hstack([X, np.random.default_rng(0).standard_normal((N, 600))])
    for features in (pd.DataFrame(X), X.astype(np.float16), wide.astype(np.float32)):
        table = audit_attributes(features, y, candidates, random_state=0, cv=2)
        assert table.index[0] == "place"
    constant = np.hstack([X, np.ones((N, 2))])
    assert audit_attributes(constant, y, candidates, cv=2).index[0] == "place"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"candidates": None}, TypeError, "candidates=None is no table"),
        ({"candidates": "place"}, TypeError, "candidates='place' is no table"),
        ({"candidates": {}}, ValueError, "candidates has no columns"),
        ({"candidates": {"a": [1, 2]}}, ValueError, r"candidates\['a'\] has 2 rows"),
        ({"candidates": np.ones((3, 2))}, ValueError, "candidates has 3 rows"),
        ({"candidates": {"a": 3}}, ValueError, r"candidates\['a'\]=3"),
        (
            {"candidates": {"a": np.ones((N, 2))}},
            ValueError,
            r"candidates\['a'\] has 2 columns",
        ),
        ({"candidates": {"a": [{}] * N}}, TypeError, r"candidates\['a'\].*dict"),
        ({"candidates": {"a": [1, "b"] * 200}}, TypeError, r"candidates\['a'\] mixes"),
        (
            {"candidates": pd.DataFrame(np.ones((N, 2)), columns=["a", "a"])},
            ValueError,
            r"several columns of the name \['a'\]",
        ),
        ({"y": np.ones(N)}, ValueError, "1 class"),
        ({"y": np.linspace(0, 1, N)}, ValueError, "class labels"),
        ({"y": [None] * N}, ValueError, "y has missing values"),
        ({"y": [0, 1]}, ValueError, "X has 400 rows and y has 2"),
        ({"X": np.full((N, 2), np.nan)}, ValueError, "Input X contains NaN"),
        ({"X": [["word"]] * N}, ValueError, "X must hold numbers"),
        ({"estimator": ERMClassifier}, TypeError, "estimator must be a classifier"),
        ({"estimator": StandardScaler()}, TypeError, "estimator must be a classifier"),
        ({"cv": 1}, ValueError, "cv=1"),
        ({"cv": 300}, ValueError, "cv=300.*class bird has 200"),
        ({"cv": [(range(10), range(5))]}, ValueError, "does not test every row once"),
        ({"random_state": "x"}, ValueError, "'x' cannot be used to seed"),
    ],
)
def test_bad_input_is_refused_by_name(data, change, error, message):
    arguments = dict(zip(("X", "y", "candidates"), data)) | change
    with pytest.raises(error, match=message):
        audit_attributes(**arguments)
