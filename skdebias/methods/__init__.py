"""Debiasing methods: what to sample, how much each row counts, what else to ask.

A method is a small frozen dataclass that knows nothing of what is trained. The head
engine and the network trainer both read its sampling plan.
"""

from skdebias.methods._afr import AFR
from skdebias.methods._erm import ERM
from skdebias.methods._gerne import (
    GERNE,
    beta_bounds,
    extrapolated_distribution,
    extrapolation_strength,
)
from skdebias.methods._group_dro import GroupDRO
from skdebias.methods._jtt import JTT
from skdebias.methods._lff import LfF
from skdebias.methods._method import (
    Aggregate,
    ForwardPass,
    Method,
    Penalty,
    PenaltyTerm,
    Rule,
    Setting,
    Step,
)
from skdebias.methods._plan import Batch, SamplingPlan, SlotTable, slot_table
from skdebias.methods._pseudo import least_confident
from skdebias.methods._ule import ULE

__all__ = [
    "AFR",
    "ERM",
    "GERNE",
    "JTT",
    "ULE",
    "Aggregate",
    "Batch",
    "ForwardPass",
    "GroupDRO",
    "LfF",
    "Method",
    "Penalty",
    "PenaltyTerm",
    "Rule",
    "SamplingPlan",
    "Setting",
    "SlotTable",
    "Step",
    "beta_bounds",
    "extrapolated_distribution",
    "extrapolation_strength",
    "least_confident",
    "slot_table",
]
