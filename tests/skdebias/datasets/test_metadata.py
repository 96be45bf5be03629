import doctest
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skdebias.datasets import _metadata, load_metadata

FRAME = pd.DataFrame(
    {
        "img_id": [1, 2, 3],
        "img_filename": ["a/1.jpg", "b/2.jpg", "3.jpg"],
        "y": [0, 1, 1],
        "split": [0, 1, 2],
        "place": [1, 0, 1],
        "place_filename": ["x", "y", "z"],
    }
)


@pytest.fixture
def write(tmp_path):
    def write_csv(frame):
        file = tmp_path / "metadata.csv"
        frame.to_csv(file, index=False)
        return file

    return write_csv


def test_doctests():
    results = doctest.testmod(_metadata)
    assert results.attempted >= 6
    assert results.failed == 0


@pytest.mark.parametrize("as_folder", [False, True])
def test_waterbirds_columns(write, as_folder):
    file = write(FRAME)
    data = load_metadata(file.parent if as_folder else str(file))
    assert data.paths.tolist() == ["a/1.jpg", "b/2.jpg", "3.jpg"]
    assert data.y.tolist() == [0, 1, 1]
    assert data.attributes.tolist() == [1, 0, 1]
    assert data.split.tolist() == ["train", "val", "test"]
    assert data.frame.shape == (3, 6)


@pytest.mark.parametrize(
    "names",
    [("filename", "y", "a"), ("image", "label", "attribute"), ("path", "target", "a")],
)
def test_other_column_names(write, names):
    renamed = dict(zip(["img_filename", "y", "place"], names, strict=True))
    data = load_metadata(write(FRAME.rename(columns=renamed)))
    assert data.y.tolist() == [0, 1, 1]
    assert data.attributes.tolist() == [1, 0, 1]


def test_words_as_labels_attributes_and_splits(write):
    frame = FRAME.assign(
        y=["land", "water", "water"],
        place=["forest", "sea", "sea"],
        split=["Train", " valid", "TEST"],
    )
    data = load_metadata(write(frame))
    assert data.y.dtype.kind == data.attributes.dtype.kind == "U"
    assert data.y.tolist() == ["land", "water", "water"]
    assert data.split.tolist() == ["train", "val", "test"]


def test_named_columns_and_several_attributes(write):
    frame = FRAME.assign(Blond=[1, 0, 0], Male=[0, 1, 1], kind=["x", "y", "x"])
    data = load_metadata(
        write(frame), label_column="Blond", attribute_columns=["Male", "kind"]
    )
    assert data.y.tolist() == [1, 0, 0]
    assert data.attributes.tolist() == [[0, "x"], [1, "y"], [1, "x"]]
    data = load_metadata(write(frame), attribute_columns=["Male", "place"])
    assert data.attributes.dtype.kind == "i"
    assert data.attributes.tolist() == [[0, 1], [1, 0], [1, 1]]
    data = load_metadata(write(frame), attribute_columns="Male")
    assert data.attributes.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("column", "parameter"),
    [
        ("img_filename", "path_column"),
        ("y", "label_column"),
        ("place", "attribute_columns"),
        ("split", "split_column"),
    ],
)
def test_missing_column_names_the_columns_found(write, column, parameter):
    with pytest.raises(ValueError, match=f"no column .*'{column}'") as caught:
        load_metadata(write(FRAME.drop(columns=column)))
    message = str(caught.value)
    assert "its columns are 'img_id', " in message
    assert f"{parameter}=" in message


def test_missing_named_column(write):
    with pytest.raises(ValueError, match="no column 'Blond'; its columns are"):
        load_metadata(write(FRAME), label_column="Blond")


def test_unknown_split_value(write):
    with pytest.raises(ValueError, match=r"values '3'\. Use 0, 1, 2 or"):
        load_metadata(write(FRAME.assign(split=[0, 1, 3])))


def test_empty_cells_name_the_line(write):
    with pytest.raises(ValueError, match=r"column 'place' is empty in 1 rows .*line 3"):
        load_metadata(write(FRAME.assign(place=["sea", None, "sea"])))


def test_missing_csv(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv"):
        load_metadata(tmp_path)


def test_image_dir_joins_and_names_missing_files(write, tmp_path):
    images = tmp_path / "images"
    for name in FRAME["img_filename"]:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    data = load_metadata(write(FRAME), image_dir=images)
    assert data.paths[0] == str(images / "a" / "1.jpg")
    (images / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images .*3\.jpg"):
        load_metadata(write(FRAME), image_dir=images)


def test_published_waterbirds_counts():
    folder = os.environ.get("SKDEBIAS_DATA")
    if folder is None:
        pytest.skip("SKDEBIAS_DATA does not name a folder of data sets")
    file = Path(folder, "waterbirds_metadata", "metadata.csv")
    if not file.is_file():
        pytest.skip("SKDEBIAS_DATA has no waterbirds_metadata/metadata.csv")
    data = load_metadata(file)
    counts = {
        split: np.bincount((2 * data.y + data.attributes)[data.split == split]).tolist()
        for split in ("train", "val", "test")
    }
    assert counts == {
        "train": [3498, 184, 56, 1057],
        "val": [467, 466, 133, 133],
        "test": [2255, 2255, 642, 642],
    }
    assert data.paths[0] == (
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("img_filename,y,place,split\n1.jpg,0,1,0\n".encode("utf-16"), "UTF-8"),
        ("img_filename,y,place,split\n\xe4.jpg,0,1,0\n".encode("latin-1"), "UTF-8"),
        (b"img_filename;y;place;split\n1.jpg;0;1;0\n", "separated by ';'"),
        (b"", "not a table"),
        # pandas would take the first column for an index, and y from the next one.
        (b"img_filename,y,place,split\n1.jpg,0,1,0,\n", "more values than there are"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, message):
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_metadata(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    text = "img_filename,y,place,split\n1.jpg,0,1,0\n"
    (tmp_path / "metadata.csv").write_bytes(text.encode("utf-8-sig"))
    assert load_metadata(tmp_path).paths.tolist() == ["1.jpg"]
