"""Killed writers, several writers at once, a reader beside a pruner, damage.

The processes use the store without a network, so that many of them fit in seconds.
"""

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from embeddings_cache import EmbeddingStore
from embeddings_cache._shards import KEY_DTYPE

WRITER = """
import sys, random
import numpy as np
from embeddings_cache import EmbeddingStore
from embeddings_cache._shards import KEY_DTYPE

root, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
folder = EmbeddingStore(root).open({"schema": 1, "model": "faults"})
numbers = list(range(60))
random.Random(seed).shuffle(numbers)
print("ready", flush=True)
for start in range(0, count, 4):
    part = [numbers[(start + i) % 60] for i in range(4)]
    keys = b"".join(n.to_bytes(32, "big") for n in part)
    rows = np.repeat(np.array(part, np.float16)[:, None], 3000, axis=1)
    folder.write(np.frombuffer(keys, KEY_DTYPE), [rows], columns=3000,
                 dtype="float16", made={})
    print(part, flush=True)
"""


def start(root, seed, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), str(seed), str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def check(root):
    """Everything committed is whole and right; return the numbers that are there."""
    store = EmbeddingStore(root)
    assert store.verify(level="full") == []
    folder = store.open({"schema": 1, "model": "faults"})
    keys = b"".join(n.to_bytes(32, "big") for n in range(60))
    records, places = folder.find(np.frombuffer(keys, KEY_DTYPE))
    rows = np.full((60, 3000), -1, np.float32)
    assert folder.read(records, places, rows)
    there = np.flatnonzero(places[:, 0] >= 0)
    assert (rows[there] == there[:, None]).all()
    return set(there.tolist())


@pytest.mark.parametrize("seed", range(6))
def test_kill_9_loses_nothing_that_was_reported(tmp_path, seed):
    writer = start(tmp_path / "root", seed, 4000)
    assert writer.stdout.readline() == "ready\n"
    time.sleep(random.Random(seed).uniform(0, 0.15))
    writer.kill()
    reported = writer.stdout.read().splitlines()
    writer.wait()
    # A line can be cut short by the kill; a whole one was printed after its commit.
    done = {n for line in reported if line.endswith("]") for n in eval(line)}
    assert check(tmp_path / "root") >= done
    EmbeddingStore(tmp_path / "root").prune(grace=0)
    assert check(tmp_path / "root") >= done
    assert not list((tmp_path / "root").rglob("tmp/*"))


def test_several_writers_of_the_same_items(tmp_path):
    writers = [start(tmp_path / "root", seed, 200) for seed in range(4)]
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "root" / "v1").exists():
            check(tmp_path / "root")
        time.sleep(0.05)
    assert [writer.wait() for writer in writers] == [0] * 4
    for writer in writers:
        writer.stdout.close()
    assert check(tmp_path / "root") == set(range(60))


def test_a_reader_beside_a_pruner(tmp_path, make_extractor, images):
    """A transform whose shards vanish under it computes them again."""
    extractor = make_extractor(cache_dir=tmp_path / "cache")
    rows = extractor.transform(images)
    from embeddings_cache._folder import ShardFolder

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
    from embeddings_cache import DamagedShardWarning

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
    from embeddings_cache import _io

    extractor = make_extractor(cache_dir=tmp_path / "cache")
    rows = extractor.transform(images)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    for call in ("open_new", "rename", "unlink", "touch", "write"):
        monkeypatch.setattr(_io, call, refuse)
    np.testing.assert_array_equal(extractor.transform(images), rows)
