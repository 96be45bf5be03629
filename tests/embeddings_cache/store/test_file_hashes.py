"""Files and backbones that are known are not read or built; nothing is confused."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import embeddings_cache
from embeddings_cache.backbones import _request
from embeddings_cache.backbones._request import description_request
from embeddings_cache.compute import _arithmetic
from embeddings_cache.compute._arithmetic import compute_without_torch
from embeddings_cache.items import _item
from embeddings_cache.store import _file_hashes
from embeddings_cache.store._descriptions import DescriptionCache
from embeddings_cache.store._file_hashes import FileHashCache, file_state

RANDOM = {
    "backbone": "timm:resnet18",
    "pretrained": False,
    "weights": None,
    "layer": None,
    "pooling": "default",
    "model_kwargs": {},
    "preprocess": None,
    "modality": "image",
}


def described_in(root, settings):
    """The cache of the description that follows from some settings."""
    request = partial(description_request, settings, FileHashCache(root))
    return DescriptionCache(root, request)


@pytest.fixture
def settled(monkeypatch):
    """Trust files however young they are."""
    monkeypatch.setattr(_file_hashes, "_SETTLED_NS", 0)


@pytest.fixture
def reads(monkeypatch):
    """Return the list of the files that are read."""
    found = []
    real = _item.FileItem.identity

    def identity(item):
        found.append(Path(item.path).name)
        return real(item)

    monkeypatch.setattr(_item.FileItem, "identity", identity)
    return found


def test_known_files_are_not_read(make_extractor, photo_folder, settled, reads):
    rows = make_extractor().transform(photo_folder)
    assert len(reads) == 12  # for the key, and to decode
    Image.new("RGB", (4, 4), "red").save(photo_folder / "6.png")
    reads.clear()
    again = make_extractor().transform(photo_folder)
    assert reads == ["6.png", "6.png"]
    np.testing.assert_array_equal(np.delete(again, 4, axis=0), rows)
    reads.clear()
    make_extractor(rehash=True).transform(photo_folder)
    assert len(reads) == 7


def test_young_files_are_read_again(make_extractor, photo_folder, reads, monkeypatch):
    monkeypatch.setattr(
        _file_hashes, "_SETTLED_NS", 10**9 * 6000
    )  # longer than a test takes
    make_extractor().transform(photo_folder)
    reads.clear()
    make_extractor().transform(photo_folder)
    assert len(reads) == 6


def swap(path, colour):
    """Give a file another content of the same size, in place and with the old time."""
    before = path.stat()
    image = Image.new("RGB", (4, 4), colour)
    image.save(path, "BMP")
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_file_of_the_same_size_is_read_again(
    make_extractor, tmp_path, settled
):
    path = tmp_path / "a.bmp"
    Image.new("RGB", (4, 4), "red").save(path)
    red = make_extractor().transform([path])
    inode = path.stat().st_ino
    time.sleep(0.02)  # the grain of a kernel's clock
    swap(path, "blue")
    assert path.stat().st_ino == inode
    blue = make_extractor().transform([path])
    assert not np.array_equal(red, blue)
    np.testing.assert_array_equal(make_extractor(rehash=True).transform([path]), blue)


@pytest.mark.parametrize(("age", "noticed"), [(0.5, True), (60_000, False)])
def test_a_second_change_within_the_grain_of_the_clock(
    make_extractor, tmp_path, monkeypatch, age, noticed
):
    """Times that do not move: only a file that was old enough may be trusted."""
    path = tmp_path / "a.bmp"
    Image.new("RGB", (4, 4), "red").save(path)
    frozen = time.time_ns() - int(age * 1e9)

    def coarse(name):
        found = os.lstat(name)
        return SimpleNamespace(
            st_dev=found.st_dev, st_ino=found.st_ino, st_size=found.st_size,
            st_mtime_ns=frozen, st_ctime_ns=frozen,
        )  # fmt: skip

    fake = SimpleNamespace(stat=coarse, path=os.path, fsencode=os.fsencode)
    monkeypatch.setattr(_file_hashes, "os", fake)
    monkeypatch.setattr(
        _file_hashes, "_SETTLED_NS", 10**9 * 6000
    )  # longer than a test takes
    red = make_extractor().transform([path])
    swap(path, "blue")
    again = make_extractor()
    assert np.array_equal(again.transform([path]), red) != noticed
    # The switch sees through what no time can tell.
    blue = make_extractor(rehash=True).transform([path])
    assert not np.array_equal(blue, red)


def test_files_from_the_future_are_not_trusted(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    future = time.time_ns() + 10**12
    os.utime(path, ns=(future, future))
    assert _file_hashes.settled_state(path) is None
    assert file_state(path) is not None
    assert file_state(tmp_path / "absent") is None


def test_a_file_that_changes_while_it_is_hashed_is_not_entered(
    make_extractor, photo_folder, settled, monkeypatch, reads
):
    real = Path.read_bytes

    def touched(path):
        data = real(path)
        os.utime(path, ns=(1, 1))
        return data

    monkeypatch.setattr(Path, "read_bytes", touched)
    make_extractor().transform([photo_folder / "0.png"])
    reads.clear()
    os.utime(photo_folder / "0.png", ns=(2, 2))
    make_extractor().transform([photo_folder / "0.png"])
    assert reads == ["0.png"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        lambda data: data + data[-48:],
        lambda data: os.urandom(len(data)),
    ],
    ids=["cut", "half", "empty", "bit", "longer", "noise"],
)
def test_a_damaged_table_is_ignored(
    make_extractor, photo_folder, settled, reads, damage
):
    rows = make_extractor().transform(photo_folder)
    (segment,) = Path(make_extractor().cache_dir).glob("memo/files/*")
    segment.write_bytes(damage(segment.read_bytes()))
    reads.clear()
    again = make_extractor()
    np.testing.assert_array_equal(again.transform(photo_folder), rows)
    assert (len(reads), again.last_run_.n_damaged) == (6, 0)


def test_a_table_that_cannot_be_written_costs_nothing_else(
    make_extractor, photo_folder, settled
):
    cache = Path(make_extractor().cache_dir)
    cache.mkdir()
    (cache / "memo").write_text("in the way")
    rows = make_extractor().transform(photo_folder)
    np.testing.assert_array_equal(make_extractor().transform(photo_folder), rows)


def test_segments_are_merged(tmp_path):
    keys = {}
    for _ in range(30):
        memo = FileHashCache(tmp_path)
        for _ in range(3):
            state, key = os.urandom(16), os.urandom(32)
            keys[state] = key
            memo.learn(state, key)
        memo.save()
    assert len(list((tmp_path / "memo" / "files").iterdir())) <= 8
    asked = [*keys, None, os.urandom(16)]
    found = FileHashCache(tmp_path).look_up(asked)
    assert found == [*keys.values(), None, None]


RUN = """
    import sys
    from embeddings_cache import EmbeddingExtractor

    extractor = EmbeddingExtractor(
        "timm:resnet18", {options}, cache_dir={cache!r}, device="cpu",
        preprocess={{"size": 32}}, progress=False, num_workers={workers},
    )
    rows = extractor.transform({items!r}, out={out!r})
    built = sorted({{"torch", "timm", "torchvision"}} & set(sys.modules))
    print(built, extractor.last_run_.n_found, float(rows[:, :4].sum()))
"""


def in_a_fresh_process(folder, cache, options, out="array", workers=0):
    code = textwrap.dedent(RUN).format(
        options=options, cache=str(cache), items=str(folder), out=out, workers=workers
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("kind", ["random", "weights"])
def test_a_warm_run_imports_no_torch(make_extractor, photo_folder, tmp_path, kind):
    timm = pytest.importorskip("timm")
    options = "pretrained=False"
    settings = {"pretrained": False}
    if kind == "weights":
        path = tmp_path / "w.safetensors"
        save_file(timm.create_model("resnet18").state_dict(), path)
        options, settings = f"weights={str(path)!r}", {"weights": path}
    cold = make_extractor("timm:resnet18", preprocess={"size": 32}, **settings)
    rows = cold.transform(photo_folder)
    right = f"[] 6 {float(rows[:, :4].sum())}"
    assert in_a_fresh_process(photo_folder, cold.cache_dir, options) == right
    if kind == "random":
        mapped = in_a_fresh_process(photo_folder, cold.cache_dir, options, "memmap", 2)
        assert mapped.startswith("[] 6 ")
        return
    # One number of the weights changes; size and time of the file do not.
    before = path.stat()
    state = load_file(path)
    state["conv1.weight"] *= 3
    save_file(state, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    built, found, total = in_a_fresh_process(
        photo_folder, cold.cache_dir, options
    ).rsplit(" ", 2)
    assert ("torch" in built, found) == (True, "0")
    fresh = make_extractor(
        "timm:resnet18", preprocess={"size": 32}, cache_dir=tmp_path / "c", **settings
    )
    assert float(total) == float(fresh.transform(photo_folder)[:, :4].sum())
    assert float(total) != float(rows[:, :4].sum())


def test_a_wrong_memory_is_found_out_when_something_is_computed(
    make_extractor, photo_folder, tmp_path
):
    pytest.importorskip("timm")
    settings = {"pretrained": False, "preprocess": {"size": 32}}
    right = make_extractor("timm:resnet18", **settings)
    rows = right.transform(photo_folder)
    other = make_extractor("timm:resnet18", cache_dir=tmp_path / "other", **settings)
    request = {**RANDOM, "preprocess": {"size": 32}}
    recall = described_in(tmp_path / "other", request)
    recall.put({"model": "another"}, None)
    assert recall.get() == ({"model": "another"}, None)
    np.testing.assert_array_equal(other.transform(photo_folder), rows)
    assert other.extractor_key() == right.extractor_key()
    assert (tmp_path / "other" / "v1" / right.extractor_key() / "commits").is_dir()
    # It has been put right, too.
    description = {**right.describe()}
    for name in ("schema", "compute", "storage"):
        description.pop(name)
    assert recall.get()[0] == description


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrained": True},
        {"backbone": "timm:hf-hub:timm/resnet18.a1_in1k"},
        {"backbone": "sentence-transformers:all-MiniLM-L6-v2", "pretrained": True},
        {"backbone": object()},
        {"preprocess": abs},
        {"weights": "absent.safetensors"},
    ],
)
def test_what_is_not_certain_is_not_remembered(tmp_path, changes):
    recall = described_in(tmp_path, RANDOM | changes)
    recall.put({"a": 1}, None)
    assert recall.get() is None
    assert not (tmp_path / "memo").exists()


def test_adapters_are_not_remembered(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    settings = RANDOM | {"backbone": f"sentence-transformers:{folder}"}
    settings["pretrained"] = True
    recall = described_in(tmp_path, settings)
    recall.put({"a": 1}, None)
    assert recall.get() == ({"a": 1}, None)
    (folder / "adapter_config.json").write_text("{}")
    assert described_in(tmp_path, settings).get() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "timm:resnet34"},
        {"layer": 2},
        {"pooling": "mean"},
        {"model_kwargs": {"output_stride": 16}},
        {"preprocess": {"size": 96}},
        {"modality": "text"},
        {"weights": "w"},
    ],
)
def test_requests_that_differ_are_told_apart(tmp_path, changes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("w").write_bytes(b"weights")
    described_in(tmp_path, RANDOM).put({"a": 1}, None)
    assert described_in(tmp_path, RANDOM).get() is not None
    assert described_in(tmp_path, RANDOM | changes).get() is None


def test_a_backbone_is_forgotten_with_another_library_or_code(tmp_path, monkeypatch):
    def get():
        return described_in(tmp_path, RANDOM).get()

    described_in(tmp_path, RANDOM).put({"a": 1}, "note")
    assert get() == ({"a": 1}, "note")
    with monkeypatch.context() as patch:
        patch.setattr(_request, "versions", lambda *names: {"timm": "99"})
        assert get() is None
    with monkeypatch.context() as patch:
        patch.setattr(_request, "_sources_digest", lambda: "changed")
        assert get() is None
    (path,) = (tmp_path / "memo" / "backbones").iterdir()
    path.write_text(path.read_text().replace('"a"', '"b"'))
    assert get() is None


def test_arithmetic_is_described_without_torch_where_that_is_certain(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    full = {"dtype": "float32", "tf32": False}
    assert compute_without_torch("cpu", "auto") == full
    assert compute_without_torch("cuda", "bfloat16")["dtype"] == "bfloat16"
    assert compute_without_torch("cuda", "auto") is None
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(_arithmetic.os.path, "exists", lambda path: False)
    assert compute_without_torch("auto", "auto") == full
    monkeypatch.setattr(_arithmetic.os.path, "exists", lambda path: "nvidiactl" in path)
    assert compute_without_torch("auto", "auto") is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compute_without_torch("auto", "float32") is None


def test_every_source_of_the_package_guards_what_is_remembered(tmp_path, monkeypatch):
    """Code decides what is described, whichever folder it is in."""
    home = Path(embeddings_cache.__file__).parent
    assert home == _request._PACKAGE
    copy = tmp_path / "copy"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_request, "_PACKAGE", copy)
    digest = _request._sources_digest.__wrapped__
    before = digest()
    sources = sorted(copy.rglob("*.py"))
    assert {"items", "compute", "store", "backbones"} <= {
        p.parent.name for p in sources
    }
    for path in sources:
        text = path.read_bytes()
        path.write_bytes(text + b"# changed")
        assert digest() != before, path
        path.write_bytes(text)
    assert digest() == before
    sources[-1].rename(copy / "moved.py")
    assert digest() != before
