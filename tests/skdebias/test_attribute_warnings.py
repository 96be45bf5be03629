"""Attributes that are forgotten, ignored, or named instead of given: said alike."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdebias import (
    AttributesIgnoredWarning,
    DebiasedClassifier,
    ERMClassifier,
    GERNEClassifier,
    JTTClassifier,
    MissingAttributesWarning,
)
from skdebias.attributes import ConfidencePseudoAttributes, ErrorSetPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.methods import ERM
from skdebias.metrics import worst_group_accuracy_score, worst_group_accuracy_scorer
from skdebias.model_selection import (
    AttributeStratifiedKFold,
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
)
from tests._instances import HEADS, as_network

BOTH = (MissingAttributesWarning, AttributesIgnoredWarning)
#: Rows that infer attributes by a choice of the user's.
INFERRING = {"GERNE, unknown attributes"}
every_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(scope="module")
def data():
    X, y, a = make_spurious_classification(
        240, n_features=6, correlation=0.7, random_state=0
    )
    return X.astype(np.float32), y, a


def said(call):
    """Return the warnings of a call that are about attributes, by category."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        call()
    found = [w for w in record if w.category in BOTH]
    assert all(w.filename == __file__ for w in found)  # the caller's line
    return [(w.category, str(w.message)) for w in found]


@every_head
@pytest.mark.parametrize("kind", ["head", "network", "pipeline", "search"])
def test_forgotten_attributes_are_said_once(name, kind, data):
    X, y, _ = data
    row = HEADS[name]
    if kind == "network" and not row.trains_networks:
        pytest.skip("trains no networks")
    found = said(lambda: _model(row, kind).fit(X, y))
    if not row.uses_attributes:
        assert found == []
        return
    ((category, message),) = found
    assert category is MissingAttributesWarning
    assert message.startswith(f"{row.class_name} was fitted without attributes: ")
    assert "pseudo_attributes=" in message


def _model(row, kind):
    if kind == "network":
        return as_network(row.make(), max_iter=1, random_state=0)
    if kind == "pipeline":
        return make_pipeline(StandardScaler(), row.quick())
    if kind == "search":
        return BatchedGridSearchCV(row.quick(), {"random_state": [0, 1]}, cv=2)
    return row.quick()


@every_head
@pytest.mark.parametrize("kind", ["head", "network"])
def test_ignored_attributes_are_said_once(name, kind, data):
    X, y, a = data
    row = HEADS[name]
    if kind == "network" and not row.trains_networks:
        pytest.skip("trains no networks")
    found = said(lambda: _model(row, kind).fit(X, y, a))
    if row.uses_attributes or name in INFERRING:
        assert found == []
        return
    ((category, message),) = found
    assert category is AttributesIgnoredWarning
    assert f"{row.class_name} trains without attributes" in message


@every_head
def test_pipelines_hand_attributes_on(name, data):
    X, y, a = data
    row = HEADS[name]
    with config_context(enable_metadata_routing=True):
        found = said(lambda: _model(row, "pipeline").fit(X, y, attributes=a))
    assert len(found) == (not row.uses_attributes and name not in INFERRING)


def test_searches_whose_scores_use_attributes_are_silent(data):
    """A baseline takes part in a comparison by groups like any other method."""
    X, y, a = data
    grid = {"weight_decay": [0.0, 0.1]}
    model = JTTClassifier(warmup_epochs=1, max_iter=1, random_state=0)
    by_groups = {"scoring": worst_group_accuracy_scorer, "cv": 2}
    for search in (
        BatchedGridSearchCV(model, grid, **by_groups),
        BatchedGridSearchCV(model, grid, cv=None),
        BatchedHalvingGridSearchCV(model, grid, **by_groups),
        BatchedGridSearchCV(ERMClassifier(max_iter=1), {"balance": [None, "group"]}),
    ):
        assert said(lambda search=search: search.fit(X, y, attributes=a)) == []
    with config_context(enable_metadata_routing=True):
        stock = GridSearchCV(model, grid, **by_groups)
        assert said(lambda: stock.fit(X, y, attributes=a)) == []
        routed = {"params": {"attributes": a}, "cv": AttributeStratifiedKFold(2)}
        pipeline = make_pipeline(StandardScaler(), model)
        assert said(lambda: cross_validate(pipeline, X, y, **routed)) == []


def test_a_search_without_use_for_attributes_says_so_once(data):
    X, y, a = data
    search = BatchedGridSearchCV(
        ERMClassifier(max_iter=1), {"balance": [None, "class"]}, cv=2
    )
    ((category, message),) = said(lambda: search.fit(X, y, attributes=a))
    assert category is AttributesIgnoredWarning
    assert message.startswith("BatchedGridSearchCV: the attributes given to fit")


def test_a_candidate_that_lacks_attributes_is_found_behind_one_that_does_not(data):
    X, y, _ = data
    search = BatchedGridSearchCV(
        ERMClassifier(max_iter=1), {"balance": [None, "class", "group"]}, cv=3
    )
    ((category, _),) = said(lambda: search.fit(X, y))
    assert category is MissingAttributesWarning


def test_gerne_says_what_it_does_instead_unless_that_was_chosen(data):
    X, y, _ = data
    settings = {"max_iter": 1, "random_state": 0}
    ((_, message),) = said(lambda: GERNEClassifier(**settings).fit(X, y))
    assert "it infers them, the t=0.2 of every class" in message
    for chosen in (
        {"t": 0.1},
        {"reference_estimator": ERMClassifier(**settings)},
        {"pseudo_attributes": ConfidencePseudoAttributes()},
    ):
        model = GERNEClassifier(**chosen, **settings)
        assert said(lambda model=model: model.fit(X, y)) == []


@pytest.mark.parametrize(
    "model", [DebiasedClassifier(ERM()), ERMClassifier("class")], ids=repr
)
def test_nothing_is_inferred_in_vain(model, data):
    X, y, _ = data
    model = clone(model).set_params(
        pseudo_attributes=ErrorSetPseudoAttributes(), max_iter=1, random_state=0
    )
    ((category, message),) = said(lambda: model.fit(X, y))
    assert category is AttributesIgnoredWarning
    assert "pseudo_attributes is ignored" in message
    assert not hasattr(model, "pseudo_attributes_")


def test_inferrers_say_what_they_ignore(data):
    X, y, a = data
    inferrer = ConfidencePseudoAttributes()
    ((category, message),) = said(lambda: inferrer.fit(X, y, a))
    assert category is AttributesIgnoredWarning
    assert "SSAPseudoAttributes" in message
    assert said(lambda: inferrer.fit(X, y)) == []


# --- names -------------------------------------------------------------------------

NAMED = {
    "a column": ("male", "attributes=X\\['male'\\], and leave.*drop"),
    "columns": (["male", "age"], r"attributes=X\[\['male', 'age'\]\], and leave"),
    "no column": ("beard", "X has no such column.*attributes=table"),
}


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("name", [*HEADS, "network", "search", "splitter"])
def test_names_of_columns_are_no_attributes(name, case, data):
    X, y, a = data
    attributes, message = NAMED[case]
    X = pd.DataFrame(X).add_prefix("f").assign(male=np.array(["m", "f"])[a], age=a)
    if name == "network":
        model = as_network(GERNEClassifier(), max_iter=1)
    elif name == "search":
        model = BatchedGridSearchCV(GERNEClassifier(), {"beta": [0.0]})
    elif name == "splitter":
        with pytest.raises(ValueError, match=message):
            list(AttributeStratifiedKFold(2).split(X, y, attributes=attributes))
        return
    else:
        model = HEADS[name].quick()
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, attributes=attributes)
    if name != "search":
        table = X.drop(columns=["male", "age"])
        with pytest.raises(
            ValueError, match=r"attributes_val=.*(is a name|names columns)"
        ):
            model.fit(table, y, X_val=X, y_val=y, attributes_val=attributes)


def test_a_name_in_a_score(data):
    _, y, _ = data
    with pytest.raises(ValueError, match=r"attributes='male' is a name.*=X\['male'\]"):
        worst_group_accuracy_score(y, y, attributes="male")


def test_values_that_are_strings_are_no_names(data):
    X, y, a = data
    model = ERMClassifier("group", max_iter=1)
    model.fit(X, y, np.array(["m", "f"])[a].tolist())
    assert model.attribute_values_.tolist() == ["f", "m"]
    two = pd.DataFrame({"f0": [0.0, 1.0], "f1": [1.0, 0.5]})
    model.fit(two, [0, 1], attributes=["f0", "f1"])
    assert model.attribute_values_.tolist() == ["f0", "f1"]


def test_tensors_are_no_names(data):
    X, y, a = data
    model = ERMClassifier("group", max_iter=1)
    model.fit(torch.from_numpy(X), y, torch.from_numpy(a))
    assert model.attribute_values_.tolist() == [0, 1]
