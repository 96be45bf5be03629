"""Full-network mode: the same methods, end to end."""

from skdebias.finetune._checkpoint import CheckpointError, CheckpointWarning
from skdebias.finetune._classifier import FineTuneClassifier

__all__ = ["CheckpointError", "CheckpointWarning", "FineTuneClassifier"]
