"""The scikit-learn transformer: items in, embeddings out, computed once."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)

from embeddings_cache._context import standard_context
from embeddings_cache._fingerprint import digest
from embeddings_cache._loading import NetworkSlot, Request
from embeddings_cache._parallel import auto_workers
from embeddings_cache._parameters import check_parameters
from embeddings_cache._paths import expanded
from embeddings_cache._progress import Progress
from embeddings_cache._settings import RunReport
from embeddings_cache.backbones._request import description_request
from embeddings_cache.items._item import Item
from embeddings_cache.items._readers import read_items
from embeddings_cache.store._descriptions import DescriptionCache, StaleDescriptionError
from embeddings_cache.store._file_hashes import FileHashCache
from embeddings_cache.store._store import EmbeddingStore

if TYPE_CHECKING:
    from embeddings_cache._job import Job
    from embeddings_cache.backbones._base import Backbone
    from embeddings_cache.compute._runner import Runner
    from embeddings_cache.items._partition import Partition

_RUNTIME = ("_slot",)


class EmbeddingExtractor(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Embed images or texts with a frozen network, each item once.

    Embeddings are kept in a cache folder under two digests: one of the item's content
    and one of everything that changes a number (library, weights, preprocessing,
    output point, number formats). So an item is found again whatever its path, its
    position or the call, and a changed model never returns another model's numbers.

    Parameters
    ----------
    backbone : str or torch.nn.Module, default="timm:resnet50"
        ``"timm:<name>"``, ``"torchvision:<name>[/<weights>]"``,
        ``"open_clip:<architecture>[/<tag>]"``, ``"sentence-transformers:<name or
        folder>"``, or a network that maps a batch to vectors (give `preprocess`).
    cache_dir : path-like, default=None
        Cache folder. ``None`` takes the environment variable ``EMBEDDINGS_CACHE``,
        else the user's cache folder of the platform.
    pretrained : bool, default=True
        Published weights, downloaded by the library if need be. False builds the
        architecture with seeded random weights, which are the same every time.
    weights : path-like, default=None
        Local safetensors file (a folder for sentence encoders); wins over
        `pretrained`. Every tensor must fit. Pickled checkpoints are refused.
    layer : int or str, default=None
        Output point: number of a block (negative from the end) or name of a
        submodule. ``None`` is the network's own embedding.
    pooling : {"default", "cls", "mean"}, default="default"
        How positions become one vector, where the network has positions: its own
        way, the class token, or the mean over patches or words.
    device : str or torch.device, default="auto"
        "auto" is the current CUDA device, else MPS, else the CPU; of a network of
        the user's own it is where that network is.
    precision : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Compute type. "auto" is float32 on the CPU, and bfloat16 (or float16, where
        that is missing or emulated) by autocast on CUDA. float32 is never TF32.
    storage_dtype : {"float16", "float32"}, default="float16"
        Type in the cache; values beyond it are an error, never infinity.
    batch_size : int or "auto", default="auto"
        Items per forward pass; halved when memory runs out.
    num_workers : int or "auto", default="auto"
        Readers, which work ahead of the network; 0 reads in the calling thread.
    worker_type : {"auto", "thread", "process"}, default="auto"
        What decodes and prepares images. "auto" is threads, and processes where
        Python lets no more threads run at once: from 8 readers on, for 10,000 images
        or more, since processes take seconds to start (they import the libraries of
        the preprocessing, not the network). PIL images, columns of data sets and a
        callable `preprocess` have threads then; an image that ends its process, by a
        fault in a decoder or for want of memory, is unreadable and the others are
        computed. "process" wants processes and is an error where something cannot be
        sent to them. Texts always have threads.
    progress : bool, default=True
        Bars, and a line on what was found and computed, on the error stream.
    model_kwargs : dict, default=None
        Passed to the library's constructor. Options that load weights or code are
        refused.
    preprocess : dict or callable, default=None
        Overrides of the model's reference preprocessing: ``mean``, ``std`` (three
        numbers), ``size`` (pixels), ``crop`` (kept part of the resized shorter side,
        or a crop mode), ``interpolation``. For a network of your own also a callable
        from an RGB PIL image (or a text) to a tensor; it needs an attribute
        ``cache_description`` unless it is made of transforms of torchvision or timm
        that are known to be deterministic.
    compile : bool, default=False
        Compile the network with ``torch.compile``: minutes at first, then up to twice
        as fast for convolutional networks on a GPU, and little for transformers.
    rehash : bool, default=False
        Read every file, and build the network, even if nothing has to be computed.
        By default a file whose path, size, times and inode are those of an earlier
        call is not read again, and a network of local or random weights not built.
    modality : {"auto", "image", "text"}, default="auto"
        Which tower of a model that has both, and how a list of strings is read: as
        paths or as texts. "auto" is text for sentence encoders, else image.

    Attributes
    ----------
    last_run_ : RunReport
        After a transform: ``n_items``, ``n_found``, ``n_computed``,
        ``n_duplicates``, ``n_unreadable``, ``n_damaged``, ``n_truncated`` (computed
        texts that the network takes the beginning of), ``seconds``, ``readers``.

    See Also
    --------
    EmbeddingStore : check, prune and export a cache.

    Notes
    -----
    ``fit`` learns nothing. Pickles and clones carry the parameters, never weights.
    Different batch sizes, devices or numbers of cores can change an embedding in its
    last bits; they are not part of the key. What the caller has switched on in torch,
    such as autocast, another default type or number of threads, has no effect:
    ``OMP_NUM_THREADS`` limits the threads of a network on the CPU. An extractor may be
    used by several threads. A `torch.nn.Module` is copied for each call.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from embeddings_cache import EmbeddingExtractor
    >>> images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    >>> images[1] = 255
    >>> extractor = EmbeddingExtractor(
    ...     "timm:resnet18",
    ...     pretrained=False,
    ...     cache_dir=tempfile.mkdtemp(),
    ...     preprocess={"size": 64},
    ...     progress=False,
    ... )
    >>> extractor.transform(images).shape
    (3, 512)
    >>> extractor.last_run_.n_computed
    2
    """

    def __init__(
        self,
        backbone: Any = "timm:resnet50",
        *,
        cache_dir: Any = None,
        pretrained: Any = True,
        weights: Any = None,
        layer: Any = None,
        pooling: Any = "default",
        device: Any = "auto",
        precision: Any = "auto",
        storage_dtype: Any = "float16",
        batch_size: Any = "auto",
        num_workers: Any = "auto",
        worker_type: Any = "auto",
        progress: Any = True,
        model_kwargs: Any = None,
        preprocess: Any = None,
        compile: Any = False,
        rehash: Any = False,
        modality: Any = "auto",
    ) -> None:
        self.backbone = backbone
        self.cache_dir = cache_dir
        self.pretrained = pretrained
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.device = device
        self.precision = precision
        self.storage_dtype = storage_dtype
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.worker_type = worker_type
        self.progress = progress
        self.model_kwargs = model_kwargs
        self.preprocess = preprocess
        self.compile = compile
        self.rehash = rehash
        self.modality = modality

    def fit(self, X: Any = None, y: Any = None) -> "EmbeddingExtractor":
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X, y : ignored
            For scikit-learn.

        Returns
        -------
        EmbeddingExtractor
            The extractor itself.
        """
        check_parameters(self.get_params(deep=False))
        return self

    def transform(self, X: Any, out: str = "array") -> np.ndarray:
        """Return the embedding of every item, from the cache where it is there.

        Parameters
        ----------
        X : path-like, sequence or ndarray
            For images: a folder (image files in sorted order, recursively), a
            ``metadata.csv`` (column ``img_filename``, or the first whose values are
            files), a sequence of paths, PIL images or encoded bytes, a uint8 array
            (n, height, width) or (n, height, width, 3), or one column of a Hugging
            Face data set. For texts: a sequence of strings.
        out : {"array", "memmap"}, default="array"
            "memmap" returns a read-only view of the cache in the storage type,
            without reading it.

        Returns
        -------
        ndarray of shape (n_items, n_features)
            float32, or the storage type for "memmap"; rows in the order of the items.

        Raises
        ------
        UnreadableItemError
            If items cannot be read. All others are computed and kept first.
        EmbeddingValueError
            If an embedding has NaN or infinite values, or values beyond the storage
            type.
        CanaryError
            If the fast way to compute (`precision`, `compile`, memory layout) gives
            other embeddings than float32 arithmetic; nothing is stored then.
        """
        if out not in ("array", "memmap"):
            raise ValueError(f"out={out!r} must be 'array' or 'memmap'")
        rows: np.ndarray = self._run(
            X, lambda job: job.mapped() if out == "memmap" else job.array()
        )
        return rows

    def precompute(
        self,
        X: Any,
        *,
        shard: tuple[int, int] = (0, 1),
        output: str | os.PathLike[str] | None = None,
    ) -> RunReport:
        """Compute what the cache does not have, without returning any embedding.

        This is the command ``embeddings-cache extract``: it needs no memory for the
        rows, and several processes can share the work.

        Parameters
        ----------
        X : path-like, sequence or ndarray
            Items as for `transform`.
        shard : (int, int), default=(0, 1)
            ``(i, n)`` takes part i, from 0, of n parts of the items. Parts are told
            by texts or paths, so all processes must be given the same items.
        output : path-like, default=None
            Also write the embeddings of all items, in their order and in the storage
            type, to this file: ``.npy`` or ``.safetensors`` (tensor ``x``), with the
            paths or texts, one per line, in ``<stem>.items.txt``; or ``.parquet``
            (columns ``item`` and ``embedding``). An existing file is replaced when
            the new one is whole.

        Returns
        -------
        RunReport
            What was found and computed, of this part of the items.

        Raises
        ------
        UnreadableItemError
            If items cannot be read. All others are computed and kept first.
        EmbeddingValueError
            If an embedding has NaN or infinite values, or values beyond the storage
            type.

        See Also
        --------
        transform : returns the embeddings.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from embeddings_cache import EmbeddingExtractor
        >>> images = np.arange(4, dtype=np.uint8).repeat(32 * 32).reshape(4, 32, 32)
        >>> extractor = EmbeddingExtractor(
        ...     "timm:resnet18",
        ...     pretrained=False,
        ...     cache_dir=tempfile.mkdtemp(),
        ...     preprocess={"size": 64},
        ...     progress=False,
        ... )
        >>> parts = [extractor.precompute(images, shard=(i, 2)) for i in range(2)]
        >>> sum(part.n_computed for part in parts)
        4
        >>> extractor.precompute(images).n_found
        4
        """
        from embeddings_cache.items._partition import Partition
        from embeddings_cache.store._export import check_output

        part = Partition(*shard)
        if output is None:
            self._run(X, lambda job: job.fill(), part)
            return self.last_run_
        if part.count > 1:
            raise ValueError(
                f"output={os.fspath(output)!r} takes the embeddings of all items, and "
                f"this is part {part.index} of {part.count}. When all parts are done, "
                "make the same call without shard: it finds every embedding"
            )
        path = expanded(output)
        check_output(path)
        self._run(X, lambda job: job.save(path))
        return self.last_run_

    @standard_context()
    def _run(
        self, X: Any, act: Callable[["Job"], Any], part: "Partition | None" = None
    ) -> Any:
        """Make the call's items a job, act on it, and report."""
        started = time.perf_counter()
        parameters = check_parameters(self.get_params(deep=False))
        items = read_items(X, parameters["modality"])
        if not items:
            raise ValueError("items is empty; give at least one item to embed")
        if part is not None:
            items = part.of(items, parameters["modality"])
        try:
            return self._act(items, act, parameters, started)
        except StaleDescriptionError:
            return self._act(items, act, parameters, started, build=True)

    def _act(
        self,
        items: Sequence[Item],
        act: Callable[["Job"], Any],
        parameters: dict[str, Any],
        started: float,
        *,
        build: bool = False,
    ) -> Any:
        """Act on a job of the items, without building the network if it can be."""
        from embeddings_cache._job import Job

        progress = Progress(bool(self.progress))
        store = EmbeddingStore(self.cache_dir)
        file_hashes = FileHashCache(store.root)
        request = Request(parameters)
        remembered = DescriptionCache(
            store.root, partial(description_request, request.settings, file_hashes)
        )
        description, backbone = self._identify(
            request, remembered, progress, build or self.rehash
        )
        folder = store.open(description)
        auto = self.num_workers == "auto"
        workers = auto_workers(len(items)) if auto else self.num_workers

        def make_runner() -> "Runner":
            from embeddings_cache.compute._runner import Runner

            built = backbone or self._network.load(request, progress)
            if backbone is None and request.describe(built) != description:
                remembered.put(built.description, built.note)
                raise StaleDescriptionError
            config = request.run_config(built, workers)
            return Runner(built, folder, config, progress)

        job = Job(
            items,
            folder,
            make_runner,
            modality=parameters["modality"],
            storage_dtype=self.storage_dtype,
            num_workers=workers,
            file_hashes=None if self.rehash else file_hashes,
            progress=progress,
        )
        try:
            return act(job)
        finally:
            self.last_run_ = job.report(time.perf_counter() - started)
            self._n_features = job.n_features or getattr(self, "_n_features", None)
            progress.line(str(self.last_run_))

    def _identify(
        self,
        request: Request,
        remembered: DescriptionCache,
        progress: Progress,
        build: bool,
    ) -> "tuple[dict[str, Any], Backbone | None]":
        """Return the description, and the network if it had to be built for it."""
        backbone = self._network.at_hand(request)
        if backbone is None and not build:
            description = request.recall(remembered, progress)
            if description is not None:
                return description, None
        if backbone is None:
            backbone = self._network.load(request, progress)
            remembered.put(backbone.description, backbone.note)
        return request.describe(backbone), backbone

    @property
    def _network(self) -> NetworkSlot:
        # Not made by the constructor, which keeps parameters only.
        slot: NetworkSlot = self.__dict__.setdefault("_slot", NetworkSlot())
        return slot

    @standard_context()
    def describe(self) -> dict[str, Any]:
        """Return everything that changes a number, as it goes into the key.

        Returns
        -------
        dict
            Plain JSON values. ``description["weights"]`` has ``random_seed`` for
            seeded random weights, else the digest of all tensors.
        """
        request = Request(check_parameters(self.get_params(deep=False)))
        return request.describe(self._network.load(request, Progress(False)))

    def extractor_key(self) -> str:
        """Return the digest of `describe`, which names this extractor's folder.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        return digest(self.describe())

    @property
    def _n_features_out(self) -> int:
        run = getattr(self, "_n_features", None)
        if run is None:
            raise AttributeError(
                "call transform first: it tells the number of features"
            )
        return int(run)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self.backbone, str):
            raise TypeError(
                f"backbone={type(self.backbone).__name__}(...): an extractor around a "
                "torch.nn.Module cannot be pickled, since its pickle would hold the "
                "weights. Save the weights as safetensors and name a library's "
                "backbone with weights=, or pickle the embeddings"
            )
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in _RUNTIME}
