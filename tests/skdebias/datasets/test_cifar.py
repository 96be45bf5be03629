"""CIFAR-10 and its corruptions: readers, pairing, strengths, optional photographs."""

import hashlib
import io
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from skdebias.datasets import corrupt_images, fetch_cifar10
from skdebias.datasets._cifar import _CLASSES
from skdebias.datasets._corruptions import CORRUPTIONS, _plasma, corrupt

WITHOUT_EXTRA = [name for name in CORRUPTIONS if name != "frost"]
RNG = np.random.RandomState(0)
# Smooth photographs with all hues, and no pixel near black or white.
COARSE = RNG.randint(60, 200, (20, 4, 4, 3)).astype(np.uint8)
PHOTOGRAPHS = np.stack(
    [np.asarray(Image.fromarray(image).resize((32, 32))) for image in COARSE]
)


@pytest.fixture
def frost(tmp_path, monkeypatch):
    """Photographs of frost in place of those of the optional package."""
    folder = tmp_path / "imagecorruptions" / "frost"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    for number in range(1, 6):
        grey = np.full((180, 200, 3), 40 * number, dtype=np.uint8)
        suffix = "png" if number < 4 else "jpg"
        Image.fromarray(grey).save(folder / f"frost{number}.{suffix}")
    monkeypatch.delitem(sys.modules, "imagecorruptions", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def test_corruptions_are_paired_with_classes(frost):
    y = np.repeat(np.arange(10), 40)
    images = PHOTOGRAPHS[np.arange(400) % 20]
    before = images.copy()
    corrupted, corruption = corrupt_images(images, y, minority=0.1, random_state=0)
    again, same = corrupt_images(images, y, minority=0.1, random_state=0)
    other, _ = corrupt_images(images, y, minority=0.1, random_state=1)

    np.testing.assert_array_equal(images, before)
    for label in range(10):
        assert np.sum(corruption[y == label] != label) == 4
    assert corrupted.shape == images.shape
    assert corrupted.dtype == np.uint8
    assert (corrupted != images).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(corruption, same)
    np.testing.assert_array_equal(corrupted, again)
    assert (corrupted != other).any()
    order = "snow frost fog brightness contrast spatter elastic jpeg pixelate saturate"
    assert list(CORRUPTIONS) == order.split()


def test_rows_get_the_corruption_that_is_reported():
    images = PHOTOGRAPHS[:10]
    corrupted, corruption = corrupt_images(
        images, [3, 4, 8, 9, 3, 4, 8, 9, 3, 4], minority=0, random_state=0
    )
    for row, value in enumerate(corruption):
        name = list(CORRUPTIONS)[value]
        alone = corrupt(name, images[row : row + 1], 4, RNG)
        np.testing.assert_array_equal(corrupted[row], alone[0])


@pytest.mark.parametrize("name", WITHOUT_EXTRA)
def test_strength_grows_with_the_severity(name):
    if name == "saturate":
        severities = (3, 4, 5)  # 1 and 2 take colour away
    elif name == "spatter":
        severities = (4, 5)  # water below needs OpenCV
    elif name == "elastic":
        severities = (3, 1)  # the published constants are not in order
    else:
        severities = (1, 3, 5)
    clean = PHOTOGRAPHS.astype(float)
    changes = []
    for severity in severities:
        corrupted = corrupt(name, PHOTOGRAPHS, severity, np.random.RandomState(0))
        changes.append(np.abs(corrupted - clean).mean())
    assert changes == sorted(changes)
    assert changes[0] > 0.1


@pytest.mark.parametrize(
    ("name", "severity", "library_severity"),
    [("brightness", 4, 2), ("contrast", 4, 2), ("saturate", 1, 1), ("saturate", 2, 2)],
)
def test_same_constants_same_images_as_the_library(name, severity, library_severity):
    library = pytest.importorskip("imagecorruptions")
    grey = np.full((1, 32, 32, 3), 90, dtype=np.uint8)
    images = np.concatenate([PHOTOGRAPHS, grey, 0 * grey])
    expected = [
        library.corrupt(image, corruption_name=name, severity=library_severity)
        for image in images
    ]
    # The library cuts fractions off where we round.
    found = corrupt(name, images, severity, RNG).astype(int)
    assert np.isin(found - expected, (0, 1)).all()


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_brightens(severity):
    pytest.importorskip("cv2")
    images = np.concatenate([PHOTOGRAPHS] * 5)
    corrupted = corrupt("spatter", images, severity, np.random.RandomState(0))
    difference = corrupted.astype(int) - images
    assert difference.min() == 0
    # Pale turquoise: half as bright as (175, 238, 238) where it is brightest.
    assert 0.4 * 238 < difference[..., 1:].max() <= 0.5 * 238 + 1


def test_frost_is_mixed_with_the_photograph(frost):
    dark = np.zeros((200, 32, 32, 3), dtype=np.uint8)
    corrupted = corrupt("frost", dark, 4, np.random.RandomState(0))
    levels = {round(float(image.mean()) / 0.4) for image in corrupted}
    assert levels == {40, 80, 120, 160, 200}
    bright = corrupt("frost", dark + 100, 4, np.random.RandomState(0))
    np.testing.assert_allclose(bright, corrupted + 85.0, atol=1)


def test_fog_is_a_smooth_map():
    fog = _plasma(50, 32, 2.0, np.random.RandomState(0))
    np.testing.assert_array_equal(fog.min(axis=(1, 2)), 0)
    np.testing.assert_array_equal(fog.max(axis=(1, 2)), 1)
    # Neighbours differ by less than pixels far apart, in both directions.
    for axis in (1, 2):
        near = np.abs(fog - np.roll(fog, 1, axis)).mean()
        far = np.abs(fog - np.roll(fog, 16, axis)).mean()
        assert near < far / 3
    # A smaller decay leaves more of the fine structure.
    rough = _plasma(50, 32, 1.5, np.random.RandomState(0))
    assert np.abs(np.diff(rough)).mean() > 1.5 * np.abs(np.diff(fog)).mean()


def test_snow_falls_in_streaks():
    dark = np.zeros((100, 32, 32, 3), dtype=np.uint8)
    snow = corrupt("snow", dark, 4, np.random.RandomState(0))[..., 0].astype(float)
    assert snow.max() > 200
    # The direction is within 45 degrees of the vertical.
    down = np.abs(np.diff(snow, axis=1)).mean()
    across = np.abs(np.diff(snow, axis=2)).mean()
    assert down < 0.7 * across


def test_elastic_moves_a_point_by_a_few_pixels():
    dots = np.zeros((100, 32, 32, 3), dtype=np.uint8)
    dots[:, 14:18, 14:18] = 255
    moved = corrupt("elastic", dots, 4, np.random.RandomState(0))[..., 0].astype(float)
    weights = moved / moved.sum(axis=(1, 2), keepdims=True)
    row = (weights * np.arange(32)[:, None]).sum(axis=(1, 2)) - 15.5
    column = (weights * np.arange(32)).sum(axis=(1, 2)) - 15.5
    for shift in (row, column):
        assert abs(shift.mean()) < 0.3  # no direction is preferred
        assert 0.2 < shift.std() < 1.6
        assert np.abs(shift).max() < 3.5


def test_missing_photographs_name_the_extra(monkeypatch):
    monkeypatch.setattr("skdebias.datasets._corruptions.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"frost.*skdebias\[reproduce\]"):
        corrupt_images(PHOTOGRAPHS, np.ones(20), random_state=0)


def test_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"severity 1 to 3.*skdebias\[reproduce\]"):
        corrupt_images(PHOTOGRAPHS, np.full(20, 5), severity=2, random_state=0)


def test_bad_arguments():
    y = np.arange(20) % 10
    with pytest.raises(ValueError, match=r"minority=-1"):
        corrupt_images(PHOTOGRAPHS, y, minority=-1)
    with pytest.raises(ValueError, match="severity=0"):
        corrupt_images(PHOTOGRAPHS, y, severity=0)
    with pytest.raises(ValueError, match=r"float64 of shape \(20, 32, 32, 3\)"):
        corrupt_images(PHOTOGRAPHS / 255, y)
    with pytest.raises(ValueError, match=r"uint8 of shape \(20, 16, 32, 3\)"):
        corrupt_images(PHOTOGRAPHS[:, ::2], y)
    with pytest.raises(ValueError, match=r"classes \[1, 11\]"):
        corrupt_images(PHOTOGRAPHS, 1 + 10 * (y % 2))


def _write_archive(root, images, names):
    path = root / "cifar10_jpeg" / "cifar10_jpeg.tar.xz"
    path.parent.mkdir()
    with tarfile.open(path, "w:xz") as tar:
        for image, name in zip(images, names):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=95)
            member = tarfile.TarInfo(name)
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)


def test_jpegs_are_read_in_the_order_of_names(tmp_path, monkeypatch):
    monkeypatch.setenv("SKDEBIAS_DATA", str(tmp_path))
    grey = [np.full((32, 32, 3), level, dtype=np.uint8) for level in range(10, 130, 20)]
    names = [
        "test/truck/0001.jpg",
        "train/cat/0002.jpg",
        "train/cat/0001.jpg",
        "./train/airplane/0001.jpg",
        "test/frog/0001.jpg",
        "train/dog/0001.jpg",
    ]
    _write_archive(tmp_path, grey, names)
    cifar = fetch_cifar10()
    assert cifar.images.dtype == np.uint8
    assert cifar.images[:, 0, 0, 0].tolist() == [70, 50, 30, 110, 90, 10]
    assert cifar.target.tolist() == [0, 3, 3, 5, 6, 9]
    assert cifar.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert cifar.target_names == list(_CLASSES)
    assert cifar.lossless is False
    assert cifar.source.endswith("cifar10_jpeg.tar.xz")


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((32, 32, 3), "train/zebra/1.jpg"),
        ((32, 32, 3), "val/cat/1.jpg"),
        ((28, 32, 3), "train/cat/1.jpg"),
        ((32, 32), "train/cat/1.jpg"),
    ],
)
def test_other_archives_are_refused(tmp_path, monkeypatch, shape, name):
    monkeypatch.setenv("SKDEBIAS_DATA", str(tmp_path))
    _write_archive(tmp_path, [np.zeros(shape, dtype=np.uint8)], [name])
    with pytest.raises(ValueError, match=rf"{name} has shape"):
        fetch_cifar10()


def test_damaged_archives_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SKDEBIAS_DATA", str(tmp_path))
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    _write_archive(tmp_path, [image], ["train/cat/1.jpg"])
    path = tmp_path / "cifar10_jpeg" / "cifar10_jpeg.tar.xz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cifar10_jpeg\.tar\.xz is damaged"):
        fetch_cifar10()
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"cifar10_jpeg\.tar\.xz is damaged"):
        fetch_cifar10()


def test_torchvision_reads_what_it_keeps(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.delenv("SKDEBIAS_DATA", raising=False)
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    cifar10 = datasets.CIFAR10
    lists = {"train_list": [], "test_list": []}
    files = [(*entry, key) for key in lists for entry in getattr(cifar10, key)]
    for number, (name, _, key) in enumerate(files):
        pixels = np.zeros((2, 3, 32, 32), dtype=np.uint8)
        pixels[:, 0], pixels[:, 2] = number, 200
        content = {"data": pixels.reshape(2, -1), "labels": [number, 9]}
        written = pickle.dumps(content)
        (folder / name).write_bytes(written)
        lists[key].append([name, hashlib.md5(written).hexdigest()])
    names = pickle.dumps({"label_names": list(_CLASSES)})
    (folder / "batches.meta").write_bytes(names)
    meta = {**cifar10.meta, "md5": hashlib.md5(names).hexdigest()}
    for key, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(cifar10, key, value)

    cifar = fetch_cifar10(data_home=tmp_path)
    assert cifar.target.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert cifar.images[::2, 7, 9].tolist() == [[n, 0, 200] for n in range(6)]
    assert cifar.split.tolist() == ["train"] * 10 + ["test"] * 2
    assert cifar.lossless is True
    assert cifar.source == "torchvision.datasets.CIFAR10"


def test_no_images_and_no_network(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def refuse(self):
        raise OSError("no route to host")

    monkeypatch.delenv("SKDEBIAS_DATA", raising=False)
    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(OSError, match=r"no route to host.*SKDEBIAS_DATA"):
        fetch_cifar10(data_home=tmp_path)
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: None)
    with pytest.raises(OSError, match=r"not found or corrupted.*SKDEBIAS_DATA"):
        fetch_cifar10(data_home=tmp_path)


def test_no_images_and_no_torchvision(tmp_path, monkeypatch):
    monkeypatch.delenv("SKDEBIAS_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r"skdebias\[torchvision\].*SKDEBIAS_DATA"):
        fetch_cifar10(data_home=tmp_path)


@pytest.mark.heavy
@pytest.mark.skipif("SKDEBIAS_DATA" not in os.environ, reason="SKDEBIAS_DATA not set")
def test_real_cifar10():
    cifar = fetch_cifar10()
    train = cifar.split == "train"
    assert np.bincount(cifar.target[train]).tolist() == [5000] * 10
    assert np.bincount(cifar.target[~train]).tolist() == [1000] * 10
    mean = cifar.images[train].mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=5e-4)
