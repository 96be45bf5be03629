"""GERNE's identities, from the paper's equations."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from skdebias._engine._sampler import IndexSampler
from skdebias._groups import Groups
from skdebias.methods import (
    ERM,
    GERNE,
    beta_bounds,
    extrapolated_distribution,
    extrapolation_strength,
    slot_table,
)


def _labels(table):
    cells = np.argwhere(table > 0)
    return np.repeat(cells, table[table > 0], axis=0).T


def _groups(table):
    return Groups.from_labels(*_labels(table), *table.shape)


@st.composite
def tables(draw, max_classes=5, max_attributes=6, low=0):
    shape = draw(st.integers(2, max_classes)), draw(st.integers(1, max_attributes))
    size = shape[0] * shape[1]
    flat = draw(st.lists(st.integers(low, 400), min_size=size, max_size=size))
    table = np.array(flat).reshape(shape)
    assume((table.sum(1) > 0).all())
    return table


def _paper_p_ext(table, s):
    """p_ext(a|y) over the attribute values a class has, written as in the paper."""
    alpha = table / table.sum(1, keepdims=True)
    uniform = (table > 0) / (table > 0).sum(1, keepdims=True)
    return alpha + s * (uniform - alpha)


@given(tables(), st.floats(0.05, 1), st.floats(-1, 3), st.booleans())
def test_weights_of_a_step_are_the_extrapolated_distribution(table, c, beta, shared):
    groups = _groups(table)
    slots = slot_table([GERNE(beta, c, shared).plan(groups)], 64)
    per_group = np.bincount(slots.stratum, slots.weights[:, 0], len(groups.counts))
    expected = _paper_p_ext(table, extrapolation_strength(beta, c))[table > 0]
    np.testing.assert_allclose(per_group, expected / table.shape[0], atol=1e-12)
    np.testing.assert_allclose(
        extrapolated_distribution(groups, beta, c), expected, atol=1e-12
    )


@given(tables())
def test_special_cases(table):
    groups = _groups(table)
    n_classes = table.shape[0]
    by_class = extrapolated_distribution(groups, beta=-1, c=0.3) / n_classes
    class_balanced = slot_table([ERM("class").plan(groups)], 64)
    class_mass = np.bincount(class_balanced.stratum, class_balanced.weights[:, 0])
    share = groups.counts / table.sum(1)[groups.cells[:, 0]]
    np.testing.assert_allclose(by_class, class_mass[groups.cells[:, 0]] * share)

    resampled = extrapolated_distribution(groups, beta=0, c=1)
    present = (table > 0).sum(1)[groups.cells[:, 0]]
    np.testing.assert_allclose(resampled, 1 / present)


def test_one_batch_weights_vanish_in_the_special_cases():
    groups = _groups(np.array([[95, 5], [10, 90]]))
    biased, less_biased = GERNE(beta=-1, c=0.5).plan(groups).batches
    assert (biased.factor, less_biased.factor) == (1, 0)
    biased, less_biased = GERNE(beta=0, c=1).plan(groups).batches
    assert (biased.factor, less_biased.factor) == (0, 1)
    np.testing.assert_allclose(less_biased.probabilities, 0.25)


def test_group_counts_of_a_batch_are_fixed_and_class_uniform():
    plan = GERNE(beta=1, c=0.5).plan(_groups(np.array([[950, 50], [200, 800]])))
    biased, less_biased = plan.counts(800)
    np.testing.assert_array_equal(biased, [190, 10, 40, 160])
    np.testing.assert_array_equal(less_biased, [145, 55, 70, 130])


def _gradient(w, X, y, weights):
    w = w.clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy(X @ w, y, reduction="none")
    (weights * losses).sum().backward()
    return w.grad


def test_gradient_of_the_loss_form_equals_explicit_extrapolation():
    rng = torch.Generator().manual_seed(0)
    groups = _groups(np.array([[50, 3], [4, 60], [30, 30]]))
    slots = slot_table([GERNE(beta=1.7, c=0.4).plan(groups)], 96)
    n = len(slots.stratum)
    X = torch.randn(n, 8, generator=rng, dtype=torch.float64)
    w = torch.randn(8, 3, generator=rng, dtype=torch.float64)
    y = torch.from_numpy(groups.cells[slots.stratum, 0])
    grads = []
    for stream, factor in ((0, -1.7), (1, 2.7)):
        mean_weights = np.where(slots.stream == stream, slots.weights[:, 0] / factor, 0)
        assert mean_weights.sum() == pytest.approx(1)
        grads.append(_gradient(w, X, y, torch.from_numpy(mean_weights)))
    biased, less_biased = grads
    explicit = less_biased + 1.7 * (less_biased - biased)
    once = _gradient(w, X, y, torch.from_numpy(slots.weights[:, 0]))
    torch.testing.assert_close(once, explicit)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("beta", "c"), [(0.2, 0.5), (1.0, 0.5), (0.6, 0.9)])
def test_mean_gradient_is_the_weighted_full_batch_gradient(beta, c, shared):
    """s = 0.6, 1.0 and 1.44: below, at and above group balance."""
    rng = np.random.default_rng(1)
    groups = _groups(np.array([[180, 20], [15, 135]]))
    n = len(groups.ids)
    y = groups.cells[groups.ids, 0]
    X = rng.normal(size=(n, 4)) + groups.ids[:, None]
    w = rng.normal(size=4)
    residual = 1 / (1 + np.exp(-X @ w)) - y
    per_row = residual[:, None] * X

    p_ext = extrapolated_distribution(groups, beta, c)
    row_weights = (p_ext / (2 * groups.counts))[groups.ids]
    expected = row_weights @ per_row

    sampler = IndexSampler([GERNE(beta, c, shared).plan(groups)], 40, seed=3)
    steps = np.stack(list(sampler.steps(0, 12000)))
    gradients = (sampler.weights[:, 0, None] * per_row[steps]).sum(1)
    error = gradients.std(0) / np.sqrt(len(steps))
    # Within four standard errors, which are small against the gradient itself.
    assert (np.abs(gradients.mean(0) - expected) < 4 * error).all()
    assert (error < 0.02 * np.abs(expected).max()).all()


def test_sharing_draws_reduces_the_noise():
    rng = np.random.default_rng(0)
    groups = _groups(np.array([[190, 10], [10, 190]]))
    values = rng.normal(size=len(groups.ids))
    spread = {}
    for shared in (False, True):
        sampler = IndexSampler([GERNE(3, 0.25, shared).plan(groups)], 80, seed=0)
        steps = np.stack(list(sampler.steps(0, 2000)))
        spread[shared] = (sampler.weights[:, 0] * values[steps]).sum(1).var()
    assert spread[True] < spread[False] / 3


def _brute_force_bounds(table, c):
    """Equation 9 of the paper, per class over the attribute values it has."""
    alpha = table / table.sum(1, keepdims=True)
    uniform = np.broadcast_to(1 / (table > 0).sum(1, keepdims=True), table.shape)
    use = (table > 0) & (np.abs(alpha - uniform) > 1e-12)
    if not use.any():
        return -np.inf, np.inf
    gap = (uniform - alpha)[use]
    zero_at = -alpha[use] / (c * gap) - 1
    one_at = (1 - alpha[use]) / (c * gap) - 1
    return np.minimum(zero_at, one_at).max(), np.maximum(zero_at, one_at).min()


@given(tables(), st.floats(0.01, 1))
def test_bounds_equal_brute_force(table, c):
    low, high = beta_bounds(*_labels(table), c)
    np.testing.assert_allclose((low, high), _brute_force_bounds(table, c), rtol=1e-9)
    if np.isfinite(high):
        groups = _groups(table)
        assert low < -1 < high
        for beta in (low, high):
            p_ext = extrapolated_distribution(groups, beta, c)
            assert p_ext.min() == pytest.approx(0, abs=1e-9)
            assert p_ext.max() <= 1 + 1e-9
        assert extrapolated_distribution(groups, high + 0.1, c).min() < 0
        assert extrapolated_distribution(groups, low - 0.1, c).min() < 0


def test_bound_of_coloured_mnist():
    """alpha 0.995, A = 10, c = 0.5: the paper's 1.22."""
    table = np.full((10, 10), 1)
    np.fill_diagonal(table, 1791)
    assert table[0, 0] / table[0].sum() == pytest.approx(0.995)
    _, high = beta_bounds(*_labels(table), c=0.5)
    assert high == pytest.approx(1.2235, abs=5e-5)


def test_bounds_with_absent_cells_and_string_labels():
    y = np.array(["cat"] * 20 + ["dog"] * 100)
    place = np.array(["sofa"] * 20 + ["sofa"] * 10 + ["park"] * 90)
    low, high = beta_bounds(y, place, c=1.0)
    assert high == pytest.approx(0.9 / 0.4 - 1)  # the cats constrain nothing
    assert low == pytest.approx(-1 - 0.1 / 0.4)
    assert beta_bounds(["a", "b"], [0, 0], c=1.0) == (-np.inf, np.inf)
    several = np.column_stack([place, place])
    assert beta_bounds(y, several, c=1.0) == (low, high)


@pytest.mark.parametrize("c", [0, -0.5, 1.5])
def test_c_outside_its_range(c):
    with pytest.raises(ValueError, match=rf"c={c}.*\(0, 1\]"):
        beta_bounds([0, 1], [0, 1], c)
