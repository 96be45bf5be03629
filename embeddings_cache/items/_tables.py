"""Paths of images that a folder, a table or a single path stands for."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embeddings_cache._paths import expanded, refuse_special, refuse_url
from embeddings_cache.items._folders import Paths, image_files


def paths_below(path: Path) -> Paths:
    """Return the image files that a folder, a table or a single path stands for."""
    path = expanded(path)
    if path.is_dir():
        return image_files(path)
    if path.suffix.lower() == ".csv":
        return Paths(paths_of_table(path))
    refuse_url(path, "items")
    if not path.exists():
        raise FileNotFoundError(f"items={str(path)!r}: no such file or folder")
    return Paths([path])


def separator_hint(names: Sequence[str | None]) -> str:
    """Say that a table of one column seems to have another separator than a comma.

    Parameters
    ----------
    names : sequence of str
        Names of its columns.

    Returns
    -------
    str
        Empty if there is nothing to say.
    """
    separators = [sep for sep in ";\t|" if len(names) == 1 and sep in str(names[0])]
    if not separators:
        return ""
    return f". It seems to be separated by {separators[0]!r}: save it with commas"


def paths_of_table(path: Path) -> list[Path]:
    """Return the image paths of a Waterbirds-style table, relative to its folder.

    The column is ``img_filename``, else the first column whose first value names a
    file beside the table (or an absolute path).
    """
    refuse_special(path, "items")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"items={str(path)!r}: not a table in UTF-8 ({error.reason} at byte "
            f"{error.start}); save it in UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"items={str(path)!r}: not a readable table ({error})") from (
            error
        )
    if not rows:
        raise ValueError(f"items={str(path)!r}: the table has no rows")
    column = "img_filename" if "img_filename" in rows[0] else None
    for name, value in rows[0].items():
        if column is None and isinstance(value, str) and value:
            column = name if (path.parent / value).is_file() else None
    if column is None:
        raise ValueError(
            f"items={str(path)!r}: no column img_filename, and no column whose first "
            f"value is a file below {path.parent}; columns: {', '.join(rows[0])}"
            f"{separator_hint(list(rows[0]))}"
        )
    _check_rows(path, rows, column)
    return [path.parent / row[column] for row in rows]


def _check_rows(path: Path, rows: Sequence[dict[Any, Any]], column: str) -> None:
    """Raise if a row of a table names no file, or has more values than columns."""
    problems = {
        f"no value in {column!r}": [not row[column] for row in rows],
        "too many values": [None in row for row in rows],
    }
    for what, found in problems.items():
        if any(found):
            raise ValueError(
                f"items={str(path)!r}: {sum(found)} of {len(rows)} rows have {what}, "
                f"the first is row {found.index(True) + 1} after the header. Fill or "
                "drop them, and quote values that hold a comma"
            )
