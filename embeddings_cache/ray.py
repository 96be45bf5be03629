"""Embeddings inside a Ray Data pipeline.

Ray starts the processes, moves the batches and tries again; the cache makes what is
tried again, or run again tomorrow, cost nothing.
"""

from typing import Any

import numpy as np

from embeddings_cache._extractor import EmbeddingExtractor

__all__ = ["EmbedColumn"]


class EmbedColumn:
    """Callable class for ``map_batches``: embeds one column through a shared cache.

    Ray Data makes one object per actor, so the network is loaded once per actor, and
    all actors write to one cache folder, which must be on a file system that every
    machine sees.

    Parameters
    ----------
    column : str
        Column to embed: texts, paths, encoded images (bytes), or uint8 images.
    into : str or None, default="embedding"
        Column that receives the embeddings, float32. None only fills the cache and
        passes the batch on as it is.
    **parameters
        Those of `EmbeddingExtractor`. ``progress`` is False unless given.

    See Also
    --------
    EmbeddingExtractor : the same without Ray.

    Notes
    -----
    Items that cannot be read fail their batch with `UnreadableItemError`, after all
    other items of it were kept. By default this ends the pipeline; Ray's
    ``DataContext.max_errored_blocks`` lets it go on without these batches.

    ``ray`` is not imported here: any mapping of columns to arrays will do.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from embeddings_cache.ray import EmbedColumn
    >>> embed = EmbedColumn(
    ...     "image",
    ...     backbone="timm:resnet18",
    ...     pretrained=False,
    ...     preprocess={"size": 64},
    ...     cache_dir=tempfile.mkdtemp(),
    ... )
    >>> batch = embed({"image": np.zeros((3, 32, 32), np.uint8), "y": np.arange(3)})
    >>> {name: values.shape for name, values in batch.items()}
    {'image': (3, 32, 32), 'y': (3,), 'embedding': (3, 512)}

    In a pipeline, with two actors of one GPU each::

        dataset = ray.data.read_parquet("reviews").map_batches(
            EmbedColumn,
            fn_constructor_args=["text"],
            fn_constructor_kwargs={
                "backbone": "sentence-transformers:all-MiniLM-L6-v2",
                "cache_dir": "/shared/embeddings",
            },
            concurrency=2,
            num_gpus=1,
            batch_size=4096,
        )
    """

    def __init__(
        self, column: str, *, into: str | None = "embedding", **parameters: Any
    ) -> None:
        self.column = column
        self.into = into
        self.extractor = EmbeddingExtractor(**{"progress": False, **parameters})

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed the column of one batch.

        Parameters
        ----------
        batch : dict of str to ndarray
            Columns of equal length.

        Returns
        -------
        dict of str to ndarray
            The columns, and the embeddings of shape (n, n_features).

        Raises
        ------
        ValueError
            If the batch has no such column.
        """
        if self.column not in batch:
            raise ValueError(
                f"column={self.column!r} is not in the batch; it has "
                + ", ".join(repr(name) for name in batch)
            )
        items = batch[self.column]
        if self.into is None:
            self.extractor.precompute(items)
            return batch
        return {**batch, self.into: self.extractor.transform(items)}
