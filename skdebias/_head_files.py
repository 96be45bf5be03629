"""``skdebias fit`` and ``skdebias report``: heads on embeddings that lie in a file."""

from pathlib import Path

import numpy as np
import sklearn
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier, export
from skdebias.datasets import load_metadata
from skdebias.metrics import group_accuracy_table, group_summary


class HeadInputError(ValueError):
    """The files or options cannot be used; the message says what to change."""


def fit_head(
    embeddings, metadata, out, *, method, beta, c, seed, attribute_column, write
):
    """Fit a head on the training rows of a table and save it.

    Parameters
    ----------
    embeddings : path
        A ``.npy`` array of shape (n_samples, n_features), or an ``.npz`` file with
        one such array or one named ``X``; rows in the order of `metadata`.
    metadata : path
        The table of labels, attributes and splits.
    out : path
        Where to save the head.
    method : {"gerne", "erm", "erm-balanced"}
        What to train.
    beta, c : float
        Parameters of GERNE.
    seed : int
        Seed of the training.
    attribute_column : str or None
        Column of the attribute.
    write : callable
        Called with every line for the user.

    Raises
    ------
    HeadInputError
        If a file or a parameter cannot be used.
    """
    X, y, attributes = _read_rows(embeddings, metadata, "train", attribute_column)
    heads = {
        "gerne": GERNEClassifier(beta=beta, c=c, random_state=seed),
        "erm": ERMClassifier(random_state=seed),
        "erm-balanced": ERMClassifier(balance="group", random_state=seed),
    }
    pipeline = Pipeline([("scale", StandardScaler()), ("head", heads[method])])
    try:
        with sklearn.config_context(enable_metadata_routing=True):
            pipeline.fit(X, y, attributes=attributes)
        export.save(pipeline, out)
    except (OSError, ValueError) as error:
        raise HeadInputError(str(error)) from error
    n_samples, n_features = X.shape
    write(f"{method} fitted on {n_samples} rows of {n_features} features: {out}")


def report_head(
    head, embeddings, metadata, *, split, attribute_column, out=None, write=print
):
    """Print the scores of a saved head, and the accuracy of every group.

    Parameters
    ----------
    head : path
        A file of :func:`skdebias.export.save`.
    embeddings, metadata : path
        As for :func:`fit_head`.
    split : {"train", "val", "test"}
        The rows to score.
    attribute_column : str or None
        Column of the attribute.
    out : path, default=None
        Where to write the group table as CSV.
    write : callable
        Called with every line for the user.

    Raises
    ------
    HeadInputError
        If a file cannot be used.
    """
    X, y, attributes = _read_rows(embeddings, metadata, split, attribute_column)
    try:
        predicted = export.load(head).predict(X)
    except (OSError, ValueError) as error:
        raise HeadInputError(str(error)) from error
    scores = group_summary(y, predicted, attributes=attributes)
    table = group_accuracy_table(y, predicted, attributes=attributes)
    write(f"{len(y)} {split} rows, 95 % intervals")
    for name in ("accuracy", "group_balanced_accuracy", "worst_group_accuracy"):
        low, high = scores[f"{name}_low"], scores[f"{name}_high"]
        write(f"  {name:25s} {scores[name]:6.1%} [{low:.1%}, {high:.1%}]")
    write(table.round(4).to_string(index=False))
    if out is not None:
        try:
            table.to_csv(out, index=False)
        except OSError as error:
            raise HeadInputError(f"--out {out} cannot be written: {error}") from error


def _read_rows(embeddings, metadata, split, attribute_column):
    """Return embeddings, labels and attributes of one split."""
    X = _read_array(Path(embeddings))
    try:
        table = load_metadata(metadata, attribute_columns=attribute_column)
    except (OSError, ValueError) as error:
        message = str(error).replace("attribute_columns=...", "--attribute-column NAME")
        raise HeadInputError(message) from error
    if len(X) != len(table.y):
        raise HeadInputError(
            f"{embeddings} has {len(X)} rows and {metadata} has {len(table.y)}: they "
            "must describe the same items in the same order."
        )
    rows = np.flatnonzero(table.split == split)
    if len(rows) == 0:
        raise HeadInputError(
            f"{metadata}: no row has split {split!r}; give the rows to use 0 or "
            "'train', 1 or 'val', 2 or 'test'."
        )
    return X[rows], table.y[rows], table.attributes[rows]


def _read_array(file: Path):
    """Return the two-dimensional array of an .npy or .npz file."""
    if file.exists() and not file.is_file():
        raise HeadInputError(f"{file} is not a regular file.")
    try:
        # Pickled objects run code; mapped, only the rows of the split are read.
        X = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(X, np.lib.npyio.NpzFile):
            name = "X" if "X" in X.files else X.files[0] if len(X.files) == 1 else None
            if name is None:
                raise HeadInputError(
                    f"{file} has the arrays {', '.join(X.files)}: name the embeddings "
                    "X."
                )
            X = X[name]
    except HeadInputError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise HeadInputError(f"{file} is not a readable array: {error}") from error
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        raise HeadInputError(
            f"{file} holds {X.dtype} of shape {X.shape}; embeddings are numbers of "
            "shape (n_samples, n_features)."
        )
    return X
