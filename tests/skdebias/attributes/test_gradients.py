"""Factored gradients against the dense ones."""

import numpy as np
import pytest
import torch

from skdebias._engine._features import Features
from skdebias.attributes import _rows
from skdebias.attributes._gradients import (
    FactoredGradients,
    contrast,
    principal_components,
    residuals,
)
from skdebias.attributes._last_layer import logistic, logits, margins, mean_difference
from skdebias.attributes._rows import feature_norms

CPU = torch.device("cpu")


def _problem(n_classes=3, n=120, d=7, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) + rng.normal(size=(n_classes, d))[y] + 3.0
    return Features(X.astype(np.float32), CPU), X.astype(np.float32), y


def _softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _dense(X, y, layer):
    """Per-row gradients by their definition, (n, n_classes * n_features)."""
    x = X - layer.center.numpy()
    d = _softmax(x @ layer.weight.numpy().T + layer.bias.numpy())
    d[np.arange(len(y)), y] -= 1.0
    return np.einsum("nc,nd->ncd", d, x).reshape(len(y), -1).astype(np.float64)


def _factored(features, y, layer, index=None):
    index = np.arange(len(y)) if index is None else index
    residual = residuals(logits(features, layer), y)
    return FactoredGradients(
        features, index, residual[torch.from_numpy(index)], layer.center
    )


@pytest.fixture(params=[2, 3, 5])
def case(request):
    features, X, y = _problem(request.param)
    layer = mean_difference(features, y, request.param)
    return features, X, y, layer


def test_dense_gradients_are_those_of_autograd():
    features, X, y = _problem()
    layer = mean_difference(features, y, 3)
    x = torch.from_numpy(X) - layer.center
    for i in (0, 50):
        weight = layer.weight.clone().requires_grad_()
        z = x[i] @ weight.T + layer.bias
        torch.nn.functional.cross_entropy(z, torch.tensor(y[i])).backward()
        np.testing.assert_allclose(
            weight.grad.flatten(), _dense(X, y, layer)[i], atol=1e-5
        )


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_contrast_is_orthonormal_and_orthogonal_to_ones(n_classes):
    H = contrast(n_classes).numpy()
    np.testing.assert_allclose(H.T @ H, np.eye(n_classes - 1), atol=1e-12)
    np.testing.assert_allclose(H.sum(0), 0.0, atol=1e-12)


def test_kernel_identity(case):
    """<g_i, g_j> = <d_i, d_j> <x_i, x_j>, in the contrast with a column less."""
    features, X, y, layer = case
    residual = residuals(logits(features, layer), y).numpy()
    assert residual.shape == (len(y), layer.weight.shape[0] - 1)
    x = X - layer.center.numpy()
    G = _dense(X, y, layer)
    np.testing.assert_allclose(
        (residual @ residual.T) * (x @ x.T), G @ G.T, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        _factored(features, y, layer).norms(), np.linalg.norm(G, axis=1), rtol=1e-3
    )


@pytest.mark.parametrize("block", [1 << 24, 100])
def test_factored_pca_is_dense_pca(case, monkeypatch, block):
    """On all rows and on one class; whatever the blocks of rows."""
    monkeypatch.setattr(_rows, "_BLOCK_ENTRIES", block)
    features, X, y, layer = case
    for index in (np.arange(len(y)), np.flatnonzero(y == 1)):
        G = _dense(X, y, layer)[index]
        U, S, _ = np.linalg.svd(G - G.mean(0), full_matrices=False)
        found = principal_components(
            _factored(features, y, layer, index), 4, seed=0
        ).scores
        # Components are defined up to sign.
        sign = np.sign((found * U[:, :4]).sum(0))
        np.testing.assert_allclose(found * sign, U[:, :4] * S[:4], atol=2e-4 * S[0])


def test_more_components_than_there_are():
    features, X, y = _problem(2, n=6, d=3)
    layer = mean_difference(features, y, 2)
    scores = principal_components(_factored(features, y, layer), 10, seed=0).scores
    G = _dense(X, y, layer)
    G = G - G.mean(0)
    np.testing.assert_allclose(scores @ scores.T, G @ G.T, atol=1e-4)


def test_two_classes_are_r_times_x():
    features, X, y = _problem(2)
    layer = mean_difference(features, y, 2)
    x = X - layer.center.numpy()
    z = x @ (layer.weight[1] - layer.weight[0]).numpy()
    r = 1 / (1 + np.exp(-z)) - y
    expected = np.sqrt(2) * (r[:, None] * x)
    expected -= expected.mean(0)
    scores = principal_components(_factored(features, y, layer), 7, seed=0).scores
    np.testing.assert_allclose(
        scores @ scores.T, expected @ expected.T, rtol=1e-3, atol=1e-3
    )


def test_scores_follow_a_permutation_of_the_rows():
    features, X, y = _problem(3)
    layer = mean_difference(features, y, 3)
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = Features(X[order], CPU)
    again = mean_difference(shuffled, y[order], 3)
    one = principal_components(_factored(features, y, layer), 4, seed=0).scores
    two = principal_components(_factored(shuffled, y[order], again), 4, seed=0).scores
    np.testing.assert_allclose(two, one[order], atol=1e-3 * np.abs(one).max())


def test_mean_difference_is_the_best_scale_of_the_direction():
    features, X, y = _problem(3)
    layer = mean_difference(features, y, 3)
    means = np.stack([X[y == c].mean(0) for c in range(3)])
    direction = means - means.mean(0)
    scale = layer.weight.numpy() / direction
    np.testing.assert_allclose(scale, scale.mean(), rtol=1e-3)
    np.testing.assert_allclose(layer.center, X.mean(0), rtol=1e-5)

    def loss(factor):
        z = (X - X.mean(0)) @ (layer.weight.numpy() * factor).T
        return -np.log(_softmax(z)[np.arange(len(y)), y]).mean()

    assert loss(1.0) < min(loss(0.9), loss(1.1))


def test_mean_difference_does_not_depend_on_the_unit_of_the_features():
    features, X, y = _problem(3)
    small = Features(X * np.float32(1e-3), CPU)
    a = logits(features, mean_difference(features, y, 3))
    b = logits(small, mean_difference(small, y, 3))
    np.testing.assert_allclose(a, b, atol=1e-2)


def test_logistic_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    features, X, y = _problem(3)
    layer = logistic(features, y, 3, weight_decay=1 / (0.1 * len(y)))
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(X, y)
    z = logits(features, layer).numpy()
    np.testing.assert_allclose(_softmax(z), reference.predict_proba(X), atol=2e-3)


def test_margins():
    z = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    np.testing.assert_allclose(margins(z, np.array([1, 0])), [2.0, -3.0])


def test_float16_rows_are_never_upcast_as_a_whole(monkeypatch):
    """The largest gather of a fit is a block, not the data."""
    monkeypatch.setattr(_rows, "_BLOCK_ENTRIES", 300)
    _, X, y = _problem(2, n=400)
    features = Features(X.astype(np.float16), CPU)
    largest = []
    gather = features.rows

    def watched(index):
        largest.append(len(index))
        return gather(index)

    features.rows = watched
    layer = mean_difference(features, y, 2)
    principal_components(_factored(features, y, layer), 3, seed=0)
    assert max(largest) * X.shape[1] <= 300


def test_feature_norms_are_centred():
    features, X, _ = _problem(2)
    expected = np.linalg.norm(X - X.mean(0), axis=1)
    np.testing.assert_allclose(feature_norms(features), expected, rtol=1e-4)
