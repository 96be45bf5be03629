"""Pseudo-attributes from gradient clusters, on data whose answer is known."""

import warnings

import numpy as np
import pytest

from skdebias import ERMClassifier
from skdebias.attributes import GradientClusterPseudoAttributes, WeakClustersWarning
from skdebias.datasets import make_spurious_classification

FORMS = [
    {},
    {"n_clusters": 4},
    {"n_clusters": 4, "pool": False},
    {"signature": "gradient_norm"},
    {"warmup": "logistic"},
    {"warmup": "epochs"},
    {"warmup": "epochs", "per_class": False, "pool": False},
]


def _fit(X, y, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakClustersWarning)
        model = GradientClusterPseudoAttributes(**{"random_state": 0} | parameters)
        return model.fit(X, y)


@pytest.fixture(scope="module")
def binary():
    return make_spurious_classification(1000, random_state=0)


@pytest.mark.parametrize(
    "form", [{}, {"warmup": "logistic", "weight_decay": 0.3}], ids=["mean", "logistic"]
)
def test_finds_the_conflicting_rows(binary, form):
    X, y, attributes = binary
    conflicting = attributes != y
    minority = _fit(X, y, **form).pseudo_attributes_ == 1
    assert conflicting[minority].mean() > 0.9
    assert minority[conflicting].mean() > 0.7


def test_pooling_keeps_the_largest_cluster_of_a_class(binary):
    X, y, _ = binary
    pooled = _fit(X, y, n_clusters=4)
    single = _fit(X, y, n_clusters=4, pool=False)
    np.testing.assert_array_equal(
        pooled.pseudo_attributes_, np.minimum(single.pseudo_attributes_, 1)
    )
    assert set(np.unique(single.pseudo_attributes_)) == {0, 1, 2, 3}
    for label in (0, 1):
        counts = np.bincount(single.pseudo_attributes_[y == label], minlength=4)
        np.testing.assert_array_equal(counts, pooled.cluster_sizes_[label])
        assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_same_in_any_order_of_the_rows(binary, form):
    X, y, _ = binary
    order = np.random.default_rng(3).permutation(len(y))
    # One epoch of SGD sees its rows in an order; the same network is taken instead.
    if form.get("warmup") == "epochs":
        form = form | {"reference_estimator": Frozen(ERMClassifier(max_iter=1), X, y)}
    one, two = _fit(X, y, **form), _fit(X[order], y[order], **form)
    np.testing.assert_array_equal(one.pseudo_attributes_[order], two.pseudo_attributes_)
    np.testing.assert_array_equal(one.cluster_sizes_, two.cluster_sizes_)


class Frozen(ERMClassifier):
    """A network that is fitted already, whatever it is fitted on."""

    def __init__(self, model=None, X=None, y=None):
        super().__init__()
        self.model, self.X, self.y = model, X, y

    def fit(self, X, y):
        return self.model.set_params(random_state=0).fit(self.X, self.y)


def test_global_clusters_cut_across_the_classes(binary):
    X, y, _ = binary
    found = _fit(X, y, warmup="epochs", per_class=False, pool=False)
    assert found.cluster_sizes_.shape == (2, 2)
    assert (np.diff(found.cluster_sizes_.sum(0)) <= 0).all()


def test_centring_is_inside(binary):
    X, y, _ = binary
    np.testing.assert_array_equal(
        _fit(X, y).pseudo_attributes_, _fit(X + 100.0, y).pseudo_attributes_
    )


@pytest.mark.parametrize("form", FORMS)
def test_many_classes(form):
    X, y, attributes = make_spurious_classification(
        1200, n_classes=4, n_attributes=4, random_state=0
    )
    found = _fit(X, y, **form)
    assert found.cluster_sizes_.sum() == len(y)
    if form.get("n_clusters") == 4 and form.get("pool", True):
        minority = found.pseudo_attributes_ == 1
        assert (attributes != y)[minority].mean() > 0.8
        assert minority[attributes != y].mean() > 0.6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("correlation", [0.95, 1.0])
def test_warns_exactly_when_no_row_conflicts(form, correlation):
    """Aligned data: k-means splits, and the silhouette tells.

    Norm, logistic and paper forms are only asked to warn where they must.
    """
    X, y, _ = make_spurious_classification(
        1000, correlation=correlation, random_state=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = GradientClusterPseudoAttributes(random_state=0, **form).fit(X, y)
    warned = any(issubclass(w.category, WeakClustersWarning) for w in caught)
    if correlation == 1.0:
        assert warned
    elif form.get("warmup", "mean_difference") == "mean_difference":
        assert warned == (found.silhouette_ <= 0.58)
        if "signature" not in form and form.get("pool", True):
            assert not warned


def test_noise_warns():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 16)), rng.integers(0, 2, 500)
    with pytest.warns(WeakClustersWarning, match="silhouette"):
        GradientClusterPseudoAttributes(random_state=0).fit(X, y)


@pytest.mark.parametrize("form", FORMS)
def test_tiny_classes_and_repeated_rows(form):
    """A singleton class, a class of two, and a class whose rows are all the same."""
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(40, 4)), np.ones((6, 4))]).astype(np.float32)
    y = np.array(["a"] * 37 + ["single"] + ["two"] * 2 + ["same"] * 6)
    found = _fit(X, y, **form)
    sizes = dict(zip(np.unique(y), found.cluster_sizes_.sum(1)))
    assert sizes == {"a": 37, "single": 1, "two": 2, "same": 6}
    if form.get("per_class", True):
        assert (found.pseudo_attributes_[y == "same"] == 0).all()
        assert found.pseudo_attributes_[y == "single"] == [0]


def test_hidden_layers_are_the_features(binary):
    """The signature of a network is that of its last layer."""
    X, y, _ = binary
    network = ERMClassifier(
        hidden_layer_sizes=(6,), max_iter=3, learning_rate=0.05, random_state=0
    ).fit(X, y)
    hidden = np.maximum(X @ network.coefs_[0] + network.intercepts_[0], 0)
    linear = ERMClassifier(max_iter=1).fit(hidden, y)
    linear.coef_, linear.intercept_ = network.coefs_[1].T, network.intercepts_[1]

    class Fitted(ERMClassifier):
        def fit(self, X, y):
            return network if X.shape[1] == 20 else linear

    a = _fit(X, y, warmup="epochs", reference_estimator=Fitted())
    b = _fit(hidden, y, warmup="epochs", reference_estimator=Fitted())
    assert (a.pseudo_attributes_ == b.pseudo_attributes_).mean() > 0.995
    assert a.silhouette_ == pytest.approx(b.silhouette_, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_precisions_and_memory_maps(binary, dtype, tmp_path):
    X, y, _ = binary
    mapped = np.memmap(tmp_path / "X", dtype=dtype, mode="w+", shape=X.shape)
    mapped[:] = X
    same = _fit(X, y).pseudo_attributes_ == _fit(mapped, y).pseudo_attributes_
    assert same.mean() > 0.995
