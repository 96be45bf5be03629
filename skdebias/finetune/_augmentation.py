"""What a user's function does to a prepared item, repeatably and within bounds."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skdebias.finetune._extraction import SeededGenerator, Turns

_ALONE = Turns()


def augmented(value: Any, augment: Callable[[Any], Any], seed: int, index: int) -> Any:
    """Return an item as `augment` makes it, from random numbers of its own.

    Parameters
    ----------
    value : object
        A prepared item.
    augment : callable
    seed : int
        Of torch, numpy and random, whose states stay as they are.
    index : int
        Of the item, for messages.

    Returns
    -------
    object
        As `value` is: of a tensor, one of the same shape and type.

    Raises
    ------
    RuntimeError
        If `augment` fails.
    TypeError, ValueError
        If it returns something else than an item.
    """
    with _seeded(seed):
        try:
            # Many write into what they get, and the item is wanted again as it is.
            result = augment(copy.deepcopy(value))
        except MemoryError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"augment fails on item {index} ({type(error).__name__}: {error}). It "
                "takes one prepared item, and returns another one of the same shape: "
                f"here {_described(value)}."
            ) from error
    return _checked(result, value, index)


def _checked(result: Any, value: Any, index: int) -> Any:
    if isinstance(result, np.ndarray) and isinstance(value, Tensor):
        result = torch.from_numpy(np.ascontiguousarray(result))
    if isinstance(value, Tensor) and isinstance(result, Tensor):
        result = result.detach()
        if result.is_floating_point() and value.is_floating_point():
            result = result.to(value.dtype)
        if result.shape == value.shape and result.dtype == value.dtype:
            if result.is_floating_point() and not bool(result.isfinite().all()):
                raise ValueError(
                    f"augment returned values that are not finite for item {index}."
                )
            return result
    elif result is not None and isinstance(value, type(result)):
        return result
    raise (ValueError if isinstance(result, Tensor) else TypeError)(
        f"augment returned {_described(result)} for item {index}, which is "
        f"{_described(value)}: return an item of the same shape and type."
    )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch, numpy and Python inside, and put them back."""
    # The process's own generators of numpy and Python are those that augmentations draw
    # from: one thread at a time.
    with _ALONE.alone(), SeededGenerator(seed):
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
