"""Coloured handwritten digits: a small real benchmark that needs no download."""

import numbers

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils import Bunch, check_random_state

# Class of each of the ten digits, and the names of the classes.
_TASKS = {
    "low_high": ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], ["0-4", "5-9"]),
    "parity": ([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], ["even", "odd"]),
    "digit": (list(range(10)), [str(digit) for digit in range(10)]),
}

_PALETTE = {
    "red": (0.95, 0.15, 0.15),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.90, 0.10),
    "magenta": (0.90, 0.15, 0.90),
    "cyan": (0.10, 0.85, 0.90),
    "orange": (0.95, 0.55, 0.05),
    "violet": (0.50, 0.20, 0.85),
    "white": (0.95, 0.95, 0.95),
    "brown": (0.55, 0.35, 0.15),
}


def load_coloured_digits(
    *,
    task="low_high",
    correlation=0.97,
    val_size=0.25,
    test_size=0.25,
    image_size=32,
    colour_jitter=0.1,
    random_state=None,
):
    """Load real handwritten digits whose colour predicts the class in training only.

    The 1797 images of :func:`sklearn.datasets.load_digits` are split at random, with
    the same share of every digit in each part. Class ``k`` has colour ``k`` in
    `correlation` of its training rows and one of the other colours in the rest; in
    the validation and test parts every colour is equally frequent in every class.
    A classifier that reads the colour is therefore right on almost all training
    rows, and no better than chance on the test rows.

    Parameters
    ----------
    task : {"low_high", "parity", "digit"} or array-like of shape (10,)
        What the class is: digits 0-4 against 5-9, even against odd, or the digit
        itself. A sequence gives the class 0, ..., K-1 of each digit. With ten
        classes there are 100 groups of about four test rows each, too few to
        measure a worst group: prefer a task with two to four classes.
    correlation : float, default=0.97
        Share of the training rows of each class that have the colour of their
        class; from 1 / K up to, but not including, 1. The number of other rows is
        rounded, and is at least one per class.
    val_size, test_size : float, default=0.25
        Shares of the images that form the validation and the test part.
    image_size : int, default=32
        Side of the returned images in pixels. The originals have 8 and are
        enlarged with bilinear interpolation.
    colour_jitter : float, default=0.1
        Each colour channel of each image is moved by a uniform draw from
        ``[-colour_jitter, colour_jitter]``, on a scale where 1 is full intensity.
    random_state : int, RandomState instance or None, default=None
        Determines the split and the colours.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : ndarray of shape (1797, image_size, image_size, 3), uint8
            The coloured digits on black.
        target : ndarray of shape (1797,), int
            The class.
        attributes : ndarray of shape (1797,), int
            The colour, as an index into `attribute_names`.
        split : ndarray of shape (1797,), str
            ``"train"``, ``"val"`` or ``"test"``.
        digit : ndarray of shape (1797,), int
            The digit.
        target_names, attribute_names : list of str
            Names of the classes and of the colours.
        DESCR : str
            A sentence about the draw.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.datasets import load_coloured_digits
    >>> data = load_coloured_digits(correlation=0.97, random_state=0)
    >>> data.images.shape
    (1797, 32, 32, 3)
    >>> train = data.split == "train"
    >>> float(np.mean(data.target[train] == data.attributes[train]).round(2))
    0.97
    """
    digit_class, target_names = _resolve_task(task)
    n_classes = len(target_names)
    _check_ranges(correlation, val_size, test_size, image_size, n_classes)
    rng = check_random_state(random_state)
    digits = load_digits()
    target = digit_class[digits.target]
    split = _draw_split(digits.target, val_size, test_size, rng)
    attributes = _draw_attributes(
        digits.target, target, split, n_classes, correlation, rng
    )
    return Bunch(
        images=_paint(digits.images, attributes, image_size, colour_jitter, rng),
        target=target,
        attributes=attributes,
        split=split,
        digit=digits.target.copy(),
        target_names=target_names,
        attribute_names=list(_PALETTE)[:n_classes],
        DESCR=(
            f"1797 handwritten digits (scikit-learn's load_digits), task {task!r}: "
            f"{n_classes} classes, {n_classes} colours; the colour agrees with the "
            f"class in {correlation:.1%} of the training rows and is independent of "
            "it in the validation and test rows."
        ),
    )


def _resolve_task(task):
    """Return the class of each digit (10,) and the names of the classes."""
    if isinstance(task, str):
        if task not in _TASKS:
            raise ValueError(
                f"task={task!r} is unknown; use one of {sorted(_TASKS)}, or a "
                "sequence with the class of each of the ten digits."
            )
        classes, names = _TASKS[task]
        return np.asarray(classes), list(names)
    classes = np.asarray(task)
    distinct = np.unique(classes)
    numbered = np.array_equal(distinct, np.arange(len(distinct)))
    if classes.shape != (10,) or not numbered:
        raise ValueError(
            f"task={task!r} must give the class of each of the ten digits, with "
            "classes numbered 0, ..., K-1 and none left out."
        )
    if len(distinct) < 2:
        raise ValueError(f"task={task!r} has one class; give at least two.")
    names = [",".join(map(str, np.flatnonzero(classes == k))) for k in distinct]
    return classes.astype(int), names


def _check_ranges(correlation, val_size, test_size, image_size, n_classes):
    """Raise ValueError for a parameter out of its range."""
    if not 1 / n_classes <= correlation < 1:
        raise ValueError(
            f"correlation={correlation!r} must lie in [{1 / n_classes:.3g}, 1) for "
            f"{n_classes} classes: 1 leaves no row to learn the class from, less than "
            f"1/{n_classes} is not a correlation."
        )
    if val_size <= 0 or test_size <= 0 or val_size + test_size >= 1:
        raise ValueError(
            f"val_size={val_size!r} and test_size={test_size!r} must be positive and "
            "leave rows for training: their sum must be below 1."
        )
    if not isinstance(image_size, numbers.Integral) or image_size < 8:
        raise ValueError(
            f"image_size={image_size!r} must be an integer of at least 8, the side "
            "of the original images."
        )


def _draw_split(digit, val_size, test_size, rng):
    """Split at random, each digit in the same shares."""
    split = np.full(len(digit), "train", dtype="<U5")
    for value in range(10):
        rows = rng.permutation(np.flatnonzero(digit == value))
        n_val = round(val_size * len(rows))
        n_test = round(test_size * len(rows))
        split[rows[:n_val]] = "val"
        split[rows[n_val : n_val + n_test]] = "test"
    return split


def _draw_attributes(digit, target, split, n_classes, correlation, rng):
    """Draw a colour per row: exact counts, random rows."""
    attributes = np.empty(len(target), dtype=int)
    for k in range(n_classes):
        rows = rng.permutation(np.flatnonzero((split == "train") & (target == k)))
        n_other = max(1, round((1 - correlation) * len(rows)))
        # The other colours in turn, from a random start for each class.
        turn = (np.arange(n_other) + rng.randint(n_classes)) % (n_classes - 1)
        attributes[rows] = k
        attributes[rows[:n_other]] = (k + 1 + turn) % n_classes
    for part in ("val", "test"):
        for value in range(10):
            # Balanced within each digit, so that no colour gets the easy digits.
            rows = rng.permutation(np.flatnonzero((split == part) & (digit == value)))
            turn = np.arange(len(rows)) + rng.randint(n_classes)
            attributes[rows] = turn % n_classes
    return attributes


def _paint(grey, attributes, image_size, colour_jitter, rng):
    """Enlarge the (n, 8, 8) digits and multiply them by their jittered colours."""
    palette = np.array(list(_PALETTE.values()))
    jitter = rng.uniform(-colour_jitter, colour_jitter, (len(grey), 3))
    tint = np.clip(palette[attributes] + jitter, 0, 1)
    large = np.empty((len(grey), image_size, image_size), dtype=np.float32)
    for row, image in enumerate(grey):
        small = Image.fromarray(image.astype(np.float32) / 16)
        shape = (image_size, image_size)
        large[row] = small.resize(shape, Image.Resampling.BILINEAR)
    coloured = large[..., None] * tint[:, None, None, :].astype(np.float32)
    return np.rint(coloured * 255).astype(np.uint8)
