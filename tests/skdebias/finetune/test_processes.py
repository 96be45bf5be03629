"""Two processes train the network that one trains."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).with_name("process_model.py")


def _module():
    spec = importlib.util.spec_from_file_location("process_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _launch(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", str(port)),
        *(str(SCRIPT), str(folder / "checkpoints"), str(folder / "found")),
    ]
    # "multi_gpu" is several processes; this makes their devices CPUs.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unused parameters" not in done.stderr
    return [dict(np.load(folder / f"found-{rank}.npz")) for rank in (0, 1)]


def test_two_processes_train_what_one_does(tmp_path):
    together, other = _launch(tmp_path)
    for name, values in together.items():
        np.testing.assert_array_equal(other[name], values, err_msg=name)
    alone = _module().fit(None)
    assert together.keys() == alone.keys()
    for name, values in alone.items():
        if name == "unseeded":
            continue
        # Saliencies are normalised, and compared, row by row here: the mean over two
        # processes is that over all, but for a row that makes them equally long.
        tolerance = 1e-2 if name == "ule" else 1e-5
        np.testing.assert_allclose(together[name], values, atol=tolerance, err_msg=name)
    # One process reads what two have written, and has nothing left to do.
    again = _module().fit(tmp_path / "checkpoints")
    for name, values in again.items():
        np.testing.assert_allclose(values, together[name], atol=1e-6, err_msg=name)
