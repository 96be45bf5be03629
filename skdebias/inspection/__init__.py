"""Looking at what classifiers look at."""

from skdebias.inspection._saliency import SaliencyDisplay

__all__ = ["SaliencyDisplay"]
