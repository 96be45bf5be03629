"""The command: results, exit codes, and how quickly it answers."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from embeddings_cache import EmbeddingStore
from embeddings_cache.cli import main


@pytest.fixture
def extract(tmp_path, photo_folder):
    """Return a function that runs extract on the photos with a small network."""
    pytest.importorskip("timm")

    def run(*arguments, items=photo_folder):
        return main(
            [
                "extract", str(items), "--cache-dir", str(tmp_path / "cache"),
                "--backbone", "timm:resnet18", "--random", "--device", "cpu",
                "--preprocess", '{"size": 32}', *arguments,
            ]
        )  # fmt: skip

    return run


@pytest.fixture
def stub(monkeypatch):
    """Return the module that makes "stub:x" a backbone of texts."""
    path = Path(__file__).with_name("stub_command.py")
    spec = spec_from_file_location("stub_command", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install(monkeypatch)
    return module


@pytest.fixture
def embed_texts(tmp_path, stub):
    """Return a function that runs extract on texts with the stub, and gives its code.

    The rows are written to texts.npy.
    """

    def run(*arguments):
        return main(
            [
                "extract", "--backbone", "stub:x", "--cache-dir",
                str(tmp_path / "cache"), "--output", str(tmp_path / "texts.npy"),
                "--quiet", "--json", *map(str, arguments),
            ]
        )  # fmt: skip

    return run


def items_in(path):
    return path.with_suffix(".items.txt").read_text(encoding="utf-8").split("\n")[:-1]


def test_extract_writes_the_rows_in_order(extract, tmp_path, photo_folder, capsys):
    output = tmp_path / "x.npy"
    assert extract("--json", "--output", str(output)) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["n_items"], report["n_computed"], report["n_features"]) == (
        6,
        6,
        512,
    )
    assert "6 items: 0 found in the cache, 6 computed" in shown.err
    assert np.load(output).shape == (6, 512)
    names = (tmp_path / "x.items.txt").read_text().splitlines()
    assert names == sorted(str(path) for path in photo_folder.rglob("*.png"))
    assert extract("--quiet") == 0
    shown = capsys.readouterr()
    assert "6 items: 6 found in the cache, 0 computed" in shown.out
    assert shown.err == ""


def test_unreadable_items_exit_with_1(extract, photo_folder, capsys):
    (photo_folder / "2.png").write_bytes(b"junk")
    assert extract("--quiet") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2.png: not an image" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "timm:resnet81"], "is not a model of timm. Near names"),
        (["--batch-size", "0"], "batch_size=0 must be"),
        (["--output", "x.csv"], "must end in one of"),
        (["--layer", "77"], "layer=77 is not a block"),
    ],
)
def test_wrong_requests_exit_with_2(extract, capsys, arguments, message):
    assert extract("--quiet", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


def test_unknown_options_exit_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["extract", "x", "--precision", "int4"])
    assert caught.value.code == 2
    capsys.readouterr()


def test_texts_come_from_lines(stub, embed_texts, tmp_path, capsys):
    # A line separator of Unicode is part of a text, and so is an empty line.
    (tmp_path / "texts.txt").write_text(
        "one\u2028two\n\nthree\none\u2028two\n", "utf-8"
    )
    assert embed_texts(tmp_path / "texts.txt") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_items"], report["n_computed"], report["n_duplicates"]) == (
        4,
        3,
        1,
    )
    texts = ["one\u2028two", "", "three", "one\u2028two"]
    expected = [
        [stub.number_of(text, j) for j in range(stub.N_FEATURES)] for text in texts
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "texts.npy"), expected)
    assert items_in(tmp_path / "texts.npy") == ["one two", "", "three", "one two"]


TEXTS = ["007", "NA", 'a "quoted", one', "", "über"]


def write_table(path):
    if path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("n", "text"), *enumerate(TEXTS)])
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"n": n, "text": text}) for n, text in enumerate(TEXTS)]
        path.write_text("\n".join([*lines, "", ""]))
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pa.table({"n": list(range(len(TEXTS))), "text": TEXTS})
        parquet.write_table(table, path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("options", [[], ["--column", "text"]])
def test_texts_of_a_column_are_exactly_what_is_there(
    embed_texts, tmp_path, suffix, options
):
    path = tmp_path / f"table{suffix}"
    write_table(path)
    assert embed_texts(path, *options) == 0
    assert items_in(tmp_path / "texts.npy") == TEXTS
    assert embed_texts(path, "--column", "y") == 2


def test_a_quoted_pattern_of_tables(embed_texts, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    for name in ("b/2.txt", "1.txt", "b/3.TXT"):
        (tmp_path / name).write_text(f"{name}\n")
    assert embed_texts(tmp_path / "**" / "*.txt") == 0
    assert items_in(tmp_path / "texts.npy") == ["1.txt", "b/2.txt"]
    assert embed_texts(tmp_path / "*.md") == 2
    assert "no file matches this pattern" in capsys.readouterr().err


def test_a_name_with_wildcards_is_that_file_first(embed_texts, tmp_path):
    (tmp_path / "[1].txt").write_text("in brackets\n")
    (tmp_path / "1.txt").write_text("the match\n")
    assert embed_texts(tmp_path / "[1].txt") == 0
    assert items_in(tmp_path / "texts.npy") == ["in brackets"]


def test_image_patterns_lists_and_tables(extract, tmp_path, photo_folder, capsys):
    names = sorted(str(path) for path in photo_folder.rglob("*.png"))
    listed = [name.removeprefix(f"{photo_folder}{os.sep}") for name in names]
    (photo_folder / "list.txt").write_text("\n".join(listed))
    rows = [json.dumps({"file": name}) for name in listed]
    (photo_folder / "list.jsonl").write_text("\n".join(rows))
    (photo_folder / "list.csv").write_text(
        "\n".join(["n,file", *(f"1,{n}" for n in listed)])
    )
    for items, options in (
        (photo_folder / "**" / "*.png", []),
        (photo_folder / "list.txt", []),
        (photo_folder / "list.jsonl", []),
        (photo_folder / "list.csv", []),
        (photo_folder / "list.csv", ["--column", "file"]),
    ):
        output = tmp_path / "x.npy"
        assert extract("--quiet", "--output", str(output), *options, items=items) == 0
        assert items_in(output) == names, items
    # All of them name the same six images.
    assert EmbeddingStore(tmp_path / "cache").extractors()[0].n_rows == 6
    capsys.readouterr()


def test_data_sets_of_hugging_face(
    embed_texts, extract, tmp_path, photo_folder, capsys
):
    datasets = pytest.importorskip("datasets")
    texts = datasets.Dataset.from_dict({"text": TEXTS, "y": [0] * len(TEXTS)})
    datasets.DatasetDict(train=texts, test=texts).save_to_disk(tmp_path / "texts")
    assert embed_texts(tmp_path / "texts") == 2
    assert "has several splits; give the folder of one" in capsys.readouterr().err
    assert embed_texts(tmp_path / "texts" / "train") == 0
    assert items_in(tmp_path / "texts.npy") == TEXTS

    assert extract("--quiet") == 0
    photos = sorted(str(path) for path in photo_folder.rglob("*.png"))
    images = datasets.Dataset.from_dict({"image": photos, "y": list(range(6))})
    images = images.cast_column("image", datasets.Image())
    images.save_to_disk(tmp_path / "images")
    capsys.readouterr()
    assert extract("--quiet", "--json", items=tmp_path / "images") == 0
    # Embedded or on disk, the encoded image is the same item.
    report = json.loads(capsys.readouterr().out)
    assert (report["n_found"], report["n_computed"]) == (6, 0)


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [("datasets", "folder", "datasets"), ("pyarrow", "table.parquet", "parquet")],
)
def test_missing_libraries_name_the_extra(
    embed_texts, tmp_path, monkeypatch, capsys, module, name, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "state.json").write_text("{}")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    assert embed_texts(tmp_path / name) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f'pip install "skdebias[{extra}]"' in shown.err


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.txt", None, [], "no such file or folder"),
        ("t.txt", b"x", ["--column", "a"], "none of .* has columns"),
        ("t.txt", b"\xff\xfe", [], "not text in UTF-8"),
        ("t.png", b"\x89PNG", [], "for images take an image backbone"),
        ("t.csv", b"", [], "not a table"),
        ("t.csv", b"a,b\n1,2\n", [], "choose one of the columns of .*: 'a', 'b'"),
        ("t.csv", b"text\n", [], "items is empty"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', [], "line 2 is not JSON"),
        ("t.jsonl", b'{"text": "a"}\n{"b": 1}\n', [], "line 2 has no column 'text'"),
        ("t.jsonl", b'["a"]\n', [], "line 1 is no object"),
        ("t.jsonl", b'{"text": 5}\n', [], "item 0 is of type int"),
        ("t.txt", b"x", ["--shard", "2/2"], "counts from 0"),
        ("t.txt", b"x", ["--shard", "0/2"], "takes the embeddings of all items"),
        ("t.txt", b"x", ["--output", "none/x.npy"], "there is no folder 'none'"),
    ],
)  # fmt: skip
def test_requests_about_items_exit_with_2(
    embed_texts, tmp_path, capsys, name, content, options, message
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert embed_texts(tmp_path / name, *options) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(message, shown.err)
    assert list((tmp_path / "cache").rglob("*.safetensors")) == []


def test_every_option_reaches_the_extractor(tmp_path, monkeypatch):
    from embeddings_cache import EmbeddingExtractor

    class StopHere(ValueError):
        pass

    def precompute(self, items, **changes):
        seen.update(self.get_params(), items=items, **changes)
        raise StopHere

    seen = {}
    monkeypatch.setattr(EmbeddingExtractor, "precompute", precompute)
    (tmp_path / "t.txt").write_text("x\n")
    options = {
        "--backbone": "open_clip:ViT-B-32", "--weights": "w", "--layer": "-2",
        "--pooling": "cls", "--modality": "text", "--device": "cpu",
        "--precision": "bfloat16", "--storage-dtype": "float32", "--batch-size": "7",
        "--num-workers": "0", "--worker-type": "thread",
        "--model-kwargs": '{"a": 1}', "--preprocess": "{}", "--shard": "1/3",
        "--output": "x.npy", "--cache-dir": "c",
    }  # fmt: skip
    flags = ["--random", "--compile", "--rehash", "--quiet"]
    pairs = [part for pair in options.items() for part in pair]
    assert main(["extract", str(tmp_path / "t.txt"), *pairs, *flags]) == 2
    assert seen == {
        "items": ["x"], "backbone": "open_clip:ViT-B-32", "weights": "w", "layer": -2,
        "pooling": "cls", "modality": "text", "device": "cpu",
        "precision": "bfloat16", "storage_dtype": "float32", "batch_size": 7,
        "num_workers": 0, "worker_type": "thread", "model_kwargs": {"a": 1},
        "preprocess": {}, "shard": (1, 3), "output": "x.npy", "cache_dir": "c",
        "pretrained": False, "compile": True, "rehash": True, "progress": False,
    }  # fmt: skip


def test_a_folder_is_no_text(embed_texts, tmp_path, capsys):
    assert embed_texts(tmp_path) == 2
    assert "is a folder, and a text backbone takes texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune", "--max-bytes", "5 elephants"],
        ["extract", "x", "--preprocess", "[1]"],
        ["extract", "x", "--preprocess", "{"],
        ["extract", "x", "--batch-size", "many"],
    ],
)
def test_values_that_cannot_be_read_exit_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert repr(arguments[-1]) in capsys.readouterr().err


def test_unreadable_items_in_json(extract, photo_folder, capsys):
    (photo_folder / "2.png").write_bytes(b"junk")
    assert extract("--quiet", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["n_unreadable"], report["n_computed"]) == (1, 5)
    (entry,) = report["unreadable"]
    assert (entry["index"], entry["name"]) == (2, str(photo_folder / "2.png"))


def test_a_nan_and_a_refusing_disk_exit_with_1(
    stub, embed_texts, tmp_path, capsys, monkeypatch
):
    (tmp_path / "t.txt").write_text("x\n")
    monkeypatch.setattr(stub, "number_of", lambda text, place: float("nan"))
    assert embed_texts(tmp_path / "t.txt") == 1
    assert "has NaN or infinite values" in capsys.readouterr().err
    monkeypatch.setattr(stub, "number_of", lambda text, place: 1.0)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    (tmp_path / "texts.npy").write_bytes(b"an older file")
    assert embed_texts(tmp_path / "t.txt") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "No space left on device" in shown.err
    # What was there stays, and nothing is left beside it.
    assert (tmp_path / "texts.npy").read_bytes() == b"an older file"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    monkeypatch.undo()


def test_interruption_exits_with_130(stub, embed_texts, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "t.txt").write_text("x\n")
    monkeypatch.setattr(stub, "number_of", interrupt)
    assert embed_texts(tmp_path / "t.txt") == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "what was finished is in the cache" in shown.err


def test_only_results_are_on_the_output(
    stub, embed_texts, tmp_path, capsys, monkeypatch
):
    """Every command prints one JSON value, whatever libraries print meanwhile."""
    number_of = stub.number_of

    def noisy(text, place):
        sys.stdout.write("a library says hello")
        return number_of(text, place)

    monkeypatch.setattr(stub, "number_of", noisy)
    (tmp_path / "t.txt").write_text("x\ny\n")
    assert embed_texts(tmp_path / "t.txt") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["n_items"] == 2
    assert "a library says hello" in shown.err
    for command in (
        ["info"],
        ["verify"],
        ["export", str(tmp_path / "y.npy")],
        ["prune"],
    ):
        assert main([*command, "--json", "--cache-dir", str(tmp_path / "cache")]) == 0
        shown = capsys.readouterr()
        json.loads(shown.out)
        assert shown.err == ""


def test_odd_file_names_are_kept(extract, photo_folder, tmp_path, capsys):
    odd = os.fsdecode(b"caf\xe9\nline.png")
    (photo_folder / "0.png").rename(photo_folder / odd)
    output = tmp_path / "x.npy"
    assert extract("--quiet", "--output", str(output)) == 0
    lines = (tmp_path / "x.items.txt").read_bytes().split(b"\n")[:-1]
    assert sum(b"caf\xe9 line.png" in line for line in lines) == 1
    assert len(lines) == 6


def test_parquet_export_and_output(embed_texts, tmp_path, monkeypatch, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    # Several groups of rows, and a name that is not valid text.
    monkeypatch.setattr("embeddings_cache.store._export._GROUP_BYTES", 32)
    path = tmp_path / "x.parquet"
    (tmp_path / "t.txt").write_text("b\na\nc\nb\nd\n")
    assert embed_texts(tmp_path / "t.txt", "--output", path) == 0
    table = parquet.read_table(path)
    assert table.column("item").to_pylist() == ["b", "a", "c", "b", "d"]
    rows = np.stack(table.column("embedding").to_numpy())
    assert rows.dtype == np.float32
    assert rows[:, 0].tolist() == [ord(c) for c in "bacbd"]
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["export", str(path), *cache]) == 0
    table = parquet.read_table(path)
    assert table.column_names == ["key", "embedding"]
    keys = table.column("key").to_pylist()
    assert keys == sorted(keys)
    assert len(keys) == 4
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_safetensors_export_equals_npy(embed_texts, tmp_path):
    (tmp_path / "t.txt").write_text("b\na\nc\n")
    assert embed_texts(tmp_path / "t.txt") == 0
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert main(["export", str(tmp_path / "y.safetensors"), *cache]) == 0
    assert main(["export", str(tmp_path / "y.npy"), *cache]) == 0
    rows = load_file(tmp_path / "y.safetensors")["x"]
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, np.load(tmp_path / "y.npy"))


def test_the_module_and_the_console_script_are_the_same():
    (script,) = metadata.entry_points(group="console_scripts", name="embeddings-cache")
    assert script.load() is main
    shown = [
        subprocess.run(
            [sys.executable, *start, "extract", "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for start in (
            ["-m", "embeddings_cache"],
            ["-c", "from embeddings_cache.cli import main; main()"],
        )
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith("usage: embeddings-cache extract")


def test_info_verify_prune_export(extract, tmp_path, capsys):
    extract("--quiet")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    capsys.readouterr()
    assert main(["info", *cache]) == 0
    assert "timm:resnet18 (random weights)  6 rows  1 shards" in capsys.readouterr().out
    assert main(["info", "--json", *cache]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["extractors"]
    assert entry["description"]["model"] == "resnet18"
    assert main(["verify", *cache]) == 0
    assert "0 damaged entries (level full)" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "y.npy"), *cache]) == 0
    assert np.load(tmp_path / "y.npy").shape == (6, 512)
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert main(["verify", "--json", *cache]) == 1
    (damage,) = json.loads(capsys.readouterr().out)
    assert damage["shard"] == shard.stem
    assert main(["prune", "--max-bytes", "0", "--grace", "0", *cache]) == 0
    assert "1 shards deleted" in capsys.readouterr().out
    assert EmbeddingStore(tmp_path / "cache").extractors()[0].n_rows == 0


@pytest.mark.parametrize(
    ("text", "size"), [("12", 12), ("5k", 5000), ("1.5G", 1_500_000_000)]
)
def test_sizes(text, size):
    from embeddings_cache.cli import _size

    assert _size(text) == size


def modules_after(code):
    """Return the heavy modules that are loaded after running code."""
    heavy = ["torch", "sklearn", "timm", "pandas", "scipy", "PIL", "safetensors"]
    script = f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import embeddings_cache",
        "from embeddings_cache import cli\ntry: cli.main(['-h'])\nexcept SystemExit: 0",
        "from embeddings_cache import EmbeddingStore, UnreadableItemError",
        "import embeddings_cache.cli as c\nc.main(['info', '--cache-dir', '/none'])",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert modules_after(code) == "[]"


def test_the_extractor_class_loads_no_torch():
    found = modules_after(
        "from embeddings_cache import EmbeddingExtractor\nEmbeddingExtractor('timm:x')"
    )
    assert "torch" not in found
    assert "timm" not in found


def test_the_packages_do_not_know_each_other():
    script = "import embeddings_cache.cli, embeddings_cache._extractor, sys\n"
    script += "from embeddings_cache import EmbeddingExtractor\n"
    script += "print('skdebias' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_public_names():
    import embeddings_cache

    for name in embeddings_cache.__all__:
        assert getattr(embeddings_cache, name).__doc__, name
    assert set(embeddings_cache.__all__) <= set(dir(embeddings_cache))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        embeddings_cache.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["", "._errors", ".store._store", "._extractor"])
def test_examples_in_docstrings(name):
    import doctest
    from importlib import import_module

    pytest.importorskip("timm")
    module = import_module(f"embeddings_cache{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0
