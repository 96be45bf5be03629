"""Attributes that are known of some rows, filled for the others."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier, GroupDROClassifier
from skdebias.attributes import ConfidencePseudoAttributes, SSAPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.metrics import worst_group_accuracy_score
from skdebias.model_selection import AttributeStratifiedKFold, BatchedGridSearchCV
from tests._instances import FILLERS, USING_ATTRIBUTES, as_network

SSA = SSAPseudoAttributes(random_state=0)
every_filler = pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
every_user = pytest.mark.parametrize("name", USING_ATTRIBUTES)
#: Groups of the folds of small sets are small, and the message is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def make(n=1200, n_classes=2, seed=0, per_group=10):
    """Return rows, labels, attributes, and those of a few rows of every group."""
    X, y, a = make_spurious_classification(
        n, n_classes=n_classes, n_attributes=n_classes, random_state=seed
    )
    return X.astype(np.float32), y, a, some_of(y, a, per_group, seed)


def some_of(y, a, per_group, seed=0):
    """Return attributes of which all but a few of every group are NaN."""
    rng, some = np.random.default_rng(seed), np.full(len(y), np.nan)
    for cell in np.unique(y * 10 + a):
        rows = rng.permutation(np.flatnonzero(y * 10 + a == cell))[:per_group]
        some[rows] = a[rows]
    return some


def filled_right(found, a, some):
    """Return the share of right ones among those that were not given."""
    known = ~np.isnan(some)
    np.testing.assert_array_equal(found[known], a[known])
    return (found == a)[~known].mean()


# --- the attributes ----------------------------------------------------------------


@every_filler
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("per_group", [5, 30])
def test_attributes_of_a_few_rows_are_enough(filler, n_classes, per_group):
    X, y, a, some = make(n_classes=n_classes, per_group=per_group)
    model = clone(filler).fit(X, y, some)
    assert filled_right(model.pseudo_attributes_, a, some) > 0.97
    known = ~np.isnan(some)
    assert (model.confidence_[known] == 1).all()
    assert (model.confidence_[~known] < 1).all()
    assert len(model.heads_) == model.n_folds
    X_new, y_new, a_new, _ = make(n_classes=n_classes)
    assert (model.predict(X_new, y_new) == a_new).mean() > 0.97


def test_attributes_of_validation_rows_alone():
    X, y, a, _ = make()
    train, val = np.arange(900), np.arange(900, 1200)
    given = {"X_val": X[val], "y_val": y[val]}
    model = clone(SSA).fit(X[train], y[train], attributes_val=a[val], **given)
    assert (model.pseudo_attributes_ == a[train]).mean() > 0.97
    some = np.where(np.arange(300) < 200, a[val], np.nan)
    both = clone(SSA).fit(
        X[train], y[train], some_of(y, a, 3)[train], attributes_val=some, **given
    )
    assert (both.pseudo_attributes_ == a[train]).mean() > 0.97


def test_unbalanced_annotation_fills_the_smallest_group_too():
    """As they come: one row in forty is of a minority group."""
    X, y, a, _ = make(4000)
    some = np.where(np.arange(4000) < 800, a, np.nan)
    found = clone(SSA).fit_predict(X, y, some)
    for label in (0, 1):
        minority = (y == label) & (a != label) & np.isnan(some)
        assert (found == a)[minority].mean() > 0.9


def test_several_attributes_are_crossed():
    X, y, a, _ = make(2400)
    other = np.array(["left", "right"])[(np.arange(2400) // 7) % 2]
    X = X.copy()
    X[:, 3] += 6 * (other == "left")
    table = pd.DataFrame({"a": a, "side": other})
    known = np.random.default_rng(0).random(2400) < 0.2
    table.loc[~known, "side"] = None
    table.loc[~known & (np.arange(2400) % 2 == 0), "a"] = np.nan
    found = clone(SSA).fit_predict(X, y, table)
    assert found.shape == (2400, 2)
    right = (found[:, 0].astype(int) == a) & (found[:, 1] == other)
    assert right[~known].mean() > 0.95
    assert right[known].all()


KINDS = {
    "numbers": lambda a: a.astype(float),
    "strings": lambda a: np.array(["land", "water"], dtype=object)[a],
    "pandas integers": lambda a: pd.Series(a, dtype="Int64"),
    "pandas strings": lambda a: pd.Series(np.array(["land", "water"])[a]),
    "categories": lambda a: pd.Series(np.array(["land", "water"])[a], dtype="category"),
    "dates": lambda a: np.array(["2020", "2021"], dtype="M8[Y]")[a],
    "masked": lambda a: np.ma.array(a, mask=False),
    "tensor": lambda a: torch.from_numpy(a.astype(float)),
    "a column": lambda a: pd.DataFrame({"a": a.astype(float)}),
}
MISSING = {"numbers": np.nan, "strings": None, "pandas integers": pd.NA,
           "pandas strings": None, "categories": None, "dates": "NaT",
           "masked": np.ma.masked, "tensor": np.nan, "a column": np.nan}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_attribute_and_of_gap(kind):
    X, y, a, some = make(400)
    values = KINDS[kind](a)
    rows = np.flatnonzero(np.isnan(some))
    where = values.iloc if hasattr(values, "iloc") else values
    expected = np.asarray(values)
    gaps = values.copy() if hasattr(values, "copy") else values.clone()
    where = gaps.iloc if hasattr(gaps, "iloc") else gaps
    where[rows] = MISSING[kind]
    found = clone(SSA).fit_predict(X, y, gaps)
    assert found.shape == expected.shape
    assert (found == expected).mean() > 0.97
    assert found.dtype.kind in "iufUM"  # of objects only where columns differ
    model = GroupDROClassifier(pseudo_attributes=SSA, max_iter=2, random_state=0)
    model.fit(X, y, gaps, X_val=X, y_val=y, attributes_val=gaps)
    np.testing.assert_array_equal(model.pseudo_attributes_, found)


def test_what_is_all_annotated_stays():
    X, y, a, _ = make(300)
    np.testing.assert_array_equal(clone(SSA).fit_predict(X, y, a), a)
    model = clone(SSA).fit(X, y, a)
    assert (model.predict(X, y) == a).mean() > 0.97


def test_rows_of_weight_0_are_not_there_and_others_count():
    X, y, a, some = make(600)
    weights = (np.arange(600) % 5 > 0).astype(float)
    there = weights > 0
    model = clone(SSA).fit(X, y, some, sample_weight=weights)
    alone = clone(SSA).fit(X[there], y[there], some[there])
    found = model.pseudo_attributes_[there]
    np.testing.assert_array_equal(found, alone.pseudo_attributes_)
    heavy = np.where(np.arange(600) % 2, 9.0, 1.0)
    weighted = clone(SSA).fit(X, y, some, sample_weight=heavy)
    assert filled_right(weighted.pseudo_attributes_, a, some) > 0.97
    plain = clone(SSA).fit(X, y, some)
    assert not np.allclose(weighted.heads_[0].coef_, plain.heads_[0].coef_)


# --- what it refuses ---------------------------------------------------------------


def test_nothing_annotated_is_refused():
    X, y, a, _ = make(200)
    for none in (None, np.full(200, np.nan)):
        with pytest.raises(ValueError, match="learns from rows that have attributes"):
            clone(SSA).fit(X, y, none)
    with pytest.raises(ValueError, match="All annotated rows have the attribute 1"):
        clone(SSA).fit(X, y, np.where(a == 1, 1, np.nan))


def test_groups_of_which_nothing_is_known_are_refused():
    X, y, a, some = make(400)
    absent = np.where((y == 0) & (a == 1), np.nan, some)
    with pytest.raises(ValueError, match=r"1 groups.*label=0, attribute=1.*'exclude'"):
        clone(SSA).fit(X, y, absent)
    with pytest.raises(ValueError, match="No row of label 0 is annotated"):
        clone(SSA).fit(X, y, np.where(y == 0, np.nan, some))
    # A label whose rows are all annotated needs nothing.
    clone(SSA).fit(X, y, np.where(y == 0, a, some))
    excluded = clone(SSA).set_params(absent_groups="exclude").fit(X, y, absent)
    assert (excluded.pseudo_attributes_[y == 0] == 0).all()
    assert (excluded.predict(X, y)[y == 0] == 0).all()


def test_items_are_refused_by_name():
    _, y, _, some = make(60)
    for items in (np.zeros((60, 3, 8, 8)), ["a.png"] * 60):
        with pytest.raises(ValueError, match="SSAPseudoAttributes reads embeddings"):
            clone(SSA).fit(items, y, some)


def test_attributes_of_another_kind_in_validation_rows():
    X, y, a, some = make(200)
    words = np.where(np.arange(200) < 50, np.array(["l", "w"], object)[a], None)
    with pytest.raises(ValueError, match="attributes_val holds strings"):
        clone(SSA).fit(X, y, some, X_val=X, y_val=y, attributes_val=words)
    with pytest.raises(ValueError, match="attributes_val has 199 rows"):
        clone(SSA).fit(X, y, some, X_val=X, y_val=y, attributes_val=some[:-1])


# --- estimators --------------------------------------------------------------------


@every_user
def test_any_estimator_trains_on_partly_annotated_rows(name):
    X, y, _, some = make(600)
    model = USING_ATTRIBUTES[name].quick(pseudo_attributes=SSA)
    if hasattr(model, "out_of_bounds"):
        model.set_params(out_of_bounds="clip")
    model.fit(X, y, some)
    expected = clone(SSA).fit_predict(X, y, some)
    np.testing.assert_array_equal(model.pseudo_attributes_, expected)
    known = clone(model).fit(X, y, expected)
    np.testing.assert_array_equal(model.coef_, known.coef_)
    assert not hasattr(known, "pseudo_attributes_")  # complete: nothing to infer


@every_user
def test_validation_rows_are_filled_by_the_same_fit(name):
    X, y, a, some = make(600)
    train, val = np.arange(400), np.arange(400, 600)
    given = {"X_val": X[val], "y_val": y[val]}
    model = USING_ATTRIBUTES[name].quick(pseudo_attributes=SSA)
    if hasattr(model, "out_of_bounds"):
        model.set_params(out_of_bounds="clip")
    for attributes in (a[train], some[train], None):
        part = np.where(np.arange(200) < 150, a[val], np.nan)
        found = clone(model)
        found.fit(X[train], y[train], attributes, **given, attributes_val=part)
        filler = clone(SSA)
        filler.fit(X[train], y[train], attributes, **given, attributes_val=part)
        filled = np.where(np.isnan(part), filler.predict(X[val], y[val]), part)
        alone = clone(model).set_params(pseudo_attributes=None)
        alone.fit(
            X[train], y[train], filler.pseudo_attributes_, **given,
            attributes_val=filled,
        )  # fmt: skip
        np.testing.assert_array_equal(found.coef_, alone.coef_)


def test_worst_group_is_near_that_of_known_attributes():
    for n_classes in (2, 3):
        data = make_spurious_classification(
            2000, n_classes=n_classes, n_attributes=n_classes, random_state=0,
            return_X_y=False,
        )  # fmt: skip
        X_test, y_test, a_test = make_spurious_classification(
            4000, n_classes=n_classes, n_attributes=n_classes, random_state=1,
            correlation=1 / n_classes, directions=data.directions,
        )  # fmt: skip
        some = some_of(data.y, data.attributes, 10)
        worst = {}
        for told, attributes in {"all": data.attributes, "some": some}.items():
            model = GERNEClassifier(
                pseudo_attributes=SSA, out_of_bounds="warn", random_state=0
            )
            predicted = model.fit(data.X, data.y, attributes).predict(X_test)
            worst[told] = worst_group_accuracy_score(
                y_test, predicted, attributes=a_test
            )
        assert worst["some"] > worst["all"] - 0.04


@every_user
def test_searches_fill_once_a_split_and_as_stock_ones_do(name, monkeypatch):
    X, y, _, some = make(600)
    row = USING_ATTRIBUTES[name]
    model = row.quick(pseudo_attributes=SSA)
    if hasattr(model, "out_of_bounds"):
        model.set_params(out_of_bounds="clip")
    calls = []
    fit = SSAPseudoAttributes.fit
    monkeypatch.setattr(
        SSAPseudoAttributes,
        "fit",
        lambda self, *args, **more: calls.append(1) or fit(self, *args, **more),
    )
    grid = {"weight_decay": [0.0, 0.1, 0.5]}
    if "weight_decay" not in row.parameters:
        grid = {"tol": [0.01, 0.02, 0.05]}
    splitter = AttributeStratifiedKFold(2)
    for scaled in (False, True):
        calls.clear()
        estimator, names = clone(model), grid
        if scaled:
            estimator = make_pipeline(StandardScaler(), estimator)
            step = estimator.steps[-1][0]
            names = {f"{step}__{key}": values for key, values in grid.items()}
        search = BatchedGridSearchCV(estimator, names, cv=splitter, error_score="raise")
        search.fit(X, y, attributes=some)
        assert len(calls) == 2 + 1  # and for the best candidate
        with config_context(enable_metadata_routing=True):
            stock = GridSearchCV(
                estimator, names, cv=splitter, error_score="raise"
            ).fit(X, y, attributes=some)
        np.testing.assert_allclose(
            search.cv_results_["mean_test_score"],
            stock.cv_results_["mean_test_score"],
            atol=1e-3,
        )


def test_candidates_that_use_no_attributes_take_part():
    X, y, _, some = make(400)
    model = ERMClassifier(pseudo_attributes=SSA, max_iter=2, random_state=0)
    search = BatchedGridSearchCV(
        model, {"balance": [None, "class", "group"]}, cv=2, error_score="raise"
    ).fit(X, y, attributes=some)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_of_several_fillers_in_a_grid_none_is_missed():
    """The candidates share what is encoded; one of them does not fill the gaps."""
    X, y, _, some = make(400)
    model = ERMClassifier("group", max_iter=2, random_state=0)
    search = BatchedGridSearchCV(model, {"pseudo_attributes": [SSA, None]}, cv=2)
    search.set_params(estimator__pseudo_attributes=SSA).fit(X, y, attributes=some)
    assert np.isfinite(search.cv_results_["mean_test_score"]).tolist() == [True, False]


def test_splitters_share_the_annotated_rows_out():
    _, y, a, some = make(800, per_group=4)
    for _, test in AttributeStratifiedKFold(4).split(y, y, attributes=some):
        known = ~np.isnan(some[test])
        cells = y[test][known] * 2 + a[test][known]
        assert np.bincount(cells, minlength=4).tolist() == [1, 1, 1, 1]


def test_networks_on_numbers_and_what_is_said_of_images():
    X, y, a, some = make(300)
    model = as_network(GERNEClassifier(pseudo_attributes=SSA), max_iter=1)
    model.set_params(random_state=0, estimator__out_of_bounds="clip")
    part = np.where(np.arange(300) < 250, a, np.nan)
    model.fit(X, y, some, X_val=X, y_val=y, attributes_val=part)
    expected = clone(SSA).fit_predict(X, y, some, X_val=X, y_val=y, attributes_val=part)
    np.testing.assert_array_equal(model.estimator_.pseudo_attributes_, expected)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 3))
    images = as_network(GERNEClassifier(pseudo_attributes=SSA), backbone, max_iter=1)
    with pytest.raises(ValueError, match="SSAPseudoAttributes reads embeddings"):
        images.fit(X.reshape(300, 1, 4, 5), y, some)


def test_what_infers_anew_does_not_fill():
    X, y, _, some = make(200)
    model = GERNEClassifier(pseudo_attributes=ConfidencePseudoAttributes())
    with pytest.raises(
        ValueError, match=r"pseudo_attributes=ConfidencePseudo.*does not"
    ):
        model.fit(X, y, some)


@pytest.mark.parametrize("values", [[0, 1], ["land", "water"]])
def test_files_of_heads_whose_attributes_were_filled(values, tmp_path):
    X, y, a, some = make(300)
    gaps = np.where(np.isnan(some), None, np.array(values, dtype=object)[a])
    model = GroupDROClassifier(pseudo_attributes=SSA, max_iter=2, random_state=0)
    model.fit(X, y, gaps)
    save(model, tmp_path / "head")
    again = load(tmp_path / "head")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.pseudo_attributes_, model.pseudo_attributes_)
    assert repr(again.pseudo_attributes) == repr(SSA)
    np.testing.assert_array_equal(clone(again).fit(X, y, gaps).coef_, model.coef_)
