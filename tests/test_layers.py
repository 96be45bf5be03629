"""What may import what, and whose private state is whose, in both packages."""

import ast
from importlib import import_module

import pytest

from tests._sources import PACKAGES, ROOT, SOURCES, dotted, relative

# Floors of every package, from the ground up: a module may import those of its own
# floor and of lower ones. The name tables of the packages themselves import nothing;
# what is taken out of them counts as an import of where it is. What is not named here
# is of the last floor.
FLOORS = {
    "skdebias": (
        "_atomic _auto _blas _context _device _mapped _precision _quiet _rows "
        "_serialize _sklearn _thread_limits _warnings assets",
        "_annotations _attributes _groups _named_groups _sample_weight "
        "_training_checks _training_data _validation",
        "datasets metrics",
        "methods",
        "_engine",
        "_first_stage _prepare",
        "_head",
        "_base _choice _fit _starts",
        "_erm",  # what the first stages of others train
        "attributes",
        "_afr _debiased _dfr _gerne _group_dro _jtt _lff _ugc _ule",
        "model_selection",
        "_fitted _fitted_checks _onnx _saved_inferrer",
        "finetune",
        "export",
        "inspection",
        "_head_files",
        "_demo",
    ),
    "embeddings_cache": (
        "_context _errors _fingerprint _memory _parallel _paths _precision _progress "
        "_settings _thread_limits _turns _warnings",
        "store",
        "items",
        "backbones",
        "compute",
        "_job _loading _parameters",
        "_extractor",
    ),
}

# The programs, which answer `--help` before they import what they run.
PROGRAMS = ("skdebias.cli", "skdebias._demo")
# Imports inside functions that do not spare torch, each with the reason.
LAZY = {
    ("skdebias._fitted", "skdebias"): "asks the package which heads it has",
}

# Private state of objects that others read or call, each with the reason.
REACHES = {
    ("skdebias/_head.py", "estimator._init_callback_context"): (
        "scikit-learn's protocol of callbacks: a fit opens its context"
    ),
    ("skdebias/_sklearn.py", "estimator._validate_params"): (
        "scikit-learn's protocol of parameters, for estimators that are not fitted"
    ),
    ("skdebias/_validation.py", "estimator._parameter_constraints"): (
        "scikit-learn's protocol of parameters: which of them are numbers"
    ),
    # Scores of many heads are counted at once where that is all that a scorer does.
    ("skdebias/_sklearn.py", "scorer._scorers"): "scorers have no public attributes",
    ("skdebias/_sklearn.py", "scorer._estimator"): "scorers have no public attributes",
    ("skdebias/_sklearn.py", "scorer._kwargs"): "scorers have no public attributes",
    ("skdebias/_sklearn.py", "scorer._sign"): "scorers have no public attributes",
    ("skdebias/_sklearn.py", "scorer._score_func"): "scorers have no public attributes",
    ("skdebias/_sklearn.py", "scorer._response_method"): (
        "scorers have no public attributes"
    ),
}
# The same of torch and Accelerate, which do not say otherwise what they hold.
OF_LIBRARIES = {
    ("skdebias/finetune/_accelerate.py", "AcceleratorState._reset_state"),
    ("skdebias/finetune/_checks.py", "value._backward_hooks"),
    ("skdebias/finetune/_checks.py", "value._post_accumulate_grad_hooks"),
    ("skdebias/finetune/_draws.py", "module._forward_hooks"),
    ("skdebias/finetune/_draws.py", "module._forward_pre_hooks"),
}
# Packages that are held to these tables.
HELD = ("skdebias/",)


def _modules(package):
    """Return the syntax trees of all modules of a package by dotted name."""
    home = ROOT / package
    trees = {}
    for path in home.rglob("*.py"):
        name = ".".join((package, *path.relative_to(home).with_suffix("").parts))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        trees[name.removesuffix(".__init__")] = tree
    return trees


def _imports(tree, modules, skipped=()):
    """Yield the modules that statements of a tree import, out of those named.

    What stands in nodes of `skipped` is left out.
    """
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom):
            names = {_home(node.module, alias.name) for alias in node.names}
            yield from (names & modules) or ({node.module} & modules)


def _home(module, name):
    """Return where a name of a module comes from, so far as its package says it."""
    if module not in PACKAGES:
        return f"{module}.{name}"
    home = vars(import_module(module))["_HOME"].get(name, name)
    return home if home.startswith(f"{module}.") else f"{module}.{home}"


def _for_types(tree):
    """Return the nodes of imports for the type checker alone."""
    return {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and dotted(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }


def _graph(package, skip=lambda tree: ()):
    """Return which modules of a package each of them imports."""
    trees = _modules(package)
    return {
        name: set(_imports(tree, set(trees), skip(tree)))
        for name, tree in trees.items()
    }


def _floor(module):
    package, _, rest = module.partition(".")
    floors = FLOORS[package]
    if not rest:
        return 0
    top = rest.partition(".")[0]
    numbers = [number for number, names in enumerate(floors) if top in names.split()]
    return numbers[0] if numbers else len(floors)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_from_a_higher_floor(package):
    graph = _graph(package)
    upwards = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name != package and _floor(other) > _floor(name)
    ]
    assert upwards == []
    tops = {name.split(".")[1] for name in graph if "." in name}
    assert tops >= {name for names in FLOORS[package] for name in names.split()}
    assert any(_floor(name) == 0 for others in graph.values() for name in others)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package):
    graph = _graph(package, _for_types)
    assert sum(map(len, graph.values())) > 100
    while leaves := [name for name, others in graph.items() if not others]:
        graph = {
            name: others.difference(leaves)
            for name, others in graph.items()
            if name not in leaves
        }
    assert graph == {}


def test_imports_inside_functions_spare_torch():
    """Nothing else is a reason to import late: a circle would be a wrong layer."""
    graph, at_once = _graph("skdebias", _for_types), _graph("skdebias", _not_at_once)
    needs_torch = {
        name
        for name, tree in _modules("skdebias").items()
        if "torch" in _tops(tree, _not_at_once(tree))
    }
    while more := {
        name
        for name, others in at_once.items()
        if name not in needs_torch and _with_parents(others) & needs_torch
    }:
        needs_torch |= more
    assert "skdebias._fit" in needs_torch
    assert "skdebias._head" not in needs_torch
    late = {
        (name, other)
        for name, others in graph.items()
        for other in others - at_once[name]
        if not name.startswith(PROGRAMS)
    }
    assert len(late) > 20
    without_reason = {
        (name, other)
        for name, other in late
        if name in needs_torch or not _with_parents({other}) & needs_torch
    }
    assert without_reason == set(LAZY)


def _not_at_once(tree):
    """Return the nodes that importing a module does not run."""
    return _for_types(tree) | {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }


def _tops(tree, skipped):
    """Yield the top-level packages that a tree imports."""
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def _with_parents(names):
    """Return modules and the packages that importing them runs first."""
    parts = [name.split(".") for name in names]
    return {".".join(p[: n + 1]) for p in parts for n in range(len(p))}


def _reaches(tree):
    """Yield `owner._attribute` for private state of objects of other modules.

    A module is the unit of privacy, as in Python: what a class of the same module
    defines or sets on itself is no reach, nor is what a class takes of its bases, nor
    private names of modules.
    """
    modules = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if isinstance(node, ast.Import) or _is_module(f"{node.module}.{alias.name}")
    }
    defined = set(_defined(tree))
    inherited = {
        (node, dotted(base))
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for base in kind.bases
        for node in ast.walk(kind)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not _is_private(node.attr):
            continue
        owner = ast.unparse(node.value)
        if (
            owner not in ("self", "cls", "super()")
            and dotted(node).partition(".")[0] not in modules
            and node.attr not in defined
            and (node, owner) not in inherited
        ):
            yield f"{owner}.{node.attr}"


def _is_private(name):
    return name.startswith("_") and (
        not name.endswith("__") or name.startswith("__sklearn_")
    )


def _is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def _defined(tree):
    """Yield the names that classes and functions of a module define or set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = getattr(statement, "targets", [])
                yield from map(dotted, [*targets, getattr(statement, "target", None)])
        is_set = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if is_set and dotted(node.value) == "self":
            yield node.attr


def test_private_state_is_left_to_its_owner():
    reaches = {
        (relative(path), reach)
        for path in SOURCES
        if relative(path).startswith(HELD)
        for reach in _reaches(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert reaches == {*REACHES, *OF_LIBRARIES}
    assert len(REACHES) < 10


@pytest.mark.parametrize(
    ("code", "reaches"),
    [
        ("def f(model): model._fit()", ["model._fit"]),
        ("class A:\n def f(self): self.a._b = self._c", ["self.a._b"]),
        ("class A:\n def f(self, other): self._b = other._b", []),
        ("class A(B):\n x = B._x\n y = C._y", ["C._y"]),
        ("import torch\ntorch._C", []),
        ("from skdebias import _fit\n_fit._one", []),
        (
            "from skdebias import ERMClassifier\nERMClassifier._one",
            ["ERMClassifier._one"],
        ),
        ("f().__sklearn_tags__(), f().__dict__", ["f().__sklearn_tags__"]),
    ],
)
def test_the_walk_finds_private_state(code, reaches):
    assert list(_reaches(ast.parse(code))) == reaches
