"""How often an audit of forty columns finds the shortcut, or one where there is none.

Every draw has its own data: two classes, a shortcut that the embeddings hold, and 39
further columns: fair, rare and many-valued ones, measurements, with values missing; of
which some can be read from the embeddings, and others go along with the label. In half
of the draws the shortcut is a column among them; in the other half the same column has
nothing to do with the label. The counts are printed::

    python examples/audit_draws.py --draws 100
"""

import argparse
from time import perf_counter

import numpy as np

from skdebias.datasets import make_spurious_classification
from skdebias.inspection import audit_attributes

N_COLUMNS = 40
# Columns, beside the shortcut, that the embeddings hold.
N_DECODABLE = 10
# Columns that go along with the label, and that the embeddings do not hold.
N_ASSOCIATED = 8


def draw(seed, *, planted, n_samples=2000, n_features=48):
    """Draw embeddings, labels and candidate columns.

    Parameters
    ----------
    seed : int
    planted : bool
        Whether the column "shortcut" goes along with the label.
    n_samples, n_features : int, default=2000 and 48

    Returns
    -------
    X, y : ndarray
    candidates : dict of str to ndarray
    """
    rng = np.random.default_rng(seed)
    X, y, shortcut = make_spurious_classification(
        n_samples,
        n_features=n_features,
        correlation=0.95 if planted else 0.5,
        core_strength=2.5,
        spurious_strength=3.0,
        random_state=seed,
    )
    columns = {}
    for number in range(N_COLUMNS - 1):
        column = _column(number, rng, n_samples)
        if number < N_DECODABLE:
            direction = rng.standard_normal(n_features)
            standard = (column - column.mean()) / column.std()
            X += 1.5 * np.outer(standard, direction / np.linalg.norm(direction))
        elif number < N_DECODABLE + N_ASSOCIATED:
            agree = rng.random(n_samples) < 0.6
            column = np.where(agree, y, column)
        columns[f"column {number}"] = _named(number, column, rng)
    place = int(rng.integers(N_COLUMNS))
    names = [*columns]
    names.insert(place, "shortcut")
    columns["shortcut"] = shortcut
    return X, y, {name: columns[name] for name in names}


def _column(number, rng, n_samples):
    """Draw a column of one of four kinds, whatever the label."""
    kind = number % 4
    if kind == 0:
        return rng.integers(0, 2, n_samples).astype(float)
    if kind == 1:
        return (rng.random(n_samples) < 0.05).astype(float)
    if kind == 2:
        return rng.integers(0, 6, n_samples).astype(float)
    return rng.standard_normal(n_samples)


def _named(number, column, rng):
    """Write a column as people have it: as words, or with values missing."""
    if number % 4 == 2:
        return np.array(["red", "blue", "green", "grey", "pink", "white"])[
            column.astype(int)
        ]
    if number % 3 == 0:
        return np.where(rng.random(len(column)) < 0.2, np.nan, column)
    return column


def count(n_draws, n_samples=2000):
    """Count audits that are right.

    Parameters
    ----------
    n_draws : int
    n_samples : int, default=2000

    Returns
    -------
    dict of str to int
    """
    counts = {"planted: first": 0, "planted: flagged": 0, "planted: no other": 0}
    counts["none: nothing flagged"] = 0
    for seed in range(n_draws):
        table = _audit(seed, True, n_samples)
        flagged = [*table.index[table["flagged"]]]
        counts["planted: first"] += table.index[0] == "shortcut"
        counts["planted: flagged"] += "shortcut" in flagged
        counts["planted: no other"] += not {*flagged} - {"shortcut"}
        counts["none: nothing flagged"] += not _audit(seed, False, n_samples)[
            "flagged"
        ].any()
    return counts


def _audit(seed, planted, n_samples):
    X, y, candidates = draw(seed, planted=planted, n_samples=n_samples)
    return audit_attributes(X, y, candidates, random_state=seed)


def main():
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100, help="draws of each kind")
    parser.add_argument("--samples", type=int, default=2000, help="rows of a draw")
    arguments = parser.parse_args()
    start = perf_counter()
    for name, number in count(arguments.draws, arguments.samples).items():
        print(f"{name:24}{number:4} of {arguments.draws}")
    print(f"{perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
