"""Callers that could get the rows of another: threads, contexts, changed networks.

Each scenario asks for rows in a way that must not matter, or that must be told apart,
from a cache that others fill too, and compares them with those of a fresh cache. They
return how often they did what.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import described
import numpy as np
import torch
from fault_runs import require
from hostile_contexts import CONTEXTS, state_of_process
from sklearn.base import clone
from torch import nn

from embeddings_cache import EmbeddingExtractor, UndescribableError

# Of these either nothing can be nested, or a warning ends the run as it should.
_NOT_NESTED = ("warnings are errors", "transform of functions", "anomaly")


class Stateful(nn.Module):
    """Statistics, chance and activations, all of which threads could disturb."""

    cache_description = "stateful network of the scenarios, 1"

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(192, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = self.norm(self.linear(x.flatten(1)))
        return self.drop(self.kept)


def to_tensor(image: object) -> torch.Tensor:
    """Scale to [0, 1]."""
    array = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


to_tensor.cache_description = "[0, 1]"  # type: ignore[attr-defined]


def _extractor(network: nn.Module, folder: Path, **changes: object):
    settings = {"preprocess": to_tensor, "storage_dtype": "float32", "num_workers": 0,
                "device": "cpu", "progress": False, "cache_dir": folder}  # fmt: skip
    return EmbeddingExtractor(network, **{**settings, **changes})


def _images(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def threads(folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Let threads share extractors or networks; return how many there were."""
    counts: Counter[str] = Counter()
    for number in range(n):
        network = Stateful()
        before = {name: t.clone() for name, t in network.state_dict().items()}
        size = rng.randint(1, 4)
        shared = _extractor(network, folder / f"{number}", batch_size=size)
        n_threads = rng.randint(2, 6)
        parts = [_images(rng.randint(1, 30), rng.getrandbits(32))
                 for _ in range(n_threads)]  # fmt: skip
        made = [shared if rng.random() < 0.5 else clone(shared) for _ in parts]
        ready = threading.Barrier(n_threads)

        def run(task: tuple, ready: threading.Barrier = ready) -> np.ndarray:
            ready.wait()
            return task[0].transform(task[1])

        with ThreadPoolExecutor(n_threads) as pool:
            found = list(pool.map(run, zip(made, parts, strict=True)))
        later = _extractor(Stateful(), folder / f"{number}", batch_size=size)
        for place, (rows, part) in enumerate(zip(found, parts, strict=True)):
            fresh = _extractor(
                Stateful(), folder / f"{number}-{place}", batch_size=size
            )
            right = fresh.transform(part)
            require(np.array_equal(rows, right), "a thread got other rows than alone")
            stored = later.transform(part)
            require(np.array_equal(stored, right), "a thread stored other rows")
        moved = [
            k for k, t in network.state_dict().items() if not torch.equal(t, before[k])
        ]
        require(not moved, f"threads moved {moved}")
        require(network.training, "threads changed a training flag")
        counts["threads"] += n_threads
    return counts


def contexts(folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Ask for rows in every context of a caller, and in several of them at once."""
    part = _images(6, 0)
    right = _extractor(Stateful(), folder / "fresh").transform(part)
    names = [name for name in CONTEXTS if name not in _NOT_NESTED]
    cases = [[name] for name in CONTEXTS]
    cases += [rng.sample(names, rng.randint(2, 5)) for _ in range(n)]
    for number, case in enumerate(cases):
        extractor = _extractor(Stateful(), folder / f"{number}")
        with ExitStack() as stack:
            for name in case:
                stack.enter_context(CONTEXTS[name]())
            before = state_of_process()
            rows = extractor.transform(part)
            require(state_of_process() == before, f"{case} was not given back")
        require(np.array_equal(rows, right), f"{case} reached the rows")
        stored = _extractor(Stateful(), folder / f"{number}").transform(part)
        require(np.array_equal(stored, right), f"{case} reached what is stored")
    return Counter({"contexts": len(cases)})


def keys(folder: Path, n: int, rng: random.Random) -> Counter[str]:
    """Change one thing of a network or of its preprocessing, in one cache for all."""
    cases = [*_networks(), *_transforms()]
    counts: Counter[str] = Counter()
    part = _images(3, 0)
    for number in range(n):
        for place, (make, changes) in enumerate(rng.sample(cases, len(cases))):
            try:
                fresh = _extractor(make(), folder / f"{number}-{place}", **changes())
                right = fresh.transform(part)
            except UndescribableError:
                counts["changes refused"] += 1
                continue
            except (RuntimeError, ValueError, TypeError, AttributeError):
                continue  # a network that takes no images
            shared = _extractor(make(), folder / f"{number}", **changes())
            rows = shared.transform(part)
            require(np.array_equal(rows, right), f"rows of another than {make()}")
            counts["changes told apart"] += 1
    return counts


_Case = tuple[Callable[[], nn.Module], Callable[[], dict]]


def _networks() -> list[_Case]:
    made = [(make, dict) for make in described.NETWORKS.values()]
    return made + [
        (lambda value=value: described.Net(factor=value), dict)
        for value in (1.0, 2, 3.5, np.float32(0.1), torch.tensor(7.0), True)
    ]


def _transforms() -> list[_Case]:
    from torchvision import transforms as t

    tensor = t.ToTensor()
    norms = [t.Normalize((m,) * 3, (s,) * 3) for m in (0, 0.5) for s in (0.5, 1.0)]
    flips = [t.RandomHorizontalFlip(), t.ColorJitter(0.5), t.GaussianBlur(3)]
    resizes = [t.Resize(size) for size in (4, 8, 12)]
    turned = [t.Lambda(lambda x: -x), t.Grayscale(3), t.Pad(1), t.CenterCrop(6)]
    found = [t.Compose([tensor, norm]) for norm in norms]
    found += [t.Compose([other, tensor]) for other in [*flips, *resizes, *turned]]
    return [(described.Net, lambda found=one: {"preprocess": found}) for one in found]
