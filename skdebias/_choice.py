"""Hyper-parameters that a fit chooses itself, on rows that it holds out.

What "auto" leaves open, the strength of a method and the weight decay, is solved for as
one stack of heads, loosely: a stack of fifty costs a pass over the rows little more
than one head does. The smooth error of the worst group on held-out rows chooses, and
what is chosen is solved for exactly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skdebias._auto import DEFAULT_DECAY
from skdebias._engine._features import Features
from skdebias._engine._heads import HeadStack
from skdebias._engine._held_out import HeldOut, group_errors, smooth_error
from skdebias._engine._lbfgs import check_alone, linear_starts, solve
from skdebias._engine._loss import n_logits
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer
from skdebias._groups import Groups
from skdebias._named_groups import UnusableAttributesWarning
from skdebias._warnings import warn_caller
from skdebias.methods import Method
from skdebias.methods._head import Parameters

#: Weight decays that "auto" chooses from, for standardised features.
DECAYS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# Largest entry of the gradient of what is chosen from.
_LOOSE = 1e-2
# Without a validation set every row is held out once.
_N_FOLDS = 3
# Rows that the smallest group of a validation set needs, or as many as in training.
_FEWEST = 5
# The solver remembers 20 steps and gradients in double precision.
_BYTES_PER_WEIGHT = 8 * 45
_STACK_BYTES = 1 << 30


class Point(NamedTuple):
    """What is chosen from: a method and a weight decay."""

    method: Method
    weight_decay: float


@dataclass(frozen=True)
class Choice:
    """What was chosen for one estimator, and from what.

    Parameters
    ----------
    points : sequence of Point
    errors : ndarray of shape (n_points,)
        Smooth error of every point on held-out rows; of those that were left out on the
        way, on the rows so far.
    best : Point
        What was chosen, with the method as it is trained.
    start : (coefs, intercepts)
        Its loose solution.
    """

    points: Sequence[Point]
    errors: NDArray[np.float64]
    best: Point
    start: Parameters


def choose(
    estimators: Sequence[Any],
    prepared: Sequence[Any],
    data: tuple[Features, NDArray[np.int64], int],
    problem: Problem,
    config: OptimizerConfig,
    validation: HeadValidationScorer | None,
) -> list[Choice | None]:
    """Choose what "auto" leaves open, for every estimator of a stack.

    Parameters
    ----------
    estimators : sequence of BaseDebiasedClassifier
        Solved for by the deterministic solver.
    prepared : sequence of Prepared
        One per estimator.
    data : (Features, ndarray of shape (n_samples,), int)
        All rows, their class codes, and the number of classes.
    problem : Problem
        Of the estimators, in order.
    config : OptimizerConfig
    validation : HeadValidationScorer or None

    Returns
    -------
    list of Choice or None
        None where nothing is open, or where no row can be held out.
    """
    choices: list[Choice | None] = [None] * len(estimators)
    points = [_points(*pair) for pair in zip(estimators, prepared)]
    open_ones = [place for place, of_one in enumerate(points) if len(of_one) > 1]
    if not open_ones:
        return choices
    for method in problem.methods:
        check_alone(method, problem.groups, data[1])
    parts = _held_out(prepared[0], data, problem, validation)
    if not parts:
        return choices
    for place, choice in zip(
        open_ones,
        _choose_among(
            [points[place] for place in open_ones],
            parts,
            partial(_solve_loosely, data, problem, config),
            estimators[0].selection,
            _most_points(data),
        ),
    ):
        method, decay = choice.best
        # A single method is trained as it was prepared, within its bounds or not.
        alone = len(prepared[place].candidates) == 1
        trained = prepared[place].method
        if not alone:
            trained = method.for_groups(problem.groups, inferred=False)
        choices[place] = replace(choice, best=Point(trained, decay))
    return choices


def _choose_among(
    points: Sequence[Sequence[Point]],
    parts: Sequence[tuple[NDArray[np.int64] | None, HeldOut]],
    solve_loosely: Callable[..., HeadStack],
    selection: str,
    most: int,
) -> list[Choice]:
    """Choose one of the points of each estimator.

    After each part the better half is left, which halves the cost of three folds and
    changes no choice of any that was looked at.
    """
    flat = [(owner, point) for owner, of_one in enumerate(points) for point in of_one]
    owners = np.array([owner for owner, _ in flat])
    n_groups = 1 + max(int(held.ids.max()) for _, held in parts)
    sums, counts = np.zeros((n_groups, len(flat))), np.zeros(n_groups)
    errors = np.full(len(flat), np.inf)
    starts: dict[int, Parameters] = {}
    left = np.arange(len(flat))
    for number, (rows, held) in enumerate(parts):
        for first in range(0, len(left), most):
            some = left[first : first + most]
            stack = solve_loosely([flat[place] for place in some], rows)
            sums[:, some] += group_errors(stack, held, n_groups)
            starts |= {place: stack.numpy(head) for head, place in enumerate(some)}
        counts += np.bincount(held.ids, held.weights, minlength=n_groups)
        errors[left] = smooth_error(sums[:, left], counts, selection)
        if number < len(parts) - 1:
            left = _better_half(errors, owners, left)
    choices = []
    for owner, of_one in enumerate(points):
        own = np.flatnonzero(owners == owner)
        rest = own[np.isin(own, left)]
        best = rest[errors[rest].argmin()]
        point = of_one[best - own[0]]
        choices.append(Choice(of_one, errors[own], point, starts[best]))
    return choices


def _better_half(
    errors: NDArray[np.float64], owners: NDArray[np.int64], left: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return half of the points that each owner has left, those of least error."""
    kept = []
    for owner in np.unique(owners[left]):
        own = left[owners[left] == owner]
        order = np.argsort(errors[own], kind="stable")
        kept.append(own[order[: -(-len(own) // 2)]])
    return np.sort(np.concatenate(kept))


def with_choices(
    problem: Problem,
    config: OptimizerConfig,
    choices: Sequence[Choice | None],
    data: tuple[Features, NDArray[np.int64], int],
) -> tuple[Problem, OptimizerConfig]:
    """Return a stack's problem with what was chosen, near its solution.

    Parameters
    ----------
    problem : Problem
    config : OptimizerConfig
    choices : sequence of Choice or None
        One per method.
    data : (Features, ndarray of shape (n_samples,), int)

    Returns
    -------
    problem : Problem
    config : OptimizerConfig
    """
    if not any(choices):
        return problem, config
    methods, decays = [*problem.methods], config.weight_decay.copy()
    starts = [*linear_starts(problem, data[0].n_features, data[2])]
    for place, choice in enumerate(choices):
        if choice is not None:
            methods[place], decays[place] = choice.best
            starts[place] = choice.start
    return (
        replace(problem, methods=methods, initial=starts),
        replace(config, weight_decay=decays),
    )


def default_decay(estimator: Any) -> float:
    """Return the weight decay of an estimator, or where a choice of it begins."""
    return DEFAULT_DECAY if estimator.weight_decay == "auto" else estimator.weight_decay


def _points(estimator: Any, prepared: Any) -> list[Point]:
    """Return what is open for an estimator; a single point if nothing is."""
    decays: tuple[float, ...] = (default_decay(estimator),)
    # A head of the method's own decay leaves nothing open.
    if (
        estimator.weight_decay == "auto"
        and prepared.method.heads[-1].weight_decay is None
    ):
        decays = DECAYS
    return [Point(method, d) for method in prepared.candidates for d in decays]


def _held_out(
    prepared: Any,
    data: tuple[Features, NDArray[np.int64], int],
    problem: Problem,
    validation: HeadValidationScorer | None,
) -> list[tuple[NDArray[np.int64] | None, HeldOut]]:
    """Return the validation set, or folds of the training rows, as parts that choose.

    Each comes with the training rows that are solved for; None is all of them. A
    validation set counts if its groups are as well known as those in training, and none
    is so small that a row or two decide.
    """
    groups = problem.groups
    if validation is not None and _as_well_known(prepared, validation.groups, groups):
        rows, known = np.arange(len(validation.y)), validation.groups
        held = HeldOut(
            validation.features, rows, validation.y, known.ids, known.weights
        )
        return [(None, held)]
    features, y, _ = data
    numbers = np.arange(len(groups.ids)) if problem.rows is None else problem.rows
    parts = []
    for fold in stratified_folds(groups, problem.seed):
        others = np.setdiff1d(np.arange(len(groups.ids)), fold, assume_unique=True)
        held_rows = numbers[fold]
        weights = None if groups.weights is None else groups.weights[fold]
        held = HeldOut(features, held_rows, y[held_rows], groups.ids[fold], weights)
        parts.append((others, held))
    return parts


def _as_well_known(prepared: Any, held: Groups, groups: Groups) -> bool:
    """Return whether validation rows tell of every group; warn if it has too few."""
    data = prepared.data
    alike = (data.attributes is None) == (data.attributes_val is None)
    if not alike or prepared.stage.inferred:
        return False
    fewest = min(_FEWEST, int(groups.sizes.min()))
    if held.n_groups >= groups.n_groups and held.sizes.min() >= fewest:
        return True
    if not prepared.validation["unusable"]:  # or that is said already
        _warn_of_few_rows(held, groups)
    return False


def _warn_of_few_rows(held: Groups, groups: Groups) -> None:
    warn_caller(
        f"X_val has {held.n_groups} groups, the smallest of {held.sizes.min()} rows, "
        f"and X {groups.n_groups}, the smallest of {groups.sizes.min()}: a row or two "
        f"would decide, so that {_N_FOLDS} folds of X, and not X_val, choose what is "
        f"'auto'. Give every group {_FEWEST} rows of X_val or more, or no X_val.",
        UnusableAttributesWarning,
    )


def _solve_loosely(
    data: tuple[Features, NDArray[np.int64], int],
    problem: Problem,
    config: OptimizerConfig,
    flat: Sequence[tuple[int, Point]],
    rows: NDArray[np.int64] | None,
) -> HeadStack:
    """Solve for points of some estimators of a problem, on some of its rows."""
    groups, numbers = problem.groups, problem.rows
    if rows is not None:
        groups = groups.take(rows)
        numbers = rows if numbers is None else numbers[rows]
    methods = [point.method.for_groups(groups, inferred=False) for _, point in flat]
    decays = np.array([point.weight_decay for _, point in flat])
    return solve(
        *data,
        # From zero: what is solved for loosely remembers where it started, and heads of
        # another fold, or of a fit before, saw the rows that are held out here.
        Problem(methods, groups, problem.seed, numbers),
        replace(config, weight_decay=decays),
        tol=_LOOSE,
    ).stack


def _most_points(data: tuple[Features, NDArray[np.int64], int]) -> int:
    """Return how many points are solved for at a time."""
    features, _, n_classes = data
    n_bytes = _BYTES_PER_WEIGHT * (features.n_features + 1) * n_logits(n_classes)
    return max(1, _STACK_BYTES // n_bytes)


def stratified_folds(groups: Groups, seed: int) -> list[NDArray[np.int64]]:
    """Deal the rows of every group to folds, in turn.

    Parameters
    ----------
    groups : Groups
    seed : int

    Returns
    -------
    list of ndarray
        Row numbers of each fold, sorted. Empty if some class has a single row, which
        cannot be held out.
    """
    per_class = np.bincount(groups.cells[:, 0], weights=groups.sizes)
    n_folds = min(_N_FOLDS, int(per_class[per_class > 0].min()))
    if n_folds < 2:
        return []
    # Groups are in the order of their classes, which are dealt evenly too.
    order = groups.shuffled(np.random.default_rng(seed))
    fold = np.arange(len(order)) % n_folds
    return [np.sort(order[fold == number]) for number in range(n_folds)]


def choice_attributes(choice: Choice) -> dict[str, Any]:
    """Return the fitted attributes that tell what was chosen, and from what.

    Parameters
    ----------
    choice : Choice

    Returns
    -------
    dict
    """
    best, points = choice.best, choice.points
    path = {
        "weight_decay": np.array([point.weight_decay for point in points]),
        "error": choice.errors,
    }
    if best.method.strength is None:
        return {"weight_decay_": best.weight_decay, "weight_decay_path_": path}
    strengths = np.array([point.method.strength for point in points])
    return {
        "weight_decay_": best.weight_decay,
        "selected_strength_": best.method.strength,
        "strength_path_": {"strength": strengths, **path},
    }
