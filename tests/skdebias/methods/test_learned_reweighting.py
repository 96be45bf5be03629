"""Learned reweighting: against autograd through the step, in stacks, and refusals."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from skdebias import DebiasedClassifier
from skdebias._engine._heads import initial_parameters
from skdebias._engine._loss import n_logits
from skdebias._engine._problem import Problem
from skdebias._engine._sampler import IndexSampler
from skdebias._groups import Groups
from skdebias._prepare import draw_seed
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import ERM, LearnedReweighting
from skdebias.model_selection import BatchedGridSearchCV

SETTINGS = {
    "learning_rate": 0.05,
    "weight_decay": 0.02,
    "momentum": 0.9,
    "batch_size": 64,
    "max_iter": 3,
    "random_state": 0,
    "device": "cpu",
}


def _data(n_classes=2):
    X, y, a = make_spurious_classification(
        300, n_features=8, n_classes=n_classes, n_attributes=2, random_state=0
    )
    return X.astype(np.float32), y, a


def _meta_step(parameters, losses, train, clean, share):
    """Weights by the derivative of the clean loss after a step of weights zero."""
    weights = torch.zeros(len(train), requires_grad=True)
    risk = (weights * losses(parameters, train)).sum()
    grads = torch.autograd.grad(risk, parameters, create_graph=True)
    moved = [p - g for p, g in zip(parameters, grads)]
    (slope,) = torch.autograd.grad((share * losses(moved, clean)).sum(), weights)
    kept = (-slope).clamp_min(0.0)
    return kept / kept.sum() if kept.sum() > 0 else kept


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
@pytest.mark.parametrize(("n_classes", "balance"), [(2, None), (3, "class")])
@pytest.mark.parametrize("with_attributes", [False, True])
def test_follows_the_meta_gradient(hidden, n_classes, balance, with_attributes):
    X, y, a = _data(n_classes)
    train, val = np.arange(200), np.arange(200, 300)
    method = LearnedReweighting(balance)
    model = DebiasedClassifier(
        method, hidden_layer_sizes=hidden, selection="last", **SETTINGS
    ).fit(
        X[train], y[train], X_val=X[val], y_val=y[val],
        attributes_val=a[val] if with_attributes else None,
    )  # fmt: skip
    zeros = np.zeros(200, dtype=int)
    groups = Groups.from_labels(y[train], zeros, n_classes, 1)
    of_val = a[val] if with_attributes else np.zeros(100, dtype=int)
    clean_groups = Groups.from_labels(y[val], of_val, n_classes, 2)
    seed = draw_seed(0)
    (plan,) = Problem([method], groups, seed, validation=clean_groups).plans()
    sampler = IndexSampler([plan], 64, seed)
    sizes = (8, *hidden, n_logits(n_classes))
    start = initial_parameters(sizes, seed, from_zero=not hidden)
    parameters = [
        torch.tensor(p, requires_grad=True) for pair in zip(*start) for p in pair
    ]
    optimizer = torch.optim.SGD(
        [
            {"params": parameters[::2], "weight_decay": 0.02},
            {"params": parameters[1::2], "weight_decay": 0.0},
        ],
        lr=0.05,
        momentum=0.9,
    )
    data, codes = torch.from_numpy(X), torch.from_numpy(y)

    def losses(parameters, rows):
        out = data[rows]
        for layer in range(0, len(parameters), 2):
            out = out @ parameters[layer].T + parameters[layer + 1]
            out = out.relu() if layer < len(parameters) - 2 else out
        if out.shape[1] == 1:
            target = codes[rows].float()
            return binary_cross_entropy_with_logits(out[:, 0], target, reduction="none")
        return cross_entropy(out, codes[rows], reduction="none")

    curve = []
    strata = sampler.strata
    clean = strata >= len(plan.batches[0].probabilities) - clean_groups.n_groups
    share = 1.0 / np.bincount(strata)[strata[clean]] / clean_groups.n_groups
    for rows in sampler.steps(0, 4 * 3):
        assert (rows[clean] >= 200).all()
        assert (rows[~clean] < 200).all()
        weights = _meta_step(
            parameters, losses, rows[~clean], rows[clean],
            torch.from_numpy(share).float(),
        )  # fmt: skip
        objective = (weights * losses(parameters, rows[~clean])).sum()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        curve.append(float(objective.detach()))
    fitted = (
        [model.coef_, model.intercept_]
        if not hidden
        else [
            array
            for coef, bias in zip(model.coefs_, model.intercepts_)
            for array in (coef.T, bias)
        ]
    )
    for ours, expected in zip(fitted, parameters):
        np.testing.assert_allclose(ours, expected.detach(), atol=5e-5, rtol=1e-3)
    np.testing.assert_allclose(
        model.loss_curve_, np.reshape(curve, (3, 4)).mean(1), rtol=1e-3
    )


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_searches_train_what_single_fits_do(hidden):
    X, y, _ = _data()
    train, val = np.arange(200), np.arange(200, 300)
    base = DebiasedClassifier(
        LearnedReweighting(), hidden_layer_sizes=hidden, **SETTINGS
    )
    grid = {"learning_rate": [0.01, 0.05, 0.1]}
    given = {"X_val": X[val], "y_val": y[val]}
    settings = {"cv": 2, "scoring": "neg_log_loss"}
    search = BatchedGridSearchCV(base, grid, **settings).fit(
        X[train], y[train], **given
    )
    plain = GridSearchCV(base, grid, cv=2, scoring="neg_log_loss")
    plain.fit(X[train], y[train], **given)
    scores = search.cv_results_["mean_test_score"]
    assert np.ptp(scores) > 0.0
    np.testing.assert_allclose(
        search.decision_function(X), plain.decision_function(X), atol=1e-4
    )


def test_wrong_labels_get_no_weight():
    X, y, _ = make_spurious_classification(
        900, n_features=8, correlation=0.5, noise=0.3, random_state=0
    )
    rng = np.random.default_rng(0)
    train, val, rest = np.split(np.arange(900), [500, 600])
    wrong = rng.random(500) < 0.45
    noisy = np.where(wrong & (y[train] == 1), 0, y[train])  # of one class alone
    settings = SETTINGS | {"max_iter": 20}
    plain = DebiasedClassifier(ERM(), **settings).fit(X[train], noisy)
    learned = DebiasedClassifier(LearnedReweighting(), **settings).fit(
        X[train], noisy, X_val=X[val], y_val=y[val]
    )
    ones = rest[y[rest] == 1]
    assert learned.score(X[ones], y[ones]) > plain.score(X[ones], y[ones])
    assert learned.score(X[rest], y[rest]) >= plain.score(X[rest], y[rest])


def test_what_is_refused():
    X, y, _ = _data()
    model = DebiasedClassifier(LearnedReweighting(), **SETTINGS)
    with pytest.raises(
        ValueError, match=r"LearnedReweighting learns .*pass X_val and y_"
    ):
        model.fit(X, y)
    with pytest.raises(ValueError, match="balance='group' of LearnedReweighting"):
        DebiasedClassifier(LearnedReweighting("group")).fit(X, y, X_val=X, y_val=y)
    with (
        pytest.warns(UserWarning, match="labels that y does not"),
        pytest.raises(ValueError, match="y_val holds labels that y does not: drop"),
    ):
        model.fit(X, y, X_val=X, y_val=np.where(np.arange(300) < 9, 5, y))
    with pytest.raises(ValueError, match=r"solver='lbfgs'.*LearnedReweighting"):
        DebiasedClassifier(LearnedReweighting(), solver="lbfgs").fit(
            X, y, X_val=X, y_val=y
        )
    network = FineTuneClassifier(model, torch.nn.Identity(), modality="tensor")
    with pytest.raises(TypeError, match="last layer"):
        network.fit(X, y, X_val=X, y_val=y)
