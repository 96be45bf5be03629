"""One method, two engines: networks and stacks of heads train alike."""

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import (
    ERMClassifier,
    GERNEClassifier,
    ULEClassifier,
)
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._networks import Networks
from tests._instances import HEADS

SETTINGS = {
    "learning_rate": 0.02,
    "max_iter": 3,
    "batch_size": 64,
    "weight_decay": 0.01,
    "selection": "worst_group",
    "random_state": 0,
}
NETWORKS = {name: row for name, row in HEADS.items() if row.trains_networks}
QUICK = {"beta": 0.2, "step_size": 0.1, "warmup_epochs": 1, "lam": 0.6}
METHODS = {name: row.make(**QUICK) for name, row in NETWORKS.items()} | {
    "ULE, student": ULEClassifier(lam=0.6, student_epochs=1, student_weight_decay=0.3),
    "ULE, logit": ULEClassifier(saliency="logit", normalize="max"),
    "ULE, orthogonal": ULEClassifier(
        saliency="log_probability",
        normalize="max",
        normalize_over="sample",
        target="orthogonal",
        divergence="l1",
    ),
}


@pytest.fixture(scope="module")
def data():
    X, y, attributes = make_spurious_classification(400, random_state=0)
    return X, {2: y, 3: np.digitize(X[:, 0], [-1, 1])}, attributes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_network_without_backbone_is_the_head(data, name, n_classes, hidden):
    X, labels, attributes = data
    y = labels[n_classes]
    method = METHODS[name]
    alone = type(method)(
        **{**method.get_params(deep=False), **SETTINGS, "hidden_layer_sizes": hidden}
    )
    network = FineTuneClassifier(
        type(method)(**{**method.get_params(deep=False), "hidden_layer_sizes": hidden}),
        nn.Identity(),
        modality="tensor",
        device="cpu",
        **SETTINGS,
    )
    given = NETWORKS[name].used(attributes) if name in NETWORKS else attributes
    judged = {
        "X_val": X[:150],
        "y_val": y[:150],
        "attributes_val": attributes[:150],
    }
    for model in (alone, network):
        model.fit(X, y, given, **judged)
    np.testing.assert_allclose(
        network.decision_function(X), alone.decision_function(X), atol=2e-5
    )
    np.testing.assert_allclose(network.loss_curve_, alone.loss_curve_, atol=1e-5)
    assert network.best_epoch_ == alone.best_epoch_
    np.testing.assert_array_equal(
        network.history_["validation_group_accuracy"],
        alone.history_["validation_group_accuracy"],
    )
    for prefix in ("student_", "biased_"):
        if not hasattr(network, f"{prefix}network_"):
            continue
        layer = getattr(network, f"{prefix}network_").linear_layers[0]
        weights = f"{prefix}coefs_" if hidden else f"{prefix}coef_"
        wanted = getattr(alone, weights)[0].T if hidden else getattr(alone, weights)
        np.testing.assert_allclose(layer.weight.detach(), wanted, atol=2e-5)
    for fitted in ("pseudo_attributes_", "group_weights_", "beta_", "cosine_"):
        # Of linear heads alone, the cosine is that of their weights.
        if hasattr(alone, fitted) and (hidden or fitted != "cosine_"):
            np.testing.assert_allclose(
                getattr(network.estimator_, fitted), getattr(alone, fitted), atol=1e-5
            )


def test_adamw_is_that_of_the_heads(data):
    X, labels, _ = data
    settings = {**SETTINGS, "selection": "last"}
    alone = ERMClassifier(solver="adamw", **settings).fit(X, labels[2])
    network = FineTuneClassifier(
        ERMClassifier(),
        nn.Identity(),
        modality="tensor",
        optimizer="adamw",
        device="cpu",
        **settings,
    ).fit(X, labels[2])
    np.testing.assert_allclose(
        network.decision_function(X), alone.decision_function(X), atol=1e-4
    )


def _backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["GERNE", "ERM, reweighted", "GroupDRO", "LfF"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_accumulated_passes_are_one(data, name, dropout):
    # With dropout, the rule's look at the losses must see the same units dropped.
    X, labels, attributes = data
    found = []
    for accumulate in (1, 3):
        if dropout and accumulate == 1:
            continue  # other masks; only that it trains the rule on its own losses
        model = FineTuneClassifier(
            METHODS[name],
            _backbone(),
            modality="tensor",
            accumulate=accumulate,
            clip_norm=0.5,
            dropout=dropout,
            device="cpu",
            **SETTINGS,
        )
        model.fit(X, labels[3], attributes, X_val=X, y_val=labels[3],
                  attributes_val=attributes)  # fmt: skip
        found.append(model.decision_function(X))
    if not dropout:
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_both_batches_of_gerne_go_through_one_pass(data, monkeypatch):
    X, labels, attributes = data
    passes, rows = [], []
    forward = Networks.forward

    def counted(self, batch, *arguments):
        if self.training:
            passes.append(torch.is_grad_enabled())
            rows.append(len(batch))
        return forward(self, batch, *arguments)

    monkeypatch.setattr(Networks, "forward", counted)
    FineTuneClassifier(
        GERNEClassifier(beta=0.2),
        _backbone(),
        modality="tensor",
        batch_size=100,
        max_iter=2,
        device="cpu",
    ).fit(X, labels[2], attributes)
    assert len(passes) == 2 * 4
    assert set(rows) == {100}


@pytest.mark.parametrize("point", ["input", "embedding", "0"])
def test_saliencies_are_those_of_finite_differences(data, point):
    # The penalty's gradient in the teacher's weights, by a second backward pass.
    from skdebias._engine._loss import cross_entropy
    from skdebias._groups import Groups
    from skdebias.finetune._network import Network
    from skdebias.finetune._saliency import NetworkPass
    from skdebias.methods import ULE, Step, TrainingContext

    X, labels, _ = data
    settings = {
        "pretrained": False, "weights": None, "layer": None, "pooling": "default",
        "model_kwargs": {}, "preprocess": None, "modality": "tensor",
    }  # fmt: skip
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.Linear(20, 6), nn.Tanh()).double()
        network = Network(backbone, settings).add_head(6, [5], 3, 0.0, seed)
        members.append(network.double())
    networks = Networks(members, point).train()
    x = torch.from_numpy(np.asarray(X[:40], dtype=np.float64))
    y = torch.from_numpy(labels[3][:40])
    groups = Groups.from_labels(labels[3], np.zeros(len(X), int), 3, 1)
    method = ULE(0.5, saliency="loss", scale="none", normalize="l2")
    setting = TrainingContext(
        (groups,), torch.from_numpy(labels[3]), torch.device("cpu")
    )

    def embed_double(member):
        member.embed = lambda batch: member.embedder.forward(batch)

    for member in members:
        embed_double(member)

    def objective():
        outputs, points = networks(x)
        logits = torch.stack(outputs, 1)[None]
        losses, residual = cross_entropy(logits.detach(), y[None])
        step = Step(losses, losses, y[None], y[None], y[None])
        seen = NetworkPass(
            logits, residual, (), (), outputs, points.tensors, points.layers
        )
        return ULE.penalty([method], setting)(step, seen).values.sum()

    objective().backward()
    for name in ("backbone.0.weight", "head.1.weight"):
        weight = dict(members[1].named_parameters())[name]
        got = float(weight.grad[1, 2])
        eps, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                weight[1, 2] += sign * eps
            values.append(float(objective().detach()))
            with torch.no_grad():
                weight[1, 2] -= sign * eps
        assert got == pytest.approx((values[0] - values[1]) / (2 * eps), rel=2e-3)
        assert got != 0 or point == "embedding"
    # The student is a constant to the penalty.
    assert all(p.grad is None or not p.grad.any() for p in members[0].parameters())
