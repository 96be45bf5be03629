"""Pseudo-attributes: estimators that infer spurious attributes when none are known."""

from skdebias.attributes._confidence import ConfidencePseudoAttributes
from skdebias.attributes._error_set import ErrorSetPseudoAttributes

__all__ = ["ConfidencePseudoAttributes", "ErrorSetPseudoAttributes"]
