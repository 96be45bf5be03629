"""Everything that needs a GPU, in one call of at most eight minutes.

    make check-gpu                                # on a machine with CUDA
    make check-gpu GPU="--tiny --device cpu"      # anywhere, tests this script only

Each phase is a process of its own with a limit of seconds. What it has found is written
after every figure, so that it stays when a phase fails or is ended:

    machine   versions, and what the device reaches by itself
    tests     the tests marked gpu, on the real device
    engine    a step of 300 heads: time, launches, waits, the share that the GPU is busy
    grid      the grid of table 5 of heads.py
    extract   rows/s of `transform` against the bare forward pass
    finetune  a step of FineTuneClassifier against plain PyTorch

In the folder --out (default: $OUT, or gpu_check): results.json, log.txt, tests.txt,
profile.txt. The exit code is 1 if a phase failed.

Only PyTorch has to be installed, and no network is needed. Wheels of what else is
missing may lie in the folder .whl of the project's root, which git ignores. A machine
with a network fills it for the Python and the platform of the other one:

    pip download --only-binary=:all: --no-deps -d .whl --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 scikit-learn timm ...
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Seconds of each phase; their sum leaves a minute of eight for the start.
LIMITS = {
    "machine": 30,
    "tests": 100,
    "engine": 80,
    "grid": 80,
    "extract": 80,
    "finetune": 50,
}
_TINY_FACTOR = 10  # a CPU that is busy takes longer
_LEAST = 5


def parse(arguments=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="See the head of this file for phases and results.",
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="sizes that only test this script"
    )
    parser.add_argument("--phases", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument(
        "--budget", type=float, default=450, help="seconds of all phases together"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the grid")
    out = os.environ.get("OUT") or "gpu_check"
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def environment(scratch):
    """Return the environment of the phases: own caches, no network, wheels."""
    path = [str(ROOT)]
    wheels = sorted((ROOT / ".whl").glob("*.whl"))
    if wheels:
        site = str(Path(scratch) / "site")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--no-compile", "--target", site]
        subprocess.run([*command, *map(str, wheels)], check=True)
        path.insert(0, site)
    path += filter(None, [os.environ.get("PYTHONPATH")])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(Path(scratch) / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_phase(name, options, limit, given):
    """Run a phase as a process; return what it found."""
    kept = options.out / f".{name}.json"
    kept.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--phase", name, "--device", options.device]
    command += ["--seeds", str(options.seeds), "--out", str(options.out)]
    command += ["--tiny"] if options.tiny else []
    start, failed = time.monotonic(), None
    with (options.out / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"== {name}\n")
        log.flush()
        # A session of its own, so that what it starts can be ended with it.
        child = subprocess.Popen(
            command, stdout=log, stderr=log, env=given, start_new_session=True
        )
        try:
            if child.wait(timeout=limit):
                failed = f"exit code {child.returncode}: see log.txt"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            failed = f"ended after {limit:.0f} s"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    kept.unlink(missing_ok=True)
    found["seconds"] = round(time.monotonic() - start, 1)
    return found if failed is None else found | {"failed": failed}


def main():
    """Run the phases; return the exit code."""
    options = parse()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.phase:
        import _gpu_phases

        return _gpu_phases.run(options)
    (options.out / "log.txt").unlink(missing_ok=True)
    start, results = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as scratch:
        given = environment(scratch)
        for name in options.phases:
            factor = _TINY_FACTOR if options.tiny else 1
            left = options.budget * factor - (time.monotonic() - start)
            limit = min(LIMITS[name] * factor, left)
            if limit < _LEAST:
                results[name] = {"failed": "no time was left"}
            else:
                print(f"== {name}, at most {limit:.0f} s", flush=True)
                results[name] = run_phase(name, options, limit, given)
            for figure, value in results[name].items():
                print(f"  {figure}: {value}", flush=True)
            text = json.dumps(results, indent=1)
            (options.out / "results.json").write_text(text + "\n")
    print(f"results.json, log.txt and what else was found: {options.out}")
    return int(any("failed" in found for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
