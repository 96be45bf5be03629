"""Extraction on one GPU of several, and when memory runs out."""

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import nn

from embeddings_cache import CanaryError
from embeddings_cache._memory import is_out_of_memory
from embeddings_cache.cli import local_device
from embeddings_cache.compute import _embedder
from embeddings_cache.compute._device import (
    resolve_device,
    resolve_precision,
    usable_device,
)

pretended = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a CUDA device: nothing is pretended"
)


# Rows and device of every batch that came to a network. They are not kept in it: the
# extractor works with a copy.
SEEN = []


@pytest.fixture(autouse=True)
def _nothing_seen():
    SEEN.clear()


def sizes():
    return [size for size, _ in SEEN]


class Fragile(nn.Module):
    """Fails as told where more than so many rows come at once."""

    cache_description = "fragile, v1"

    def __init__(self, error=None, most=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(192, 5, generator=generator))
        self.error, self.most = error, most

    def forward(self, x):
        SEEN.append((len(x), str(x.device)))
        if self.error is not None and len(x) > self.most:
            raise self.error
        return x.flatten(1) @ self.weight


def to_tensor(image):
    array = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


to_tensor.cache_description = "8 x 8, [0, 1]"


@pytest.mark.gpu(devices=2)
@pytest.mark.parametrize(
    "device", ["cuda", "cuda:0", "cuda:1", torch.device("cuda", 1)]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_rows_of_every_gpu(make_extractor, images, device, precision, tmp_path):
    settings = {"preprocess": to_tensor, "batch_size": 3, "storage_dtype": "float32"}
    expected = make_extractor(Fragile(), **settings, cache_dir=tmp_path / "other")
    expected = expected.transform(images)
    extractor = make_extractor(
        Fragile(), device=device, precision=precision, **settings
    )
    rows = extractor.transform(images)
    atol = 1e-4 if precision == "float32" else 0.05 * np.abs(expected).max()
    np.testing.assert_allclose(rows, expected, atol=atol)
    np.testing.assert_array_equal(extractor.transform(images), rows)
    assert SEEN[-1][1] == ("cuda:1" if "1" in str(device) else "cuda:0")


@pytest.mark.gpu(devices=2)
def test_a_network_on_the_second_gpu(make_extractor, images):
    network = Fragile().to("cuda:1")
    extractor = make_extractor(network, preprocess=to_tensor, device="auto")
    extractor.transform(images)
    assert {device for _, device in SEEN} == {"cuda:1"}
    assert str(resolve_device("auto", network)) == "cuda:1"


@pretended
def test_a_rank_works_on_its_own_gpu(make_extractor, images):
    """As under torchrun: nothing is recorded or held elsewhere."""
    with pretend_cuda(n_devices=2) as log:
        device = local_device("auto", {"LOCAL_RANK": "1"})
        assert device == "cuda:1"
        extractor = make_extractor(Fragile(), preprocess=to_tensor, device=device)
        extractor.transform(images)
        assert {device for _, device in SEEN} == {"cuda:1"}
        assert log.problems == []


@pytest.mark.gpu(devices=2)
def test_the_device_in_the_report_has_its_number(make_extractor):
    assert str(usable_device(torch.device("cuda"))) == "cuda:0"
    with torch.cuda.device(1):
        assert str(usable_device(torch.device("cuda"))) == "cuda:1"


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:7", "meta", "mps"])
def test_devices_that_cannot_be_used(make_extractor, images, device):
    extractor = make_extractor(
        Fragile(), preprocess=to_tensor, device=device, precision="float32"
    )
    with pytest.raises(ValueError, match=rf"device='{device}' cannot be used"):
        extractor.transform(images)


@pretended
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)],
)
def test_emulated_bfloat16_is_not_chosen(device, capability, expected):
    with pretend_cuda(n_devices=2, capability=capability):
        assert resolve_precision("auto", torch.device(device)) == expected


@pretended
def test_precision_auto_without_the_device():
    with pytest.raises(ValueError, match="device='cuda' cannot be used"):
        resolve_precision("auto", torch.device("cuda"))


KINDS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "driver": RuntimeError("CUDA error: out of memory"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    "hip": RuntimeError("HIP out of memory. Tried to allocate 2 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
    "python": MemoryError(),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    "cublas handle": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn host": RuntimeError(
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"
    ),
    "engine": RuntimeError("GET was unable to find an engine to execute this compu"),
    "finder": RuntimeError("FIND was unable to find an engine to execute this"),
    "algorithm": RuntimeError("Unable to find a valid cuDNN algorithm to run conv"),
    "cusparse": RuntimeError("CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_kind_of_out_of_memory_halves_the_batch(
    make_extractor, images, kind, device, tmp_path
):
    settings = {"preprocess": to_tensor, "storage_dtype": "float32"}
    settings["precision"] = "float32"
    failing = Fragile(KINDS[kind])
    rows = make_extractor(failing, batch_size=16, device=device, **settings)
    rows = rows.transform(images)
    assert max(sizes()) == 16
    assert sizes()[-1] <= 3
    sound = make_extractor(Fragile(), **settings, cache_dir=tmp_path / "other")
    np.testing.assert_allclose(rows, sound.transform(images), atol=1e-4)


def test_other_errors_are_not_taken_for_it():
    for text in ("size mismatch", "CUDA error: device-side assert triggered", ""):
        assert not is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_canary_backs_off_too(make_extractor, images):
    network = Fragile(KINDS["cublas"], most=1)
    extractor = make_extractor(
        network, preprocess=to_tensor, batch_size=8, precision="bfloat16"
    )
    extractor.transform(images)
    assert 2 in sizes()  # the canary's first try
    assert extractor.last_run_.n_computed == len(images)


def test_a_canary_of_one_item_still_looks(make_extractor, images):
    class Wrong(Fragile):
        cache_description = "wrong, v1"

        def forward(self, x):
            rows = super().forward(x)
            return rows if rows.dtype == torch.float32 else -rows

    extractor = make_extractor(
        Wrong(KINDS["cuda"], most=1), preprocess=to_tensor, precision="bfloat16"
    )
    with pytest.raises(CanaryError, match="does not stand precision='bfloat16'"):
        extractor.transform(images)


@pretended
@pytest.mark.parametrize("step", ["pin", "stack"])
def test_memory_of_the_host_runs_out(make_extractor, images, monkeypatch, step):
    """Pinned memory is scarcer than others, and is asked for in a thread."""
    failed = []
    with pretend_cuda() as log:
        extractor = make_extractor(
            Fragile(), preprocess=to_tensor, device="cuda", batch_size=8
        )
        owner, name = (_embedder, "pinned") if step == "pin" else (torch, "stack")
        real = getattr(owner, name)

        def scarce(batch):
            if len(batch) > 4:
                failed.append(len(batch))
                raise RuntimeError("CUDA error: out of memory")
            return real(batch)

        monkeypatch.setattr(owner, name, scarce)
        extractor.transform(images)
        assert log.problems == []
    assert failed
    assert max(sizes()) <= 8
