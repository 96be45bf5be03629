"""Cross-validation splitters and searches that know about groups."""

from skdebias.model_selection._compare import compare_methods
from skdebias.model_selection._comparison import MethodComparison
from skdebias.model_selection._halving import BatchedHalvingGridSearchCV
from skdebias.model_selection._heads import (
    choose_head,
    head_disagreement,
    rows_to_label,
)
from skdebias.model_selection._kfold import AttributeStratifiedKFold
from skdebias.model_selection._search import (
    BatchedGridSearchCV,
    BatchedRandomizedSearchCV,
)
from skdebias.model_selection._shuffle_split import AttributeStratifiedShuffleSplit

__all__ = [
    "AttributeStratifiedKFold",
    "AttributeStratifiedShuffleSplit",
    "BatchedGridSearchCV",
    "BatchedHalvingGridSearchCV",
    "BatchedRandomizedSearchCV",
    "MethodComparison",
    "choose_head",
    "compare_methods",
    "head_disagreement",
    "rows_to_label",
]
