"""The one list of estimators: common tests, the docs' tables and benchmarks read it.

A new estimator is one row of HEADS, and takes part in all of them. Nothing else lists
the estimators of the package.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skdebias import (
    AFRClassifier,
    DebiasedClassifier,
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
    ConfidencePseudoAttributes,
    EIILPseudoAttributes,
    ErrorSetPseudoAttributes,
    GradientClusterPseudoAttributes,
    PredictedClassPseudoAttributes,
    SharedClusterPseudoAttributes,
    SPAREPseudoAttributes,
    SSAPseudoAttributes,
    XRMPseudoAttributes,
)
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import (
    CORAL,
    DFA,
    GERNE,
    IRM,
    LC,
    LISA,
    SPARE,
    ULA,
    ULE,
    W2D,
    CnC,
    CVaRDRO,
    Mixup,
    VREx,
)
from skdebias.model_selection import (
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
    BatchedRandomizedSearchCV,
)

#: Settings with which any head is fitted in no time.
QUICK = {"max_iter": 2, "warmup_epochs": 1, "n_draws": 1, "random_state": 0}
HIDDEN = {"hidden_layer_sizes": (16,), "learning_rate": 0.05}
DETERMINISTIC = {
    "solver": "lbfgs",
    "max_iter": 200,
    "tol": 1e-10,
    "weight_decay": 0.01,
}
RATES = {"learning_rate": [1e-3, 1e-2, 3e-2], "weight_decay": [0.0, 0.1]}
BETAS = {"beta": [-1.0, 0.0, 0.5], "c": [0.3, 0.5], "out_of_bounds": ["clip"]}


@dataclass(frozen=True)
class Head:
    """A row: an estimator with the parameters that make it another method."""

    name: str
    estimator: BaseEstimator
    #: What a search goes over, six points where the fit has epochs.
    grid: Mapping[str, list[Any]]
    #: Whether `fit` uses attributes; where not, groups are inferred or ignored.
    uses_attributes: bool = False
    #: Trained side by side, and one after the other.
    n_heads: int = 1
    n_trainings: int = 1
    #: Whether a whole network can be trained by it.
    trains_networks: bool = True
    #: Whether it has the solver of deterministic objectives; None is what the
    #: constraint of the parameter `solver` says.
    deterministic: bool | None = None
    #: Settings under which scikit-learn's checks run.
    checked: tuple[Mapping[str, Any], ...] = field(default=({"max_iter": 20}, HIDDEN))

    @property
    def class_name(self) -> str:
        return type(self.estimator).__name__

    @property
    def parameters(self) -> set[str]:
        return set(inspect.signature(type(self.estimator)).parameters)

    @property
    def trains_in_epochs(self) -> bool:
        return "batch_size" in self.parameters

    @property
    def is_deterministic(self) -> bool:
        """Whether it has the solver of deterministic objectives."""
        if self.deterministic is not None:
            return self.deterministic
        allowed = self.estimator._parameter_constraints.get("solver", [])
        return any("lbfgs" in constraint.options for constraint in allowed)

    def make(self, **settings: Any) -> BaseEstimator:
        """Return a new estimator; settings that it has no parameter for are dropped."""
        known = self.parameters
        settings = {key: value for key, value in settings.items() if key in known}
        return clone(self.estimator).set_params(**settings)

    def quick(self, **settings: Any) -> BaseEstimator:
        """Return a new estimator that is fitted in no time."""
        return self.make(**QUICK | settings)

    def used(self, attributes: Any) -> Any:
        """Return the attributes if `fit` uses them, else None."""
        return attributes if self.uses_attributes else None


HEADS = {
    row.name: row
    for row in (
        Head("ERM", ERMClassifier(), RATES, checked=({"max_iter": 20}, DETERMINISTIC)),
        Head(
            "ERM, balanced by class",
            ERMClassifier("class"),
            RATES,
            checked=({"solver": "adamw", "learning_rate": 0.01, "max_iter": 20},),
        ),
        Head(
            "ERM, balanced by group",
            ERMClassifier("group"),
            RATES,
            uses_attributes=True,
            checked=({"max_iter": 20},),
        ),
        Head(
            "ERM, reweighted",
            ERMClassifier(reweight="group"),
            RATES,
            uses_attributes=True,
            checked=(HIDDEN,),
        ),
        Head(
            "ERM, margins",
            ERMClassifier(reweight="class", margin=1.0, logit_adjustment=0.5),
            {"margin": [0.5, 1.0, 2.0], "logit_adjustment": [0.0, 1.0]},
            checked=(DETERMINISTIC,),
        ),
        Head(
            "ERM, focal loss",
            ERMClassifier(loss="focal"),
            {"loss_exponent": [0.0, 1.0, 2.0], "learning_rate": [1e-3, 1e-2]},
            deterministic=False,
            checked=({"max_iter": 20},),
        ),
        Head(
            "GERNE",
            GERNEClassifier(1.0),
            BETAS,
            uses_attributes=True,
            checked=({"max_iter": 20}, DETERMINISTIC),
        ),
        Head(
            "GERNE, shared draws",
            GERNEClassifier(1.0, coupling="shared"),
            BETAS,
            uses_attributes=True,
            checked=(HIDDEN,),
        ),
        Head(
            "GERNE, unknown attributes",
            GERNEClassifier(1.0, t=0.3),
            {"beta": [0.0, 0.5, 1.0], "t": [0.1, 0.3], "out_of_bounds": ["clip"]},
            n_trainings=2,
            checked=({"max_iter": 20},),
        ),
        Head(
            "GroupDRO",
            GroupDROClassifier(),
            {"step_size": [0.01, 0.1, 1.0], "adjustment": [0.0, 2.0]},
            uses_attributes=True,
        ),
        Head(
            "DFR",
            DFRClassifier(),
            {"l1_ratio": [0.0, 1.0]},
            uses_attributes=True,
            trains_networks=False,
            checked=({"n_draws": 2}, {"Cs": [1.0], "l1_ratio": 0.0, "n_draws": 1}),
        ),
        Head(
            "Dispel",
            DFRClassifier(s=0.8),
            {"s": [1.0, 0.8]},
            uses_attributes=True,
            trains_networks=False,
            checked=({"n_draws": 1}, {"Cs": [1.0], "l1_ratio": 0.0, "n_draws": 1}),
        ),
        Head("UGC", UGCClassifier(), RATES, n_trainings=2, checked=({"max_iter": 20},)),
        Head(
            "UGC, paper's form",
            UGCClassifier(
                2, warmup="epochs", per_class=False, pool=False, robust="group_dro"
            ),
            {"step_size": [0.01, 0.1, 0.5], "n_clusters": [2, 3]},
            n_trainings=2,
            checked=(HIDDEN,),
        ),
        Head(
            "ULE",
            ULEClassifier(),
            {"lam": [0.3, 0.6, 0.9], "student_weight_decay": [0, 1]},
            n_heads=2,
            checked=({"max_iter": 20},),
        ),
        Head(
            "ULE, paper's form",
            ULEClassifier(
                0.9,
                saliency="logit",
                normalize="max",
                normalize_over="sample",
                student_loss="ce",
            ),
            {"lam": [0.3, 0.6, 0.9], "learning_rate": [1e-3, 1e-2]},
            n_heads=2,
            checked=(HIDDEN,),
        ),
        Head(
            "JTT",
            JTTClassifier(),
            {"upweight": [2, 5, 9], "learning_rate": [1e-3, 1e-2]},
            n_trainings=2,
            checked=({}, {"upweight": 5} | HIDDEN),
        ),
        Head(
            "AFR",
            AFRClassifier(),
            {"gamma": [0.0, 2.0, 4.0], "regularization": [0.1, 1.0]},
            n_trainings=2,
            trains_networks=False,
        ),
        Head(
            "LfF",
            LfFClassifier(),
            {"q": [0.3, 0.5, 0.7], "alpha": [0.5, 0.9]},
            n_heads=2,
        ),
        Head(
            "any method",
            DebiasedClassifier(GERNE()),
            {
                "method__beta": [-1.0, 0.0, 0.5],
                "method__c": [0.3, 0.5],
                "method__out_of_bounds": ["clip"],
            },
            uses_attributes=True,
            checked=({"max_iter": 20}, DETERMINISTIC),
        ),
        Head(
            "any method, of two heads",
            DebiasedClassifier(ULE()),
            {"method__lam": [0.3, 0.6, 0.9], "learning_rate": [1e-3, 1e-2]},
            n_heads=2,
            deterministic=False,
            checked=(HIDDEN,),
        ),
        Head(
            "CVaR-DRO",
            DebiasedClassifier(CVaRDRO(0.3)),
            {"method__alpha": [0.1, 0.3, 1.0], "learning_rate": [1e-3, 1e-2]},
            deterministic=False,
            checked=({"max_iter": 20},),
        ),
        Head(
            "IRM",
            DebiasedClassifier(IRM(2.0, anneal=2)),
            {"method__penalty_weight": [0.0, 1.0, 5.0], "method__anneal": [0, 2]},
            uses_attributes=True,
            deterministic=False,
            # Its gradient grows with the square of X, which the checks do not scale.
            checked=({"solver": "adamw", "learning_rate": 0.05, "max_iter": 20},),
        ),
        Head(
            "V-REx",
            DebiasedClassifier(VREx(2.0, anneal=2)),
            {"method__penalty_weight": [0.0, 1.0, 5.0], "method__anneal": [0, 2]},
            uses_attributes=True,
            deterministic=False,
            checked=(HIDDEN,),
        ),
        Head(
            "W2D",
            DebiasedClassifier(W2D()),
            {"method__keep": [0.3, 0.6, 1.0], "method__mute": [0.0, 0.3]},
            trains_networks=False,
            deterministic=False,
        ),
        Head(
            "SPARE",
            DebiasedClassifier(SPARE(1.0)),
            {"method__power": [0.0, 1.0, 2.0], "learning_rate": [1e-3, 1e-2]},
            uses_attributes=True,
            checked=({"max_iter": 20},),
        ),
        Head(
            "Mixup",
            DebiasedClassifier(Mixup()),
            {"method__alpha": [0.0, 0.2, 1.0], "learning_rate": [1e-3, 1e-2]},
            deterministic=False,
            checked=(HIDDEN,),
        ),
        Head(
            "LISA",
            DebiasedClassifier(LISA()),
            {"method__alpha": [0.0, 0.5, 2.0], "method__p_sel": [0.5, 1.0]},
            uses_attributes=True,
            deterministic=False,
        ),
        Head(
            "LC",
            DebiasedClassifier(LC()),
            {"method__tau": [0.5, 1.0, 1.5], "method__mixup": [0.0, 2.0]},
            n_heads=2,
            deterministic=False,
            checked=({"max_iter": 20},),
        ),
    )
}
#: Methods that the settings of other tests, linear heads and few steps, do not suit.
PARTICULAR = (
    DebiasedClassifier(ULA(), max_iter=20),
    DebiasedClassifier(ULA(), **DETERMINISTIC),
    DebiasedClassifier(CORAL(), **HIDDEN),
    DebiasedClassifier(CnC(), **HIDDEN),
)
#: Name of every class of heads -> its first row, which has its defaults.
ONE_OF_EACH = {row.class_name: row for row in reversed(HEADS.values())}
#: Name of every class that can use attributes -> the first row that does.
USING_ATTRIBUTES = {
    row.class_name: row for row in reversed(HEADS.values()) if row.uses_attributes
}

PSEUDO_ATTRIBUTES = {
    "confidence": ConfidencePseudoAttributes(0.1),
    "errors": ErrorSetPseudoAttributes(),
    "irm": EIILPseudoAttributes(),
    "outputs": SPAREPseudoAttributes(random_state=0),
    "outputs, three clusters": SPAREPseudoAttributes(3, random_state=0),
    "clusters": GradientClusterPseudoAttributes(4, random_state=0),
    "norms": GradientClusterPseudoAttributes(
        3, pool=False, signature="gradient_norm", random_state=0
    ),
    "logistic": GradientClusterPseudoAttributes(
        4, warmup="logistic", pool=False, random_state=0
    ),
    "paper": GradientClusterPseudoAttributes(
        2, warmup="epochs", per_class=False, pool=False, random_state=0
    ),
    "network": GradientClusterPseudoAttributes(
        4,
        warmup="logistic",
        reference_estimator=ERMClassifier(
            hidden_layer_sizes=(8,), max_iter=2, random_state=0
        ),
        random_state=0,
    ),
    "predictions": PredictedClassPseudoAttributes(),
    "shared clusters": SharedClusterPseudoAttributes(5, random_state=0),
    "twins": XRMPseudoAttributes(min_separation=0.0, random_state=0),
    "reduced twins": XRMPseudoAttributes(
        0.1, balance=None, n_components=10, random_state=0
    ),
}

#: What fills attributes that are known of some rows.
FILLERS = {
    "ssa": SSAPseudoAttributes(random_state=0),
    "ssa, two folds, from the surest": SSAPseudoAttributes(0.99, 2, random_state=0),
}

_SEARCHED = GERNEClassifier(
    # scikit-learn's checks seed the search, which has no seed, but not what is in it.
    max_iter=5,
    learning_rate=0.1,
    batch_size=32,
    random_state=0,
)
SEARCHES = (
    BatchedGridSearchCV(_SEARCHED, {"beta": [0.0, 1.0]}, cv=2),
    BatchedRandomizedSearchCV(
        make_pipeline(StandardScaler(), ERMClassifier(**DETERMINISTIC)),
        {"ermclassifier__weight_decay": [0.01, 0.1]},
        n_iter=2,
        cv=2,
        random_state=0,
    ),
    BatchedHalvingGridSearchCV(
        _SEARCHED,
        {"beta": [0.0, 1.0], "weight_decay": [0.01, 0.1]},
        factor=2,
        cv=2,
    ),
)


def as_network(
    estimator: BaseEstimator, backbone: nn.Module | None = None, **settings: Any
) -> FineTuneClassifier:
    """Return a network on tensors, its backbone the identity where there is none."""
    backbone = nn.Identity() if backbone is None else backbone
    network = FineTuneClassifier(estimator, backbone, modality="tensor", device="cpu")
    return network.set_params(**settings)


_TRAINED = {"max_iter": 20, "learning_rate": 0.02}
NETWORKS = (
    as_network(ERMClassifier(), **_TRAINED),
    as_network(
        GERNEClassifier(hidden_layer_sizes=(16,)), optimizer="adamw", **_TRAINED
    ),
    as_network(ULEClassifier(lam=0.9), **_TRAINED),
    as_network(DebiasedClassifier(DFA(swap_after=1)), **_TRAINED),
)
