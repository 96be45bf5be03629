"""Malformed and doubtful input, the same for every estimator of the package."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline

import skdebias
from skdebias import (
    AttributesIgnoredWarning,
    CollapsedHeadWarning,
    UnusableAttributesWarning,
)
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.metrics import (
    group_accuracy_table,
    worst_group_accuracy_score,
    worst_group_accuracy_scorer,
)
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    AttributeStratifiedShuffleSplit,
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
)
from tests._instances import ONE_OF_EACH, USING_ATTRIBUTES

NETWORK = "FineTuneClassifier"
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}."
                               f"{ConvergenceWarning.__name__}"),
]  # fmt: skip


def make(name, **parameters):
    """Return an estimator that trains in no time."""
    if name == NETWORK:
        backbone = torch.nn.Linear(6, 6)
        method = skdebias.GERNEClassifier(beta=0.0)
        return FineTuneClassifier(
            method, backbone, modality="tensor", random_state=0, max_iter=1
        ).set_params(**parameters)
    return ONE_OF_EACH[name].quick(**parameters)


def make_user(name):
    """Return an estimator that reads attributes in training, if its class can."""
    return USING_ATTRIBUTES[name].quick() if name in USING_ATTRIBUTES else make(name)


every = pytest.mark.parametrize("name", [*ONE_OF_EACH, NETWORK])
every_head = pytest.mark.parametrize("name", ONE_OF_EACH)


@pytest.fixture(scope="module")
def data():
    X, y, a = make_spurious_classification(
        160, n_features=6, correlation=0.7, random_state=0
    )
    return X.astype(np.float32), y, a


# --- validation rows ---------------------------------------------------------------


def _with(array, row, value, dtype=float):
    out = np.asarray(array).astype(dtype)
    out[row] = value
    return out


def _frame(X, prefix="f"):
    return pd.DataFrame(X, columns=[f"{prefix}{i}" for i in range(X.shape[1])])


#: Embeddings that no head can be trained on, and what the message says.
BAD_ROWS = {
    "masked": (lambda X: np.ma.array(X, mask=X > 1), "masked entries"),
    "complex tensor": (lambda X: torch.from_numpy(X + 1j), "real numbers"),
    "meta tensor": (lambda X: torch.empty(X.shape, device="meta"), "holds data"),
    "sparse tensor": (lambda X: torch.from_numpy(X).to_sparse(), "to_dense"),
    "beyond float32": (lambda X: X.astype(np.float64) * 1e39, "float32.*standardise"),
    "beyond float32, as a tensor": (
        lambda X: torch.from_numpy(X).double() * -1e200,
        "float32.*standardise",
    ),
}


@every_head
@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_cannot_be_trained_on(name, case, data):
    X, y, a = data
    convert, message = BAD_ROWS[case]
    with pytest.raises(ValueError, match=f"X.*{message}"):
        make(name).fit(convert(X), y, a)
    with pytest.raises(ValueError, match=f"X_val.*{message}"):
        make(name).fit(X, y, a, X_val=convert(X), y_val=y)
    if name == "ULEClassifier":
        with pytest.raises(ValueError, match=f"X_student.*{message}"):
            make(name).fit(X, y, X_student=convert(X))


@every
def test_masked_labels(name, data):
    X, y, a = data
    masked = np.ma.array(y, mask=y == 1)
    with pytest.raises(ValueError, match="y is a masked array"):
        make(name).fit(X, masked, a)
    with pytest.raises(ValueError, match="y_val is a masked array"):
        make(name).fit(X, y, a, X_val=X, y_val=masked)
    make(name).fit(X, np.ma.array(y, mask=False), a)


#: What is wrong with a validation set, and what the message says.
BAD_VALIDATION = {
    "y_val with NaN": (lambda X, y, a: (X, _with(y, 2, np.nan), a), "y_val.*missing"),
    "y_val with inf": (lambda X, y, a: (X, _with(y, 2, np.inf), a), "y_val.*infinity"),
    "y_val with None": (
        lambda X, y, a: (X, _with(y, 2, None, object), a),
        "y_val.*missing",
    ),
    "y_val too short": (lambda X, y, a: (X, y[:-3], a[:-3]), "y_val has 157"),
    "y_val in two columns": (
        lambda X, y, a: (X, np.column_stack([y, y]), a),
        "y_val must be 1-D",
    ),
    "y_val a scalar": (lambda X, y, a: (X, 1, a), "y_val must be 1-D"),
    "y_val continuous": (lambda X, y, a: (X, y + 0.25, a), "y_val.*continuous"),
    "y_val of strings": (
        lambda X, y, a: (X, np.array(["0", "1"])[y], a),
        "y_val holds none of the classes of y",
    ),
    "y_val of other classes": (lambda X, y, a: (X, y + 7, a), "y_val.*none of"),
    "attributes_val too short": (lambda X, y, a: (X, y, a[:-3]), "attributes_val has"),
    "attributes_val with NaN": (
        lambda X, y, a: (X, y, _with(a, 3, np.nan)),
        "attributes_val has missing",
    ),
    "attributes_val of strings": (
        lambda X, y, a: (X, y, np.array(["l", "w"])[a]),
        "attributes_val holds strings",
    ),
    "attributes_val of two columns": (
        lambda X, y, a: (X, y, pd.DataFrame({"a": a, "b": a})),
        "attributes_val has 2 columns",
    ),
    "no X_val": (lambda X, y, a: (None, y, a), "X_val=None"),
    "no y_val": (lambda X, y, a: (X, None, a), "y_val=None"),
    "attributes_val alone": (lambda X, y, a: (None, None, a), "X_val=None"),
    "no rows": (lambda X, y, a: (X[:0], y[:0], a[:0]), "X_val"),
}


@every
@pytest.mark.parametrize("case", BAD_VALIDATION)
def test_validation_rows_are_checked_like_training_rows(name, case, data):
    X, y, a = data
    change, message = BAD_VALIDATION[case]
    X_val, y_val, attributes_val = change(X, y, a)
    with pytest.raises((TypeError, ValueError), match=message):
        make(name).fit(X, y, a, X_val=X_val, y_val=y_val, attributes_val=attributes_val)


@every_head
@pytest.mark.parametrize(
    "change",
    [
        lambda X: X[:, :5],
        lambda X: _with(X, (3, 2), np.nan),
        lambda X: _with(X, (3, 2), np.inf),
        lambda X: _with(X, (3, 2), np.nan, np.float16),
        lambda X: csr_matrix(X),
        lambda X: X[0],
        lambda X: X.tolist()[:-1],
        lambda X: np.full(X.shape, "x"),
    ],
)
def test_X_val_is_checked_by_name(name, change, data):
    X, y, a = data
    with pytest.raises((TypeError, ValueError), match="X_val"):
        make(name).fit(X, y, a, X_val=change(X), y_val=y, attributes_val=a)


@every_head
def test_columns_of_X_val_are_those_of_X(name, data):
    X, y, a = data
    with pytest.raises(ValueError, match=r"X_val.*names"):
        make(name).fit(_frame(X), y, a, X_val=_frame(X, "g"), y_val=y)


@every
def test_odd_but_right_validation_rows_are_taken(name, data):
    """Float labels for whole ones, a data frame of one column for an array."""
    X, y, a = data
    model = make(name).fit(
        X, y, a, X_val=X, y_val=y.astype(float), attributes_val=pd.DataFrame({"a": a})
    )
    assert set(model.predict(X)) <= {0, 1}


@every
def test_a_label_that_only_y_val_has_is_named(name, data):
    X, y, a = data
    y_val = np.where(np.arange(len(y)) < 9, 5, y)
    with pytest.warns(UserWarning, match=r"y_val holds labels.*\[5\].* 9 of 160 rows"):
        make(name).fit(X, y, a, X_val=X, y_val=y_val, attributes_val=a)


# --- attributes --------------------------------------------------------------------

BAD_ATTRIBUTES = {
    "too short": (lambda a: a[:-7], "attributes has 153 rows"),
    "too long": (lambda a: np.tile(a, 2), "attributes has 320 rows"),
    "dicts": (lambda a: [{}] * len(a), "attributes holds values of type dict"),
    "sets": (lambda a: [{1}] * len(a), "attributes holds values of type set"),
    "ragged lists": (lambda a: [[1]] * (len(a) - 1) + [[1, 2]], "attributes cannot"),
    "a scalar": (lambda a: 3, "attributes=3 is no array"),
    "a name": (lambda a: "place", "attributes='place' is a name"),
    "sparse": (lambda a: csr_matrix(a[:, None]), "attributes is a sparse"),
    "3-D": (lambda a: a[:, None, None], "attributes must have shape"),
    "no columns": (lambda a: np.zeros((len(a), 0)), "attributes has no columns"),
    "mixed": (lambda a: ["x" if v else 1 for v in a], "attributes mixes"),
}


@every
@pytest.mark.parametrize("case", BAD_ATTRIBUTES)
def test_attributes_are_checked_even_where_they_are_ignored(name, case, data):
    X, y, a = data
    change, message = BAD_ATTRIBUTES[case]
    with pytest.raises((TypeError, ValueError), match=message):
        make(name).fit(X, y, attributes=change(a))


#: Attributes of some rows only, as users bring them: all of them but row 3.
GAPS = {
    "NaN": lambda a: _with(a, 3, np.nan),
    "None": lambda a: _with(a, 3, None, object),
    "None among strings": lambda a: _with(np.array(["l", "w"])[a], 3, None, object),
    "pandas NA": lambda a: pd.Series(a, dtype="Int64").mask(np.arange(len(a)) == 3),
    "pandas strings": lambda a: pd.Series(np.array(["l", "w"])[a]).mask(
        np.arange(len(a)) == 3
    ),
    "categories": lambda a: pd.Series(a, dtype="category").mask(np.arange(len(a)) == 3),
    "NaT": lambda a: _with(np.array(["2020", "2021"], "M8[Y]")[a], 3, "NaT", "M8[Y]"),
    "masked": lambda a: np.ma.array(a, mask=np.arange(len(a)) == 3),
    "tensor": lambda a: torch.from_numpy(_with(a, 3, np.nan)),
    "one of two columns": lambda a: pd.DataFrame({"a": a, "b": _with(a, 3, np.nan)}),
}


@every
@pytest.mark.parametrize("case", GAPS)
def test_gaps_in_attributes_are_refused_where_they_are_used(name, case, data):
    """With what fills them; those who ignore attributes ignore their gaps."""
    X, y, a = data
    gaps = GAPS[case](a)
    model = make_user(name)
    message = "attributes has missing values in 1 of 160 rows .*row 3"
    if name in {*USING_ATTRIBUTES, NETWORK}:
        with pytest.raises(ValueError, match=f"{message}.*=SSAPseudoAttributes"):
            model.fit(X, y, attributes=gaps)
    else:
        with pytest.warns(AttributesIgnoredWarning):
            model.fit(X, y, attributes=gaps)
    with pytest.raises(ValueError, match=r"attributes_val has .*SSAPseudoAttributes"):
        model.fit(X, y, X_val=X, y_val=y, attributes_val=gaps)


@every
@pytest.mark.parametrize("case", GAPS)
def test_attributes_without_a_value_are_none(name, case, data):
    X, y, a = data
    gaps = GAPS[case](a)
    rows = np.full(len(y), 3)
    empty = gaps.iloc[rows] if hasattr(gaps, "iloc") else gaps[rows]
    validation = {"X_val": X, "y_val": y}
    model = make_user(name)
    other = clone(model)
    model.fit(X, y, empty, **validation, attributes_val=empty)
    other.fit(X, y, **validation)
    np.testing.assert_array_equal(model.predict_proba(X), other.predict_proba(X))


@every_head
def test_a_refused_fit_leaves_the_fitted_head_alone(name, data):
    X, y, a = data
    model = make(name).fit(X, y, a)
    expected = model.predict_proba(X)
    for bad in ((X, y + 5, a[:-1]), (X[:, :3], y + 5, a[:-1])):
        with pytest.raises(ValueError, match="attributes"):
            model.fit(*bad)
    assert list(model.classes_) == [0, 1]
    np.testing.assert_array_equal(model.predict_proba(X), expected)


# --- warm start --------------------------------------------------------------------

WARM = [n for n in ONE_OF_EACH if hasattr(make(n), "warm_start")]


OTHER_PROBLEMS = {
    "classes": lambda X, y: (X, y + 5),
    "kind of classes": lambda X, y: (X, np.array(["a", "b"])[y]),
    "number of classes": lambda X, y: (X, np.where(np.arange(len(y)) % 5, y, 2)),
    "features": lambda X, y: (X.iloc[:, :4], y),
    "names of features": lambda X, y: (X.add_prefix("other_"), y),
}


@pytest.mark.parametrize("name", WARM)
@pytest.mark.parametrize("change", OTHER_PROBLEMS.values(), ids=OTHER_PROBLEMS)
def test_warm_start_goes_on_with_the_same_problem_only(name, change, data):
    X, y, a = data
    X = _frame(X)
    model = make(name, warm_start=True).fit(X, y, a)
    expected = model.predict_proba(X)
    other_X, other_y = change(X, y)
    with pytest.raises(ValueError, match=r"warm_start=True.*fit a clone"):
        model.fit(other_X, other_y, a)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    model.fit(X, y, a)


# --- attributes that cannot work ---------------------------------------------------

UNUSABLE = {
    "one value": (lambda y, a: np.zeros(len(y)), r"one value, 0.*\(label=0.*\): 8\d"),
    "the labels": (lambda y, a: y, "does not vary within any class"),
    "row numbers": (lambda y, a: np.arange(len(y)), "160 values in 160 rows"),
    "names of files": (
        lambda y, a: [f"{i}.png" for i in range(len(y))],
        "155 more.*what many rows have in common",
    ),
    "measurements": (
        lambda y, a: np.random.default_rng(0).normal(size=len(y)),
        "155 more.*KBinsDiscretizer",
    ),
    "one row of a third value": (
        lambda y, a: _with(a, 0, 2, int),
        r"1 of 5 groups with fewer than 5 rows: \(label=\d, attribute=2\): 1",
    ),
    "three rows of a crossed value": (
        lambda y, a: np.column_stack([a, np.arange(len(y)) < 3]),
        r"fewer than 5 rows: \(label=\d, attribute=\(\d, 1\)\): \d",
    ),
}


def _caught(model, *args, **kwargs):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        model.fit(*args, **kwargs)
    return [w for w in record if w.category is UnusableAttributesWarning]


@pytest.mark.parametrize("name", [*USING_ATTRIBUTES, NETWORK])
@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_attributes_are_named_once(name, case, data):
    X, y, a = data
    change, message = UNUSABLE[case]
    model = make_user(name)
    if hasattr(model, "out_of_bounds"):
        model.set_params(out_of_bounds="clip")
    if name == NETWORK:
        model.set_params(estimator__out_of_bounds="clip")
    (found,) = _caught(model, X, y, attributes=change(y, a))
    assert re.search(message, str(found.message))
    assert found.filename == __file__  # the caller's line


@every
def test_ordinary_attributes_are_silent(name, data):
    X, y, a = data
    model = make_user(name)
    # An empty group is fine, and so are 5 rows.
    a = np.where(y == 0, 0, np.arange(len(y)) % 8 == 0)
    kept = (a == 0) | (np.cumsum(a) <= 5)
    X, y, a = X[kept], y[kept], a[kept]
    validation = {"X_val": X, "y_val": y, "attributes_val": a}
    assert not _caught(model, X, y, attributes=a, **validation)


@every
def test_row_numbers_cannot_select(name, data):
    X, y, a = data
    model = make_user(name)
    validation = {"X_val": X, "y_val": y, "attributes_val": np.arange(len(y))}
    (found,) = _caught(model, X, y, attributes=a, **validation)
    assert "attributes_val has 160 values" in str(found.message)


@pytest.mark.parametrize("name", sorted({*ONE_OF_EACH} - {*USING_ATTRIBUTES}))
def test_methods_without_attributes_do_not_mind(name, data):
    X, y, _ = data
    assert not _caught(make(name), X, y, attributes=np.arange(len(y)))


# --- searches and scores -----------------------------------------------------------


def _search(name, kind="grid"):
    grid = {"random_state": [0, 1]}
    settings = {"scoring": worst_group_accuracy_scorer, "cv": 2}
    model = make_user(name)
    if kind == "halving":
        return BatchedHalvingGridSearchCV(model, grid, **settings)
    return BatchedGridSearchCV(model, grid, **settings)


@every_head
def test_a_search_names_unusable_attributes_once(name, data):
    X, y, a = data
    assert not _caught(_search(name), X, y, attributes=a)
    rare = _with(a, 0, 2, int)
    warned = _caught(_search(name), X, y, attributes=rare)
    assert len(warned) == (name in USING_ATTRIBUTES)
    (found,) = _caught(_search(name), X, y, attributes=np.arange(len(y)) // 2)
    assert "80 values in 160 rows" in str(found.message)
    assert found.filename == __file__


@pytest.mark.parametrize("kind", ["grid", "halving"])
def test_a_search_checks_the_length_of_attributes_before_it_splits(kind, data):
    """Attributes of the length of a training fold would pass for those of the fold."""
    X, y, a = data
    with pytest.raises(ValueError, match="attributes has 80 rows"):
        _search("GERNEClassifier", kind).fit(X, y, attributes=a[: len(y) // 2])


def test_scores_over_rows_say_so(data):
    _, y, a = data
    rows = np.arange(len(y))
    for score in (worst_group_accuracy_score, group_accuracy_table):
        with pytest.warns(UnusableAttributesWarning, match="160 of 160 groups"):
            score(y, y, attributes=rows)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            score(y, y, attributes=_with(a, 0, 2, int))  # the table shows it


ONE_OR_ALL = {
    "one value": (lambda y: np.zeros(len(y)), "holds one value, 0"),
    "row numbers": (lambda y: np.arange(len(y)), "160 of 160 groups"),
    "measurements": (
        lambda y: np.random.default_rng(0).normal(size=len(y)),
        "KBinsDiscretizer",
    ),
}


@pytest.mark.parametrize("case", ONE_OR_ALL)
@pytest.mark.parametrize(
    "use",
    [
        lambda X, y, a: worst_group_accuracy_score(y, y, attributes=a),
        lambda X, y, a: list(AttributeStratifiedKFold(2).split(X, y, attributes=a)),
        lambda X, y, a: list(
            AttributeStratifiedShuffleSplit(2, test_size=0.5).split(X, y, attributes=a)
        ),
        lambda X, y, a: make("JTTClassifier").fit(
            X, y, X_val=X, y_val=y, attributes_val=a
        ),
    ],
    ids=["score", "folds", "shuffled", "validation"],
)
def test_what_cannot_be_scored_by_is_said_wherever_it_is_given(use, case, data):
    X, y, _ = data
    change, message = ONE_OR_ALL[case]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        use(X, y, change(y))
    (found,) = [w for w in record if w.category is UnusableAttributesWarning]
    assert message in str(found.message)
    assert found.filename == __file__


def test_warnings_point_at_the_caller_through_pipelines_and_subclasses(data):
    """ULE's `fit` calls that of its base; a Pipeline calls that of its last step."""
    X, y, _ = data
    inert = {"learning_rate": 1e-12, "max_iter": 1, "random_state": 0}
    for model in (
        skdebias.ULEClassifier(**inert),
        make_pipeline(skdebias.ERMClassifier(**inert)),
    ):
        y_rare = np.where(np.arange(len(y)) < 20, y, 0)
        with pytest.warns(CollapsedHeadWarning) as record:
            model.fit(-np.abs(X), y_rare)
        found = [w for w in record if w.category is CollapsedHeadWarning]
        assert [w.filename for w in found] == [__file__]
