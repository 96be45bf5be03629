"""Warnings that point at the line of the caller, however deep they are raised."""

import sys
import warnings

# Packages between a caller's line and the place that has something to say.
_BETWEEN = frozenset({"skdebias", "sklearn", "joblib"})


class AntiClassifierWarning(UserWarning):
    """A ULE teacher has become the negative of its student.

    Raised after `fit`. `lam` is too small, the learning rate too large, or the student
    is not more biased than the teacher.
    """


def warn_caller(message, category=UserWarning):
    """Warn at the innermost line that belongs to neither this package nor scikit-learn.

    A fixed `stacklevel` would be wrong as soon as a Pipeline or a search makes the
    call.

    Parameters
    ----------
    message : str
    category : type, default=UserWarning
    """
    level, frame = 2, sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _BETWEEN:
            break
        level, frame = level + 1, frame.f_back
    # `warnings` counts itself out: level 1 is the line that calls it.
    warnings.warn(message, category, stacklevel=level)
