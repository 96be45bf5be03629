"""CVaR-DRO, IRM and V-REx: limits, closed forms and refusals."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from skdebias import DebiasedClassifier, export
from skdebias._groups import Groups
from skdebias.datasets import make_spurious_classification
from skdebias.methods import ERM, IRM, CVaRDRO, Step, TrainingContext, VREx

CPU = torch.device("cpu")
QUICK = {"random_state": 0, "device": "cpu", "max_iter": 5, "batch_size": 64}


def _data(n_samples=300, n_attributes=2):
    return make_spurious_classification(
        n_samples, n_features=6, n_attributes=n_attributes, random_state=0
    )


def _fit(method, X, y, attributes=None, **settings):
    model = DebiasedClassifier(method, **QUICK | settings)
    return model.fit(X, y, attributes=attributes)


def _step(losses, strata=None, weights=None, number=0):
    """A step of one stream."""
    losses = torch.as_tensor(losses, dtype=torch.float32)
    n_rows, n_heads = losses.shape
    if weights is None:
        weights = torch.full((n_rows, n_heads), 1.0 / n_rows)
    strata = torch.zeros(n_rows, dtype=int) if strata is None else strata
    y = torch.zeros(1, n_rows, dtype=int)
    return Step(weights[None], losses[None], strata[None], y, y, number)


def _context(groups):
    return TrainingContext(tuple(groups), torch.zeros(1, dtype=int), CPU, (0,))


# --- CVaR ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.13, 0.5, 1.0])
def test_cvar_is_the_value_of_the_linear_programme(alpha):
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=(31, 1)).round(1)  # with ties
    share = rng.dirichlet(np.ones(31))
    weights = torch.from_numpy(share[:, None]).float()
    groups = Groups.from_labels(np.arange(4) % 2, np.zeros(4, int), 2, 1)
    rule = CVaRDRO.weighting([CVaRDRO(alpha)], _context([groups]))
    ours = rule(_step(losses, weights=weights))[0, :, 0].numpy()
    best = linprog(
        -losses[:, 0],
        A_eq=np.ones((1, 31)),
        b_eq=1.0,
        bounds=[*zip(0 * share, share / alpha)],
    )
    assert ours @ losses[:, 0] == pytest.approx(-best.fun, rel=1e-5)
    assert ours.sum() == pytest.approx(1.0, abs=1e-5)
    assert (ours <= share / alpha + 1e-6).all()
    for value in np.unique(losses):  # equal losses count alike, row for row
        ratio = (ours / share)[losses[:, 0] == value]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_cvar_of_equal_losses_and_of_all_rows_is_erm():
    X, y, _ = _data()
    whole = _fit(CVaRDRO(1.0), X, y)
    np.testing.assert_allclose(whole.coef_, _fit(ERM(), X, y).coef_, atol=1e-6)
    first = {"max_iter": 1, "batch_size": 300, "momentum": 0.0}
    np.testing.assert_allclose(
        _fit(CVaRDRO(0.1), X, y, **first).coef_, _fit(ERM(), X, y, **first).coef_,
        atol=1e-7,
    )  # fmt: skip
    balanced = _fit(CVaRDRO(1.0, "class"), X, y)
    np.testing.assert_allclose(
        balanced.coef_, _fit(ERM("class"), X, y).coef_, atol=1e-6
    )


# --- environments --------------------------------------------------------------------


@pytest.mark.parametrize("balance", [None, "class"])
def test_without_a_penalty_environments_count_alike(balance):
    X, y, a = _data()
    irm = _fit(IRM(0.0, balance=balance), X, y, a)
    vrex = _fit(VREx(0.0, balance=balance), X, y, a)
    np.testing.assert_allclose(irm.coef_, vrex.coef_, atol=1e-6)
    if balance == "class":  # which are then the groups
        grouped = _fit(ERM("group"), X, y, a)
        np.testing.assert_allclose(irm.coef_, grouped.coef_, atol=1e-6)
    plan = IRM(balance=balance).plan(Groups.from_labels(y, a, 2, 2))
    share = plan.batches[0].probabilities[plan.strata]
    share = share / np.bincount(plan.strata)[plan.strata]
    np.testing.assert_allclose(np.bincount(a, share), 0.5)


def test_of_one_environment_vrex_is_erm():
    X, y, _ = _data()
    with pytest.warns(UserWarning, match="attributes"):
        model = _fit(VREx(1e3, 0), X, y)
    with pytest.warns(UserWarning, match="attributes"):
        np.testing.assert_array_equal(model.coef_, _fit(VREx(0.0), X, y).coef_)


@pytest.mark.parametrize("balance", [None, "class"])
def test_streams_with_other_environments(balance):
    # A fold that lacks attribute 1, beside one that has all three.
    y = np.arange(24) % 2
    a = np.arange(24) // 2 % 3
    some = np.flatnonzero(a != 1)
    groups = [
        Groups.from_labels(y, a, 2, 3),
        Groups.from_labels(y[some], a[some], 2, 3),
    ]
    logits = torch.randn(2, 24, 1, 1, generator=torch.Generator().manual_seed(0))
    losses = torch.rand(2, 24, 1, generator=torch.Generator().manual_seed(1))
    irm, vrex = IRM(2.0, 0, balance=balance), VREx(2.0, 0, balance=balance)

    def step(streams):
        plans = [irm.plan(groups[s]) for s in streams]
        strata, weights = [], []
        for plan in plans:
            n_strata = len(plan.batches[0].probabilities)
            strata.append(np.repeat(np.arange(n_strata), 24 // n_strata))
            share = plan.batches[0].probabilities * n_strata / 24
            weights.append(share[strata[-1]])
        codes = torch.from_numpy(np.stack(strata))
        return Step(
            torch.from_numpy(np.stack(weights)).float()[..., None],
            losses[streams],
            codes,
            codes,
            codes % 2,
        )

    def both(streams):
        context = _context([groups[s] for s in streams])
        methods = len(streams)
        penalty = IRM.objective([irm] * methods, context)
        weighted = VREx.weighting([vrex] * methods, context)(step(streams))
        return penalty(step(streams), logits[streams]), *vars(weighted).values()

    together = both([0, 1])
    for stream in (0, 1):
        for ours, alone in zip(together, both([stream])):
            np.testing.assert_allclose(ours[stream], alone[0], rtol=1e-6, atol=1e-7)


def test_the_product_of_halves_has_the_right_mean():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=4000).astype(np.float32), rng.integers(0, 2, 4000)
    slope = (1.0 / (1.0 + np.exp(-z)) - y) * z
    groups = Groups.from_labels(y, np.zeros(4000, int), 2, 1)
    found = {}
    for unbiased in (True, False):
        penalty = IRM.objective([IRM(1.0, 0, unbiased)], _context([groups]))
        values = []
        for _ in range(3000):
            rows = rng.integers(0, 4000, 8)
            step = _step(np.zeros((8, 1)))
            step = Step(step.weights, step.losses, step.strata, step.rows,
                        torch.from_numpy(y[rows])[None])  # fmt: skip
            logits = torch.from_numpy(z[rows]).view(1, 8, 1, 1)
            values.append(float(penalty(step, logits)))
        found[unbiased] = np.mean(values), np.std(values) / 3000**0.5
    square = slope.mean() ** 2
    assert abs(found[True][0] - square) < 4 * found[True][1]
    assert found[False][0] - square == pytest.approx(slope.var() / 8, rel=0.15)


def test_a_penalty_that_was_never_raised_is_warned_of():
    X, y, a = _data()
    for method in (IRM(), VREx()):
        name = type(method).__name__
        with pytest.warns(UserWarning, match=f"{name} kept a weight of 1.*25 steps"):
            _fit(method, X, y, a)
    with pytest.warns(UserWarning, match="kept a weight of 1"):
        _fit(IRM(anneal=25), X, y, a)
    _fit(IRM(10.0, anneal=24), X, y, a)


# --- refusals ------------------------------------------------------------------------

WRONG = [
    (CVaRDRO(0.0), "alpha=0.0 of CVaRDRO: give a number in"),
    (CVaRDRO(1.5), "alpha=1.5"),
    (CVaRDRO(balance="group"), "balance='group' of CVaRDRO: choose one of None"),
    (IRM(-1.0), "penalty_weight=-1.0 of IRM: give a number of at least 0"),
    (IRM(anneal=None), "anneal=None"),
    (IRM(unbiased=3), "unbiased=3"),
    (VREx(np.nan), "penalty_weight=nan of VREx"),
    (VREx(anneal=-1), "anneal=-1"),
]


@pytest.mark.parametrize(("method", "message"), WRONG)
def test_values_that_are_out_of_range(method, message):
    X, y, a = _data()
    with pytest.raises(ValueError, match=message):
        _fit(method, X, y, a)


def test_what_cannot_be_trained():
    X, y, a = _data()
    for method in (CVaRDRO(), IRM(), VREx()):
        name = type(method).__name__
        with pytest.raises(ValueError, match=f"solver='lbfgs'.*{name}"):
            _fit(method, X, y, a, solver="lbfgs")
    with pytest.raises(ValueError, match="single row: raise batch_size, or choose unb"):
        _fit(IRM(), X, y, a, batch_size=2)
    _fit(IRM(1.0, unbiased=False), X, y, a, batch_size=2)


@pytest.mark.parametrize("method", [CVaRDRO(0.3), IRM(2.0, 3), VREx(2.0, 3)])
def test_saved_and_loaded(method, tmp_path):
    X, y, a = _data()
    model = _fit(method, X, y, a if method.uses_attributes else None)
    export.save(model, tmp_path / "head.safetensors")
    loaded = export.load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    again = loaded.fit(X, y, attributes=a if method.uses_attributes else None)
    np.testing.assert_array_equal(again.coef_, model.coef_)
