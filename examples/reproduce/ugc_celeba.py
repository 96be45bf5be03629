"""Blond given male without attributes in training: what UGC's groups bring.

    python examples/reproduce/ugc_celeba.py --splits 5

30,000 real faces (CelebA-HQ) as embeddings of a pretrained MobileNetV1; the label is
blond hair, the spurious attribute is male. Each split keeps a third of the rows for
test and a quarter of the rest for validation, stratified on label x attribute; the
scaler sees training rows only. The epoch and the setting of every method are chosen on
validation, per split, in three ways:

- "attributes in validation": by worst-group accuracy;
- "no attributes": by worst-class accuracy;
- "groups inferred": by worst-group accuracy over groups that are inferred on the
  validation rows too, by the clusters or the model that were fitted on training rows.

Only the oracle sees attributes in training. Clusters and error sets are computed once
per split and setting, as `UGCClassifier` and `GERNEClassifier` would for each head.
The data folder is ``$SKDEBIAS_DATA``; the set may not be redistributed.
"""

import argparse
import os
import sys
import warnings
from functools import cache, lru_cache
from pathlib import Path

import pandas as pd
from _runner import ROWS, Task, run
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import accuracy_score, recall_score
from sklearn.model_selection import ParameterGrid

from skdebias import ERMClassifier, GERNEClassifier, UGCClassifier
from skdebias._prepare import FirstStage
from skdebias.attributes import (
    ConfidencePseudoAttributes,
    ErrorSetPseudoAttributes,
    GradientClusterPseudoAttributes,
)
from skdebias.metrics import group_balanced_accuracy_score, worst_group_accuracy_score

sys.path.insert(0, str(Path(__file__).parents[1]))
from celeba_gerne import load, split

DATASET = "celebahq blond/male"
REGIMES = ("attributes in validation", "no attributes")
INFERRED = "groups inferred"
SUFFIX = ", groups inferred"
POOL = ", form chosen"
OPTIMISER = {"learning_rate": [3e-4, 1e-3], "weight_decay": [0.1, 1.0]}
SHARED = {"max_iter": 15}
PAPER_FORM = {
    "n_clusters": 2,
    "warmup": "epochs",
    "per_class": False,
    "pool": False,
}
ROBUST = {
    "IF": {"robust": "inverse_frequency"},
    "DRO .01": {"robust": "group_dro", "step_size": 0.01},
    "DRO .1": {"robust": "group_dro", "step_size": 0.1},
    "magnitude": {"robust": "feature_magnitude"},
}
CLUSTERS = {
    "default": {},
    "logistic": {"warmup": "logistic"},
    "norm": {"signature": "gradient_norm"},
}


class Given(BaseEstimator):
    """Pseudo-attributes that are already known."""

    def __init__(self, values):
        self.values = values

    def fit_predict(self, X, y, **validation):
        return self.values


class GivenUGC(UGCClassifier):
    """UGC whose clusters are already known."""

    def _first_stage(self, data):
        norms = None
        if self.robust == "feature_magnitude":
            norms = self._feature_norms(data.X)
        return FirstStage(data.attributes, for_method={"norms": norms})


def candidates():
    """Every method: {method: {setting: (estimator, inferrer)}}.

    An inferrer is "true", None, or the estimator of pseudo-attributes.
    """
    plain = {
        "ERM, last epoch": {"": (ERMClassifier(selection="last"), None)},
        "ERM": {"": (ERMClassifier(), None)},
        "class-balanced": {"": (ERMClassifier(balance="class"), None)},
        "oracle": {"": (ERMClassifier(balance="group"), "true")},
    }
    for robust, second in ROBUST.items():
        for name, first in CLUSTERS.items():
            if name == "norm" and robust != "IF":
                continue
            plain[f"UGC {name}, {robust}"] = {"": ugc(first, second)}
    plain["UGC paper form, IF"] = {"": ugc(PAPER_FORM, ROBUST["IF"])}
    plain["UGC paper form, DRO"] = {"": ugc(PAPER_FORM, ROBUST["DRO .01"])}
    plain["GERNE unknown"] = {
        f"t={t} beta={beta} ": (GERNEClassifier(beta), ConfidencePseudoAttributes(t))
        for t in (0.1, 0.3)
        for beta in (1.0, 2.0)
    }
    plain["GERNE on error set"] = {
        f"beta={beta} ": (GERNEClassifier(beta), ErrorSetPseudoAttributes())
        for beta in (1.0, 2.0)
    }
    plain["GERNE on error set" + SUFFIX] = {
        f"beta={beta} ": (GERNEClassifier(beta), ErrorSetPseudoAttributes())
        for beta in (0.5, 1.0, 2.0)
    }
    plain["GERNE unknown" + SUFFIX] = {
        f"t={t} beta={beta} ": (GERNEClassifier(beta), ConfidencePseudoAttributes(t))
        for t in (0.1, 0.3)
        for beta in (0.5, 1.0, 2.0)
    }
    for name in ("default", "logistic"):
        form = f"UGC {name}, IF"
        plain[form + SUFFIX] = plain[form]
    return {
        method: {
            prefix + " ".join(f"{k}={v}" for k, v in point.items()): (
                clone(estimator).set_params(**SHARED, **point),
                with_weight_decay(inferrer, point["weight_decay"]),
            )
            for prefix, (estimator, inferrer) in settings.items()
            for point in ParameterGrid(OPTIMISER)
        }
        for method, settings in plain.items()
    }


def ugc(first, second):
    """Return the classifier of the second stage and the estimator of the first."""
    clusters = {"n_clusters": 4} | first
    head = GivenUGC(per_class=clusters.get("per_class", True), **second)
    return head, GradientClusterPseudoAttributes(**clusters, random_state=0)


def with_weight_decay(inferrer, weight_decay):
    """Give the head's weight decay to a logistic warm-up, as UGCClassifier does."""
    if getattr(inferrer, "warmup", None) != "logistic":
        return inferrer
    return clone(inferrer).set_params(weight_decay=weight_decay)


@cache
def data():
    return load(os.environ.get("SKDEBIAS_DATA", "."))


@lru_cache(maxsize=1)
def parts(seed):
    return split(*data(), seed)


FITTED = {}


def fitted(inferrer, seed):
    """Fit an estimator of pseudo-attributes once per split."""
    key = (seed, repr(inferrer))
    if key not in FITTED:
        train = parts(seed)[0]
        FITTED[key] = clone(inferrer).fit(train.X, train.y)
    return FITTED[key]


def attributes_of(inferrer, seed):
    """True, inferred or no attributes of the training rows."""
    if not isinstance(inferrer, BaseEstimator):
        return parts(seed)[0].attributes if inferrer == "true" else None
    return fitted(inferrer, seed).pseudo_attributes_


def fit(task):
    """Scores of one setting on one split, with the epoch chosen in each regime."""
    train, validation, test = parts(task.seed)
    estimator, inferrer = candidates()[task.method][task.setting]
    attributes = attributes_of(inferrer, task.seed)
    estimator = clone(estimator).set_params(random_state=task.seed)
    if isinstance(estimator, GERNEClassifier):
        estimator.set_params(pseudo_attributes=Given(attributes))
        attributes = None
    known = dict(zip(REGIMES, (validation.attributes, None)))
    if task.method.endswith(SUFFIX):
        model = fitted(inferrer, task.seed)
        known = {INFERRED: model.predict(validation.X, validation.y)}
    scores = {}
    for regime, attributes_val in known.items():
        model = clone(estimator).fit(
            train.X,
            train.y,
            attributes,
            X_val=validation.X,
            y_val=validation.y,
            attributes_val=attributes_val,
        )
        chosen = max(model.history_["validation_score"])
        scores[regime, "validation"] = chosen
        scores |= {(regime, k): v for k, v in evaluate(model, test).items()}
    return scores


def evaluate(model, part):
    predicted = model.predict(part.X)
    groups = {"attributes": part.attributes}
    return {
        "worst_group": worst_group_accuracy_score(part.y, predicted, **groups),
        "group_balanced": group_balanced_accuracy_score(part.y, predicted, **groups),
        "average": accuracy_score(part.y, predicted),
        "worst_class": recall_score(part.y, predicted, average=None).min(),
    }


def pooled(rows, prefix):
    """The forms of a method as settings of one, for validation to choose from."""
    members = rows[rows["method"].str.startswith(prefix)]
    setting = members["method"] + " " + members["setting"]
    return members.assign(method=prefix + POOL, setting=setting)


def picks(rows):
    """Return the test scores of the setting that validation chose on each split.

    Returns
    -------
    DataFrame
        Indexed by selection, method and seed, with a column per metric.
    """
    rows = rows[rows["dataset"] == DATASET]
    inferred = rows["selection"] == INFERRED
    known = rows[~inferred]
    # What the inferred groups gain is counted as without attributes.
    ends = known[
        (known["selection"] == REGIMES[1])
        & known["method"].isin(["oracle", "ERM", "ERM, last epoch", "class-balanced"])
    ].assign(selection=INFERRED)
    rows = pd.concat([rows, ends, pooled(known, "UGC default"), pooled(known, "UGC")])
    table = rows.pivot_table(
        index=["selection", "method", "seed", "setting", "seconds"],
        columns="metric",
        values="value",
    ).reset_index()
    where = table.groupby(["selection", "method", "seed"])["validation"].idxmax()
    picked = table.loc[where].set_index(["selection", "method", "seed"])
    total = table.groupby(["selection", "method"])["seconds"].sum()
    return picked.drop(columns="seconds").join(total, on=["selection", "method"])


def summary(rows):
    """Mean and spread of the picks, and how much of the oracle's gain they are.

    "gain" is the share of the oracle's gain in mean worst-group accuracy over ERM whose
    epoch is chosen too; "gain, last" counts from ERM at its last epoch.
    """
    table = picks(rows)
    by_method = table.groupby(["selection", "method"])
    scores = by_method[["worst_group", "group_balanced", "average"]]
    mean, std = scores.mean(), scores.std(ddof=1)
    out = pd.DataFrame(
        {c: [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[c], std[c])] for c in mean},
        index=mean.index,
    )
    worst = mean["worst_group"]
    high = worst.xs("oracle", level="method")
    for name, start in (("gain", "ERM"), ("gain, last", "ERM, last epoch")):
        low = worst.xs(start, level="method")
        gain = worst.sub(low, level="selection").div(high - low, level="selection")
        out[name] = gain.map("{:.2f}".format).str.replace("-0.00", "0.00")
    out["settings"] = [_n_settings(rows, method) for _, method in out.index]
    out["seconds"] = by_method["seconds"].first().round(0).astype(int)
    return out


def _n_settings(rows, method):
    """Return how many settings a method chooses from; a pool has those of its forms."""
    own = rows[rows["method"] == method]
    if method.endswith(POOL):
        known = rows[rows["selection"] != INFERRED]
        own = known[known["method"].str.startswith(method.removesuffix(POOL))]
    return len(own[["method", "setting"]].drop_duplicates())


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROWS / "ugc_celeba.csv")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # weak clusters and bounds are looked at elsewhere
    tasks = [
        Task(DATASET, method, setting, seed)
        for seed in range(arguments.splits)
        for method, settings in candidates().items()
        for setting in settings
    ]
    print(summary(run(tasks, fit, arguments.out)).to_string())


if __name__ == "__main__":
    main()
