"""Fast ways to compute are compared with float32 before anything is stored."""

import numpy as np
import pytest
import torch
from torch import nn

from embeddings_cache import CanaryError, EmbeddingStore, EmbeddingValueError
from embeddings_cache._settings import RunConfig
from embeddings_cache.backbones._base import Backbone
from embeddings_cache.compute._canary import check_agreement, exact_arithmetic
from embeddings_cache.compute._embedder import Batch, ready


def to_tensor(image):
    """Scale an image to 8 x 8 and [0, 1]."""
    array = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


to_tensor.cache_description = "8 x 8, [0, 1]"


class Cancelling(nn.Module):
    """Differences of large numbers: right in float32, noise in bfloat16."""

    def __init__(self, offset):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(192)[:8] * 1.0)
        self.offset = offset
        self.cache_description = f"differences of numbers near {offset}"

    def forward(self, x):
        return (x.flatten(1) + self.offset) @ self.weight.T - self.offset


def is_empty(extractor):
    return EmbeddingStore(extractor.cache_dir).extractors()[0].n_rows == 0


@pytest.mark.parametrize(
    ("offset", "precision", "message"),
    [
        (100.0, "bfloat16", r"array 0 has cosine similarity .* with the float32 refe"),
        (1e5, "float16", "array 0 has NaN or infinite values, and the float32"),
    ],
)
def test_a_network_that_breaks_in_lower_precision(
    make_extractor, images, offset, precision, message
):
    broken = make_extractor(
        Cancelling(offset), preprocess=to_tensor, precision=precision, batch_size=2
    )
    with pytest.raises(CanaryError, match=message) as caught:
        broken.transform(images)
    assert f"stand precision='{precision}', and nothing of this" in str(caught.value)
    assert "Use precision='float32' and compile=False" in str(caught.value)
    assert is_empty(broken)
    exact = make_extractor(Cancelling(offset), preprocess=to_tensor)
    assert exact.transform(images).shape == (20, 8)


def test_rounding_passes(make_extractor, images):
    network, settings = Cancelling(0.0), {"preprocess": to_tensor}
    exact = make_extractor(network, **settings).transform(images)
    rows = make_extractor(network, precision="bfloat16", **settings).transform(images)
    assert 0 < np.abs(rows - exact).max() < 0.01


def test_values_that_are_wrong_in_float32_too_are_named_as_such(make_extractor, images):
    extractor = make_extractor(
        Cancelling(float("nan")), preprocess=to_tensor, precision="bfloat16"
    )
    with pytest.raises(EmbeddingValueError, match="weights or the preprocessing"):
        extractor.transform(images)


def test_compiled_code_that_is_wrong(make_extractor, net, images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward: lambda x: forward(x.flip(0)))
    extractor = make_extractor(compile=True, batch_size=4)
    with pytest.raises(CanaryError, match="does not stand compile=True, and noth"):
        extractor.transform(images)
    assert is_empty(extractor)


def test_compiled_batches_and_the_eager_rest(make_extractor, net, images, monkeypatch):
    compiled = []

    def record(forward):
        return lambda x: compiled.append(len(x)) or forward(x)

    monkeypatch.setattr(torch, "compile", record)
    rows = make_extractor(compile=True, batch_size=8).transform(images)
    assert compiled == [8, 8]  # the last four are not worth compiling again
    plain = make_extractor()
    np.testing.assert_array_equal(plain.transform(images), rows)
    assert plain.last_run_.n_found == 20  # how it was computed is not in the key


class LayoutBound(nn.Module):
    """Reads memory in its own order, which another layout changes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.is_contiguous(memory_format=torch.channels_last):
            x = x.permute(0, 2, 3, 1).reshape(x.shape)
        return self.conv(x).mean(dim=(2, 3))


def test_a_network_that_another_layout_breaks():
    network = LayoutBound()
    backbone = Backbone(
        network, "image", torch.as_tensor, torch.stack, network, {}, channels_last=True
    )
    settings = RunConfig(torch.device("cpu"), torch.float32, "float32", 4, 0)
    values = list(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with ready(backbone, settings) as embedder:
        batches = [Batch(range(4), list("abcd"), values)]
        with pytest.raises(
            CanaryError, match=r"of a has .* the memory layout channels"
        ):
            list(embedder.embed(batches))


def test_exact_arithmetic_gives_the_network_back_as_it_was():
    network = nn.Conv2d(3, 4, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    before = network.weight.data
    copy = before.clone()
    with torch.inference_mode(), exact_arithmetic(network, torch.device("cpu")):
        assert network.weight.dtype == torch.float32
        assert network.weight.is_contiguous()
    assert network.weight.data_ptr() == before.data_ptr()
    assert network.weight.dtype == torch.bfloat16
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.weight, copy)
    network(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)).sum().backward()


@pytest.mark.parametrize(
    ("fast", "message"),
    [
        (
            [[1.0, 0.0], [0.0, 2.2]],
            "of b has cosine similarity 1.0000 .* and 1.100 tim",
        ),
        ([[1.0, 0.1], [0.0, 2.0]], "of a has cosine similarity 0.9950"),
        ([[1.0, 0.0], [0.0, 0.0]], "of b has length 0, the reference 2"),
    ],
)
def test_directions_and_lengths_are_compared(fast, message):
    exact = np.array([[1.0, 0.0], [0.0, 2.0]])
    with pytest.raises(CanaryError, match=message):
        check_agreement(np.array(fast), exact, "ab", torch.float16, ["compile=True"])


def test_rows_of_zeros_agree():
    zeros = np.zeros((1, 3))
    check_agreement(zeros, zeros, "a", torch.float32, ["compile=True"])


@pytest.mark.heavy
def test_compiling_for_real(make_extractor, images):
    pytest.importorskip("timm")
    settings = {"pretrained": False, "preprocess": {"size": 32}, "batch_size": 8}
    eager = make_extractor("timm:resnet18", storage_dtype="float32", **settings)
    rows = eager.transform(images)
    other = make_extractor(
        "timm:resnet18", compile=True, storage_dtype="float32",
        cache_dir=f"{eager.cache_dir}-compiled", **settings,
    )  # fmt: skip
    np.testing.assert_allclose(other.transform(images), rows, rtol=1e-3, atol=1e-4)
    assert other._network.backbone.compiled is not None
