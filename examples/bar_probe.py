"""
Real photos through a pretrained network: the BAR action set
============================================================

Biased Action Recognition (Nam et al. 2020) has 1,941 training photos of six actions,
each in its usual place, and 654 test photos in unusual places. A linear probe on frozen
features looks excellent on held-out training photos and fails on the test photos: that
gap is what the rest of this project is about.

The photos go through a MobileNetV2 (width 0.35) with local weights into the embeddings
cache; a second run takes them from there. Two crops are tried, since the crop alone
moves the test accuracy by several points. Run it on a folder that has
``bar/bar.tar.xz`` and ``pretrained/timm_mobilenetv2_035_imagenet.safetensors``::

    python examples/bar_probe.py --data DIR
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embeddings_cache import EmbeddingExtractor

WEIGHTS = Path("pretrained") / "timm_mobilenetv2_035_imagenet.safetensors"
MEMBER_LIMIT = 50 << 20  # no photo of the set is near this size

# name -> (what happens to a photo, crop, inverse strength of the penalty)
RECIPES = {
    "square": ("square centre crop at 224, bilinear", 1.0, 0.01),
    "256/224": ("shorter side 256, bilinear, centre crop 224", 0.875, 1.0),
}


def unpack(archive: Path, folder: Path) -> None:
    """Copy the photos of the archive to a folder, by their plain names only.

    Nothing of a member but its content is used: no link, no mode, no path beyond
    "train" or "test" and a file name.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            wanted = (
                member.isreg()
                and len(parts) == 2
                and parts[0] in ("train", "test")
                and parts[1].endswith(".jpg")
                and member.size <= MEMBER_LIMIT
            )
            if not wanted:
                continue
            target = folder / parts[0] / Path(parts[1]).name
            if target.exists() and target.stat().st_size == member.size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)


def photos(folder: Path, part: str) -> tuple[list[Path], np.ndarray]:
    """Return the photos of a split and their actions, the first word of the name."""
    paths = sorted((folder / part).glob("*.jpg"))
    return paths, np.array([path.name.split("_")[0] for path in paths])


def make_extractor(data: Path, crop: float, **settings) -> EmbeddingExtractor:
    """Return the extractor: these weights need their own padding, eps, mean and std."""
    return EmbeddingExtractor(
        "timm:mobilenetv2_035",
        weights=data / WEIGHTS,
        model_kwargs={"pad_type": "same", "bn_eps": 1e-3},
        preprocess={
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "size": 224,
            "crop": crop,
            "interpolation": "bilinear",
        },
        **settings,
    )


def probe(X, y, X_test, y_test, strength: float) -> tuple[np.ndarray, float]:
    """Return held-out accuracies of five stratified 20% splits, and test accuracy."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, max_iter=2000)
    )
    held_out = []
    for seed in range(5):
        parts = train_test_split(X, y, test_size=0.2, stratify=y, random_state=seed)
        held_out.append(model.fit(parts[0], parts[2]).score(parts[1], parts[3]))
    return np.array(held_out), model.fit(X, y).score(X_test, y_test)


def run(data: Path, work: Path, recipes=tuple(RECIPES), **settings) -> dict:
    """Unpack, extract and probe; return {recipe: (held-out, test, seconds)}."""
    unpack(data / "bar" / "bar.tar.xz", work)
    train, y = photos(work, "train")
    test, y_test = photos(work, "test")
    print(f"BAR: {len(train)} training photos, {len(test)} test photos", flush=True)
    found = {}
    for name in recipes:
        text, crop, strength = RECIPES[name]
        extractor = make_extractor(data, crop, **settings)
        started = time.perf_counter()
        X = extractor.transform(train + test)
        seconds = time.perf_counter() - started
        n = len(train)
        held_out, unbiased = probe(X[:n], y, X[n:], y_test, strength)
        found[name] = (held_out.mean(), unbiased, seconds)
        print(
            f"{text}; logistic regression C={strength:g}\n"
            f"  held-out {held_out.mean():.3f} "
            f"[{held_out.min():.3f} {held_out.max():.3f}] (20%, 5 splits), "
            f"unbiased test {unbiased:.3f}; embeddings in {seconds:.1f} s "
            f"({extractor.last_run_.n_found} found, "
            f"{extractor.last_run_.n_computed} computed)",
            flush=True,
        )
    return found


def main() -> int:
    """Run the example on the folder the user names."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[1])
    parser.add_argument("--data", type=Path, required=True, help="folder of real data")
    parser.add_argument(
        "--work", type=Path, help="where to unpack (default: temporary)"
    )
    parser.add_argument("--cache-dir", help="embeddings cache (default: the user's)")
    options = parser.parse_args()
    for name in (Path("bar") / "bar.tar.xz", WEIGHTS):
        if not (options.data / name).is_file():
            parser.error(f"--data {options.data}: no {name} in it")
    if options.work is not None:
        run(options.data, options.work, cache_dir=options.cache_dir)
        return 0
    with tempfile.TemporaryDirectory() as work:
        run(options.data, Path(work), cache_dir=options.cache_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
