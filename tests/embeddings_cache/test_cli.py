"""The command: results, exit codes, and how quickly it answers."""

import json
import subprocess
import sys

import numpy as np
import pytest

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


def test_texts_come_from_lines(tmp_path, capsys):
    pytest.importorskip("transformers")
    (tmp_path / "texts.txt").write_text("one\ntwo\none\n")
    code = main(
        [
            "extract", str(tmp_path / "texts.txt"), "--cache-dir", str(tmp_path / "c"),
            "--backbone", "sentence-transformers:all-MiniLM-L6-v2", "--random",
            "--quiet", "--json", "--output", str(tmp_path / "t.safetensors"),
        ]
    )  # fmt: skip
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n_items"], report["n_computed"], report["n_features"]) == (
        3,
        2,
        384,
    )


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


@pytest.mark.parametrize("name", ["", "._errors", "._store", "._extractor"])
def test_examples_in_docstrings(name):
    import doctest
    from importlib import import_module

    pytest.importorskip("timm")
    module = import_module(f"embeddings_cache{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0
