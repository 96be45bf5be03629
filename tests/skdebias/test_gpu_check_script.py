"""The check of a GPU runs on a CPU at sizes that only test the script."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"
SCRIPT = FOLDER / "gpu_check.py"


@pytest.fixture
def module(monkeypatch):
    """Import a module of the folder of benchmarks."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def _run(tmp_path, *options):
    return subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--device", "cpu", *options],
        env=os.environ | {"OUT": str(tmp_path / "out"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_a_phase_of_its_own_process(tmp_path):
    done = _run(tmp_path, "--phases", "machine")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["machine"]["torch"]
    assert found["machine"]["product, TF32, TFLOP/s"] > 0
    assert "failed" not in found["machine"]
    assert (tmp_path / "out" / "log.txt").read_text().startswith("== machine")


def test_what_was_found_stays_when_a_phase_is_ended(tmp_path, module, monkeypatch):
    check = module("gpu_check")
    options = check.parse(["--tiny", "--device", "cpu", "--out", str(tmp_path)])
    note = tmp_path / ".slow.json"
    code = (
        f"import pathlib, time; pathlib.Path({str(note)!r}).write_text('{{\"a\": 1}}')"
    )
    slow = tmp_path / "slow.py"
    slow.write_text(f"{code}\ntime.sleep(600)\n")
    monkeypatch.setattr(check, "__file__", str(slow))
    while True:  # until it comes as far as its figure
        found = check.run_phase("slow", options, 2.0, dict(os.environ))
        assert found["failed"] == "ended after 2 s"
        if "a" in found:
            break


@pytest.mark.parametrize("phase", ["engine", "extract", "finetune"])
def test_every_phase(phase, module, tmp_path):
    for needed in ("timm", "accelerate"):
        pytest.importorskip(needed)
    phases = module("_gpu_phases")
    options = SimpleNamespace(
        phase=phase, tiny=True, device="cpu", seeds=1, out=tmp_path
    )
    assert phases.run(options) == 0
    found = json.loads((tmp_path / f".{phase}.json").read_text())
    assert len(found) >= 6
    assert not [name for name in found if "FAILED" in name]
