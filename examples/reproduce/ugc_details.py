"""What UGC's gain is made of, and where its clusters are weak.

    python examples/reproduce/ugc_details.py

On split 0 of the faces of ``ugc_celeba.py``: inverse frequencies of pseudo-minorities
that are those of UGC, of one class alone, random, or none; learning rate 3e-4, weight
decay 0.1, the epoch chosen in either regime. On the sets of ``ugc_synthetic.py``: how
many fits raise WeakClustersWarning.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import ugc_synthetic
from _runner import ROWS, Task, run
from sklearn.base import clone
from ugc_celeba import DATASET, REGIMES, ROBUST, SHARED, fitted, parts, ugc

from skdebias.attributes import WeakClustersWarning
from skdebias.metrics import worst_group_accuracy_score

MINORITIES = (
    "none (classes resampled)",
    "random, of the same sizes",
    'clusters of the class "not blond" only',
    'clusters of the class "blond" only',
    "clusters of both classes",
)
CLUSTERS = "clusters"  # what they hold
CLUSTERED = ("UGC", "UGC, logistic warm-up")


def minority(name, y, clusters):
    """Return the pseudo-attributes of the training rows; 1 is the pseudo-minority."""
    if name == MINORITIES[0]:
        return np.zeros_like(clusters)
    if name == MINORITIES[1]:
        rng, drawn = np.random.default_rng(0), clusters.copy()
        for label in (0, 1):
            drawn[y == label] = rng.permutation(clusters[y == label])
        return drawn
    kept = {MINORITIES[2]: y == 0, MINORITIES[3]: y == 1}.get(
        name, np.full(len(y), True)
    )
    return np.where(kept, clusters, 0)


def faces(name):
    """Scores with one kind of pseudo-minority, or what the clusters hold."""
    train, validation, test = parts(0)
    head, inferrer = ugc({}, ROBUST["IF"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fitted(inferrer, 0)
    clusters = np.asarray(model.pseudo_attributes_)
    if name == CLUSTERS:
        weak = any(issubclass(w.category, WeakClustersWarning) for w in caught)
        found = {("none", "silhouette"): model.silhouette_, ("none", "weak"): weak}
        for sex, men in (("men", True), ("women", False)):
            rows = (train.y == 1) & (train.attributes == men)
            found["none", f"blond {sex}"] = clusters[rows].mean()
        blond = (train.y == 1) & (clusters == 1)
        found["none", "men before"] = train.attributes[train.y == 1].mean()
        found["none", "men after"] = (
            train.attributes[blond].mean()
            + train.attributes[(train.y == 1) & (clusters == 0)].mean()
        ) / 2
        return found
    head = clone(head).set_params(
        **SHARED, learning_rate=3e-4, weight_decay=0.1, random_state=0
    )
    found = {}
    for regime, known in zip(REGIMES, (validation.attributes, None)):
        own = clone(head).fit(
            train.X,
            train.y,
            minority(name, train.y, clusters),
            X_val=validation.X,
            y_val=validation.y,
            attributes_val=known,
        )
        predicted = own.predict(test.X)
        men = (test.y == 1) & (test.attributes == 1)
        found[regime, "worst_group"] = worst_group_accuracy_score(
            test.y, predicted, attributes=test.attributes
        )
        found[regime, "blond men"] = (predicted == test.y)[men].mean()
    return found


def fit(task):
    """Rows of one task."""
    if task.dataset == DATASET:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return faces(task.method)
    (X, y, _), *_ = ugc_synthetic.parts(task.dataset, task.seed)
    model = clone(ugc_synthetic.METHODS[task.method]).set_params(random_state=task.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y)
    weak = any(issubclass(w.category, WeakClustersWarning) for w in caught)
    return {("none", "weak"): weak}


def main():
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROWS / "ugc_details.csv")
    arguments = parser.parse_args()
    tasks = [Task(DATASET, name, "", 0) for name in (CLUSTERS, *MINORITIES)]
    tasks += [
        Task(dataset, method, "", seed)
        for dataset in ugc_synthetic.VERSIONS
        for method in CLUSTERED
        for seed in range(10)
    ]
    rows = run(tasks, fit, arguments.out)
    print(rows.groupby(["dataset", "method", "selection", "metric"])["value"].mean())


if __name__ == "__main__":
    main()
