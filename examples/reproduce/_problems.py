"""The problems of untouched_defaults.py: data sets, their parts, and what is known.

Each problem draws a training, a validation and a test part for a seed. Features are
standardised on the training part. The other attribute pairs of CelebA-HQ are left for
checking: nothing was ever chosen by them.
"""

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import _text_sets as text
import numpy as np
from _embeddings import scaled
from _methods import Part
from sklearn.model_selection import train_test_split

from skdebias.datasets import colour_digits, fetch_mnist, make_spurious_classification
from skdebias.model_selection import AttributeStratifiedShuffleSplit

# The embeddings of the faces are stored as the network's quantised output.
SCALE = 0.0235285
FACES = [
    ("Blond_Hair", "Male"),
    ("Bags_Under_Eyes", "Male"),
    ("Wavy_Hair", "Male"),
    ("Attractive", "Male"),
    ("Smiling", "Mouth_Slightly_Open"),
    ("Young", "Eyeglasses"),
]


def _folder():
    return Path(os.environ.get("SKDEBIAS_DATA", "."))


class Problem(NamedTuple):
    """A data set with a label and an attribute."""

    parts: Callable[[int], list[Part]]  # training, validation and test of a seed
    annotated: bool = True  # whether training and validation rows have attributes


@cache
def _faces():
    with np.load(_folder() / "embeddings" / "celebahq30k.npz") as data:
        columns = dict(zip(data["attribute_names"].tolist(), data["attributes"].T))
        return data["X_mobilenet_v1_u8"].astype(np.float32) * SCALE, columns


def faces(label, attribute, seed):
    """Draw a third of the rows for test and a quarter of the rest for validation."""
    X, columns = _faces()
    y, a = (columns[name] > 0 for name in (label, attribute))
    y, a = y.astype(int), a.astype(int)

    def split(rows, test_size):
        splitter = AttributeStratifiedShuffleSplit(
            1, test_size=test_size, random_state=seed
        )
        first, second = next(splitter.split(rows, y[rows], attributes=a[rows]))
        return rows[first], rows[second]

    rest, test = split(np.arange(len(y)), 1 / 3)
    train, validation = split(rest, 1 / 4)
    return scaled(X, y, a, [train, validation, test])


@cache
def _cebab():
    return text.cebab(text.encoder())


def cebab(seed):
    """Draw reviews in which food and service agree in 95 %, in training only."""
    rows = _cebab()
    return scaled(rows.X, rows.y, rows.attributes, text.split_cebab(rows, seed))


@cache
def _sentiment():
    return text.sentiment(text.encoder(), every_revision=True)


def sentiment(seed):
    """Draw film reviews, of which one in twenty of training was revised by people."""
    rows = _sentiment()
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(rows.part != "test")
    revised = pool[rows.attributes[pool] == 1]
    kept = rng.choice(revised, round(len(pool) / 2 / 19), replace=False)
    pool = np.concatenate([pool[rows.attributes[pool] == 0], kept])
    cells = 2 * (rows.y[pool] == "Positive") + rows.attributes[pool]
    train, validation = train_test_split(
        pool, test_size=0.25, stratify=cells, random_state=seed
    )
    test = np.flatnonzero(rows.part == "test")
    return scaled(rows.X, rows.y, rows.attributes, [train, validation, test])


def generated(n_classes, seed):
    """Draw 3,000 rows of `make_spurious_classification`, a balanced test part."""

    def draw(n_samples, correlation, part, directions=None):
        return make_spurious_classification(
            n_samples,
            n_classes=n_classes,
            n_attributes=n_classes,
            correlation=correlation,
            directions=directions,
            return_X_y=False,
            random_state=3 * seed + part,
        )

    train = draw(3000, 0.95, 0)
    validation = draw(1000, 0.95, 1, train.directions)
    test = draw(6000, 1 / n_classes, 2, train.directions)
    sets = [train, validation, test]
    X, y, a = (
        np.concatenate([data[name] for data in sets])
        for name in ("X", "y", "attributes")
    )
    ends = np.cumsum([len(data.y) for data in sets])[:-1]
    return scaled(X, y, a, np.split(np.arange(len(y)), ends))


@cache
def _digits():
    return fetch_mnist(data_home=_folder())


def digits(seed):
    """Draw 8,000 coloured digits, 5 % of them in an unusual colour, at 14 x 14."""
    mnist = _digits()
    rng = np.random.default_rng(seed)
    rows = rng.permutation(60000)
    parts = [rows[:8000], rows[8000:10000], np.arange(60000, 70000)]
    shares = [0.05, 0.05, 0.9]
    images, colours = [], []
    for part, (chosen, minority) in enumerate(zip(parts, shares)):
        painted, colour = colour_digits(
            mnist.images[chosen],
            mnist.target[chosen],
            minority=minority,
            random_state=3 * seed + part,
        )
        halved = painted.reshape(len(chosen), 14, 2, 14, 2, 3).mean((2, 4))
        images.append(halved.reshape(len(chosen), -1) / 255)
        colours.append(colour)
    y = np.concatenate([mnist.target[chosen] for chosen in parts])
    ends = np.cumsum([len(chosen) for chosen in parts])[:-1]
    return scaled(
        np.concatenate(images).astype(np.float32),
        y,
        np.concatenate(colours),
        np.split(np.arange(len(y)), ends),
    )


@cache
def _photos():
    with np.load(_folder() / "embeddings" / "bar.npz") as data:
        X = data["X_mobilenet_v1_u8"].astype(np.float32) * SCALE
        return X, data["action"].astype(str), data["split"] == "test"


def bar(seed):
    """Draw biased training and validation parts; the test part is unbiased."""
    X, y, is_test = _photos()
    pool = np.flatnonzero(~is_test)
    rows = train_test_split(pool, test_size=0.2, stratify=y[pool], random_state=seed)
    return scaled(X, y, None, [*rows, np.flatnonzero(is_test)])


PROBLEMS = {
    **{f"{y} given {a}": Problem(partial(faces, y, a)) for y, a in FACES},
    "CEBaB food given service": Problem(cebab),
    "CAD sentiment given revision": Problem(sentiment),
    **{f"generated, {k} classes": Problem(partial(generated, k)) for k in (2, 3, 4)},
    "C-MNIST": Problem(digits),
    "BAR": Problem(bar, annotated=False),
}
