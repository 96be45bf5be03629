"""The one pretence of the process, and the current device of each thread."""

import threading

import torch

_thread = threading.local()
_pretences = []


def current_pretence():
    """Return the pretence that is in force."""
    return _pretences[-1]


def enter(pretence):
    """Put a pretence in force."""
    _pretences.append(pretence)


def leave():
    """End the pretence that is in force."""
    _pretences.pop()
    _thread.__dict__.clear()


def current_device():
    """Return the number of this thread's current device."""
    return getattr(_thread, "device", 0)


def set_device(number):
    """Make a device this thread's current one."""
    _thread.device = number


def numbered(value):
    """Return a torch.device with its number if it is a GPU; None for no device.

    Raises
    ------
    RuntimeError
        If there is no such device.
    """
    if value is None or isinstance(value, bool):
        return None
    device = torch.device("cuda", value) if isinstance(value, int) else value
    device = torch.device(device)
    if device.type != "cuda":
        return device
    number = current_device() if device.index is None else device.index
    if number >= current_pretence().n_devices:
        raise RuntimeError("CUDA error: invalid device ordinal")
    return torch.device("cuda", number)
