import doctest
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skdebias.metrics import GroupAccuracyDisplay, _plot, group_accuracy_table

Y_TRUE = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
Y_PRED = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 0])
ATTRIBUTES = np.array(["l", "l", "l", "l", "w", "l", "l", "w", "w", "w"])


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_doctests(pyplot):
    results = doctest.testmod(_plot)
    assert results.attempted >= 3
    assert results.failed == 0


def test_from_predictions_draws_the_table(pyplot):
    display = GroupAccuracyDisplay.from_predictions(
        Y_TRUE, Y_PRED, attributes=ATTRIBUTES, name="ERM"
    )
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_allclose(heights, [0.75, 1, 0.5, 2 / 3])
    ticks = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert ticks == ["0, l\nn=4", "0, w\nn=1", "1, l\nn=2", "1, w\nn=3"]
    table = group_accuracy_table(Y_TRUE, Y_PRED, attributes=ATTRIBUTES)
    ends = [segment[:, 1] for segment in display.errorbars_[2][0].get_segments()]
    np.testing.assert_allclose(ends, table[["low", "high"]])
    assert display.ax_.get_title() == "ERM"
    colors = [bar.get_facecolor() for bar in display.bars_]
    assert colors[0] == colors[1] != colors[2]
    assert display.figure_ is display.ax_.figure


def test_from_estimator_uses_predict_given_axes_and_style(pyplot):
    X = np.column_stack([Y_PRED, Y_PRED]).astype(float)
    model = LogisticRegression().fit(X, Y_PRED)
    _, ax = pyplot.subplots()
    display = GroupAccuracyDisplay.from_estimator(
        model, X, Y_TRUE, attributes=ATTRIBUTES, ax=ax, color="red"
    )
    assert display.ax_ is ax
    assert ax.get_title() == "LogisticRegression"
    assert display.bars_[2].get_height() == 0.5
    assert display.bars_[0].get_facecolor() == (1, 0, 0, 1)


def test_several_columns(pyplot):
    a = np.column_stack([ATTRIBUTES, ATTRIBUTES])
    display = GroupAccuracyDisplay.from_predictions(Y_TRUE, Y_PRED, attributes=a)
    assert display.ax_.get_xticklabels()[1].get_text() == "0, w, w\nn=1"


def test_without_attributes(pyplot):
    with pytest.raises(TypeError, match="from_predictions needs the spurious"):
        GroupAccuracyDisplay.from_predictions(Y_TRUE, Y_PRED)
    with pytest.raises(TypeError, match="from_estimator needs the spurious"):
        GroupAccuracyDisplay.from_estimator(None, Y_TRUE, Y_PRED)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "skdebias\[plot\]"'):
        GroupAccuracyDisplay.from_predictions(Y_TRUE, Y_PRED, attributes=ATTRIBUTES)
