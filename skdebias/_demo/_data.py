"""What the demo runs on: the coloured digits, or the user's own images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skdebias._demo._settings import DemoInputError, DemoSettings
from skdebias.datasets import load_coloured_digits, load_metadata

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DemoData:
    """Items to embed, and what is known of each row.

    Parameters
    ----------
    title : str
        One line about the data.
    items : ndarray of uint8, or list of path
        What the extractor embeds.
    y, attributes, split : ndarray of shape (n_samples,)
        Labels, attributes, and one of `SPLITS`.
    """

    title: str
    items: Any
    y: np.ndarray
    attributes: np.ndarray
    split: np.ndarray

    def rows(self, split: str) -> np.ndarray:
        """Return the mask of the rows of one split."""
        return self.split == split

    def group_counts(self) -> pd.DataFrame:
        """Return the number of rows of each split in each (label, attribute) group."""
        names = {"label": self.y, "attribute": self.attributes, "split": self.split}
        frame = pd.DataFrame(names)
        counts = frame.value_counts(["label", "attribute", "split"]).unstack("split")
        order = [split for split in SPLITS if split in counts]
        return counts.sort_index()[order].fillna(0).astype(int)


def load_data(settings: DemoSettings) -> DemoData:
    """Load what the settings ask for.

    Parameters
    ----------
    settings : DemoSettings

    Returns
    -------
    DemoData

    Raises
    ------
    DemoInputError
        If the options or the user's files cannot be used.
    """
    data = _load_digits(settings) if settings.images is None else _load_own(settings)
    _check_splits(data)
    return data


def _load_digits(settings: DemoSettings) -> DemoData:
    """Return the coloured digits, with names as labels and attributes."""
    try:
        digits = load_coloured_digits(
            task=settings.task,
            correlation=settings.correlation,
            random_state=settings.seed,
        )
    except ValueError as error:
        raise DemoInputError(f"--{error}") from error
    return DemoData(
        title=digits.DESCR,
        items=digits.images,
        y=np.array(digits.target_names)[digits.target],
        attributes=np.array(digits.attribute_names)[digits.attributes],
        split=digits.split,
    )


# The reader speaks of its parameters, the user of the command of options.
_OPTIONS = {
    "path_column=...": "--path-column NAME",
    "label_column=...": "--label-column NAME",
    "attribute_columns=...": "--attribute-column NAME",
    "split_column=...": "--split-column NAME",
    "image_dir=": "--images ",
    "path=": "--metadata ",
}


def _load_own(settings: DemoSettings) -> DemoData:
    """Return the user's images and what the table says of them."""
    if not Path(settings.images).is_dir():
        raise DemoInputError(f"--images {settings.images}: there is no such folder.")
    try:
        table = load_metadata(
            settings.metadata,
            image_dir=settings.images,
            path_column=settings.path_column,
            label_column=settings.label_column,
            attribute_columns=settings.attribute_column,
            split_column=settings.split_column,
        )
    except (OSError, ValueError) as error:
        message = str(error)
        for parameter, option in _OPTIONS.items():
            message = message.replace(parameter, option)
        if str(Path(settings.metadata).name) not in message:
            message = f"--metadata {settings.metadata}: {message}"
        raise DemoInputError(message) from error
    return DemoData(
        title=f"{len(table.y)} images of {settings.metadata}",
        items=list(table.paths),
        y=table.y,
        attributes=table.attributes,
        split=table.split,
    )


def _check_splits(data: DemoData) -> None:
    """Raise DemoInputError when there is nothing to train on or to test on."""
    for split in ("train", "test"):
        if not data.rows(split).any():
            raise DemoInputError(
                f"no row has split {split!r}: the split column needs 0 or 'train' for "
                "training rows and 2 or 'test' for test rows."
            )
    train = data.rows("train")
    for name, values in (("label", data.y), ("attribute", data.attributes)):
        distinct = np.unique(values[train])
        if len(distinct) < 2:
            raise DemoInputError(
                f"all training rows have the same {name}, {distinct[0]}: there is "
                "nothing to learn or to unlearn. Check the columns of the table."
            )
