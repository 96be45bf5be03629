"""Warnings that point at the line of the caller, however deep they are raised."""

import sys
import warnings

# Packages between a caller's line and the place that has something to say.
_BETWEEN = frozenset(
    {"contextlib", "embeddings_cache", "joblib", "skdebias", "sklearn"}
)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line that belongs to none of the packages between.

    Parameters
    ----------
    message : str
    category : type
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        if frame.f_back is None:
            break
        level, frame = level + 1, frame.f_back
    # `warnings` counts itself out: level 1 is the line that calls it.
    warnings.warn(message, category, stacklevel=level)
