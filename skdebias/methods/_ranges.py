"""Refusals of hyper-parameters of methods that are out of range."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


def check_numbers(method: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse fields that are no numbers of a closed range.

    Parameters
    ----------
    method : Method
    ranges : mapping of str to (low, high)
        By name of the field; `high` may be infinite, and no number is.

    Raises
    ------
    ValueError
    """
    for name, (low, high) in ranges.items():
        value = getattr(method, name)
        real = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
        if not (real and np.isfinite(value) and low <= value <= high):
            limits = (
                f"of at least {low:g}" if high == np.inf else f"in [{low:g}, {high:g}]"
            )
            raise ValueError(
                f"{name}={value!r} of {type(method).__name__}: give a number {limits}."
            )


def check_choices(method: Any, choices: Mapping[str, Sequence[Any]]) -> None:
    """Refuse fields that have none of the values they may have.

    Parameters
    ----------
    method : Method
    choices : mapping of str to sequence
        By name of the field.

    Raises
    ------
    ValueError
    """
    for name, known in choices.items():
        value = getattr(method, name)
        if not any(value is one or value == one for one in known):
            listed = ", ".join(map(repr, known))
            raise ValueError(
                f"{name}={value!r} of {type(method).__name__}: choose one of {listed}."
            )


def check_counts(method: Any, least: Mapping[str, int]) -> None:
    """Refuse fields that are no whole numbers of at least so much.

    Parameters
    ----------
    method : Method
    least : mapping of str to int
        By name of the field.

    Raises
    ------
    ValueError
    """
    for name, low in least.items():
        value = getattr(method, name)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not (whole and value >= low):
            raise ValueError(
                f"{name}={value!r} of {type(method).__name__}: give a whole number of "
                f"at least {low}."
            )
