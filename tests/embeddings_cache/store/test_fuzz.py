"""Any bytes in the files of a shard: the damage error or the right rows, never more.

Nothing else may be raised, no wrong row returned, no memory asked for that the files
do not fill.
"""

import hashlib
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embeddings_cache import EmbeddingStore
from embeddings_cache._fingerprint import canonical_json
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shard_reading import (
    LEVELS,
    map_rows,
    read_keys,
    read_rows,
    verify_shard,
)
from embeddings_cache.store._shards import (
    KEY_DTYPE,
    DamagedShardError,
    parse_record,
    read_record,
)

ROWS = np.arange(60, dtype=np.float16).reshape(12, 5)
KEYS = np.frombuffer(
    b"".join(hashlib.sha256(bytes([n])).digest() for n in range(12)), dtype=KEY_DTYPE
)

fuzz = settings(
    max_examples=200,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("embeddings_cache.store._shards._BLOCK_BYTES", 40)
    return EmbeddingStore(tmp_path / "root").open({"schema": 1})


@pytest.fixture
def record(folder):
    return folder.write(KEYS, [ROWS], columns=5, dtype="float16", provenance={})


def edits(limit):
    """Return a strategy of lists of (start, bytes cut out, bytes put in)."""
    place = st.integers(0, limit)
    length = st.one_of(st.just(0), st.just(1), st.integers(0, 40), place)
    return st.lists(st.tuples(place, length, st.binary(max_size=40)), max_size=3)


def edited(data, changes):
    for start, length, new in changes:
        data = data[:start] + new + data[start + length :]
    return data


@contextmanager
def little_memory():
    """Fail if more than 16 MiB are asked for at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@fuzz
@given(changes=edits(900))
def test_a_changed_record_is_refused(folder, record, changes):
    data = record.to_json()
    changed = edited(data, changes)
    with little_memory():
        if changed == data:
            assert parse_record(changed) == record
        else:
            with pytest.raises(ValueError, match="not a commit record"):
                parse_record(changed)


sizes = st.one_of(st.integers(-2, 40), st.integers(2**30, 2**70))


@fuzz
@given(rows=sizes, columns=sizes, block_rows=sizes, n_blocks=st.integers(0, 20))
def test_a_signed_record_asks_for_no_more_than_its_file_has(
    folder, record, rows, columns, block_rows, n_blocks
):
    """Whoever can sign a record can choose its numbers, but not the size of a file."""
    content = {
        "schema": 1, "shard": record.shard, "rows": rows, "columns": columns,
        "dtype": "float16", "n_bytes": 4096 + 2 * rows * columns,
        "keys_sha256": record.keys_sha256, "block_rows": block_rows,
        "blocks": ["00000000"] * n_blocks, "made": {},
    }  # fmt: skip
    checksum = hashlib.sha256(canonical_json(content)).hexdigest()
    data = canonical_json({**content, "checksum": checksum}) + b"\n"
    with little_memory():
        try:
            forged = parse_record(data)
        except ValueError:
            return
        for level in LEVELS[1:]:
            with pytest.raises(DamagedShardError):
                verify_shard(folder.path, forged, level)
        if rows != 12:
            with pytest.raises(DamagedShardError):
                read_keys(folder.path, forged)


def test_a_block_that_would_fill_the_memory_is_refused(record):
    content = {
        "schema": 1, "shard": "0" * 64, "rows": 2**40, "columns": 4,
        "dtype": "float32", "n_bytes": 4096 + 2**44, "keys_sha256": "0" * 64,
        "block_rows": 2**40, "blocks": ["00000000"], "made": {},
    }  # fmt: skip
    checksum = hashlib.sha256(canonical_json(content)).hexdigest()
    with pytest.raises(ValueError, match="a block has more than 1073741824 bytes"):
        parse_record(canonical_json({**content, "checksum": checksum}) + b"\n")


@fuzz
@given(changes=edits(4400))
def test_a_changed_shard_gives_its_rows_or_the_damage_error(folder, record, changes):
    path = folder.path / "shards" / f"{record.shard}.safetensors"
    data = path.read_bytes()
    changed = edited(data, changes)
    path.write_bytes(changed)
    index = np.arange(12)
    rows = np.full((12, 5), np.nan, np.float16)
    try:
        with little_memory():
            if changed != data:
                for level in LEVELS[1:]:
                    with pytest.raises(DamagedShardError):
                        verify_shard(folder.path, record, level)
            try:
                read_rows(folder.path, record, index, rows, index)
                np.testing.assert_array_equal(rows, ROWS)
            except DamagedShardError:
                assert changed != data
            try:
                map_rows(folder.path, record)
            except DamagedShardError:
                assert len(changed) != len(data)
    finally:
        path.write_bytes(data)


@fuzz
@given(changes=edits(384))
def test_changed_keys_are_never_believed(folder, record, changes):
    path = folder.path / "shards" / f"{record.shard}.keys"
    data = path.read_bytes()
    changed = edited(data, changes)
    path.write_bytes(changed)
    try:
        with little_memory():
            if changed == data:
                np.testing.assert_array_equal(read_keys(folder.path, record), KEYS)
            else:
                with pytest.raises(DamagedShardError):
                    read_keys(folder.path, record)
    finally:
        path.write_bytes(data)


@fuzz
@given(data=st.binary(max_size=100), name=st.sampled_from(["a", "f" * 32, "0"]))
def test_any_file_among_the_records_is_set_aside(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("store")
    folder = EmbeddingStore(path / "root").open({"schema": 1})
    folder.write(KEYS, [ROWS], columns=5, dtype="float16", provenance={})
    (folder.path / "commits" / f"{name}.json").write_bytes(data)
    with pytest.warns(match="not a commit record"):
        (record,) = ShardFolder(folder.path).records()
    assert record.rows == 12
    (good,) = (folder.path / "commits").iterdir()
    assert read_record(good) == record
