"""The scripts that train whole networks, on sets of a few rows."""

import importlib
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.utils import Bunch
from torch import nn

from skdebias.datasets._pairing import pair_attributes
from skdebias.finetune import FineTuneClassifier

SCRIPTS = Path(__file__).parents[1] / "examples" / "reproduce"


@pytest.fixture(scope="module")
def scripts():
    """Modules of the scripts, which import one another by plain names."""
    names = ("ccifar10", "frozen_finetuned")
    before = set(sys.modules)
    path = list(sys.path)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path[:] = path
        own = {p.stem for folder in (SCRIPTS, SCRIPTS.parent) for p in folder.iterdir()}
        for name in own & (set(sys.modules) - before):
            del sys.modules[name]


def small_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*pooled, nn.Flatten())


def run_main(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    module.main()


def tinted(images, target, *, minority, random_state):
    """In the place of corruptions, whose photographs of frost are not installed."""
    rng = np.random.RandomState(random_state)
    target, attributes = pair_attributes(target, minority, rng)
    tints = np.random.RandomState(0).randint(0, 200, (10, 3))
    return (images // 8 + tints[attributes][:, None, None]).astype(np.uint8), attributes


def few_photographs(n_train=600, n_test=300):
    rng = np.random.default_rng(0)
    n = n_train + n_test
    return Bunch(
        images=rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
        target=np.arange(n) % 10,
        split=np.repeat(["train", "test"], [n_train, n_test]),
    )


@pytest.fixture
def ccifar10(scripts, monkeypatch):
    module = scripts["ccifar10"]
    monkeypatch.setattr(module, "fetch_cifar10", few_photographs)
    monkeypatch.setattr(module, "corrupt_images", tinted)
    tiny = {"backbone": small_network(), "modality": "image", "learning_rate": 0.01}
    monkeypatch.setitem(module.NETWORKS, "resnet18", tiny)
    return module


def test_parts_of_corrupted_cifar(ccifar10):
    cifar = few_photographs()
    parts = ccifar10.load(0.1, 1, cifar, (None, 100, None))
    sizes = {name: len(y) for name, (_, y, _) in parts.items()}
    assert sizes == {"train": 500, "val": 100, "test": 300}
    paired = {name: np.mean(y == a) for name, (_, y, a) in parts.items()}
    assert paired["train"] == pytest.approx(0.9)
    assert max(paired["val"], paired["test"]) < 0.2
    fewer = ccifar10.load(0.05, 1, cifar, (200, 100, 50))
    assert [len(y) for _, y, _ in fewer.values()] == [200, 100, 50]
    other = ccifar10.load(0.05, 2, cifar, (200, 100, 50))
    assert not np.array_equal(other["train"][0], fewer["train"][0])


def test_ccifar10_runs_resumes_and_prints(ccifar10, monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    arguments = [
        *("--minority", "5", "--epochs", "2", "--validation-rows", "100"),
        *("--image-size", "8", "--threads", "1", "--out", str(out)),
    ]
    run_main(ccifar10, monkeypatch, *arguments)
    page = capsys.readouterr().out
    for method in ccifar10.PAPER:
        for selection in ("test", "validation", "paper (test)"):
            assert f"| {method} | {selection} |" in page
    rows = ccifar10.read(out)
    best, last = (
        rows.loc[rows["metric"] == m, "value"] for m in ("test_best", "test_last")
    )
    assert (best.to_numpy() >= last.to_numpy()).all()
    assert rows["value"].between(0, 1).all()

    def no_fit(*_):
        raise AssertionError("a task was run again")

    monkeypatch.setattr(ccifar10, "score", no_fit)
    run_main(ccifar10, monkeypatch, *arguments)
    assert capsys.readouterr().out == page
    run_main(ccifar10, monkeypatch, "--table-only", "--out", str(out))
    assert capsys.readouterr().out == page


def test_settings_of_ccifar10(ccifar10):
    network = FineTuneClassifier(None, learning_rate=0.5, weight_decay=0.1)
    grids = ccifar10.settings(0.02, network)
    assert set(grids) == set(ccifar10.PAPER)
    for setting, own in grids["GERNE unknown"].items():
        biased = own.estimator.reference_estimator
        rate = float(setting.partition("rate=")[2])
        assert biased.learning_rate == pytest.approx(0.5 * rate)
        assert biased.weight_decay == pytest.approx(0.2)
        assert biased.estimator.balance == "class"
        assert own.estimator.t == 0.02


@pytest.fixture
def frozen(scripts, monkeypatch, tmp_path):
    """The script, on an archive of small photos."""
    module = scripts["frozen_finetuned"]
    rng = np.random.default_rng(0)
    (tmp_path / "bar").mkdir()
    with tarfile.open(tmp_path / "bar" / "bar.tar.xz", "w:xz") as tar:
        for part, n in (("train", 20), ("test", 8)):
            for action in ("climbing", "diving", "fishing"):
                for number in range(n):
                    photo = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                    file = tmp_path / "photo.jpg"
                    Image.fromarray(photo).save(file)
                    tar.add(file, f"{part}/{action}_{number}.jpg")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(
        module,
        "backbone",
        lambda size: {"backbone": small_network(), "preprocess": {"size": size}},
    )
    monkeypatch.setattr(module, "HEAD_EPOCHS", 2)
    return module


def test_photos_are_read_and_split(frozen):
    data = frozen.load(16)
    assert data.images.shape == (84, 16, 16, 3)
    train, val, test = frozen.split(data, 0)
    assert [len(train), len(val), len(test)] == [48, 12, 24]
    assert not data.is_test[[*train, *val]].any()
    assert set(data.y[test]) == {"climbing", "diving", "fishing"}


def test_frozen_and_finetuned_run(frozen, monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    arguments = [
        *("--methods", "ERM", "JTT", "--image-size", "8", "--epochs", "1"),
        *("--threads", "1", "--out", str(out)),
    ]
    run_main(frozen, monkeypatch, *arguments, "--trained", "last layer")
    assert "| whole network |" not in capsys.readouterr().out
    run_main(frozen, monkeypatch, *arguments)
    page = capsys.readouterr().out
    for method in ("ERM", "JTT"):
        assert f"| {method} | last layer |" in page
        assert f"| {method} | whole network |" in page
    run_main(frozen, monkeypatch, "--table-only", "--out", str(out))
    assert capsys.readouterr().out == page


def test_networks_have_the_methods_of_the_heads(frozen):
    network = FineTuneClassifier(None)
    for method in frozen.COMPARED:
        grid = frozen.networks(method, network, [0.5, 0.1], 3)
        assert [own.learning_rate for own in grid.values()] == [0.5, 0.1]
        setting, own = next(iter(grid.items()))
        head = next(iter(frozen.heads(method).values()))
        assert type(own.estimator) is type(head)
        known = own.estimator.get_params() | own.get_params(deep=False)
        for pair in setting.split():
            name, _, value = pair.partition("=")
            assert str(known[name]) == value
