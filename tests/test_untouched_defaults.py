"""The script of untouched defaults: what is fitted, and which head a scheme takes."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skdebias import GERNEClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import worst_group_accuracy_score

SCRIPTS = Path(__file__).parents[1] / "examples" / "reproduce"
NAMES = ("_runner", "_methods", "_untouched_tables", "_untouched_fits")


@pytest.fixture(scope="module")
def scripts():
    """Modules of the scripts, which import one another by plain names."""
    before = set(sys.modules)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(SCRIPTS))
        own = {path.stem for path in SCRIPTS.glob("*.py")}
        for name in own & (set(sys.modules) - before):
            del sys.modules[name]


@pytest.fixture(scope="module")
def parts(scripts):
    """Training, validation and test part of three classes."""
    found = []
    directions = None
    for seed, n in enumerate((600, 300, 300)):
        data = make_spurious_classification(
            n,
            n_classes=3,
            n_attributes=3,
            correlation=0.8,
            directions=directions,
            return_X_y=False,
            random_state=seed,
        )
        directions = data.directions
        found.append(scripts["_methods"].Part(data.X, data.y, data.attributes))
    return found


def test_heads_of_the_stack_are_those_of_single_fits(scripts, parts):
    """A head of a strength and a decay is that of an estimator of its own."""
    found = scripts["_untouched_fits"].every_head(*parts, 0)
    train, validation, test = parts
    auto = GERNEClassifier(random_state=0).fit(*train)
    path = [
        found[f"{name} 0.1", "strength"] for name in scripts["_untouched_tables"].PATH
    ]
    np.testing.assert_allclose(path, np.unique(auto.strength_path_["strength"]))
    for name, decay in (("balance", 0.1), ("0.5", 1.0)):
        head = f"{name} {decay:g}"
        strength = found[head, "strength"]
        model = GERNEClassifier(
            strength / 0.5 - 1, solver="lbfgs", weight_decay=decay, max_iter=1000
        ).fit(*train)
        for part, metric in (
            (validation, "validation worst_group"),
            (test, "worst_group"),
        ):
            score = worst_group_accuracy_score(
                part.y, model.predict(part.X), attributes=part.attributes
            )
            assert found[head, metric] == pytest.approx(score, abs=0.02)
        assert found[head, "average"] == pytest.approx(
            model.score(test.X, test.y), abs=0.01
        )


def test_the_last_epoch_is_that_of_a_fit_without_validation_rows(scripts, parts):
    fits, tables, runner = (
        scripts[name] for name in ("_untouched_fits", "_untouched_tables", "_runner")
    )
    task = runner.Task("made up", tables.DRO, tables.BOTH, 3)
    models = fits.models_of(task, *parts[:2])
    alone = fits.IN_EPOCHS[tables.DRO].set_params(random_state=3).fit(*parts[0])
    last, _ = models[tables.TRAINING]
    np.testing.assert_array_equal(last.coef_, alone.coef_)


@pytest.fixture
def rows(scripts):
    """Rows of heads whose worst groups say which head was taken."""
    tables, runner = scripts["_untouched_tables"], scripts["_runner"]
    scores = {  # head: worst group of validation rows, smooth error, test
        "balance 0.0003": (0.99, 0.9, 0.1),
        "balance 0.01": (0.5, 0.5, 0.2),
        "balance 0.1": (0.6, 0.4, 0.3),
        "1.3 0.01": (0.7, 0.3, 0.4),
        "0.15 0.01": (0.7, 0.3, 0.5),
        "0.5 1": (0.6, 0.2, 0.6),
        "0.5 3": (0.1, 0.8, 0.7),
    }
    names = (tables.HARD, tables.SMOOTH, tables.TEST)
    return pd.DataFrame(
        [
            (problem, tables.HEADS, "", seed, head, metric, value, 1.0)
            for problem in tables.NAMES
            for seed in range(3)
            for head, values in scores.items()
            for metric, value in zip(names, values)
        ],
        columns=runner.COLUMNS,
    )


@pytest.mark.parametrize(
    ("scheme", "taken"),
    [
        ("s = 1", 0.2),
        ("s = 1.3", 0.4),
        ("s = 1, decay by smooth error", 0.3),
        ("grid, worst group", 0.5),
        ("GERNE, tuned", 0.5),
        ("grid, smooth error", 0.6),
        ("best on test", 0.7),
        ("group-weighted logistic regression, tuned", 0.1),
    ],
)
def test_a_scheme_takes_its_head(scripts, rows, scheme, taken):
    tables = scripts["_untouched_tables"]
    scores = tables.scores_of(rows, rows.head(0))
    np.testing.assert_allclose(scores.loc[tables.BOTH, scheme], taken)


def test_differences_are_paired_and_of_complete_splits(scripts, rows):
    tables = scripts["_untouched_tables"]
    scores = tables.scores_of(rows, rows.head(0))
    pair = (tables.BOTH, "best on test"), (tables.BOTH, "s = 1")
    np.testing.assert_allclose(tables.less(scores, *pair, tables.NAMES), [0.5] * 3)
    lacking = scores.drop((tables.BOTH, "s = 1", "C-MNIST", 1))
    assert [*tables.less(lacking, *pair, tables.NAMES).index] == [0, 2]
    lacking = scores.drop((tables.BOTH, "s = 1", "C-MNIST"))
    assert not len(tables.less(lacking, *pair, tables.NAMES))
    assert "C-MNIST" not in tables._often_enough(
        lacking.loc[tables.BOTH, "s = 1"], tables.NAMES
    )
