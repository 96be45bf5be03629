"""scikit-learn's own checks, on every estimator of the package."""

import inspect

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

import skdebias.attributes
import skdebias.finetune
import skdebias.model_selection
from tests._instances import HEADS, NETWORKS, PSEUDO_ATTRIBUTES, SEARCHES

ESTIMATORS = [
    *(row.make(**settings) for row in HEADS.values() for settings in row.checked),
    *SEARCHES,
    *NETWORKS,
]

# One table of expected failures: estimator name -> check -> reason. Empty, and strict:
# a check that fails must be understood before it may appear here.
EXPECTED_FAILURES: dict[str, dict[str, str]] = {}


def _expected_failures(estimator):
    return EXPECTED_FAILURES.get(type(estimator).__name__, {})


@pytest.mark.filterwarnings("ignore::skdebias.MissingAttributesWarning")
@pytest.mark.filterwarnings("ignore::skdebias.attributes.WeakClustersWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=_expected_failures)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "package",
    [skdebias, skdebias.attributes, skdebias.finetune, skdebias.model_selection],
    ids=lambda package: package.__name__,
)
def test_every_public_estimator_is_in_the_list(package):
    public = {getattr(package, name) for name in package.__all__}
    public = {c for c in public if inspect.isclass(c) and issubclass(c, BaseEstimator)}
    assert public
    listed = {type(e) for e in (*ESTIMATORS, *PSEUDO_ATTRIBUTES.values())}
    assert public <= listed
