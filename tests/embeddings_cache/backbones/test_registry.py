"""Libraries register themselves, and nothing else knows of them."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import embeddings_cache
from embeddings_cache import EmbeddingExtractor
from embeddings_cache.backbones import _registry, family_of, resolve_modality
from embeddings_cache.backbones._registry import families

PACKAGE = Path(embeddings_cache.__file__).parent
BACKBONES = PACKAGE / "backbones"
FOLDERS = sorted(path.parent for path in BACKBONES.glob("*/__init__.py"))
# A default and two examples for users, of the library that is installed most.
EXAMPLES = {"timm:resnet50"}


def test_every_folder_registers_one_library():
    homes = [family.builder.rpartition(".")[0] for family in families().values()]
    prefix = "embeddings_cache.backbones."
    assert sorted(homes) == [f"{prefix}{folder.name}" for folder in FOLDERS]
    for family in families().values():
        path = PACKAGE.parent / (family.builder.replace(".", "/") + ".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert "build" in [getattr(node, "name", "") for node in tree.body]
        assert family_of(family.example) is family


def test_every_extra_is_one_of_the_project():
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    for family in families().values():
        (first, *_) = extras[family.extra]
        assert first.lower().startswith(tuple(family.distributions)), first


def _texts(path):
    """The texts in a file's code, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if hasattr(node, "body") and isinstance(node.body, list) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in docstrings:
            yield str(node.value)


def test_no_module_names_a_library_outside_of_its_folder():
    named = {}
    for path in PACKAGE.rglob("*.py"):
        if path.parent not in FOLDERS:
            named[path.relative_to(PACKAGE).as_posix()] = {
                text
                for text in _texts(path)
                for prefix in families()
                if text == prefix or text.startswith(f"{prefix}:")
            }
    assert len(named) > 40
    assert {k: v for k, v in named.items() if v - EXAMPLES} == {
        # What a network of the user's is described by, whichever library it uses.
        "backbones/_module.py": {"torchvision"},
        # A namespace of operators, which all of torch's libraries share.
        "backbones/_code.py": {"torchvision"},
    }


def test_what_is_registered_needs_no_torch():
    code = (
        "import sys; from embeddings_cache.backbones import resolve_modality as r; "
        "print(r('open_clip:RN50', 'text'), "
        "sorted({'torch', 'timm', 'open_clip', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "text []"


def test_a_library_is_added_by_registering_it(monkeypatch):
    monkeypatch.setattr(_registry, "_registered", dict(_registry._registered))
    _registry.register(
        _registry.Family("mine", "mine.networks", ("text",), "mine:a", extra="mine")
    )
    assert list(families())[-1] == "mine"
    assert resolve_modality("mine:b", "auto") == "text"
    with pytest.raises(ValueError, match=r"Texts go to .* or 'mine:\.\.\.', images"):
        resolve_modality("mine:b", "image")
    with pytest.raises(ImportError, match=r"pip install \"skdebias\[mine\]\""):
        family_of("mine:b").require("absent_library")
    extractor = EmbeddingExtractor("mine:b")
    assert extractor.fit() is extractor
