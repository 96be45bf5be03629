"""From the arguments of ``extract`` to items: files, patterns, tables, data sets."""

import glob
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings_cache._errors import MissingExtraError
from embeddings_cache._paths import expanded, refuse_special, refuse_url
from embeddings_cache.items._folders import Paths
from embeddings_cache.items._images import SUFFIXES
from embeddings_cache.items._tables import paths_below, separator_hint

# Columns that are taken without being named, by modality.
_USUAL = {"text": ("text", "sentence"), "image": ("img_filename", "image")}
_WILDCARDS = frozenset("*?[")


@dataclass
class Sources:
    """What the command line names as items.

    Parameters
    ----------
    modality : {"image", "text"}
        What the backbone takes.
    column : str or None
        Column of tables and data sets; None takes the usual ones.
    """

    modality: str
    column: str | None = None

    def read(self, arguments: Sequence[str]) -> Any:
        """Return items as `EmbeddingExtractor.transform` takes them.

        Parameters
        ----------
        arguments : sequence of str
            Folders, files, quoted patterns, or folders of data sets.

        Returns
        -------
        sequence
            Texts, paths, encoded images, or one lazy column.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the argument and the remedy.
        """
        paths = [path for argument in arguments for path in _expand(argument)]
        if self.column is not None and not any(_has_columns(path) for path in paths):
            raise ValueError(
                f"column={self.column!r}: none of {', '.join(arguments)} has columns"
            )
        parts = [self._read(path) for path in paths]
        if len(parts) == 1:
            return parts[0]
        left_out = filter(None, (getattr(part, "left_out", "") for part in parts))
        return Paths((item for part in parts for item in part), "; ".join(left_out))

    def _read(self, path: Path) -> Sequence[Any]:
        refuse_url(path, "items")
        refuse_special(path, "items")
        if not path.exists():
            raise FileNotFoundError(f"items={str(path)!r}: no such file or folder")
        if _is_data_set(path):
            return self._data_set(path)
        if path.suffix.lower() in _TABLES:
            return self._table(path)
        if self.modality == "text":
            return _lines(path)
        if path.suffix.lower() == ".txt":
            return [path.parent / line for line in _lines(path)]
        return paths_below(path)

    def _table(self, path: Path) -> Sequence[Any]:
        suffix = path.suffix.lower()
        if (self.modality, suffix, self.column) == ("image", ".csv", None):
            return paths_below(path)
        try:
            values = _TABLES[suffix](path, lambda names: self._choose(path, names))
        except UnicodeDecodeError as error:
            raise _not_text(path, error) from error
        if self.modality == "text":
            return values
        # Like those of a metadata.csv, paths are relative to the table.
        return [path.parent / v if isinstance(v, str) else v for v in values]

    def _data_set(self, path: Path) -> Sequence[Any]:
        try:
            import datasets
        except ImportError as error:
            raise MissingExtraError(
                f"items={str(path)!r} is a data set of Hugging Face, which needs the "
                f'package datasets ({error}). Run: pip install "skdebias[datasets]"'
            ) from error
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            raise ValueError(
                f"items={str(path)!r} has several splits; give the folder of one: "
                + ", ".join(repr(str(path / split)) for split in loaded)
            )
        name = self._choose(path, loaded.column_names)
        if self.modality == "text":
            return list(loaded[name])
        # Encoded images have the keys of their files; decoded ones would not.
        encoded = datasets.Image(decode=False)
        column: Sequence[Any] = loaded.cast_column(name, encoded)[name]
        return column

    def _choose(self, path: Path, names: Sequence[str]) -> str:
        """Return the column to read: the one asked for, a usual one, or the only."""
        usual = (self.column,) if self.column is not None else _USUAL[self.modality]
        for name in usual:
            if name in names:
                return str(name)
        if self.column is None and len(names) == 1:
            return names[0]
        raise ValueError(
            f"column={self.column!r}: choose one of the columns of {str(path)!r}: "
            + ", ".join(repr(name) for name in names)
        )


def _expand(argument: str) -> list[Path]:
    """Return the path an argument is, or the files its pattern matches."""
    path = expanded(argument)
    if path.exists() or not _WILDCARDS & set(argument):
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))
    files = [Path(name) for name in matches if Path(name).is_file()]
    if not files:
        raise FileNotFoundError(f"items={argument!r}: no file matches this pattern")
    return files


def _is_data_set(path: Path) -> bool:
    """Return whether ``datasets`` saved a data set, or several, in a folder."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _has_columns(path: Path) -> bool:
    return path.suffix.lower() in _TABLES or _is_data_set(path)


def _not_text(path: Path, error: UnicodeDecodeError) -> ValueError:
    hint = ""
    if path.suffix.lower() in SUFFIXES:
        hint = "; for images take an image backbone, or modality='image'"
    return ValueError(f"items={str(path)!r}: not text in UTF-8 ({error.reason}){hint}")


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; only line ends end a line."""
    if path.is_dir():
        raise IsADirectoryError(
            f"items={str(path)!r} is a folder, and a text backbone takes texts. Give a "
            "file with one text a line, a table with column=, or quote a pattern"
        )
    try:
        with path.open(encoding="utf-8-sig") as file:
            return [line.removesuffix("\n") for line in file]
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error


Choose = Callable[[Sequence[str]], str]


def _csv_column(path: Path, choose: Choose) -> list[str]:
    import pandas as pd

    # Every value is the text that is written there: no numbers, no missing values.
    settings: dict[str, Any] = {"dtype": str, "na_filter": False}
    try:
        names = pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns.tolist()
        hint = separator_hint(names)
        if hint:
            raise ValueError(f"items={str(path)!r}: one column, {names[0]!r}{hint}")
        name = choose(names)
        # Where there is one column, a blank line is a row of it.
        settings["skip_blank_lines"] = len(names) > 1
        # Not this column alone: pandas would not count the values of a row then.
        table = pd.read_csv(path, encoding="utf-8-sig", **settings)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"items={str(path)!r}: not a table ({error})") from error
    if not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first values of longer rows for the index, and all columns
        # for their neighbours.
        raise ValueError(
            f"items={str(path)!r}: the first row has more values than the "
            f"{len(names)} columns. Quote values that hold a comma, and leave out a "
            "comma at the end"
        )
    values: list[str] = table[name].tolist()
    return values


def _json_lines_column(path: Path, choose: Choose) -> list[Any]:
    values = []
    name = None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"items={str(path)!r}: line {number} is not JSON ({error})"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"items={str(path)!r}: line {number} is no object")
            name = name or choose(list(row))
            if name not in row:
                raise ValueError(
                    f"items={str(path)!r}: line {number} has no column {name!r}"
                )
            values.append(row[name])
    return values


def _parquet_column(path: Path, choose: Choose) -> list[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"items={str(path)!r}: parquet files need pyarrow ({error}). "
            'Run: pip install "skdebias[parquet]"'
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            name = choose(file.schema_arrow.names)
            values: list[Any] = file.read(columns=[name]).column(0).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"items={str(path)!r}: not a parquet file ({error})") from (
            error
        )
    return values


_TABLES: dict[str, Callable[[Path, Choose], list[Any]]] = {
    ".csv": _csv_column,
    ".jsonl": _json_lines_column,
    ".ndjson": _json_lines_column,
    ".parquet": _parquet_column,
}
