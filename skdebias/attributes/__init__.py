"""Pseudo-attributes: estimators that infer spurious attributes when none are known."""

from skdebias.attributes._confidence import ConfidencePseudoAttributes
from skdebias.attributes._error_set import ErrorSetPseudoAttributes
from skdebias.attributes._gradient_cluster import (
    GradientClusterPseudoAttributes,
    WeakClustersWarning,
)

__all__ = [
    "ConfidencePseudoAttributes",
    "ErrorSetPseudoAttributes",
    "GradientClusterPseudoAttributes",
    "WeakClustersWarning",
]
