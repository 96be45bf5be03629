"""Accelerate: devices, processes, number formats, and shards of tensors."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from skdebias._device import automatic_device
from skdebias._warnings import warn_caller
from skdebias.finetune._extraction import resolve_precision


def find_accelerator(device: str, precision: str) -> Any:
    """Return Accelerate's handle for the parameters of a classifier.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"auto", "float32", "bfloat16", "float16"}

    Returns
    -------
    accelerate.Accelerator
    """
    if precision == "auto":
        kind = device
        if device in ("auto", "cuda"):  # one that is absent is refused below
            kind = automatic_device(needs_float64=False)
        resolved = resolve_precision("auto", torch.device(kind))
        precision = str(resolved).removeprefix("torch.")
    accelerator = make_accelerator(device, precision)
    if precision == "float16" and accelerator.device.type == "cpu":
        warn_caller(
            "precision='float16' has no effect on the CPU, which computes in "
            "float32: choose 'bfloat16' or 'float32'."
        )
    return accelerator


def make_accelerator(device: str, precision: str) -> Any:
    """Return Accelerate's handle on devices, processes and number formats.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"float32", "bfloat16", "float16"}

    Returns
    -------
    accelerate.Accelerator

    Raises
    ------
    ImportError
        If Accelerate is missing.
    ValueError
        If there is no such device, or weights would be sharded by FSDP of version 1.
    """
    try:
        from accelerate import DistributedType
    except ImportError as error:
        raise ImportError(
            f"FineTuneClassifier needs the package accelerate ({error}). "
            'Run: pip install "skdebias[finetune]"'
        ) from error
    accelerator = _fresh_accelerator(device, precision)
    if device not in ("auto", accelerator.device.type):
        raise ValueError(
            f"device={device!r} cannot be used on this machine, which has "
            f"{accelerator.device.type!r}: choose 'auto'."
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        _set_up_sharding(accelerator)
    return accelerator


def _fresh_accelerator(device: str, precision: str) -> Any:
    """Return a handle with these settings, whatever earlier fits had."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    names = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
    settings = {
        "cpu": device == "cpu",
        "mixed_precision": names[precision],
        "kwargs_handlers": [DistributedDataParallelKwargs()],
    }
    try:
        accelerator = Accelerator(**settings)
        # It remembers the settings of the process's first fit, and wants no others or
        # says nothing.
        available = automatic_device(needs_float64=False)
        on_cpu = accelerator.device.type == "cpu"
        stale = on_cpu and "cpu" not in (device, available)
    except ValueError:
        stale = True
    if stale:
        # Accelerate has no public way to forget them.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(**settings)
    return accelerator


def _set_up_sharding(accelerator: Any) -> None:
    """Have weights sharded, and nothing else about the training changed."""
    from accelerate.utils import disable_fsdp_ram_efficient_loading

    if not accelerator.is_fsdp2:
        raise ValueError(
            "fsdp_version=1: FineTuneClassifier shards weights by version 2 only. "
            "Run: accelerate launch --use_fsdp --fsdp_version 2 ..."
        )
    plugin = accelerator.state.fsdp_plugin
    # Autocast chooses the format of each operation, as it does without sharding;
    # weights and gradients stay in float32.
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    # Every process builds its networks. Accelerate could load into empty ones, but
    # none that have buffers in their state, such as those of batch normalisation.
    plugin.cpu_ram_efficient_loading = False
    disable_fsdp_ram_efficient_loading()


def agreed(value: Any) -> Any:
    """Return the first process's value: each may have come to its own.

    Parameters
    ----------
    value : object
        A number or a text.

    Returns
    -------
    object
    """
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def agree_on_weights(module: nn.Module) -> None:
    """Overwrite the weights and buffers of a module by those of the first process.

    Parameters
    ----------
    module : torch.nn.Module
    """
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return
    for value in module.state_dict().values():
        shared = value.to(state.device)
        torch.distributed.broadcast(shared, 0)
        value.copy_(shared)


def synchronised(
    accelerator: Any, model: nn.Module, *, is_last: bool
) -> AbstractContextManager[Any]:
    """Return the context of a backward pass, of which the last one of a step is shared.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
    model : torch.nn.Module
        What it prepared.
    is_last : bool
        Whether processes exchange the gradients of the step in this pass.

    Returns
    -------
    context manager
    """
    if is_last:
        return nullcontext()
    context: AbstractContextManager[Any] = accelerator.no_sync(model)
    return context


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Leave weights unsharded after a backward pass that is differentiated itself.

    Parameters
    ----------
    model : torch.nn.Module
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reshard_after_backward(False)
    model.set_is_last_backward(False)
    try:
        yield
    finally:
        model.set_reshard_after_backward(True)
        model.set_is_last_backward(True)


def local_shard(value: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value.detach()


def full_copy(value: Any) -> Any:
    """Return a tensor on the CPU, put together from the processes' shards of it."""
    if not isinstance(value, Tensor):
        return value
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().cpu().clone()
