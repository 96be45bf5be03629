"""Torch modules as ONNX files."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skdebias import __version__

# A file is one protobuf message, and those end at 2 GiB; this is left for the graph.
_MAX_WEIGHT_BYTES = 2**31 - 2**24


def onnx_bytes(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    classes: np.ndarray,
    n_free_axes: int = 1,
) -> bytes:
    """Convert a module of logits to the content of an ONNX file.

    The file has the outputs ``logits`` and ``probabilities`` (n_samples, n_classes),
    and the classes as JSON under ``classes`` in its metadata.

    Parameters
    ----------
    module : torch.nn.Module
        Maps the inputs, in their order, to logits; in evaluation mode.
    inputs : dict of str to Tensor
        Examples by the names that the inputs get, on the device of the module, at
        least two long along every axis that stays free.
    classes : ndarray of shape (n_classes,)
        The labels, in the order of the logits.
    n_free_axes : int, default=1
        Leading axes of the inputs whose sizes are not fixed: rows, and for texts their
        tokens.

    Returns
    -------
    bytes

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    TypeError
        If a class is not a string, a number or a boolean.
    ValueError
        If the weights are too large for one file.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter imports it
    except ImportError as error:
        raise ImportError(
            f"ONNX files need {error.name}, which is not installed: "
            "pip install 'skdebias[onnx]'."
        ) from error
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > _MAX_WEIGHT_BYTES:
        raise ValueError(
            f"The network has {size / 2**30:.1f} GiB of weights, but an ONNX file "
            "holds less than 2 GiB: export it in half precision (module.half())."
        )
    metadata = {"classes": _to_json(classes), "skdebias": __version__}
    # One axis is named; that the others are as long is found out by the exporter.
    free = [dict.fromkeys(range(n_free_axes), torch.export.Dim.AUTO) for _ in inputs]
    free[0][0] = torch.export.Dim("n_samples")
    program = torch.onnx.export(
        _WithProbabilities(module),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=["logits", "probabilities"],
        dynamic_shapes=(tuple(free),),
        dynamo=True,
        verbose=False,
    )
    model: Any = program.model_proto  # type: ignore[union-attr]  # None without dynamo
    for node in model.graph.node:
        del node.metadata_props[:]  # lines of Python, with the paths of this machine
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


class _WithProbabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(*inputs)
        return logits, torch.softmax(logits, dim=-1)


def _to_json(classes: np.ndarray) -> str:
    try:
        return json.dumps(np.asarray(classes).tolist())
    except TypeError as error:
        raise TypeError(
            f"classes_={classes!r} cannot be written to an ONNX file: use strings, "
            "numbers or booleans as labels."
        ) from error
