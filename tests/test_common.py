"""scikit-learn's own checks, on every estimator of the package."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdebias import ERMClassifier, GERNEClassifier

ESTIMATORS = [
    ERMClassifier(max_iter=20),
    ERMClassifier(balance="class", solver="adamw", learning_rate=0.01, max_iter=20),
    ERMClassifier(balance="group", max_iter=20),
    ERMClassifier(reweight="group", hidden_layer_sizes=(16,), learning_rate=0.05),
    GERNEClassifier(max_iter=20),
    GERNEClassifier(coupling="shared", hidden_layer_sizes=(16,), learning_rate=0.05),
]

# One table of expected failures: estimator name -> check -> reason. Empty, and strict:
# a check that fails must be understood before it may appear here.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {}


def _expected_failures(estimator):
    return EXPECTED_FAILURES.get(type(estimator).__name__, {})


@pytest.mark.filterwarnings("ignore::skdebias.MissingAttributesWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=_expected_failures)
def test_scikit_learn_check(estimator, check):
    check(estimator)
