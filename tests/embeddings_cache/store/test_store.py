"""The store: layout, trust, damage, pruning, export; all without a network."""

import errno
import json
import os
import shutil
import stat
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from embeddings_cache import DamagedShardWarning, EmbeddingStore, StoreError
from embeddings_cache.store import _io
from embeddings_cache.store._folder import ShardFolder
from embeddings_cache.store._shards import KEY_DTYPE, parse_record

DESCRIPTION = {"schema": 1, "model": "test"}


def make_keys(*numbers):
    return np.frombuffer(
        b"".join(int(n).to_bytes(32, "big") for n in numbers), dtype=KEY_DTYPE
    )


def make_rows(*numbers, columns=5):
    return np.array([[n + c / 8 for c in range(columns)] for n in numbers], np.float16)


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "root")


@pytest.fixture
def folder(store):
    return store.open(DESCRIPTION)


def put(folder, *numbers):
    rows = make_rows(*numbers)
    return folder.write(
        make_keys(*numbers), [rows], columns=5, dtype="float16", provenance={}
    )


def get(folder, *numbers):
    records, places = folder.find(make_keys(*numbers))
    out = np.zeros((len(numbers), 5), np.float32)
    intact = folder.read(records, places, out)
    return places[:, 0] >= 0, out, intact


def file_of(folder, record, suffix=".safetensors"):
    return folder.path / "shards" / f"{record.shard}{suffix}"


def test_layout_and_permissions(store, folder):
    record = put(folder, 1, 2, 3)
    names = {entry.name for entry in folder.path.iterdir()}
    assert names == {
        "extractor.json", "shards", "commits", "tmp", "quarantine", "access",
    }  # fmt: skip
    assert {entry.name for entry in (folder.path / "shards").iterdir()} == {
        f"{record.shard}.safetensors",
        f"{record.shard}.keys",
    }
    for path in [store.root, *store.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_shard_is_plain_safetensors_on_a_page(folder):
    record = put(folder, 1, 2, 3)
    path = file_of(folder, record)
    with safe_open(path, "np") as file:
        np.testing.assert_array_equal(file.get_tensor("x"), make_rows(1, 2, 3))
    assert path.stat().st_size == 4096 + 3 * 5 * 2


def test_equal_rows_of_other_items_do_not_share_a_file(folder):
    rows = np.ones((2, 5), np.float16)
    for keys in (make_keys(1, 2), make_keys(3, 4)):
        folder.write(keys, [rows], columns=5, dtype="float16", provenance={})
    found, out, intact = get(folder, 1, 2, 3, 4)
    assert found.all()
    assert intact
    assert (out == 1).all()
    assert len(folder.records()) == 2


def test_rows_come_back_in_the_order_asked_for(folder):
    put(folder, 5, 1, 9)
    put(folder, 2, 7)
    found, out, intact = get(folder, 7, 1, 4, 5, 2)
    np.testing.assert_array_equal(found, [True, True, False, True, True])
    np.testing.assert_array_equal(out[found], make_rows(7, 1, 5, 2))
    assert intact


def test_scattered_rows_of_a_large_shard(folder, monkeypatch):
    monkeypatch.setattr("embeddings_cache.store._shards._BLOCK_BYTES", 512)
    rows = np.random.default_rng(0).normal(size=(2000, 7)).astype(np.float32)
    keys = make_keys(*range(2000))
    parts = np.split(rows, [100, 101, 1500])
    record = folder.write(keys, parts, columns=7, dtype="float32", provenance={})
    assert len(record.blocks) == -(-2000 // (512 // 28))
    wanted = np.random.default_rng(1).permutation(2000)[:300]
    wanted.sort()
    for order in (wanted, wanted[::-1], np.arange(2000)):
        records, places = folder.find(keys[order])
        out = np.empty((len(order), 7), np.float32)
        assert folder.read(records, places, out)
        np.testing.assert_array_equal(out, rows[order])


def test_threads_read_what_one_thread_reads(folder, monkeypatch):
    monkeypatch.setattr("embeddings_cache.store._shards._BLOCK_BYTES", 512)
    rows = np.random.default_rng(0).normal(size=(2000, 7)).astype(np.float16)
    keys = make_keys(*range(2000))
    folder.write(keys, [rows], columns=7, dtype="float16", provenance={})
    records, places = folder.find(keys)
    out = {}
    for limit, cores in ((1 << 30, 1), (1, 3)):
        monkeypatch.setattr(
            "embeddings_cache.store._shard_reading._THREAD_BYTES", limit
        )
        cpus = set(range(cores))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cpus=cpus: cpus)
        out[cores] = np.empty((2000, 7), np.float32)
        assert folder.read(records, places, out[cores])
    np.testing.assert_array_equal(out[1], rows)
    np.testing.assert_array_equal(out[3], rows)


def test_damage_in_one_of_many_threads_is_seen(folder, monkeypatch):
    monkeypatch.setattr("embeddings_cache.store._shards._BLOCK_BYTES", 40)
    monkeypatch.setattr("embeddings_cache.store._shard_reading._THREAD_BYTES", 1)
    record = put(folder, *range(50))
    path = file_of(folder, record)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.warns(DamagedShardWarning, match="block 12 fails its checksum"):
        _, _, intact = get(folder, *range(50))
    assert not intact


def test_parts_may_be_empty_but_not_of_another_shape(folder):
    parts = [make_rows(1), make_rows(1)[:0], make_rows(2)]
    folder.write(make_keys(1, 2), parts, columns=5, dtype="float16", provenance={})
    np.testing.assert_array_equal(get(folder, 1, 2)[1], make_rows(1, 2))
    for wrong in ([make_rows(1)], [make_rows(1, 2, 3)], [make_rows(1, 2, columns=4)]):
        with pytest.raises(ValueError, match=r"not \(n, 5\)|does not equal"):
            folder.write(
                make_keys(1, 2), wrong, columns=5, dtype="float16", provenance={}
            )
    assert os.listdir(folder.path / "tmp") == []
    assert len(folder.records()) == 1


def test_a_large_file_among_the_records_is_set_aside(folder):
    put(folder, 1)
    (folder.path / "commits" / "large.json").write_bytes(b" " * (1 << 20) + b" ")
    fresh = EmbeddingStore(folder.path.parents[1]).open(DESCRIPTION)
    with pytest.warns(DamagedShardWarning, match="larger than 1048576 bytes"):
        assert len(fresh.records()) == 1


def test_a_map_of_a_shard_with_a_damaged_header_is_not_given(folder):
    record = put(folder, 1, 2)
    path = file_of(folder, record)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.warns(DamagedShardWarning, match="the header and the commit record"):
        assert folder.exact_shard(make_keys(1, 2)) is None
    put(folder, 1, 2)
    record = folder.exact_shard(make_keys(1, 2))
    os.truncate(path, 4096)
    with (
        pytest.warns(DamagedShardWarning),
        pytest.raises(StoreError, match="run again"),
    ):
        folder.map(record)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("call", ["open_read", "read_some", "size_of", "stat"])
def test_what_cannot_be_read_is_a_typed_error_and_stays(
    folder, monkeypatch, call, code
):
    put(folder, 1, 2)

    def refuse(*args):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(_io, call, refuse)
        with pytest.raises(StoreError, match=r"cannot be read .*run again"):
            get(ShardFolder(folder.path), 1, 2)
    assert get(folder, 1, 2)[0].all()
    assert os.listdir(folder.path / "quarantine") == []


def test_what_the_disk_cannot_read_is_set_aside(folder, monkeypatch):
    put(folder, 1, 2)

    def fail(fd, offset, view):
        if offset:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, offset, view)

    real = _io.read_some
    with monkeypatch.context() as patch:
        patch.setattr(_io, "read_some", fail)
        with pytest.warns(DamagedShardWarning, match="the disk cannot read it"):
            assert not get(folder, 1, 2)[2]
    assert not get(folder, 1, 2)[0].any()
    put(folder, 1, 2)
    assert get(folder, 1, 2)[0].all()


def test_only_committed_shards_of_the_right_size_are_trusted(folder):
    first, second = put(folder, 1), put(folder, 2)
    for name in os.listdir(folder.path / "commits"):
        record = parse_record((folder.path / "commits" / name).read_bytes())
        if record.shard == first.shard:
            (folder.path / "commits" / name).unlink()
    found, _, _ = get(EmbeddingStore(folder.path.parents[1]).open(DESCRIPTION), 1, 2)
    np.testing.assert_array_equal(found, [False, True])
    with file_of(folder, second).open("ab") as file:
        file.write(b"x")
    with pytest.warns(DamagedShardWarning, match="has 4107 bytes, not 4106"):
        found, _, _ = get(folder, 2)
    assert not found.any()
    assert not file_of(folder, second).exists()
    assert folder.n_damaged == 1


@pytest.mark.parametrize("level", ["block", "full"])
@pytest.mark.parametrize("where", ["header", "rows", "keys"])
def test_one_flipped_bit_is_found(store, folder, where, level):
    record = put(folder, *range(50))
    path = file_of(folder, record, ".keys" if where == "keys" else ".safetensors")
    data = bytearray(path.read_bytes())
    data[{"header": 20, "rows": 4096 + 33, "keys": 40}[where]] ^= 1
    path.write_bytes(data)
    assert store.verify(level="size") == []
    (damage,) = store.verify(level=level)
    assert damage.shard == record.shard
    assert path.exists()  # verify alone moves nothing
    store.verify(level=level, quarantine=False)
    with pytest.warns(DamagedShardWarning, match="number 1 of this run"):
        store.verify(level=level, quarantine=True)
    assert not path.exists()
    assert len(list((folder.path / "quarantine").iterdir())) == 3
    assert store.verify() == []


def test_a_flipped_bit_is_never_returned(folder):
    record = put(folder, *range(50))
    path = file_of(folder, record)
    data = bytearray(path.read_bytes())
    data[4096 + 77] ^= 4
    path.write_bytes(data)
    with pytest.warns(DamagedShardWarning, match="block 0 fails its checksum"):
        _, _, intact = get(folder, 3, 4)
    assert not intact
    found, _, _ = get(folder, 3, 4)
    assert not found.any()
    put(folder, *range(50))
    found, out, intact = get(folder, 3, 4)
    assert intact
    np.testing.assert_array_equal(out, make_rows(3, 4))


def test_a_damaged_record_is_set_aside(folder):
    put(folder, 1)
    (name,) = os.listdir(folder.path / "commits")
    path = folder.path / "commits" / name
    path.write_bytes(path.read_bytes().replace(b'"rows":1', b'"rows":2'))
    fresh = EmbeddingStore(folder.path.parents[1]).open(DESCRIPTION)
    with pytest.warns(DamagedShardWarning, match="its checksum does not match"):
        assert fresh.records() == []
    assert [p.suffix for p in (folder.path / "quarantine").iterdir()] == [".json"]


def test_wrong_description_is_replaced_and_reported(store, folder):
    put(folder, 1)
    path = folder.path / "extractor.json"
    text = path.read_bytes()
    path.write_bytes(text[:-2])
    (damage,) = store.verify()
    assert "extractor.json" in damage.reason
    store.open(DESCRIPTION)
    assert path.read_bytes() == text


@settings(max_examples=200)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_value_error(data):
    with pytest.raises(ValueError, match="not a commit record"):
        parse_record(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(
    name=st.sampled_from(
        ["shard", "rows", "columns", "dtype", "n_bytes", "blocks", "made"]
    ),
    value=json_values,
)
def test_contradicting_records_are_refused(name, value):
    """A record with a right checksum and one wrong field is refused all the same."""
    import hashlib

    from embeddings_cache._fingerprint import canonical_json

    content = {
        "schema": 1, "shard": "0" * 64, "rows": 2, "columns": 5, "dtype": "float16",
        "n_bytes": 4116, "keys_sha256": "1" * 64, "block_rows": 104857,
        "blocks": ["00000000"], "made": {},
    }  # fmt: skip

    def sign(fields):
        checksum = hashlib.sha256(canonical_json(fields)).hexdigest()
        return canonical_json({**fields, "checksum": checksum}) + b"\n"

    assert parse_record(sign(content)).rows == 2
    if value == content[name]:
        return
    try:
        data = sign({**content, name: value})
    except ValueError:  # NaN has no canonical JSON
        return
    if name == "made" and isinstance(value, dict):
        return
    with pytest.raises(ValueError, match="not a commit record"):
        parse_record(data)


def next_call_fails(folder):
    """Write a shard; say whether it failed, and check what the error says."""
    try:
        put(folder, 3, 4)
    except StoreError as error:
        message = str(error)
    else:
        return False
    return "No space left on device" in message and "prune" in message


@pytest.mark.parametrize("call", ["write", "sync", "rename", "open_new", "sync_folder"])
@pytest.mark.parametrize("number", range(8))
def test_a_failed_call_loses_at_most_its_own_shard(folder, monkeypatch, call, number):
    put(folder, 1, 2)
    real = getattr(_io, call)
    counter = iter(range(1000))

    def failing(*args):
        if next(counter) == number:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(_io, call, failing)
        reached = next_call_fails(folder)
    assert reached or next(counter) <= number  # there were not that many calls
    fresh = EmbeddingStore(folder.path.parents[1])
    assert fresh.verify(level="full") == []
    _, out, intact = get(fresh.open(DESCRIPTION), 1, 2)
    assert intact
    np.testing.assert_array_equal(out, make_rows(1, 2))
    assert os.listdir(folder.path / "tmp") == []
    put(folder, 3, 4)
    found, out, _ = get(fresh.open(DESCRIPTION), 3, 4)
    assert found.all()
    np.testing.assert_array_equal(out, make_rows(3, 4))


def test_short_writes_are_completed(folder, monkeypatch):
    monkeypatch.setattr(_io, "write", lambda fd, data: os.write(fd, data[:700]))
    put(folder, *range(300))
    found, out, intact = get(folder, *range(300))
    assert found.all()
    assert intact
    np.testing.assert_array_equal(out, make_rows(*range(300)))


def test_two_commits_of_one_shard_are_one(folder):
    put(folder, 1, 2)
    put(folder, 1, 2)
    assert len(folder.records()) == 1
    assert len(os.listdir(folder.path / "commits")) == 2


def age(folder, record, seconds):
    then = time.time() - seconds
    for path in (
        folder.path / "access" / record.shard,
        file_of(folder, record),
        file_of(folder, record, ".keys"),
    ):
        os.utime(path, (then, then))


def test_prune_deletes_the_least_recently_used_first(store, folder):
    records = [put(folder, number) for number in range(4)]
    for record, seconds in zip(records, (9000, 7000, 8000, 10), strict=True):
        age(folder, record, seconds)
    one = records[0].n_bytes
    report = store.prune(max_bytes=2 * one)
    assert (report.n_deleted, report.bytes_deleted, report.bytes_left) == (
        2, 2 * one, 2 * one,
    )  # fmt: skip
    found = folder.find(make_keys(0, 1, 2, 3))[1][:, 0] >= 0
    np.testing.assert_array_equal(found, [False, True, False, True])
    # The fourth was used seconds ago: no budget deletes it.
    assert store.prune(max_bytes=0).bytes_left == one
    found = folder.find(make_keys(1, 3))[1][:, 0] >= 0
    np.testing.assert_array_equal(found, [False, True])
    assert store.verify() == []


def test_prune_by_age(store, folder):
    records = [put(folder, number) for number in range(2)]
    age(folder, records[0], 90000)
    assert store.prune(older_than=86400).n_deleted == 1
    found, _, _ = get(store.open(DESCRIPTION), 0, 1)
    np.testing.assert_array_equal(found, [False, True])


def test_prune_sweeps_leftovers_but_not_fresh_ones(store, folder):
    record = put(folder, 1)
    age(folder, record, 90000)
    for name, seconds in (("old", 90000), ("new", 0)):
        path = folder.path / "tmp" / name
        path.write_bytes(b"x")
        os.utime(path, (time.time() - seconds,) * 2)
    assert store.prune().n_leftovers == 1
    assert os.listdir(folder.path / "tmp") == ["new"]
    assert get(folder, 1)[0].all()


def test_prune_sweeps_a_record_whose_shard_is_gone(store, folder):
    record = put(folder, 1)
    file_of(folder, record).unlink()
    assert [damage.reason[:12] for damage in store.verify()] == ["missing file"]
    assert store.prune().n_leftovers == 0  # another process may be about to write it
    assert store.prune(grace=0).n_leftovers == 3  # record, keys, stamp
    assert store.verify() == []
    assert [p.name for p in folder.path.rglob("*") if p.is_file()] == ["extractor.json"]


def test_prune_reads_each_record_once(store, folder, monkeypatch):
    for number in range(10):
        put(folder, number)
    from embeddings_cache.store import _folder

    real, names = _folder.read_record, []
    monkeypatch.setattr(
        _folder, "read_record", lambda path: names.append(path.name) or real(path)
    )
    assert store.prune(max_bytes=0, grace=0).n_deleted == 10
    assert len(names) == 10


def test_a_map_survives_pruning(store, folder):
    record = put(folder, 1, 2)
    view = folder.map(record)
    age(folder, record, 90000)
    assert store.prune(max_bytes=0, grace=0).n_deleted == 1
    np.testing.assert_array_equal(view, make_rows(1, 2))


def test_prune_refuses_nonsense(store):
    with pytest.raises(ValueError, match="max_bytes=-1 must be at least 0"):
        store.prune(max_bytes=-1)
    store.open(DESCRIPTION)
    with pytest.raises(ValueError, match="level='deep' must be one of size, block"):
        store.verify(level="deep")


def test_export(store, folder, tmp_path):
    put(folder, 3, 1)
    put(folder, 2, 1)
    assert store.export(tmp_path / "x.npy") == (3, 5)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), make_rows(1, 2, 3))
    lines = (tmp_path / "x.keys.txt").read_text().splitlines()
    assert [int(line, 16) for line in lines] == [1, 2, 3]
    store.export(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("x"), make_rows(1, 2, 3))
    with pytest.raises(ValueError, match=r"must end in one of \.npy, \.safetensors"):
        store.export(tmp_path / "x.csv")


def test_export_names_the_extractors_there_are(store, folder):
    store.open({"schema": 1, "model": "second"})
    with pytest.raises(ValueError, match="extractor=None matches 2 extractors"):
        store.export("x.npy")
    with pytest.raises(ValueError, match="holds no embeddings yet"):
        store.export("x.npy", extractor=folder.path.name[:8])


def test_extractors_and_info(store, folder):
    record = put(folder, 1, 2)
    (info,) = store.extractors()
    assert info.description == DESCRIPTION
    assert (info.n_shards, info.n_rows, info.n_bytes) == (1, 2, record.n_bytes)


def test_root_of_argument_environment_and_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDDINGS_CACHE", str(tmp_path / "from_env"))
    assert EmbeddingStore().root == tmp_path / "from_env"
    assert EmbeddingStore(tmp_path).root == tmp_path
    monkeypatch.delenv("EMBEDDINGS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EmbeddingStore().root.name == "embeddings_cache"


posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


@posix
@pytest.mark.parametrize("mode", [0o777, 0o707, 0o1777])
def test_a_root_that_everybody_may_write_is_refused(store, monkeypatch, mode):
    store.root.mkdir()
    store.root.chmod(mode)
    with pytest.raises(StoreError, match="Run `chmod go-w` on it, or set EMBED"):
        store.open(DESCRIPTION)
    assert os.listdir(store.root) == []
    monkeypatch.setenv("EMBEDDINGS_CACHE_ALLOW_SHARED", "1")
    store.open(DESCRIPTION)
    monkeypatch.delenv("EMBEDDINGS_CACHE_ALLOW_SHARED")
    for use in (store.extractors, store.verify, store.prune):
        with pytest.raises(StoreError, match="written by other users"):
            use()


@posix
@pytest.mark.parametrize("private", [True, False])
def test_a_group_may_write_only_if_it_is_the_users_own(store, monkeypatch, private):
    import grp
    import pwd

    user = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.struct_group((user if private else "lab", "x", 1234, []))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group)
    store.root.mkdir()
    store.root.chmod(0o770)
    if private:
        store.open(DESCRIPTION)
        return
    with pytest.raises(StoreError, match="written by other users"):
        store.open(DESCRIPTION)


@posix
def test_a_root_of_another_user_is_refused(store, monkeypatch):
    store.open(DESCRIPTION)
    owner = SimpleNamespace(st_uid=os.geteuid() + 1, st_gid=0, st_mode=0o40755)
    monkeypatch.setattr(_io, "stat", lambda path: owner)
    with pytest.raises(StoreError, match="Give a folder of your own"):
        store.open(DESCRIPTION)


@posix
def test_a_link_to_a_root_that_everybody_may_write_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(StoreError, match="written by other users"):
        EmbeddingStore(tmp_path / "link").open(DESCRIPTION)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(StoreError, match="Give another cache_dir"):
        EmbeddingStore(tmp_path / "root").open(DESCRIPTION)


def test_nothing_is_pickled_anywhere(folder):
    put(folder, 1)
    for path in folder.path.rglob("*.json"):
        json.loads(path.read_bytes())


def other_folder(store):
    """Return the folder of another extractor, with item 1 and rows of its own."""
    other = store.open(DESCRIPTION | {"model": "other"})
    rows = make_rows(7)
    other.write(make_keys(1), [rows], columns=5, dtype="float16", provenance={})
    return other


def merge(source, target):
    """Copy what one extractor stored into the folder of another, as a slip would."""
    for name in ("shards", "commits"):
        for path in (source.path / name).iterdir():
            shutil.copy2(path, target.path / name)


@pytest.mark.parametrize("level", ["size", "block", "full"])
def test_shards_of_another_extractor_are_found(store, folder, level):
    put(folder, 2)
    merge(other := other_folder(store), folder)
    (damage,) = store.verify(level)
    assert damage.extractor == folder.path.name
    assert damage.reason == f"it belongs to the extractor {other.path.name[:12]}"
    with pytest.warns(DamagedShardWarning, match="it belongs to the extractor"):
        assert store.verify(level, quarantine=True) == [damage]
    assert store.verify(level) == []
    assert len(list((folder.path / "quarantine").iterdir())) == 3
    assert get(folder, 2)[2]


@pytest.mark.parametrize("whole", [True, False])
def test_rows_of_another_extractor_are_never_given(store, folder, whole):
    other = other_folder(store)
    merge(other, folder)
    fresh = EmbeddingStore(store.root).open(DESCRIPTION)
    with pytest.warns(DamagedShardWarning, match="it belongs to the extractor"):
        found, _, _ = get(fresh, 1) if whole else get(fresh, 1, 2)
    assert not found.any()
    assert fresh.n_damaged == 1
    assert get(other, 1)[1][0, 0] == 7  # its own folder is as it was


def test_a_shard_whose_record_was_given_this_name_is_found(store, folder):
    other = other_folder(store)
    merge(other, folder)
    (path,) = (folder.path / "commits").iterdir()
    record = parse_record(path.read_bytes())
    path.write_bytes(replace(record, extractor=folder.path.name).to_json())
    (damage,) = store.verify("block")
    assert "the header and the commit record differ" in damage.reason
    with pytest.warns(DamagedShardWarning, match="the header and the commit record"):
        found, _, _ = get(folder, 1)
    assert not found.any()


def test_a_copied_folder_is_not_taken_over_in_silence(store, folder):
    other = other_folder(store)
    shutil.rmtree(folder.path)
    shutil.copytree(other.path, folder.path)
    reasons = {damage.reason for damage in store.verify("size")}
    assert any("extractor.json" in reason for reason in reasons)
    with pytest.warns(DamagedShardWarning, match=r"extractor\.json is damaged, or ano"):
        fresh = store.open(DESCRIPTION)
    with pytest.warns(DamagedShardWarning, match="it belongs to the extractor"):
        assert not get(fresh, 1)[0].any()
    kept = [path.name for path in (fresh.path / "quarantine").iterdir()]
    assert any(name.startswith("extractor.") for name in kept)
    assert store.verify() == []


def test_shards_that_name_no_extractor_are_computed_again(store, folder):
    """Records of before shards named their extractor may be anybody's."""
    parsed = parse_record(replace(put(folder, 1), extractor="").to_json())
    (path,) = (folder.path / "commits").iterdir()
    path.write_bytes(parsed.to_json())
    (damage,) = store.verify("size")
    assert "it names no extractor" in damage.reason
    fresh = store.open(DESCRIPTION)
    with pytest.warns(DamagedShardWarning, match="it names no extractor"):
        assert not get(fresh, 1)[0].any()


def test_blocks_have_no_more_rows_than_a_shard(folder):
    record = put(folder, 1)
    with pytest.raises(ValueError, match="block_rows are more than"):
        parse_record(replace(record, block_rows=10**30).to_json())
