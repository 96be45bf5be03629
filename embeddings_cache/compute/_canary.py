"""The canary: the first items of every run are also embedded the slow, exact way.

Lower precision, another memory layout and compiled code can return wrong numbers
without an error. So the first rows of a run that uses any of them are compared with
float32 arithmetic, eager and in the plain layout, before a row is stored.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from embeddings_cache._errors import CanaryError
from embeddings_cache._precision import exact_float32

CANARY_ITEMS = 2
# Lowest cosine similarity, and largest relative difference of lengths, that rounding
# explains; an error in the arithmetic is far beyond.
BOUNDS = {
    torch.float32: (0.9999, 0.01),
    torch.float16: (0.999, 0.05),
    torch.bfloat16: (0.995, 0.1),
}


@contextmanager
def exact_arithmetic(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Compute in float32 and the plain memory layout inside, as before outside."""
    tensors = [*network.parameters(), *network.buffers()]
    kept = [(tensor, tensor.data) for tensor in tensors]
    with torch.autocast(device.type, enabled=False), exact_float32():
        try:
            with torch.inference_mode(False):
                for tensor, data in kept:
                    if tensor.is_floating_point():
                        tensor.data = data.float().contiguous()
            yield
        finally:
            with torch.inference_mode(False):
                for tensor, data in kept:
                    tensor.data = data


def check_agreement(
    fast: np.ndarray,
    exact: np.ndarray,
    names: Sequence[str],
    dtype: torch.dtype,
    how: Sequence[str],
) -> None:
    """Refuse fast embeddings that are not the exact ones up to rounding.

    Parameters
    ----------
    fast, exact : ndarray of float32, shape (n, n_features)
        Embeddings of the same items.
    names : sequence of str
        Names of the items.
    dtype : torch.dtype
        Compute type of the fast way, which says how much rounding there may be.
    how : sequence of str
        Parameters that choose the fast way, with their values.

    Raises
    ------
    CanaryError
        If directions or lengths differ by more than the bounds of the type, or the
        fast way gives values that are not finite where the exact one does not.
    """
    # Values that are not finite in float32 either are reported with their remedy
    # when the rows are checked for storage.
    usable = np.isfinite(exact).all(axis=1)
    lowest, widest = BOUNDS[dtype]
    for number in np.flatnonzero(usable).tolist():
        a, b = fast[number].astype(np.float64), exact[number].astype(np.float64)
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        if not np.isfinite(a).all():
            difference = (
                "has NaN or infinite values, and the float32 reference has none"
            )
        elif not lengths[0] or not lengths[1]:
            if lengths[0] == lengths[1]:
                continue
            difference = f"has length {lengths[0]:.4g}, the reference {lengths[1]:.4g}"
        else:
            cosine = float(a @ b / (lengths[0] * lengths[1]))
            ratio = lengths[0] / lengths[1]
            if cosine >= lowest and abs(ratio - 1) <= widest:
                continue
            difference = (
                f"has cosine similarity {cosine:.4f} with the float32 reference (at "
                f"least {lowest} is rounding) and {ratio:.3f} times its length"
            )
        raise CanaryError(
            f"the embedding of {names[number]} {difference}. The network does not "
            f"stand {' and '.join(how)}, and nothing of this run was stored. Use "
            "precision='float32' and compile=False"
        )
