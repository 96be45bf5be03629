"""Writing a cache's rows in formats other tools read."""

from pathlib import Path

import numpy as np

from embeddings_cache._errors import MissingExtraError
from embeddings_cache._folder import ShardFolder
from embeddings_cache._shard_reading import read_keys

SUFFIXES = (".npy", ".safetensors", ".parquet")


def check_suffix(path: Path) -> None:
    """Refuse an output name whose suffix names no format."""
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"path={str(path)!r} must end in one of {', '.join(SUFFIXES)}, "
            "which names the format"
        )


def export_rows(folder: ShardFolder, path: Path) -> tuple[int, int]:
    """Write every item of a folder once, sorted by key; return the shape."""
    check_suffix(path)
    parts = [read_keys(folder.path, record) for record in folder.records()]
    if not parts:
        raise ValueError(f"{folder.path} holds no embeddings yet")
    keys = np.unique(np.concatenate(parts))
    records, places = folder.find(keys)
    rows = np.empty((len(keys), records[0].columns), dtype=records[0].dtype)
    if (places < 0).any() or not folder.read(records, places, rows):
        raise ValueError(
            f"some rows of {folder.path} are damaged and were set aside; "
            "export again for the rest"
        )
    write_rows(path, rows, "key", [key.hex() for key in keys.tolist()])
    return rows.shape


def write_rows(path: Path, rows: np.ndarray, label: str, names: list[str]) -> None:
    """Write rows and what each is, in the format the suffix names.

    Parameters
    ----------
    path : Path
        ``.npy`` and ``.safetensors`` get the names, one per line, in
        ``<stem>.<label>s.txt`` beside them; ``.parquet`` has a column of them.
    rows : ndarray of shape (n, n_features)
        Embeddings.
    label : str
        What the names are: "key" or "item".
    names : list of str
        One per row.
    """
    check_suffix(path)
    if path.suffix == ".parquet":
        _write_parquet(path, rows, label, names)
        return
    if path.suffix == ".npy":
        np.save(path, rows, allow_pickle=False)
    else:
        from safetensors.numpy import save_file

        save_file({"x": np.ascontiguousarray(rows)}, path)
    lines = (name.replace("\n", " ") for name in names)
    text = "".join(f"{line}\n" for line in lines)
    path.with_suffix(f".{label}s.txt").write_text(text, encoding="utf-8")


def _write_parquet(path: Path, rows: np.ndarray, label: str, names: list[str]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"path={str(path)!r}: writing parquet needs pyarrow. "
            "Run: pip install pyarrow"
        ) from error
    values = pa.array(rows.astype(np.float32).ravel())
    embedding = pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    parquet.write_table(pa.table({label: names, "embedding": embedding}), path)
