"""No test has a clock: the suite passes beside four busy processes."""

import ast
from pathlib import Path

import hypothesis
import pytest

TESTS = sorted(Path(__file__).parent.rglob("*.py"))
# Seconds that only what hangs for ever takes.
HANGS = 600


def _keywords(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                yield ast.unparse(node.func), keyword.arg, keyword.value
            function = ast.unparse(node.func)
            if node.args and function.endswith((".wait", ".join", ".result")):
                yield function, "timeout", node.args[0]


def test_hypothesis_has_no_deadline():
    assert hypothesis.settings().deadline is None
    for path in TESTS:
        for _, name, value in _keywords(path):
            if name == "deadline":
                assert ast.unparse(value) == "None", path


def test_hypothesis_does_not_judge_how_fast_examples_are_drawn():
    slow = hypothesis.HealthCheck.too_slow
    assert slow in hypothesis.settings().suppress_health_check
    for path in TESTS:
        for _, name, value in _keywords(path):
            if name == "suppress_health_check":
                assert "too_slow" in ast.unparse(value), path


def test_only_what_hangs_runs_out_of_time(pytestconfig):
    assert float(pytestconfig.getini("timeout")) > HANGS
    for path in TESTS:
        for function, name, value in _keywords(path):
            seconds = getattr(value, "value", None)
            if name == "timeout" and isinstance(seconds, int | float):
                assert seconds >= HANGS, (path, function)
            assert not function.startswith("pytest.mark.timeout"), path


@pytest.mark.parametrize("call", ["monotonic", "perf_counter"])
def test_no_test_compares_times(call):
    """What a test waits for comes, or the time limit of all tests ends it."""
    for path in TESTS:
        if path != Path(__file__):
            assert f"time.{call}" not in path.read_text(encoding="utf-8"), path
