"""Links, and names that people really have: the content counts, not the name."""

import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embeddings_cache import StoreError, UnreadableItemError
from embeddings_cache.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX names and links")

NAMES = {
    "newline": b"two\nlines.png",
    "tab and carriage return": b"a\tb\r.png",
    "quotes": b'it\'s "quoted" `here` $HOME.png',
    "leading dash": b"--help.png",
    "leading space": b" .png .png",
    "not UTF-8": b"caf\xe9 \xff\xfe.png",
    "composed": unicodedata.normalize("NFC", "é.png").encode(),
    "decomposed": unicodedata.normalize("NFD", "é.png").encode(),
    "very long": b"n" * 251 + b".png",
    "wildcards": b"*?[a].png",
    "percent and braces": b"%s{0}{name}.png",
    "right to left": "\u202egnp.png".encode(),
    "backslash": b"a\\b.png",
}


@pytest.fixture
def odd_folder(tmp_path, images):
    """Return a folder with one image under each name."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, array in zip(NAMES.values(), images, strict=False):
        try:
            with (folder / os.fsdecode(name)).open("wb") as file:
                Image.fromarray(array).save(file, format="PNG")
        except OSError:
            pytest.skip(f"this file system refuses the name {name!r}")
    return folder


def test_odd_names_give_the_rows_of_their_content(make_extractor, odd_folder, images):
    extractor = make_extractor()
    paths = [odd_folder / os.fsdecode(name) for name in NAMES.values()]
    rows = extractor.transform(paths)
    pixels = make_extractor(cache_dir=odd_folder.parent / "other")
    np.testing.assert_array_equal(rows, pixels.transform(images[: len(NAMES)]))
    listed = sorted(range(len(paths)), key=lambda i: paths[i])
    np.testing.assert_array_equal(extractor.transform(odd_folder), rows[listed])
    assert extractor.last_run_.n_found == len(NAMES)


def test_an_odd_root(make_extractor, tmp_path, images):
    for number, name in enumerate(NAMES.values()):
        root = tmp_path / f"{number}" / os.fsdecode(name)
        extractor = make_extractor(cache_dir=root)
        rows = extractor.transform(images[:3])
        np.testing.assert_array_equal(extractor.transform(images[:3]), rows)
        assert extractor.last_run_.n_found == 3
        assert (root / "v1").is_dir()


@pytest.mark.parametrize("name", NAMES)
def test_an_unreadable_item_is_named_whatever_its_name(make_extractor, tmp_path, name):
    path = tmp_path / os.fsdecode(NAMES[name])
    path.write_bytes(b"no image")
    with pytest.raises(UnreadableItemError) as caught:
        make_extractor().transform([path])
    (bad,) = caught.value.bad
    assert Path(bad.name) == path


def test_the_command_line_reads_and_reports_odd_names(
    odd_folder, tmp_path, capfd, monkeypatch
):
    (odd_folder / os.fsdecode(b"bad \xff\n.png")).write_bytes(b"no image")
    monkeypatch.setenv("EMBEDDINGS_CACHE", str(tmp_path / "cache"))
    command = ["extract", "--backbone", "timm:resnet18", "--random", "--quiet"]
    command += ["--preprocess", '{"size": 32}', "--", str(odd_folder)]
    assert main(command) == 1
    (odd_folder / os.fsdecode(b"bad \xff\n.png")).unlink()
    assert main(command) == 0
    output = capfd.readouterr()
    assert "1 of 14 items cannot be read" in output.err
    assert "13 items" in output.out


def test_items_that_are_links(make_extractor, photo_folder, tmp_path):
    extractor = make_extractor()
    (tmp_path / "links").mkdir()
    for path in sorted(photo_folder.glob("*.png")):
        (tmp_path / "links" / path.name).symlink_to(path)
        (tmp_path / "links" / f"hard {path.name}").hardlink_to(path)
    rows = extractor.transform(sorted(photo_folder.glob("*.png")))
    again = extractor.transform(sorted((tmp_path / "links").glob("[0-9]*.png")))
    np.testing.assert_array_equal(again, rows)
    hard = extractor.transform(sorted((tmp_path / "links").glob("hard*.png")))
    np.testing.assert_array_equal(hard, rows)
    assert extractor.last_run_.n_computed == 0


def test_a_link_that_is_pointed_elsewhere_is_another_item(
    make_extractor, photo_folder, tmp_path
):
    extractor = make_extractor()
    link = tmp_path / "link.png"
    link.symlink_to(photo_folder / "0.png")
    first = extractor.transform([link])
    link.unlink()
    link.symlink_to(photo_folder / "1.png")
    second = extractor.transform([link])
    wanted = [photo_folder / "0.png", photo_folder / "1.png"]
    expected = make_extractor(cache_dir=tmp_path / "other").transform(wanted)
    np.testing.assert_allclose(np.concatenate([first, second]), expected, atol=1e-4)
    assert abs(expected[0] - expected[1]).max() > 1


@pytest.mark.parametrize("target", ["gone.png", "link.png"])
def test_a_link_to_nowhere_is_an_unreadable_item(make_extractor, tmp_path, target):
    (tmp_path / "link.png").symlink_to(tmp_path / target)
    with pytest.raises(UnreadableItemError, match=r"link\.png"):
        make_extractor().transform([tmp_path / "link.png"])


def test_a_loop_of_links_inside_a_folder_ends(make_extractor, photo_folder):
    expected = make_extractor().transform(photo_folder)
    (photo_folder / "sub" / "up").symlink_to(photo_folder)
    (photo_folder / "self").symlink_to("self")
    (photo_folder / "self.png").symlink_to("self.png")
    np.testing.assert_array_equal(make_extractor().transform(photo_folder), expected)


def test_a_root_that_is_a_link(make_extractor, tmp_path, images):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    rows = make_extractor(cache_dir=tmp_path / "link").transform(images)
    extractor = make_extractor(cache_dir=tmp_path / "real")
    np.testing.assert_array_equal(extractor.transform(images), rows)
    assert extractor.last_run_.n_found == 20


def test_a_root_that_is_a_link_to_nowhere_or_to_itself(
    make_extractor, tmp_path, images
):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    for name in ("loop", "dangling"):
        with pytest.raises(StoreError, match="cannot be used"):
            make_extractor(cache_dir=tmp_path / name).transform(images)


@pytest.mark.skipif(sys.platform != "linux", reason="bytes in names")
def test_exported_names_can_be_anything(odd_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDDINGS_CACHE", str(tmp_path / "cache"))
    command = ["extract", "--backbone", "timm:resnet18", "--random", "--quiet"]
    command += ["--preprocess", '{"size": 32}', "--output", str(tmp_path / "x.npy")]
    assert main([*command, "--", str(odd_folder)]) == 0
    lines = (tmp_path / "x.items.txt").read_bytes().split(b"\n")
    # A line per item: only line breaks inside a name cannot be kept.
    names = sorted(path.name for path in odd_folder.iterdir())
    breaks = bytes.maketrans(b"\n\r", b"  ")
    expected = [os.fsencode(name).translate(breaks) for name in names]
    assert [line.rpartition(b"/")[2] for line in lines[:-1]] == expected
