"""Pseudo-attributes: estimators that infer spurious attributes when none are known."""

from skdebias.attributes._confidence import ConfidencePseudoAttributes
from skdebias.attributes._eiil import EIILPseudoAttributes
from skdebias.attributes._error_set import ErrorSetPseudoAttributes
from skdebias.attributes._gradient_cluster import (
    GradientClusterPseudoAttributes,
    WeakClustersWarning,
)
from skdebias.attributes._predicted_class import PredictedClassPseudoAttributes
from skdebias.attributes._shared_cluster import SharedClusterPseudoAttributes
from skdebias.attributes._spare import SPAREPseudoAttributes
from skdebias.attributes._ssa import SSAPseudoAttributes
from skdebias.attributes._xrm import NothingInferredWarning, XRMPseudoAttributes

__all__ = [
    "ConfidencePseudoAttributes",
    "EIILPseudoAttributes",
    "ErrorSetPseudoAttributes",
    "GradientClusterPseudoAttributes",
    "NothingInferredWarning",
    "PredictedClassPseudoAttributes",
    "SPAREPseudoAttributes",
    "SSAPseudoAttributes",
    "SharedClusterPseudoAttributes",
    "WeakClustersWarning",
    "XRMPseudoAttributes",
]
