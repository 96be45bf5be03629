"""Where the network runs and in which number format."""

from typing import Any

import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def resolve_device(device: Any, own: torch.nn.Module | None) -> torch.device:
    """Return the device to use.

    Parameters
    ----------
    device : str or torch.device
        "auto" is CUDA, else MPS, else the CPU; for a network of the user's own it is
        where that network is.
    own : torch.nn.Module or None
        The network, if the user passed it himself.
    """
    if not isinstance(device, str) or device != "auto":
        try:
            return torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"device={device!r} is not a device of torch ({error}); use 'auto', "
                "'cpu' or 'cuda'"
            ) from error
    first = None if own is None else next(own.parameters(), None)
    if first is not None:
        return first.device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the compute type; "auto" is bfloat16 or float16 on CUDA."""
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def describe_compute(dtype: torch.dtype) -> dict[str, Any]:
    """Describe the arithmetic for the key: float32 is never TF32."""
    return {"dtype": str(dtype).removeprefix("torch."), "tf32": False}


def pinned(batch: Any) -> Any:
    """Put a collated batch into memory that a GPU can copy from by itself."""
    if isinstance(batch, dict):
        return {name: pinned(value) for name, value in batch.items()}
    return batch.pin_memory() if isinstance(batch, torch.Tensor) else batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a collated batch: a tensor, or the tensors of a dict."""
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    if not isinstance(batch, torch.Tensor):
        return batch
    return batch.to(device, non_blocking=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch could have worked."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
