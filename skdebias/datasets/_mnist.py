"""MNIST and its coloured form, the benchmark of table 1 of the GERNE paper."""

import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

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
        images : ndarray of shape (70000, 28, 28), uint8
        target : ndarray of shape (70000,), int64
        split : ndarray of shape (70000,), str
            ``"train"`` or ``"test"``.

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
            found = fetch_openml(
                "mnist_784", version=1, as_frame=False, data_home=data_home
            )
        except OSError as error:
            raise OSError(
                f"MNIST could not be downloaded ({error}): set SKDEBIAS_DATA to a "
                "folder with mnist/mnist_train.npz and mnist/mnist_test.npz."
            ) from error
        images = found.data.reshape(-1, 28, 28).astype(np.uint8)
        target = found.target.astype(np.int64)
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
        colour and digit independent (the unbiased test set).
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
    if not 0 <= minority <= 1:
        raise ValueError(f"minority={minority!r} is outside [0, 1].")
    if severity not in _COLOUR_NOISE:
        raise ValueError(f"severity={severity!r} is not one of 1, 2, 3, 4, 5.")
    rng = check_random_state(random_state)
    target = np.asarray(target, dtype=np.int64)
    attributes = target.copy()
    for digit in np.unique(target):
        rows = rng.permutation(np.flatnonzero(target == digit))
        n_other = round(minority * len(rows))
        # The other colours in turn, from a random start: even to within one row.
        turn = (np.arange(n_other) + rng.randint(9)) % 9
        attributes[rows[:n_other]] = (digit + 1 + turn) % 10
    noise = rng.normal(0, _COLOUR_NOISE[severity], (len(target), 3))
    tint = np.clip(_COLOURS[attributes] / 255 + noise, 0, 1).astype(np.float32)
    coloured = images[..., None] * tint[:, None, None, :]
    return np.rint(coloured).astype(np.uint8), attributes
