"""Where classifiers look: plain and debiased heads on photographs with a sticker

    python examples/reproduce/where_they_look.py

600 cats and 600 dogs of CIFAR-10 (JPEG copy, enlarged to 224 pixels) with a red sticker
in a corner, of 95 % of the dogs and 5 % of the cats; linear heads on a frozen
MobileNetV2 of width 0.35 (ImageNet weights), at their defaults. ERM against GERNE,
which is told of the sticker in training. Grad-CAM of the last convolutional maps, 7 by
7, for the class "dog". One seed (0), some minutes of one core.

Scores are of 600 test photographs, of which about half of either class have a
sticker.
"""

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from _intervals import points, prose
from _runner import PAGES, ROWS, Task, run
from ccifar10 import NETWORKS

from embeddings_cache import EmbeddingExtractor
from skdebias import ERMClassifier, GERNEClassifier
from skdebias.datasets import fetch_cifar10
from skdebias.inspection import SaliencyDisplay
from skdebias.metrics import worst_group_accuracy_score

PHOTOS = "photographs with a sticker"
EPILOGUE = """
![Photographs, and Grad-CAM of two heads](where_they_look.png)

Bright is what speaks for "dog"; above each map is what the head says.

| head | accuracy | worst group |
| --- | ---: | ---: |
| ERM | {erm_accuracy} | {erm_worst} |
| GERNE | {gerne_accuracy} | {gerne_worst} |

Share of the map that lies in the quarter with the sticker, mean over 100 test
photographs that have one: ERM {erm_share} %, GERNE {gerne_share} %.

- *ERM* looks at the corner wherever there is a sticker, and calls that a dog. Without
  one it says cat to all four of these, and its maps are small spots.
- *GERNE* is a head on the same frozen maps and weighs their channels in another way. On
  two of the four photographs without a sticker its map lies on the animal. With one, it
  still looks there more than anywhere else, but says cat to all four of these, which is
  right for two.
- What the picture does not say: a place of the maps sees a good part of the photograph,
  and a map is divided by its own largest value, however small that is. The photographs
  are the first two of each group.

The same for pixels, of whole networks, on digits with the class written into a corner
and on coloured ones: the picture of [ULE on MNIST](ule_mnist.md).
"""


@lru_cache
def photos(part):
    """Cats and dogs of a part with stickers: images, classes, who has a sticker."""
    cifar = fetch_cifar10()
    names = list(cifar.target_names)
    rng = np.random.default_rng(0)
    rows, n = [], {"train": 600, "test": 300}[part]
    for name in ("cat", "dog"):
        of_class = (cifar.split == part) & (cifar.target == names.index(name))
        rows.append(rng.permutation(np.flatnonzero(of_class))[:n])
    images = cifar.images[np.concatenate(rows)].copy()
    y = np.repeat(["cat", "dog"], n)
    aligned = rng.random(2 * n) < (0.95 if part == "train" else 0.5)
    sticker = aligned == (y == "dog")
    images[sticker, 2:8, 2:8] = (220, 30, 30)
    return images, y, sticker


@lru_cache
def extractor():
    """Return the frozen backbone."""
    settings = dict(NETWORKS["mobilenetv2"])
    names = ("backbone", "weights", "model_kwargs")
    return EmbeddingExtractor(
        **{name: settings[name] for name in names},
        preprocess={**settings["preprocess"], "size": 224, "crop": 1.0},
        progress=False,
        device="cpu",
    )


@lru_cache
def fitted_photos(method):
    """Return the head of a method."""
    images, y, sticker = photos("train")
    X = extractor().transform(images)
    if method == "ERM":
        return ERMClassifier(random_state=0).fit(X, y)
    return GERNEClassifier(random_state=0).fit(X, y, attributes=sticker)


def cam(head, images):
    """Grad-CAM of "dog"."""
    import matplotlib.pyplot as plt

    display = SaliencyDisplay.from_estimator(
        head, images, extractor=extractor(), kind="grad_cam", target="dog"
    )
    plt.close(display.figure_)
    (maps,) = display.maps.values()
    return maps


def share_at_sticker(head, images):
    """Mean share of the maps in the quarter of the sticker, of those that are not 0."""
    maps = np.concatenate([cam(head, images[i : i + 50]) for i in range(0, 100, 50)])
    half = maps.shape[1] // 2
    total = maps.sum((1, 2))
    return float(
        (maps[:, :half, :half].sum((1, 2))[total > 0] / total[total > 0]).mean()
    )


def fit(task):
    """Fit a task, and return its scores."""
    images, y, sticker = photos("test")
    head = fitted_photos(task.method)
    said = head.predict(extractor().transform(images))
    worst = worst_group_accuracy_score(y, said, attributes=sticker)
    return {
        ("last", "accuracy"): float((said == y).mean()),
        ("last", "worst"): worst,
        ("last", "share"): share_at_sticker(head, images[sticker][::3]),
    }


def draw_photos(path):
    """Draw two photographs of each group."""
    images, y, sticker = photos("test")
    shown, titles = [], []
    for label in ("dog", "cat"):
        for has in (True, False):
            shown += list(np.flatnonzero((y == label) & (sticker == has))[:2])
            titles += [f"{label}, {'sticker' if has else 'none'}"] * 2
    display = SaliencyDisplay.from_estimator(
        {name: fitted_photos(name) for name in ("ERM", "GERNE")},
        images[shown],
        extractor=extractor(),
        kind="grad_cam",
        target="dog",
        titles=titles,
    )
    display.figure_.savefig(path, dpi=68)


def facts(rows):
    """Return the numbers of the prose."""
    value = rows.set_index(["method", "metric"])["value"]
    return {
        f"{method.lower()}_{metric}": points(value[method, metric] * 100)
        for method, metric in value.index
    }


def main():
    title, _, protocol = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--out", type=Path, default=ROWS / "where_they_look.csv")
    parser.add_argument("--table-only", action="store_true", help="draw nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [Task(PHOTOS, method, "", 0) for method in ("ERM", "GERNE")]
    rows = run(tasks, fit, arguments.out)
    if not arguments.table_only:
        draw_photos(PAGES / "where_they_look.png")
    print(f"# {title}\n\n{protocol.rstrip()}")
    print(prose(EPILOGUE, facts, rows, arguments.out), end="")


if __name__ == "__main__":
    main()
