"""The command with a slow stub backbone and small shards, for tests that kill it.

Run as a script, also under torchrun. After ``STUB_MOST`` texts a process waits for
ever; every process writes its number to ``<STUB_PIDS>/<rank>``.
"""

import os
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from embeddings_cache import cli
from embeddings_cache.backbones import _registry
from embeddings_cache.backbones._base import Backbone
from embeddings_cache.compute import _runner

SHARD_ROWS = 2
N_FEATURES = 4


class Stub(nn.Module):
    """Whole numbers that depend on nothing but the text."""

    n_texts = 0

    def forward(self, texts):
        self.n_texts += len(texts)
        while self.n_texts > int(os.environ.get("STUB_MOST", 10**9)):
            time.sleep(0.05)
        rows = [[number_of(text, j) for j in range(N_FEATURES)] for text in texts]
        return torch.tensor(rows, dtype=torch.float32)


def number_of(text, place):
    """Return a number that float16 holds exactly."""
    return sum((place + i + 1) * ord(c) for i, c in enumerate(text)) % 1000


def build(spec):
    network = Stub()
    return Backbone(
        network=network,
        modality="text",
        prepare=str,
        collate=list,
        forward=network,
        description=spec.describe(libraries={}, weights={}, preprocess={}),
    )


def install(patch):
    """Make "stub:<name>" a backbone, and shards hold two rows."""
    module = types.ModuleType("embeddings_cache.backbones._stub")
    module.build = build
    patch.setitem(sys.modules, module.__name__, module)
    stub = _registry.Family("stub", module.__name__, ("text",), "stub:x")
    patch.setitem(_registry._registered, "stub", stub)
    patch.setattr(_runner, "SHARD_BYTES", SHARD_ROWS * N_FEATURES * 2)


if __name__ == "__main__":
    install(pytest.MonkeyPatch())
    rank = os.environ.get("RANK", "0")
    (Path(os.environ["STUB_PIDS"]) / rank).write_text(str(os.getpid()))
    sys.exit(cli.main())
