"""What a store may meet on a disk: strange files, other clocks, kills."""

import errno
import hashlib
import json
import os
import time
import warnings
from contextlib import suppress

import numpy as np
import pytest

from embeddings_cache import EmbeddingStore, StoreError
from embeddings_cache._fingerprint import canonical_json
from embeddings_cache.store import _export as export
from embeddings_cache.store import _io
from embeddings_cache.store._shards import parse_record


@pytest.fixture
def filled(make_extractor, images):
    """An extractor with a cache, and the one folder of that cache."""
    extractor = make_extractor()
    extractor.transform(images[:5])
    (folder,) = (extractor.cache_dir / "v1").iterdir()
    return extractor, folder


class _Killed(BaseException):
    pass


def _read_pair(path):
    """Return rows and names as a reader would; None for what is not there."""
    names = path.with_suffix(".items.txt")
    lines = names.read_text().splitlines() if names.exists() else None
    return len(np.load(path)), lines and len(lines)


@pytest.mark.parametrize("last", range(1, 7))
def test_rows_and_names_are_of_one_run_wherever_it_is_killed(
    last, make_extractor, images, tmp_path, monkeypatch
):
    extractor, path = make_extractor(), tmp_path / "out.npy"
    extractor.precompute(images[:5], output=path)
    extractor.precompute(images[:7])
    done = []

    def stop(function):
        def call(*arguments):
            result = function(*arguments)
            done.append(function)
            if len(done) == last:
                raise _Killed
            return result

        return call

    monkeypatch.setattr(type(path), "replace", stop(type(path).replace))
    monkeypatch.setattr(export._io, "unlink", stop(_io.unlink))
    monkeypatch.setattr(export._io, "sync_folder", stop(_io.sync_folder))
    with pytest.raises(_Killed):
        extractor.precompute(images[:7], output=path)
    assert _read_pair(path) in [(5, None), (7, None), (7, 7)]
    monkeypatch.undo()
    extractor.precompute(images[:7], output=path)
    assert _read_pair(path) == (7, 7)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_a_full_disk_under_output_names_the_parameter(
    suffix, filled, images, tmp_path, monkeypatch
):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    extractor, _ = filled

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "_mapped", full)
    with pytest.raises(
        StoreError, match=r"output='.*out.* cannot be written \(.*space"
    ):
        extractor.precompute(images[:5], output=tmp_path / f"out{suffix}")
    with pytest.raises(StoreError, match=r"path='.*out.* cannot be written"):
        EmbeddingStore(extractor.cache_dir).export(tmp_path / f"out{suffix}")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("name", ["list_folder", "unlink", "rename", "stat"])
def test_verify_raises_nothing_but_its_own_errors(name, filled, monkeypatch):
    extractor, folder = filled
    (shard,) = (folder / "shards").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_io, name, refuse)
    store = EmbeddingStore(extractor.cache_dir)
    with warnings.catch_warnings(), suppress(StoreError):
        warnings.simplefilter("ignore")
        assert store.verify(quarantine=True)


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket"])
def test_what_is_no_file_is_no_commit_record(kind, filled, images, tmp_path):
    extractor, folder = filled
    path = folder / "commits" / "x.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    else:
        import socket

        here = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    store = EmbeddingStore(extractor.cache_dir)
    (damage,) = store.verify()
    assert "not a regular file" in damage.reason
    with pytest.warns(UserWarning, match="not a regular file"):
        extractor.transform(images[:3])
    assert extractor.last_run_.n_computed == 0
    assert store.verify() == []
    assert store.prune(max_bytes=10**9).n_deleted == 0


def test_a_file_named_like_a_key_is_no_extractor(filled):
    extractor, folder = filled
    (folder.parent / ("0" * 64)).write_text("mine")
    store = EmbeddingStore(extractor.cache_dir)
    assert len(store.extractors()) == 1
    assert store.verify() == []
    assert store.prune().n_deleted == 0


@pytest.mark.parametrize("factor", [10**30, 2**63, 2**62, 10**8])
def test_a_forged_size_of_blocks_is_no_commit_record(factor, filled, images):
    extractor, folder = filled
    (path,) = (folder / "commits").iterdir()
    content = json.loads(path.read_bytes())
    content.pop("checksum")
    content["block_rows"] = factor
    content["checksum"] = hashlib.sha256(canonical_json(content)).hexdigest()
    forged = canonical_json(content) + b"\n"
    with pytest.raises(ValueError, match="block_rows"):
        parse_record(forged)
    rows = extractor.transform(images[:5])
    path.write_bytes(forged)
    with pytest.warns(UserWarning, match="block_rows"):
        np.testing.assert_array_equal(extractor.transform(images[:5]), rows)


@pytest.mark.parametrize(
    ("cache_dir", "error"),
    [
        ("a\0b", ValueError),
        ("", ValueError),
        (5, TypeError),
        (b"folder", TypeError),
        (["a"], TypeError),
    ],
)
def test_a_cache_dir_that_is_none_is_refused_by_name(cache_dir, error, make_extractor):
    with pytest.raises(error, match="cache_dir="):
        EmbeddingStore(cache_dir)
    with pytest.raises(error, match="cache_dir="):
        make_extractor(cache_dir=cache_dir).transform(np.zeros((1, 8, 8), np.uint8))


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_clock_that_is_wrong_deletes_nothing_that_is_written(
    hours, filled, monkeypatch
):
    """Another machine prunes: what counts is the clock of the file system."""
    extractor, folder = filled
    (folder / "tmp" / "being-written").write_bytes(b"x")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    store = EmbeddingStore(extractor.cache_dir)
    report = store.prune(max_bytes=0, older_than=0)
    assert (report.n_deleted, report.n_leftovers) == (0, 0)
    assert (folder / "tmp" / "being-written").exists()
    assert not list((folder / "tmp").glob(".clock*"))


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_wrong_renews_stamps_all_the_same(
    hours, filled, images, monkeypatch
):
    extractor, folder = filled
    (stamp,) = (folder / "access").iterdir()
    old = time.time() - 1800
    os.utime(stamp, (old, old))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    extractor.transform(images[:5])
    assert stamp.stat().st_mtime > old + 1700
