"""Untouched defaults without attributes: does any do harm?

    python examples/reproduce/untouched_blind.py --seeds 3

Every method that needs no attributes, as it comes and with the defaults of before, on
the problems of `_problems.py`, against class-balanced ERM. A fit gets training rows and
labels alone ("training rows"), or a validation part without attributes as well ("and
validation rows"). Scores are of the test part. A row "warned NAME" says how many
warnings of that class a fit gave.

The defaults were chosen by these problems and the first three seeds, test scores
included: they say that no default does harm here, not that none can. Seeds 3 and 4, of
all problems but the faces, were fitted once the defaults stood. The data folder is
`$SKDEBIAS_DATA`.
"""

import argparse
import re
import time
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path

from _intervals import short
from _methods import evaluate
from _problems import FACES, PROBLEMS
from _runner import ROWS, Task, run
from sklearn.base import clone

from skdebias import (
    AFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    JTTClassifier,
    LfFClassifier,
    UGCClassifier,
    ULEClassifier,
)

OUT = ROWS / "untouched_blind.csv"
BASELINE = "ERM, class-balanced"
DEFAULT, EARLIER = "default", "earlier default"
TRAINING, VALIDATION = "training rows", "and validation rows"
REGIMES = (TRAINING, VALIDATION)
HARM = ("CollapsedHeadWarning", "WeakClustersWarning")

METHODS = {
    BASELINE: {DEFAULT: ERMClassifier(balance="class")},
    "ERM": {DEFAULT: ERMClassifier()},
    "JTT": {
        DEFAULT: JTTClassifier(),
        EARLIER: JTTClassifier(upweight=20, warmup_epochs=5, balance=None),
    },
    "AFR": {
        DEFAULT: AFRClassifier(),
        EARLIER: AFRClassifier(
            regularization=0.1, weight_decay=0.01, holdout=0.2, balance=None
        ),
    },
    "LfF": {
        DEFAULT: LfFClassifier(),
        EARLIER: LfFClassifier(balance=None, biased_weight_decay=None),
    },
    "ULE": {
        DEFAULT: ULEClassifier(),
        EARLIER: ULEClassifier(lam=0.5, balance=None),
    },
    "UGC": {
        DEFAULT: UGCClassifier(),
        EARLIER: UGCClassifier(4, warmup="mean_difference"),
    },
    "GERNE": {
        DEFAULT: GERNEClassifier(),
        EARLIER: GERNEClassifier(beta=1.0, c=0.5, t=0.1),
    },
}


def scores(estimator, parts, *, seed, with_validation):
    """Fit an estimator without attributes and score it.

    Parameters
    ----------
    estimator : estimator
        It is not changed.
    parts : sequence of three Part
        Training, validation and test.
    seed : int
    with_validation : bool
        Whether `fit` is given the validation rows and their labels.

    Returns
    -------
    dict of str to float
        Scores of the test part, the seconds of the fit, and the warnings of each class.
    """
    train, validation, test = parts
    more = {}
    if with_validation:
        more = {"X_val": validation.X, "y_val": validation.y}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        model = clone(estimator).set_params(random_state=seed)
        model.fit(train.X, train.y, **more)
        seconds = time.perf_counter() - start
    found = evaluate(test, model.predict(test.X))
    names = Counter(f"warned {one.category.__name__}" for one in caught)
    return {**found, "seconds of the fit": seconds, **names}


def against_baseline(rows, form=DEFAULT, regime=TRAINING):
    """Return how far methods are above class-balanced ERM, means over the seeds.

    Parameters
    ----------
    rows : DataFrame
        The CSV.
    form, regime : str
        A form of the methods, and what their fits were given. The baseline has one
        form, and needs no validation rows.

    Returns
    -------
    DataFrame
        Indexed by method and data set: `worst` (worst group, or worst class where the
        test part has no attributes), `average`, and `warned`, the share of fits that
        warned of weak clusters or a collapsed head.
    """
    is_baseline = rows["method"] == BASELINE
    wanted = rows["setting"].eq(f"{form}, {regime}") & ~is_baseline
    rows = rows[wanted | is_baseline & rows["setting"].eq(f"{DEFAULT}, {TRAINING}")]
    keys = ["method", "dataset", "seed"]
    scores = rows.pivot_table(index=keys, columns="metric", values="value", sort=False)
    scores["worst"] = scores["worst_group"].fillna(scores["worst_class"])
    names = [f"warned {name}" for name in HARM if f"warned {name}" in scores]
    warned = scores[names].notna().any(axis=1)
    scores = scores[["worst", "average"]]
    above = (
        scores - scores.loc[BASELINE].reindex(scores.index.droplevel("method")).values
    )
    above = above.drop(BASELINE).assign(warned=warned).dropna()
    return above.groupby(["method", "dataset"], sort=False).mean()


def facts(rows):
    """Return the numbers of the table of methods: means, and the lowest problem."""
    found = {}
    for method, own in against_baseline(rows).groupby("method"):
        for score in ("worst", "average"):
            found[f"{method}_{score}".lower()] = short(own[score].mean())
            found[f"{method}_{score}_lowest".lower()] = short(own[score].min())
    earlier = -against_baseline(rows, EARLIER).min()
    return found | {f"lost_{score}": short(earlier[score]) for score in own.columns[:2]}


def tasks(seeds, *, problems="", forms=(DEFAULT, EARLIER), regimes=REGIMES):
    """Return the tasks: all methods of a problem and a seed, one after another."""
    return [
        Task(problem, method, f"{form}, {regime}", seed)
        for problem in _cheapest_first(problems)
        for seed in range(seeds)
        for method, known in METHODS.items()
        for form in forms
        if form in known
        for regime in regimes
    ]


def _cheapest_first(pattern):
    with_faces = [name for name in PROBLEMS if name.split()[0] in dict(FACES)]
    names = [name for name in PROBLEMS if name not in with_faces] + with_faces
    return [name for name in names if re.search(pattern, name)]


def main():
    """Fit what the CSV does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", default="", help="whose name matches")
    parser.add_argument("--forms", nargs="+", default=[DEFAULT, EARLIER])
    parser.add_argument("--regimes", nargs="+", default=REGIMES)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    parts_of = lru_cache(1)(lambda problem, seed: PROBLEMS[problem].parts(seed))

    def fit(task):
        form, _, regime = task.setting.partition(", ")
        found = scores(
            METHODS[task.method][form],
            parts_of(task.dataset, task.seed),
            seed=task.seed,
            with_validation=regime == VALIDATION,
        )
        return {("test", metric): value for metric, value in found.items()}

    chosen = {name: getattr(options, name) for name in ("problems", "forms", "regimes")}
    run(tasks(options.seeds, **chosen), fit, options.out)


if __name__ == "__main__":
    main()
