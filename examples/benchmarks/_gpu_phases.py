"""The phases of gpu_check.py."""

import importlib.metadata
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import _gpu_extraction
import _gpu_networks
import numpy as np
import torch
from _gpu_notes import Notes, seconds_of

from skdebias import GERNEClassifier
from skdebias._engine._features import Features
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.methods import GERNE, beta_bounds

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "scikit-learn", "numpy", "scipy", "pandas", "pillow", "timm")
_PACKAGES += ("torchvision", "transformers", "sentence-transformers", "accelerate")
_BATCH = 256


def run(options):
    """Run the phase that the options name; return the exit code."""
    warnings.simplefilter("ignore")
    notes = Notes(options.out / f".{options.phase}.json")
    PHASES[options.phase](options, notes)
    return int(notes.failed)


def machine(options, notes):
    """Note versions, and the rates of the device's own products and copies."""
    notes.add("python", sys.version.split()[0])
    for name in _PACKAGES:
        try:
            notes.add(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            notes.add(name, "missing")
    device = torch.device(options.device)
    if device.type == "cuda":
        notes.add("device", torch.cuda.get_device_name(device))
    n, side = (1 << 16, 64) if options.tiny else (1 << 28, 8192)
    source = torch.rand(n, device=device)
    seconds = seconds_of(partial(torch.empty_like(source).copy_, source), device, 5)
    notes.add("copy, GB/s read and written", 8 * n / seconds / 1e9)
    square = torch.randn(side, side, device=device)
    for label, matrix, precision in (
        ("float32", square, "highest"),
        ("TF32", square, "high"),
        ("bfloat16", square.bfloat16(), "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        seconds = seconds_of(lambda m=matrix: m @ m, device, 5)
        notes.add(f"product, {label}, TFLOP/s", 2 * side**3 / seconds / 1e12)


def tests(options, notes):
    """Run the tests marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short", "-ra"]
    command += ["-p", "no:cacheprovider"]
    command += ["--collect-only"] if options.tiny else []
    # The others may need what is not installed here.
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    command += [str(file) for file in files if "mark.gpu" in file.read_text()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    (options.out / "tests.txt").write_text(done.stdout + done.stderr)
    lines = done.stdout.strip().splitlines()
    notes.add("tests marked gpu", lines[-1] if lines else "no output")
    if done.returncode:
        notes.fail("tests", f"exit code {done.returncode}: see tests.txt")


def usable(device, notes):
    """Return a device on which a fit works, and note those on which none does."""
    X = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    y, a = np.arange(64) % 2, np.arange(64) % 4 // 2
    for name in dict.fromkeys((device, "cuda:0" if device == "cuda" else device)):
        try:
            GERNEClassifier(device=name, max_iter=1).fit(X, y, a)
        except Exception as error:
            notes.fail(f"a fit with device={name!r}", error)
        else:
            return torch.device(name)
    raise SystemExit(1)


class Steps:
    """Trainings of 300 heads of GERNE on rows that lie on the device."""

    def __init__(self, options, device):
        n_rows, n_features = (2048, 16) if options.tiny else (200_000, 2048)
        self.per_epoch = 4 if options.tiny else 120
        rng, self.device = np.random.default_rng(0), device
        self.y = np.arange(n_rows) % 2
        attributes = np.where(rng.random(n_rows) < 0.95, self.y, 1 - self.y)
        X = torch.empty(n_rows, n_features, dtype=torch.float16, device=device)
        for part in X.split(16384):
            part.copy_(torch.randn(part.shape, device=device))
        self.X = X
        repeats = 1 if options.tiny else 12
        self.methods = [
            GERNE(beta=float(np.clip(beta, *beta_bounds(self.y, attributes, c))), c=c)
            for c in (0.2, 0.4, 0.6, 0.8, 1.0)
            for beta in (-0.5, 0.0, 0.5, 1.0, 1.5)
            for _ in range(repeats)
        ]
        self.rows = np.arange(min(n_rows, self.per_epoch * _BATCH))
        part = self.y[self.rows], attributes[self.rows]
        self.groups = Groups.from_labels(*part, 2, 2)

    def training(self, n_streams, solver="sgd", epochs=4):
        """Return a training of some streams side by side."""
        n_heads = len(self.methods) * n_streams
        rate, decay, momentum = (np.full(n_heads, v) for v in (1e-3, 1e-3, 0.9))
        settings = OptimizerConfig(solver, rate, decay, momentum, _BATCH, epochs)
        problems = [
            Problem(self.methods, self.groups, seed, self.rows)
            for seed in range(n_streams)
        ]
        features = Features(self.X, self.device)
        return Training(features, self.y, 2, problems, settings)

    def seconds(self, n_streams, solver="sgd"):
        """Seconds of a step, after an epoch of warming up."""
        training = self.training(n_streams, solver)
        training.run(1)
        seconds = seconds_of(lambda: training.run(4), self.device, 1, warm=False)
        return seconds / (3 * -(-len(self.rows) // _BATCH))


def engine(options, notes):
    """Note times of a step, and what the profiler sees in it."""
    steps = Steps(options, usable(options.device, notes))
    n_heads, n_features = len(steps.methods), steps.X.shape[1]
    notes.add("heads of a stream", n_heads)
    for n_streams in (1, 2) if options.tiny else (1, 5, 15):
        label = f"step of {n_streams} streams"
        with notes.tolerant(label):
            seconds = steps.seconds(n_streams)
            notes.add(f"{label}, us", 1e6 * seconds)
            rate = 4.0 * _BATCH * n_features * n_heads * n_streams / seconds / 1e12
            notes.add(f"{label}, TFLOP/s", rate)
    with notes.tolerant("step of AdamW"):
        notes.add("step of AdamW, us", 1e6 * steps.seconds(1, "adamw"))
    if steps.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(steps.device) / 2**30
        notes.add("peak memory, GiB", peak)
    with notes.tolerant("profile"):
        _profile(steps, options, notes)


def _profile(steps, options, notes):
    from torch.profiler import ProfilerActivity, profile

    cuda = steps.device.type == "cuda"
    training = steps.training(1)
    training.run(1)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=kinds) as seen:
        start = time.perf_counter()
        training.run(2)
        if cuda:
            torch.cuda.synchronize()
        wall = time.perf_counter() - start
    events = seen.key_averages()
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    (options.out / "profile.txt").write_text(events.table(sort_by=order, row_limit=40))
    n_steps = -(-len(steps.rows) // _BATCH)
    for label, names in {
        "launches": ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel"),
        "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize"),
        "copies": ("cudaMemcpyAsync",),
    }.items():
        count = sum(event.count for event in events if event.key in names)
        notes.add(f"{label} per step", count / n_steps)
    busy = sum(
        event.time_range.elapsed_us()
        for event in seen.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    notes.add("share of the time that the GPU is busy, profiled", busy / 1e6 / wall)


def grid(options, notes):
    """Run table 5 of the benchmark of heads."""
    device = str(usable(options.device, notes))
    command = [sys.executable, "examples/benchmarks/heads.py", "--tables", "5"]
    command += ["--repeats", "1", "--rows", "200", "--features", "8"]
    command += ["--gpu-device", device]
    tiny = "--gpu-rows 400 --gpu-features 8 --gpu-epochs 1 --folds 2 --gpu-seeds 1"
    sizes = f"{tiny} --candidates 1" if options.tiny else f"--gpu-seeds {options.seeds}"
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *sizes.split()], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout, done.stderr, flush=True)
    notes.add("seconds of the script", time.perf_counter() - start)
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    notes.add("table", lines)
    if done.returncode:
        notes.fail("heads.py", f"exit code {done.returncode}: see log.txt")


PHASES = {
    "machine": machine,
    "tests": tests,
    "engine": engine,
    "grid": grid,
    "extract": _gpu_extraction.measure,
    "finetune": _gpu_networks.measure,
}
