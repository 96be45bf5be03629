"""Splitters that stratify on label x attribute."""

from skdebias.model_selection._kfold import AttributeStratifiedKFold
from skdebias.model_selection._shuffle_split import AttributeStratifiedShuffleSplit

__all__ = ["AttributeStratifiedKFold", "AttributeStratifiedShuffleSplit"]
