"""Warnings that point at the line of the caller, however deep they are raised."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Packages between a caller's line and the place that has something to say.
_BETWEEN = frozenset({"skdebias", "sklearn", "joblib"})
# Modules of scikit-learn that hand a caller's arguments to one estimator. All others
# split, score or combine, and hand on what any of several objects asks for.
_HANDING_ON = ("base", "pipeline", "utils", "callback", "_config")


class MissingAttributesWarning(UserWarning):
    """Warning of a method that needs spurious attributes and was given none.

    The message says what is done for want of them: most methods treat every sample as
    having the same attribute value, so the groups are the classes. Turn it into an
    error with ``warnings.simplefilter("error", MissingAttributesWarning)``.
    """


class AttributesIgnoredWarning(UserWarning):
    """Warning that `fit` was given attributes, or a way to infer them, for nothing.

    The method trains without attributes. Nothing is said inside a search or
    `cross_validate`, which hand attributes to whatever asks for them; a search of
    skdebias says so if neither its candidates, nor its splitter, nor its scorers use
    them. Turn it into an error with
    ``warnings.simplefilter("error", AttributesIgnoredWarning)``.
    """


class AntiClassifierWarning(UserWarning):
    """A ULE teacher has become the negative of its student.

    Raised after `fit`. `lam` is too small, the learning rate too large, or the student
    is not more biased than the teacher.
    """


class UnchosenHeadWarning(UserWarning):
    """Warning that the first of several heads is the result for want of labelled rows.

    Raised after `fit` by a method whose heads are alternatives and which was given no
    validation set; :func:`skdebias.model_selection.choose_head` takes one afterwards.
    Turn it into an error with
    ``warnings.simplefilter("error", UnchosenHeadWarning)``.
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


def is_routed():
    """Return whether a search or the like calls, and not a user's own line.

    Returns
    -------
    bool
        False of a call through a Pipeline alone.
    """
    frame = sys._getframe(1)
    while frame is not None:
        package, _, rest = frame.f_globals.get("__name__", "").partition(".")
        if package not in _BETWEEN:
            return False
        top = rest.partition(".")[0]
        if package == "sklearn" and top not in _HANDING_ON:
            return True
        if package == "skdebias" and top == "model_selection":
            return True
        frame = frame.f_back
    return False


_announced: ContextVar[set[type] | None] = ContextVar("announced", default=None)


@contextmanager
def announced(*categories: type) -> Iterator[None]:
    """Keep fits and scores from saying again what a search has said of all rows.

    Parameters
    ----------
    *categories : type
        Of warnings that have been given, or need not be; of others that are given by
        :func:`warn_once` the first one is shown.
    """
    token = _announced.set({*categories})
    try:
        yield
    finally:
        _announced.reset(token)


def warn_once(message, category):
    """Warn the caller, unless a search around the call has said so already.

    Parameters
    ----------
    message : str
    category : type
    """
    said = _announced.get()
    if said is not None:
        if category in said:
            return
        said.add(category)
    warn_caller(message, category)
