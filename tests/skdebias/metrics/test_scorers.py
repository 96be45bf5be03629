import subprocess
import sys

import numpy as np
import pytest
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, make_scorer

from skdebias.metrics import (
    group_balanced_accuracy_scorer,
    worst_class_accuracy_scorer,
    worst_group_accuracy_scorer,
)

Y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
X = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 0])[:, None]
ATTRIBUTES = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])


class Echo(ClassifierMixin, BaseEstimator):
    """Predicts the first feature."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.asarray(X)[:, 0]


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (worst_group_accuracy_scorer, 0.5),
        (group_balanced_accuracy_scorer, (3 / 4 + 1 + 1 / 2 + 2 / 3) / 4),
    ],
)
def test_scorer_value_and_request(scorer, expected):
    assert type(scorer) is type(make_scorer(accuracy_score))
    with config_context(enable_metadata_routing=True):
        score = scorer(Echo().fit(X, Y), X, Y, attributes=ATTRIBUTES)
        requests = scorer.get_metadata_routing().score.requests
    assert score == pytest.approx(expected)
    assert requests == {"attributes": True}


def test_worst_class_scorer_needs_no_attributes_and_no_routing():
    assert worst_class_accuracy_scorer(Echo().fit(X, Y), X, Y) == pytest.approx(0.6)


def test_without_routing_the_scorer_names_the_line_to_add():
    assert not get_config()["enable_metadata_routing"]
    line = r"sklearn\.set_config\(enable_metadata_routing=True\)"
    with pytest.raises(TypeError, match=line):
        worst_group_accuracy_scorer(Echo().fit(X, Y), X, Y)


@pytest.mark.parametrize("flag", [False, True])
def test_import_leaves_the_configuration_alone(flag):
    code = (
        "import sklearn; "
        f"sklearn.set_config(enable_metadata_routing={flag}); "
        "before = sklearn.get_config(); "
        "import skdebias, skdebias.metrics, skdebias.model_selection, "
        "skdebias.datasets; "
        "assert sklearn.get_config() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
