"""Random numbers of methods, the same alone and in any stack."""

import hashlib
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

# Increment and multipliers of SplitMix64.
_GAMMA = 0x9E3779B97F4A7C15
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def uniform(seed: int, number: int, purpose: str, shape: Sequence[int]) -> Tensor:
    """Draw uniform numbers that depend on nothing but the arguments.

    They are drawn on the CPU, and are the same for every device and any number of
    threads. A method that draws its numbers by seed and step number therefore does the
    same alone, in any stack, and when training is resumed.

    Parameters
    ----------
    seed : int
        That of the stream, out of :attr:`TrainingContext.seeds`.
    number : int
        Such as :attr:`Step.number`.
    purpose : str
        What the numbers are for: those of another purpose are independent.
    shape : sequence of int
        Where it has one entry per slot of a step, the plans of a stack must all ask for
        as many rows: fields that change the counts are not to be `stackable`.

    Returns
    -------
    Tensor of shape `shape`
        float32 in [0, 1), on the CPU.

    References
    ----------
    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014 (SplitMix64, whose state is here a hash of the arguments).

    Examples
    --------
    >>> from skdebias.methods import uniform
    >>> uniform(0, 3, "mixing", (2, 2))
    tensor([[0.5671, 0.9807],
            [0.3505, 0.9935]])
    """
    key = f"{seed} {number} {purpose}".encode()
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    bits = np.arange(1, prod(shape) + 1, dtype=np.uint64)
    bits *= np.uint64(_GAMMA)
    bits += np.uint64(state)
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    bits ^= bits >> np.uint64(31)
    # 24 bits are exact in float32, and below 1.
    drawn = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(drawn.reshape(tuple(shape)))
