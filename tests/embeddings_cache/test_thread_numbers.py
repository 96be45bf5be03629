"""How many threads torch has says nothing about an embedding."""

import os
import subprocess
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from embeddings_cache import EmbeddingExtractor
from embeddings_cache._parallel import usual_threads
from embeddings_cache._thread_limits import in_new_thread, own_threads

NUMBERS = (1, 2, 3, 8)


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    usual_threads.cache_clear()


class Wide(nn.Module):
    """Long sums, whose last bits follow the threads that share them."""

    cache_description = "wide, 1"

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3 * 64 * 64, 256, generator=generator)
        self.weight = nn.Parameter(weight / 100)

    def forward(self, x):
        x = x.flatten(1) @ self.weight
        return torch.tanh(x) @ (self.weight.T @ self.weight / 100)


class Sums:
    """A step of the preprocessing that is a product."""

    cache_description = "sums, 1"

    def __call__(self, image):
        x = torch.from_numpy(np.asarray(image, np.float32) / 255)
        x = x.permute(2, 0, 1)
        return torch.tanh(x @ x.transpose(1, 2) @ x / 100)


BACKBONES = {
    "convolutions": ("timm:test_resnet.r160_in1k", {"preprocess": {"size": 64}}),
    "attention": ("timm:test_vit.r160_in1k", {}),
    "own": (Wide(), {"preprocess": {"size": 64}}),
    "own preprocessing": (Wide(), {"preprocess": Sums()}),
    "lower precision": (
        "timm:test_vit.r160_in1k",
        {"precision": "bfloat16"},
    ),
}


def rows(folder, name, **changes):
    backbone, settings = BACKBONES[name]
    images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    if isinstance(backbone, str):
        pytest.importorskip("timm")
        settings = {**settings, "pretrained": False}
    extractor = EmbeddingExtractor(
        backbone,
        cache_dir=folder,
        progress=False,
        storage_dtype="float32",
        **{"num_workers": 0, **settings, **changes},
    )
    found = extractor.transform(images)
    assert extractor.last_run_.n_computed == len(images)
    return np.array(found)


@pytest.mark.parametrize("name", BACKBONES)
def test_rows_are_the_same_on_any_number_of_threads(name, tmp_path):
    expected = rows(tmp_path / "expected", name)
    for number in NUMBERS:
        torch.set_num_threads(number)
        np.testing.assert_array_equal(rows(tmp_path / str(number), name), expected)
        assert torch.get_num_threads() == number
        limited = tmp_path / f"limited {number}"
        with threadpool_limits(number):
            np.testing.assert_array_equal(rows(limited, name), expected)
        readers = rows(tmp_path / f"readers {number}", name, num_workers=2)
        np.testing.assert_array_equal(readers, expected)


class Counting(nn.Module):
    """Notes how many threads torch has in each of its passes."""

    cache_description = "counting, 1"
    seen: ClassVar[list[int]] = []

    def forward(self, x):
        Counting.seen.append(torch.get_num_threads())
        return x.flatten(1)[:, :4]


class CountingSteps(Sums):
    """Notes how many threads torch has for each image."""

    cache_description = "counting steps, 1"
    seen: ClassVar[list[int]] = []

    def __call__(self, image):
        CountingSteps.seen.append(torch.get_num_threads())
        return super().__call__(image)


@pytest.mark.parametrize("readers", [0, 2])
def test_passes_and_steps_have_their_number_of_threads(readers, tmp_path, monkeypatch):
    """On every processor, also where no sum follows the threads."""
    monkeypatch.setitem(
        BACKBONES, "counting", (Counting(), {"preprocess": CountingSteps()})
    )
    for number in (1, 2, 5):
        environment = {"OMP_NUM_THREADS": str(number)}
        monkeypatch.setattr("embeddings_cache._parallel._ENVIRONMENT", environment)
        usual_threads.cache_clear()
        for threads in (1, 3):
            torch.set_num_threads(threads)
            Counting.seen.clear()
            CountingSteps.seen.clear()
            rows(tmp_path / f"{number} {threads}", "counting", num_workers=readers)
            assert set(Counting.seen) == {number}
            assert set(CountingSteps.seen) == {1}
            assert torch.get_num_threads() == threads


def test_sums_follow_the_threads_that_passes_are_given(tmp_path, monkeypatch):
    """Otherwise equal rows say nothing about the threads, on this processor."""
    found = []
    for number in NUMBERS:
        monkeypatch.setattr(
            "embeddings_cache.compute._embedder.usual_threads",
            lambda number=number: number,
        )
        found.append(rows(tmp_path / str(number), "own"))
    if all(np.array_equal(found[0], other) for other in found[1:]):
        pytest.skip("on this processor no sum of the test follows the threads")


def test_random_weights_are_the_same_on_any_number_of_threads(tmp_path):
    """Some libraries draw orthogonal matrices, by a decomposition."""
    from embeddings_cache.backbones._base import BackboneSpec
    from embeddings_cache.backbones._building import construct

    def build():
        layer = nn.Linear(700, 700)
        nn.init.orthogonal_(layer.weight)
        return layer

    found = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        spec = BackboneSpec("timm", "made here", pretrained=False)
        found.append(construct(spec, build).weight.detach())
    assert all(torch.equal(found[0], weight) for weight in found[1:])


def test_threads_are_set_for_the_calling_thread_only():
    torch.set_num_threads(2)
    before = threadpool_info()
    seen = []
    with own_threads(5):
        assert torch.get_num_threads() == 5
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        with own_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 5
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 2
    assert seen == [2]
    assert threadpool_info() == before


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"MKL_NUM_THREADS": "5"}, 5),
        ({"LOCAL_WORLD_SIZE": "1000"}, 1),
        ({"OMP_NUM_THREADS": "many", "LOCAL_WORLD_SIZE": "1000"}, 1),
    ],
)
def test_the_environment_of_the_process_says_how_many(variables, expected):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE")
    rest = {k: v for k, v in os.environ.items() if k not in names}
    code = (
        "import os; from embeddings_cache._parallel import usual_threads;"
        "os.environ['OMP_NUM_THREADS'] = '7'; print(usual_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**rest, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == expected


def test_without_a_word_as_many_as_there_are_cores(monkeypatch):
    monkeypatch.setattr("embeddings_cache._parallel._ENVIRONMENT", {})
    usual_threads.cache_clear()
    try:
        assert 1 <= usual_threads() <= (os.cpu_count() or 1)
    finally:
        usual_threads.cache_clear()
