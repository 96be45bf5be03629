"""What counts as items, how each image becomes RGB, and which images are refused."""

import io
import os
import pickle
import socket
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn

from embeddings_cache import UnreadableItemError
from embeddings_cache._errors import ItemError, PreprocessError
from embeddings_cache._progress import Progress
from embeddings_cache.items._images import FORMATS, SHALLOW, decode, to_rgb
from embeddings_cache.items._keys import item_keys
from embeddings_cache.items._readers import read_items


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def loaded(items, modality="image"):
    return [np.asarray(item.content()[0]) for item in read_items(items, modality)]


@pytest.fixture
def picture():
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_keys_of_texts_are_those_of_their_items():
    items = read_items(["a", "\ud800", "\u00e9", "a"], "text")
    keys, (bad,) = item_keys(items, 0, Progress(False), None)
    for number in (0, 2, 3):
        assert keys[number].tobytes() == items[number].key()
    assert (bad.index, keys[1].tobytes()) == (1, bytes(32))
    assert "not valid Unicode" in bad.reason


def test_a_folder_is_read_in_sorted_order_without_other_files(photo_folder):
    names = [item.name for item in read_items(photo_folder, "image")]
    assert [name[len(str(photo_folder)) + 1 :] for name in names] == [
        "0.png", "1.png", "2.png", "3.png", "sub/4.png", "sub/5.png",
    ]  # fmt: skip
    assert [item.name for item in read_items(str(photo_folder), "image")] == names


def test_one_path_is_one_item(photo_folder):
    assert len(read_items(photo_folder / "0.png", "image")) == 1


@pytest.mark.parametrize("column", ["img_filename", "picture"])
def test_metadata_csv(photo_folder, images, column):
    table = pd.DataFrame(
        {
            "img_id": [7, 8],
            column: ["sub/4.png", "0.png"],
            "y": [1, 0],
        }
    )
    table.to_csv(photo_folder / "metadata.csv", index=False)
    found = loaded(photo_folder / "metadata.csv")
    np.testing.assert_array_equal(found, images[[4, 0]])


def test_metadata_csv_without_files_names_the_columns(tmp_path):
    (tmp_path / "metadata.csv").write_text("id,y\n1,0\n")
    with pytest.raises(ValueError, match=r"no column img_filename.*columns: id, y"):
        read_items(tmp_path / "metadata.csv", "image")
    (tmp_path / "metadata.csv").write_text("id,y\n")
    with pytest.raises(ValueError, match="the table has no rows"):
        read_items(tmp_path / "metadata.csv", "image")


class Column:
    """The few methods of one column of a Hugging Face data set."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        value = self.values[index]
        if isinstance(value, Exception):
            raise value
        return value


def test_data_set_columns(photo_folder, images, picture):
    data = encoded(picture)
    path = str(photo_folder / "1.png")
    column = Column(
        [
            Image.fromarray(images[0]),
            {"bytes": None, "path": path},
            {"bytes": data, "path": "x.png"},
            data,
            images[3],
            path,
        ]
    )
    found = loaded(column)
    for value, right in zip(
        found,
        [images[0], images[1], picture, picture, images[3], images[1]],
        strict=True,
    ):
        np.testing.assert_array_equal(value, np.asarray(right))
    texts = read_items(Column(["a", "b"]), "text")
    assert [item.content()[0] for item in texts] == ["a", "b"]


def test_a_data_set_row_that_fails_is_one_bad_item(make_extractor, images):
    column = Column([Image.fromarray(images[0]), OSError("bad block"), 3.5])
    with pytest.raises(UnreadableItemError) as caught:
        make_extractor().transform(column)
    text = str(caught.value)
    assert "item 1, row 1: the data set cannot give it (bad block)" in text
    assert "item 2, row 2: items: item 2 is of type float" in text


def test_series_generators_and_tuples(photo_folder, images):
    paths = [photo_folder / "2.png", photo_folder / "0.png"]
    for form in (pd.Series(paths), tuple(paths), iter(paths), np.array(paths, object)):
        np.testing.assert_array_equal(loaded(form), images[[2, 0]])


@pytest.mark.parametrize(
    ("items", "modality", "message"),
    [
        (3, "image", "items of type int: give a list of paths"),
        ({"a": 1}, "image", "items of type dict"),
        (pd.DataFrame({"a": [1]}), "image", "items of type DataFrame"),
        ([3.5], "image", "item 0 is of type float; images are paths, PIL"),
        ("one text", "text", "a text backbone takes a list of strings"),
        ([1], "text", "a text backbone takes strings, item 0 is of type int"),
        (np.zeros((2, 4, 4, 3)), "image", r"type float64 and shape \(2, 4, 4, 3\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), "image", r"shape \(2, 3, 4, 4\); images mu"),
        ("/no/such/folder", "image", "no such file or folder"),
    ],
)
def test_items_that_make_no_sense(items, modality, message):
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        read_items(items, modality)


def test_an_empty_call_is_refused(make_extractor, tmp_path):
    with pytest.raises(ValueError, match="items is empty"):
        make_extractor().transform([])
    with pytest.raises(ValueError, match="no image file in this folder"):
        make_extractor().transform(tmp_path)


# Those that Pillow writes in one size; the others are read, see test_folders.py.
WRITTEN = sorted(set(FORMATS) - {"ICNS", "PSD"})


@pytest.mark.parametrize("form", WRITTEN)
def test_every_allowed_format_is_read(picture, form):
    options = {"lossless": True} if form == "WEBP" else {}
    image = decode(encoded(picture, form, **options))
    assert (image.mode, image.size) == ("RGB", picture.size)
    if form not in ("JPEG", "GIF", "AVIF"):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture))


@pytest.mark.parametrize("form", ["TGA", "PDF", "EPS", "IM", "SPIDER"])
def test_other_formats_are_refused(picture, form):
    with pytest.raises(ItemError, match="not an image of a format that is read here"):
        decode(encoded(picture, form))


def test_grey_palette_and_bilevel():
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    image = Image.fromarray(grey)
    np.testing.assert_array_equal(np.asarray(decode(encoded(image))), expected)
    palette = image.convert("P")
    np.testing.assert_array_equal(np.asarray(decode(encoded(palette))), expected)
    bilevel = Image.fromarray(grey > 100)
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(bilevel))), np.where(expected > 100, 255, 0)
    )


def test_sixteen_bit_grey_keeps_its_contrast():
    values = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    image = decode(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(np.asarray(image)[:, :, 0], values >> 8)


def sixteen_bit_colours(form, values):
    """Encode rows of 16-bit pixels of three colours, which Pillow cannot write."""
    height, width, _ = values.shape
    big = values.astype(">u2")
    if form == "PPM":
        return f"P6 {width} {height} 65535\n".encode() + big.tobytes()

    def chunk(name, data):
        end = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + end

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("form", ["PNG", "PPM"])
@pytest.mark.parametrize(("bits", "shallow"), [(8, True), (10, True), (16, False)])
def test_sixteen_bit_colours_with_few_bits_are_noted(picture, form, bits, shallow):
    values = np.asarray(picture).astype(np.uint16) << 8 >> (16 - bits)
    image = decode(sixteen_bit_colours(form, values))
    assert (SHALLOW in image.info) == shallow
    if not shallow:
        np.testing.assert_allclose(image, picture, atol=1)
    lazy = Image.open(io.BytesIO(sixteen_bit_colours(form, values)))
    assert (SHALLOW in to_rgb(lazy).info) == shallow


def test_floating_point_pixels_are_refused():
    image = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(ItemError, match="no agreed range"):
        decode(encoded(image, "TIFF"))


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    found = np.asarray(decode(encoded(image)))
    np.testing.assert_array_equal(found, [[[200, 0, 0], [255, 255, 255]]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    found = np.asarray(decode(encoded(palette, transparency=1)))
    np.testing.assert_array_equal(found, [[[10, 20, 30], [255, 255, 255]]])


def test_cmyk():
    image = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    np.testing.assert_allclose(np.asarray(image)[4, 4], [255, 0, 0], atol=3)


def test_exif_orientation_is_applied(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise makes it upright
    found = decode(encoded(picture, "PNG", exif=exif))
    np.testing.assert_array_equal(
        np.asarray(found), np.rot90(np.asarray(picture), k=-1)
    )


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(decode(data))[0, 0], [255, 0, 0])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_images_are_refused(form, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(ItemError, match=r"damaged or truncated|not an image"):
        decode(data[: int(len(data) * kept)])


def test_decompression_bombs_are_refused_by_name(
    make_extractor, photo_folder, monkeypatch, recwarn
):
    big = Image.new("RGB", (30, 20))
    big.save(photo_folder / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(
        UnreadableItemError, match=r"big\.png: too many pixels \(30 x 2"
    ):
        make_extractor().transform(photo_folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 260)
    with pytest.raises(UnreadableItemError, match=r"big\.png: too many pixels"):
        make_extractor(num_workers=2).transform(photo_folder)


def test_odd_file_names(make_extractor, photo_folder):
    odd = photo_folder / "ünï cödé %s {x}\n.png"
    (photo_folder / "0.png").rename(odd)
    assert make_extractor().transform([odd]).shape == (1, 8)
    odd.write_bytes(b"")
    with pytest.raises(UnreadableItemError, match="ünï cödé %s"):
        make_extractor().transform([odd])


def test_symbolic_links_are_followed(make_extractor, photo_folder, tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(photo_folder / "0.png")
    extractor = make_extractor()
    extractor.transform([photo_folder / "0.png", link])
    assert extractor.last_run_.n_computed == 1


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (3, 301)])
def test_an_image_that_resizing_would_blow_up_is_one_bad_item(
    make_extractor, images, tmp_path, size
):
    """Resized to 224 pixels, 99 bytes of file took two gigabytes."""
    Image.new("RGB", size).save(tmp_path / "long.png")
    for item in (
        tmp_path / "long.png",
        Image.new("RGB", size),
        np.zeros(size, np.uint8),
        encoded(Image.new("L", size)),
    ):
        with pytest.raises(UnreadableItemError, match="100 times") as caught:
            make_extractor().transform([Image.fromarray(images[0]), item])
        assert [bad.index for bad in caught.value.bad] == [1]
    loaded([Image.new("RGB", (3, 300))])


@pytest.mark.parametrize("error", [MemoryError, RecursionError, ValueError, OSError])
def test_an_error_of_one_item_is_that_items_alone(make_extractor, images, error):
    class Fails:
        cache_description = "fails for white images"

        def __call__(self, image):
            values = np.asarray(image, dtype=np.float32)
            if values.min() == 255:
                raise error("too much")
            return torch.from_numpy(values).permute(2, 0, 1)[:, :4, :4]

    white = Image.new("RGB", (8, 8), "white")
    items = [Image.fromarray(images[0]), white, Image.fromarray(images[1])]
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    extractor = make_extractor(network, preprocess=Fails())
    with pytest.raises(UnreadableItemError, match="too much") as caught:
        extractor.transform(items)
    assert [bad.index for bad in caught.value.bad] == [1]
    assert extractor.transform([items[0], items[2]]).shape == (2, 2)
    assert extractor.last_run_.n_computed == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    make_extractor, images, tmp_path
):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.png"))
        (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        (tmp_path / "folder.png").mkdir()
        names = ["pipe.png", "socket.png", "link.png", "zero.png", "folder.png"]
        items = [Image.fromarray(images[0]), *(tmp_path / name for name in names)]
        with pytest.raises(UnreadableItemError) as caught:
            make_extractor().transform(items)
    reasons = [bad.reason for bad in caught.value.bad]
    assert len(reasons) == 5
    assert "a named pipe" in reasons[0]
    assert "a socket" in reasons[1]
    assert "a named pipe" in reasons[2]
    assert "a device" in reasons[3]


@pytest.mark.parametrize(
    "error", [KeyError("size"), OSError(5, "a"), UnidentifiedImageError("x")]
)
def test_errors_of_the_preprocessing_cross_processes(error):
    made = pickle.loads(pickle.dumps(PreprocessError("preprocess raised", error)))
    assert str(made) == "preprocess raised"
    assert type(made.error) in (type(error), RuntimeError)
