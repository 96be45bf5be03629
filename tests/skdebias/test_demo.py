"""Tests of the demo's data, its backbone, and of ``skdebias demo`` itself."""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import cross_val_score
from threadpoolctl import threadpool_limits

from skdebias import export
from skdebias._demo import DemoSettings, run_demo
from skdebias._demo._embed import ASSETS, embed, shipped_backbone
from skdebias._demo._methods import MIXES, TUNED, Rows, beta_grid, n_folds
from skdebias._demo._report import align
from skdebias.cli import main
from skdebias.datasets import load_coloured_digits
from skdebias.methods import beta_bounds


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks and heads lose time to a second thread when tests share cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


# The coloured digits.


def _counts(data, split):
    rows = data.split == split
    return pd.crosstab(data.target[rows], data.attributes[rows]).to_numpy()


@pytest.mark.parametrize("task", ["low_high", "parity", [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]])
@pytest.mark.parametrize("correlation", [0.95, 0.98])
def test_colour_predicts_the_class_in_training_only(task, correlation):
    data = load_coloured_digits(task=task, correlation=correlation, random_state=0)
    train = _counts(data, "train")
    shares = np.diag(train) / train.sum(1)
    assert shares == pytest.approx(correlation, abs=0.5 / train.sum(1).min())
    assert train.min() >= 1
    for split in ("val", "test"):
        counts = _counts(data, split)
        # Ten digits, each balanced up to one row per colour.
        assert (counts.max(1) - counts.min(1) <= 5).all()


def test_every_digit_is_in_every_part_in_the_same_share():
    data = load_coloured_digits(val_size=0.2, test_size=0.3, random_state=3)
    for digit in range(10):
        parts = data.split[data.digit == digit]
        assert np.mean(parts == "val") == pytest.approx(0.2, abs=0.01)
        assert np.mean(parts == "test") == pytest.approx(0.3, abs=0.01)


def test_images_are_the_real_digits_in_the_said_colour():
    data = load_coloured_digits(image_size=8, colour_jitter=0.0, random_state=0)
    grey = load_digits().images / 16
    red = data.attributes == data.attribute_names.index("red")
    expected = np.rint(grey[red][..., None] * [0.95, 0.15, 0.15] * 255)
    # Half a grey level may round either way in float32.
    assert np.abs(data.images[red] - expected).max() <= 1
    assert data.images.dtype == np.uint8


def test_multiclass_has_a_colour_per_class():
    data = load_coloured_digits(task="digit", random_state=0)
    assert data.target_names == [str(digit) for digit in range(10)]
    assert np.array_equal(data.target, data.digit)
    assert len(data.attribute_names) == 10
    assert np.unique(data.attributes).tolist() == list(range(10))


def test_the_seed_determines_everything():
    first, again, other = (load_coloured_digits(random_state=s) for s in (5, 5, 6))
    for name in ("images", "target", "attributes", "split"):
        assert np.array_equal(first[name], again[name])
    assert not np.array_equal(first.split, other.split)
    assert not np.array_equal(first.images, other.images)


def test_a_classifier_that_reads_the_colour_fails_on_test_rows():
    data = load_coloured_digits(image_size=8, random_state=0)
    X = data.images.reshape(len(data.images), -1) / 255
    train, test = data.split == "train", data.split == "test"
    plain = LogisticRegression(C=0.01, max_iter=500).fit(X[train], data.target[train])
    correct = plain.predict(X[test]) == data.target[test]
    agrees = data.target[test] == data.attributes[test]
    assert correct[agrees].mean() > 0.95
    assert correct[~agrees].mean() < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "colour"}, "task='colour' is unknown"),
        ({"task": [0, 1]}, "class of each of the ten digits"),
        ({"task": [0] * 9 + [2]}, "none left out"),
        ({"task": [0] * 10}, "has one class"),
        ({"correlation": 1.0}, "correlation=1.0 must lie in"),
        ({"correlation": 0.3}, "correlation=0.3 must lie in"),
        ({"val_size": 0.5, "test_size": 0.5}, "leave rows for training"),
        ({"test_size": 0}, "test_size=0 must be positive"),
        ({"image_size": 4}, "image_size=4 must be an integer of at least 8"),
    ],
)
def test_bad_arguments_of_the_digits_are_named(arguments, message):
    for word in [*arguments, message]:
        with pytest.raises(ValueError, match=word):
            load_coloured_digits(**arguments)


# The search.


def _biased_rows(n_other):
    y = np.repeat([0, 1], 200)
    attributes = y.copy()
    attributes[:n_other] = 1
    attributes[200 : 200 + n_other] = 0
    return Rows(np.zeros((400, 1)), y, attributes)


@pytest.mark.parametrize("c", MIXES)
@pytest.mark.parametrize("n_other", [1, 4, 60])
def test_beta_grid_reaches_beyond_resampling_and_stays_in_bounds(c, n_other):
    train = _biased_rows(n_other)
    parts = [np.arange(400), np.r_[0:150, 200:400], np.r_[n_other // 2 : 400]]
    betas = beta_grid(train, parts, c)
    assert betas == sorted(betas)
    assert min(np.abs(c * (1 + np.array(betas)) - 1)) < 1e-3
    assert c * (1 + betas[-1]) > 1.2
    for rows in parts:
        _, high = beta_bounds(train.y[rows], train.attributes[rows], c)
        assert betas[-1] <= high


@pytest.mark.parametrize(("n_other", "expected"), [(1, 2), (9, 3), (12, 4), (100, 5)])
def test_folds_keep_rows_of_the_smallest_group(n_other, expected):
    assert n_folds(_biased_rows(n_other)) == expected


def test_align_pads_columns():
    assert align([["", "b"], ["name", "10"]]) == ["          b", "  name   10"]


# The shipped backbone.


@pytest.fixture(scope="module")
def training_script():
    path = Path(__file__).parents[2] / "tools" / "train_demo_backbone.py"
    spec = importlib.util.spec_from_file_location("train_demo_backbone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shipped_backbone_knows_digits_and_colours(training_script):
    # A cheaper probe than that of assets/README.md, on the file that is shipped.
    shipped = shipped_backbone()
    name = shipped["backbone"].removeprefix("timm:")
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0).eval()
    size = shipped["preprocess"]["size"]
    images, digit, colour = training_script.probe_images(size, seed=1)

    def accuracy(labels):
        with torch.inference_mode():
            features = network(images).numpy()
        return cross_val_score(RidgeClassifier(10.0), features, labels, cv=3).mean()

    random_accuracy = accuracy(digit)
    network.load_state_dict(load_file(str(ASSETS / "demo_backbone.safetensors")))
    assert accuracy(digit) > max(0.93, random_accuracy + 0.05)
    assert accuracy(colour) > 0.99
    # And the file says what the README says.
    assert shipped["linear_probe"]["trained"]["digit_accuracy"] == 0.9727


def test_training_script_is_determined_by_its_seed(training_script):
    def weights(seed):
        torch.manual_seed(seed)
        args = argparse.Namespace(
            architecture="test_efficientnet",
            **{"size": 32, "steps": 4, "batch_size": 16, "lr": 4e-3, "seed": seed},
        )
        return training_script.train(args).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_script_writes_what_the_demo_reads(training_script, tmp_path):
    network = timm.create_model("test_efficientnet", num_classes=0)
    names = ["--out", str(tmp_path), "--steps", "7", "--batch-size", "3"]
    args = training_script.parse(names)
    training_script.write(network, args, {"trained": {}})
    written = json.loads((tmp_path / "demo_backbone.json").read_text())
    assert written.keys() == shipped_backbone().keys()
    assert "21 random drawings" in written["trained_on"]
    tensors = load_file(str(tmp_path / "demo_backbone.safetensors"))
    assert tensors.keys() == network.state_dict().keys()
    floats = [value for value in tensors.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}


# The command.


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The demo, cold and then warm: folder, both results and both outputs."""
    out = tmp_path_factory.mktemp("demo")
    runs = []
    for _ in range(2):
        lines = []
        settings = DemoSettings(out=out, cache_dir=out / "cache")
        results = run_demo(settings, lines.append)
        runs.append((results, "\n".join(lines)))
    return out, runs


def test_tuned_gerne_is_well_above_erm(two_runs):
    _, [(results, _), _] = two_runs
    scores = results["scores"]
    plain, tuned = scores["ERM"], scores[TUNED]
    assert plain["worst_group_accuracy"] < 0.5
    assert tuned["worst_group_accuracy"] > plain["worst_group_accuracy"] + 0.25
    # Not by chance of the test rows: the intervals of the two do not meet.
    assert tuned["worst_group_accuracy_low"] > plain["worst_group_accuracy_high"]


def test_second_run_takes_everything_from_the_cache(two_runs):
    _, [(cold, cold_text), (warm, warm_text)] = two_runs
    assert (cold["embeddings"]["n_found"], cold["embeddings"]["n_computed"]) == (
        0,
        1797,
    )
    assert (warm["embeddings"]["n_found"], warm["embeddings"]["n_computed"]) == (
        1797,
        0,
    )
    assert "0 found in the cache, 1797 computed" in cold_text
    assert "1797 found in the cache, 0 computed" in warm_text
    assert cold["scores"] == warm["scores"]


def test_the_output_says_which_backbone_it_is(two_runs):
    _, [(_, text), _] = two_runs
    words = " ".join(text.split())
    assert "timm:test_efficientnet" in words
    assert "tools/train_demo_backbone.py" in words
    assert "printed characters" in words


def test_files_of_the_demo(two_runs):
    out, [_, (results, text)] = two_runs
    assert json.loads((out / "results.json").read_text()) == results
    groups = pd.read_csv(out / "groups.csv")
    assert len(groups) == 4 * len(results["scores"])
    tuned = groups[groups["method"] == TUNED]
    assert tuned["n"].sum() == 450
    worst = results["scores"][TUNED]["worst_group_accuracy"]
    assert tuned["accuracy"].min() == pytest.approx(worst)
    with Image.open(out / "groups.png") as figure:
        assert min(figure.size) > 300
    for name in ("groups.csv", "groups.png", "gerne_head.safetensors", "results.json"):
        assert str(out / name) in text


def test_saved_head_predicts_what_the_table_says(two_runs):
    out, [_, (results, _)] = two_runs
    data = load_coloured_digits(random_state=0)
    settings = DemoSettings(out=out, cache_dir=out / "cache", quiet=True)
    X = embed(settings, data.images).X
    test = data.split == "test"
    head = export.load(out / "gerne_head.safetensors")
    y = np.array(data.target_names)[data.target[test]]
    accuracy = np.mean(head.predict(X[test]) == y)
    assert accuracy == pytest.approx(results["scores"][TUNED]["accuracy"])


def test_search_tried_the_grid_and_took_its_best(two_runs):
    _, [(results, _), _] = two_runs
    for search in results["searches"].values():
        scores = [trial["worst_group_accuracy"] for trial in search["candidates"]]
        assert search["best_score"] == max(scores)
        assert len({trial["head__c"] for trial in search["candidates"]}) == len(MIXES)
    assert results["searches"][TUNED]["n_splits"] == 4


# The user's own images.


@pytest.fixture
def own_images(tmp_path):
    """A folder of 160 real pictures with its metadata.csv; no validation rows."""
    data = load_coloured_digits(correlation=0.95, random_state=0)
    chosen = np.r_[
        np.flatnonzero((data.split == "train") & (data.target != data.attributes))[:20],
        np.flatnonzero((data.split == "train") & (data.target == data.attributes))[:80],
        np.flatnonzero(data.split == "test")[:60],
    ]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in chosen:
        Image.fromarray(data.images[row]).save(folder / f"{row}.png")
    table = pd.DataFrame(
        {
            "img_filename": [f"{row}.png" for row in chosen],
            "y": data.target[chosen],
            "place": data.attributes[chosen],
            "split": np.where(data.split[chosen] == "train", 0, 2),
        }
    )
    table.to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path, table


def _own_arguments(folder, *more):
    return [
        *("demo", "--quiet", "--images", str(folder / "pictures")),
        *("--metadata", str(folder / "metadata.csv"), "--out", str(folder / "out")),
        *("--cache-dir", str(folder / "cache"), *more),
    ]


def test_own_images_run_the_same_job(own_images, capsys):
    folder, _ = own_images
    assert main(_own_arguments(folder)) == 0
    text = capsys.readouterr().out
    assert TUNED in text
    assert "Accuracy on 60 test rows" in text
    assert "Embeddings" not in text  # --quiet
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["embeddings"]["shape"] == [160, 256]
    # Without validation rows there is no second search.
    assert list(results["searches"]) == [TUNED]


def test_own_images_through_a_named_network(own_images):
    folder, _ = own_images
    more = ("--backbone", "timm:test_resnet", "--no-pretrained")
    assert main(_own_arguments(folder, *more)) == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["embeddings"]["shape"] == [160, 96]
    assert "random weights" in results["backbone"]


def _rewrite(folder, table):
    table.to_csv(folder / "metadata.csv", index=False)


_BREAK = {
    "no attribute column": (
        lambda folder, table: _rewrite(folder, table.drop(columns="place")),
        ["no column 'place'", "--attribute-column NAME"],
    ),
    "a missing image": (
        lambda folder, table: (folder / "pictures" / table.img_filename[3]).unlink(),
        ["1 of 160 images are missing", "--images"],
    ),
    "a truncated image": (
        lambda folder, table: (folder / "pictures" / table.img_filename[3]).write_bytes(
            (folder / "pictures" / table.img_filename[4]).read_bytes()[:60]
        ),
        ["1 of 160 items cannot be read"],
    ),
    "no table": (
        lambda folder, table: (folder / "metadata.csv").unlink(),
        ["metadata.csv", "there is no file"],
    ),
    "no folder": (
        lambda folder, table: (folder / "pictures").rename(folder / "elsewhere"),
        ["there is no such folder"],
    ),
    "no test rows": (
        lambda folder, table: _rewrite(folder, table.assign(split=0)),
        ["no row has split 'test'"],
    ),
    "one attribute value": (
        lambda folder, table: _rewrite(folder, table.assign(place=1)),
        ["the same attribute, 1"],
    ),
    "an empty table": (
        lambda folder, table: (folder / "metadata.csv").write_text(""),
        ["metadata.csv"],
    ),
}


@pytest.mark.parametrize("name", _BREAK)
def test_own_data_that_cannot_be_used(own_images, capsys, name):
    folder, table = own_images
    damage, messages = _BREAK[name]
    damage(folder, table)
    assert main(_own_arguments(folder)) == 2
    error = capsys.readouterr().err
    assert error.startswith("skdebias demo: error: ")
    for message in messages:
        assert message in error
    assert not (folder / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--correlation", "1"], ["--correlation=1.0 must lie in"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--images", "."], ["--images and --metadata belong together"]),
        (["--no-pretrained"], ["--no-pretrained needs --backbone"]),
        (["--weights", "w.safetensors"], ["--weights needs --backbone"]),
        (["--backbone", "timm:resnet18", "--weights", "w"], ["there is no such file"]),
        (["--backbone", "timm:resnet5O"], ["resnet5O", "resnet50"]),
        (["--backbone", "resnet50"], ["resnet50"]),
    ],
)
def test_options_that_cannot_be_used(tmp_path, capsys, arguments, messages):
    code = main(["demo", "--quiet", "--out", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    for message in messages:
        assert message in error


def test_out_that_is_a_file(tmp_path, capsys):
    (tmp_path / "out").write_text("in the way")
    assert main(["demo", "--quiet", "--out", str(tmp_path / "out")]) == 2
    assert "the folder cannot be made" in capsys.readouterr().err


def test_cache_folder_follows_option_environment_then_out(tmp_path, monkeypatch):
    monkeypatch.delenv("EMBEDDINGS_CACHE", raising=False)
    assert DemoSettings(out=tmp_path).cache_folder == tmp_path / "cache"
    monkeypatch.setenv("EMBEDDINGS_CACHE", str(tmp_path / "mine"))
    assert DemoSettings(out=tmp_path).cache_folder == tmp_path / "mine"
    chosen = DemoSettings(out=tmp_path, cache_dir=tmp_path / "other")
    assert chosen.cache_folder == tmp_path / "other"


def test_missing_matplotlib_names_the_pip_command(tmp_path, capsys, monkeypatch):
    def without(name):
        return None if name == "matplotlib" else importlib.util.find_spec(name)

    monkeypatch.setattr("skdebias._demo._run.find_spec", without)
    assert main(["demo", "--quiet", "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'skdebias[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
