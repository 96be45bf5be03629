"""Faults: kills, failing calls, power cuts, damage, many processes; and their tests.

The scenarios are those of the soak script, in small; each runs in a process of its
own, since it forks. The tests that sabotage the store show that they can fail.
"""

import ast
import json
import os
import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import fault_scenarios as faults
import numpy as np
import pytest
from fault_runs import BrokenInvariantError, StoreRun

import embeddings_cache
from embeddings_cache import DamagedShardWarning, EmbeddingStore
from embeddings_cache.store import _atomic, _folder, _io, _shard_reading, _shards
from embeddings_cache.store._folder import ShardFolder

SOAK = Path(__file__).parents[3] / "examples" / "benchmarks" / "soak_cache.py"

# The least that each scenario must have done.
SCENARIOS = {
    "kills": {"kills": 20},
    "store_kills": {"kills": 180, "kills with some rows done": 30},
    "exits": {"exits at a call": 80},
    "failing_calls": {
        "ENOSPC": 120, "EIO": 100, "EINTR": 50, "EMFILE": 50,
        "short writes and reads": 50,
    },
    "power_losses": {"power cuts": 80},
    "truncations": {
        "truncated shards": 200, "truncated keys": 10, "truncated records": 300,
        "truncated descriptions": 20,
    },
    "bit_flips": {
        "bit flips in shards": 200, "bit flips in keys": 200,
        "bit flips in records": 200, "bit flips in descriptions": 50,
    },
    "transform_flips": {"bit flips in shards": 5, "bit flips in keys": 5},
    "writers": {"runs of 2 writers at once": 1, "runs of 8 writers at once": 2},
    "pruned_readers": {"runs beside a pruner": 30},
    "file_limit": {"file size limits": 1},
    "full_disk": {"full disks": 1},
    "threads": {"threads": 8},
    "contexts": {"contexts": 30},
    "keys": {"changes told apart": 25, "changes refused": 4},
}  # fmt: skip

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@forks
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_breaks(name, tmp_path):
    command = [sys.executable, SOAK, "--quick", "--json", "--only", name]
    done = subprocess.run(
        [*command, "--folder", tmp_path], capture_output=True, text=True
    )
    report = json.loads(done.stdout)[name]
    if "note" in report:
        pytest.skip(report["note"])
    assert (done.returncode, report["broken"]) == (0, None), done.stderr
    for what, least in SCENARIOS[name].items():
        assert report["counts"][what] >= least, what


class Sabotaged:
    """The module `_io` for one other module, with some calls that do nothing."""

    def __init__(self, *names):
        self._names = names

    def __getattr__(self, name):
        return (lambda *args: None) if name in self._names else getattr(_io, name)


@pytest.fixture
def work(tmp_path):
    return StoreRun(tmp_path / "scratch", 8)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize("call", ["sync", "sync_folder"])
def test_power_cuts_find_a_missing_sync(work, place, monkeypatch, call):
    for module in (_atomic, _shards):
        monkeypatch.setattr(module, "_io", Sabotaged(call))
    with pytest.raises(BrokenInvariantError):
        faults.power_losses(work, place, random.Random(0), n_variants=2)


def test_power_cuts_find_folders_that_are_not_on_the_disk(work, place, monkeypatch):
    def make_folder(path):
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                _io.mkdir(folder)

    monkeypatch.setattr(_io, "make_folder", make_folder)
    with pytest.raises(BrokenInvariantError, match="items were reported, 0 left"):
        faults.power_losses(work, place, random.Random(0), n_variants=2)


def test_failing_calls_find_a_record_that_comes_too_early(work, place, monkeypatch):
    def publish(folder, temporary, record, payload, key_bytes):
        name = f"{record.keys_sha256[:32]}-early.json"
        data = record.to_json()
        temporary.publish(temporary.write([data]), folder / "commits" / name)
        real(folder, temporary, record, payload, key_bytes)

    real = _shards._publish
    monkeypatch.setattr(_shards, "_publish", publish)
    with pytest.raises(BrokenInvariantError, match="missing file"):
        faults.failures(work, place, "before", faults.ERRORS[0], n_before=4)


def test_failing_calls_find_an_untyped_error(work, place, monkeypatch):
    @contextmanager
    def no_typed_errors(what, remedy):
        yield

    monkeypatch.setattr(_folder, "store_errors", no_typed_errors)
    with pytest.raises(OSError, match="No space left on device"):
        faults.failures(work, place, "before", faults.ERRORS[0], n_before=4)


def test_bit_flips_find_a_header_that_nobody_compares(work, place, monkeypatch):
    monkeypatch.setattr(_shard_reading, "_compare_header", lambda fd, record: None)
    with pytest.raises(BrokenInvariantError, match="not found at level block"):
        faults.bit_flips(work, place, 200, random.Random(0))


def test_a_wrong_row_would_be_seen(work, place):
    work.run(place / "root")
    work.rows[3, 5] += 1
    with pytest.raises(BrokenInvariantError, match="other rows than an undisturbed"):
        work.run(place / "root")


def test_there_are_no_locks_to_disable():
    names = set()
    for path in Path(embeddings_cache.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names |= {alias.name.split(".")[0] for alias in node.names}
                names.add((getattr(node, "module", None) or "").split(".")[0])
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
    assert not names & {"fcntl", "msvcrt", "flock", "lockf", "filelock", "sqlite3"}


def test_a_reader_beside_a_pruner(tmp_path, make_extractor, images):
    """A transform whose shards vanish under it computes them again."""
    extractor = make_extractor(cache_dir=tmp_path / "cache")
    rows = extractor.transform(images)
    real, pruned = ShardFolder.read, []

    def prune_first(folder, records, places, out):
        if not pruned:
            store = EmbeddingStore(tmp_path / "cache")
            pruned.append(store.prune(max_bytes=0, grace=0))
        return real(folder, records, places, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardFolder, "read", prune_first)
        again = extractor.transform(images)
    assert pruned[0].n_deleted == 1
    np.testing.assert_array_equal(again, rows)
    assert extractor.last_run_.n_computed == 20


def test_damage_is_computed_again_and_reported(tmp_path, make_extractor, images):
    extractor = make_extractor(cache_dir=tmp_path / "cache")
    rows = extractor.transform(images)
    (shard,) = (tmp_path / "cache").rglob("shards/*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 128
    shard.write_bytes(data)
    with pytest.warns(DamagedShardWarning, match="number 1 of this run"):
        again = extractor.transform(images)
    np.testing.assert_array_equal(again, rows)
    assert extractor.last_run_.n_damaged == 1
    assert extractor.last_run_.n_computed == 20
    assert EmbeddingStore(tmp_path / "cache").verify() == []


def test_a_read_only_cache_serves_its_rows(
    tmp_path, make_extractor, images, monkeypatch
):
    extractor = make_extractor(cache_dir=tmp_path / "cache")
    rows = extractor.transform(images)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    for call in ("open_new", "rename", "unlink", "touch", "write"):
        monkeypatch.setattr(_io, call, refuse)
    np.testing.assert_array_equal(extractor.transform(images), rows)


def test_a_damaged_table_of_files_only_costs_time(
    tmp_path, make_extractor, photo_folder, monkeypatch
):
    """The table that spares reading files again must never give another file's row."""
    from embeddings_cache.store import _file_hashes

    monkeypatch.setattr(_file_hashes, "_SETTLED_NS", 0)
    extractor = make_extractor(cache_dir=tmp_path / "cache")
    rows = extractor.transform(photo_folder)
    (table,) = (tmp_path / "cache").rglob("*.files")
    data = table.read_bytes()
    rng = random.Random(0)
    for number in range(60):
        table.unlink(missing_ok=True)
        changed = bytearray(data)
        if number % 2:
            del changed[rng.randrange(len(data)) :]
        else:
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        table.write_bytes(changed)
        np.testing.assert_array_equal(extractor.transform(photo_folder), rows)
        assert extractor.last_run_.n_found == 6
        for other in {*table.parent.iterdir()} - {table}:
            other.unlink()
