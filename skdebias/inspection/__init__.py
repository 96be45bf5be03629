"""Looking at what classifiers look at, and at which attributes their errors follow."""

from skdebias.inspection._audit import audit_attributes
from skdebias.inspection._saliency import SaliencyDisplay

__all__ = ["SaliencyDisplay", "audit_attributes"]
