"""What untouched_defaults.py fits: defaults, tuned references, and stacks of heads."""

import time
import warnings
from collections import Counter

import numpy as np
import torch
from _intervals import COUNTS
from _methods import _EveryEpoch, counts, evaluate
from _untouched_tables import (
    BALANCE,
    BOTH,
    CLASS,
    COST,
    CPU,
    DFR,
    DRO,
    FIXED,
    GERNE,
    GROUP,
    HEADS,
    METRICS,
    NONE,
    ONE,
    SHARES,
    SSA,
    TRAINING,
    TUNED_DRO,
    VALIDATION,
    WEAK_DECAYS,
    XRM,
)
from sklearn.base import clone
from sklearn.model_selection import PredefinedSplit

from skdebias import (
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
)
from skdebias._choice import DECAYS
from skdebias._engine._features import Features
from skdebias._engine._held_out import HeldOut, group_errors, smooth_error
from skdebias._engine._lbfgs import solve
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer
from skdebias._groups import Groups
from skdebias.attributes import SSAPseudoAttributes, XRMPseudoAttributes
from skdebias.methods import GERNE as Extrapolation
from skdebias.methods import beta_bounds
from skdebias.model_selection import BatchedGridSearchCV

# Trained in epochs: validation rows select one of them and change nothing else.
IN_EPOCHS = {
    GROUP: ERMClassifier(balance="group"),
    CLASS: ERMClassifier(balance="class"),
    DRO: GroupDROClassifier(),
}
OTHERS = {GERNE: GERNEClassifier(), DFR: DFRClassifier()}
EXACT = GERNEClassifier(1.0, solver="lbfgs", weight_decay=0.01, max_iter=1000)
DRO_GRID = {"step_size": [0.01, 0.1], "weight_decay": [0.01, 0.1, 1.0]}
TOL = 1e-4

# What is fitted, in this order; the last ones take minutes where groups are many.
STEPS = {
    "quick": [
        (COUNTS, ""),
        (HEADS, ""),
        (GERNE, BOTH),
        (GERNE, TRAINING),
        (GERNE, VALIDATION),
        (COST, ""),
        (GROUP, BOTH),
        (CLASS, BOTH),
        (DRO, BOTH),
        (GROUP, VALIDATION),
        (DRO, VALIDATION),
        (SSA, VALIDATION),
    ],
    "dfr": [(DFR, VALIDATION), (DFR, BOTH)],
    "more": [(XRM, NONE), (TUNED_DRO, BOTH), (DFR, TRAINING)],
}


def every_head(train, validation, test, seed):
    """Solve for heads of all strengths and decays at once, and score each of them.

    Parameters
    ----------
    train, validation, test : Part
    seed : int

    Returns
    -------
    dict
        `{(head, metric): value}`; a head is a strength and a decay, such as "1.3 0.01".
    """
    classes, y = np.unique(train.y, return_inverse=True)
    values, a = np.unique(train.attributes, return_inverse=True)
    sizes = len(classes), len(values)
    groups = Groups.from_labels(y, a, *sizes)
    _, bound = beta_bounds(train.y, train.attributes, c=1.0)
    strengths = {BALANCE: 1.0, FIXED: min(1.3, 1.0 + bound)}
    strengths |= {str(share): min(2.0, 1.0 + share * bound) for share in SHARES}
    heads = {
        f"{name} {decay:g}": (strength, decay)
        for name, strength in strengths.items()
        for decay in (*(WEAK_DECAYS if name == BALANCE else ()), *DECAYS)
    }
    methods = [
        Extrapolation(strength - 1.0, 1.0, out_of_bounds="clip").for_groups(
            groups, inferred=False
        )
        for strength, _ in heads.values()
    ]
    decays = np.array([decay for _, decay in heads.values()])
    unused = np.zeros(len(heads))
    start = time.process_time()
    solved = solve(
        Features(train.X, torch.device("cpu")),
        y,
        len(classes),
        Problem(methods, groups, seed),
        OptimizerConfig("lbfgs", unused, decays, unused, 256, 1000),
        tol=TOL,
    )
    found = {("all", CPU): time.process_time() - start}
    found["all", "unsolved"] = float((solved.gradient > TOL).sum())
    for part, prefix in ((validation, "validation "), (test, "")):
        codes = np.searchsorted(classes, part.y)
        cells = Groups.from_labels(
            codes, np.searchsorted(values, part.attributes), *sizes
        )
        features = Features(part.X, torch.device("cpu"))
        scorer = HeadValidationScorer(codes, cells, "worst_group", features)
        accuracies = scorer.group_accuracies(solved.stack)
        for head, own in zip(heads, accuracies.T):
            found[head, f"{prefix}worst_group"] = own.min()
            found[head, f"{prefix}average"] = np.average(own, weights=cells.sizes)
        if part is validation:
            held = HeldOut(features, np.arange(len(codes)), codes, cells.ids, None)
            sums = group_errors(solved.stack, held, cells.n_groups)
            errors = smooth_error(sums, cells.sizes, "worst_group")
            found |= {(h, "smooth error"): e for h, e in zip(heads, errors)}
    return found | {(h, "strength"): s for h, (s, _) in heads.items()}


def fitted(estimator, *data, callbacks=(), **more):
    """Return a fitted clone, and what it cost, chose and warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = clone(estimator)
        if callbacks:
            model.set_callbacks(*callbacks)
        wall, cpu = time.perf_counter(), time.process_time()
        model.fit(*data, **more)
        kept = {
            "seconds of the fit": time.perf_counter() - wall,
            CPU: time.process_time() - cpu,
        }
    chosen = ("weight_decay_", "selected_strength_")
    kept |= {n: getattr(model, n) for n in chosen if hasattr(model, n)}
    return model, kept | Counter(f"warned {one.category.__name__}" for one in caught)


def costs(train, known, seed):
    """Return the CPU seconds of an exact fit and of the defaults, each run twice."""
    default = GERNEClassifier(random_state=seed)
    for _ in range(2):  # the second time everything is loaded
        runs = {
            ONE: fitted(clone(EXACT).set_params(random_state=seed), *train),
            BOTH: fitted(default, *train, **known),
            TRAINING: fitted(default, *train),
        }
    return {(given, CPU): kept[CPU] for given, (_, kept) in runs.items()}


def tuned_dro(train, validation, seed):
    """Return GroupDRO as the worst group of the validation rows chooses it."""
    X, y, attributes = (np.concatenate(pair) for pair in zip(train, validation))
    search = BatchedGridSearchCV(
        GroupDROClassifier(random_state=seed),
        DRO_GRID,
        cv=PredefinedSplit(np.repeat([-1, 0], [len(train.y), len(validation.y)])),
        scoring="worst_group_accuracy",
        refit=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        search.fit(X, y, attributes=attributes)
    return GroupDROClassifier(random_state=seed, **search.best_params_)


def models_of(task, train, validation):
    """Return the fitted models of a task, by what a fit was given."""
    X_val, y_val, attributes_val = validation
    known = {"X_val": X_val, "y_val": y_val, "attributes_val": attributes_val}
    seed = {"random_state": task.seed}
    if task.method == SSA:
        estimator = GERNEClassifier(pseudo_attributes=SSAPseudoAttributes(), **seed)
        return {VALIDATION: fitted(estimator, train.X, train.y, **known)}
    if task.method == XRM:
        estimator = GERNEClassifier(pseudo_attributes=XRMPseudoAttributes(), **seed)
        return {NONE: fitted(estimator, train.X, train.y)}
    if task.method == TUNED_DRO:
        estimator = tuned_dro(train, validation, task.seed)
        return {BOTH: fitted(estimator, *train, **known)}
    estimator = clone((IN_EPOCHS | OTHERS)[task.method]).set_params(**seed)
    if task.setting == VALIDATION:
        return {VALIDATION: fitted(estimator, *validation)}
    if task.method in IN_EPOCHS:  # the last epoch is that of a fit without validation
        every = _EveryEpoch()
        model, kept = fitted(estimator, *train, callbacks=[every], **known)
        return {BOTH: (model, kept), TRAINING: (every.heads[-1], kept)}
    more = known if task.setting == BOTH else {}
    return {task.setting: fitted(estimator, *train, **more)}


def fit(task, parts):
    """Return the scores of a task, `{(what a fit was given, metric): value}`."""
    train, validation, test = parts
    if task.method == COUNTS:
        return counts(parts)
    if task.method == HEADS:
        return every_head(*parts, task.seed)
    if task.method == COST:
        names = ("X_val", "y_val", "attributes_val")
        return costs(train, dict(zip(names, validation)), task.seed)
    found = {}
    for given, (model, kept) in models_of(task, train, validation).items():
        scores = evaluate(test, model.predict(test.X))
        scores = {metric: scores[metric] for metric in METRICS} | kept
        found |= {(given, metric): value for metric, value in scores.items()}
    return found
