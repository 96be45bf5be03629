"""Items that are numbers already: which type a module gets them in."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from skdebias.finetune._checks import largest_code, takes_codes


def refuse_loaders(items: Any) -> None:
    """Refuse data sets and loaders of torch, which hold more than items.

    Parameters
    ----------
    items : object

    Raises
    ------
    TypeError
    """
    if isinstance(items, Dataset | DataLoader | torch.Generator):
        raise TypeError(
            f"items is a {type(items).__module__}.{type(items).__name__}: give the "
            "items themselves, such as a list of paths or an array, and their labels "
            "as y. They are read, shuffled and put together in batches here."
        )


def plain_array(items: Any) -> Any:
    """Return tensors, lists and iterators as an array; what is one stays itself.

    Parameters
    ----------
    items : object

    Returns
    -------
    array-like

    Raises
    ------
    ValueError
        If rows differ in shape.
    """
    if isinstance(items, Tensor):
        return _to_numpy(items)
    if hasattr(items, "dtype") or hasattr(items, "dtypes") or isinstance(items, str):
        return items
    if not hasattr(items, "__len__") and isinstance(items, Iterable):
        items = list(items)
    if not isinstance(items, list | tuple):
        return items
    rows = [_to_numpy(row) if isinstance(row, Tensor) else row for row in items]
    try:
        return np.asarray(rows)
    except ValueError as error:
        shapes = sorted({str(np.shape(row)) for row in rows if hasattr(row, "shape")})
        shown = f" (of shapes {', '.join(shapes[:3])})" if shapes else ""
        raise ValueError(
            f"items: rows differ in shape{shown}; modality='tensor' takes an array of "
            "numbers, one item of the same shape per row."
        ) from error


def number_type(items: Any, network: nn.Module, codes: bool | None) -> type:
    """Return the type in which a module gets its items, refusing doubtful integers.

    Parameters
    ----------
    items : array-like
        As :func:`plain_array` returns them.
    network : torch.nn.Module
        The backbone.
    codes : bool or None
        Whether they are to be codes of words, as they were in training; None lets the
        items and the network say.

    Returns
    -------
    type
        np.int64 for codes, np.float32 for numbers.

    Raises
    ------
    TypeError, ValueError
    """
    dtype = getattr(items, "dtype", None)
    if dtype is None:
        dtype = np.asarray(items).dtype
    integers = getattr(dtype, "kind", "O") in "iub"
    ndim = len(getattr(items, "shape", ()))
    embeds = takes_codes(network) and codes is not False
    if codes and not integers:
        raise TypeError(
            f"items are of {dtype}, and the network was trained on integers, which it "
            "embeds: give integers."
        )
    if embeds and integers and (dtype != np.uint8 or ndim == 2):
        _check_codes(items, network)
        return np.int64
    if integers and dtype.kind != "b" and (dtype == np.uint8 or ndim > 2):
        raise ValueError(
            f"items are of {dtype} and shape {tuple(items.shape)}: modality='tensor' "
            "hands numbers to the module as they are, and does not know whether these "
            "are pixels. Give items.astype('float32') / 255 for pixels, "
            "items.astype('float32') for other numbers, or use modality='image', which "
            "reads uint8 images."
        )
    return np.float32


def _check_codes(items: Any, network: nn.Module) -> None:
    array = np.asarray(items)
    if not array.size:
        return
    lowest, highest, bound = array.min(), array.max(), largest_code(network)
    if lowest < 0 or highest > bound:
        raise ValueError(
            f"items are integers from {lowest} to {highest}, and the largest embedding "
            f"of the backbone has vectors for 0 to {bound}: number them so, or give "
            "items.astype('float32') if they are no codes."
        )


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy()
