"""The methods the demo compares, all through scikit-learn's own classes."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, GERNEClassifier
from skdebias.methods import beta_bounds
from skdebias.metrics import worst_group_accuracy_scorer
from skdebias.model_selection import AttributeStratifiedKFold

MIXES = (0.25, 0.5, 1.0)
# Steps from resampling to the bound. Not up to it: there the largest group has no
# weight at all.
STEPS = (0, 0.125, 0.25, 0.375, 0.5, 0.75)
TUNED = "GERNE, tuned on folds of train"
TUNED_VAL = "GERNE, tuned on the val rows"


@dataclass(frozen=True)
class Rows:
    """Embeddings (n, n_features), labels (n,), attributes (n,) of one split."""

    X: Any
    y: np.ndarray
    attributes: np.ndarray


@dataclass(frozen=True)
class FittedMethod:
    """A fitted pipeline, the seconds it took, and the search that chose it."""

    name: str
    pipeline: Pipeline
    seconds: float
    search: GridSearchCV | None = None


def scaled(head) -> Pipeline:
    """Return a pipeline that standardises the embeddings before `head`."""
    return Pipeline([("scale", StandardScaler()), ("head", head)])


def fit_methods(train: Rows, val: Rows | None, seed: int, say) -> list[FittedMethod]:
    """Fit every method on the training rows.

    Parameters
    ----------
    train : Rows
        The rows every method learns from.
    val : Rows or None
        Rows for a second search; none of them is trained on.
    seed : int
        Seed of the folds and of the training.
    say : callable
        Called with a line of text when something starts or ends.

    Returns
    -------
    list of FittedMethod
    """
    fixed = {
        "ERM": ERMClassifier(random_state=seed),
        "ERM, groups balanced": ERMClassifier(balance="group", random_state=seed),
        "GERNE, c=1 beta=0 (resampling)": GERNEClassifier(
            c=1.0, beta=0.0, random_state=seed
        ),
    }
    fitted = []
    with sklearn.config_context(enable_metadata_routing=True):
        for name, head in fixed.items():
            start = time.perf_counter()
            say(f"  fitting {name}")
            pipeline = scaled(head)
            pipeline.fit(train.X, train.y, attributes=train.attributes)
            fitted.append(FittedMethod(name, pipeline, time.perf_counter() - start))
        fitted.append(_tune_on_folds(train, seed, say))
        if val is not None:
            fitted.append(_tune_on_val(train, val, seed, say))
    return fitted


def n_folds(train: Rows) -> int:
    """Return two to five folds, with three rows of the smallest group where it can."""
    _, counts = np.unique(
        np.column_stack([train.y.astype(str), train.attributes.astype(str)]),
        axis=0,
        return_counts=True,
    )
    return int(np.clip(counts.min() // 3, 2, 5))


def beta_grid(train: Rows, parts, c: float) -> list[float]:
    """Return values of beta from less than resampling towards the bound at `c`.

    They are spaced in the extrapolation strength ``s = c (1 + beta)``, which is 1 for
    group resampling whatever `c` is.

    Parameters
    ----------
    train : Rows
        The training rows.
    parts : list of ndarray of int
        The rows of `train` that each fit of the search sees. Their group shares
        differ a little, and the grid must be valid for all of them.
    c : float
        Share of balance in the less biased batch, in (0, 1].

    Returns
    -------
    list of float
    """
    bounds = [beta_bounds(train.y[rows], train.attributes[rows], c) for rows in parts]
    # Groups that are nearly balanced allow any strength: 3 is more than enough.
    strongest = min(3.0, *(c * (1 + high) for _, high in bounds))
    strengths = [0.5, *(1 + part * (strongest - 1) for part in STEPS)]
    # Rounded downwards, so that rounding never steps over the bound.
    return [float(np.floor((s / c - 1) * 1000) / 1000) for s in strengths]


def _grid_search(train: Rows, splits, cv, seed: int, refit: bool) -> GridSearchCV:
    """Return the search over beta and c, before its fit."""
    parts = [np.arange(len(train.y)), *(rows for rows, _ in splits)]
    grid = [{"head__c": [c], "head__beta": beta_grid(train, parts, c)} for c in MIXES]
    return GridSearchCV(
        scaled(GERNEClassifier(random_state=seed)),
        grid,
        scoring=worst_group_accuracy_scorer,
        cv=cv,
        refit=refit,
        error_score="raise",
    )


def _tune_on_folds(train: Rows, seed: int, say) -> FittedMethod:
    """Choose beta and c on folds of the training rows, stratified by group."""
    start = time.perf_counter()
    folds = AttributeStratifiedKFold(
        n_splits=n_folds(train), shuffle=True, random_state=seed
    )
    splits = list(folds.split(train.X, train.y, attributes=train.attributes))
    search = _grid_search(train, splits, folds, seed, refit=True)
    say(f"  searching beta and c of GERNE on {len(splits)} folds of the training rows")
    search.fit(train.X, train.y, attributes=train.attributes)
    seconds = time.perf_counter() - start
    return FittedMethod(TUNED, search.best_estimator_, seconds, search)


def _tune_on_val(train: Rows, val: Rows, seed: int, say) -> FittedMethod:
    """Choose beta and c on the validation rows, training on the training rows."""
    start = time.perf_counter()
    say(f"  searching beta and c of GERNE on the {len(val.y)} validation rows")
    both = Rows(
        np.concatenate([train.X, val.X]),
        np.concatenate([train.y, val.y]),
        np.concatenate([train.attributes, val.attributes]),
    )
    fold = np.repeat([-1, 0], [len(train.y), len(val.y)])
    search = _grid_search(train, [], PredefinedSplit(fold), seed, refit=False)
    search.fit(both.X, both.y, attributes=both.attributes)
    # Not refit=True: that would train on the validation rows as well.
    pipeline = clone(search.estimator).set_params(**search.best_params_)
    pipeline.fit(train.X, train.y, attributes=train.attributes)
    return FittedMethod(TUNED_VAL, pipeline, time.perf_counter() - start, search)
