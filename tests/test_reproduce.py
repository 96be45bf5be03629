"""The runner, the method table and the pages of the reproduction scripts."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

import skdebias
from skdebias.metrics import corrected_interval

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples" / "reproduce"
PAGES = {
    "ccifar10": "ccifar10",
    "coupling": "coupling",
    "cmnist": "cmnist",
    "cmnist_sweeps": "cmnist_sweeps",
    "demo_seeds": "demo",
    "finetune_cmnist": "finetune_cmnist",
    "frozen_finetuned": "frozen_finetuned",
    "image_embeddings": "image",
    "inferred_groups": "inferred_groups",
    "text_embeddings": "text",
    "ugc_ablations": "ugc_ablations",
    "ugc_page": "ugc",
    "ule_mnist": "ule_mnist",
    "ule_page": "ule",
    "untouched_defaults": "untouched_defaults",
    "where_they_look": "where_they_look",
}


@pytest.fixture(scope="module")
def scripts():
    """Modules of the scripts, which import one another by plain names."""
    names = ("_runner", "_intervals", "_methods", "_embeddings")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in names:
            sys.modules.pop(name, None)


def make_tasks(runner, n_seeds=2):
    return [
        runner.Task("set", method, setting, seed)
        for seed in range(n_seeds)
        for method in ("one", "two")
        for setting in ("a=1", "a=2")
    ]


@pytest.mark.parametrize("setting", ["", "0.5", "a=1, b='x'", "None"])
def test_any_setting_is_found_again(scripts, tmp_path, setting):
    runner, out = scripts["_runner"], tmp_path / "rows.csv"
    tasks = [runner.Task("1", "method", setting, 0)]
    for _ in range(2):
        rows = runner.run(tasks, lambda task: {("val", "validation"): 1.0}, out)
    assert len(rows) == 1
    view = runner.chosen(rows, choose="validation", report="validation")
    assert view["setting"].tolist() == [setting]


class Fit:
    """Counts its calls; optionally breaks down at one of them."""

    def __init__(self, break_at=None):
        self.calls = []
        self.break_at = break_at

    def __call__(self, task):
        if len(self.calls) == self.break_at:
            raise KeyboardInterrupt
        self.calls.append(task)
        high = float(task.setting[-1])
        return {("val", "validation"): high, ("val", "test"): -high - task.seed}


def test_finished_tasks_are_skipped(scripts, tmp_path):
    runner, out = scripts["_runner"], tmp_path / "deep" / "rows.csv"
    tasks = make_tasks(runner)
    first = runner.run(tasks, Fit(), out)
    again = Fit()
    second = runner.run(tasks, again, out)
    assert again.calls == []
    assert first.equals(second)
    assert list(first.columns) == runner.COLUMNS
    assert len(first) == 2 * len(tasks)


def test_an_interrupted_file_goes_on(scripts, tmp_path):
    runner, out = scripts["_runner"], tmp_path / "rows.csv"
    tasks = make_tasks(runner)
    with pytest.raises(KeyboardInterrupt):
        runner.run(tasks, Fit(break_at=3), out)
    assert runner.finished(out) == {tuple(vars(task).values()) for task in tasks[:3]}
    rest = Fit()
    rows = runner.run(tasks, rest, out)
    assert rest.calls == tasks[3:]
    whole = runner.run(tasks, Fit(), tmp_path / "whole.csv")
    assert rows.drop(columns="seconds").equals(whole.drop(columns="seconds"))


def test_chosen_picks_by_one_metric_and_reports_another(scripts, tmp_path):
    runner = scripts["_runner"]
    rows = runner.run(make_tasks(runner), Fit(), tmp_path / "rows.csv")
    view = runner.chosen(rows, choose="validation", report="test")
    assert view.loc[("set", "one"), "setting"] == "a=2"  # the worse one on test
    assert view.loc[("set", "one"), "mean"] == -2.5
    assert view.loc[("set", "one"), "std"] == pytest.approx(np.sqrt(0.5))
    assert view.loc[("set", "one"), "n_seeds"] == 2


def test_chosen_per_seed_may_differ_between_seeds(scripts, tmp_path):
    runner = scripts["_runner"]

    def fit(task):
        high = float(task.setting[-1])
        sign = 1 if task.seed else -1
        return {("val", "validation"): sign * high, ("val", "test"): 10 * high}

    rows = runner.run(make_tasks(runner), fit, tmp_path / "rows.csv")
    view = runner.chosen(rows, choose="validation", report="test", per_seed=True)
    assert view.loc[("set", "two"), "setting"] == "a=1; a=2"
    assert view.loc[("set", "two"), "mean"] == 15


def test_every_estimator_is_in_the_method_table(scripts):
    table = scripts["_methods"].METHODS
    estimators = {name for name in skdebias.__all__ if name.endswith("Classifier")}
    estimators -= {"DebiasedClassifier"}  # it has no method of its own
    assert {type(m.estimator).__name__ for m in table.values()} == estimators


def test_method_table_is_sound(scripts):
    methods = scripts["_methods"]
    for name, method in methods.METHODS.items():
        assert set(method.regimes) <= set(methods.REGIMES)
        assert len(method.regimes) == len(set(method.regimes)) > 0
        for point in methods.settings(name).values():
            assert set(point) <= set(method.estimator.get_params())
        # What needs attributes in `fit` is never asked to do without.
        infers = isinstance(method.estimator, skdebias.GERNEClassifier)
        if method.estimator._uses_attributes() and not infers:
            assert method.on_validation or set(method.regimes) == {methods.FULL}


def make_part(methods, seed, n=120):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    attributes = np.where(rng.random(n) < 0.8, y, 1 - y)
    X = rng.normal(size=(n, 5)) + y[:, None]
    X[:, 1] += 2 * attributes
    return methods.Part(X.astype(np.float32), y, attributes)


@pytest.mark.parametrize(
    "name", ["ERM", "GERNE", "DFR on validation", "JTT", "GERNE, groups from errors"]
)
def test_scores_of_every_regime(scripts, name):
    methods = scripts["_methods"]
    parts = [make_part(methods, seed) for seed in range(3)]
    setting = next(iter(methods.settings(name)))
    scores = methods.scores(name, setting, parts, seed=0, epochs=2)
    assert {regime for regime, _ in scores} == set(methods.METHODS[name].regimes)
    assert scores == methods.scores(name, setting, parts, seed=0, epochs=2)
    assert all(0 <= value <= 1 for value in scores.values())


BLIND_METHODS = ["ERM", "GERNE unknown", "JTT", "AFR", "LfF", "UGC", "ULE"]


@pytest.mark.parametrize("name", BLIND_METHODS)
def test_one_fit_chooses_as_two_would(scripts, name):
    methods = scripts["_methods"]
    parts = [make_part(methods, seed) for seed in range(3)]
    hidden = [*(part._replace(attributes=None) for part in parts[:2]), parts[2]]
    setting = list(methods.settings(name))[1]
    both = methods.scores(name, setting, parts, seed=0, epochs=8)
    for regime, own in ((methods.VALIDATION, parts), (methods.NONE, hidden)):
        alone = methods.scores(name, setting, own, seed=0, epochs=8, available=[regime])
        assert alone == {key: both[key] for key in alone}


def test_tables_are_made_from_the_rows_alone(scripts, tmp_path):
    embeddings, methods = scripts["_embeddings"], scripts["_methods"]
    own = embeddings.Set(
        lambda seed: [make_part(methods, 3 * seed + i) for i in range(3)], epochs=2
    )
    sets = {"made up": own}
    tasks = embeddings.tasks_of(sets, 2, ["ERM", "GERNE"])
    out = tmp_path / "rows.csv"
    rows = embeddings.run(tasks, embeddings.fit_with(sets), out)
    page = embeddings.page("Title", "protocol", rows, sets)
    assert page == embeddings.page("Title", "protocol", embeddings.read(out), sets)
    assert "| no attributes | ERM |" in page
    assert f"| {methods.FULL} | GERNE |" in page
    assert "y=1, attribute=0" in page


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """All pages as their scripts print them of the rows, by name of the script.

    In one process, which imports what they share once.
    """
    code = PRINT_PAGES.format(scripts=[*PAGES], folder=str(SCRIPTS))
    folder = tmp_path_factory.mktemp("pages")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True
    )
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}


PRINT_PAGES = """
import contextlib, runpy, sys
sys.path.insert(0, {folder!r})
for script in {scripts}:
    sys.argv = [script + ".py", "--table-only"]
    if script in ("cmnist_sweeps", "ugc_ablations"):
        sys.argv += ["--figure", script + ".png"]
    with open(script + ".md", "w", encoding="utf-8") as page:
        with contextlib.redirect_stdout(page):
            runpy.run_path({folder!r} + "/" + script + ".py", run_name="__main__")
"""


@pytest.mark.parametrize("script", PAGES)
def test_page_is_what_the_script_prints_of_the_rows(script, printed):
    page = ROOT / "docs" / "results" / f"{PAGES[script]}.md"
    assert printed[script] == page.read_text(encoding="utf-8")


def test_every_page_has_its_script():
    pages = {page.stem for page in (ROOT / "docs" / "results").glob("*.md")}
    assert pages == set(PAGES.values())


SCORES = [0.02, 0.05, 0.01, 0.04, 0.03]


def test_intervals_of_splits_that_share_rows_are_corrected(scripts):
    statistics = scripts["_intervals"]
    splits = statistics.resampled(800, 200)
    expected = corrected_interval(SCORES, n_train=800, n_test=200)
    assert splits.interval(SCORES) == expected
    assert splits.told(SCORES) == "0.001 to 0.059"
    assert splits.in_prose(SCORES) == ".030 (.001 to .059)"
    assert "200 test rows / 800 training rows = 0.25" in splits.covers
    assert not splits.holds_zero(SCORES)
    assert statistics.resampled(800, 300).holds_zero(SCORES)


def test_intervals_of_one_test_part_are_those_of_student(scripts):
    one_test = scripts["_intervals"].fixed_test(600)
    interval = ttest_1samp(SCORES, 0).confidence_interval(0.95)
    np.testing.assert_allclose(one_test.interval(SCORES), [0.03, *interval])
    assert "The 600 test rows are the same in all splits" in one_test.covers
    assert one_test.told(SCORES[:2]) == "too few splits"


def test_rows_say_whether_the_interval_is_corrected(scripts):
    runner, statistics = scripts["_runner"], scripts["_intervals"]
    sizes = {"training": (60, 40), "test": (20, 30)}
    rows = pd.DataFrame(
        [
            ("set", statistics.COUNTS, "", seed, part, f"rows y={y}", n, 0.0)
            for seed in range(2)
            for part, counts in sizes.items()
            for y, n in enumerate(counts)
        ],
        columns=runner.COLUMNS,
    )
    assert statistics.of_rows(rows, is_fixed=False)[:2] == (100, 50)
    assert statistics.of_rows(rows, is_fixed=True)[:2] == (None, 50)


def test_prose_is_filled_in_and_wrapped_again(scripts, tmp_path):
    runner, statistics = scripts["_runner"], scripts["_intervals"]
    text = "# Title\n\nA gain of\n{gain}.\n\n- one\n  item\n- another\n\n| a |\n| - |\n"
    filled = "# Title\n\nA gain of .1.\n\n- one item\n- another\n\n| a |\n| - |"
    assert statistics.written(text, {"gain": ".1"}) == filled
    long = statistics.written("- " + "word " * 40, {})
    assert max(map(len, long.splitlines())) <= 88
    assert all(line.startswith("  word") for line in long.splitlines()[1:])
    known = statistics.prose(
        text, lambda rows: rows, {"gain": 2}, runner.ROWS / "x.csv"
    )
    assert "A gain of 2." in known
    # Of rows of one's own the text would say nothing true.
    assert statistics.prose(text, lambda rows: rows, {}, tmp_path / "x.csv") == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.0574, ".057"), (-0.0004, ".000"), (1.0, "1.000")]
)
def test_shares_of_the_prose(scripts, value, text):
    assert scripts["_intervals"].short(value) == text
