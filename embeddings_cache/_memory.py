"""Which errors mean that memory ran out."""

import torch

# What PyTorch's libraries say when memory runs out, in lower case: the allocators of
# CUDA, HIP, MPS and pinned memory, that of the CPU, cuBLAS and its like, and cuDNN,
# which finds no algorithm for what is left.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "_status_alloc_failed",
    "_status_insufficient_resources",
    "host_allocation_failed",
    "cublas_status_not_initialized",
    "unable to find an engine to execute",
    "unable to find a valid cudnn algorithm",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a smaller batch could have worked.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    bool

    Examples
    --------
    >>> from embeddings_cache.networks import is_out_of_memory
    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in _OUT_OF_MEMORY
    )
