"""GERNE: gradient extrapolation for debiased representation learning."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skdebias._attributes import (
    Groups,
    check_attributes,
    encode_attributes,
    factorize,
)
from skdebias._sample_weight import check_sample_weight, positive
from skdebias._warnings import warn_caller
from skdebias.methods._method import Method
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._step import TrainingResult

# Slack for a beta that was itself computed from the bound.
_TOLERANCE = 1e-9
# Strengths that "auto" chooses from: group balance, and from there shares of the way to
# the bound, where majority groups no longer count; never further than this.
_BEYOND_BALANCE = (0.0, 0.15, 0.3, 0.5)
_STRONGEST = 2.0


@dataclass(frozen=True)
class GERNE(Method):
    """Gradient extrapolation from a biased to a less biased batch.

    Every step draws a biased batch, `p_b(a|y) = alpha`, and a less biased one,
    `p_lb(a|y) = alpha + c (1/A - alpha)`, both uniform over classes, and descends
    `L_ext = L_lb + beta (L_lb - L_b)`. In expectation that is training under
    `p_ext(a|y) = alpha + c (1 + beta) (1/A - alpha)`.

    Parameters
    ----------
    beta : float or "auto", default=1.0
        Extrapolation factor. -1 is class-balanced training. "auto" is chosen on
        held-out rows where a solver can do that, and else group balance, `1/c - 1`.
    c : float, default=0.5
        How far the less biased batch moves towards balance, in (0, 1]. `c=1, beta=0`
        is group resampling.
    shared : bool, default=False
        Both batches take prefixes of one draw per group instead of being drawn
        independently as in the paper: same expectation, less gradient noise.
    out_of_bounds : {"auto", "raise", "warn", "clip"}, default="auto"
        What to do about a beta at which a group would get a negative weight. "auto"
        raises for attributes that are known, and warns where they are inferred.

    References
    ----------
    Asaad, Shadaydeh and Denzler, "Gradient Extrapolation for Debiased Representation
    Learning", ICCV 2025, equations 3 to 9 and algorithm 1.

    Examples
    --------
    >>> from skdebias import DebiasedClassifier
    >>> from skdebias.datasets import make_spurious_classification
    >>> from skdebias.methods import GERNE
    >>> X, y, attributes = make_spurious_classification(500, random_state=0)
    >>> clf = DebiasedClassifier(GERNE(beta=0.5), random_state=0)
    >>> clf.fit(X, y, attributes=attributes).beta_
    0.5
    """

    beta: float | Literal["auto"] = 1.0
    c: float = 0.5
    shared: bool = False
    out_of_bounds: Literal["auto", "raise", "warn", "clip"] = "auto"

    stackable: ClassVar[tuple[str, ...]] = ("beta", "c")

    def for_groups(self, groups: Groups, *, inferred: bool) -> Self:
        """Return the method with a beta within the bounds of the groups.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        inferred : bool
            Whether their attributes were inferred.

        Returns
        -------
        GERNE

        Raises
        ------
        ValueError
            If beta is out of its bounds, as `out_of_bounds` says.
        """
        if self.beta == "auto":
            return replace(self, beta=1.0 / self.c - 1.0)
        low, high = group_beta_bounds(groups, self.c)
        if low - _TOLERANCE <= self.beta <= high + _TOLERANCE:
            return replace(self, beta=float(self.beta))
        if self.out_of_bounds == "clip":
            return replace(self, beta=float(np.clip(self.beta, low, high)))
        message = (
            f"beta={self.beta} with c={self.c} is outside the bounds "
            f"[{low:.4f}, {high:.4f}] of this data: a group would get a negative "
            "weight and the loss no minimum. Choose beta within them, or "
            "out_of_bounds='clip'."
        )
        if self.out_of_bounds == "warn" or (self.out_of_bounds == "auto" and inferred):
            warn_caller(message)
            return replace(self, beta=float(self.beta))
        raise ValueError(message)

    @property
    def strength(self) -> float | None:
        """`s = c (1 + beta)`; None while beta is left open."""
        if self.beta == "auto":
            return None
        return extrapolation_strength(self.beta, self.c)

    def candidates(self, groups: Groups) -> tuple[Self, ...]:
        """Return the methods of several strengths, or this one if beta is given.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        tuple of GERNE
            Their beta is cut at the bounds of whatever groups they are trained on.
        """
        # Of a part of the rows the bounds are a little different.
        method = replace(self, out_of_bounds="clip")
        if self.beta != "auto":
            return (method,)
        strengths = path_strengths(groups)
        return tuple(replace(method, beta=s / self.c - 1.0) for s in strengths)

    @property
    def _factor(self) -> float:
        """The number that beta is."""
        if self.beta == "auto":
            raise ValueError(
                "beta='auto' stands for no number yet: take one of candidates(groups), "
                "or for_groups(groups)."
            )
        return self.beta

    def learned(self, groups: Groups, fitted: TrainingResult) -> dict[str, Any]:
        """Return the bounds of beta, beta itself, and the distribution that it means.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.
        fitted : TrainingResult

        Returns
        -------
        dict
            `beta_bounds_`, `beta_`, and `extrapolated_distribution_` of shape
            (n_classes, n_attributes).
        """
        distribution = np.zeros((groups.n_classes, groups.n_attributes))
        distribution[tuple(groups.cells.T)] = extrapolated_distribution(
            groups, self._factor, self.c
        )
        return {
            "beta_bounds_": group_beta_bounds(groups, self.c),
            "beta_": self.beta,
            "extrapolated_distribution_": distribution,
        }

    def plan(self, groups: Groups) -> SamplingPlan:
        """Return the plan of the two batches.

        Parameters
        ----------
        groups : Groups
            Groups of the training rows.

        Returns
        -------
        SamplingPlan
            Batches `biased` with factor `-beta` and `less_biased` with `1 + beta`.
        """
        alpha, uniform = conditional_distribution(groups)
        n_classes = len(np.unique(groups.cells[:, 0]))
        biased = Batch("biased", alpha / n_classes, -self._factor)
        less_biased = Batch(
            "less_biased",
            (alpha + self.c * (uniform - alpha)) / n_classes,
            1.0 + self._factor,
        )
        return SamplingPlan(
            groups.ids,
            (biased, less_biased),
            blocks=groups.cells[:, 0],
            shared=self.shared,
        )


def conditional_distribution(
    groups: Groups,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of each group within its class, and the balanced share.

    Parameters
    ----------
    groups : Groups
        Groups of the training rows.

    Returns
    -------
    alpha : ndarray of shape (n_groups,)
        `alpha = n_(y,a) / n_y`, conditional on the class.
    uniform : ndarray of shape (n_groups,)
        `1 / A_y`, with `A_y` the attribute values that occur in the class: an absent
        cell cannot be sampled, so the class uses the values it has.
    """
    classes = groups.cells[:, 0]
    class_counts = np.bincount(classes, weights=groups.counts)
    present = np.bincount(classes)
    return groups.counts / class_counts[classes], 1.0 / present[classes]


def extrapolation_strength(beta: float, c: float) -> float:
    """Return `s = c (1 + beta)`, all that matters of the two in expectation.

    Parameters
    ----------
    beta, c : float
        The arguments of :class:`GERNE`.

    Returns
    -------
    float
        0 is class-balanced training, 1 is group balance, more over-represents the
        minority groups.

    Examples
    --------
    >>> extrapolation_strength(beta=1.0, c=0.5)
    1.0
    """
    return c * (1.0 + beta)


def path_strengths(groups: Groups) -> tuple[float, ...]:
    """Return the strengths that `beta="auto"` chooses from.

    Parameters
    ----------
    groups : Groups
        Groups of the training rows.

    Returns
    -------
    tuple of float
        Increasing, within the bounds. 1 alone where every class is balanced over its
        attribute values, so that the strength changes nothing.
    """
    _, high = group_beta_bounds(groups, 1.0)
    if np.isinf(high):
        return (1.0,)
    strengths = [min(_STRONGEST, 1.0 + share * high) for share in _BEYOND_BALANCE]
    return tuple(dict.fromkeys(strengths))


def extrapolated_distribution(
    groups: Groups, beta: float, c: float
) -> NDArray[np.float64]:
    """Return the distribution `p_ext(a|y)` that GERNE trains under in expectation.

    Parameters
    ----------
    groups : Groups
        Groups of the training rows.
    beta, c : float
        The arguments of :class:`GERNE`.

    Returns
    -------
    ndarray of shape (n_groups,)
        Sums to one over the groups of a class. Negative for an over-represented group
        beyond the upper bound of beta.

    Examples
    --------
    Halfway from the shares of the attribute in the class to equal ones:

    >>> from skdebias.methods import Groups, extrapolated_distribution
    >>> groups = Groups.from_labels([0] * 10, [0] * 9 + [1], 1, 2)
    >>> extrapolated_distribution(groups, beta=0.0, c=0.5).round(6)
    array([0.7, 0.3])
    """
    alpha, uniform = conditional_distribution(groups)
    return alpha + extrapolation_strength(beta, c) * (uniform - alpha)


def group_beta_bounds(groups: Groups, c: float) -> tuple[float, float]:
    """Return the bounds of beta for groups, as :func:`beta_bounds`."""
    alpha, uniform = conditional_distribution(groups)
    gap = uniform - alpha
    # Equal shares come out of a division: compare with the rounding in mind.
    over, under = gap < -1e-12, gap > 1e-12
    with np.errstate(divide="ignore", invalid="ignore"):
        zero_at = -alpha / (c * gap) - 1.0
    high = float(zero_at[over].min()) if over.any() else np.inf
    low = float(zero_at[under].max()) if under.any() else -np.inf
    return low, high


def beta_bounds(
    y: ArrayLike, attributes: ArrayLike, c: float, *, sample_weight: Any = None
) -> tuple[float, float]:
    """Return the range of beta that keeps every `p_ext(a|y)` of GERNE in [0, 1].

    Beyond the upper bound a majority group gets a negative weight and the objective has
    no minimum. Below -1 the bias is amplified; the paper takes -1 (class-balanced
    training) as its lower limit, which is never below the one returned here.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Class labels.
    attributes : array-like of shape (n_samples,) or (n_samples, n_attributes)
        Spurious attributes; several columns are crossed.
    c : float
        Mixing coefficient of the less biased batch, in (0, 1].
    sample_weight : array-like of shape (n_samples,) or float, default=None
        As how many rows each row counts, as `fit` takes it.

    Returns
    -------
    low, high : float
        The bounds, infinite when every class is balanced over its attribute values.

    Raises
    ------
    ValueError
        If `c` is outside (0, 1].

    References
    ----------
    Asaad, Shadaydeh and Denzler, ICCV 2025, equation 9, in closed form, with `1/A`
    replaced by `1/A_y` in classes where some attribute value is absent.

    Examples
    --------
    >>> from skdebias.methods import beta_bounds
    >>> y = [0] * 20 + [1] * 20
    >>> place = [0] * 19 + [1] + [1] * 19 + [0]
    >>> low, high = beta_bounds(y, place, c=0.5)
    >>> round(high, 4)
    3.2222
    """
    if not 0.0 < c <= 1.0:
        raise ValueError(f"c={c!r} is outside (0, 1]: choose a value such as 0.5.")
    y = np.asarray(y)
    checked = check_attributes(attributes, len(y))
    weights, kept = positive(check_sample_weight(sample_weight, len(y)))
    if kept is not None:
        y, checked = y[kept], checked[kept]
    classes, y_codes = factorize(y, "y")
    codes, values = encode_attributes(checked)
    groups = Groups.from_labels(y_codes, codes, len(classes), len(values), weights)
    return group_beta_bounds(groups, c)
