"""The bars of transformers, which say nothing of files that are here."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_files(*, quiet: bool = True) -> Iterator[None]:
    """Switch off the bars of transformers for local files.

    Parameters
    ----------
    quiet : bool, default=True
        Whether to do so.

    Yields
    ------
    None

    Examples
    --------
    >>> from embeddings_cache.networks import quiet_files
    >>> with quiet_files(quiet=False):
    ...     pass
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if quiet:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if quiet and shown:
            logging.enable_progress_bar()
