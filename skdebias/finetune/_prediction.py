"""Forward passes of a network that is not in training."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skdebias._engine._threads import one_thread
from skdebias.finetune._accelerate import find_accelerator
from skdebias.finetune._checks import about_items
from skdebias.finetune._extraction import is_out_of_memory, to_device
from skdebias.finetune._items import Items
from skdebias.finetune._network import Network
from skdebias.finetune._parameters import rows_per_pass

if TYPE_CHECKING:
    from skdebias.finetune._base import BaseNetworkClassifier


def apply_in_blocks(
    classifier: "BaseNetworkClassifier",
    network: Network,
    source: Items,
    function: Callable[[Network, Any], Tensor],
) -> NDArray[np.float32]:
    """Apply a function of network and batch to all items, in blocks.

    Parameters
    ----------
    classifier : BaseNetworkClassifier
        Says on which device, in which format, and in how many rows.
    network : Network
    source : Items
    function : callable
        From network and batch to a tensor with one row per item.

    Returns
    -------
    ndarray of shape (n_samples, ...)

    Raises
    ------
    MemoryError
        If a block does not fit the device.
    """
    accelerator = find_accelerator(classifier.device, classifier.precision)
    device = accelerator.device
    network = network.to(device).eval()
    n_rows = 2 * rows_per_pass(classifier, accelerator)
    source.check()
    index = np.arange(len(source))
    blocks = ((0, index[i : i + n_rows]) for i in range(0, len(index), n_rows))
    outputs = []
    with one_thread(device), torch.inference_mode(), accelerator.autocast():
        for batch in source.batches(network.embedder, blocks, classifier.num_workers):
            try:
                with about_items(batch):
                    output = function(network, to_device(batch, device))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise MemoryError(
                    f"a pass of {n_rows} items does not fit the memory of "
                    f"{device}: lower batch_size (now {classifier.batch_size}) by "
                    "set_params."
                ) from error
            outputs.append(output.float().cpu().numpy())
    return np.concatenate(outputs)
