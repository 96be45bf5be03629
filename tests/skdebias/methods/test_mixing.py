"""Mixup and LISA: what is mixed with what, limits and refusals."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from skdebias import DebiasedClassifier, export
from skdebias._engine._mixing import MixedRows
from skdebias._groups import Groups
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import (
    ERM,
    LISA,
    Batch,
    DrawnRows,
    Mixture,
    Mixup,
    SamplingPlan,
    TrainingContext,
)
from skdebias.methods._mixup import draw_partners
from tests._instances import as_network

CPU = torch.device("cpu")
QUICK = {"random_state": 0, "device": "cpu", "max_iter": 5, "batch_size": 64}


def _data(n_samples=300):
    return make_spurious_classification(n_samples, n_features=6, random_state=0)


def _fit(method, X, y, attributes=None, **settings):
    model = DebiasedClassifier(method, **QUICK | settings)
    return model.fit(X, y, attributes=attributes)


@pytest.mark.parametrize("hidden", [(), (5,)])
def test_nothing_mixed_is_erm(hidden):
    X, y, a = _data()
    sizes = {"hidden_layer_sizes": hidden}
    plain = _fit(ERM(), X, y, **sizes)
    mixed = _fit(Mixup(0.0), X, y, **sizes)
    np.testing.assert_allclose(
        mixed.predict_proba(X), plain.predict_proba(X), atol=1e-6
    )
    by_group = _fit(ERM("group"), X, y, a, **sizes)
    for method in (LISA(0.0, balance="group"), Mixup(0.0, "domain", "class")):
        mixed = _fit(method, X, y, a, **sizes)
        np.testing.assert_allclose(
            mixed.predict_proba(X), by_group.predict_proba(X), atol=1e-6
        )


@pytest.mark.parametrize("p_sel", [0.0, 1.0])
def test_lisa_changes_one_of_class_and_attribute(p_sel):
    # Class 2 has one attribute value alone.
    y = np.array([0, 0, 0, 1, 1, 1, 2, 2] * 4)
    a = np.array([0, 1, 1, 0, 1, 0, 0, 0] * 4)
    groups = Groups.from_labels(y, a, 3, 2)
    context = TrainingContext((groups,), torch.from_numpy(y), CPU, (3,))
    rule = LISA.mixing([LISA(p_sel=p_sel), LISA(0.5, p_sel=p_sel)], context)
    strata, codes = torch.from_numpy(groups.ids)[None], torch.from_numpy(y)[None]
    weights = torch.ones(1, len(y), 2)
    for number in range(20):
        mixture = rule(DrawnRows(weights, strata, strata, codes, number))
        partners = mixture.partners[0].numpy()
        same_class, same_attribute = y == y[partners], a == a[partners]
        plain = partners == np.arange(len(y))
        if p_sel == 1.0:
            np.testing.assert_array_equal(plain, y == 2)
            assert (same_class & ~same_attribute)[~plain].all()
        else:
            assert not plain.any()
            assert (same_attribute & ~same_class).all()
        assert mixture.weights.shape == (1, len(y), 2)
        assert not torch.equal(mixture.weights[..., 0], mixture.weights[..., 1])


def test_shares_are_beta_and_partners_by_weight():
    context = TrainingContext(
        (Groups.from_labels([0, 1], [0, 0], 2, 1),),
        torch.zeros(2, dtype=int),
        CPU,
        (1,),
    )
    rule = Mixup.mixing([Mixup(0.4), Mixup(0.0), Mixup(1e6)], context)
    shares = np.stack([rule._shares(number)[0] for number in range(4000)])
    assert shares[:, 0].mean() == pytest.approx(0.5, abs=0.03)
    assert shares[:, 0].var() == pytest.approx(0.25 / 1.8, rel=0.05)  # 1 / (4 (2a + 1))
    np.testing.assert_array_equal(shares[:, 1], 1.0)
    np.testing.assert_allclose(shares[:, 2], 0.5, atol=0.01)
    numbers = torch.linspace(0, 1 - 2**-24, 7001)[:, None].expand(-1, 3)
    allowed = torch.tensor([[False, True, True], [True, False, True], [False] * 3])
    partners = draw_partners(
        allowed.expand(7001, -1, -1), torch.tensor([[1.0, 2.0, 4.0]]), numbers
    )
    np.testing.assert_allclose(
        np.bincount(partners[:, 0]) / 7001, [0, 1 / 3, 2 / 3], atol=1e-3
    )
    np.testing.assert_allclose(
        np.bincount(partners[:, 1]) / 7001, [0.2, 0, 0.8], atol=1e-3
    )
    assert (partners[:, 2] == 2).all()


def test_the_adjoint_is_that_of_mixing():
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(2, 7, 3, 4, generator=generator, requires_grad=True)
    delta = torch.randn(2, 7, 3, 4, generator=generator)
    mixed = MixedRows(
        torch.randint(0, 7, (2, 7), generator=generator),
        torch.rand(2, 7, 3, generator=generator),
        torch.zeros(2, 7, dtype=int),
    )
    (mixed.outputs(out) * delta).sum().backward()
    torch.testing.assert_close(mixed.adjoint(delta), out.grad)
    row, partner = out[1, 4], out[1, mixed.partners[1, 4]]
    share = mixed.weights[1, 4][:, None]
    torch.testing.assert_close(
        mixed.outputs(out)[1, 4], share * row + (1 - share) * partner
    )


class Recorder(torch.nn.Module):
    """An embedding that keeps what it is given in training."""

    seen = []  # of all copies

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return self.layer(x).relu()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_networks_mix_their_items(accumulate):
    _, y, a = _data()
    X = np.column_stack([y, a]).astype(np.float32)
    method = LISA(alpha=1e6, p_sel=1.0)  # half and half
    Recorder.seen.clear()
    as_network(
        DebiasedClassifier(method), Recorder(), **QUICK, accumulate=accumulate
    ).fit(X, y, attributes=a)
    classes, attributes = torch.cat(Recorder.seen).unbind(1)
    assert len(classes) == 5 * 5 * 64
    torch.testing.assert_close(classes, classes.round(), atol=1e-3, rtol=0.0)
    half = torch.full_like(attributes, 0.5)
    torch.testing.assert_close(attributes, half, atol=1e-3, rtol=0.0)


def test_texts_cannot_be_mixed():
    batch = {"input_ids": torch.zeros(4, 3, dtype=int)}
    mixed = MixedRows(
        torch.zeros(1, 2, dtype=int), torch.ones(1, 2, 1), torch.ones(1, 2)
    )
    with pytest.raises(ValueError, match=r"texts cannot be mixed.*EmbeddingExtractor"):
        mixed.inputs(batch)


# --- refusals ------------------------------------------------------------------------

WRONG = [
    (Mixup(-0.1), "alpha=-0.1 of Mixup"),
    (Mixup(pairs="all"), "pairs='all' of Mixup"),
    (Mixup(balance="group"), "balance='group'"),
    (LISA(p_sel=1.5), "p_sel=1.5 of LISA"),
    (LISA(np.inf), "alpha=inf of LISA"),
    (LISA(balance="all"), "balance='all'"),
]


@pytest.mark.parametrize(("method", "message"), WRONG)
def test_values_that_are_out_of_range(method, message):
    X, y, a = _data()
    with pytest.raises(ValueError, match=message):
        _fit(method, X, y, a)


@pytest.mark.parametrize("method", [Mixup(), LISA()])
def test_no_deterministic_solver(method):
    X, y, a = _data()
    with pytest.raises(ValueError, match=r"solver='lbfgs'.*(Mixup|LISA)"):
        _fit(method, X, y, a, solver="lbfgs")


@dataclass(frozen=True)
class Asked(Mixup):
    """A mixture that is handed over, and offsets."""

    answer: object = None
    offsets: bool = False

    def plan(self, groups):
        offsets = np.ones((1, 2)) * [0.0, 1.0] if self.offsets else None
        batch = Batch("all", np.ones(1))
        strata = np.zeros(len(groups.ids), dtype=int)
        return SamplingPlan(strata, (batch,), logit_offsets=offsets)

    @classmethod
    def mixing(cls, methods, context):
        return Answer(methods[0].answer)


class Answer:
    def __init__(self, answer):
        self._answer = answer

    def __call__(self, drawn):
        return self._answer(drawn)

    def select(self, methods):
        pass


def test_what_is_no_mixture():
    X, y, _ = _data()
    for answer in (lambda d: d.y, lambda d: Mixture(d.y, d.weights[:, :1])):
        head = DebiasedClassifier(Asked(answer=answer))
        network = FineTuneClassifier(head, torch.nn.Identity(), modality="tensor")
        for model in (head, network):
            message = r"Answer returned .*Mixture of partners"
            with pytest.raises(ValueError, match=message):
                model.fit(X, y)
    whole = Asked(answer=lambda d: Mixture(torch.zeros_like(d.y), d.weights * 0 + 1.0))
    _fit(whole, X, y)
    with pytest.raises(ValueError, match="Asked mixes rows, and has logit_offsets"):
        _fit(Asked(answer=whole.answer, offsets=True), X, y)


@pytest.mark.parametrize("method", [Mixup(), Mixup(1.0, "domain"), LISA(1.0)])
def test_saved_and_loaded(method, tmp_path):
    X, y, a = _data()
    a = a if method.uses_attributes else None
    model = _fit(method, X, y, a)
    export.save(model, tmp_path / "head.safetensors")
    loaded = export.load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.fit(X, y, attributes=a).coef_, model.coef_)
