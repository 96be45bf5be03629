"""The sources of both packages, for tests that read them."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("skdebias", "embeddings_cache")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def relative(path):
    """Return the path of a source file below the checkout."""
    return path.relative_to(ROOT).as_posix()


def dotted(node):
    """Return `a.b.c` of a name or attribute expression, '' of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""
