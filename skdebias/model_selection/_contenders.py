"""The methods that are compared, in their order of simplicity, and what each tries."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
from scipy.stats import loguniform, uniform
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skdebias._afr import AFRClassifier
from skdebias._debiased import DebiasedClassifier
from skdebias._dfr import DFRClassifier
from skdebias._erm import ERMClassifier
from skdebias._first_stage import uses_attributes
from skdebias._gerne import GERNEClassifier
from skdebias._group_dro import GroupDROClassifier
from skdebias._head import HeadClassifier, final_head
from skdebias._jtt import JTTClassifier
from skdebias._lff import LfFClassifier
from skdebias._ugc import UGCClassifier
from skdebias._ule import ULEClassifier
from skdebias.model_selection._nested import Contender

#: What every other method has to be better than.
BASELINE = "ERM-class"

_EXACT = {"solver": "lbfgs", "max_iter": 1000}
_DECAY = {"weight_decay": loguniform(1e-4, 10)}
# Of heads that are trained in epochs, around their defaults.
_RATES = {
    "learning_rate": loguniform(3e-4, 1e-2),
    "weight_decay": loguniform(1e-4, 1),
}


@dataclass(frozen=True)
class Row:
    """A method that can be named.

    Parameters
    ----------
    make : callable
        Returns the estimator.
    space : dict
        What is drawn beside the setting that the estimator comes with: lists and
        distributions.
    needs_attributes : bool
    blind : bool
        Whether "auto" leaves it out where attributes are known.
    """

    make: Callable[[], HeadClassifier]
    space: dict = field(default_factory=dict)
    needs_attributes: bool = False
    blind: bool = False


def _of_method(name, **fields):
    """Return what makes a classifier of a method of `skdebias.methods`."""

    def make():
        from skdebias import methods  # torch, which listing names does not need

        return DebiasedClassifier(getattr(methods, name)(**fields))

    return make


#: In their order of simplicity: how many heads and stages are trained, and how far the
#: objective is from the mean loss. What is told the attributes comes after what is not
#: only where it does more. First stages are kept few: those of JTT, AFR, UGC and GERNE
#: depend on the learning rate and the weight decay, which stay as they are there.
METHODS = {
    BASELINE: Row(lambda: ERMClassifier("class", **_EXACT), _DECAY),
    "ERM": Row(lambda: ERMClassifier(**_EXACT), _DECAY),
    "ERM-group": Row(lambda: ERMClassifier("group", **_EXACT), _DECAY, True),
    "LogitAdjustment": Row(
        lambda: ERMClassifier(logit_adjustment=1.0, **_EXACT),
        _DECAY | {"logit_adjustment": uniform(0, 2)},
    ),
    "GroupDRO": Row(
        lambda: GroupDROClassifier(**_EXACT),
        _DECAY | {"temperature": loguniform(0.01, 1)},
        True,
    ),
    "GERNE": Row(
        lambda: GERNEClassifier(
            beta=1.0, weight_decay=0.01, out_of_bounds="clip", **_EXACT
        ),
        _DECAY | {"beta": uniform(0, 2)},
        True,
    ),
    "DFR": Row(
        lambda: DFRClassifier(Cs=tuple(np.geomspace(1, 1e-3, 10))),
        needs_attributes=True,
    ),
    "CVaRDRO": Row(
        _of_method("CVaRDRO", balance="class"),
        _RATES | {"method__alpha": loguniform(0.02, 1)},
    ),
    "VREx": Row(
        _of_method("VREx"),
        _RATES | {"method__penalty_weight": loguniform(0.1, 1e3)},
        True,
    ),
    "IRM": Row(
        _of_method("IRM"),
        _RATES | {"method__penalty_weight": loguniform(0.1, 1e4)},
        True,
    ),
    "LISA": Row(
        _of_method("LISA"), _RATES | {"method__alpha": loguniform(0.2, 5)}, True
    ),
    "JTT": Row(JTTClassifier, {"upweight": loguniform(1, 100)}),
    "AFR": Row(
        AFRClassifier,
        {"gamma": loguniform(0.5, 20), "regularization": [0.0, 0.01, 0.1, 1.0]},
    ),
    "LfF": Row(
        lambda: LfFClassifier(max_iter=25),
        {
            "learning_rate": loguniform(1e-3, 3e-2),
            "weight_decay": loguniform(1e-4, 1),
            "q": [0.3, 0.5, 0.7, 0.9],
            "alpha": [0.5, 0.7, 0.9],
        },
        blind=True,
    ),
    "UGC": Row(UGCClassifier, {"n_clusters": [2, 8]}, blind=True),
    "GERNE-inferred": Row(
        lambda: GERNEClassifier(beta=1.0, max_iter=25),
        {"t": [0.1, 0.2], "beta": uniform(0, 2)},
        blind=True,
    ),
    "ULE": Row(
        lambda: ULEClassifier(max_iter=25),
        {
            "learning_rate": loguniform(3e-4, 3e-3),
            "lam": uniform(0.7, 0.3),
            "student_weight_decay": loguniform(0.01, 1),
        },
        blind=True,
    ),
}

_HEAD = "head"


def make_contenders(methods, *, attributes_known, annotated_apart, budget, seed):
    """Make what is compared out of the argument `methods`.

    Parameters
    ----------
    methods : "auto", list of str, or dict
    attributes_known : bool
        Whether there are rows to train on whose attributes are known.
    annotated_apart : bool
        Whether these are the validation rows, and not those of X.
    budget : int
        Most settings of a method.
    seed : int
        Of the settings, and of estimators without `random_state`.

    Returns
    -------
    list of Contender
        In their order of simplicity, those that are skipped too.
    """
    scaled = Pipeline([("scale", StandardScaler()), (_HEAD, ERMClassifier())])
    contenders = []
    for name, (estimator, space, why_not) in _named(methods, attributes_known).items():
        annotated = False
        settings, estimator = [], _seeded(estimator, seed)
        if not why_not:
            head = final_head(estimator)
            # With rows that nobody has annotated, what infers attributes infers them.
            infers = getattr(head, "pseudo_attributes", None) is not None
            annotated = attributes_known and uses_attributes(head)
            annotated = annotated and not (annotated_apart and infers)
            settings = _settings(name, estimator, space, budget, seed)
        shown, base = settings, estimator
        if not isinstance(estimator, Pipeline):
            base = scaled
            settings = [
                {_HEAD: estimator} | {f"{_HEAD}__{k}": v for k, v in setting.items()}
                for setting in settings
            ]
        contenders.append(Contender(name, base, settings, shown, annotated, why_not))
    return contenders


def _named(methods, attributes_known):
    """Return the estimator, the space and the reason not to compare it by name."""
    if isinstance(methods, str) and methods == "auto":
        return {
            name: (row.make(), _with_default(row), _reason(row, attributes_known, True))
            for name, row in METHODS.items()
        }
    if isinstance(methods, Mapping):
        if not methods:
            raise ValueError("methods={} holds nothing to compare: name one or more.")
        baseline = METHODS[BASELINE]
        named = {BASELINE: (baseline.make(), _with_default(baseline), "")}
        return named | {
            name: (*_read_entry(name, entry), "") for name, entry in methods.items()
        }
    if isinstance(methods, str) or not isinstance(methods, (list, tuple, set)):
        hint = f" Pass methods=[{methods!r}]." if methods in METHODS else ""
        raise ValueError(
            f"methods={methods!r} must be 'auto', a list of names out of "
            f"{', '.join(METHODS)}, or a dict of names to estimators.{hint}"
        )
    for name in methods:
        if name not in METHODS:
            by_lower = {known.lower(): known for known in METHODS}
            near = difflib.get_close_matches(str(name).lower(), by_lower, 3, 0.4)
            meant = f" Did you mean {' or '.join(by_lower[n] for n in near)}?"
            raise ValueError(
                f"methods: there is no {name!r}.{meant * bool(near)} The names are "
                f"{', '.join(METHODS)}; pass a dict of names to estimators for others."
            )
    if not {*methods} - {BASELINE}:
        raise ValueError(
            f"methods={methods!r} holds nothing to compare with {BASELINE}, which is "
            "always the baseline: name one more."
        )
    return {
        name: (row.make(), _with_default(row), _reason(row, attributes_known, False))
        for name, row in METHODS.items()
        if name in {BASELINE, *methods}
    }


def _reason(row, attributes_known, auto):
    """Return why a method is not compared; empty if it is."""
    if row.needs_attributes and not attributes_known:
        return "needs attributes, and none are given"
    if auto and row.blind and attributes_known:
        return "does without attributes, which are given: name it in methods"
    return ""


def _with_default(row):
    """Return a space that begins with the setting of the estimator itself."""
    return [{}, row.space] if row.space else [{}]


def _read_entry(name, entry):
    """Return the estimator and the space of an entry of a user's dict."""
    if name == BASELINE or not isinstance(name, str):
        raise ValueError(
            f"methods: the name {name!r} must be a string other than {BASELINE!r}, "
            "which is always the baseline."
        )
    estimator, space = entry, [{}]
    if isinstance(entry, tuple):
        if len(entry) != 2:
            raise ValueError(
                f"methods[{name!r}] must be an estimator or (estimator, grid), but has "
                f"{len(entry)} entries."
            )
        estimator, space = entry
    if isinstance(estimator, type) or not isinstance(
        final_head(estimator), HeadClassifier
    ):
        raise ValueError(
            f"methods[{name!r}]={estimator!r} must be an estimator of skdebias, such "
            "as GERNEClassifier(), or a Pipeline that ends in one: methods are trained "
            "in stacks. Compare others by sklearn.model_selection.cross_validate."
        )
    return estimator, [space] if isinstance(space, Mapping) else space


def _seeded(estimator, seed):
    """Return a copy whose head has a seed: the same for all methods."""
    estimator = clone(estimator)
    if final_head(estimator).random_state is None:
        final_head(estimator).set_params(random_state=seed)
    return estimator


def _settings(name, estimator, space, budget, seed):
    """Draw the settings of a method, at most `budget` of them.

    All of them where a space is small enough; the first one is the estimator itself
    where the space begins with `{}`.
    """
    known = estimator.get_params()
    for part in space:
        for key in part:
            if key not in known:
                near = difflib.get_close_matches(key, known, 3, 0.4)
                meant = f" Did you mean {' or '.join(near)}?" * bool(near)
                raise ValueError(
                    f"methods[{name!r}]: {type(estimator).__name__} has no parameter "
                    f"{key!r}.{meant}"
                )
    parts = [part for part in space if part]
    first = [{}] * (len(parts) < len(space))
    remaining = budget - len(first)
    if all(_is_list(values) for part in parts for values in part.values()):
        size = sum(prod(map(len, part.values())) for part in parts)
        if size <= remaining:
            return first + [*ParameterGrid(parts)] * bool(parts)
    if remaining < 1:
        return first
    return [*first, *ParameterSampler(parts, remaining, random_state=seed)]


def _is_list(values):
    return not hasattr(values, "rvs")
