"""Training that stops, drops heads and goes on, against training in one piece."""

import numpy as np
import pytest
import torch

from skdebias._engine._features import Features, JoinedFeatures
from skdebias._engine._heads import initial_parameters
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._selection import HeadValidationScorer
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias.methods import AFR, ERM, GERNE, ULE, GroupDRO, LfF
from skdebias.methods._ugc import ClusterDRO

CPU = torch.device("cpu")
RATES = np.array([0.03, 0.1, 0.02, 0.06, 0.08])
METHODS = {
    "ERM": [ERM()] * 5,
    "ERM weighted": [ERM(reweight=r) for r in ("group", None, "class", "group", None)],
    "GERNE": [GERNE(b, 0.5) for b in (-1.0, 0.0, 0.5, 0.8, 1.0)],
    "GERNE shared": [GERNE(b, 0.5, shared=True) for b in (-1.0, 0.0, 0.5, 0.8, 1.0)],
    "GroupDRO": [GroupDRO(s, a) for s, a in zip(10 * RATES, (0, 1, 2, 0, 1))],
    "ClusterDRO": [ClusterDRO(s) for s in 10 * RATES],
    "LfF": [LfF(q, a) for q, a in zip((0.3, 0.5, 0.7, 0.9, 1), (0.9, 0.5, 0, 0.7, 1))],
    "ULE": [ULE(lam) for lam in (0.3, 1.0, 0.5, 0.7, 0.9)],
    "ULE forms": [
        ULE(0.5, saliency="logit"),
        ULE(0.3),
        ULE(0.6, saliency="logit"),
        ULE(1.0, target="orthogonal"),
        ULE(0.8),
    ],
}


@pytest.fixture(scope="module", params=[2, 3])
def data(request):
    n_classes = request.param
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 300)
    a = np.where(rng.random(300) < 0.9, y, rng.integers(0, n_classes, 300))
    X = rng.normal(size=(300, 8)) + np.eye(8)[y] + 2 * np.eye(8)[-1 - a]
    groups = Groups.from_labels(y, a, n_classes, n_classes)
    return X.astype(np.float32), y, groups


def _settings(n_heads, chosen, **other):
    def vector(values):
        return np.repeat(np.asarray(values, float)[chosen], n_heads)

    defaults = {"optimizer": "sgd", "batch_size": 64, "max_iter": 5}
    # Large steps of AdamW blow the rounding of vanishing gradients up.
    small = 0.1 if other.get("optimizer") == "adamw" else 1.0
    return OptimizerConfig(
        learning_rate=vector(small * RATES),
        weight_decay=vector([0.0, 0.1, 0.01, 0.2, 0.3]),
        momentum=vector([0.9, 0.5, 0.0, 0.8, 0.7]),
        **defaults | other,
    )


def _assert_equal(found, expected):
    for a, b in zip(
        [*found.stack.coefs, *found.stack.intercepts],
        [*expected.stack.coefs, *expected.stack.intercepts],
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(found.n_iter, expected.n_iter)
    np.testing.assert_array_equal(found.best_epoch, expected.best_epoch)
    np.testing.assert_array_equal(found.diverged, expected.diverged)
    assert set(found.history) == set(expected.history)
    for name, epochs in expected.history.items():
        np.testing.assert_allclose(
            np.array(found.history[name]), np.array(epochs), rtol=1e-4, atol=1e-5
        )


def _thinned(features, y, n_classes, methods, groups, validation=None, **other):
    """Compare with fresh runs, before heads are dropped and after each time."""
    n_heads = methods[0].n_heads

    def arguments(chosen, max_iter):
        own = [methods[m] for m in chosen]
        problem = Problem(own, groups, 3)
        epochs = other.get("epochs")
        more = other | {"epochs": epochs and np.tile(epochs, len(chosen))}
        settings = _settings(n_heads, chosen, **more | {"max_iter": max_iter})
        return features, y, n_classes, [problem], settings

    training = Training(*arguments(range(5), 7), validation=validation)
    left = np.arange(5)
    for until, keep in ((2, [4, 1, 2]), (2, [0, 1]), (5, [1]), (7, [0])):
        training.run(until)
        assert training.epoch == until
        expected = Training(*arguments(left, until), validation=validation).run()
        _assert_equal(training.result(), expected)
        training.select(keep)
        left = left[keep]
        assert training.result().stack.n_heads == len(keep) * n_heads
    return training


@pytest.mark.parametrize("hidden", [(), (6, 5)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("case", METHODS)
def test_heads_go_on_from_where_they_are(data, case, optimizer, hidden):
    X, y, groups = data
    options = {"optimizer": optimizer, "hidden_layer_sizes": hidden}
    methods = METHODS[case]
    _thinned(Features(X, CPU), y, groups.n_classes, methods, groups, **options)


def test_anchors(data):
    X, y, groups = data
    n_out = 1 if groups.n_classes == 2 else groups.n_classes
    rng = np.random.default_rng(0)
    confidence = rng.random(len(y))
    anchor = []
    for m in range(5):
        coefs, biases = initial_parameters((8, n_out), m)
        anchor.append(([c + rng.normal(size=c.shape) for c in coefs], biases))
    anchor = [([c.astype(np.float32) for c in cs], bs) for cs, bs in anchor]
    methods = [
        AFR(confidence, gamma, anchor=head)
        for gamma, head in zip((0.0, 1.0, 2.0, 4.0, 8.0), anchor, strict=True)
    ]
    _thinned(Features(X, CPU), y, groups.n_classes, methods, groups)


@pytest.mark.parametrize("selection", ["worst_group", "last"])
def test_the_best_epoch_so_far(data, selection):
    X, y, groups = data
    validation = HeadValidationScorer(y, groups, selection, Features(X, CPU))
    methods = METHODS["GERNE"]
    _thinned(Features(X, CPU), y, groups.n_classes, methods, groups, validation)


def test_two_embeddings_and_a_student_that_stops(data):
    X, y, groups = data
    features = JoinedFeatures([Features(X[:, 1::2].copy(), CPU), Features(X, CPU)])
    methods = [ULE(lam, gram=True) for lam in (0.3, 1.0, 0.5, 0.7, 0.9)]
    training = _thinned(
        features, y, groups.n_classes, methods, groups, epochs=[3.0, np.inf]
    )
    assert training.result().stack.inputs == [slice(0, 4), slice(4, 12)]


def test_dropped_heads_leave_memory_and_the_step(data, monkeypatch):
    X, y, groups = data
    problem = Problem(METHODS["LfF"], groups, 3)
    training = Training(
        Features(X, CPU),
        y,
        groups.n_classes,
        [problem],
        _settings(2, range(5), optimizer="adamw"),
        allow_divergence=True,
    )
    training.run(1)
    before = training._loop.methods.weights.numel()
    training.select([2])
    assert 5 * training._loop.methods.weights.numel() == before
    assert len(training._loop.methods.weighting._average[0, 0]) == 1
    loop = training._loop
    state = [
        *loop._optimizer._parameters,
        *loop._optimizer._first,
        loop.methods.weights,
    ]
    assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in state)
    assert loop._optimizer._parameters[0] is loop.stack.coefs[0]


def test_a_diverged_head_stays_diverged_and_harms_no_other(data):
    X, y, groups = data
    settings = _settings(1, range(5))
    settings.learning_rate[1] = 1e30
    training = Training(
        Features(X, CPU),
        y,
        groups.n_classes,
        [Problem([ERM()] * 5, groups, 3)],
        settings,
        allow_divergence=True,
    )
    training.run(2)
    training.select([0, 1])
    training.run()
    assert training.epoch == 5
    assert training.result().diverged.tolist() == [0, 1]


def test_streams_cannot_be_thinned_out(data):
    X, y, groups = data
    problems = [Problem([ERM()] * 5, groups, seed) for seed in (0, 1)]
    settings = _settings(1, [*range(5), *range(5)])
    training = Training(Features(X, CPU), y, groups.n_classes, problems, settings)
    with pytest.raises(ValueError, match="2 streams cannot be thinned out"):
        training.select([0])
