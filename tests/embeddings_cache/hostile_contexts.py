"""What a caller may have switched on around a call; no number may depend on any of it.

`CONTEXTS` maps names to functions that return a context manager. `state_of_process`
describes what a call must leave as it was.
"""

import decimal
import locale
import random
import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import sklearn
import torch
from PIL import Image, ImageFile
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class _FunctionsSpoilt(TorchFunctionMode):
    """Doubles what functions of torch return, where that is a number."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _spoil(func(*args, **(kwargs or {})))


class _OperationsSpoilt(TorchDispatchMode):
    """Doubles what operations return, where that is a number."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _spoil(func(*args, **(kwargs or {})))


def _spoil(value):
    numbers = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value * 2 if numbers and value.numel() > 1 else value


def _set(getter, setter, value):
    """Set something for the process, and give back what was there."""

    @contextmanager
    def context():
        before = getter()
        setter(value)
        try:
            yield
        finally:
            setter(before)

    return context


@contextmanager
def _default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def _flush_denormal():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def _attributes(*changes):
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def _other_locale():
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "tr_TR.UTF-8", "C.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            continue
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@contextmanager
def _in_a_transform():
    """Stand within a transformation of functions, such as vmap and grad are."""
    interpreters = torch._C._functorch
    level = interpreters._grad_increment_nesting()
    try:
        assert level > 0
        yield
    finally:
        interpreters._grad_decrement_nesting()


def _lossy(tensor):
    return tensor * 0


def _attention_by(backend):
    return torch.nn.attention.sdpa_kernel(backend)


CONTEXTS = {
    "autocast bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "autocast cuda": _set(
        lambda: torch.is_autocast_enabled("cuda"),
        lambda on: torch.set_autocast_enabled("cuda", on),
        True,
    ),
    **{
        f"default {dtype}": _set(
            torch.get_default_dtype, torch.set_default_dtype, dtype
        )
        for dtype in (torch.float64, torch.float16, torch.bfloat16)
    },
    "device meta": lambda: torch.device("meta"),
    "set_default_device": _default_device,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "matmul medium": _set(
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "medium",
    ),
    "mkldnn off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "flush_denormal": _flush_denormal,
    "attention math": lambda: _attention_by(torch.nn.attention.SDPBackend.MATH),
    "deterministic": _set(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        True,
    ),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "function mode": _FunctionsSpoilt,
    "dispatch mode": _OperationsSpoilt,
    "transform of functions": _in_a_transform,
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(
        _lossy, lambda tensor: tensor
    ),
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": _warnings_are_errors,
    "decimal": lambda: decimal.localcontext(decimal.Context(prec=2)),
    "locale": _other_locale,
    "Pillow's limits": lambda: _attributes((Image, "MAX_IMAGE_PIXELS", None)),
    "Pillow's truncation": lambda: _attributes(
        (ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    ),
    "pandas": lambda: pd.option_context("future.infer_string", False),
    "scikit-learn": lambda: sklearn.config_context(
        assume_finite=True,
        enable_metadata_routing=True,
        working_memory=1,
        transform_output="default",
    ),
    "nothing": nullcontext,
}


def state_of_process():
    """Return what a call must leave as it was, as comparable values."""
    return {
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": repr(np.random.get_state()),  # noqa: NPY002
        "random generator": hash(random.getstate()),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_enabled(d) for d in ("cpu", "cuda")],
        "autocast depth": _autocast_depth(),
        "functions": torch._C._len_torch_function_stack(),
        "operations": torch._C._len_torch_dispatch_stack(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "attention": torch.backends.cuda.flash_sdp_enabled(),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "errors": np.geterr(),
        "flushed": float("1e-300") * float("1e-20") == 0,
    }


def _autocast_depth():
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth
