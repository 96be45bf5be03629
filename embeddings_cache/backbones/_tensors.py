"""Descriptions of tensors and arrays, by their bytes."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from embeddings_cache._fingerprint import tensors_digest

if TYPE_CHECKING:
    from embeddings_cache.backbones._describe import Describer

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}
_KINDS = (torch.Tensor, nn.Parameter, nn.Buffer)


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is nothing but numbers in memory."""
    return (
        type(tensor) in _KINDS
        and tensor.layout == torch.strided
        and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
    )


def describe_tensor(describe: "Describer", tensor: torch.Tensor, where: str) -> Any:
    """Describe a tensor by type, shape and bytes; its device does not matter.

    Parameters
    ----------
    describe : Describer
    tensor : torch.Tensor
    where : str
    """
    name = describe.weights.get(id(tensor))
    described: dict[str, Any] = {"weight": name}
    if name is None:
        described = _content(describe, tensor, where)
    if tensor.__dict__:
        described["state"] = describe.attributes(tensor.__dict__, where)
    if describe.training:
        described["requires_grad"] = tensor.requires_grad
        hooks = [
            *(tensor._backward_hooks or {}).values(),
            *(getattr(tensor, "_post_accumulate_grad_hooks", None) or {}).values(),
        ]
        if hooks:
            described["hooks"] = describe(hooks, f"{where}._backward_hooks")
    return described


def _content(describe: "Describer", tensor: torch.Tensor, where: str) -> dict[str, Any]:
    if type(tensor) not in _KINDS or tensor.is_nested or tensor.is_meta:
        kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        state = "nested" if tensor.is_nested else f"on {tensor.device}"
        raise describe.refusal(where, f"a tensor of the kind {kind} ({state})")
    tensor = tensor.detach()
    if tensor.is_quantized:
        return _quantized(tensor)
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        parts = {"indices": tensor.indices(), "values": tensor.values()}
    elif tensor.layout in _COMPRESSED:
        names = (*_COMPRESSED[tensor.layout], "values")
        parts = {name: getattr(tensor, name)() for name in names}
    elif tensor.layout == torch.strided:
        return {"tensor": tensors_digest([("", tensor)])}
    else:
        raise describe.refusal(where, f"a tensor of the layout {tensor.layout}")
    return {
        "tensor": tensors_digest(parts.items()),
        "layout": str(tensor.layout),
        "shape": list(tensor.shape),
    }


def _quantized(tensor: torch.Tensor) -> dict[str, Any]:
    parts = {"integers": tensor.int_repr()}
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        parts["scales"] = tensor.q_per_channel_scales()
        parts["zeros"] = tensor.q_per_channel_zero_points()
        parts["axis"] = torch.tensor(tensor.q_per_channel_axis())
    else:
        parts["scales"] = torch.tensor(tensor.q_scale(), dtype=torch.float64)
        parts["zeros"] = torch.tensor(tensor.q_zero_point())
    return {
        "tensor": tensors_digest(parts.items()),
        "quantized": [str(tensor.dtype), str(tensor.qscheme())],
    }


def describe_array(describe: "Describer", array: np.ndarray, where: str) -> Any:
    """Describe an array by type, shape and bytes; arrays of objects are refused.

    Parameters
    ----------
    describe : Describer
    array : ndarray
    where : str
    """
    if type(array) not in (np.ndarray, np.memmap) or array.dtype.hasobject:
        what = f"{type(array).__name__} of dtype {array.dtype}"
        raise describe.refusal(where, f"an array of the kind {what}")
    sha = hashlib.sha256(np.ascontiguousarray(array).tobytes())
    return {
        "array": sha.hexdigest(),
        "dtype": array.dtype.str if array.dtype.names is None else str(array.dtype),
        "shape": list(array.shape),
    }


def describe_scalar(describe: "Describer", value: np.generic, where: str) -> Any:
    """Describe a number of numpy's by its type and bytes.

    Parameters
    ----------
    describe : Describer
    value : numpy.generic
    where : str
    """
    if value.dtype.hasobject:
        raise describe.refusal(where, "a numpy scalar that holds an object")
    return {"scalar": value.dtype.str, "bytes": value.tobytes().hex()}
