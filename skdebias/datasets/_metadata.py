"""Reader of metadata.csv files: paths, labels, attributes, splits."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

_PATH_COLUMNS = ("img_filename", "filename", "image", "path", "file_name")
_LABEL_COLUMNS = ("y", "label", "target")
_ATTRIBUTE_COLUMNS = ("place", "attribute", "a")
_SPLIT_COLUMNS = ("split",)
_SPLIT_NAMES = {
    "0": "train",
    "1": "val",
    "2": "test",
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def load_metadata(
    path,
    *,
    image_dir=None,
    path_column=None,
    label_column=None,
    attribute_columns=None,
    split_column=None,
):
    r"""Read a metadata.csv as published with Waterbirds and similar benchmarks.

    Parameters
    ----------
    path : str or path-like
        The csv file, or the folder that holds ``metadata.csv``.
    image_dir : str or path-like, default=None
        Folder of the images. Every file must be there. If None, paths are returned
        as they are written in the file, and not looked for.
    path_column : str, default=None
        Column of the image paths. If None, the first of ``img_filename``,
        ``filename``, ``image``, ``path``, ``file_name`` that is there.
    label_column : str, default=None
        Column of the labels. If None, the first of ``y``, ``label``, ``target``.
    attribute_columns : str or list of str, default=None
        Columns of the spurious attributes. If None, the first of ``place``,
        ``attribute``, ``a``.
    split_column : str, default=None
        Column of the split, with values 0, 1, 2 or train, val, test. If None,
        ``split``.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With entries, in the order of the file:

        paths : ndarray of shape (n_samples,), str
            Image paths.
        y : ndarray of shape (n_samples,)
            Labels.
        attributes : ndarray of shape (n_samples,) or (n_samples, n_columns)
            Spurious attributes; 2-D if `attribute_columns` is a list.
        split : ndarray of shape (n_samples,), str
            ``"train"``, ``"val"`` or ``"test"``.
        frame : pandas.DataFrame
            The whole file.

    Raises
    ------
    FileNotFoundError
        If the csv file or an image is missing.
    ValueError
        If a column is missing or has empty cells, or the split has an unknown value.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from skdebias.datasets import load_metadata
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "metadata.csv")
    ...     _ = file.write_text(
    ...         "img_filename,y,place,split\n1.jpg,0,1,0\n2.jpg,1,1,2\n"
    ...     )
    ...     data = load_metadata(file)
    >>> data.split
    array(['train', 'test'], dtype='<U5')
    >>> data.paths[data.split == "train"]
    array(['1.jpg'], dtype='<U5')
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "metadata.csv"
    if not file.is_file():
        raise FileNotFoundError(
            f"path={os.fspath(path)!r}: there is no file {str(file)!r}. Pass the csv "
            "file, or the folder that holds metadata.csv."
        )
    frame = _read_table(file)
    paths = _read(frame, path_column, _PATH_COLUMNS, "path_column", file)
    split = _read(frame, split_column, _SPLIT_COLUMNS, "split_column", file)
    many = attribute_columns is not None and not isinstance(attribute_columns, str)
    columns = list(attribute_columns) if many else [attribute_columns]
    attributes = [
        _read(frame, column, _ATTRIBUTE_COLUMNS, "attribute_columns", file)
        for column in columns
    ]
    return Bunch(
        paths=_join_paths(paths.astype(str), image_dir),
        y=_read(frame, label_column, _LABEL_COLUMNS, "label_column", file),
        attributes=_stack(attributes) if many else attributes[0],
        split=_name_splits(split, file),
        frame=frame,
    )


def _read_table(file):
    """Return a csv file as a data frame, or say what is wrong with it."""
    try:
        frame = pd.read_csv(file, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file.name} is not a table in UTF-8 ({error.reason} at byte "
            f"{error.start}). Save it in UTF-8."
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{file.name} is not a table of csv ({error}).") from error
    # pandas takes the first values of longer rows for the index, and all columns for
    # their neighbours.
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"{file.name}: the first row has more values than there are columns "
            f"({', '.join(map(repr, frame.columns))}). Quote values that hold a comma, "
            "and leave out a comma at the end."
        )
    return frame


def _read(frame, column, candidates, parameter, file):
    """Return one complete column, by its given name or the first candidate."""
    wanted = candidates if column is None else (column,)
    present = [name for name in wanted if name in frame.columns]
    if not present:
        raise ValueError(
            f"{file.name} has no column {' or '.join(map(repr, wanted))}; its columns "
            f"are {', '.join(map(repr, frame.columns))}. "
            + _separator_hint(frame)
            + f"Name the column with {parameter}=... ."
        )
    series = frame[present[0]]
    empty = np.flatnonzero(series.isna())
    if len(empty):
        raise ValueError(
            f"{file.name}: column {present[0]!r} is empty in {len(empty)} rows (the "
            f"first is line {empty[0] + 2}). Fill these cells or drop the rows."
        )
    values = series.to_numpy()
    # Words as numpy strings: they compare and encode faster than objects.
    return values.astype(str) if values.dtype == object else values


def _separator_hint(frame):
    names = [str(name) for name in frame.columns]
    separators = [sep for sep in ";\t|" if len(names) == 1 and sep in names[0]]
    return (
        f"It seems to be separated by {separators[0]!r}: save it with commas. "
        if separators
        else ""
    )


def _stack(columns):
    """Return columns side by side; numbers stay numbers beside words."""
    if len({column.dtype.kind for column in columns}) > 1:
        columns = [column.astype(object) for column in columns]
    return np.column_stack(columns)


def _name_splits(split, file):
    words = np.char.lower(np.char.strip(split.astype(str)))
    known = np.isin(words, list(_SPLIT_NAMES))
    if not known.all():
        unknown = ", ".join(sorted({repr(str(word)) for word in split[~known]})[:5])
        raise ValueError(
            f"{file.name}: the split column has the values {unknown}. Use 0, 1, 2 or "
            "train, val, test."
        )
    values, inverse = np.unique(words, return_inverse=True)
    return np.array([_SPLIT_NAMES[value] for value in values], dtype="U5")[inverse]


def _join_paths(paths, image_dir):
    if image_dir is None:
        return paths
    folder = Path(image_dir).expanduser()
    joined = [folder / name for name in paths]
    missing = [str(file) for file in joined if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"image_dir={os.fspath(image_dir)!r}: {len(missing)} of {len(joined)} "
            f"images are missing, such as {', '.join(missing[:3])}. Pass the folder "
            "that the paths in the file start from."
        )
    return np.array([str(file) for file in joined])
