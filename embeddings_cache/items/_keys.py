"""Item keys of a call: from the table of files where it knows them, else by reading."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from embeddings_cache._errors import BadItem, ItemError
from embeddings_cache._fingerprint import KEY_BYTES
from embeddings_cache._parallel import ordered_map
from embeddings_cache._progress import Progress
from embeddings_cache.items._item import Item, read_keys
from embeddings_cache.items._readers import Texts
from embeddings_cache.store._file_hashes import FileHashCache, file_state, settled_state
from embeddings_cache.store._shards import KEY_DTYPE

_TEXTS = 4096  # texts hashed between two looks at the bar
_CHUNK = 64  # items of one task; a task costs more than a small file


def item_keys(
    items: Sequence[Item],
    workers: int,
    progress: Progress,
    file_hashes: FileHashCache | None,
) -> tuple[np.ndarray, list[BadItem]]:
    """Return the key of every item.

    Parameters
    ----------
    items : sequence of Item
        Items of a call.
    workers : int
        Threads that read.
    progress : Progress
        Shows the bar.
    file_hashes : FileHashCache or None
        Known files, which are not read; None reads every file.

    Returns
    -------
    keys : ndarray of shape (n,), 32-byte void
        Zero where the item cannot be read.
    bad : list of BadItem
        The items that cannot be read.
    """
    results: list[bytes | ItemError] = []
    bad: list[BadItem] = []
    known = _known(items, workers, file_hashes)

    def read(start: int) -> list[bytes | ItemError]:
        chunk = slice(start, start + step)
        if isinstance(items, Texts):
            return items.keys(chunk)
        pairs = zip(known[chunk], items[chunk])
        return [key or _read(item, file_hashes) for key, item in pairs]

    step = _TEXTS if isinstance(items, Texts) else _CHUNK
    starts = range(0, len(items), step)
    parts = ordered_map(read, starts, workers, ahead=4 * max(1, workers))
    with progress.bar(len(items), "reading") as bar:
        for part in parts:
            if set(map(type, part)) != {bytes}:
                bad += [
                    BadItem(index, items[index].name, str(result))
                    for index, result in enumerate(part, len(results))
                    if isinstance(result, ItemError)
                ]
            results += part
            bar.update(len(part))
    if file_hashes is not None:
        file_hashes.save()
    for entry in bad:
        results[entry.index] = bytes(KEY_BYTES)
    keys: list[Any] = results  # no error is left
    return np.frombuffer(b"".join(keys), dtype=KEY_DTYPE), bad


def _known(
    items: Sequence[Item], workers: int, file_hashes: FileHashCache | None
) -> list[bytes | None]:
    if file_hashes is None or not any(item.path for item in items):
        return [None] * len(items)

    def states(start: int) -> list[bytes | None]:
        part = items[start : start + _CHUNK]
        return [file_state(item.path) if item.path else None for item in part]

    starts = range(0, len(items), _CHUNK)
    chunks = ordered_map(states, starts, workers, ahead=4 * max(1, workers))
    return file_hashes.look_up([state for part in chunks for state in part])


def _read(item: Item, file_hashes: FileHashCache | None) -> bytes | ItemError:
    path = item.path or ""
    state = settled_state(path) if file_hashes and path else None
    (key,) = read_keys([item])
    # The same state before and after: what was read in between is its content.
    if (
        file_hashes
        and state
        and isinstance(key, bytes)
        and file_state(item.path or "") == state
    ):
        file_hashes.learn(state, key)
    return key
