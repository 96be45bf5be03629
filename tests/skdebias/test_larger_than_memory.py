"""Memory maps that do not fit: fits and searches must not copy X."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

# The file is twice what a process may allocate beyond what small fits have taken.
ROWS, FEATURES = 120_000, 1024
LIMIT_MB = 120
# What is freed is given back, as it is with blocks of the usual size.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
SCRIPT = """
import json, re, resource, sys, tempfile, threading, warnings
threading.stack_size(1 << 18)  # stacks count, and there are readers
import numpy as np
import torch
torch.set_num_threads(2)
warnings.simplefilter("ignore")
import skdebias
from skdebias import _head, _mapped
from skdebias._engine import _expected_risk, _features
from skdebias.attributes import _rows
from skdebias.model_selection import BatchedGridSearchCV, _stack_limits

path, setting = sys.argv[1], json.loads(sys.argv[2])
tempfile.tempdir = sys.argv[3]
X = np.load(path, mmap_mode="r")
rng = np.random.default_rng(0)
y = rng.integers(0, 2, len(X))
a = np.where(rng.random(len(X)) < 0.9, y, 1 - y)
# Blocks as much smaller than usual as the file is smaller than what is meant.
_mapped._MEMORY_BYTES = _stack_limits._STACK_BYTES = 1 << 25
_expected_risk._COPIED_BYTES = 1 << 25
_features._CHUNK_ROWS = _stack_limits._SCORED_ROWS = 1 << 10
_rows._BLOCK_ENTRIES = _head._PREDICT_VALUES = 1 << 20
_features._STREAMED_BYTES = 0
_features._AHEAD_BYTES = _mapped._BLOCK_BYTES = 1 << 23

def run(rows):
    model = getattr(skdebias, setting["name"])(random_state=0, **setting["parameters"])
    if setting["grid"]:
        model = BatchedGridSearchCV(model, setting["grid"], cv=2, refit=False)
    model.fit(X[:rows], y[:rows], attributes=a[:rows])

run(4000)
status = open("/proc/self/status").read()
data = 1024 * int(re.search(r"VmData:\\s+(\\d+)", status)[1])
limit = data + setting["limit"] * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if setting["copy"]:
    np.array(X)
run(len(X))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "X.npy"
    shape = (ROWS, FEATURES)
    X = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    block = np.random.default_rng(0).standard_normal((5000, FEATURES))
    for start in range(0, ROWS, 5000):
        X[start : start + 5000] = block
    X.flush()
    return path


def _run(file, tmp_path, name, parameters, grid=None, copy=False):
    setting = {"name": name, "parameters": parameters, "grid": grid, "copy": copy}
    return subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(SCRIPT),
            str(file),
            json.dumps(setting | {"limit": LIMIT_MB}),
            str(tmp_path),
        ],
        env=os.environ | ALLOCATOR,
        capture_output=True,
        text=True,
        check=False,
    )


ONE = {"max_iter": 1}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits the memory the way Linux counts it"
)


def test_the_limit_would_notice_a_copy(file, tmp_path):
    failed = _run(file, tmp_path, "ERMClassifier", ONE, copy=True)
    assert "MemoryError" in failed.stderr


@pytest.mark.parametrize(
    ("name", "parameters", "grid"),
    [
        ("GERNEClassifier", ONE, None),
        ("GERNEClassifier", {"solver": "lbfgs", "max_iter": 2}, None),
        ("GroupDROClassifier", ONE, None),
        ("LfFClassifier", ONE, None),
        ("ULEClassifier", ONE, None),
        ("JTTClassifier", ONE | {"warmup_epochs": 1}, None),
        ("AFRClassifier", ONE, None),
        ("GERNEClassifier", ONE, {"beta": [0.0, 1.0]}),
        ("JTTClassifier", ONE | {"warmup_epochs": 1}, {"upweight": [5, 10]}),
        ("GERNEClassifier", {"solver": "lbfgs", "max_iter": 2}, {"c": [0.5, 1.0]}),
    ],
)
def test_fits_and_searches_do_not_copy(file, tmp_path, name, parameters, grid):
    done = _run(file, tmp_path, name, parameters, grid)
    assert done.returncode == 0, done.stderr[-2000:]
