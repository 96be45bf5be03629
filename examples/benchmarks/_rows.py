"""Tables 3 and 4 of cache.py: reading and writing rows that are computed."""

import itertools
import os

import _common as common
import numpy as np
import torch

from embeddings_cache import EmbeddingExtractor, EmbeddingStore
from embeddings_cache.store._shards import KEY_DTYPE

BANDWIDTH = 0.5
OPEN_MS = 50
STORE_US = 20
SHARD_BYTES = 64 << 20


class Waves(torch.nn.Module):
    """Any number of features of a number, at no cost."""

    cache_description = "waves"

    def __init__(self, n_features):
        super().__init__()
        self.register_buffer("steps", torch.linspace(0.1, 1, n_features))

    def forward(self, numbers):
        return torch.sin(numbers[:, None] * self.steps)


def number(text):
    return torch.tensor(float(text))


number.cache_description = "number"


def warm(folder, arguments):
    """Table 3."""
    rows, features = arguments.rows, arguments.features
    common.title(3, f"Rows in the cache: {rows} x {features} float16")
    extractor = EmbeddingExtractor(
        Waves(features),
        preprocess=number,
        modality="text",
        cache_dir=folder / "cache",
        batch_size=1000,
        num_workers=0,
        device="cpu",
        progress=False,
    )
    items = [str(n) for n in range(rows)]
    extractor.transform(items)
    # Another order than that of the shards, which have similar lengths together.
    shuffled = [items[n] for n in np.random.default_rng(0).permutation(rows)]
    flat = folder / "flat"
    extractor.transform(items, out="memmap").tofile(flat)

    def read():
        return np.fromfile(flat, dtype=np.float16)

    def converted():
        return torch.from_numpy(read()).float().numpy()

    print(
        "Items are texts, which are hashed each time. One shard has them in their "
        "order, except for the row that says otherwise."
    )
    runs = {
        "flat file": read,
        "flat file, to float32": converted,
        "transform, to float32": lambda: extractor.transform(items),
        "transform, items in random order": lambda: extractor.transform(shuffled),
        "transform(out='memmap')": lambda: extractor.transform(items, out="memmap"),
    }
    for run in runs.values():
        run()
    compared(runs, "all files in the page cache", arguments)
    if hasattr(os, "posix_fadvise"):
        names = ("flat file", "flat file, to float32", "transform, to float32")
        cold = {name: runs[name] for name in names}
        compared(cold, "no file in it", arguments, lambda: drop(folder))
    opening(extractor, items, arguments)


def drop(folder):
    """Take all files below a folder out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compared(runs, state, arguments, before=lambda: None):
    """Time ways to read the same rows."""
    seconds, _ = common.rounds(arguments.repeats, runs, before=before)
    common.head(
        f"reading, {state}",
        "seconds",
        "bandwidth over that of the flat file (lowest to highest)",
        "over that to float32",
        "target",
        "reached",
    )
    for name, values in seconds.items():
        ratio = seconds["flat file"] / values
        other = seconds["flat file, to float32"] / values
        target = common.judge(common.median(ratio), BANDWIDTH)
        common.say(
            name,
            f"{common.median(values):.3g}",
            common.spread(ratio),
            common.spread(other),
            *(target if name == "transform, to float32" else ("", "")),
        )


def opening(extractor, items, arguments):
    """Time to map rows of known items, for two sizes."""
    common.head("opening as a memory map", "MiB", "milliseconds", "target", "reached")
    folder = EmbeddingStore(extractor.cache_dir).folder(extractor.extractor_key())
    for count in (len(items) // 10, len(items)):
        mapped = extractor.transform(items[:count], out="memmap")
        keys = np.array([_key(text) for text in items[:count]], dtype=KEY_DTYPE)
        runs = {"open": lambda keys=keys: folder.map(folder.exact_shard(keys))[-1]}
        seconds, _ = common.rounds(max(5, arguments.repeats), runs)
        taken = 1000 * common.median(seconds["open"])
        common.say(
            f"{count} rows, keys at hand",
            f"{mapped.nbytes / 2**20:.0f}",
            common.spread(1000 * seconds["open"]),
            *common.judge(taken, OPEN_MS, at_most=True),
        )


def _key(text):
    import hashlib

    return hashlib.sha256(text.encode()).digest()


def store(folder, arguments):
    """Table 4."""
    rows, features = arguments.rows, arguments.features
    common.title(4, f"Store: writing {rows} x {features} float16")
    print("Both write to the same disk and wait for it (fsync).")
    values = np.random.default_rng(0).random((rows, features), dtype=np.float32)
    values = values.astype(np.float16)
    keys = np.random.default_rng(1).bytes(32 * rows)
    keys = np.frombuffer(keys, dtype=KEY_DTYPE)
    step = max(1, SHARD_BYTES // (2 * features))
    count = itertools.count()

    def shards():
        place = EmbeddingStore(folder / f"cache-{next(count)}").open({"n": 1})
        for start in range(0, rows, step):
            part = values[start : start + step]
            place.write(
                keys[start : start + step],
                [part],
                columns=features,
                dtype="float16",
                provenance={},
            )

    def flat():
        with (folder / f"flat-{next(count)}").open("wb") as file:
            file.write(values.data)
            file.flush()
            os.fsync(file.fileno())

    seconds, _ = common.rounds(
        arguments.repeats, {"flat file": flat, "shards, keys and commits": shards}
    )
    common.head("writing", "seconds", "microseconds per item", "target", "reached")
    for name, taken in seconds.items():
        common.say(
            name,
            f"{common.median(taken):.3g}",
            common.spread(1e6 * taken / rows),
            "",
            "",
        )
    extra = 1e6 * (seconds["shards, keys and commits"] - seconds["flat file"]) / rows
    common.say(
        "overhead of the store",
        "",
        common.spread(extra),
        *common.judge(common.median(extra), STORE_US, at_most=True),
    )
