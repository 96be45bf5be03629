"""How a call runs, and what it reports; neither needs torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class RunConfig:
    """How to run: nothing here changes a number, so nothing here is in a key.

    Attributes
    ----------
    device : torch.device
        Where the network runs.
    dtype : torch.dtype
        Compute type; below float32 by autocast.
    storage_dtype : {"float16", "float32"}
        Type in the cache.
    batch_size : int
        Items per forward pass; halved when memory runs out.
    num_workers : int
        Readers.
    worker_type : {"auto", "thread", "process"}
        What the readers of images are.
    compile : bool
        Whether the network is compiled.
    """

    device: "torch.device"
    dtype: "torch.dtype"
    storage_dtype: str
    batch_size: int
    num_workers: int
    worker_type: str = "auto"
    compile: bool = False


@dataclass(frozen=True)
class RunReport:
    """What one transform did.

    Parameters
    ----------
    n_items : int
        Items of the call.
    n_found : int
        Items whose embedding was in the cache.
    n_computed : int
        Distinct items computed.
    n_duplicates : int
        Items equal to a computed one of the same call.
    n_unreadable : int
        Items that could not be read.
    n_damaged : int
        Damaged cache entries that were set aside.
    n_features : int
        Length of an embedding; 0 if the call ended before it was known.
    seconds : float
        Wall time.
    readers : str
        What read the computed items, and why not processes where those were meant;
        empty if the calling thread did, or nothing was computed.
    n_truncated : int
        Computed texts that the network took the beginning of, since they are longer
        than it reads. Texts found in the cache were counted when they were computed.
    left_out : str
        What a folder holds beside the items, in one line; empty if nothing.
    """

    n_items: int
    n_found: int
    n_computed: int
    n_duplicates: int
    n_unreadable: int
    n_damaged: int
    n_features: int
    seconds: float
    readers: str = ""
    n_truncated: int = 0
    left_out: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.n_items} items: {self.n_found} found in the cache, "
            f"{self.n_computed} computed"
        )
        for number, what in (
            (self.n_duplicates, "duplicates"),
            (self.n_unreadable, "unreadable"),
            (self.n_damaged, "damaged cache entries set aside"),
            (self.n_truncated, "texts cut at the network's maximum length"),
        ):
            text += f", {number} {what}" if number else ""
        text += f"; {self.left_out}" if self.left_out else ""
        readers = f"; {self.readers}" if self.readers else ""
        return f"{text} ({self.seconds:.1f} s{readers})"
