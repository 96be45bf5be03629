"""Several processes that share the items: parts, torchrun, a killed rank."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from embeddings_cache import EmbeddingStore
from embeddings_cache.cli import local_device, main
from embeddings_cache.items._partition import Partition
from embeddings_cache.items._readers import read_items
from embeddings_cache.store._shard_reading import read_keys

N_TEXTS = 60
STUB = str(Path(__file__).parents[1] / "stub_command.py")


def texts(n):
    return read_items([f"text {i}" for i in range(n)], "text")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_a_partition_in_order(count):
    items = texts(400)
    parts = [
        [int(item.name) for item in Partition(i, count).of(items, "text")]
        for i in range(count)
    ]
    assert sorted(chain(*parts)) == list(range(400))
    for part in parts:
        assert part == sorted(part)
        assert len(part) == pytest.approx(400 / count, rel=0.3)


def test_equal_texts_are_in_one_part_whatever_their_place():
    some = read_items(["a", "b", "a", "c", "d", "e", "f", "g"] * 3, "text")
    for i in range(3):
        found = {item.identity() for item in Partition(i, 3).of(some, "text")}
        others = [Partition(j, 3).of(some, "text") for j in range(3) if j != i]
        assert not found & {item.identity() for part in others for item in part}


def test_what_one_part_left_is_spread_over_all_parts_of_another_number():
    left = Partition(0, 2).of(texts(400), "text")
    sizes = [len(Partition(i, 4).of(left, "text")) for i in range(4)]
    assert min(sizes) > 25


def test_a_text_that_is_not_unicode_is_in_one_part():
    items = read_items(["fine", "\ud800"], "text")
    parts = [Partition(i, 2).of(items, "text") for i in range(2)]
    assert sum(len(part) for part in parts) == 2


def test_parts_of_files_read_nothing(tmp_path):
    items = read_items([tmp_path / f"{i}.png" for i in range(9)], "image")
    assert sum(len(Partition(i, 2).of(items, "image")) for i in range(2)) == 9


@pytest.mark.parametrize("text", ["3", "1/0", "2/2", "-1/2", "a/b", "1/2/3", ""])
def test_parts_that_make_no_sense(text):
    with pytest.raises(ValueError, match="shard="):
        Partition.parse(text)


def test_a_rank_inside_a_job_of_an_array():
    environment = {"RANK": "1", "WORLD_SIZE": "4"}
    rank = Partition.of_environment(environment)
    assert rank == Partition(1, 4)
    every = {
        Partition(r, 4).within(Partition(job, 3)).index
        for r in range(4)
        for job in range(3)
    }
    assert every == set(range(12))
    assert Partition.of_environment({}) == Partition(0, 1)


def test_local_rank_chooses_the_cuda_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert local_device("auto", {"LOCAL_RANK": "1"}) == "cuda:1"
    assert local_device("cuda", {"LOCAL_RANK": "2"}) == "cuda:0"
    assert local_device("cuda:1", {"LOCAL_RANK": "0"}) == "cuda:1"
    assert local_device("auto", {}) == "auto"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_device("auto", {"LOCAL_RANK": "1"}) == "auto"


def test_precompute_in_parts_then_whole(make_extractor, net, images):
    extractor = make_extractor()
    reports = [extractor.precompute(images, shard=(i, 3)) for i in range(3)]
    assert sum(report.n_items for report in reports) == 20
    assert net.n_items == 20
    report = extractor.precompute(images)
    assert (report.n_found, report.n_computed, report.n_features) == (20, 0, 8)
    assert net.n_items == 20


def test_an_empty_part_is_no_error(make_extractor, images):
    reports = [make_extractor().precompute(images[:1], shard=(i, 5)) for i in range(5)]
    assert sorted(report.n_items for report in reports) == [0, 0, 0, 0, 1]


def test_output_of_a_part_is_refused(make_extractor, net, images, tmp_path):
    with pytest.raises(ValueError, match=r"x\.npy' takes the embeddings of all items"):
        make_extractor().precompute(images, shard=(0, 2), output=tmp_path / "x.npy")
    assert net.n_items == 0


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_output_has_the_rows_in_order(make_extractor, images, tmp_path, name):
    from safetensors.numpy import load_file

    order = [3, 1, 3, 0]
    expected = make_extractor().transform(images[order])
    make_extractor().precompute(images[order], output=tmp_path / name)
    path = tmp_path / name
    rows = np.load(path) if path.suffix == ".npy" else load_file(path)["x"]
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, expected)
    assert (tmp_path / "x.items.txt").read_text().split("\n")[1] == "array 1"


def start(tmp_path, ranks, cache, *arguments, most=10**9):
    """Start the stub command; under torchrun unless `ranks` is None.

    Every process computes `most` texts and then waits for ever.
    """
    pids = tmp_path / "pids"
    pids.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={ranks}"]
    return subprocess.Popen(
        [
            sys.executable, *(launcher if ranks else []), STUB, "extract",
            str(tmp_path / "texts.txt"), "--backbone", "stub:x", "--cache-dir",
            str(tmp_path / cache), "--batch-size", "1", "--num-workers", "0",
            "--device", "cpu", "--json", *arguments,
        ],
        env=os.environ | {"STUB_MOST": str(most), "STUB_PIDS": str(pids)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def commits(cache):
    """Return how often every item was committed."""
    store = EmbeddingStore(cache)
    (info,) = store.extractors()
    folder = store.folder(info.key)
    keys = [read_keys(folder.path, record).tolist() for record in folder.records()]
    return Counter(key for part in keys for key in part)


def export(cache, path):
    EmbeddingStore(cache).export(path)
    return path.read_bytes()


def test_a_killed_rank_and_a_relaunch_in_another_number(tmp_path):
    lines = "".join(f"line {i}\n" for i in range(N_TEXTS))
    (tmp_path / "texts.txt").write_text(lines)

    alone = start(tmp_path, None, "alone")
    first = start(tmp_path, 2, "shared", most=16)
    written = tmp_path / "shared" / "v1"
    while len(list(written.glob("*/commits/*.json"))) < 4:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    os.kill(int((tmp_path / "pids" / "1").read_text()), signal.SIGKILL)
    out, _ = first.communicate()
    assert first.returncode != 0
    assert out == ""
    before = commits(tmp_path / "shared")
    assert 8 <= len(before) < N_TEXTS

    second = start(tmp_path, 3, "shared")
    out, err = second.communicate()
    assert second.returncode == 0, err
    report = json.loads(out)
    assert report["shard"] == [0, 3]
    computed = re.findall(r"rank [12] of 3: .* (\d+) computed", err)
    assert len(computed) == 2
    assert report["n_computed"] + sum(map(int, computed)) == N_TEXTS - len(before)
    after = commits(tmp_path / "shared")
    assert len(after) == N_TEXTS
    assert set(after.values()) == {1}

    out, err = alone.communicate()
    assert json.loads(out)["n_computed"] == N_TEXTS, err
    undisturbed = export(tmp_path / "alone", tmp_path / "alone.npy")
    assert export(tmp_path / "shared", tmp_path / "shared.npy") == undisturbed


def test_termination_keeps_what_was_computed(tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"line {i}\n" for i in range(99)))
    process = start(tmp_path, None, "cache", most=16)
    written = tmp_path / "cache" / "v1"
    while len(list(written.glob("*/commits/*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert "stopped; what was finished is in the cache" in err
    assert list(written.glob("*/tmp/*")) == []


def test_torchrun_with_the_package_itself(tmp_path, photo_folder):
    pytest.importorskip("timm")
    (photo_folder / "broken.png").write_bytes(b"junk")
    arguments = [
        "extract", str(photo_folder), "--backbone", "timm:resnet18", "--random",
        "--cache-dir", str(tmp_path / "cache"), "--preprocess", '{"size": 32}',
    ]  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node=2", "-m", "embeddings_cache", *arguments, "--json",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    # One unreadable file does not end the other rank.
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shard"] == [0, 2]
    assert "broken.png: not an image" in done.stderr
    assert EmbeddingStore(tmp_path / "cache").extractors()[0].n_rows == 6
    assert main([*arguments, "--quiet"]) == 1
