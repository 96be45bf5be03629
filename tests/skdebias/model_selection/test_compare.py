"""Comparison of methods: nested, at equal budgets, and with a verdict that holds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier, GroupDROClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import worst_group_accuracy_scorer
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    BatchedGridSearchCV,
    compare_methods,
)
from skdebias.model_selection._contenders import BASELINE, METHODS, make_contenders
from skdebias.model_selection._nested import CHOOSING, TRAINING, FoldedRows
from skdebias.model_selection._verdict import decide

EXACT = {"solver": "lbfgs", "max_iter": 200}
GRID = {"weight_decay": [1e-2, 1e-1, 10.0]}
QUICK = {"ERM-g": (ERMClassifier("group", **EXACT), GRID)}
SETTINGS = {"cv": 3, "budget": 3, "random_state": 0, "verbose": 0}


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(240, n_features=5, random_state=0)


@pytest.fixture(scope="module")
def result(data):
    return compare_methods(*data, methods=QUICK, **SETTINGS)


def rows_of(kinds):
    folds = np.array(kinds)
    n = len(folds)
    return FoldedRows(np.zeros((n, 1)), np.zeros(n), np.zeros(n), folds)


@pytest.mark.parametrize(
    ("folds", "annotated"),
    [
        ([0, 1, 2, 0, 1, 2, 3], True),
        ([0, 1, 2, CHOOSING, CHOOSING], True),
        ([0, 1, 2, TRAINING, TRAINING], True),
        ([0, 1, 2, TRAINING, TRAINING], False),
    ],
)
def test_an_outer_fold_reaches_neither_fits_nor_choice(folds, annotated):
    rows = rows_of(folds)
    for outer in range(rows.n_folds):
        fits = rows.choosing_fits(annotated, outer)
        assert fits
        for without, part in fits:
            train = rows.trained_on(annotated, without)
            trained_parts = {*rows.folds[train].tolist()}
            assert trained_parts
            assert not trained_parts & {outer, part}
            assert part != outer
        train = rows.trained_on(annotated, {outer})
        assert outer not in rows.folds[train]
        assert CHOOSING not in rows.folds[train]


def test_a_pair_of_folds_is_left_out_once():
    rows = rows_of([0, 1, 2, 3, 4])
    fits = [f for outer in range(5) for f, _ in rows.choosing_fits(True, outer)]
    assert len(fits) == 20
    assert len({*fits}) == 10


SEEN = []


class Spy(TransformerMixin, BaseEstimator):
    """Records the row numbers, which are the first feature, and takes them away."""

    def fit(self, X, y=None):
        SEEN.append(frozenset(X[:, 0].astype(int).tolist()))
        self.n_seen_ = len(X)
        return self

    def transform(self, X):
        return X[:, 1:]


def splits_of(y, attributes, n_splits=4):
    splitter = AttributeStratifiedKFold(n_splits, shuffle=True, random_state=1)
    return list(splitter.split(y, y, attributes=attributes))


def test_every_fit_leaves_out_what_it_is_scored_on(data):
    X, y, attributes = data
    X = np.column_stack([np.arange(len(y)), X])
    splits = splits_of(y, attributes)
    folds = [frozenset(test.tolist()) for _, test in splits]
    everything = frozenset(range(len(y)))
    SEEN.clear()
    model = Pipeline([("spy", Spy()), ("head", ERMClassifier("group", **EXACT))])
    methods = {"spied": (model, {"head__weight_decay": [1e-3, 1.0]})}
    compare_methods(X, y, attributes, methods=methods, **SETTINGS | {"cv": splits})
    pairs = [everything - a - b for n, a in enumerate(folds) for b in folds[:n]]
    outer = [everything - fold for fold in folds]
    # Pairs to choose, folds to score; folds again for the choice if it is taken.
    assert {*SEEN} <= {*pairs, *outer, everything}
    assert {*SEEN} >= {*pairs, *outer}
    assert all(SEEN.count(rows) == 1 for rows in pairs)


def test_rows_of_an_outer_fold_do_not_change_its_choice(data):
    X, y, attributes = data
    splits = splits_of(y, attributes)
    grid = {"weight_decay": np.geomspace(1e-4, 30, 8).tolist()}
    methods = {"tuned": (ERMClassifier("group", **EXACT), grid)}
    settings = SETTINGS | {"cv": splits, "budget": 8, "methods": methods}
    before = compare_methods(X, y, attributes, **settings)
    poisoned, outer = X.copy(), splits[0][1]
    poisoned[outer] = 50 * np.random.default_rng(0).normal(size=(len(outer), 5))
    after = compare_methods(poisoned, y, attributes, **settings)
    assert after.choices_["tuned"][0] == before.choices_["tuned"][0]
    assert after.choices_["tuned"][1:] != before.choices_["tuned"][1:]
    assert after.scores_["tuned"][0] < before.scores_["tuned"][0]


def test_choices_and_scores_are_those_of_a_search_in_every_outer_fold(data):
    X, y, attributes = data
    splits = splits_of(y, attributes)
    result = compare_methods(
        X, y, attributes, methods=QUICK, **SETTINGS | {"cv": splits}
    )
    for fold, (train, test) in enumerate(splits):
        inner = [
            (np.setdiff1d(train, other), np.intersect1d(train, other))
            for number, (_, other) in enumerate(splits)
            if number != fold
        ]
        place = {row: n for n, row in enumerate(train)}
        inner = [
            tuple(np.array([place[row] for row in part]) for part in split)
            for split in inner
        ]
        search = BatchedGridSearchCV(
            make_pipeline(StandardScaler(), QUICK["ERM-g"][0]),
            {f"ermclassifier__{k}": v for k, v in GRID.items()},
            scoring="worst_group_accuracy",
            cv=inner,
        ).fit(X[train], y[train], attributes=attributes[train])
        chosen = result.choices_["ERM-g"][fold]
        assert (
            search.best_params_["ermclassifier__weight_decay"]
            == (chosen["weight_decay"])
        )
        correct = search.predict(X[test]) == y[test]
        groups = pd.Series(correct).groupby([y[test], attributes[test]])
        np.testing.assert_allclose(result.scores_["ERM-g"][fold], groups.mean().min())


def test_result_has_what_it_promises(data, result):
    table = result.table_
    assert table["method"].tolist() == ["ERM-g", BASELINE]
    assert table["told"].tolist() == ["attributes", "labels only"]
    assert (table["low"] <= table["score"]).all()
    assert table["score"].is_monotonic_decreasing
    assert table["n_settings"].tolist() == [3, 3]
    assert (table["seconds"] > 0).all()
    assert result.best_method_ in table["method"].tolist()
    assert result.best_method_ in result.verdict_
    assert result.best_estimator_.predict(data[0]).shape == data[1].shape
    assert result.scores_.shape == (3, 2)
    assert "training rows" in result.regime_
    assert BASELINE in repr(result)


def test_refit_is_a_fit_of_the_chosen_setting_to_all_rows(data, result):
    X, y, attributes = data
    model = clone(result.best_estimator_)
    with_groups = model[-1].balance == "group"
    told = {"head__attributes": attributes} if with_groups else {}
    model.fit(X, y, **told)
    expected = result.best_estimator_[-1].coef_
    np.testing.assert_allclose(model[-1].coef_, expected)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_same_seed_same_result_on_any_number_of_threads(data, result, n_jobs):
    again = compare_methods(*data, methods=QUICK, n_jobs=n_jobs, **SETTINGS)
    pd.testing.assert_frame_equal(
        again.table_.drop(columns="seconds"), result.table_.drop(columns="seconds")
    )


def test_repeats_are_other_divisions(data, result):
    again = compare_methods(*data, methods=QUICK, repeats=2, **SETTINGS)
    assert again.scores_.shape == (6, 2)
    pd.testing.assert_frame_equal(again.scores_[:3], result.scores_)
    assert not again.scores_[3:].reset_index(drop=True).equals(result.scores_)


NOISE = np.random.default_rng(0).normal(scale=0.01, size=(3, 10))
SIZES = {"n_train": 800, "n_test": 200}


def test_a_method_wins_where_the_differences_say_so():
    scores = np.array([[0.5], [0.6], [0.9]]) + NOISE
    verdict = decide(scores, **SIZES)
    assert (verdict.best, verdict.chosen, verdict.is_won) == (2, 2, True)
    assert verdict.level.tolist() == [False, False, True]


def test_of_level_methods_the_simplest_is_taken():
    scores = np.array([[0.5], [0.9], [0.903]]) + NOISE
    verdict = decide(scores, **SIZES)
    assert (verdict.best, verdict.chosen, verdict.is_won) == (2, 1, False)
    same = decide(np.ones((3, 5)), **SIZES)
    assert (same.best, same.chosen, same.is_won) == (0, 0, False)


def test_differences_are_paired_and_hold_together():
    common = np.random.default_rng(1).normal(scale=0.2, size=10)
    scores = np.array([[0.5], [0.6]]) + NOISE[:2] + common
    assert decide(scores, **SIZES).is_won
    more = np.vstack([scores, *[scores[:1] - 0.01 * n for n in range(1, 9)]])
    width = np.ptp(decide(scores, **SIZES).differences[0, 1:])
    assert np.ptp(decide(more, **SIZES).differences[0, 1:]) > 1.2 * width


@pytest.mark.parametrize("seed", range(2))
def test_shuffled_labels_have_no_winner(seed):
    X, y, attributes = make_spurious_classification(
        150, n_features=5, random_state=seed
    )
    rng = np.random.default_rng(seed)
    y, attributes = rng.permutation(y), rng.permutation(attributes)
    methods = {
        "ERM-g": (ERMClassifier("group", **EXACT), GRID),
        "GERNE": (GERNEClassifier(0.8, out_of_bounds="clip", **EXACT), GRID),
        "GroupDRO": GroupDROClassifier(**EXACT),
    }
    settings = SETTINGS | {"cv": 5, "random_state": seed}
    result = compare_methods(X, y, attributes, methods=methods, **settings)
    assert result.winner_ is None
    assert result.best_method_ == BASELINE


def test_the_planted_shortcut_has_a_winner():
    X, y, attributes = make_spurious_classification(1200, n_features=5, random_state=0)
    settings = SETTINGS | {"cv": 5}
    result = compare_methods(X, y, attributes, methods=QUICK, **settings)
    assert result.winner_ == result.best_method_ == "ERM-g"
    assert "every other method" in result.verdict_


def test_without_attributes_classes_decide_and_inferred_groups_stand_beside(data):
    X, y, _ = data
    methods = ["ERM", "GERNE", "GroupDRO"]
    result = compare_methods(X, y, methods=methods, **SETTINGS)
    table = result.table_.set_index("method")
    assert result.scoring_ == "worst_class_accuracy"
    assert "No attributes" in result.regime_
    assert (table["told"] == "labels only").all()
    assert table.loc[["GERNE", "GroupDRO"], "skipped"].str.contains("attributes").all()
    assert table.loc[["ERM", BASELINE], "worst_inferred_group"].between(0, 1).all()


def test_attributes_of_validation_rows_alone_divide_these(data):
    X, y, attributes = data
    result = compare_methods(
        X[:120],
        y[:120],
        X_val=X[120:],
        y_val=y[120:],
        attributes_val=attributes[120:],
        methods=QUICK,
        **SETTINGS,
    )
    told = result.table_.set_index("method")["told"]
    assert told["ERM-g"] == "attributes of validation rows"
    assert told[BASELINE] == "labels only"
    assert "validation rows only" in result.regime_
    assert result.best_estimator_[-1].group_counts_.sum() == 120


def test_validation_rows_choose(data):
    X, y, attributes = data
    settings = SETTINGS | {"methods": QUICK}
    right = compare_methods(
        X[:160],
        y[:160],
        attributes[:160],
        X_val=X[160:],
        y_val=y[160:],
        attributes_val=attributes[160:],
        **settings,
    )
    assert "Validation rows choose" in right.regime_
    assert right.best_estimator_[-1].group_counts_.sum() == 160


def test_a_method_that_fails_is_skipped_with_its_reason(data):
    methods = QUICK | {"far": GERNEClassifier(1e3, out_of_bounds="raise", **EXACT)}
    result = compare_methods(*data, methods=methods, **SETTINGS)
    table = result.table_.set_index("method")
    assert "beta=1000" in table.loc["far", "skipped"]
    assert np.isnan(table.loc["far", "score"])
    assert "far" not in result.scores_


def test_budgets_are_equal():
    contenders = make_contenders(
        "auto", attributes_known=True, annotated_apart=False, budget=7, seed=0
    )
    compared = [one for one in contenders if not one.skipped]
    assert len(compared) >= 10
    assert {len(one.settings) for one in compared} == {1, 7}
    assert [one.name for one in compared if len(one.settings) == 1] == ["DFR"]
    assert all(one.shown[0] == {} for one in compared)
    assert contenders[0].name == BASELINE
    blind = make_contenders(
        "auto", attributes_known=False, annotated_apart=False, budget=7, seed=0
    )
    skipped = {one.name for one in blind if one.skipped}
    assert skipped == {name for name, row in METHODS.items() if row.needs_attributes}


def test_labels_attributes_and_columns_keep_their_names(data):
    X, y, attributes = data
    X = pd.DataFrame(X).add_prefix("f")
    y = np.array(["cat", "dog"])[y]
    attributes = pd.Series(np.array(["land", "water"])[attributes], name="place")
    result = compare_methods(X, y, attributes, methods=QUICK, **SETTINGS)
    model = result.best_estimator_
    assert model.feature_names_in_.tolist() == X.columns.tolist()
    assert {*model.predict(X)} <= {"cat", "dog"}


def test_other_scores(data):
    result = compare_methods(*data, methods=QUICK, scoring="roc_auc", **SETTINGS)
    assert result.scoring_ == "roc_auc"
    assert (result.table_["score"] > result.table_["worst_group"]).all()
    named = compare_methods(
        *data, methods=QUICK, scoring=worst_group_accuracy_scorer, **SETTINGS
    )
    assert named.scoring_ == "worst_group_accuracy_score"


def test_page_stands_alone_and_is_escaped(data, tmp_path):
    pytest.importorskip("matplotlib")
    methods = {"<b>bold</b>": QUICK["ERM-g"]}
    result = compare_methods(*data, methods=methods, **SETTINGS)
    path = result.to_html(tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;bold" in page
    assert "<svg" in page
    assert "<script" not in page
    assert 'src="' not in page
    with pytest.raises(NotImplementedError, match="galleries"):
        result.to_html(tmp_path / "other.html", items=["a.png"])


def test_plot_names_all_methods(result):
    pytest.importorskip("matplotlib").use("agg")
    ax = result.plot()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [BASELINE, "ERM-g"]


def refused(X, y, attributes=None, match="", error=ValueError, **settings):
    with pytest.raises(error, match=match):
        compare_methods(X, y, attributes, **SETTINGS | {"methods": QUICK} | settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"methods": ["gernee"]}, "Did you mean GERNE"),
        ({"methods": "GERNE"}, r"Pass methods=\['GERNE'\]"),
        ({"methods": []}, "nothing to compare"),
        ({"methods": {}}, "nothing to compare"),
        ({"methods": {BASELINE: ERMClassifier()}}, "always the baseline"),
        ({"methods": {"LR": LogisticRegression()}}, "estimator of skdebias"),
        ({"methods": {"ERM": ERMClassifier}}, "estimator of skdebias"),
        (
            {"methods": {"E": (ERMClassifier(), {"weight_decays": [1]})}},
            "Did you mean weight_decay",
        ),
        ({"methods": {"E": (ERMClassifier(),)}}, "estimator, grid"),
        ({"budget": 0}, "budget=0"),
        ({"repeats": True}, "repeats=True"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"cv": 2}, "cv=2 is too few"),
        ({"cv": "five"}, "cv='five'"),
        ({"cv": ShuffleSplit(4, random_state=0)}, "every row in the test rows"),
        ({"cv": [], "repeats": 2}, "repeats=2"),
        ({"scoring": lambda model, X, y: 1.0}, "make_scorer"),
        ({"scoring": "worst"}, "There is no scorer"),
        ({"scoring": accuracy_score}, "make_scorer"),
        ({"y_val": [0, 1]}, "y_val is given without X_val"),
        ({"X_val": np.zeros((4, 5))}, "without y_val"),
        ({"X_val": np.zeros((4, 3)), "y_val": [0, 1, 0, 1]}, "3 features"),
        ({"X_val": np.zeros((4, 5)), "y_val": [0, 1, 0, 7]}, "labels that y has not"),
        (
            {"X_val": np.zeros((4, 5)), "y_val": [0, 1, 0, 1]},
            "without attributes_val",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(data, settings, match):
    refused(*data, match=match, **settings)


def test_bad_rows_are_refused_by_name(data):
    X, y, attributes = data
    refused(X, np.zeros(len(y)), match="1 class")
    refused(X[:10], [0] * 8 + [1] * 2, match="class 1 has 2 rows")
    gaps = attributes.astype(float)
    gaps[3] = np.nan
    refused(X, y, gaps, match="some rows have no attribute")
    refused(X, y[:-1], match="inconsistent")
    refused(X, y, attributes[:-1], match="attributes")
    refused(X, y, match="attributes", error=TypeError, scoring="worst_group_accuracy")
