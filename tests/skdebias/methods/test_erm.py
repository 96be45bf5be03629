"""Settings of ERM: what the papers' names come to, their limits, what is refused.

Each follows plain torch in `test_small_methods`, alone, in stacks and as a network.
"""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from small_methods import EVERYTHING, erm_in_torch

from skdebias import DebiasedClassifier, ERMClassifier
from skdebias._choice import DECAYS
from skdebias._engine._expected_risk import expected_shares
from skdebias._engine._loss import stratum_offsets
from skdebias._groups import Groups
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.methods import ERM, Step, TrainingContext
from skdebias.methods._losses import _focal, _generalised
from skdebias.model_selection import BatchedGridSearchCV

EXACT = {"solver": "lbfgs", "tol": 1e-7, "max_iter": 500, "weight_decay": 0.1}
SGD = {"max_iter": 3, "learning_rate": 0.05, "batch_size": 64, "random_state": 0}
#: Convex settings by the papers' names.
CONVEX = {
    "balanced softmax": ERM(logit_adjustment=1.0),
    "logit adjustment": ERM(logit_adjustment=1.5),
    "LDAM": ERM(margin=15.0),
    "LDAM, reweighted": ERM(reweight="class", margin=0.5),
    "CBLoss": ERM(reweight="class", effective_beta=0.99),
    "CBLoss, groups": ERM(reweight="group", effective_beta=0.99),
    "cRT": ERM("class"),
    "ReWeightCRT": ERM(reweight="class"),
    "square roots": ERM(reweight="group", balance_power=0.5),
    "sampled square roots": ERM("group", balance_power=0.5),
    "all at once": replace(EVERYTHING, loss="cross_entropy", margin=1.0),
}


def _data(n_classes, n_rows=400):
    """Unbalanced classes, the rarest first."""
    X, y, a = make_spurious_classification(
        n_rows, n_features=8, n_classes=n_classes, n_attributes=2, random_state=0
    )
    kept = (y > 0) | (np.arange(len(y)) % 3 == 0)
    return X[kept].astype(np.float32), y[kept], a[kept]


def _fields(method):
    return {field.name: getattr(method, field.name) for field in fields(method)}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", CONVEX)
def test_convex_settings_are_solved_to_the_minimum(name, n_classes):
    """The gradient of the objective of the papers, by autograd, is zero there."""
    X, y, a = _data(n_classes)
    method = CONVEX[name]
    clf = ERMClassifier(**_fields(method), **EXACT).fit(X, y, attributes=a)
    groups = Groups.from_labels(y, a, n_classes, 2)
    plan = method.plan(groups)
    share = expected_shares(plan) / np.bincount(plan.strata)
    W, b = (
        torch.tensor(array.astype(float), requires_grad=True)
        for array in (clf.coef_, clf.intercept_)
    )
    all_rows = SimpleNamespace(
        logits=torch.from_numpy(X).double() @ W.T + b,
        weights=torch.from_numpy(share[plan.strata]),
        rows=torch.arange(len(y)),
        y=torch.from_numpy(y),
    )
    value = erm_in_torch(method, groups, all_rows)
    (value + 0.05 * W.square().sum()).backward()
    assert W.grad.abs().max() < 1e-5
    assert b.grad.abs().max() < 1e-5
    # The plain head is another one.
    plain = ERMClassifier(**EXACT).fit(X, y)
    assert np.abs(plain.intercept_ - clf.intercept_).max() > 1e-2


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_balanced_softmax_moves_the_bias_of_erm(n_classes, tau):
    """Biases do not decay: the solutions differ by the offsets, and nothing else."""
    X, y, _ = _data(n_classes)
    plain = ERMClassifier(**EXACT).fit(X, y)
    moved = clone(plain).set_params(logit_adjustment=tau).fit(X, y)
    np.testing.assert_allclose(moved.coef_, plain.coef_, atol=1e-5)
    logs = tau * np.log(np.bincount(y))
    shift = logs[1:] - logs[0] if n_classes == 2 else logs - logs.mean()
    difference = plain.intercept_ - moved.intercept_
    # Of several logits, only differences are determined.
    if n_classes > 2:
        difference = difference - difference.mean()
    np.testing.assert_allclose(difference, shift, atol=1e-4)
    # Weights of rows count in the frequencies, as so many copies.
    weights = 1 + np.arange(len(y)) % 3
    weighted = clone(moved).set_params(margin=0.5).fit(X, y, sample_weight=weights)
    copies = clone(weighted).fit(X.repeat(weights, 0), y.repeat(weights))
    np.testing.assert_allclose(weighted.coef_, copies.coef_, atol=1e-5)
    np.testing.assert_allclose(weighted.intercept_, copies.intercept_, atol=1e-4)


def test_margins_of_two_classes_are_on_two_logits():
    _, y, a = _data(2)
    groups = Groups.from_labels(y, a, 2, 2)
    rare, common = np.bincount(y)
    margins = np.array([1.0, (rare / common) ** 0.25])  # the largest is `margin`
    for balance, of_stratum in ((None, [0, 1]), ("class", [0, 1]), ("group", None)):
        plan = ERM(balance, margin=1.0).plan(groups)
        classes = groups.cells[:, 0] if of_stratum is None else np.array(of_stratum)
        # z is the second logit less the first: z + m_0 of class 0, z - m_1 of class 1.
        expected = np.where(classes == 0, margins[0], -margins[1])
        np.testing.assert_allclose(stratum_offsets(plan, 1)[:, 0], expected)
        np.testing.assert_allclose(
            stratum_offsets(plan, 2)[np.arange(len(classes)), classes],
            -margins[classes],
        )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_scale_of_the_logits_is_one_of_the_margin(n_classes):
    """LDAM's scale, with a rate and a decay in proportion, trains the same head."""
    X, y, _ = _data(n_classes)
    scale, margin, rate, decay = 30.0, 0.5, 1e-5, 0.9
    clf = ERMClassifier(
        margin=scale * margin,
        learning_rate=rate * scale**2,
        weight_decay=decay / scale**2,
        momentum=0.0,
        batch_size=len(y),
        max_iter=30,
        random_state=0,
    ).fit(X, y)
    n_logits = 1 if n_classes == 2 else n_classes
    W = torch.zeros(n_logits, X.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(n_logits, dtype=torch.float64, requires_grad=True)
    counts = torch.from_numpy(np.bincount(y)).double()
    margins = margin * (counts.min() / counts) ** 0.25
    rows, codes = torch.from_numpy(X).double(), torch.from_numpy(y)
    optimizer = torch.optim.SGD(
        [{"params": [W], "weight_decay": decay}, {"params": [b]}], lr=rate
    )
    for _ in range(30):
        logits = rows @ W.T + b
        if n_classes == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        own = torch.nn.functional.one_hot(codes, n_classes)
        loss = torch.nn.functional.cross_entropy(
            scale * (logits - own * margins), codes
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(clf.coef_, scale * W.detach(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(clf.intercept_, scale * b.detach(), rtol=1e-3, atol=1e-4)


PLAIN = {
    "gce": {"loss": "gce", "loss_exponent": 0.0},
    "focal": {"loss": "focal", "loss_exponent": 0},
    "no power": {"reweight": "group", "balance_power": 0.0},
    "one effective row": {"reweight": "class", "effective_beta": 0.0},
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("settings", [SGD, EXACT], ids=["sgd", "lbfgs"])
def test_limits_that_are_plain_training(name, settings):
    X, y, a = _data(3)
    plain = ERMClassifier(**settings).fit(X, y)
    limit = ERMClassifier(**PLAIN[name], **settings)
    limit.fit(X, y, attributes=a if limit.reweight == "group" else None)
    np.testing.assert_allclose(limit.coef_, plain.coef_, rtol=1e-5, atol=1e-6)
    assert (ERMClassifier(**settings).fit(X, y).coef_ == plain.coef_).all()


def test_limits_of_the_weights():
    _, y, a = _data(3)
    groups = Groups.from_labels(y, a, 3, 2)
    for kind, sizes in (("class", np.bincount(y)), ("group", groups.counts)):
        of_row = sizes[y if kind == "class" else groups.ids]
        weights = ERM(reweight=kind).plan(groups).row_weights
        assert (weights == len(y) / (len(sizes) * of_row)).all()  # to the bit
        near = ERM(reweight=kind, effective_beta=1 - 1e-9).plan(groups).row_weights
        np.testing.assert_allclose(near, weights, rtol=1e-5)
        for power, beta in ((0.5, 1.0), (2.0, 0.9), (10.0, 1.0), (1.0, 0.0)):
            method = ERM(reweight=kind, balance_power=power, effective_beta=beta)
            weights = method.plan(groups).row_weights
            assert weights.mean() == pytest.approx(1.0)
            drawn = ERM(kind, balance_power=power, effective_beta=beta).plan(groups)
            # Sampling and weighting have one expectation.
            share = np.bincount(drawn.strata, weights) / len(y)
            np.testing.assert_allclose(expected_shares(drawn), share)
        assert (expected_shares(ERM(kind).plan(groups)) == 1 / len(sizes)).all()


def test_losses_at_their_ends():
    losses = torch.tensor([0.0, 1e-8, 0.3, 40.0, 1e4], dtype=torch.float64)
    for transform in (_generalised, _focal):
        for exponent in (0.0, 1e-6, 0.5, 1.0, 2.0):
            q = torch.tensor(exponent, dtype=torch.float64)
            values, slopes = transform(losses, q)
            assert values.isfinite().all()
            assert slopes.isfinite().all()
            step = 1e-6
            high, low = (transform(losses[2:3] + s, q)[0] for s in (step, -step))
            assert slopes[2] == pytest.approx(float(high - low) / (2 * step), rel=1e-6)
            if exponent == 0:
                assert torch.equal(values, losses)
                assert torch.equal(slopes, torch.ones_like(losses))
    # A rounding error below 0 is no NaN.
    below = _focal(torch.tensor([-1e-8]), torch.tensor(0.5))
    assert all(part.isfinite().all() for part in below)


@pytest.mark.parametrize(("loss", "q"), [("gce", 0.1), ("focal", 0.5), ("focal", 5.0)])
def test_the_other_losses_are_not_convex(loss, q):
    z = torch.linspace(-30, 10, 4001, dtype=torch.float64)
    losses = torch.nn.functional.softplus(-z)
    transform = {"gce": _generalised, "focal": _focal}[loss]
    values, _ = transform(losses, torch.tensor(q))
    bent = values[2:] - 2 * values[1:-1] + values[:-2]
    assert bent.min() < -1e-8
    assert bent.max() > 1e-8


@pytest.mark.parametrize("loss", ["gce", "focal"])
@pytest.mark.parametrize("weight_decay", [0.1, "auto"])
def test_the_deterministic_solver_refuses_them(loss, weight_decay):
    X, y, _ = _data(2)
    settings = {"solver": "lbfgs", "weight_decay": weight_decay}
    exponent = {"gce": "0.7", "focal": "2"}[loss]
    message = f"convex.*loss='{loss}' with loss_exponent={exponent} .*solver='sgd'"
    for clf in (
        ERMClassifier(loss=loss, **settings),
        DebiasedClassifier(ERM(loss=loss), **settings),
        BatchedGridSearchCV(
            ERMClassifier(loss=loss, **settings),
            {"logit_adjustment": [0.0, 1.0]},
            error_score="raise",
            cv=2,
        ),
    ):
        with pytest.raises(ValueError, match=message):
            clf.fit(X, y)
    with pytest.raises(ValueError, match="linear heads only"):
        ERMClassifier(hidden_layer_sizes=(4,), margin=1.0, solver="lbfgs").fit(X, y)


@pytest.mark.parametrize("name", [*CONVEX][:6])
def test_weight_decay_is_chosen_with_them(name):
    X, y, a = _data(2)
    settings = EXACT | {"weight_decay": "auto", "random_state": 0}
    clf = ERMClassifier(**_fields(CONVEX[name]), **settings).fit(X, y, attributes=a)
    assert clf.weight_decay_ in DECAYS
    assert np.isfinite(clf.weight_decay_path_["error"]).any()
    settings["weight_decay"] = clf.weight_decay_
    fixed = ERMClassifier(**_fields(CONVEX[name]), **settings).fit(X, y, attributes=a)
    np.testing.assert_allclose(clf.coef_, fixed.coef_, atol=1e-4)


@pytest.mark.parametrize("settings", [SGD, EXACT], ids=["sgd", "lbfgs"])
@pytest.mark.parametrize("named", [True, False])
def test_a_search_over_all_of_them_scores_each_as_it_would_alone(named, settings):
    X, y, a = _data(3)
    base = ERMClassifier(**settings) if named else DebiasedClassifier(ERM(), **settings)
    prefix = "" if named else "method__"
    grids = [
        {"margin": [0.0, 0.5, 15.0], "logit_adjustment": [0.0, 1.0]},
        {"reweight": ["class"], "balance_power": [0.5, 1.0], "margin": [0.0, 1.0]},
        {"balance": ["group"], "effective_beta": [0.9, 1.0], "margin": [0.0, 1.0]},
    ]
    if settings is SGD:
        grids += [{"loss": ["gce", "focal"], "loss_exponent": [0.0, 0.5]}]
    grids = [{prefix + k: v for k, v in grid.items()} for grid in grids]
    options = {"cv": 2, "refit": False, "scoring": "neg_log_loss"}
    search = BatchedGridSearchCV(base, grids, **options).fit(X, y, attributes=a)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores.round(8))) > len(scores) // 2
    for params, score in zip(search.cv_results_["params"], scores):
        alone = BatchedGridSearchCV(clone(base).set_params(**params), {}, **options)
        alone.fit(X, y, attributes=a)
        expected = alone.cv_results_["mean_test_score"][0]
        assert score == pytest.approx(expected, rel=1e-5)


REFUSED = {
    "balance": ("race", "choose one of None, 'class', 'group'"),
    "loss": ("hinge", "choose one of 'cross_entropy', 'gce', 'focal'"),
    "margin": (-1.0, "at least 0"),
    "logit_adjustment": (np.nan, "at least 0"),
    "balance_power": (11, r"in \[0, 10\]"),
    "effective_beta": (1.5, r"in \[0, 1\]"),
    "loss_exponent": (True, "at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_out_of_range(name):
    X, y, a = _data(2)
    value, message = REFUSED[name]
    settings = {"balance": "class", "loss": "focal"} | {name: value}
    with pytest.raises(ValueError, match=f"^{name}=.* of ERM: .*{message}"):
        DebiasedClassifier(ERM(**settings)).fit(X, y, attributes=a)
    if value is not True:
        with pytest.raises(ValueError, match=f"'{name}'"):
            ERMClassifier(**settings).fit(X, y, attributes=a)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_exponent": 0.7}, "loss_exponent=0.7 has no effect.*'gce' or 'focal'"),
        ({"balance_power": 0.5}, "balance_power=0.5 has no effect.*balance or rewei"),
        ({"effective_beta": 0.9}, "effective_beta=0.9 has no effect.*leave it at 1"),
        ({"loss": "gce", "loss_exponent": 2.0}, r"loss_exponent=2.0 .*in \[0, 1\]"),
        ({"class_weight": "balanced", "margin": 1.0}, "reweight='class'"),
        ({"class_weight": {0: 2}, "logit_adjustment": 1}, "logit_adjustment at 0"),
    ],
)
def test_what_has_no_effect_is_refused(settings, message):
    X, y, _ = _data(2)
    with pytest.raises(ValueError, match=message):
        ERMClassifier(**settings).fit(X, y)


def test_settings_survive_files(tmp_path):
    X, y, _ = _data(2)
    model = DebiasedClassifier(replace(EVERYTHING, reweight="class"), **SGD).fit(X, y)
    save(model, tmp_path / "head.safetensors")
    loaded = load(tmp_path / "head.safetensors")
    again = clone(loaded).fit(X, y)
    np.testing.assert_array_equal(again.coef_, model.coef_)
    named = ERMClassifier(**_fields(replace(EVERYTHING, reweight="class")), **SGD)
    np.testing.assert_array_equal(named.fit(X, y).coef_, model.coef_)


def test_easy_rows_count_more_or_less():
    """The biased model of gce reads the shortcut; focal looks at what is hard."""
    context = TrainingContext((None,), None, torch.device("cpu"), (0,))
    losses = torch.tensor([[0.1, 2.0]])[..., None]
    step = Step(torch.ones_like(losses), losses, *[torch.zeros(1, 2).long()] * 3)
    easy = ERM.weighting([ERM(loss="gce")], context)(step).weights[0, :, 0]
    hard = ERM.weighting([ERM(loss="focal")], context)(step).weights[0, :, 0]
    assert easy[0] > easy[1]
    assert hard[0] < hard[1]
