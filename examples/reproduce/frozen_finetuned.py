"""Frozen against fine-tuned: last layers on cached embeddings beside whole networks

    python examples/reproduce/frozen_finetuned.py --seeds 3

BAR, photos of six actions in their usual places, tested on 654 photos in unusual
places; the bias was never annotated. A seed draws 20 % of the 1,941 official training
photos for validation, which are as biased, and starts the training. The network is a
MobileNetV2 of width 0.35 with ImageNet weights; photos are cropped to a square and
resized to `--image-size`.

"Last layer" trains heads on embeddings that were extracted once and are standardised;
"whole network" fine-tunes everything, at batch normalisation's running statistics. The
epoch and the setting are chosen per seed by worst-class accuracy on validation. Heads
choose from the grids of `_methods.py`, at 60 epochs. Networks have the first setting of
a method's own parameters there, and choose a learning rate.

The data folder is `$SKDEBIAS_DATA`; the photos may not be redistributed.
"""

import argparse
import os
import sys
import tempfile
import time
import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _embeddings import scaled
from _intervals import fixed_test, picked, prose, short, written
from _methods import METHODS, OPTIMISER, Part, settings
from _runner import ROWS, Task, chosen, read, run
from PIL import Image, ImageOps
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split

from embeddings_cache import EmbeddingExtractor
from skdebias.finetune import FineTuneClassifier
from skdebias.metrics import worst_class_accuracy_score

sys.path.insert(0, str(Path(__file__).parents[1]))
from bar_probe import WEIGHTS, photos, unpack

FOLDER = Path(os.environ.get("SKDEBIAS_DATA", "."))
LAST_LAYER, WHOLE = "last layer", "whole network"
TRAINED = (LAST_LAYER, WHOLE)
PHOTOS = fixed_test(654)
EXTRACTION = "extraction"
BALANCED = "ERM, class-balanced"
COMPARED = ("ERM", BALANCED, "GERNE unknown", "UGC", "JTT", "ULE")
# JTT's first network is to make mistakes: it has one epoch, heads have five.
OF_NETWORKS = {"JTT": {"warmup_epochs": 1}}
HEAD_EPOCHS = 60
METRICS = {
    "average": "average",
    "class_balanced": "class-balanced",
    "worst_class": "worst class",
}
EPILOGUE = """
What was run, on 2026-11-23, with one thread of two cores that others used as well:

    python examples/reproduce/frozen_finetuned.py --seeds 3 --image-size 96 \\
        --epochs 4 --learning-rates 1e-4 --threads 1

but for whole networks other than ERM's, which have the first seed only; and on the
first seed, ERM and JTT for 12 epochs at 1e-4, ERM for 8 at 1e-3 and 1e-2, JTT for 8 at
1e-2. The options are smaller than the script's own (224 pixels, 10 epochs), for time.

- Fine-tuning buys little here, and costs a lot. On the first seed and after 12 epochs
  ERM's whole network has an average accuracy of {erm_12} and a worst class of
  {erm_12_worst}, its head {erm_head} and {erm_head_worst}; JTT's has {jtt_12} and
  {jtt_12_worst}, its head {jtt_head} and {jtt_head_worst}. Those differences are within
  the standard error. A fit then takes {seconds_12} s, a head's about one; the whole
  grid of a head, with the extraction, costs less than one network.
- On held-out photos, which are as biased as those of training, the worst class of the
  networks is better than that of the heads ({erm_12_held} against {erm_head_held} with
  ERM): what fine-tuning gains is gained on photos in usual places.
- After four epochs every whole network is below its head: {erm_4} (ERM), {gerne_4}
  (GERNE, head {gerne_head}), {ugc_4} (UGC, {ugc_head}), {jtt_4} (JTT), {ule_4} (ULE,
  {ule_head}). The networks of GERNE, UGC and ULE have no other run. ULE's had not
  learnt the task; its penalty is on pixels.
- Learning rates of 1e-3 and above destroy what the backbone knows: {erm_high} and
  {erm_higher} (ERM).
- Budgets are not equal: heads have a grid of 4 to 16 settings and three seeds, networks
  mostly one of each ("settings", "seeds"). The standard error of an average on 654 test
  photos is two points, and these photos are the same for all seeds. Most differences
  between the heads are within that, too.
"""


class Photos(NamedTuple):
    """All photos, cropped and resized, and how long that took."""

    images: np.ndarray  # (n, size, size, 3)
    y: np.ndarray
    is_test: np.ndarray
    seconds: float


def load(size):
    """Read the photos at a size in pixels."""

    def cropped(path):
        with Image.open(path) as image:
            image.draft("RGB", (size, size))  # decodes no more pixels than are wanted
            fitted = ImageOps.fit(
                image.convert("RGB"), (size, size), Image.Resampling.BILINEAR
            )
        return np.asarray(fitted)

    with tempfile.TemporaryDirectory() as folder:
        unpack(FOLDER / "bar" / "bar.tar.xz", Path(folder))
        (train, y), (test, y_test) = (
            photos(Path(folder), p) for p in ("train", "test")
        )
        start = time.perf_counter()
        images = np.stack([cropped(path) for path in [*train, *test]])
        seconds = time.perf_counter() - start
    is_test = np.repeat([False, True], [len(train), len(test)])
    return Photos(images, np.concatenate([y, y_test]), is_test, seconds)


def backbone(size):
    """Return the network's parameters, for the extractor and for fine-tuning."""
    return {
        "backbone": "timm:mobilenetv2_035",
        "weights": FOLDER / WEIGHTS,
        "model_kwargs": {"pad_type": "same", "bn_eps": 1e-3},
        "preprocess": {
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "size": size,
            "crop": 1.0,
            "interpolation": "bilinear",
        },
    }


def heads(method):
    """Grid of a method on embeddings, {setting: estimator}."""
    estimator = METHODS[method].estimator
    return {
        setting: clone(estimator).set_params(**point, max_iter=HEAD_EPOCHS)
        for setting, point in settings(method).items()
    }


def networks(method, network, rates, epochs):
    """Return the settings of a method with a whole network: one learning rate each.

    Parameters
    ----------
    method : str
    network : FineTuneClassifier
        How it is built, and trained otherwise.
    rates : sequence of float
    epochs : int

    Returns
    -------
    dict of str to FineTuneClassifier
    """
    first = next(iter(settings(method).values()))
    own = {k: v for k, v in first.items() if k not in OPTIMISER}
    own |= OF_NETWORKS.get(method, {})
    estimator = clone(METHODS[method].estimator).set_params(**own)
    grid = {}
    for rate in rates:
        recipe = {"learning_rate": rate, "max_iter": epochs}
        name = " ".join(f"{key}={value}" for key, value in (own | recipe).items())
        grid[name] = clone(network).set_params(estimator=estimator, **recipe)
    return grid


def split(data, seed):
    """Rows for training, validation and test."""
    pool, test = np.flatnonzero(~data.is_test), np.flatnonzero(data.is_test)
    train, val = train_test_split(
        pool, test_size=0.2, stratify=data.y[pool], random_state=seed
    )
    return train, val, test


def score(estimator, parts, seed):
    """Fit once; what validation says, the scores on test, and the cost.

    Parameters
    ----------
    estimator : classifier
    parts : sequence of three Part
        Training, validation and test.
    seed : int

    Returns
    -------
    dict
    """
    train, val, test = parts
    estimator = clone(estimator).set_params(random_state=seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        # Weak clusters and bounds of beta are looked at elsewhere; scores decide.
        warnings.simplefilter("ignore", UserWarning)
        estimator.fit(train.X, train.y, X_val=val.X, y_val=val.y)
    seconds = time.perf_counter() - start
    predicted = estimator.predict(test.X)
    held_out = worst_class_accuracy_score(val.y, estimator.predict(val.X))
    return {
        ("validation", "validation"): held_out,
        ("test", "average"): np.mean(predicted == test.y),
        ("test", "class_balanced"): balanced_accuracy_score(test.y, predicted),
        ("test", "worst_class"): worst_class_accuracy_score(test.y, predicted),
        ("cost", "fit_seconds"): seconds,
    }


def table(rows):
    """Markdown: accuracy and cost of every method, trained in either way."""
    lines = [
        f"| method | trained | {' | '.join(METRICS.values())} | settings "
        "| seconds of a fit | seeds |",
        "| --- | --- |" + " ---: |" * (len(METRICS) + 3),
    ]
    rows = rows[rows["method"] != EXTRACTION]
    views = {
        metric: chosen(rows, choose="validation", report=metric, per_seed=True)
        for metric in METRICS
    }
    for method in COMPARED:
        for trained in TRAINED:
            if (trained, method) not in views["average"].index:
                continue
            found = [view.loc[(trained, method)] for view in views.values()]
            own = rows[(rows["dataset"] == trained) & (rows["method"] == method)]
            seconds = own.loc[own["metric"] == "fit_seconds", "value"].median()
            cells = [
                *map(_spread, found),
                str(own["setting"].nunique()),
                f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}",
                str(int(found[0]["n_seeds"])),
            ]
            lines.append(f"| {method} | {trained} | {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(rows):
    """Sentences on seconds: reading, extraction, and all fits of a seed."""
    values = rows[rows["selection"] == "cost"]
    once = values[values["method"] == EXTRACTION].set_index("metric")["value"]
    fits = values[values["method"] != EXTRACTION].groupby(["dataset", "method"])
    of_methods = fits["value"].sum() / fits["seed"].nunique()
    totals = of_methods.groupby("dataset").sum()
    told = [
        f"Reading and cropping all {once['photos']:.0f} photos took "
        f"{once['read_seconds']:.0f} s, which both ways of training need, and "
        f"extracting their embeddings {once['extract_seconds']:.0f} s, once for all "
        "heads and seeds."
    ]
    told += [
        f"All fits of one seed, {trained}: {total:.0f} s."
        for trained, total in totals.items()
    ]
    return " ".join(told)


def gains(rows):
    """Markdown: what the heads gain over both forms of ERM, paired by seed."""
    heads = rows[(rows["dataset"] == LAST_LAYER) & (rows["method"] != EXTRACTION)]
    scores = picked(heads, choose="validation", report="average")
    if BALANCED not in scores.index or scores.shape[1] < 3:
        return ""
    lines = [
        "Gain of last layers in average accuracy, paired by seed:",
        "",
        "| method | over ERM | over class-balanced ERM |",
        "| --- | ---: | ---: |",
    ]
    for method in COMPARED[1:]:
        if method in scores.index:
            cells = [
                PHOTOS.in_prose(scores.loc[method] - scores.loc[other])
                if method != other
                else ""
                for other in ("ERM", BALANCED)
            ]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", written(PHOTOS.covers)])


def facts(rows):
    """Return the numbers of the prose, all of the first seed."""
    rows = rows[rows["seed"] == 0]
    values = rows.set_index(["dataset", "method", "setting", "metric"])["value"]
    networks = {
        "erm_4": ("ERM", "0.0001", 4),
        "erm_12": ("ERM", "0.0001", 12),
        "erm_high": ("ERM", "0.001", 8),
        "erm_higher": ("ERM", "0.01", 8),
        "gerne_4": ("GERNE unknown", "0.0001", 4),
        "ugc_4": ("UGC", "0.0001", 4),
        "jtt_4": ("JTT", "0.0001", 4),
        "jtt_12": ("JTT", "0.0001", 12),
        "ule_4": ("ULE", "0.0001", 4),
    }
    found = {}
    for field, (method, rate, epochs) in networks.items():
        ending = f"learning_rate={rate} max_iter={epochs}"
        own = {
            metric: value
            for (trained, name, setting, metric), value in values.items()
            if trained == WHOLE and name == method and setting.endswith(ending)
        }
        found |= _of_run(field, own)
        if field == "erm_12":
            found["seconds_12"] = f"{own['fit_seconds']:.0f}"
    heads = rows[rows["dataset"] == LAST_LAYER]
    for field, method in zip(
        ("erm", "balanced", "gerne", "ugc", "jtt", "ule"), COMPARED
    ):
        own = heads[heads["method"] == method]
        metrics = ("average", "worst_class", "validation")
        found |= _of_run(
            f"{field}_head",
            {
                metric: chosen(own, choose="validation", report=metric)["mean"].item()
                for metric in metrics
            },
        )
    return found


def _of_run(field, scores):
    """Return the fields of one run."""
    names = {"": "average", "_worst": "worst_class", "_held": "validation"}
    return {field + suffix: short(scores[metric]) for suffix, metric in names.items()}


def _spread(row):
    if row["n_seeds"] < 2:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} ± {row['std']:.3f}"


def main():
    title, _, protocol = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=COMPARED, choices=COMPARED)
    parser.add_argument("--trained", nargs="+", default=TRAINED, choices=TRAINED)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10, help="of whole networks")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-4, 3e-4])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROWS / "frozen_finetuned.csv")
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    rows = read(arguments.out) if arguments.table_only else _run(arguments)
    protocol = protocol.strip("\n")
    parts = [f"# {title}", protocol, table(rows), gains(rows), costs(rows)]
    print("\n\n".join(part for part in parts if part))
    print(prose(EPILOGUE, facts, rows, arguments.out), end="")


def _run(arguments):
    """Run what is missing in the CSV."""
    torch.set_num_threads(arguments.threads)
    data = load(arguments.image_size)
    own = backbone(arguments.image_size)
    network = FineTuneClassifier(
        METHODS["ERM"].estimator,
        **own,
        schedule="cosine",
        head_init="zero",  # the first steps leave the pretrained backbone as it is
        batch_size=arguments.batch_size,
    )
    recipe = arguments.learning_rates, arguments.epochs
    grids = {
        (trained, method): heads(method)
        if trained == LAST_LAYER
        else networks(method, network, *recipe)
        for trained in arguments.trained
        for method in arguments.methods
    }
    # Rows of this task are costs that are no fit's.
    tasks = [Task("BAR", EXTRACTION, "", 0)]
    tasks += [
        Task(trained, method, setting, seed)
        for seed in range(arguments.seeds)
        for (trained, method), grid in grids.items()
        for setting in grid
    ]

    @cache
    def embeddings():
        with tempfile.TemporaryDirectory() as folder:
            extractor = EmbeddingExtractor(**own, cache_dir=folder, progress=False)
            start = time.perf_counter()
            X = extractor.transform(data.images)
            return X, time.perf_counter() - start

    @lru_cache(maxsize=1)
    def parts(trained, seed):
        rows = split(data, seed)
        if trained == LAST_LAYER:
            return scaled(embeddings()[0], data.y, None, rows)
        return [Part(data.images[r], data.y[r], None) for r in rows]

    def fit(task):
        if task.method == EXTRACTION:
            return {
                ("cost", "photos"): len(data.y),
                ("cost", "read_seconds"): data.seconds,
                ("cost", "extract_seconds"): embeddings()[1],
            }
        estimator = grids[task.dataset, task.method][task.setting]
        return score(estimator, parts(task.dataset, task.seed), task.seed)

    return run(tasks, fit, arguments.out)


if __name__ == "__main__":
    main()
