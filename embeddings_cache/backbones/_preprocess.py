"""Overrides of a model's reference preprocessing, checked once for all libraries."""

from typing import Any

from embeddings_cache.backbones._base import BackboneSpec

NAMES = ("mean", "std", "size", "crop", "interpolation")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def overrides(spec: BackboneSpec) -> dict[str, Any]:
    """Return the checked `preprocess` dict of a request, empty when there is none.

    Returns
    -------
    dict
        ``mean`` and ``std`` as three floats, ``size`` as (height, width), ``crop``
        as a float or str, ``interpolation`` as a str; only what was given.
    """
    if spec.preprocess is None:
        return {}
    if not isinstance(spec.preprocess, dict):
        raise TypeError(
            f"preprocess={spec.preprocess!r}: for {spec.label} give a dict with any "
            f"of {', '.join(NAMES)}; a callable is for a torch.nn.Module backbone"
        )
    unknown = sorted(set(spec.preprocess) - set(NAMES))
    if unknown:
        raise ValueError(
            f"preprocess has the unknown name {unknown[0]!r}; known are "
            f"{', '.join(NAMES)}"
        )
    return {name: _CHECKS[name](value) for name, value in spec.preprocess.items()}


def _three(name: str, value: Any) -> tuple[float, float, float]:
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or (name == "std" and min(numbers) <= 0):
        kind = "three numbers above 0" if name == "std" else "three numbers"
        raise ValueError(
            f"preprocess[{name!r}]={value!r} must be {kind}, one a channel"
        )
    return numbers[0], numbers[1], numbers[2]


def _size(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    try:
        height, width = (int(number) for number in pair)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(
            f"preprocess['size']={value!r} must be pixels: a whole number, or "
            "(height, width)"
        )
    return height, width


def _crop(value: Any) -> float | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(
            f"preprocess['crop']={value!r} must be in (0, 1], the part of the resized "
            "shorter side that the centre crop keeps, or the name of a crop mode"
        )
    return float(value)


def _interpolation(value: Any) -> str:
    if value not in INTERPOLATIONS:
        raise ValueError(
            f"preprocess['interpolation']={value!r} must be one of "
            f"{', '.join(INTERPOLATIONS)}"
        )
    return str(value)


_CHECKS = {
    "mean": lambda value: _three("mean", value),
    "std": lambda value: _three("std", value),
    "size": _size,
    "crop": _crop,
    "interpolation": _interpolation,
}


def square(spec: BackboneSpec, size: tuple[int, int]) -> int:
    """Return the side of a square size; other shapes are refused."""
    if size[0] != size[1]:
        raise ValueError(
            f"preprocess['size']={size!r}: {spec.label} takes square images; give "
            "one number"
        )
    return size[0]


def crop_fraction(spec: BackboneSpec, crop: float | str) -> float:
    """Return a crop that is a fraction; named modes are refused."""
    if isinstance(crop, str):
        raise ValueError(
            f"preprocess['crop']={crop!r}: {spec.label} takes a number in (0, 1], the "
            "part of the resized shorter side that the centre crop keeps"
        )
    return crop
