import doctest
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from skdebias.model_selection import (
    AttributeStratifiedKFold,
    AttributeStratifiedShuffleSplit,
    _kfold,
    _shuffle_split,
)

SPLITTERS = [AttributeStratifiedKFold, AttributeStratifiedShuffleSplit]
PAIRS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=5, max_size=60
)


def _split(splitter, y, a):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return list(splitter.split(np.zeros((len(y), 1)), y, attributes=a))


def _assert_same_splits(first, second):
    assert len(first) == len(second)
    for (train, test), (other_train, other_test) in zip(first, second, strict=True):
        np.testing.assert_array_equal(train, other_train)
        np.testing.assert_array_equal(test, other_test)


@pytest.mark.parametrize("module", [_kfold, _shuffle_split])
def test_doctests(module):
    results = doctest.testmod(module)
    assert results.attempted >= 5
    assert results.failed == 0


def test_kfold_hand_computed():
    # Groups in order of appearance: (0, x) rows 0 2 4, (0, y) rows 1 5, (1, y) row 3.
    # Dealt to 3 folds in turn: 0 1 2 | 0 1 | 2.
    y = [0, 0, 0, 1, 0, 0]
    a = ["x", "y", "x", "y", "x", "y"]
    tests = [t.tolist() for _, t in _split(AttributeStratifiedKFold(3), y, a)]
    assert tests == [[0, 1], [2, 5], [3, 4]]


@settings(max_examples=100)
@given(PAIRS, st.integers(2, 5), st.booleans())
def test_kfold_covers_every_row_once_and_balances_groups(pairs, n_splits, shuffle):
    y, a = np.transpose(pairs)
    seed = 0 if shuffle else None
    splitter = AttributeStratifiedKFold(n_splits, shuffle=shuffle, random_state=seed)
    splits = _split(splitter, y, a)
    assert len(splits) == n_splits
    tests = np.concatenate([test for _, test in splits])
    np.testing.assert_array_equal(np.sort(tests), np.arange(len(y)))
    for train, test in splits:
        rows = np.sort(np.concatenate([train, test]))
        np.testing.assert_array_equal(rows, np.arange(len(y)))
    for codes in (4 * y + a, y, np.zeros_like(y)):  # groups, classes, fold sizes
        counts = np.array(
            [np.bincount(codes[test], minlength=12) for _, test in splits]
        )
        assert np.ptp(counts, axis=0).max() <= 1


@settings(max_examples=50)
@given(PAIRS, st.permutations(range(4)), st.permutations(range(3)))
def test_names_of_attributes_and_labels_do_not_matter(pairs, names, labels):
    y, a = np.transpose(pairs)
    for splitter in (
        AttributeStratifiedKFold(3, shuffle=True, random_state=0),
        AttributeStratifiedShuffleSplit(3, test_size=0.4, random_state=0),
    ):
        try:
            expected = _split(splitter, y, a)
        except ValueError:  # a class with one sample, or fewer rows than groups
            assert isinstance(splitter, AttributeStratifiedShuffleSplit)
            continue
        words = np.array(["d", "c", "b", "a"])[np.array(names)[a]]
        renamed = _split(splitter, np.array(labels)[y], words)
        _assert_same_splits(expected, renamed)


@pytest.mark.parametrize(
    ("splitter_class", "options"),
    [
        (AttributeStratifiedKFold, {"shuffle": True}),
        (AttributeStratifiedShuffleSplit, {}),
    ],
)
def test_random_state(splitter_class, options):
    rng = np.random.default_rng(0)
    y, a = rng.integers(0, 2, (2, 100))
    splitter = splitter_class(3, random_state=1, **options)
    first = _split(splitter, y, a)
    _assert_same_splits(first, _split(splitter, y, a))
    _assert_same_splits(
        first, _split(splitter_class(3, random_state=1, **options), y, a)
    )
    other = _split(splitter_class(3, random_state=2, **options), y, a)
    assert any(
        not np.array_equal(test, other_test)
        for (_, test), (_, other_test) in zip(first, other, strict=True)
    )


def test_shuffle_split_keeps_shares():
    # 60 / 20 / 10 / 10 rows; a fifth of each is 12 / 4 / 2 / 2.
    y = np.repeat([0, 0, 1, 1], [60, 20, 10, 10])
    a = np.repeat([0, 1, 0, 1], [60, 20, 10, 10])
    splitter = AttributeStratifiedShuffleSplit(4, test_size=0.2, random_state=0)
    for train, test in _split(splitter, y, a):
        assert np.bincount(2 * y[test] + a[test]).tolist() == [12, 4, 2, 2]
        assert np.bincount(2 * y[train] + a[train]).tolist() == [48, 16, 8, 8]
        assert not set(train) & set(test)


def test_rare_groups_in_kfold_warn_and_are_spread():
    y = [0] * 10 + [1] * 10
    a = [0] * 8 + [1] * 2 + [1] * 10
    splitter = AttributeStratifiedKFold(5)
    match = r"n_splits=5 .*\(label=0, attribute=1\): 2\."
    with pytest.warns(UserWarning, match=match):
        splits = list(splitter.split(np.zeros((20, 1)), y, attributes=a))
    assert sum(np.isin([8, 9], test).sum() == 1 for _, test in splits) == 2


def test_all_groups_rarer_than_n_splits_do_not_crash():
    y, a = np.repeat([0, 0, 1, 1], 2), np.tile([0, 0, 1, 1], 2)
    assert len(_split(AttributeStratifiedKFold(4), y, a)) == 4
    # This is what stock scikit-learn does with the same groups:
    with pytest.raises(ValueError, match="cannot be greater"):
        list(StratifiedKFold(4).split(np.zeros(8), 2 * y + a))


def test_many_rare_groups_are_abbreviated():
    with pytest.warns(UserWarning, match=r"and 3 more are absent|and 3 more\."):
        AttributeStratifiedKFold(2).split(
            np.zeros((8, 1)), np.arange(8) // 4, attributes=np.arange(8)
        )


def test_single_samples_of_a_class_are_pooled():
    y = np.repeat([0, 1], 10)
    a = np.r_[np.zeros(8), 1, 2, np.zeros(10)].astype(int)
    splitter = AttributeStratifiedShuffleSplit(20, test_size=0.5, random_state=0)
    match = r"\(label=0, attribute=1\): 1, \(label=0, attribute=2\): 1\."
    with pytest.warns(UserWarning, match=match):
        splits = list(splitter.split(np.zeros((20, 1)), y, attributes=a))
    for _, test in splits:
        assert np.isin([8, 9], test).sum() == 1  # the pool of two is halved
        assert (test < 8).sum() == 4


def test_one_single_sample_joins_the_smallest_group_of_its_class():
    y = np.repeat([0, 1], [14, 10])
    a = np.r_[np.zeros(10), np.ones(3), 2, np.zeros(10)].astype(int)
    splitter = AttributeStratifiedShuffleSplit(20, test_size=0.5, random_state=0)
    with pytest.warns(UserWarning, match=r"\(label=0, attribute=2\): 1\."):
        splits = list(splitter.split(np.zeros((24, 1)), y, attributes=a))
    for _, test in splits:
        assert ((test >= 10) & (test < 14)).sum() == 2
    assert any(13 in test for _, test in splits)
    assert any(13 in train for train, _ in splits)


def test_class_with_one_sample():
    with pytest.raises(ValueError, match="Class b has only one sample"):
        _split(AttributeStratifiedShuffleSplit(), ["a", "a", "a", "b"], [0, 0, 0, 0])


def test_too_small_a_test_set_says_what_to_change():
    y, a = np.repeat([0, 1], 10), np.tile([0, 1], 10)
    with pytest.raises(ValueError, match=r"the 4 groups.*test_size=0\.1"):
        _split(AttributeStratifiedShuffleSplit(test_size=0.1), y, a)


@pytest.mark.parametrize("splitter_class", SPLITTERS)
def test_without_attributes_the_error_names_the_line_to_add(splitter_class):
    splitter = splitter_class(2)
    with pytest.raises(TypeError) as caught:
        splitter.split(np.zeros((4, 1)), [0, 0, 1, 1])  # not even iterated
    message = str(caught.value)
    assert splitter_class.__name__ in message
    assert "sklearn.set_config(enable_metadata_routing=True)" in message


@pytest.mark.parametrize("splitter_class", SPLITTERS)
@pytest.mark.parametrize(
    ("y", "a", "match"),
    [
        ([0, 1], [0] * 4, "inconsistent numbers of samples"),
        ([0, 0, 1, 1], [0, 1], "attributes has 2 rows"),
        ([0.1, 0.2, 0.3, 0.4], [0] * 4, "y must hold class labels.*'continuous'"),
        (None, [0] * 4, "pass y"),
    ],
)
def test_bad_input(splitter_class, y, a, match):
    with pytest.raises(ValueError, match=match):
        splitter_class(2).split(np.zeros((4, 1)), y, attributes=a)


def test_more_folds_than_samples():
    with pytest.raises(ValueError, match=r"n_splits=5 is more than .* 4"):
        _split(AttributeStratifiedKFold(5), [0, 0, 1, 1], [0, 1, 0, 1])


@pytest.mark.parametrize("splitter_class", SPLITTERS)
def test_groups_are_ignored_with_a_warning(splitter_class):
    y, a = np.repeat([0, 1], 10), np.tile([0, 1], 10)
    with pytest.warns(UserWarning, match="groups parameter is ignored"):
        splitter_class(2).split(np.zeros((20, 1)), y, groups=y, attributes=a)


@pytest.mark.parametrize("splitter_class", SPLITTERS)
def test_get_n_splits_takes_what_searches_pass(splitter_class):
    splitter = splitter_class(3)
    assert splitter.get_n_splits() == 3
    assert splitter.get_n_splits(None, None, None, attributes=[0]) == 3


@pytest.mark.parametrize("splitter_class", SPLITTERS)
def test_data_frames_and_words(splitter_class):
    X = pd.DataFrame({"f": np.zeros(40)}, index=np.arange(100, 140))
    y = pd.Series(np.repeat(["land bird", "water bird"], 20), index=X.index)
    a = pd.DataFrame({"place": np.tile(["l", "w"], 20), "year": np.ones(40, dtype=int)})
    splits = list(splitter_class(2).split(X, y, attributes=a))
    assert len(splits) == 2
    for train, test in splits:
        assert max(train.max(), test.max()) < 40
