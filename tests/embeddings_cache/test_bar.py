"""The example on the real BAR photos: 2,595 files, a trained network, known numbers."""

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "bar_probe.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("bar_probe", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.heavy
def test_linear_probe_of_real_photos(example, data_dir, mobilenet_file, tmp_path):
    pytest.importorskip("timm")
    if not (data_dir / "bar" / "bar.tar.xz").is_file():
        pytest.skip("real data: no bar/bar.tar.xz in SKDEBIAS_DATA")
    settings = {"cache_dir": tmp_path / "cache", "progress": False, "device": "cpu"}
    # One of the two crops: the other takes as long again. Both are in the example.
    found = example.run(data_dir, tmp_path / "work", ["square"], **settings)
    held_out, unbiased, _ = found["square"]
    assert 0.95 <= held_out <= 0.97
    assert unbiased == pytest.approx(0.627, abs=0.015)
    extractor = example.make_extractor(data_dir, 1.0, **settings)
    train, _ = example.photos(tmp_path / "work", "train")
    first = extractor.transform(train[::-1])
    assert extractor.last_run_.n_computed == 0
    assert first.shape == (1941, 1280)
    assert np.isfinite(first).all()


def test_only_plain_photos_leave_the_archive(example, tmp_path):
    archive = tmp_path / "a.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("train/a_1.jpg", "../x.jpg", "/tmp/y.jpg", "test/../z.jpg",
                     "other/b_1.jpg", "train/deep/c_1.jpg", "train/d.txt"):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("train/link_1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    example.unpack(archive, tmp_path / "work")
    files = [p.relative_to(tmp_path / "work") for p in (tmp_path / "work").rglob("*.*")]
    assert [str(path) for path in files] == ["train/a_1.jpg"]
