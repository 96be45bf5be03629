"""Paths that are no files, addresses, `~`; tables and items that are not whole."""

import os
from pathlib import Path

import pytest
from PIL import Image

from embeddings_cache import EmbeddingStore, UnreadableItemError
from embeddings_cache.backbones._weights import weights_file
from embeddings_cache.items._readers import read_items
from embeddings_cache.items._sources import Sources


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "folder" / "model.safetensors"
    path.parent.mkdir()
    os.mkfifo(path)
    return path


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_weights_that_are_no_file_are_not_waited_for(make_extractor, pipe, whole):
    weights = pipe.parent if whole else pipe
    with pytest.raises(ValueError, match=r"weights=.*model.* is a named pipe"):
        make_extractor(weights=weights).extractor_key()
    with pytest.raises(ValueError, match="must have one safetensors file"):
        weights_file(str(pipe.parent))


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_folders_of_models_with_a_pipe_are_not_waited_for(make_extractor, pipe):
    for name in (f"sentence-transformers:{pipe.parent}",):
        with pytest.raises(ValueError, match=r"backbone=.* is a named pipe"):
            make_extractor(name, pretrained=True).extractor_key()


def test_an_output_that_cannot_be_a_file_is_refused_before_any_work(
    make_extractor, images, tmp_path
):
    extractor = make_extractor()
    (tmp_path / "folder.npy").mkdir()
    wrong = {"s3://bucket/rows.npy": "an address", tmp_path / "folder.npy": "a folder"}
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe.npy")
        wrong[tmp_path / "pipe.npy"] = "a named pipe"
    for output, what in wrong.items():
        with pytest.raises(ValueError, match=f"path=.* is {what}"):
            extractor.precompute(images, output=output)
    assert not EmbeddingStore(extractor.cache_dir).extractors()


@pytest.mark.parametrize("name", ["https://host/x", "s3://bucket/x"])
def test_addresses_are_not_taken_for_folders(
    make_extractor, images, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    for parameter in ("weights", "cache_dir"):
        with pytest.raises(ValueError, match=f"{parameter}=.* is an address"):
            make_extractor(**{parameter: name}).transform(images)
    monkeypatch.setenv("EMBEDDINGS_CACHE", name)
    with pytest.raises(ValueError, match=r"EMBEDDINGS_CACHE=.* is an address"):
        make_extractor(cache_dir=None).transform(images)
    assert not list(tmp_path.glob("*:"))


def test_the_users_folder_is_meant_by_its_sign(
    make_extractor, images, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)
    extractor = make_extractor(cache_dir="~/cache")
    extractor.precompute(images[:1], output="~/rows.npy")
    EmbeddingStore("~/cache").export(path="~/all.npy")
    names = {path.name for path in home.iterdir()}
    assert names >= {"cache", "rows.npy", "all.npy"}
    assert not Path("~").exists()
    # Nobody is called that: the name of a folder.
    with pytest.raises(ValueError, match="no such file"):
        make_extractor(weights="~nobody-here/x.safetensors").extractor_key()


@pytest.mark.parametrize(
    "rows", ["a,0,\nb,1,\n", "hello, you,0\nb,1,2\n", "a,0\nb, c,1\n"]
)
def test_texts_of_rows_with_too_many_values_are_refused(tmp_path, rows):
    """They would be those of the next column, for all rows."""
    table = tmp_path / "texts.csv"
    table.write_text("text,y\n" + rows)
    with pytest.raises(ValueError, match=r"Quote values|not a table"):
        Sources("text", "text").read([str(table)])
    table.write_text('text,y\n"hello, you",0\nb\n')
    assert Sources("text", "text").read([str(table)]) == ["hello, you", "b"]


def test_tables_of_images_have_a_value_in_every_row(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = tmp_path / "metadata.csv"
    for rows, message in {
        "a.png,0\n,1\n": "1 of 2 rows have no value in 'img_filename'.* row 2",
        "a.png,0\na.png,b.png,1\n": "1 of 2 rows have too many values.* row 2",
    }.items():
        table.write_text("img_filename,y\n" + rows)
        with pytest.raises(ValueError, match=message):
            read_items(table, "image")


def test_json_that_is_nested_beyond_measure_is_refused_by_line(tmp_path):
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        Sources("text").read([str(lines)])


def test_odd_items_are_told_by_name(make_extractor, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    gone = Image.open(tmp_path / "a.png")
    gone.load()
    gone.close()
    with pytest.raises(UnreadableItemError) as caught:
        make_extractor().transform(["a\0b.png", gone])
    reasons = [bad.reason for bad in caught.value.bad]
    assert "null byte" in reasons[0]
    assert "closed" in reasons[1]
    for value in ({"bytes": None, "path": None}, {"bytes": "text", "path": None}):
        with pytest.raises(TypeError, match="item 0 has neither bytes nor a path"):
            read_items([value], "image")
