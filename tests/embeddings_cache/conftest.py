"""A tiny network that counts its forward passes, and images on disk."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from embeddings_cache import EmbeddingExtractor


class CountingNet(nn.Module):
    """Eight fixed features of an 8 x 8 image, and how many items went through."""

    cache_description = "counting net, v1"

    def __init__(self, n_features=8):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(n_features, 192, generator=generator)
        self.weight = nn.Parameter(weight)
        self.n_items = 0
        self.fail_after = None

    def forward(self, x):
        self.n_items += len(x)
        if self.fail_after is not None and self.n_items > self.fail_after:
            raise KeyboardInterrupt
        return x.flatten(1) @ self.weight.T


def to_tensor(image):
    """Scale an image to 8 x 8 and [0, 1]."""
    array = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


to_tensor.cache_description = "8 x 8, [0, 1]"


@pytest.fixture
def net():
    return CountingNet()


@pytest.fixture
def make_extractor(net, tmp_path):
    """Return a function that makes silent extractors over one cache folder."""

    def make(backbone=None, **changes):
        settings = {
            "cache_dir": tmp_path / "cache",
            "progress": False,
            "num_workers": 0,
            "device": "cpu",
        }
        if backbone is None:
            settings["preprocess"] = to_tensor
        return EmbeddingExtractor(backbone or net, **(settings | changes))

    return make


@pytest.fixture
def images():
    """Twenty different uint8 images (20, 16, 16, 3)."""
    return np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def photo_folder(tmp_path, images):
    """Return a folder with the images as PNG files, two of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, array in enumerate(images[:6]):
        place = folder / "sub" if number >= 4 else folder
        Image.fromarray(array).save(place / f"{number}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder
