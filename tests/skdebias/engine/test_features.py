"""Rows of memory maps: streamed as training asks for them, copied without memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skdebias import _mapped
from skdebias._engine import _features
from skdebias._engine._features import Features

CPU = torch.device("cpu")


@pytest.fixture
def X(tmp_path, monkeypatch):
    monkeypatch.setattr(_features, "_STREAMED_BYTES", 0)
    values = np.random.default_rng(0).standard_normal((500, 7)).astype(np.float16)
    np.save(tmp_path / "X.npy", values)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def _steps(n_steps, shape=(2, 30)):
    rng = np.random.default_rng(1)
    return [rng.integers(0, 500, shape) for _ in range(n_steps)]


@pytest.mark.parametrize("n_bytes", [1, 14 * 60 * 3, 1 << 24])
@pytest.mark.parametrize("n_steps", [0, 1, 10])
def test_streamed_rows_are_the_rows(X, monkeypatch, n_bytes, n_steps):
    monkeypatch.setattr(_features, "_AHEAD_BYTES", n_bytes)
    read = []
    original = Features._read

    def spy(self, steps, readers):
        read.append(len(steps))
        return original(self, steps, readers)

    monkeypatch.setattr(Features, "_read", spy)
    steps = _steps(n_steps)
    found = list(Features(X, CPU).gathered(steps))
    assert len(found) == n_steps
    for step, (index, rows) in zip(steps, found):
        np.testing.assert_array_equal(index, step)
        np.testing.assert_array_equal(rows, X[step].astype(np.float32))
        assert rows.dtype == torch.float32
    assert sum(read) == n_steps
    if n_bytes == 1:
        assert read == [1] * n_steps


def test_arrays_in_memory_are_not_read_ahead(X, monkeypatch):
    monkeypatch.delattr(Features, "_read")
    steps = _steps(3)
    for step, (_, rows) in zip(steps, Features(np.array(X), CPU).gathered(steps)):
        np.testing.assert_array_equal(rows, X[step].astype(np.float32))


def test_a_stream_can_be_left(X):
    stream = Features(X, CPU).gathered(_steps(50))
    next(stream)
    stream.close()


def test_views_of_a_map_are_mapped(X):
    assert _mapped.is_mapped(X)
    assert _mapped.is_mapped(np.asarray(X)[3:])
    assert not _mapped.is_mapped(np.array(X))
    assert not _mapped.is_mapped(torch.zeros(3))


@given(mask=st.lists(st.booleans(), min_size=500, max_size=500))
def test_rows_of_a_large_map_go_to_a_file(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("rows") / "X.npy"
    np.save(path, np.arange(3500, dtype=np.float32).reshape(500, 7))
    X, mask = np.load(path, mmap_mode="r"), np.array(mask)
    for limit, block in ((1 << 30, 1 << 26), (64, 100)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_mapped, "_MEMORY_BYTES", limit)
            patch.setattr(_mapped, "_BLOCK_BYTES", block)
            for index in (mask, np.flatnonzero(mask)[::-1]):
                taken = _mapped.take_rows(X, index)
                np.testing.assert_array_equal(taken, np.array(X)[index])
                large = taken.nbytes > limit
                assert _mapped.is_mapped(taken) == large
