"""The example of a continuous attribute: real tissue, two cuts, ERM against GERNE."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "plot_continuous_attribute.py"

pytest.importorskip("skimage")
pytest.importorskip("matplotlib").use("Agg")


def test_gerne_helps_where_the_amount_of_tissue_misleads():
    run = runpy.run_path(str(EXAMPLE))
    table, train = run["table"], run["train"]
    assert list(table.index.get_level_values("head")) == ["ERM", "GERNE"] * 2
    for _, scores in table.groupby("thresholds"):
        worst = scores.droplevel(0)["worst group"]
        assert worst["GERNE"] > worst["ERM"] + 0.2
        assert worst["ERM"] < 0.4
    # The plain head is the better one on average: that is why it is what it is.
    accuracy = table["accuracy"].unstack()
    assert (accuracy["ERM"] > 0.9).all()
    assert 0.4 < train.mean() < 0.6
