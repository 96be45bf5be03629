"""Degenerate features and absurd parameters: an error by name, or a right result."""

import warnings

import numpy as np
import pytest

import skdebias
from skdebias import attributes as pseudo
from skdebias.attributes import (
    ConfidencePseudoAttributes,
    ErrorSetPseudoAttributes,
    GradientClusterPseudoAttributes,
)
from tests._instances import ONE_OF_EACH

PSEUDO = [name for name in pseudo.__all__ if name.endswith("PseudoAttributes")]
pytestmark = pytest.mark.filterwarnings("ignore")


def make(name):
    quick = {"max_iter": 2, "n_draws": 1, "warmup_epochs": 1, "random_state": 0}
    if name in ONE_OF_EACH:
        return ONE_OF_EACH[name].make(**quick)
    model = getattr(pseudo, name)()
    known = model.get_params(deep=False)
    return model.set_params(**{k: v for k, v in quick.items() if k in known})


every = pytest.mark.parametrize("name", [*ONE_OF_EACH, *PSEUDO])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 40)
    return rng.normal(size=(80, 6)) + y[:, None], y


FEATURES = {
    "ones": lambda X: np.ones_like(X),
    "tenths": lambda X: np.full_like(X, 0.1),
    "zeros": lambda X: 0 * X,
    "one constant column": lambda X: np.column_stack([X, np.ones(len(X))]),
    "duplicates": lambda X: np.repeat(X[:2], 40, axis=0),
    "one distinct row": lambda X: np.where(np.arange(len(X))[:, None] == 3, X, 1.0),
    "tiny": lambda X: X * 1e-30,
    "huge": lambda X: X * 1e30,
    "largest float32": lambda X: (X * 1e38).clip(-3e38, 3e38),
    "beyond float32": lambda X: X * 1e300,
    "one huge value": lambda X: np.where(np.eye(80, 6) > 0, 1e36, X),
    "denormal": lambda X: X * 1e-42,
}


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", FEATURES)
def test_any_scale_of_features(name, kind, dtype, data):
    X, y = data
    with np.errstate(over="ignore"):
        X = FEATURES[kind](X).astype(dtype)
    refused = _refusal(name, X, y)
    # Errors about infinity beyond float32 are scikit-learn's.
    assert refused is None or "X" in refused or "makes no mistake" in refused


def _refusal(name, X, y):
    """What the estimator says to X, or None where it takes it."""
    model = make(name)
    try:
        model.fit(X, y)
    except ValueError as error:
        return str(error)
    found = model.pseudo_attributes_ if name in PSEUDO else model.predict_proba(X)
    assert np.isfinite(found).all()
    return None


@pytest.mark.parametrize("warmup", ["mean_difference", "epochs", "logistic"])
@pytest.mark.parametrize("signature", ["gradient", "gradient_norm"])
def test_equal_rows_are_one_cluster(warmup, signature, data):
    X, y = data
    model = GradientClusterPseudoAttributes(
        warmup=warmup, signature=signature, random_state=0
    )
    assert set(model.fit(np.full_like(X, 0.1), y).pseudo_attributes_) == {0}
    assert set(model.predict(np.full_like(X, 0.1), y)) == {0}


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_clusters_name_a_scale_that_cannot_be_squared(scale, data):
    X, y = data
    for name in ("UGCClassifier", "GradientClusterPseudoAttributes"):
        with pytest.raises(ValueError, match=r"X cannot be used.*Standardise X"):
            make(name).fit(X * scale, y)


@pytest.mark.parametrize("name", PSEUDO)
def test_pseudo_attributes_check_their_input(name, data):
    X, y = data
    model = make(name)
    nan = X.copy()
    nan[3, 2] = np.nan
    bad = {
        "X contains NaN": (nan, y),
        "80 rows and y has 79": (X, y[:-1]),
        "at least 2 classes": (X, 0 * y),
        "y has missing": (X, np.where(y, np.nan, 0)),
        "y must be 1-D": (X, np.column_stack([y, y])),
        "y must hold": (X, np.array([0, "a"] * 40, dtype=object)),
    }
    for message, given in bad.items():
        with pytest.raises((TypeError, ValueError), match=message):
            model.fit(*given)
    with pytest.raises(ValueError, match="X_val=None"):
        model.fit(X, y, y_val=y)
    with pytest.raises(ValueError, match="X_val has 80 rows and y_val has 79"):
        model.fit(X, y, X_val=X, y_val=y[1:])


def _needed(name, y):
    """What else a fit needs: attributes of some rows."""
    if name != "SSAPseudoAttributes":
        return {}
    return {
        "attributes": np.where(np.arange(len(y)) % 4, np.nan, np.arange(len(y)) % 8)
    }


@pytest.mark.parametrize("name", PSEUDO)
def test_pseudo_attributes_check_other_rows(name, data):
    X, y = data
    model = make(name).fit(X, y, **_needed(name, y))
    assert model.predict(X, y).shape == (80,)
    for given in (
        (X, y[:-1]),
        (X[:-1], y),
        (X[:, :5], y),
        (np.full_like(X, np.nan), y),
    ):
        with pytest.raises(ValueError, match="X"):
            model.predict(*given)


def test_more_clusters_than_rows_of_a_class(data):
    X, _ = data
    y = (np.arange(80) < 3).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GradientClusterPseudoAttributes(10, pool=False, random_state=0)
        model.fit(X, y)
    assert model.cluster_sizes_.sum(1).tolist() == [77, 3]


ABSURD = {
    "batch_size": [10**12, 10**18, 0, -1, 2.5, True, "many"],
    "hidden_layer_sizes": [(10**9,), (0,), (2.5,), (True,), (-3,), 5, "64"],
    "n_clusters": [10**12, 0, True, 2.0],
    "max_iter": [2.5, 0, True, np.bool_(True), None, "5"],
    "n_iter_no_change": [0, 1.5],
    "learning_rate": [0, -1, np.nan, "fast"],
    "weight_decay": [-1, np.nan],
    "momentum": [1, -0.1],
    "n_draws": [0, True],
    "Cs": [[], [0.0], [-1], "abc"],
}


@every
def test_absurd_parameters_are_refused_by_name(name, data):
    X, y = data
    known = make(name).get_params(deep=False)
    for parameter in ABSURD.keys() & known.keys():
        for value in ABSURD[parameter]:
            with pytest.raises((TypeError, ValueError), match=parameter):
                make(name).set_params(**{parameter: value}).fit(X, y)


@every
def test_numbers_of_numpy_are_taken(name, data):
    X, y = data
    model = make(name)
    own = model.get_params(deep=False)
    numbers = {
        k: np.int64(v) for k, v in own.items() if type(v) is int and k != "verbose"
    }
    model.set_params(**numbers).fit(X, y, **_needed(name, y))


@pytest.mark.parametrize("learning_rate", [1e30])
def test_divergence_is_a_value_error_too(learning_rate, data):
    X, y = data
    model = skdebias.ERMClassifier(learning_rate=learning_rate, random_state=0)
    for kind in (ValueError, FloatingPointError):
        with pytest.raises(kind, match=r"lower learning_rate.*standardise X"):
            model.fit(X * 1e8, y)


def test_every_kind_of_pseudo_attributes_is_here():
    kinds = {
        ConfidencePseudoAttributes,
        ErrorSetPseudoAttributes,
        GradientClusterPseudoAttributes,
    }
    assert kinds <= {getattr(pseudo, name) for name in PSEUDO}
