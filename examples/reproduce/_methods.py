"""Every method with its grid and its regimes: one table for all real embeddings.

The grids were written down before any test score of these scripts was looked at, and
are the same for every data set; but for the methods with `seen_on`: test scores on the
faces had a part in their forms. A setting and an
epoch are chosen per split, on the validation part alone.
"""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import accuracy_score
from sklearn.model_selection import ParameterGrid

from skdebias import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
    UGCClassifier,
    ULEClassifier,
)
from skdebias.attributes import (
    ErrorSetPseudoAttributes,
    GradientClusterPseudoAttributes,
)
from skdebias.metrics import (
    group_balanced_accuracy_score,
    worst_class_accuracy_score,
    worst_group_accuracy_score,
)

# What is known of the attributes; each regime chooses by the best score it can compute.
FULL = "attributes in training and validation"
VALIDATION = "attributes in validation"
NONE = "no attributes"
INFERRED = "no attributes, groups inferred"
REGIMES = {
    FULL: "worst_group",
    VALIDATION: "worst_group",
    NONE: "worst_class",
    INFERRED: "worst_group",  # of the inferred groups
}

OPTIMISER = {"learning_rate": [3e-4, 3e-3], "weight_decay": [0.1, 1.0]}


class Part(NamedTuple):
    """Rows of one part of a split; attributes may be None."""

    X: object
    y: object
    attributes: object


class Method(NamedTuple):
    """An estimator, the grid of its own parameters, and where it can be used."""

    estimator: BaseEstimator
    grid: dict | list
    regimes: tuple[str, ...]
    # DFR is not trained by SGD and chooses its penalty by itself.
    optimizer: bool = True
    # Fitted on the validation part, whose attributes it uses.
    on_validation: bool = False
    # Infers the attributes of training and validation rows from the training part.
    inferrer: BaseEstimator | None = None
    # Data sets whose test scores were seen when a form of the method was picked.
    seen_on: tuple[str, ...] = ()


FACES = "CelebA-HQ blond given male"
BLIND = (VALIDATION, NONE)
METHODS = {
    "ERM": Method(ERMClassifier(), {}, BLIND),
    "ERM, class-balanced": Method(ERMClassifier(balance="class"), {}, BLIND),
    "ERM, group-balanced": Method(ERMClassifier(balance="group"), {}, (FULL,)),
    # clip: no group of any training part may get a negative weight.
    "GERNE": Method(
        GERNEClassifier(c=0.5, out_of_bounds="clip"),
        {"beta": [1.0, 1.4, 2.0]},
        (FULL,),
    ),
    "GroupDRO": Method(GroupDROClassifier(), {"step_size": [0.01, 0.1]}, (FULL,)),
    "DFR": Method(DFRClassifier(), {}, (FULL,), optimizer=False),
    "DFR on validation": Method(
        DFRClassifier(n_draws=20),
        {},
        (VALIDATION,),
        optimizer=False,
        on_validation=True,
    ),
    # The authors' form; added when all other rows were known.
    "DFR, intercept penalised": Method(
        DFRClassifier(penalize_intercept=True), {}, (FULL,), optimizer=False
    ),
    "DFR on validation, intercept penalised": Method(
        DFRClassifier(penalize_intercept=True, n_draws=20),
        {},
        (VALIDATION,),
        optimizer=False,
        on_validation=True,
    ),
    "GERNE unknown": Method(
        GERNEClassifier(c=0.5), {"t": [0.1, 0.3], "beta": [1.0, 2.0]}, BLIND
    ),
    "JTT": Method(
        JTTClassifier(warmup_epochs=5, balance=None), {"upweight": [5, 20]}, BLIND
    ),
    "AFR": Method(
        AFRClassifier(regularization=0.1, holdout=0.2, balance=None),
        {"gamma": [2.0, 8.0]},
        BLIND,
    ),
    "LfF": Method(
        LfFClassifier(balance=None, biased_weight_decay=None), {"q": [0.3, 0.7]}, BLIND
    ),
    "UGC": Method(
        UGCClassifier(),
        [
            {"robust": ["feature_magnitude"]},
            {"robust": ["group_dro"], "step_size": [0.1]},
        ],
        BLIND,
        seen_on=(FACES,),
    ),
    # Its start and its scaling were settled on splits of the faces.
    "ULE": Method(
        ULEClassifier(balance="class"),
        {"lam": [0.5, 0.8]},
        BLIND,
        seen_on=(FACES,),
    ),
    "GERNE, groups from errors": Method(
        GERNEClassifier(c=0.5, out_of_bounds="clip"),
        {"beta": [0.5, 1.0]},
        (INFERRED,),
        inferrer=ErrorSetPseudoAttributes(
            reference_estimator=ERMClassifier(
                balance="class", max_iter=1, random_state=0
            )
        ),
        seen_on=(FACES,),
    ),
    "GERNE, groups from clusters": Method(
        GERNEClassifier(c=0.5, out_of_bounds="clip"),
        {"beta": [0.5, 1.0]},
        (INFERRED,),
        inferrer=GradientClusterPseudoAttributes(4, random_state=0),
        seen_on=(FACES,),
    ),
}


def settings(name):
    """Return the grid of a method, {setting: parameters}."""
    method = METHODS[name]
    grids = method.grid if isinstance(method.grid, list) else [method.grid]
    common = OPTIMISER if method.optimizer else {}
    points = ParameterGrid([grid | common for grid in grids])
    return {" ".join(f"{k}={v}" for k, v in point.items()): point for point in points}


def regimes_of(name, available=tuple(REGIMES)):
    """Return the regimes that a method and a data set have in common."""
    return [regime for regime in METHODS[name].regimes if regime in available]


def scores(name, setting, parts, *, seed, epochs, available=tuple(REGIMES)):
    """Fit one setting in every regime.

    Parameters
    ----------
    name, setting : str
        Method and the setting of its grid.
    parts : sequence of three Part
        Training, validation and test.
    seed, epochs : int
    available : sequence of str
        Regimes that the data allow.

    Returns
    -------
    dict
        `{(regime, metric): value}`; "validation" is the score that chooses, the others
        are of the test part.
    """
    train, validation, test = parts
    regimes = regimes_of(name, available)
    with warnings.catch_warnings():
        # Weak clusters and bounds are looked at elsewhere; here scores decide.
        warnings.simplefilter("ignore", UserWarning)
        if METHODS[name].inferrer is not None:
            train, validation = _inferred(METHODS[name].inferrer, train, validation)
        model = _estimator(name, setting, seed, epochs)
        models = _fit(METHODS[name], model, train, validation, regimes)
    result = {}
    for regime, model in models.items():
        predicted = model.predict(validation.X)
        known = validation if regime != NONE else validation._replace(attributes=None)
        result[regime, "validation"] = evaluate(known, predicted)[REGIMES[regime]]
        for metric, value in evaluate(test, model.predict(test.X)).items():
            result[regime, metric] = value
    return result


def _inferred(inferrer, train, validation):
    """Return the parts with the attributes that the training part suggests."""
    inferrer = clone(inferrer).fit(train.X, train.y)
    return (
        train._replace(attributes=inferrer.pseudo_attributes_),
        validation._replace(attributes=inferrer.predict(validation.X, validation.y)),
    )


def _estimator(name, setting, seed, epochs):
    point = settings(name)[setting]
    model = clone(METHODS[name].estimator).set_params(**point, random_state=seed)
    return model.set_params(max_iter=epochs) if METHODS[name].optimizer else model


class _EveryEpoch:
    """Callback that keeps the head of every epoch."""

    def __init__(self):
        self.heads = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "epoch":
            self.heads.append(fitted_estimator)
        return False


def _fit(method, model, train, validation, regimes):
    """Return the fitted model of every regime."""
    if method.on_validation:
        model.fit(validation.X, validation.y, validation.attributes)
        return dict.fromkeys(regimes, model)
    # Both regimes without attributes in training run through the same epochs and
    # differ in which of them they choose: one fit does for both.
    every = _EveryEpoch()
    if NONE in regimes:
        model.set_callbacks(every)
    model.fit(
        train.X,
        train.y,
        train.attributes if {FULL, INFERRED} & set(regimes) else None,
        X_val=validation.X,
        y_val=validation.y,
        attributes_val=validation.attributes if regimes != [NONE] else None,
    )
    if NONE not in regimes:
        return dict.fromkeys(regimes, model)
    # Without attributes no score selects by default.
    if list(regimes) == [NONE]:
        worst = model.history_["validation_group_accuracy"].min(1).round(9)
    else:
        worst = _worst_class(model.history_, validation)
    return dict.fromkeys(regimes, model) | {NONE: every.heads[worst.argmax()]}


def _worst_class(history, validation):
    """Worst-class accuracy of every epoch, from the accuracies of the groups."""
    cells = history["validation_groups"]
    counts = [
        ((validation.y == y) & (validation.attributes == a)).sum() for y, a in cells
    ]
    hits = history["validation_group_accuracy"] * counts
    y = np.array([label for label, _ in cells])
    per_class = [
        hits[:, y == label].sum(1) / np.sum(validation.y == label)
        for label in np.unique(y)
    ]
    # Rounded, so that equal shares are equal and the first of them is taken.
    return np.min(per_class, axis=0).round(9)


def evaluate(part, predicted):
    """Return the scores of a part that its attributes allow."""
    found = {
        "worst_class": worst_class_accuracy_score(part.y, predicted),
        "average": accuracy_score(part.y, predicted),
    }
    if part.attributes is not None:
        groups = {"attributes": part.attributes}
        worst = worst_group_accuracy_score(part.y, predicted, **groups)
        found["worst_group"] = worst
        balanced = group_balanced_accuracy_score(part.y, predicted, **groups)
        found["group_balanced"] = balanced
        hits = np.asarray(part.y) == predicted
        for value in np.unique(part.attributes):
            which = np.asarray(part.attributes) == value
            found[f"average attribute={int(value)}"] = hits[which].mean()
    return found


def counts(parts):
    """Return `{(part, metric): rows}` of every group, for the tidy CSV."""
    found = {}
    for name, part in zip(("training", "validation", "test"), parts):
        attributes = part.attributes
        if attributes is None:
            attributes = [None] * len(part.y)
        for y, a in zip(part.y, attributes):
            known = "" if a is None else f", attribute={int(a)}"
            key = name, f"rows y={y}{known}"
            found[key] = found.get(key, 0) + 1
    return found
