"""ULE on MNIST, and coloured MNIST with two engines: the scripts on made-up digits."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch

pytest.importorskip("accelerate")

SCRIPTS = Path(__file__).parents[1] / "examples" / "reproduce"


@pytest.fixture(scope="module")
def scripts():
    """Modules of the scripts, which import one another by plain names."""
    names = ("_runner", "cmnist", "finetune_cmnist", "ule_mnist")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def mnist():
    rng = np.random.default_rng(0)
    return Bunch(
        images=rng.integers(0, 256, (2120, 28, 28), dtype=np.uint8),
        target=np.arange(2120) % 10,
        split=np.repeat(["train", "test"], [2100, 20]),
    )


@pytest.mark.parametrize("name", ["ERM", "resampling", "GERNE"])
def test_two_engines_train_the_same_mlp(scripts, name):
    script = scripts["finetune_cmnist"]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8)).astype(np.float16)
    y, attributes = np.arange(300) % 10, rng.integers(0, 10, 300)
    head = script.estimator_of("2", name, seed=3).set_params(max_iter=3)
    network = script.as_network(head, 8, in_backbone=0)
    known = attributes if name in script.KNOWN else None
    logits = [clf.fit(X, y, known).decision_function(X) for clf in (head, network)]
    np.testing.assert_allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("in_backbone", [2, 3])
def test_the_backbone_has_layers_of_the_head(scripts, in_backbone):
    script = scripts["finetune_cmnist"]
    head = script.estimator_of("2", "GERNE unknown", seed=3)
    network = script.as_network(head, 8, in_backbone=in_backbone)
    reference = network.estimator.reference_estimator
    for clf in (network, reference):
        shapes = [tuple(p.shape) for p in clf.backbone.parameters() if p.ndim == 2]
        assert shapes == [(100, 8), (100, 100), (16, 100)][:in_backbone]
        assert clf.estimator.hidden_layer_sizes == (100, 100, 16)[in_backbone:]
        assert clf.random_state == 3
    assert network.learning_rate == head.learning_rate
    assert reference.learning_rate == head.reference_estimator.learning_rate
    assert reference.max_iter == head.reference_estimator.max_iter


def test_networks_are_scored_as_heads_are(scripts):
    script = scripts["finetune_cmnist"]
    rng = np.random.default_rng(0)
    y, attributes = np.arange(200) % 10, np.arange(200) // 10 % 10
    parts = {
        part: (rng.normal(size=(200, 8)).astype(np.float16), y, attributes)
        for part in ("train", "val", "test")
    }
    head = script.estimator_of("2", "GERNE", seed=3).set_params(max_iter=3)
    network = script.as_network(head, 8, in_backbone=0)
    found = [script.score(clf, parts, known=True) for clf in (head, network)]
    assert found[0] == pytest.approx(found[1])


def arguments_of(tmp_path, **changes):
    given = {"rows": 40, "epochs": 1, "seeds": [0], "precision": "float32"}
    return Namespace(**given | {"checkpoints": tmp_path, **changes})


def test_parts_differ_in_their_cue_alone(scripts, mnist):
    script = scripts["ule_mnist"]
    parts = script.load("MNIST-SC", 40, 0, mnist)
    assert len(parts["train"][1]) == 40
    for part, share in (("train", 1), ("test same", 1), ("test wrong cue", 0)):
        images, target = parts[part]
        assert images.shape[1:] == (1, 28, 28)
        code = images[:, 0, 0, :10]
        assert (code.sum(1) == 1).all()
        assert np.mean(code.argmax(1) == target) == share
    np.testing.assert_array_equal(
        parts["test same"][0][:, :, 1:], parts["test no cue"][0][:, :, 1:]
    )
    images, _ = script.load("coloured", 40, 0, mnist)["test no cue"]
    assert images.shape[1:] == (3, 28, 28)
    np.testing.assert_array_equal(images[:, 0], images[:, 2])
    np.testing.assert_array_equal(images[:, :1], parts["test no cue"][0])


def test_held_out_digits_are_no_training_digits(scripts, mnist):
    parts = scripts["ule_mnist"].load("MNIST", 100, 1, mnist)
    seen = {image.tobytes() for image in parts["train"][0]}
    assert len(seen) == 100
    assert not seen & {image.tobytes() for image in parts["val same"][0]}


def test_a_run_is_scored_and_drawn(scripts, mnist, tmp_path):
    script, runner = scripts["ule_mnist"], scripts["_runner"]
    arguments = arguments_of(
        tmp_path, epochs=3, sets=["MNIST-SC"], figure=tmp_path / "out.png"
    )
    dataset = script.key("MNIST-SC", arguments)
    tasks = [runner.Task(dataset, "ULE", script.CHOSEN["MNIST-SC"], 0)]
    parts = {
        name: (images[:40], target[:40])
        for name, (images, target) in script.load("MNIST-SC", 40, 0, mnist).items()
    }
    clf = script.classifier(tasks[0], 1, arguments)
    found = script.scores(clf, parts)
    assert {part for _, part in found} == {
        "val same", "val independent", "test same", "test no cue", "test wrong cue",
    }  # fmt: skip
    script.draw(tasks, mnist, arguments)
    assert arguments.figure.stat().st_size > 1000


def test_the_setting_is_chosen_as_the_table_says(scripts):
    script = scripts["ule_mnist"]
    metrics = ("val independent", "test no cue", "test same", "val same")
    values = {
        "L2 lam=0.3": (0.5, 0.6, 0.91, 0.91),
        "max lam=0.1": (0.7, 0.5, 0.92, 0.92),
        "max lam=0.3": (0.6, 0.8, 0.93, 0.93),
    }
    rows = pd.DataFrame(
        [
            ("MNIST-SC, 9 digits", "ULE", setting, 0, "last", metric, value, 1.0)
            for setting, own in values.items()
            for metric, value in zip(metrics, own)
        ],
        columns=scripts["_runner"].COLUMNS,
    )
    lines = script.table(rows, ", 9 digits").splitlines()[2:]
    by_name = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    assert "91.0 | 60.0" in by_name["ULE, L2 lam=0.3"]
    found = by_name["ULE, best on validation"]
    assert "92.0 (max lam=0.1) | 50.0 (max lam=0.1)" in found
    found = by_name["ULE, best on test"]
    assert "93.0 (max lam=0.3) | 80.0 (max lam=0.3)" in found
    assert "| ULE, paper | 97 | 95 | 95 |" in lines[-1]
    one = rows[rows["setting"] == "L2 lam=0.3"]
    assert "| ULE |  | 91.0 | 60.0 |" in script.table(one, ", 9 digits")
