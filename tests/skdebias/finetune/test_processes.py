"""Two processes train the network that one trains."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skdebias.finetune._accelerate import make_accelerator

SCRIPT = Path(__file__).with_name("process_model.py")
# Units of weights that are gathered together: each layer, and what is left of it all.
SHARDED = (
    *("--use_fsdp", "--fsdp_version", "2"),
    *("--fsdp_auto_wrap_policy", "SIZE_BASED_WRAP", "--fsdp_min_num_params", "100"),
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("process_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # The code of its classes is looked up there.
    sys.modules["process_model"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["process_model"]


@pytest.fixture(scope="module")
def alone(script):
    return script.fit(None)


def _launch(folder, options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *(*options, "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", str(port)),
        *(str(SCRIPT), str(folder / "checkpoints"), str(folder / "found")),
    ]
    # The options are for GPUs; these make the processes' devices CPUs.
    devices = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **devices, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unused parameters" not in done.stderr
    return [dict(np.load(folder / f"found-{rank}.npz")) for rank in (0, 1)]


@pytest.mark.parametrize(
    "options", [("--multi_gpu",), SHARDED], ids=["replicated", "sharded"]
)
def test_two_processes_train_what_one_does(options, script, alone, tmp_path):
    together, other = _launch(tmp_path, options)
    for name, values in together.items():
        np.testing.assert_array_equal(other[name], values, err_msg=name)
    assert together["sharded"] == (options is SHARDED)
    # Autocast of float32 weights, in shards too.
    assert together["formats"].tolist() == ["torch.float32", "torch.bfloat16"]

    def check(found, tolerance, but=()):
        for name, values in found.items():
            if name in but:
                continue
            # Saliencies are normalised, and compared, row by row here: the mean over
            # processes, which have as many rows, is that over all rows.
            limit = 10 * tolerance if name.startswith("ule") else tolerance
            np.testing.assert_allclose(together[name], values, atol=limit, err_msg=name)

    check(alone, 1e-5, but=["unseeded"])
    for name in alone.keys() - {"unseeded"}:
        np.testing.assert_allclose(
            together[f"{name}, resumed"], together[name], atol=1e-6, err_msg=name
        )
    # One process reads what two have written, and has nothing left to do; but that a
    # run without a seed is another one each time.
    runs = sorted((tmp_path / "checkpoints").iterdir())
    again = script.fit(tmp_path / "checkpoints")
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(runs) + 1
    check(again, 1e-6, but=["unseeded"])
    assert not np.allclose(again["unseeded"], together["unseeded"])
    # What was interrupted was gone on with, and is not there twice.
    assert len(list((tmp_path / "checkpoints, again").iterdir())) == len(runs)
    # Or finishes it, of an interrupted run without a seed too.
    (unfinished,) = (tmp_path / "checkpoints, interrupted").glob("*/.run-open")
    check(script.fit(unfinished.parent.parent), 1e-5, but=["unseeded"])
    assert list(unfinished.parent.glob("done-*"))
    half = script.fit(None, ["reweighted"], "bfloat16")["reweighted"]
    np.testing.assert_allclose(together["bfloat16"], half, atol=0.02)


def test_first_version_of_fsdp_is_refused(monkeypatch):
    from accelerate.utils import DistributedType

    # What Accelerate makes of --use_fsdp on GPUs.
    made = SimpleNamespace(
        device=torch.device("cpu"),
        distributed_type=DistributedType.FSDP,
        is_fsdp2=False,
    )
    monkeypatch.setattr("accelerate.Accelerator", lambda **_: made)
    with pytest.raises(ValueError, match="--fsdp_version 2"):
        make_accelerator("cpu", "float32")
