"""MNIST and its biased forms: coloured (GERNE, ULE) and with a class code (ULE)."""

import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skdebias.datasets._pairing import pair_attributes

# Mean colours (0-255) of the attributes 0..9 and noise per severity, as published with
# the Learning-from-Failure benchmark.
_COLOURS = np.array(
    [
        (251, 80, 43),
        (253, 233, 90),
        (172, 118, 148),
        (200, 212, 153),
        (22, 198, 250),
        (82, 245, 114),
        (6, 60, 193),
        (142, 26, 194),
        (53, 100, 5),
        (213, 52, 68),
    ]
)
_COLOUR_NOISE = {1: 0.05, 2: 0.02, 3: 0.01, 4: 0.005, 5: 0.002}


def fetch_mnist(*, data_home=None):
    """Load MNIST: 60,000 training and 10,000 test digits.

    Parameters
    ----------
    data_home : path-like, default=None
        Where scikit-learn keeps downloads. If the environment variable
        ``SKDEBIAS_DATA`` names a folder with ``mnist/mnist_train.npz`` and
        ``mnist/mnist_test.npz`` (arrays ``X``, ``y``), those are read instead;
        otherwise OpenML's "mnist_784" is downloaded once.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With ``images`` (70000, 28, 28) uint8, ``target`` (70000,) int64, and ``split``
        (70000,), which is ``"train"`` or ``"test"``.

    Raises
    ------
    OSError
        If the digits are neither at hand nor can be downloaded.

    Examples
    --------
    >>> from skdebias.datasets import fetch_mnist
    >>> mnist = fetch_mnist()  # doctest: +SKIP
    >>> mnist.images.shape  # doctest: +SKIP
    (70000, 28, 28)
    """
    folder = Path(os.environ.get("SKDEBIAS_DATA", "")) / "mnist"
    if "SKDEBIAS_DATA" in os.environ and (folder / "mnist_train.npz").exists():
        parts = [np.load(folder / f"mnist_{part}.npz") for part in ("train", "test")]
        images = np.concatenate([part["X"] for part in parts])
        target = np.concatenate([part["y"] for part in parts])
    else:
        from sklearn.datasets import fetch_openml

        try:
            bunch = fetch_openml(
                "mnist_784", version=1, as_frame=False, data_home=data_home
            )
        except OSError as error:
            raise OSError(
                f"MNIST could not be downloaded ({error}): set SKDEBIAS_DATA to a "
                "folder with mnist/mnist_train.npz and mnist/mnist_test.npz."
            ) from error
        images = bunch.data.reshape(-1, 28, 28).astype(np.uint8)
        target = bunch.target.astype(np.int64)
    split = np.repeat(["train", "test"], [60000, len(target) - 60000])
    return Bunch(images=images, target=target.astype(np.int64), split=split)


def colour_digits(images, target, *, minority=0.005, severity=4, random_state=None):
    """Colour grey digits so that the colour predicts the digit in most rows.

    Digit `k` is paired with colour `k`. A share `1 - minority` of every digit gets its
    paired colour; the rest is spread evenly over the other nine.

    Parameters
    ----------
    images : ndarray of shape (n_samples, height, width), uint8
        Grey digits.
    target : ndarray of shape (n_samples,)
        Digits 0 to 9.
    minority : float, default=0.005
        Share of rows whose colour is not that of their digit, in [0, 1]. 0.9 makes
        colour and digit independent (the unbiased test set); with 0 the colour always
        tells the digit, and the unbiased test is grey digits in three channels,
        ``np.repeat(images[..., None], 3, axis=-1)``.
    severity : {1, 2, 3, 4, 5}, default=4
        The larger, the less a colour varies around its mean: standard deviation 0.05,
        0.02, 0.01, 0.005, 0.002 of full intensity.
    random_state : int, RandomState instance or None, default=None
        Determines the colours.

    Returns
    -------
    images : ndarray of shape (n_samples, height, width, 3), uint8
    attributes : ndarray of shape (n_samples,), int64
        The colour of every row.

    References
    ----------
    Nam et al., "Learning from Failure: Training Debiased Classifier from Biased
    Classifier", NeurIPS 2020 (Coloured MNIST).

    Examples
    --------
    >>> import numpy as np
    >>> digits = np.full((200, 4, 4), 255, dtype=np.uint8)
    >>> y = np.arange(200) % 10
    >>> coloured, colour = colour_digits(digits, y, minority=0.1, random_state=0)
    >>> coloured.shape, float(np.mean(colour == y))
    ((200, 4, 4, 3), 0.9)
    """
    if severity not in _COLOUR_NOISE:
        raise ValueError(f"severity={severity!r} is not one of 1, 2, 3, 4, 5.")
    rng = check_random_state(random_state)
    target, attributes = pair_attributes(target, minority, rng)
    noise = rng.normal(0, _COLOUR_NOISE[severity], (len(target), 3))
    tint = np.clip(_COLOURS[attributes] / 255 + noise, 0, 1).astype(np.float32)
    coloured = images[..., None] * tint[:, None, None, :]
    return np.rint(coloured).astype(np.uint8), attributes


def stamp_digits(images, target, *, minority=0.0, random_state=None):
    """Write a class code into the top left corner of grey digits.

    The first ten pixels of the first row become a one-hot code: pixel `k` is white and
    the others are black, where `k` is the class of the row or, in a share `minority`
    of every class, one of the other nine classes in turn.

    Parameters
    ----------
    images : ndarray of shape (n_samples, height, width), uint8
        Grey digits, at least ten pixels wide. They are not changed.
    target : ndarray of shape (n_samples,)
        Digits 0 to 9.
    minority : float, default=0.0
        Share of rows with a wrong code, in [0, 1]: 0 is the code that always tells the
        class, 0.9 makes code and digit independent, 1 is always wrong. The images
        themselves are the digits without a code.
    random_state : int, RandomState instance or None, default=None
        Determines the wrong codes.

    Returns
    -------
    images : ndarray of shape (n_samples, height, width), uint8
    attributes : ndarray of shape (n_samples,), int64
        The class that the code of every row names.

    Raises
    ------
    ValueError
        If `minority` or a class is out of range, or the images are too narrow.

    See Also
    --------
    colour_digits : Another cue on the same digits.

    References
    ----------
    Mitchell, Martinez del Rincon and McLaughlin, "UnLearning from Experience to Avoid
    Spurious Correlations", arXiv 2409.02792, 2024 (MNIST-SC).

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.datasets import stamp_digits
    >>> digits, y = np.zeros((20, 12, 12), dtype=np.uint8), np.arange(20) % 10
    >>> stamped, code = stamp_digits(digits, y)
    >>> stamped[3, 0]
    array([  0,   0,   0, 255,   0,   0,   0,   0,   0,   0,   0,   0],
          dtype=uint8)
    >>> _, wrong = stamp_digits(digits, y, minority=1, random_state=0)
    >>> bool((wrong == y).any())
    False
    """
    if images.ndim != 3 or images.shape[2] < 10:
        raise ValueError(
            f"images has shape {images.shape}, but a code of ten pixels needs grey "
            "images of shape (n_samples, height, width) that are at least 10 wide."
        )
    rng = check_random_state(random_state)
    target, attributes = pair_attributes(target, minority, rng)
    stamped = images.copy()
    stamped[:, 0, :10] = 0
    stamped[np.arange(len(target)), 0, attributes] = 255
    return stamped, attributes
