"""CIFAR-10, and its corrupted form of table 1 of the GERNE paper."""

import lzma
import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch, check_random_state

from skdebias.datasets._corruptions import CORRUPTIONS, corrupt
from skdebias.datasets._pairing import pair_attributes

_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_ARCHIVE = "cifar10_jpeg/cifar10_jpeg.tar.xz"
_SIDE = 32


def fetch_cifar10(*, data_home=None):
    """Load CIFAR-10: 50,000 training and 10,000 test photographs of ten classes.

    Parameters
    ----------
    data_home : path-like, default=None
        Where scikit-learn keeps downloads. If the environment variable
        ``SKDEBIAS_DATA`` names a folder with ``cifar10_jpeg/cifar10_jpeg.tar.xz``
        (files ``train/<class>/<number>.jpg`` and ``test/<class>/<number>.jpg``), that
        is read instead; otherwise torchvision downloads the data set once.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : ndarray of shape (60000, 32, 32, 3), uint8
            The photographs, RGB.
        target : ndarray of shape (60000,), int64
            The class, as an index into `target_names`.
        split : ndarray of shape (60000,), str
            ``"train"`` or ``"test"``.
        target_names : list of str
            The ten classes.
        lossless : bool
            False for the JPEG files: accuracies on them are lower and must not be
            compared with those on the data set itself.
        source : str
            The file that was read, or torchvision's class.

    Raises
    ------
    ImportError
        If the data set is not at hand and torchvision is not installed.
    OSError
        If it is neither at hand nor can be downloaded.
    ValueError
        If the file of JPEGs is damaged or has other content.

    References
    ----------
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Examples
    --------
    >>> from skdebias.datasets import fetch_cifar10
    >>> cifar = fetch_cifar10()  # doctest: +SKIP
    >>> cifar.images.shape  # doctest: +SKIP
    (60000, 32, 32, 3)
    """
    archive = Path(os.environ.get("SKDEBIAS_DATA", "")) / _ARCHIVE
    if "SKDEBIAS_DATA" in os.environ and archive.exists():
        parts = _read_jpegs(archive)
        source = str(archive)
    else:
        parts = _download(Path(get_data_home(data_home)) / "cifar10")
        source = "torchvision.datasets.CIFAR10"
    images, target = ([part[i] for part in parts] for i in range(2))
    return Bunch(
        images=np.concatenate(images),
        target=np.concatenate(target).astype(np.int64),
        split=np.repeat(["train", "test"], [len(part) for part in target]),
        target_names=list(_CLASSES),
        lossless=source != str(archive),
        source=source,
    )


def _read_jpegs(archive):
    """Return images and classes of both parts, in the order of names."""
    by_part = {"train": {}, "test": {}}
    for path, image in _unpack(archive):
        part, _, name = path.removeprefix("./").partition("/")
        label = name.partition("/")[0]
        known = part in by_part and label in _CLASSES
        if not known or image.shape != (_SIDE, _SIDE, 3):
            raise ValueError(
                f"{archive}: {path} has shape {image.shape}, but the file must hold "
                "train/<class>/<number>.jpg and test/<class>/<number>.jpg of shape "
                f"{(_SIDE, _SIDE, 3)} with the classes {', '.join(_CLASSES)}."
            )
        by_part[part][name] = image, _CLASSES.index(label)
    return [
        tuple(np.array(values) for values in zip(*map(part.get, sorted(part))))
        for part in by_part.values()
    ]


def _unpack(archive):
    """Yield the paths in an archive and their images."""
    try:
        # As a whole: 60,000 reads from a compressed stream take longer.
        unpacked = BytesIO(lzma.decompress(archive.read_bytes()))
        with tarfile.open(fileobj=unpacked) as tar:
            for member in tar:
                if member.isfile():
                    file = BytesIO(tar.extractfile(member).read())
                    yield member.name, np.asarray(Image.open(file))
    except (lzma.LZMAError, tarfile.TarError, UnidentifiedImageError) as error:
        raise ValueError(
            f"{archive} is damaged ({error}): copy it again, or unset SKDEBIAS_DATA to "
            "download CIFAR-10."
        ) from error


def _download(folder):
    """Return images and classes of both parts, by torchvision."""
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise ImportError(
            "CIFAR-10 is downloaded by torchvision, which is not installed: "
            "pip install 'skdebias[torchvision]', or set SKDEBIAS_DATA to a folder "
            f"with {_ARCHIVE}."
        ) from error
    try:
        parts = [CIFAR10(folder, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # RuntimeError: a wrong checksum
        raise OSError(
            f"CIFAR-10 could not be downloaded to {folder} ({error}): set "
            f"SKDEBIAS_DATA to a folder with {_ARCHIVE}."
        ) from error
    return [(part.data, np.array(part.targets)) for part in parts]


def corrupt_images(images, target, *, minority=0.005, severity=4, random_state=None):
    """Corrupt photographs so that the corruption predicts the class in most rows.

    Class `k` is paired with corruption `k` of snow, frost, fog, brightness, contrast,
    spatter, elastic, JPEG, pixelate and saturate. A share `1 - minority` of every
    class gets its paired corruption; the rest is spread evenly over the other nine.
    Applied to CIFAR-10 this is Corrupted CIFAR-10 (C-CIFAR-10).

    Parameters
    ----------
    images : ndarray of shape (n_samples, 32, 32, 3), uint8
        Colour photographs. They are not changed.
    target : ndarray of shape (n_samples,)
        Classes 0 to 9.
    minority : float, default=0.005
        Share of rows whose corruption is not that of their class, in [0, 1]. 0.9 makes
        corruption and class independent (the unbiased test set).
    severity : {1, 2, 3, 4, 5}, default=4
        Strength of the corruptions, by the constants of CIFAR-10-C.
    random_state : int, RandomState instance or None, default=None
        Determines which rows get which corruption, and the corruptions.

    Returns
    -------
    images : ndarray of shape (n_samples, 32, 32, 3), uint8
    attributes : ndarray of shape (n_samples,), int64
        The corruption of every row, in the order above.

    Raises
    ------
    ImportError
        If a row gets frost, or at severity 1 to 3 spatter, and the package
        imagecorruptions-imaug is not installed: ``pip install
        "skdebias[reproduce]"``. It holds the photographs of frost, and brings OpenCV.
    ValueError
        If a parameter or a class is out of range, or the images have another shape or
        type.

    Notes
    -----
    CIFAR-10-C has constants of its own: libraries on the package index have those of
    ImageNet-C, which leave little to be seen of an image of 32 pixels. The operations
    here are those of SciPy, Pillow and OpenCV, with the constants of CIFAR-10-C. The
    images differ from the published ones by the draws, and by the rounding of
    intermediate results, which is done once, at the end.

    References
    ----------
    Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019 (CIFAR-10-C).

    Nam et al., "Learning from Failure: Training Debiased Classifier from Biased
    Classifier", NeurIPS 2020 (Corrupted CIFAR-10).

    Examples
    --------
    >>> import numpy as np
    >>> from skdebias.datasets import corrupt_images
    >>> photographs = np.full((2, 32, 32, 3), 100, dtype=np.uint8)
    >>> corrupted, corruption = corrupt_images(
    ...     photographs, [3, 7], minority=0, random_state=0
    ... )
    >>> corruption
    array([3, 7])
    >>> corrupted[0, 0, 0]  # class 3: brightness
    array([151, 151, 151], dtype=uint8)
    """
    images = np.asarray(images)
    if images.shape[1:] != (_SIDE, _SIDE, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"images is {images.dtype} of shape {images.shape}, but the severities "
            "hold for uint8 of shape (n_samples, 32, 32, 3): resize and convert first."
        )
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity={severity!r} is not one of 1, 2, 3, 4, 5.")
    rng = check_random_state(random_state)
    target, attributes = pair_attributes(target, minority, rng)
    corrupted = np.empty_like(images)
    for value, name in enumerate(CORRUPTIONS):
        rows = np.flatnonzero(attributes == value)
        for start in range(0, len(rows), 1000):  # float32 for 1000 images at a time
            some = rows[start : start + 1000]
            corrupted[some] = corrupt(name, images[some], severity, rng)
    return corrupted, attributes
