"""Blond given male on 30,000 real face embeddings: the example keeps its promise."""

import os
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "celeba_gerne.py"
DATA = Path(os.environ.get("SKDEBIAS_DATA", "")) / "embeddings" / "celebahq30k.npz"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        not DATA.is_file(),
        reason="SKDEBIAS_DATA has no embeddings/celebahq30k.npz",
    ),
]


@pytest.fixture(scope="module")
def results():
    """Three splits with a grid small enough for a test."""
    run = runpy.run_path(str(EXAMPLE), run_name="celeba_gerne")["run"]
    return run(
        DATA,
        n_splits=3,
        optimizer={"learning_rate": [1e-3], "weight_decay": [0.3]},
        extrapolation={"c": [0.5], "beta": [1.0, 2.0]},
    )


@pytest.fixture(scope="module")
def means(results):
    return results.groupby("method")[
        ["worst group", "group-balanced", "average"]
    ].mean()


def test_plain_erm_fails_blond_men(means):
    """.26 and .33 were measured on one split each, .356 +- .038 over five.

    Two standard deviations around the last: the 72 blond men of a test part make a
    split's score uncertain by .06. scikit-learn's LogisticRegression has .37 on the
    splits of this test.
    """
    assert 0.26 <= means["worst group"]["ERM, last epoch"] <= 0.44
    assert 0.93 <= means["average"]["ERM, last epoch"] <= 0.96
    shrunk = means["worst group"]["ERM, weight decay 0.1, last epoch"]
    assert 0.26 <= shrunk <= 0.33


def test_choosing_the_epoch_is_already_a_remedy(means):
    """Which is why the table says which ERM it means."""
    worst = means["worst group"]
    assert worst["ERM, epoch by validation"] > worst["ERM, last epoch"] + 0.1


def test_gerne_reaches_its_target(means):
    worst = means["worst group"]
    assert worst["GERNE, tuned"] >= 0.76
    assert worst["GERNE, tuned"] > worst["ERM, epoch by validation"] + 0.05
    assert worst["GERNE, tuned"] > worst["ERM, tuned"] + 0.05
    assert means["group-balanced"]["GERNE, tuned"] >= 0.85
    assert means["average"]["GERNE, tuned"] >= 0.85


def test_group_resampling_is_a_strong_baseline(means):
    assert means["worst group"]["group resampling, tuned"] >= 0.72


def test_only_validation_chose(results):
    """Every row says what was chosen; nothing was for the plain baseline."""
    chosen = results.groupby("method")["chosen"].agg(list)
    assert chosen["ERM, last epoch"] == [{}, {}, {}]
    for choice in chosen["GERNE, tuned"]:
        assert set(choice) == {"learning_rate", "weight_decay", "beta", "c"}
