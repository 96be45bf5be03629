"""A method that cannot be trained is refused where its fit is prepared, with a remedy.

Most of these were trained with in silence once, or failed far from their cause.
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from skdebias import DebiasedClassifier, ERMClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.methods import ERM, GERNE, Batch, Head, Method, SamplingPlan

FAST = {"max_iter": 2, "random_state": 0, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore:.*accuracy:UserWarning")


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(
        120, n_features=6, correlation=0.7, random_state=0
    )


def shares(groups):
    return groups.counts / groups.counts.sum()


@dataclass(frozen=True)
class Sound(Method):
    """What is wrong with the others is wrong with them alone."""

    power: float = 1.0

    def plan(self, groups):
        return SamplingPlan(groups.ids, (Batch("all", shares(groups)),))


def like_sound(**members):
    """A method that is sound but for these members of its class."""
    return dataclass(frozen=True)(type("Wrong", (Sound,), members))()


def with_heads(*heads):
    return like_sound(heads=property(lambda self: heads))


def with_plan(**changes):
    """Whose plan has other entries, which are functions of the groups."""

    def plan(self, groups):
        return replace(
            Sound().plan(groups), **{k: make(groups) for k, make in changes.items()}
        )

    return like_sound(plan=plan)


def with_batch(share, *more):
    return with_plan(batches=lambda groups: (Batch("all", share(groups), *more),))


def with_anchor(coef, intercept=(0.0,)):
    anchor = [np.array(coef, np.float32)], [np.array(intercept, np.float32)]
    return with_heads(Head(anchor=anchor))


class NoDataclass(Method):
    def plan(self, groups):
        return Sound().plan(groups)


class Undecorated(GERNE):
    extra: float = 1.0
    shown: ClassVar[int] = 3


@dataclass
class Mutable(Method):
    power: float = 1.0

    def plan(self, groups):
        return Sound().plan(groups)


NAMELESS = r"the last head is the result.* end with Head\(\)\."
NAMES = r"take letters, digits and underscores, such as 'biased'"
HEADS = "return a tuple of skdebias.methods.Head"
WRONG = {
    "no dataclass": (NoDataclass(), TypeError, "NoDataclass must be a dataclass"),
    "a subclass of a dataclass": (
        Undecorated(),
        TypeError,
        "Undecorated annotates extra, which are no fields of it: put @dataclass",
    ),
    "mutable": (Mutable(), TypeError, "could change its parameters: put @dataclass"),
    "stackable": (
        like_sound(stackable=("nothing",)),
        TypeError,
        r"Wrong.stackable=\('nothing',\) must be .*: Wrong has no field 'nothing'\.",
    ),
    "stackable, a text": (
        like_sound(stackable="power"),
        TypeError,
        r"Wrong.stackable='power' must be a tuple of names .* such as \('power',\)\.",
    ),
    "uses_attributes": (
        like_sound(uses_attributes=lambda self: False),
        TypeError,
        "Wrong.uses_attributes is .*: it must be True or False, and a property",
    ),
    "weighting": (
        like_sound(weighting=lambda self, context: None),
        TypeError,
        "Wrong.weighting must be a class method",
    ),
    "for_groups, another class": (
        like_sound(for_groups=lambda self, groups, inferred: ERM()),
        TypeError,
        "Wrong.for_groups returned ERM.*: return self, or another Wrong",
    ),
    "for_groups, nothing": (
        like_sound(for_groups=lambda self, groups, inferred: None),
        TypeError,
        "Wrong.for_groups returned None",
    ),
    "heads, a method": (
        like_sound(heads=lambda self: (Head(),)),
        TypeError,
        "Wrong.heads must be a property: put @property",
    ),
    "heads, a list": (
        like_sound(heads=property(lambda self: [Head()])),
        TypeError,
        HEADS,
    ),
    "heads, texts": (with_heads("a", "b"), TypeError, HEADS),
    "heads, none": (with_heads(), ValueError, NAMELESS),
    "heads, no result": (with_heads(Head("a"), Head("b")), ValueError, NAMELESS),
    "heads, two results": (with_heads(Head(), Head()), ValueError, NAMES),
    "heads, equal names": (
        with_heads(Head("a"), Head("a"), Head()),
        ValueError,
        "Wrong.heads names two heads 'a'",
    ),
    "heads, no identifier": (with_heads(Head("my head"), Head()), ValueError, NAMES),
    "heads, private": (with_heads(Head("_a"), Head()), ValueError, NAMES),
    "heads, number": (with_heads(Head(1), Head()), ValueError, NAMES),
    "start": (
        with_heads(Head(start="nowhere")),
        ValueError,
        "Wrong.heads: the result has start='nowhere': choose one of",
    ),
    "weight decay": (
        with_heads(Head("a", weight_decay=-1.0), Head()),
        ValueError,
        "Wrong.heads: the head 'a' has weight_decay=-1.0: give a number of at least 0",
    ),
    "weight decay, NaN": (
        with_heads(Head(weight_decay=np.nan)),
        ValueError,
        "weight_decay=nan",
    ),
    "epochs": (with_heads(Head(epochs=0)), ValueError, "has epochs=0: give a whole"),
    "epochs, half": (with_heads(Head(epochs=1.5)), ValueError, "has epochs=1.5"),
    "anchor, NaN": (with_anchor([[np.nan] * 6]), ValueError, "give two sequences of"),
    "anchor, flat": (with_anchor([0.0] * 6), ValueError, "give two sequences of"),
    "anchor, biases": (with_anchor([[0.0] * 6], [0.0] * 3), ValueError, "sequences of"),
    "anchor of other data": (
        with_anchor([[0.0] * 3]),
        ValueError,
        r"Wrong.heads has an anchor with layers of shape \[\(3, 1\)\]",
    ),
    "plan, nothing": (
        like_sound(plan=lambda self, groups: None),
        TypeError,
        "Wrong.plan returned None: return a skdebias.methods.SamplingPlan",
    ),
    "strata, a list": (
        with_plan(strata=lambda groups: groups.ids.tolist()),
        TypeError,
        "Wrong.plan returned strata=.*: give an array of whole numbers",
    ),
    "strata, fractions": (
        with_plan(strata=lambda groups: groups.ids / 1),
        TypeError,
        "give an array of whole numbers",
    ),
    "strata, too few": (
        with_plan(strata=lambda groups: groups.ids[5:]),
        ValueError,
        r"Wrong.plan returned strata of shape \(115,\), and there are 120 training",
    ),
    "strata, a column": (
        with_plan(strata=lambda groups: groups.ids[:, None]),
        ValueError,
        r"strata of shape \(120, 1\)",
    ),
    "strata, negative": (
        with_plan(strata=lambda groups: groups.ids - 1),
        ValueError,
        r"strata with the number -1\. Number those",
    ),
    "strata, empty": (
        with_plan(strata=lambda groups: groups.ids * 2),
        ValueError,
        r"strata with a gap: number 1 has no row\. Number those",
    ),
    "batches, none": (
        with_plan(batches=lambda groups: ()),
        TypeError,
        r"batches=\(\): give a tuple",
    ),
    "batches, one alone": (
        with_plan(batches=lambda groups: Batch("all", shares(groups))),
        TypeError,
        r"a single one is \(batch,\)",
    ),
    "batches, arrays": (
        with_plan(batches=lambda groups: (shares(groups),)),
        TypeError,
        "a tuple of at least one skdebias.methods.Batch",
    ),
    "probabilities, a list": (
        with_batch(lambda groups: shares(groups).tolist()),
        TypeError,
        "batch 'all' with probabilities=.*: give an array of numbers",
    ),
    "probabilities, counts": (
        with_batch(lambda groups: groups.counts),
        ValueError,
        "batch 'all' with probabilities that sum to 120: divide them by their sum",
    ),
    "probabilities, too few": (
        with_batch(lambda groups: np.array([0.5, 0.5])),
        ValueError,
        r"probabilities of shape \(2,\), and it must be \(4,\): .* each stratum",
    ),
    "probabilities, too many": (
        with_batch(lambda groups: np.full(8, 1 / 8)),
        ValueError,
        r"probabilities of shape \(8,\), and it must be \(4,\): .* each stratum",
    ),
    "probabilities, negative": (
        with_batch(lambda groups: np.array([1.5, -0.5, 0.0, 0.0])),
        ValueError,
        "a probability of -0.5: none may be negative",
    ),
    "probabilities, NaN": (
        with_batch(lambda groups: shares(groups) * np.nan),
        ValueError,
        "probabilities that are not all finite",
    ),
    "factor": (
        with_batch(shares, np.inf),
        ValueError,
        "batch 'all' with factor=inf: give a finite number",
    ),
    "row weights, too few": (
        with_plan(row_weights=lambda groups: np.ones(1)),
        ValueError,
        r"row_weights of shape \(1,\), and it must be \(120,\): .* each training row",
    ),
    "row weights, NaN": (
        with_plan(row_weights=lambda groups: np.full(len(groups.ids), np.nan)),
        ValueError,
        "row_weights that are not all finite",
    ),
    "offsets, of another shape": (
        with_plan(logit_offsets=lambda groups: np.zeros((4, 1))),
        ValueError,
        r"logit_offsets of shape \(4, 1\), and it must be \(4, 2\): .* and class",
    ),
    "offsets, infinite": (
        with_plan(logit_offsets=lambda groups: np.full((4, 2), -np.inf)),
        ValueError,
        "logit_offsets that are not all finite",
    ),
    "blocks, too few": (
        with_plan(blocks=lambda groups: np.zeros(1, int)),
        ValueError,
        r"blocks of shape \(1,\), and it must be \(4,\)",
    ),
    "blocks, negative": (
        with_plan(blocks=lambda groups: np.full(4, -1)),
        ValueError,
        "number the class of every stratum from 0",
    ),
    "learned, nothing": (
        like_sound(learned=lambda self, groups, fitted: None),
        TypeError,
        "Wrong.learned returned None: return a dict of fitted attributes",
    ),
    "learned, a parameter": (
        like_sound(learned=lambda self, groups, fitted: {"power": 1}),
        ValueError,
        "Wrong.learned returned the name 'power': .* ends with one",
    ),
    "learned, private": (
        like_sound(learned=lambda self, groups, fitted: {"_power_": 1}),
        ValueError,
        "returned the name '_power_'",
    ),
    "learned, a number": (
        like_sound(learned=lambda self, groups, fitted: {1: 1}),
        ValueError,
        "returned the name 1",
    ),
}
WRONG |= {
    f"learned, {name}": (
        like_sound(learned=lambda self, groups, fitted, name=name: {name: 1}),
        ValueError,
        f"Wrong.learned returned '{name}', which every fit sets itself",
    )
    for name in ("coef_", "intercepts_", "n_iter_", "classes_", "n_features_in_")
}


@pytest.mark.parametrize("name", WRONG)
def test_is_refused(name, data):
    method, error, message = WRONG[name]
    X, y, attributes = data
    model = DebiasedClassifier(method, **FAST)
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        model.fit(X, y, attributes=attributes)
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize("name", [name for name in WRONG if "anchor of" not in name])
def test_is_refused_before_a_network_is_trained(name, data):
    """By the same checks, which prepare the fit of a network too."""
    import torch

    from skdebias.finetune import FineTuneClassifier

    method, error, message = WRONG[name]
    X, y, attributes = data
    model = FineTuneClassifier(
        DebiasedClassifier(method), torch.nn.Linear(6, 2), modality="tensor",
        max_iter=1, device="cpu",
    )  # fmt: skip
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        model.fit(X.astype(np.float32), y, attributes=attributes)


class Rule:
    """Weights by any function of the step."""

    def __init__(self, weigh):
        self._weigh = weigh

    def __call__(self, step):
        return self._weigh(step)

    def select(self, methods):
        raise AssertionError


WRONG_WEIGHTS = {
    "too few": (lambda step: step.weights[0], r"weights of shape \(256, 1\): return a"),
    "one number": (lambda step: step.weights.sum(), r"weights of shape \(\): return a"),
    "nothing": (lambda step: None, r"Rule returned None: return a tensor of the shape"),
    "an array": (
        lambda step: step.weights.numpy(),
        r"\(1, 256, 1\), that is \(",
    ),
    "NaN": (lambda step: step.weights * np.nan, r"at the first step that are not all"),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_are_refused(name, data):
    """Other shapes were spread over rows or heads, and NaN was the learning rate's."""
    weigh, message = WRONG_WEIGHTS[name]
    X, y, attributes = data

    def weighting(cls, methods, context):
        return Rule(weigh)

    model = DebiasedClassifier(like_sound(weighting=classmethod(weighting)), **FAST)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, attributes=attributes)


def test_a_guest_class_is_told_too(data):
    """Whose method is made by its parameters."""

    class Guest(ERMClassifier):
        def _make_method(self, data, stage):
            return with_batch(lambda groups: groups.counts)

    X, y, _ = data
    with pytest.raises(ValueError, match=r"Wrong\.plan returned batch 'all'"):
        Guest(**FAST).fit(X, y)


def test_names_of_other_heads_are_taken(data):
    X, y, attributes = data
    method = like_sound(
        heads=property(lambda self: (Head("twin"), Head())),
        learned=lambda self, groups, fitted: {"twin_coef_": 1},
    )
    with pytest.raises(ValueError, match="'twin_coef_', which every fit sets"):
        DebiasedClassifier(method, **FAST).fit(X, y, attributes=attributes)


def test_what_is_sound_is_not_refused(data):
    """Whole numbers of any width, shares that float32 rounded, numpy's booleans."""
    X, y, attributes = data
    method = with_plan(
        strata=lambda groups: groups.ids.astype(np.uint8),
        batches=lambda groups: [
            Batch(
                "all", (shares(groups) * (1 + 1e-7)).astype(np.float32), np.float32(1)
            )
        ],
        blocks=lambda groups: groups.cells[:, 0].astype(np.int32),
    )
    reference = DebiasedClassifier(Sound(), **FAST).fit(X, y, attributes=attributes)
    model = DebiasedClassifier(method, **FAST).fit(X, y, attributes=attributes)
    np.testing.assert_allclose(model.coef_, reference.coef_, atol=0.1)
    method = like_sound(
        uses_attributes=property(lambda self: np.bool_(True)),
        heads=property(lambda self: (Head("a", epochs=np.int64(1)), Head())),
    )
    DebiasedClassifier(method, **FAST).fit(X, y, attributes=attributes)
