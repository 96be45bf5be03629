import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skdebias._attributes
from skdebias._attributes import (
    Groups,
    check_attributes,
    encode_attributes,
    factorize,
    form_groups,
    form_groups_of_codes,
)


def test_doctests():
    results = doctest.testmod(skdebias._attributes)
    assert results.attempted >= 6
    assert results.failed == 0


def _torch_tensor(values):
    return pytest.importorskip("torch").tensor(values)


@pytest.mark.parametrize(
    ("attributes", "codes", "values"),
    [
        ([3, 1, 3], [1, 0, 1], [1, 3]),
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (("b", "a", "b"), [1, 0, 1], ["a", "b"]),
        (np.array([True, False, True]), [1, 0, 1], [False, True]),
        (np.array(["b", "a", "b"], dtype=object), [1, 0, 1], ["a", "b"]),
        (np.array([[3.5], [1.5], [3.5]]), [1, 0, 1], [1.5, 3.5]),
        (pd.Series(["b", "a", "b"]), [1, 0, 1], ["a", "b"]),
        (pd.Series([3, 1, 3], index=[7, 8, 9]), [1, 0, 1], [1, 3]),
        (pd.Series([3, 1, 3], dtype="Int64"), [1, 0, 1], [1, 3]),
        # Sorted by value, not by the order of the categories.
        (pd.Categorical(["b", "a", "b"], categories=["b", "a"]), [1, 0, 1], ["a", "b"]),
        (pd.DataFrame({"place": ["b", "a", "b"]}), [1, 0, 1], ["a", "b"]),
    ],
)
def test_encode_one_column(attributes, codes, values):
    got_codes, got_values = encode_attributes(attributes)
    assert got_codes.dtype == np.int64
    assert got_codes.tolist() == codes
    assert got_values.shape == (2,)
    assert got_values.tolist() == values


def test_encode_torch_tensor():
    codes, values = encode_attributes(_torch_tensor([5, 2, 5]))
    assert codes.tolist() == [1, 0, 1]
    assert values.tolist() == [2, 5]


def test_encode_crosses_columns_of_different_types():
    frame = pd.DataFrame({"place": ["w", "l", "w", "w"], "year": [10, 9, 9, 10]})
    codes, values = encode_attributes(frame)
    # Lexicographic: (l, 9), (w, 9), (w, 10); (l, 10) does not occur.
    assert codes.tolist() == [2, 0, 1, 2]
    assert values.tolist() == [["l", 9], ["w", 9], ["w", 10]]


def test_encode_keeps_numbers_of_mixed_rows():
    # np.asarray alone would sort 9 after 10, as words.
    codes, values = encode_attributes([["w", 10], ["w", 9]])
    assert codes.tolist() == [1, 0]
    assert values.tolist() == [["w", 9], ["w", 10]]


def test_encode_many_wide_columns_does_not_overflow():
    # 1000 values in each of 20 columns: 1000**20 cells would overflow int64.
    column = np.arange(1000)
    codes, values = encode_attributes(np.column_stack([column[::-1]] * 20))
    assert codes.tolist() == column[::-1].tolist()
    assert values.shape == (1000, 20)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(0, 4), st.integers(0, 1)),
        min_size=1,
        max_size=30,
    )
)
def test_encode_round_trip(rows):
    array = np.array(rows)
    codes, values = encode_attributes(array)
    np.testing.assert_array_equal(values[codes], array)
    assert list(map(tuple, values)) == sorted(set(rows))


@pytest.mark.parametrize(
    "attributes",
    [
        [1.0, np.nan],
        ["a", None],
        ["a", np.nan],
        np.array(["a", None], dtype=object),
        pd.Series(["a", None]),
        pd.Series([1, None], dtype="Int64"),
        pd.Series(["a", None], dtype="category"),
        np.array(["2020", "NaT"], dtype="datetime64[Y]"),
        [[1.0, 2.0], [1.0, np.nan]],
    ],
)
def test_missing_values_are_refused(attributes):
    with pytest.raises(ValueError, match=r"bias has missing values in 1 rows .* row 1"):
        check_attributes(attributes, 2, name="bias")


def test_wrong_length():
    with pytest.raises(ValueError, match=r"bias has 3 rows, but there are 2 samples"):
        check_attributes([0, 1, 0], 2, name="bias")


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        (np.zeros((2, 1, 1)), r"shape \(2, 1, 1\)"),
        (3, r"shape \(\)"),
        (np.zeros((2, 0)), "no columns"),
        ([[1, 2], [3]], "rows of equal length"),
    ],
)
def test_wrong_shape(attributes, match):
    with pytest.raises(ValueError, match=match):
        check_attributes(attributes, 2)


def test_unsortable_mixture_names_the_types():
    mixed = np.array([1, "a"], dtype=object)
    with pytest.raises(TypeError, match="mixes the types int, str"):
        encode_attributes(mixed)


def test_check_does_not_copy():
    array = np.array([0, 1])
    assert np.shares_memory(check_attributes(array, 2), array)


def test_groups_are_lexicographic_and_skip_empty_cells():
    y = [2, 0, 2, 2, 0]
    a = [0, 3, 0, 1, 3]
    groups = Groups.from_labels(y, a, n_classes=4, n_attributes=5)
    assert groups.cells.tolist() == [[0, 3], [2, 0], [2, 1]]
    assert groups.counts.tolist() == [2, 2, 1]
    assert groups.ids.tolist() == [1, 0, 1, 2, 0]
    assert (groups.n_groups, groups.n_classes, groups.n_attributes) == (3, 4, 5)
    assert groups.y_codes.tolist() == y
    for array in (groups.ids, groups.cells, groups.counts, groups.y_codes):
        assert array.dtype == np.int64


def test_groups_of_labels_and_attributes_of_any_kind():
    y = np.array(["b", "a", "b"], dtype=object)
    groups, labels, values = form_groups(y, [["x", "1"], ["y", "1"], ["x", "1"]])
    assert labels.tolist() == ["a", "b"]
    assert values.tolist() == [["x", "1"], ["y", "1"]]
    assert groups.cells.tolist() == [[0, 1], [1, 0]]
    assert groups.counts.tolist() == [1, 2]


def test_groups_are_the_classes_where_there_are_no_attributes():
    groups, labels, values = form_groups([5, 3, 5])
    assert (labels.tolist(), values.tolist()) == ([3, 5], [0])
    assert groups.cells.tolist() == [[0, 0], [1, 0]]
    of_codes, _ = form_groups_of_codes(np.array([2, 0]), 4)
    assert (of_codes.n_classes, of_codes.cells.tolist()) == (4, [[0, 0], [2, 0]])


def test_errors_name_the_arguments():
    with pytest.raises(ValueError, match="attributes_val has 2 rows, but there are 3"):
        form_groups([0, 1, 1], [0, 1], name="attributes_val")
    with pytest.raises(TypeError, match="y_val mixes the types"):
        form_groups(np.array([0, "a"], dtype=object), [0, 1], y_name="y_val")


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_groups_do_not_depend_on_the_order_of_samples(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    groups = Groups.from_labels(*np.transpose(pairs), 4, 5)
    other = Groups.from_labels(*np.transpose(shuffled), 4, 5)
    np.testing.assert_array_equal(groups.cells, other.cells)
    np.testing.assert_array_equal(groups.counts, other.counts)
    np.testing.assert_array_equal(groups.cells[groups.ids], pairs)
    assert groups.counts.sum() == len(pairs)


def test_groups_of_no_samples():
    groups = Groups.from_labels([], [], 2, 2)
    assert groups.n_groups == 0
    assert groups.cells.shape == (0, 2)


@pytest.mark.parametrize(
    ("y", "a", "match"),
    [
        ([0, 1], [0], "y_codes has 2 entries, but attribute_codes has 1"),
        ([0, 2], [0, 0], r"y_codes must lie in \[0, 2\)"),
        ([0, 1], [0, -1], r"attribute_codes must lie in \[0, 2\), but spans \[-1, 0\]"),
        ([0.5, 1], [0, 0], "y_codes must be a 1-D integer array"),
    ],
)
def test_groups_refuse_bad_codes(y, a, match):
    with pytest.raises(ValueError, match=match):
        Groups.from_labels(y, a, 2, 2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "bool", "<U3"])
@pytest.mark.parametrize("spread", [1, 100, 10**12])
def test_factorize_is_unique(dtype, spread):
    """Counting where it can, sorting where it must: the same answer."""
    values = np.random.default_rng(0).integers(-3, 4, 50) * spread
    array = values.astype(dtype)
    found, codes = factorize(array, "y")
    wanted, inverse = np.unique(array, return_inverse=True)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(codes, inverse)
    assert found.dtype == array.dtype
    assert codes.dtype == np.int64
