"""Functions for other processes, which import them from here."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np


def double(number):
    return 2 * number


def grid(number):
    return np.full((3, 5), number, dtype=np.float32)


class Scale:
    """A preprocess without torch, whose import takes seconds in every process."""

    cache_description = "scale"

    def __call__(self, image):
        pixels = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255
        return pixels.transpose(2, 0, 1)


class Fatal(Scale):
    """A preprocess that ends its process at a white image, as a broken decoder does.

    With `marks`, an image ends the first process that prepares it and no other.
    """

    def __init__(self, how, marks=None):
        self.how = how
        self.marks = marks

    def __call__(self, image):
        pixels = super().__call__(image)
        if pixels.min() == 1 and not self._seen():
            if self.how == "exit":
                os._exit(3)
            if self.how == "hang":
                time.sleep(600)
            os.kill(os.getpid(), getattr(signal, self.how))
        return pixels

    def _seen(self):
        if self.marks is None:
            return False
        seen = Path(self.marks).exists()
        Path(self.marks).touch()
        return seen


class Unloadable:
    """Can be sent, and not be received."""

    cache_description = "unloadable"

    def __call__(self, image):
        return image

    def __reduce__(self):
        return _fail, ()


def _fail():
    raise ImportError("no module of that name here")


def modules(_):
    return [name for name in ("torch", "timm", "skdebias") if name in sys.modules]


def slow(number):
    time.sleep(0.2)
    return number
