"""Where the network runs and in which number format."""

from typing import Any

import torch


def resolve_device(device: Any, network: torch.nn.Module | None) -> torch.device:
    """Return the device to use.

    Parameters
    ----------
    device : str or torch.device
        "auto" is CUDA, else MPS, else the CPU; for a network of the user's own it is
        where that network is.
    network : torch.nn.Module or None
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
    first = None if network is None else next(network.parameters(), None)
    if first is not None:
        return first.device
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that a network computes in.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16", "float16"}
        "auto" is float32 on the CPU, and bfloat16 on CUDA, or float16 where that is
        missing or emulated.
    device : torch.device

    Returns
    -------
    torch.dtype

    Examples
    --------
    >>> import torch
    >>> from embeddings_cache.networks import resolve_precision
    >>> resolve_precision("auto", torch.device("cpu"))
    torch.float32
    """
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if _has_bfloat16(device) else torch.float16


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether a CUDA device computes in bfloat16, and does not emulate it."""
    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported()
    try:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    except (RuntimeError, AssertionError) as error:
        raise _unusable(device, error) from error


def usable_device(device: torch.device) -> torch.device:
    """Return a device as its tensors say it, with its number.

    Parameters
    ----------
    device : torch.device
        "cuda" without a number is the current CUDA device.

    Raises
    ------
    ValueError
        If the machine has no such device.
    """
    try:
        tensor = torch.ones(1, device=device)
        tensor.sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise _unusable(device, error) from error
    return tensor.device


def _unusable(device: torch.device, error: BaseException) -> ValueError:
    reason = str(error).partition("\n")[0]
    return ValueError(
        f"device={str(device)!r} cannot be used on this machine ({reason}); use "
        "'auto' or 'cpu'"
    )


def pinned(batch: Any) -> Any:
    """Put a collated batch into memory that a GPU can copy from by itself."""
    if isinstance(batch, dict):
        return {name: pinned(value) for name, value in batch.items()}
    return batch.pin_memory() if isinstance(batch, torch.Tensor) else batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a collated batch.

    Parameters
    ----------
    batch : torch.Tensor, dict or object
        Of a dict, the values are moved; what is no tensor stays as it is.
    device : torch.device

    Returns
    -------
    torch.Tensor, dict or object

    Examples
    --------
    >>> import torch
    >>> from embeddings_cache.networks import to_device
    >>> to_device({"x": torch.ones(2), "n": 2}, torch.device("meta"))["x"].device
    device(type='meta')
    """
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    if not isinstance(batch, torch.Tensor):
        return batch
    return batch.to(device, non_blocking=True)
