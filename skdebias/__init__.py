"""Scikit-learn classifiers that unlearn spurious correlations on frozen embeddings."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Public names are imported on first use: torch takes seconds, `--help` must not.
_HOME = {
    "ERMClassifier": "skdebias._erm",
    "GERNEClassifier": "skdebias._gerne",
    "UGCClassifier": "skdebias._ugc",
    "ULEClassifier": "skdebias._ule",
    "GroupDROClassifier": "skdebias._group_dro",
    "DFRClassifier": "skdebias._dfr",
    "DebiasedClassifier": "skdebias._debiased",
    "JTTClassifier": "skdebias._jtt",
    "AFRClassifier": "skdebias._afr",
    "LfFClassifier": "skdebias._lff",
    "AntiClassifierWarning": "skdebias._warnings",
    "AttributesIgnoredWarning": "skdebias._warnings",
    "CollapsedHeadWarning": "skdebias._training_checks",
    "ValidationShiftWarning": "skdebias._training_checks",
    "MissingAttributesWarning": "skdebias._warnings",
    "UnchosenHeadWarning": "skdebias._warnings",
    "UnusableAttributesWarning": "skdebias._named_groups",
}
_SUBMODULES = (
    "attributes",
    "datasets",
    "export",
    "finetune",
    "inspection",
    "methods",
    "metrics",
    "model_selection",
)

__all__ = [
    "AFRClassifier",
    "AntiClassifierWarning",
    "AttributesIgnoredWarning",
    "CollapsedHeadWarning",
    "DFRClassifier",
    "DebiasedClassifier",
    "ERMClassifier",
    "GERNEClassifier",
    "GroupDROClassifier",
    "JTTClassifier",
    "LfFClassifier",
    "MissingAttributesWarning",
    "UGCClassifier",
    "ULEClassifier",
    "UnchosenHeadWarning",
    "UnusableAttributesWarning",
    "ValidationShiftWarning",
    "attributes",
    "datasets",
    "export",
    "finetune",
    "inspection",
    "methods",
    "metrics",
    "model_selection",
]

try:
    __version__ = version("skdebias")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
