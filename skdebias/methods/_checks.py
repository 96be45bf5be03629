"""Refusals of methods that say what cannot be: each names the hook and a remedy.

They run once, when a fit is prepared, and when a method has said what it learned; a
step pays for a comparison of two shapes. A wrong answer would otherwise be trained with
in silence, or fail far from the hook that gave it.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, get_origin

import numpy as np
import torch

from skdebias._groups import Groups
from skdebias.methods._head import STARTS, Head
from skdebias.methods._method import Method
from skdebias.methods._networks import check_layers
from skdebias.methods._plan import Batch, SamplingPlan
from skdebias.methods._step import Step, Weighting

# Of a sum of probabilities: float32 shares of many strata add up no better.
_SUM_TOLERANCE = 1e-5


def check_definition(method: Method) -> None:
    """Refuse a method whose class is not put together as the trainers read it.

    Parameters
    ----------
    method : Method

    Raises
    ------
    TypeError
        If it is no frozen dataclass, or if a class attribute is of the wrong kind.
    """
    kind = type(method)
    name = kind.__name__
    if not dataclasses.is_dataclass(kind):
        raise TypeError(
            f"method={method!r}: {name} must be a dataclass, whose fields are its "
            "hyper-parameters; put @dataclass(frozen=True) before the class."
        )
    undeclared = sorted(_undeclared_fields(kind))
    if undeclared:
        raise TypeError(
            f"method={method!r}: {name} annotates {', '.join(undeclared)}, which are "
            "no fields of it: put @dataclass(frozen=True) before this class too, as "
            "before the one that it inherits from."
        )
    if not kind.__dataclass_params__.frozen:
        raise TypeError(
            f"method={method!r}: {name} is a dataclass that can be changed, so that a "
            "fit could change its parameters: put @dataclass(frozen=True) before the "
            "class, and keep what changes during training in the rule that "
            f"{name}.weighting returns."
        )
    _check_class_attributes(method)


def _undeclared_fields(kind: type) -> Iterable[str]:
    """Names that a class below the dataclass annotates without being one itself."""
    fields = {field.name for field in dataclasses.fields(kind)}
    for base in kind.__mro__[: kind.__mro__.index(Method)]:
        for name, annotation in inspect.get_annotations(base).items():
            if name not in fields and not _is_class_variable(annotation):
                yield name


def _is_class_variable(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return "ClassVar" in annotation
    return annotation is ClassVar or get_origin(annotation) is ClassVar


def _check_class_attributes(method: Method) -> None:
    kind, name = type(method), type(method).__name__
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    stackable = kind.stackable
    texts = isinstance(stackable, tuple) and all(isinstance(s, str) for s in stackable)
    unknown = [s for s in stackable if s not in fields] if texts else []
    if not texts or unknown:
        raise TypeError(
            f"{name}.stackable={stackable!r} must be a tuple of names of fields, such "
            f"as ({fields[0] if fields else 'beta'!r},)"
            + (f": {name} has no field {unknown[0]!r}." if unknown else ".")
        )
    for attribute in (
        "uses_attributes",
        "trains_networks",
        "uses_unlabeled",
        "heads_are_alternatives",
        "uses_validation",
        "joint_embeddings",
    ):
        value = getattr(method, attribute)
        if not isinstance(value, bool | np.bool_):
            raise TypeError(
                f"{name}.{attribute} is {value!r}: it must be True or False"
                + (", and a property." if callable(value) else ".")
            )
    needed = method.needs_network
    if needed is not None and not (isinstance(needed, str) and needed):
        raise TypeError(
            f"{name}.needs_network is {needed!r}: say what of a whole network the "
            "method needs, such as 'an early layer', or leave it at None."
        )
    hooks = "mixing", "weighting", "objective", "group_objective", "penalty"
    for hook in hooks:
        if getattr(getattr(kind, hook), "__self__", None) is not kind:
            raise TypeError(
                f"{name}.{hook} must be a class method, which answers for a whole "
                f"stack: put @classmethod before it, and take (cls, methods, context)."
            )


def for_groups(method: Method, groups: Groups, *, inferred: bool) -> Method:
    """Return a method as it is trained on some groups, checked.

    Parameters
    ----------
    method : Method
    groups : Groups
        Groups of the training rows.
    inferred : bool
        Whether their attributes were inferred.

    Returns
    -------
    Method

    Raises
    ------
    TypeError
        If the class of the method, or what a hook returns, is of the wrong kind.
    ValueError
        If a hook returns heads or a plan that cannot be trained.
    """
    check_definition(method)
    trained = method.for_groups(groups, inferred=inferred)
    if type(trained) is not type(method):
        name = type(method).__name__
        raise TypeError(
            f"{name}.for_groups returned {_short(trained)}: return self, or another "
            f"{name}, such as dataclasses.replace(self, ...)."
        )
    _check_heads(trained)
    check_layers(trained)
    _check_plan(trained, groups)
    return trained


def _check_heads(method: Method) -> None:
    where = f"{type(method).__name__}.heads"
    heads = method.heads
    if callable(heads):
        raise TypeError(f"{where} must be a property: put @property before it.")
    if not isinstance(heads, tuple) or not all(isinstance(h, Head) for h in heads):
        raise TypeError(
            f"{where} is {_short(heads)}: return a tuple of skdebias.methods.Head, "
            "such as (Head('biased'), Head())."
        )
    names = [head.name for head in heads]
    alternatives = method.heads_are_alternatives
    if alternatives and len(heads) < 2:
        raise ValueError(
            f"{where} has the names {names}, and heads_are_alternatives is True: "
            "return two heads or more to choose from."
        )
    if not alternatives and (not heads or names[-1] != ""):
        raise ValueError(
            f"{where} has the names {names}: the last head is the result, which is "
            "fitted as coef_ and has no name; end with Head()."
        )
    for position, head in enumerate(heads):
        is_result = head is heads[-1] and not alternatives
        _check_name(head.name, names[:position], where, is_result=is_result)
        _check_head_settings(head, where)


def _check_name(name: Any, before: list[str], where: str, *, is_result: bool) -> None:
    if is_result:
        return
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise ValueError(
            f"{where} names a head {name!r}, and its fitted attributes are to be "
            "called <name>_coef_: take letters, digits and underscores, such as "
            "'biased'; only the result has no name, and of alternatives none."
        )
    if name in before:
        raise ValueError(
            f"{where} names two heads {name!r}, whose fitted attributes would be the "
            "same: give each a name of its own."
        )


def _check_head_settings(head: Head, where: str) -> None:
    label = f"{where}: the head {head.name!r}" if head.name else f"{where}: the result"
    if head.start not in STARTS:
        raise ValueError(f"{label} has start={head.start!r}: choose one of {STARTS}.")
    decay, epochs, first = head.weight_decay, head.epochs, head.first_epoch
    if decay is not None and not (_is_finite(decay) and decay >= 0):
        raise ValueError(
            f"{label} has weight_decay={decay!r}: give a number of at least 0, or None "
            "for that of the estimator."
        )
    if epochs is not None and not _is_count(epochs):
        raise ValueError(
            f"{label} has epochs={epochs!r}: give a whole number of at least 1, or "
            "None to train it to the end."
        )
    if not _is_count(first) or (epochs is not None and first > epochs):
        raise ValueError(
            f"{label} has first_epoch={first!r} and epochs={epochs!r}: give a whole "
            "number of at least 1, and none after the last of its epochs."
        )
    if head.layer is not None and not isinstance(head.layer, str):
        raise ValueError(
            f"{label} has layer={head.layer!r}: give the name of a submodule of the "
            "backbone, or None for the embedding."
        )
    if head.anchor is not None and not _is_anchor(head.anchor):
        raise ValueError(
            f"{label} has the anchor {_short(head.anchor)}: give two sequences of "
            "finite arrays, weights of shape (n_out, n_in) and biases of shape "
            "(n_out,), one of each per layer."
        )


def _is_count(value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and bool(value >= 1)


def _is_anchor(anchor: Any) -> bool:
    if not (isinstance(anchor, tuple | list) and len(anchor) == 2):
        return False
    coefs, biases = anchor
    return (
        isinstance(coefs, tuple | list)
        and isinstance(biases, tuple | list)
        and len(coefs) == len(biases) > 0
        and all(
            np.ndim(coef) == 2
            and np.shape(bias) == np.shape(coef)[:1]
            and bool(np.isfinite(coef).all() and np.isfinite(bias).all())
            for coef, bias in zip(coefs, biases)
        )
    )


def _check_plan(method: Method, groups: Groups) -> None:
    where = f"{type(method).__name__}.plan"
    plan = method.plan(groups)
    if not isinstance(plan, SamplingPlan):
        raise TypeError(
            f"{where} returned {_short(plan)}: return a skdebias.methods.SamplingPlan."
        )
    batches = plan.batches
    listed = isinstance(batches, tuple | list)
    if not (listed and batches and all(isinstance(b, Batch) for b in batches)):
        raise TypeError(
            f"{where} returned batches={_short(batches)}: give a tuple of at least one "
            "skdebias.methods.Batch; a single one is (batch,)."
        )
    n_strata = _check_strata(plan, len(groups.ids), where)
    for batch in batches:
        _check_batch(batch, n_strata, where)
    if plan.row_weights is not None:
        _check_numbers(
            plan.row_weights,
            (len(groups.ids),),
            f"{where} returned row_weights",
            per="each training row",
        )
    if plan.draw_weights is not None:
        what = f"{where} returned draw_weights"
        _check_numbers(plan.draw_weights, (len(groups.ids),), what, "each training row")
        if plan.draw_weights.min() <= 0:
            raise ValueError(
                f"{what} with a weight of {plan.draw_weights.min():.3g}: rows are "
                "drawn in proportion to them, so that all must be positive. A row that "
                "is not to count has a row weight of 0."
            )
    if plan.logit_offsets is not None:
        n_classes = int(groups.cells[:, 0].max()) + 1
        _check_numbers(
            plan.logit_offsets,
            (n_strata, n_classes),
            f"{where} returned logit_offsets",
            per="each stratum and class",
        )
    if plan.blocks is not None:
        blocks = plan.blocks
        _check_numbers(blocks, (n_strata,), f"{where} returned blocks")
        if blocks.dtype.kind not in "iu" or blocks.min() < 0:
            raise ValueError(
                f"{where} returned blocks={_short(blocks)}: number the class of every "
                "stratum from 0."
            )


def _check_strata(plan: SamplingPlan, n_rows: int, where: str) -> int:
    """Check the strata of the rows, and return how many there are."""
    strata = plan.strata
    if not isinstance(strata, np.ndarray) or strata.dtype.kind not in "iu":
        raise TypeError(
            f"{where} returned strata={_short(strata)}: give an array of whole "
            "numbers, the stratum of every row, such as groups.ids."
        )
    if strata.shape != (n_rows,):
        raise ValueError(
            f"{where} returned strata of shape {strata.shape}, and there are {n_rows} "
            "training rows: give every row its stratum, as groups.ids does its group."
        )
    remedy = (
        "Number those that have rows from 0, for example by numpy.unique(..., "
        "return_inverse=True)."
    )
    try:
        counts = np.bincount(strata)
    except ValueError:  # not asked for beforehand: a large search checks many plans
        raise ValueError(
            f"{where} returned strata with the number {strata.min()}. {remedy}"
        ) from None
    if not counts.all():
        raise ValueError(
            f"{where} returned strata with a gap: number {counts.argmin()} has no row. "
            f"{remedy}"
        )
    return len(counts)


def _check_batch(batch: Batch, n_strata: int, where: str) -> None:
    label = f"{where} returned batch {batch.name!r}"
    share = batch.probabilities
    _check_numbers(share, (n_strata,), f"{label} with probabilities")
    if share.min() < 0:
        raise ValueError(
            f"{label} with a probability of {share.min():.3g}: none may be negative. "
            "What is to count negatively is a batch with a negative factor."
        )
    total = float(share.sum(dtype=np.float64))
    if abs(total - 1.0) > _SUM_TOLERANCE:
        raise ValueError(
            f"{label} with probabilities that sum to {total:.6g}: divide them by their "
            "sum. How much the batch counts is its factor."
        )
    if not _is_finite(batch.factor):
        raise ValueError(f"{label} with factor={batch.factor!r}: give a finite number.")


def _check_numbers(
    values: Any, shape: tuple[int, ...], what: str, per: str = "each stratum"
) -> None:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise TypeError(f"{what}={_short(values)}: give an array of numbers.")
    if values.shape != shape:
        raise ValueError(
            f"{what} of shape {values.shape}, and it must be {shape}: one number for "
            f"{per}."
        )
    # The sum of what is not finite is not finite either, and takes one pass.
    if values.dtype.kind == "f" and not np.isfinite(values.sum(dtype=np.float64)):
        raise ValueError(f"{what} that are not all finite: look for a division by 0.")


def check_learned(method: Method, learned: Any, taken: Iterable[str]) -> dict[str, Any]:
    """Return what a method says it learned, checked.

    Parameters
    ----------
    method : Method
    learned : object
        What :meth:`Method.learned` returned.
    taken : iterable of str
        Names of the fitted attributes that are set already.

    Returns
    -------
    dict of str to object

    Raises
    ------
    TypeError
        If it is no dict.
    ValueError
        If a name is none of a fitted attribute, or is taken.
    """
    where = f"{type(method).__name__}.learned"
    if not isinstance(learned, Mapping):
        raise TypeError(
            f"{where} returned {_short(learned)}: return a dict of fitted attributes, "
            "such as {'group_weights_': ...}, or {}."
        )
    for name in learned:
        fitted = isinstance(name, str) and name.isidentifier()
        if not fitted or name.startswith("_") or not name.endswith("_"):
            raise ValueError(
                f"{where} returned the name {name!r}: a fitted attribute is called by "
                "letters, digits and underscores and ends with one, such as "
                "'group_weights_'."
            )
    for name in taken:
        if name in learned:
            raise ValueError(
                f"{where} returned {name!r}, which every fit sets itself: choose "
                "another name."
            )
    return dict(learned)


def check_weights(
    rule: Weighting, weights: Any, values: Any, step: Step, *, is_first: bool
) -> None:
    """Refuse what a rule makes of the weights of a step.

    Parameters
    ----------
    rule : Weighting
    weights : object
        What it returned.
    values : object
        What it says the weights are the derivatives of; None is nothing.
    step : Step
    is_first : bool
        Whether to look at the values too, for which a GPU has to be waited for. Later
        ones show in the objective.

    Raises
    ------
    ValueError
    """
    shape, expected = tuple(step.weights.shape), step.weights[:, 0].shape
    if values is not None and getattr(values, "shape", None) != expected:
        raise ValueError(
            f"{type(rule).__name__} returned WeightedLosses with values="
            f"{_short(values)}: give a tensor of shape {tuple(expected)}, one "
            "value for every head of every stream."
        )
    if isinstance(weights, torch.Tensor) and weights.shape == step.weights.shape:
        if is_first and not bool(weights.isfinite().all()):
            raise ValueError(
                f"{type(rule).__name__} returned weights at the first step that are "
                "not all finite: look for a division by 0 or a logarithm of it."
            )
        return
    returned = (
        f"weights of shape {tuple(weights.shape)}"
        if isinstance(weights, torch.Tensor)
        else _short(weights)
    )
    raise ValueError(
        f"{type(rule).__name__} returned {returned}: return a tensor of the shape of "
        f"step.weights, {shape}, that is (streams, rows, heads)."
    )


def _is_finite(value: Any) -> bool:
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
