"""Devices: what "auto" stands for, and which devices heads can be trained on."""

import torch


def automatic_device(*, needs_float64: bool) -> str:
    """Return the type of the device that "auto" stands for.

    Parameters
    ----------
    needs_float64 : bool
        Whether sums are float64, which MPS does not have.

    Returns
    -------
    {"cuda", "mps", "cpu"}
        The first of these that the machine has and that can do the arithmetic.
    """
    if torch.cuda.is_available():
        return "cuda"
    if not needs_float64 and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a `device` parameter of a head.

    Parameters
    ----------
    device : str
        "auto" is CUDA where there is one, else the CPU; "cuda" is the current CUDA
        device.

    Returns
    -------
    torch.device
        As its tensors say it, with its number.

    Raises
    ------
    ValueError
        If the device is unknown to torch, absent from this machine, or cannot do
        what the fits need.
    """
    wanted = automatic_device(needs_float64=True) if device == "auto" else device
    try:
        # Sums are float64, which not every device has.
        resolved = torch.ones(1, dtype=torch.float64, device=wanted)
        resolved.sum().item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({reason}): choose "
            "'auto' or 'cpu'."
        ) from error
    return resolved.device
