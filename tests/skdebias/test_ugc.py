"""UGCClassifier: its stages, its forms, and what it brings."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone

from skdebias import ERMClassifier, UGCClassifier
from skdebias._erm import HeadFactory
from skdebias._groups import Groups
from skdebias.attributes import GradientClusterPseudoAttributes, WeakClustersWarning
from skdebias.datasets import make_spurious_classification
from skdebias.methods._ugc import robust_method
from skdebias.metrics import worst_group_accuracy_score

PAPER = {"warmup": "epochs", "per_class": False, "pool": False, "n_clusters": 2}
ROBUST = ["group_dro", "inverse_frequency", "feature_magnitude"]


@pytest.fixture(scope="module")
def data():
    return make_spurious_classification(1000, random_state=0)


def _balanced_test_set():
    train = make_spurious_classification(1000, random_state=0, return_X_y=False)
    return make_spurious_classification(
        2000, correlation=0.5, directions=train.directions, random_state=1
    )


def _fit(model, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakClustersWarning)
        return model.fit(*args, **kwargs)


@pytest.mark.parametrize("robust", ROBUST)
def test_beats_plain_training_on_the_worst_group(data, robust):
    X, y, _ = data
    X_test, y_test, attributes = _balanced_test_set()

    def worst(model):
        predicted = model.fit(X, y).predict(X_test)
        return worst_group_accuracy_score(y_test, predicted, attributes=attributes)

    ugc = worst(UGCClassifier(robust=robust, random_state=0))
    assert ugc > worst(ERMClassifier(random_state=0)) + 0.2
    assert ugc > worst(ERMClassifier(balance="class", random_state=0)) + 0.2


def test_is_resampling_of_the_clusters_of_its_first_stage(data):
    """No hidden ingredient: the two stages by hand give the same head."""
    X, y, _ = data
    model = UGCClassifier(robust="inverse_frequency", max_iter=5, random_state=0).fit(
        X, y
    )
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    clusters = GradientClusterPseudoAttributes(4, random_state=seed).fit(X, y)
    np.testing.assert_array_equal(model.pseudo_attributes_, clusters.pseudo_attributes_)
    np.testing.assert_array_equal(model.cluster_sizes_, clusters.cluster_sizes_)
    assert model.silhouette_ == clusters.silhouette_
    by_hand = ERMClassifier(balance="group", max_iter=5, random_state=0)
    by_hand.fit(X, y, clusters.pseudo_attributes_)
    np.testing.assert_allclose(model.coef_, by_hand.coef_, atol=1e-6)
    np.testing.assert_array_equal(model.group_counts_, by_hand.group_counts_)


def test_attributes_are_ignored_with_a_warning(data):
    X, y, attributes = data
    model = UGCClassifier(max_iter=3, random_state=0)
    with pytest.warns(UserWarning, match="ignored") as caught:
        given = clone(model).fit(X, y, attributes=attributes)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(given.coef_, model.fit(X, y).coef_)


@pytest.mark.parametrize("robust", ROBUST)
@pytest.mark.parametrize("layers", [(), (8,)])
def test_paper_form(data, robust, layers):
    """Global clusters of the head trained for an epoch; groups are the clusters."""
    X, y, _ = data
    model = UGCClassifier(
        **PAPER,
        robust=robust,
        hidden_layer_sizes=layers,
        learning_rate=0.05 if layers else 1e-3,
        max_iter=5,
        random_state=0,
    )
    _fit(model, X, y)
    assert model.cluster_sizes_.sum() == len(y)
    assert set(model.pseudo_attributes_) <= {0, 1}
    assert model.score(X, y) > 0.7


def test_paper_form_balances_clusters_not_classes(data):
    """With three in four rows of one class, the classes stay unbalanced."""
    X, y, _ = data
    rows = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:150]]
    X, y = X[rows], y[rows]
    model = UGCClassifier(**PAPER, robust="inverse_frequency", random_state=0)
    _fit(model, X, y)
    groups = Groups.from_labels(y, model.pseudo_attributes_, 2, 2)
    plan = robust_method(model.robust, groups, across_classes=True).plan(groups)
    np.testing.assert_array_equal(plan.strata, model.pseudo_attributes_)
    np.testing.assert_allclose(plan.batches[0].probabilities, 0.5)


def _warm_up_model(model):
    return HeadFactory(model).last_layer(None, None, model._reference(7))[1]


def test_warmup_trains_the_own_architecture():
    model = UGCClassifier(
        warmup="epochs",
        warmup_epochs=2,
        hidden_layer_sizes=(5,),
        learning_rate=0.02,
        early_stopping=True,
    )
    reference = _warm_up_model(model)
    assert isinstance(reference, ERMClassifier)
    params = reference.get_params()
    assert params["max_iter"] == 2
    assert params["hidden_layer_sizes"] == (5,)
    assert params["learning_rate"] == 0.02
    assert params["early_stopping"] is False
    assert params["balance"] is None
    logistic = UGCClassifier(warmup="logistic", weight_decay=0.3)
    assert logistic._inferrer(0, None).weight_decay == 0.3
    assert _warm_up_model(UGCClassifier(hidden_layer_sizes=(5,))) is None


def test_refit_forgets_the_first_fit(data):
    X, y, _ = data
    model = UGCClassifier(robust="feature_magnitude", max_iter=2, random_state=0)
    once = clone(model).fit(X, y)
    twice = model.fit(X[:300], y[:300]).fit(X, y)
    np.testing.assert_array_equal(once.coef_, twice.coef_)
    assert "_norms" not in vars(twice)


def test_no_conflicting_rows_warns_and_fits():
    X, y, _ = make_spurious_classification(500, correlation=1.0, random_state=0)
    with pytest.warns(WeakClustersWarning):
        model = UGCClassifier(max_iter=3, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9


def _few_features(shift, n_rows=2000):
    """The set of the paper, harder: five cues of the class and one shortcut."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n_rows)
    shortcut = np.where(rng.random(n_rows) < 0.95, y, 1 - y)
    cues = rng.normal(size=(n_rows, 5)) + shift * y[:, None]
    X = np.column_stack([(cues - cues.mean(0)) / cues.std(0), 2 * shortcut])
    return X, y, shortcut


def test_with_few_features_the_clusters_that_are_clear_are_taken():
    X, y, shortcut = _few_features(0.75)

    def minority(warmup, features=X):
        inferrer = GradientClusterPseudoAttributes(
            4, warmup=warmup, random_state=0
        ).fit(features, y)
        conflicting = (shortcut != y)[inferrer.pseudo_attributes_ == 1]
        return inferrer, conflicting.mean()

    with pytest.warns(WeakClustersWarning):
        _, share = minority("mean_difference")
    assert share < 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakClustersWarning)
        chosen, share = minority("auto")
    assert chosen.warmup_ == "logistic"
    assert share > 0.9
    logistic, _ = minority("logistic")
    np.testing.assert_array_equal(
        chosen.predict(X[:100], y[:100]), logistic.predict(X[:100], y[:100])
    )
    many = np.hstack([X, np.zeros((len(X), 100))])
    with pytest.warns(WeakClustersWarning):
        assert minority("auto", many)[0].warmup_ == "mean_difference"
    easy, _, _ = _few_features(2.0)  # neither is clear
    with pytest.warns(WeakClustersWarning):
        assert minority("auto", easy)[0].warmup_ == "mean_difference"
