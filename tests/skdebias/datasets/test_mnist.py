"""Coloured MNIST: counts, colours, and the real digits where they are at hand."""

import os

import numpy as np
import pytest

from skdebias.datasets import colour_digits, fetch_mnist, stamp_digits

BRIGHT = np.full((1000, 3, 3), 255, dtype=np.uint8)
Y = np.arange(1000) % 10


@pytest.mark.parametrize("minority", [0.0, 0.05, 0.9])
def test_colours_follow_the_minority_share(minority):
    _, colour = colour_digits(BRIGHT, Y, minority=minority, random_state=0)
    for digit in range(10):
        counts = np.bincount(colour[digit == Y], minlength=10)
        assert counts[digit] == 100 - round(100 * minority)
        others = np.delete(counts, digit)
        assert others.max() - others.min() <= 1


def test_images_are_tinted_grey_levels():
    grey = np.arange(0, 250, dtype=np.uint8).reshape(10, 5, 5)
    images, colour = colour_digits(grey, np.arange(10), minority=0, random_state=0)
    np.testing.assert_array_equal(colour, np.arange(10))
    assert images.shape == (10, 5, 5, 3)
    tint = images[0, -1, -1] / grey[0, -1, -1]
    np.testing.assert_allclose(tint, np.array([251, 80, 43]) / 255, atol=0.05)


def test_severity_sets_the_spread():
    spread = []
    for severity in range(1, 6):
        images, _ = colour_digits(
            BRIGHT, np.ones_like(Y), minority=0, severity=severity, random_state=0
        )
        spread.append(images[:, 0, 0, 2].std())  # the blue channel is far from 0, 255
    assert spread == sorted(spread, reverse=True)
    assert spread[0] == pytest.approx(0.05 * 255, rel=0.1)


def test_colours_repeat_with_the_seed():
    first = colour_digits(BRIGHT, Y, minority=0.1, random_state=3)
    again = colour_digits(BRIGHT, Y, minority=0.1, random_state=3)
    other = colour_digits(BRIGHT, Y, minority=0.1, random_state=4)
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[1] != other[1]).any()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"minority=1\.5"):
        colour_digits(BRIGHT, Y, minority=1.5)
    with pytest.raises(ValueError, match="severity=9"):
        colour_digits(BRIGHT, Y, severity=9)


@pytest.mark.skipif("SKDEBIAS_DATA" not in os.environ, reason="SKDEBIAS_DATA not set")
def test_real_mnist():
    mnist = fetch_mnist()
    assert mnist.images.shape == (70000, 28, 28)
    train = mnist.split == "train"
    assert np.bincount(mnist.target[train])[:3].tolist() == [5923, 6742, 5958]
    assert mnist.images[train].mean() / 255 == pytest.approx(0.1307, abs=1e-4)


def test_no_digits_and_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("SKDEBIAS_DATA", raising=False)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(OSError, match=r"no route to host.*SKDEBIAS_DATA"):
        fetch_mnist()


@pytest.mark.parametrize("minority", [0.0, 0.9, 1.0])
def test_codes_name_the_class_or_another(minority):
    digits = np.full((1000, 12, 12), 7, dtype=np.uint8)
    stamped, code = stamp_digits(digits, Y, minority=minority, random_state=0)
    assert (digits == 7).all()
    np.testing.assert_array_equal(stamped[:, 1:], digits[:, 1:])
    np.testing.assert_array_equal(stamped[:, 0, 10:], 7)
    np.testing.assert_array_equal(stamped[:, 0, :10], 255 * np.eye(10)[code])
    wrong = np.array([np.bincount(code[digit == Y], minlength=10) for digit in Y[:10]])
    np.testing.assert_array_equal(np.diag(wrong), 100 - round(100 * minority))
    others = wrong[~np.eye(10, dtype=bool)].reshape(10, 9)
    assert (np.ptp(others, axis=1) <= 1).all()


def test_codes_need_room():
    with pytest.raises(ValueError, match=r"\(1000, 3, 3\)"):
        stamp_digits(BRIGHT, Y)
    with pytest.raises(ValueError, match=r"classes \[0\.0, 1\.0, 2\.5\]"):
        stamp_digits(np.zeros((3, 10, 10), dtype=np.uint8), [0, 1, 2.5])
