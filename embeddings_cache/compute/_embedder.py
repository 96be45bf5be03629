"""Prepared items through the network: fast, in batches that fit, checked once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from embeddings_cache._context import standard_context
from embeddings_cache._memory import is_out_of_memory
from embeddings_cache._parallel import ordered_map, usual_threads
from embeddings_cache._settings import RunConfig
from embeddings_cache._thread_limits import own_threads
from embeddings_cache.backbones._base import Backbone
from embeddings_cache.compute._canary import (
    CANARY_ITEMS,
    check_agreement,
    exact_arithmetic,
)
from embeddings_cache.compute._device import pinned, to_device

_IN_FLIGHT = 2  # batches a GPU works on while the next ones are read

# Waits for the embeddings of a batch and returns them.
_Fetch = Callable[[], np.ndarray]


class Batch(NamedTuple):
    """Items of one forward pass: positions, names, and what was prepared."""

    indices: Sequence[int]
    names: Sequence[str]
    prepared: list[Any]

    def only(self, kept: list[int]) -> "Batch":
        """Return a batch of some of the items, by their positions in this one."""
        if len(kept) == len(self.prepared):
            return self
        indices = [self.indices[i] for i in kept]
        names = [self.names[i] for i in kept]
        return Batch(indices, names, [self.prepared[i] for i in kept])


def _joined(fetches: list[_Fetch]) -> _Fetch:
    if len(fetches) == 1:
        return fetches[0]
    return lambda: np.concatenate([fetch() for fetch in fetches])


class Embedder:
    """Computes embeddings on one device, in the fast way of its configuration.

    On CUDA, batches are put together and pinned by a thread, copied on a stream of
    their own, and their embeddings are fetched when later batches are under way.

    Parameters
    ----------
    backbone : Backbone
        On the configured device.
    config : RunConfig
        Device, types, batch size; the batch size is halved when memory runs out.

    Attributes
    ----------
    too_large : list of int
        Positions of items for which memory ran out although they were alone.
    """

    def __init__(self, backbone: Backbone, config: RunConfig) -> None:
        self.backbone = backbone
        self.config = config
        self._cuda = config.device.type == "cuda"
        self._copies = torch.cuda.Stream(config.device) if self._cuda else None
        self._checked = not self.how
        self._any_fits = False
        self.too_large: list[int] = []

    @property
    def how(self) -> list[str]:
        """What is faster than eager float32 arithmetic, as parameters; none is []."""
        config = self.config
        ways = []
        if config.dtype != torch.float32:
            name = str(config.dtype).removeprefix("torch.")
            ways.append(f"precision={name!r}")
        if self.backbone.channels_last:
            ways.append("the memory layout channels_last")
        if config.compile:
            ways.append("compile=True")
        return ways

    def embed(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each batch with its embeddings, float32, in the order of the batches.

        Items that are `too_large` are no longer in their batch.

        Raises
        ------
        CanaryError
            Before anything is yielded, if the fast way gives other numbers than the
            exact one.
        """
        waiting: deque[tuple[Batch, _Fetch]] = deque()
        in_flight = _IN_FLIGHT if self._cuda else 0
        staged = ordered_map(self._stage, batches, workers=int(self._cuda), ahead=2)
        for batch, collated in staged:
            fitting, fetch = self._launch(batch, collated)
            if not fitting.prepared:
                continue
            if not self._checked:
                rows, exact = fetch(), self._exact(fitting)
                dtype = self.config.dtype
                names = fitting.names
                check_agreement(rows[: len(exact)], exact, names, dtype, self.how)
                self._checked = True
            waiting.append((fitting, fetch))
            while len(waiting) > in_flight:
                done, fetch = waiting.popleft()
                yield done, fetch()
        for done, fetch in waiting:
            yield done, fetch()

    def _stage(self, batch: Batch) -> tuple[Batch, Any]:
        """Put a batch together; None instead if the host has no memory for it."""
        try:
            collated = self.backbone.collate(batch.prepared)
            if not self._cuda:
                return batch, collated
            # Pinned memory belongs to the context of a device.
            with self._on_its_device():
                return batch, pinned(collated)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return batch, None

    def _on_its_device(self) -> Any:
        """Make the configured device the current one of this thread."""
        return torch.cuda.device(self.config.device) if self._cuda else nullcontext()

    def _usual_threads(self) -> AbstractContextManager[None]:
        """Give operations on the CPU as many threads as in a fresh process.

        The last bits of a product depend on how many threads share it.
        """
        if self.config.device.type != "cpu":
            return nullcontext()
        return own_threads(usual_threads())

    def _exact(self, batch: Batch) -> np.ndarray:
        try:
            return self._exactly(batch.prepared[:CANARY_ITEMS])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self._free()
        return self._exactly(batch.prepared[:1])

    def _free(self) -> None:
        # The tensors of what has failed are free by now.
        if self._cuda:
            torch.cuda.empty_cache()

    def _exactly(self, few: list[Any]) -> np.ndarray:
        backbone = self.backbone
        collated = backbone.collate(few)
        with (
            standard_context(),
            self._usual_threads(),
            torch.inference_mode(),
            # The network is another one meanwhile.
            backbone.turns.alone(),
            exact_arithmetic(backbone.network, self.config.device),
        ):
            collated = to_device(collated, self.config.device)
            return self._checked_output(backbone.forward(collated), len(few))()

    def _launch(self, batch: Batch, collated: Any) -> tuple[Batch, _Fetch]:
        """Start one batch; what does not fit is halved, for good.

        An item that does not fit alone is left out, and the others are not halved for
        it.
        """
        total, wanted = len(batch.prepared), self.config.batch_size
        fetches: list[_Fetch] = []
        fitting: list[int] = []
        start = 0
        while start < total:
            size = min(self.config.batch_size, total - start)
            prepared = batch.prepared[start : start + size]
            # If nothing has fitted yet, the second failure is not the item's.
            last = not self._any_fits and bool(self.too_large)
            whole_batch = collated if size == total else None
            fetch = self._try(prepared, whole_batch, last=last and size == 1)
            if fetch is None:
                self._free()
                if size > 1:
                    self.config.batch_size = (size + 1) // 2
                    continue
                self.too_large.append(batch.indices[start])
                self.config.batch_size = wanted
            else:
                self._any_fits = True
                fetches.append(fetch)
                fitting += range(start, start + size)
            start += size
        return batch.only(fitting), _joined(fetches)

    def _try(self, prepared: list[Any], collated: Any, *, last: bool) -> _Fetch | None:
        """Start one forward pass; None if there is not enough memory for it.

        If it is the last try, the error of the lack is raised.
        """
        config, size = self.config, len(prepared)
        lower = config.dtype != torch.float32
        try:
            if collated is None:
                collated = self.backbone.collate(prepared)
            with (
                standard_context(),
                self._usual_threads(),
                torch.inference_mode(),
                # Casts that are remembered could be another thread's.
                torch.autocast(
                    config.device.type, dtype=config.dtype, cache_enabled=False
                )
                if lower
                else nullcontext(),
                self.backbone.turn(),
            ):
                output = self._forward(size)(self._on_device(collated))
                return self._checked_output(output, size)
        except (RuntimeError, MemoryError) as error:
            if last or not is_out_of_memory(error):
                raise
            return None

    def _forward(self, size: int) -> Callable[[Any], torch.Tensor]:
        # A last batch of another size would be compiled for itself.
        if not self.config.compile or size < self.config.batch_size:
            return self.backbone.forward
        if self.backbone.compiled is None:
            self.backbone.compiled = torch.compile(self.backbone.forward)
        return self.backbone.compiled

    def _on_device(self, collated: Any) -> Any:
        device = self.config.device
        copying = torch.cuda.stream(self._copies) if self._copies else nullcontext()
        with copying:
            batch = to_device(collated, device)
        if self._copies is not None:
            computing = torch.cuda.current_stream(device)
            computing.wait_stream(self._copies)
            for tensor in batch.values() if isinstance(batch, dict) else [batch]:
                if isinstance(tensor, torch.Tensor):
                    # Its memory was given out by the stream of copies.
                    tensor.record_stream(computing)
        if self.backbone.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch

    def _checked_output(self, output: torch.Tensor, n_items: int) -> _Fetch:
        """Return a function that waits for the rows and returns them."""
        if output.ndim != 2 or len(output) != n_items:
            raise ValueError(
                f"the backbone returned shape {tuple(output.shape)} for "
                f"{n_items} items; an embedding is one vector per item: "
                "choose layer and pooling, or return (n, n_features)"
            )
        rows = output.float()
        if not self._cuda:
            fetched: np.ndarray = rows.cpu().numpy()
            return lambda: fetched
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        done = torch.cuda.Event()
        # The stream that copies, which is not the current device's everywhere.
        done.record(torch.cuda.current_stream(rows.device))

        def fetch() -> np.ndarray:
            done.synchronize()
            values: np.ndarray = host.numpy()
            return values

        return fetch


@contextmanager
def ready(backbone: Backbone, config: RunConfig) -> Iterator[Embedder]:
    """Put the network on its device and in its layout; yield what embeds with it.

    The context of torch is that of each pass: what a caller does between two of them
    is not computed in it.
    """
    with standard_context(), backbone.turns.alone():
        network = backbone.network.to(config.device)
        if backbone.channels_last:
            network.to(memory_format=torch.channels_last)
    backbone.one_at_a_time |= config.compile
    try:
        embedder = Embedder(backbone, config)
        with embedder._on_its_device():
            yield embedder
    finally:
        if backbone.finish is not None:
            backbone.finish()
