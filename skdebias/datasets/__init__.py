"""Generated and real data with spurious attributes, and a metadata.csv reader."""

from skdebias.datasets._cifar import corrupt_images, fetch_cifar10
from skdebias.datasets._digits import load_coloured_digits
from skdebias.datasets._generated import make_spurious_classification
from skdebias.datasets._metadata import load_metadata
from skdebias.datasets._mnist import colour_digits, fetch_mnist, stamp_digits

__all__ = [
    "colour_digits",
    "corrupt_images",
    "fetch_cifar10",
    "fetch_mnist",
    "load_coloured_digits",
    "load_metadata",
    "make_spurious_classification",
    "stamp_digits",
]
