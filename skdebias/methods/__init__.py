"""Debiasing methods: what to sample, how much each row counts, what else to ask.

A method is a small frozen dataclass that knows nothing of what is trained. The head
engine and the network trainer both read its sampling plan.
"""

from skdebias._groups import Groups
from skdebias.methods._afr import AFR
from skdebias.methods._alignment import CORAL, MMD, CausIRL
from skdebias.methods._cnc import CnC
from skdebias.methods._cvar import CVaRDRO
from skdebias.methods._dbat import DBAT
from skdebias.methods._denetdm import DeNetDM
from skdebias.methods._dfa import DFA
from skdebias.methods._divdis import DivDis
from skdebias.methods._erm import ERM
from skdebias.methods._feature_sieve import FeatureSieve
from skdebias.methods._gerne import (
    GERNE,
    beta_bounds,
    extrapolated_distribution,
    extrapolation_strength,
)
from skdebias.methods._group_dro import GroupDRO
from skdebias.methods._head import Auxiliary, Head
from skdebias.methods._irm import IRM
from skdebias.methods._jtt import JTT
from skdebias.methods._lc import LC
from skdebias.methods._learned_reweighting import LearnedReweighting
from skdebias.methods._lff import LfF
from skdebias.methods._losses import class_logits, row_losses
from skdebias.methods._method import Method
from skdebias.methods._mixture import DrawnRows, Mixing, Mixture
from skdebias.methods._mixup import LISA, Mixup
from skdebias.methods._mmdaae import MMDAAE
from skdebias.methods._noisy_student import NoisyStudent
from skdebias.methods._plan import Batch, SamplingPlan, SlotTable, slot_table
from skdebias.methods._pseudo import least_confident
from skdebias.methods._random import uniform
from skdebias.methods._spare import SPARE
from skdebias.methods._step import (
    ForwardPass,
    GroupObjective,
    Objective,
    Penalty,
    PenaltyTerm,
    Step,
    TrainingContext,
    TrainingResult,
    WeightedLosses,
    Weighting,
)
from skdebias.methods._ula import ULA
from skdebias.methods._ule import ULE
from skdebias.methods._vrex import VREx
from skdebias.methods._w2d import W2D

__all__ = [
    "AFR",
    "CORAL",
    "DBAT",
    "DFA",
    "ERM",
    "GERNE",
    "IRM",
    "JTT",
    "LC",
    "LISA",
    "MMD",
    "MMDAAE",
    "SPARE",
    "ULA",
    "ULE",
    "W2D",
    "Auxiliary",
    "Batch",
    "CVaRDRO",
    "CausIRL",
    "CnC",
    "DeNetDM",
    "DivDis",
    "DrawnRows",
    "FeatureSieve",
    "ForwardPass",
    "GroupDRO",
    "GroupObjective",
    "Groups",
    "Head",
    "LearnedReweighting",
    "LfF",
    "Method",
    "Mixing",
    "Mixture",
    "Mixup",
    "NoisyStudent",
    "Objective",
    "Penalty",
    "PenaltyTerm",
    "SamplingPlan",
    "SlotTable",
    "Step",
    "TrainingContext",
    "TrainingResult",
    "VREx",
    "WeightedLosses",
    "Weighting",
    "beta_bounds",
    "class_logits",
    "extrapolated_distribution",
    "extrapolation_strength",
    "least_confident",
    "row_losses",
    "slot_table",
    "uniform",
]
