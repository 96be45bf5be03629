"""How the key describes the arithmetic of a network, with torch and without it."""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Without one of these, Linux has no GPU that torch could use.
_GPU_NODES = (
    "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-ctrl", "/dev/dxg",
    "/dev/kfd",
)  # fmt: skip


def describe_compute(dtype: "torch.dtype") -> dict[str, Any]:
    """Describe the arithmetic for the key: float32 is never TF32."""
    return {"dtype": str(dtype).removeprefix("torch."), "tf32": False}


def compute_without_torch(device: Any, precision: str) -> dict[str, Any] | None:
    """Describe the arithmetic as `describe_compute` does, if that needs no torch.

    Where torch is imported already it is asked.
    """
    if "torch" in sys.modules:
        return None
    if precision in ("bfloat16", "float16"):
        return {"dtype": precision, "tf32": False}
    no_gpu = sys.platform == "linux" and not any(map(os.path.exists, _GPU_NODES))
    if device == "cpu" or (device == "auto" and no_gpu):
        return {"dtype": "float32", "tf32": False}
    return None
