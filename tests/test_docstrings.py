"""Docstrings: complete by numpydoc's rules, and their examples run."""

import ast
import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate
from sklearn import get_config, set_config

import embeddings_cache
import embeddings_cache.networks
import embeddings_cache.ray
import skdebias
from skdebias._base import BaseDebiasedClassifier

PACKAGES = (skdebias, embeddings_cache)

# Rules of numpydoc that are not asked for, each with the reason. All others hold.
IGNORED = {
    "ES01": "an extended summary is written where there is more to say",
    "SA01": "a See Also section is written where there is something to see",
    "SA03": "names of packages and functions are not capitalised",
    "EX01": "checked below, for what users call first",
    "RT02": "numpydoc itself allows 'name : type' for a single return value",
    "RT04": "a description may start with a name in backquotes",
    "PR07": "a name, a type and a shape can say it all: X of shape (...)",
    "RT03": "likewise for what is returned",
    "SS05": "takes plural nouns such as 'Logits' and 'Rows' for verbs",
}
# What trainers make and hand over to a method: nobody calls their constructors.
HANDED_OVER = {
    f"skdebias.methods.{name}"
    for name in (
        "DrawnRows",
        "ForwardPass",
        "PenaltyTerm",
        "SlotTable",
        "Step",
        "TrainingContext",
        "TrainingResult",
    )
}
# Doctests that need what an optional package brings: module -> package.
NEEDS = {"skdebias.metrics._plot": "matplotlib"}


def _public_modules():
    yield from PACKAGES
    # Not among the names of the package, since importing them imports torch.
    yield from (embeddings_cache.networks, embeddings_cache.ray)
    for package in PACKAGES:
        members = (getattr(package, name) for name in package.__all__)
        yield from filter(inspect.ismodule, members)


def _is_ours(member):
    return (getattr(member, "__module__", "") or "").startswith(
        tuple(package.__name__ for package in PACKAGES)
    )


def _public_names():
    """Dotted names of public classes and functions, and of their public methods."""
    found = {}
    for module in _public_modules():
        for name in getattr(module, "__all__", ()):
            member = getattr(module, name)
            if inspect.isclass(member) or inspect.isfunction(member):
                found.setdefault(member, f"{module.__name__}.{name}")
    for member, name in found.items():
        yield name
        if inspect.isclass(member):
            for key, method in inspect.getmembers(member):
                if not key.startswith("_") and _is_ours(method) and callable(method):
                    yield f"{name}.{key}"


NAMES = sorted(_public_names())


def test_the_walk_finds_what_is_public():
    expected = {
        "skdebias.GERNEClassifier",
        "skdebias.GERNEClassifier.fit",
        "skdebias.metrics.worst_group_accuracy_score",
        "skdebias.model_selection.AttributeStratifiedKFold.split",
        "embeddings_cache.EmbeddingExtractor.transform",
        "embeddings_cache.networks.read_items",
        "embeddings_cache.ray.EmbedColumn",
    }
    assert expected <= set(NAMES)
    for package in PACKAGES:
        assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_complete(name):
    errors = validate(name)["errors"]
    if getattr(_resolve(name), "_is_protocol", False):  # has no constructor
        errors = [(code, text) for code, text in errors if code != "PR01"]
    assert [f"{code} {text}" for code, text in errors if code not in IGNORED] == []


def _called_first():
    for name in NAMES:
        member = _resolve(name)
        if inspect.isfunction(member) and name.count(".") > 1:
            owner = _resolve(name.rpartition(".")[0])
            if inspect.ismodule(owner):
                yield name
        elif hasattr(member, "get_params") or (
            name.startswith("skdebias.methods.")
            and name.count(".") == 2
            and name not in HANDED_OVER
        ):
            yield name


def _resolve(name):
    head, *rest = name.split(".")
    member = importlib.import_module(head)
    for part in rest:
        member = getattr(member, part)
    return member


@pytest.mark.parametrize("name", list(_called_first()))
def test_estimators_splitters_and_functions_have_an_example(name):
    examples = doctest.DocTestFinder(recurse=False).find(_resolve(name), name)
    assert [example for test in examples for example in test.examples]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if hasattr(_resolve(name), "get_params")]
)
def test_parameters_are_documented_with_their_defaults(name):
    """The documented default is the default, for every constructor argument."""
    cls = _resolve(name)
    documented = {p.name: p.type for p in NumpyDocString(cls.__doc__)["Parameters"]}
    for parameter in inspect.signature(cls).parameters.values():
        stated = documented[parameter.name]
        if parameter.default is inspect.Parameter.empty:
            assert "default=" not in stated
            continue
        assert "default=" in stated, f"{name}: {parameter.name} : {stated}"
        stated = stated.rpartition("default=")[2].strip("`")
        if stated == "nan":
            assert np.isnan(parameter.default), parameter.name
            continue
        assert ast.literal_eval(stated) == parameter.default, parameter.name


def _modules():
    for package in PACKAGES:
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield found.name


def _has_examples(name):
    module = importlib.import_module(name)
    return any(test.examples for test in doctest.DocTestFinder().find(module))


WITH_EXAMPLES = [name for name in _modules() if _has_examples(name)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
        monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDDINGS_CACHE", str(tmp_path / "cache"))
    routing = get_config()["enable_metadata_routing"]
    try:
        results = doctest.testmod(
            importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
        )
    finally:
        set_config(enable_metadata_routing=routing)
    assert results.attempted > 0
    assert results.failed == 0


def test_examples_are_found_in_both_packages():
    for package in PACKAGES:
        assert [n for n in WITH_EXAMPLES if n.startswith(package.__name__)]


# Entries of shared parameters and fitted attributes that say more, or something else,
# than those of DebiasedClassifier: estimator -> name -> why. All others are equal.
OWN_ENTRIES = {
    "AFRClassifier": {"weight_decay": "holds for the first head"},
    "GERNEClassifier": {
        "pseudo_attributes": "comes beside two other ways to infer them",
        "solver": "chooses, untouched",
        "weight_decay": "is chosen, untouched",
        "max_iter": "depends on the solver, untouched",
    },
    "GroupDROClassifier": {"solver": "has an objective of its own"},
    "JTTClassifier": {
        "solver": "says what becomes of the first model",
        "pseudo_attributes_": "are the errors of the first model",
        "attribute_values_": "are those of the errors",
    },
    "LfFClassifier": {
        "solver": "has no deterministic objective",
        "learning_rate": "has another default, with a reason",
    },
    "UGCClassifier": {
        "solver": "says what becomes of GroupDRO",
        "pseudo_attributes_": "are clusters",
        "attribute_values_": "are those of the clusters",
    },
    "ULEClassifier": {
        "solver": "has no deterministic objective",
        "coef_": "is the teacher's",
        "intercept_": "is the teacher's",
        "coefs_, intercepts_": "is the teacher's",
        "best_epoch_": "is guarded",
        "loss_curve_": "is the teacher's",
    },
}
NAMED = [
    name
    for name in skdebias.__all__
    if inspect.isclass(getattr(skdebias, name))
    and issubclass(getattr(skdebias, name), BaseDebiasedClassifier)
]


def _entries(name):
    documented = NumpyDocString(inspect.cleandoc(getattr(skdebias, name).__doc__))
    return {
        entry.name: (entry.type, " ".join(entry.desc))
        for section in ("Parameters", "Attributes")
        for entry in documented[section]
    }


def test_named_estimators_are_found():
    assert "DebiasedClassifier" in NAMED
    assert len(NAMED) > 8
    assert set(OWN_ENTRIES) < set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_shared_entries_are_those_of_the_general_estimator(name):
    """They are spelt out in every estimator, for those who read only one."""
    general, entries = _entries("DebiasedClassifier"), _entries(name)
    different = {
        key for key in entries if key in general and entries[key] != general[key]
    }
    assert different == set(OWN_ENTRIES.get(name, ()))
    # Attributes may be inferred, or be of no use; all else that is fitted is said.
    assert set(general) - set(entries) <= {
        "method",
        "pseudo_attributes",
        "pseudo_attributes_",
    }


@pytest.mark.parametrize("name", NAMED)
def test_shared_parameters_are_those_of_the_base(name):
    """In its order, after those of the method, by keyword, with its defaults."""
    shared = inspect.signature(BaseDebiasedClassifier).parameters
    parameters = inspect.signature(getattr(skdebias, name)).parameters
    assert [key for key in parameters if key in shared] == list(shared)
    assert list(parameters)[-len(shared) :] == list(shared)
    for key, parameter in shared.items():
        if key not in OWN_ENTRIES.get(name, ()):
            assert parameters[key] == parameter
        assert parameters[key].kind is parameter.KEYWORD_ONLY
