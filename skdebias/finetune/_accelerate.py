"""Accelerate's handle on devices, processes and number formats."""

from typing import Any

import torch

from skdebias._warnings import warn_caller
from skdebias.finetune._extraction import resolve_precision
from skdebias.finetune._training import make_accelerator


def find_accelerator(device: str, precision: str) -> Any:
    """Return Accelerate's handle for the parameters of a classifier.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"auto", "float32", "bfloat16", "float16"}

    Returns
    -------
    accelerate.Accelerator
    """
    if precision == "auto":
        on_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
        kind = torch.device("cuda" if on_cuda else "cpu")
        precision = str(resolve_precision("auto", kind)).removeprefix("torch.")
    accelerator = make_accelerator(device, precision)
    if precision == "float16" and accelerator.device.type == "cpu":
        warn_caller(
            "precision='float16' has no effect on the CPU, which computes in "
            "float32: choose 'bfloat16' or 'float32'."
        )
    return accelerator
