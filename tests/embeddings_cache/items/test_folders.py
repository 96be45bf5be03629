"""Folders: which files are taken, what is said of the others; formats and depths."""

import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image, features

from embeddings_cache import (
    BlankTextWarning,
    LeftOutWarning,
    ShallowImageWarning,
    UnreadableItemError,
)
from embeddings_cache.items import _images
from embeddings_cache.items._readers import read_items
from embeddings_cache.items._sources import Sources


def _save(path, colour=128, form="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (colour, 0, 0)).save(path, form)
    return path


def _names(folder, root=None):
    root = root or folder
    return [os.path.relpath(item.name, root) for item in read_items(folder, "image")]


FORMATS = {
    ".jfif": "JPEG", ".jpe": "JPEG", ".avif": "AVIF", ".jp2": "JPEG2000",
    ".ico": "ICO", ".tga": "TGA", ".dib": "DIB", ".qoi": "QOI", ".webp": "WEBP",
    ".pcx": "PCX", ".sgi": "SGI", ".JPG": "JPEG",
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_that_pillow_reads_is_taken(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    _save(tmp_path / f"a{suffix}", form=FORMATS[suffix])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (item,) = read_items(tmp_path, "image")
    red = np.asarray(item.content()[0]).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(red, [128, 0, 0], atol=12)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("name", ["photo", "photo.dat", "photo.png"])
def test_the_first_bytes_tell_an_image_without_a_suffix(tmp_path, form, name):
    _save(tmp_path / name, form=form)
    (item,) = read_items(tmp_path, "image")
    assert item.content()[0].size == (9, 8)


def test_hidden_files_and_those_of_systems_are_passed_over(tmp_path):
    for name in ("a.png", "b/c.png"):
        _save(tmp_path / name)
    for name in (
        ".hidden.png", "._a.png", ".ipynb_checkpoints/a.png", "b/.git/a.png",
        "__MACOSX/a.png", "Thumbs.db",
    ):  # fmt: skip
        _save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _names(tmp_path) == ["a.png", os.path.join("b", "c.png")]
        assert "6 hidden" in read_items(tmp_path, "image").left_out


def test_a_folder_within_a_hidden_one_can_be_given(tmp_path):
    _save(tmp_path / ".cache" / "a.png")
    assert _names(tmp_path / ".cache") == ["a.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    data, other = tmp_path / "data", tmp_path / "other"
    _save(data / "z" / "a.png")
    _save(other / "b.png")
    (data / "again").symlink_to(data / "z")  # read already
    (data / "cycle").symlink_to(data)
    (data / "z" / "cycle").symlink_to("..")
    (data / "l").symlink_to(other)
    (data / "m").symlink_to(other)
    (other / "back").symlink_to(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _names(data) == [os.path.join("l", "b.png"), os.path.join("z", "a.png")]


@pytest.mark.parametrize("name", ["photo.heic", "photo.svg", "photo.cr2"])
def test_images_that_are_left_out_are_named_once(tmp_path, make_extractor, name):
    _save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / name).write_bytes(b"anything")
    (tmp_path / "data" / "labels.csv").write_text("a,1\n")
    suffix = os.path.splitext(name)[1]
    extractor = make_extractor()
    if suffix == ".cr2":  # not every system knows that this is an image
        extractor.transform(tmp_path / "data")
    else:
        with pytest.warns(LeftOutWarning, match=rf"1 image.*1 \{suffix}") as caught:
            extractor.transform(tmp_path / "data")
        assert len(caught) == 1
    report = str(extractor.last_run_)
    assert f"1 {suffix}" in report
    assert "1 .csv" in report


def test_raw_files_of_cameras_are_not_taken_for_their_thumbnails(tmp_path):
    _save(tmp_path / "a.png")
    for name in ("raw.nef", "scan"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "TIFF")
    with pytest.warns(LeftOutWarning, match=r"1 \.nef"):
        assert _names(tmp_path) == ["a.png", "scan"]


def test_links_to_themselves_and_deep_folders_end(tmp_path, monkeypatch):
    _save(tmp_path / "a.png")
    (tmp_path / "self").symlink_to("self")
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):  # deeper than calls may be
        os.mkdir("d")
        os.chdir("d")
    Image.new("RGB", (8, 8)).save("b.png")
    with pytest.warns(LeftOutWarning, match="1 leads nowhere"):
        assert len(_names(tmp_path)) == 2
    # Removing such a folder calls itself once a level.
    for _ in range(1100):
        for name in os.listdir("."):
            (os.rmdir if name == "d" else os.remove)(name)
        os.chdir("..")


def test_what_is_not_a_readable_file_is_named(tmp_path):
    _save(tmp_path / "a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(LeftOutWarning, match="leads nowhere") as caught:
        assert _names(tmp_path) == ["a.png"]
    assert ("a named pipe" in str(caught[0].message)) == hasattr(os, "mkfifo")


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="root may list every folder"
)
def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    _save(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.warns(LeftOutWarning, match="cannot be listed"):
        assert _names(tmp_path) == ["a.png"]


def test_a_folder_without_images_says_what_it_has(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no image file .*1 \.txt"):
        read_items(tmp_path, "image")


def test_the_command_line_hears_of_it_too(tmp_path):
    _save(tmp_path / "one" / "a.png")
    (tmp_path / "one" / "notes.txt").write_text("x")
    _save(tmp_path / "two" / "b.png")
    items = Sources("image").read([str(tmp_path / "one"), str(tmp_path / "two")])
    assert "1 .txt" in read_items(items, "image").left_out


@pytest.mark.parametrize(
    "address", ["http://a.b/c.jpg", "s3://a/b.png", "data:image/png;base64,AA"]
)
def test_addresses_are_refused_as_such(make_extractor, address):
    with pytest.raises(ValueError, match="nothing is downloaded"):
        read_items(address, "image")
    with pytest.raises(ValueError, match="nothing is downloaded"):
        Sources("image").read([address])
    with pytest.raises(UnreadableItemError, match="nothing is downloaded"):
        make_extractor().transform([address])


def test_a_tilde_is_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    _save(tmp_path / "photos" / "a.png")
    home = os.path.join("~", "photos")
    for items in (home, [os.path.join(home, "a.png")], Sources("image").read([home])):
        (item,) = read_items(items, "image")
        assert item.content()[0].size == (9, 8)


def test_a_name_that_begins_with_a_tilde_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _save(tmp_path / "~draft.png")
    (item,) = read_items(["~draft.png"], "image")
    assert item.content()[0].size == (9, 8)


def test_a_closed_image_says_so(tmp_path):
    image = Image.open(_save(tmp_path / "a.png"))
    image.close()
    (item,) = read_items([image], "image")
    with pytest.raises(ValueError, match="closed"):
        item.content()


def _sixteen(values, form):
    """Return a file of 16 or 32 bits a pixel."""
    buffer = io.BytesIO()
    kind = np.int32 if form == "TIFF-32" else np.uint16
    Image.fromarray(values.astype(kind)).save(buffer, form.partition("-")[0])
    return buffer.getvalue()


@pytest.mark.parametrize("highest", [255, 1023, 4095, 65535])
def test_the_same_pixels_are_the_same_in_every_container(highest):
    values = np.linspace(0, highest, 72).reshape(8, 9).round()
    wanted = values.astype(int) if highest == 255 else values.astype(int) >> 8
    for form in ("PNG", "TIFF", "TIFF-32", "PPM"):
        image = _images.decode(_sixteen(values, form))
        np.testing.assert_array_equal(np.asarray(image)[:, :, 0], wanted, form)
        assert (_images.SHALLOW in image.info) == (highest < 4096)


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_images_that_come_out_black_are_counted(tmp_path, make_extractor, worker_type):
    dark = np.linspace(0, 1023, 64).reshape(8, 8)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(_sixteen(dark + number, "PNG"))
    (tmp_path / "3.png").write_bytes(_sixteen(dark * 64, "PNG"))
    extractor = make_extractor(preprocess={"size": 8}, worker_type=worker_type,
                               num_workers=1)  # fmt: skip
    with pytest.warns(ShallowImageWarning, match=r"^3 images .*0\.png") as caught:
        extractor.transform(tmp_path)
    assert len(caught) == 1


TABLES = {
    "semicolons.csv": (b"text;y\na;1\n", "separated by ';'"),
    "tabs.csv": (b"text\ty\na\t1\n", "separated by '.t'"),
    "utf16.csv": ("text,y\na,1\n".encode("utf-16"), "UTF-8"),
    "latin.csv": ("text,y\n\xe4\xf6,1\n".encode("latin-1"), "UTF-8"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_texts_that_are_not_what_they_seem(tmp_path, name):
    content, message = TABLES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Sources("text").read([str(tmp_path / name)])


@pytest.mark.parametrize("content", [
    "img_filename,y\na.png,1\n".encode("utf-16"), b"img_filename;y\na.png;1\n",
])  # fmt: skip
def test_tables_of_images_that_are_not_what_they_seem(tmp_path, content):
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"UTF-8|separated by"):
        read_items(tmp_path / "metadata.csv", "image")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_no_table_is_waited_for(tmp_path, name, modality):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="a named pipe"):
        Sources(modality).read([str(tmp_path / name)])


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_texts_are_named(missing):
    with pytest.raises(TypeError, match=r"item 1 is .*\((None|nan)\)"):
        read_items(["a", missing], "text")


TEXTS = ["a", "", " \t", "b"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", "list", "series"])
def test_blank_texts_are_counted_wherever_they_come_from(tmp_path, suffix):
    frame = pd.DataFrame({"text": TEXTS})
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    texts = TEXTS if suffix == "list" else frame["text"]
    if suffix.startswith("."):
        texts = Sources("text").read([str(path)])
    with pytest.warns(BlankTextWarning, match=r"^2 of 4 .* item 1:"):
        assert len(read_items(texts, "text")) == 4


@pytest.mark.parametrize("what", ["folder", "blank texts", "shallow"])
def test_warnings_point_at_the_users_line(tmp_path, make_extractor, what):
    _save(tmp_path / "data" / "a.png")
    if what == "folder":
        (tmp_path / "data" / "photo.heic").write_bytes(b"anything")
    if what == "shallow":
        dark = np.linspace(0, 1023, 64).reshape(8, 8)
        (tmp_path / "data" / "b.png").write_bytes(_sixteen(dark, "PNG"))
    calls = {
        "folder": lambda: make_extractor().transform(tmp_path / "data"),
        "shallow": lambda: make_extractor().transform(tmp_path / "data"),
        "blank texts": lambda: read_items(TEXTS, "text"),
    }
    kinds = (LeftOutWarning, BlankTextWarning, ShallowImageWarning)
    with pytest.warns(kinds) as caught:
        calls[what]()
    assert [warning.filename for warning in caught] == [__file__]


def test_the_command_shows_a_warning_as_one_line(tmp_path):
    _save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "photo.heic").write_bytes(b"anything")
    code = f"""if True:
        import sys
        from embeddings_cache.cli import main
        sys.exit(main(["extract", {str(tmp_path / "data")!r}, "--random", "--backbone",
                       "timm:test_resnet", "--cache-dir", {str(tmp_path / "c")!r}]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if "warning" in text.lower()]
    assert line.startswith("embeddings-cache: warning: items=")
