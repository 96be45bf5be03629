"""The benchmark of stacks of heads prints all its tables, on a set of a few rows."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
TINY = [
    *("--rows", "200", "--features", "8", "--epochs", "1", "--candidates", "1"),
    *("--repeats", "1", "--memory-heads", "50", "--folds", "2"),
]
TINY_GPU = ["--gpu-rows", "200", "--gpu-features", "8", "--gpu-epochs", "1"]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """What the script prints, with the CPU in place of a GPU and without skorch."""
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "skorch.py").write_text("raise ImportError")
    path = [str(hidden), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    device = ["--gpu-device", "cpu", "--gpu-seeds", "1"]
    run = subprocess.run(
        [sys.executable, FOLDER / "heads.py", *TINY, *TINY_GPU, *device],
        env=os.environ | given,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_table_is_printed(output):
    titles = re.findall(r"^## (\d)\. ", output, flags=re.MULTILINE)
    assert titles == list("12345")
    for section in output.split("\n## ")[1:]:
        assert "| target |" in section


def test_rows_have_the_cells_of_their_head(output):
    for block in re.findall(r"(?:^\|.*\n)+", output, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_all_fits_are_done_and_equal(output):
    assert output.count("| BatchedGridSearchCV, sgd | 600 |") == 2
    assert "| skorch |  | not installed |" in output
    equal = re.findall(r"^\| (.*?) \|.* \| equal \| yes \|$", output, re.MULTILINE)
    stock = "GridSearchCV(n_jobs=2)"
    assert equal == [f"{stock}, sgd", f"{stock}, lbfgs", "GERNEClassifier"]


@pytest.fixture(scope="module")
def common():
    spec = importlib.util.spec_from_file_location("_common", FOLDER / "_common.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "limits", "reached"),
    [
        (20, {"target": 20, "wrong": 12}, "yes"),
        (19.9, {"target": 20, "wrong": 12}, "**no**"),
        (11.9, {"target": 20, "wrong": 12}, "**no, something is wrong**"),
        (1024, {"target": 1024, "at_most": True}, "yes"),
        (1025, {"target": 1024, "at_most": True}, "**no**"),
        (np.nan, {"target": 0.6}, "not measurable"),
    ],
)
def test_targets_are_judged(common, value, limits, reached):
    assert common.judge(value, **limits)[1] == reached


def test_calls_are_timed_in_turn(common):
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "AB"}
    seconds, _ = common.rounds(3, runs, settle=lambda: order.append("."))
    assert "".join(order) == ".A..B..A..B..A..B."
    assert [len(values) for values in seconds.values()] == [3, 3]
