"""Methods that need a whole network: against plain torch, and where they cannot be."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn
from torch.nn.functional import cross_entropy

from skdebias import DebiasedClassifier
from skdebias._engine._heads import initial_parameters
from skdebias._engine._loss import n_logits
from skdebias._engine._problem import Problem
from skdebias._engine._sampler import IndexSampler
from skdebias._groups import Groups
from skdebias._prepare import draw_seed
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import (
    DFA,
    ERM,
    MMDAAE,
    Auxiliary,
    DeNetDM,
    FeatureSieve,
    Head,
    NoisyStudent,
    PenaltyTerm,
    class_logits,
    uniform,
)
from skdebias.methods._mmdaae import laplace
from skdebias.model_selection import BatchedGridSearchCV

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*accuracy:UserWarning",
    "ignore:NoisyStudent lives on noise",
    "ignore::skdebias.AttributesIgnoredWarning",
)
SETTINGS = {
    "learning_rate": 0.05,
    "weight_decay": 0.02,
    "momentum": 0.9,
    "batch_size": 60,
    "max_iter": 4,
}
GIVEN = {"modality": "tensor", "random_state": 0, "device": "cpu"}
SEED = draw_seed(0)
METHODS = {
    "noisy student": NoisyStudent(teacher_epochs=2),
    "feature sieve": FeatureSieve("0"),
    "dfa": DFA(),
    "denetdm": DeNetDM("0"),
    "mmd-aae": MMDAAE(),
}


def _data(n_classes=2, n_rows=300):
    X, y, a = make_spurious_classification(
        n_rows, n_features=8, n_classes=n_classes, n_attributes=2, random_state=0
    )
    return X.astype(np.float32), y, a


def _backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh())


def _model(method, backbone=None, **settings):
    return FineTuneClassifier(
        DebiasedClassifier(method),
        backbone or _backbone(),
        **(GIVEN | SETTINGS | settings),
    )


def _linear(n_in, n_out, stream):
    """A layer with the weights that a head of the run starts from."""
    (coef,), (bias,) = initial_parameters([n_in, n_out], SEED, stream, from_zero=False)
    layer = nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(coef))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def _sgd(module, rate):
    """Plain SGD on a module, whose biases do not decay."""
    return torch.optim.SGD(
        [
            {"params": [p], "weight_decay": SETTINGS["weight_decay"] * (p.ndim > 1)}
            for p in module.parameters()
        ],
        SETTINGS["learning_rate"] * rate,
        SETTINGS["momentum"],
    )


def _in_torch(method, X, y, a, loss, networks, *, windows=None, U=None, rates=None):
    """Train networks on the rows of a run; `loss(number, rows)` is that of a step."""
    n_classes = int(y.max()) + 1
    groups = Groups.from_labels(y, a, n_classes, int(a.max()) + 1)
    n_unlabeled = 0 if U is None else len(U)
    plans = Problem([method], groups, SEED, n_unlabeled=n_unlabeled).plans()
    drawn = IndexSampler(plans, SETTINGS["batch_size"], SEED)
    per_epoch = -(-len(y) // SETTINGS["batch_size"])
    windows = windows or [(1, SETTINGS["max_iter"])] * len(networks)
    rates = rates or [1.0] * len(networks)
    optimizers = [_sgd(network, rate) for network, rate in zip(networks, rates)]
    for epoch in range(1, SETTINGS["max_iter"] + 1):
        steps = drawn.steps((epoch - 1) * per_epoch, epoch * per_epoch)
        for number, rows in enumerate(steps, (epoch - 1) * per_epoch):
            value = loss(number, torch.from_numpy(rows))
            for optimizer in optimizers:
                optimizer.zero_grad()
            value.backward()
            for optimizer, (first, last) in zip(optimizers, windows):
                if first <= epoch <= last:
                    optimizer.step()


def _assert_close(fitted, network, tolerance=2e-5):
    state = {
        name: value.detach().cpu().numpy()
        for name, value in fitted.network_.state_dict().items()
    }
    for found, wanted in zip(state.values(), network.state_dict().values()):
        np.testing.assert_allclose(found, wanted.numpy(), atol=tolerance, rtol=1e-4)


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_heads_on_embeddings_are_refused_by_name(name):
    X, y, _ = _data()
    method = METHODS[name]
    message = rf"(?s){type(method).__name__} needs .*FineTuneClassifier"
    model = DebiasedClassifier(method)
    more = {"X_unlabeled": X} if method.uses_unlabeled else {}
    for fit in (
        lambda: model.fit(X, y, **more),
        lambda: model.set_params(hidden_layer_sizes=(4,)).fit(X, y, **more),
        lambda: BatchedGridSearchCV(model, {"learning_rate": [0.1]}).fit(X, y, **more),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fit()


WRONG = {
    "noisy student": {
        "teacher_epochs": 0, "strength": -1.0, "min_confidence": 1.0, "targets": "both",
        "balance": "group",
    },
    "feature sieve": {"every": 0, "strength": -1, "rate": 0.0, "balance": "both"},
    "dfa": {
        "q": 0.0, "alpha": 1.0, "swap_after": -1, "strength": np.nan,
        "biased_strength": -1, "balance": "group",
    },
    "denetdm": {"expert_epochs": 1.5, "distillation": -1, "temperature": 0.0},
    "mmd-aae": {"discrepancy": -1, "reconstruction": -1, "adversary": np.inf},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_parameters_out_of_range(name):
    X, y, a = _data()
    for field, value in WRONG[name].items():
        method = dataclasses.replace(METHODS[name], **{field: value})
        more = {"X_unlabeled": X} if method.uses_unlabeled else {}
        label = type(method).__name__
        with pytest.raises(ValueError, match=f"{field}={value!r} of {label}"):
            _model(method, max_iter=9).fit(X, y, a, **more)


def test_heads_of_networks_that_do_not_say_so():
    class Later(ERM):
        heads = (Head("first"), Head(first_epoch=2))

    X, y, _ = _data()
    with pytest.raises(TypeError, match=r"Later needs heads .*FineTuneClassifier"):
        DebiasedClassifier(Later()).fit(X, y)
    for head in (Head(first_epoch=0), Head(first_epoch=3, epochs=2)):
        Later.heads = (head,)
        with pytest.raises(ValueError, match="first_epoch"):
            _model(Later()).fit(X, y)


def test_a_result_that_would_never_be_trained():
    X, y, _ = _data()
    with pytest.raises(ValueError, match=r"max_iter=2: NoisyStudent .* epoch 3"):
        _model(NoisyStudent(2), max_iter=2).fit(X, y, X_unlabeled=X)


# --- items without labels -------------------------------------------------------------


def test_items_without_labels_that_do_not_go_with_the_method():
    X, y, _ = _data()
    model = _model(NoisyStudent(2))
    with pytest.raises(ValueError, match=r"NoisyStudent .*X_unlabeled .*FineTune"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="X_unlabeled has no effect: ERM does not"):
        _model(ERM()).fit(X, y, X_unlabeled=X)
    with pytest.raises(ValueError, match="X_unlabeled"):
        model.fit(X, y, X_unlabeled=X[:, :5])
    with pytest.raises(ValueError, match=r"X_unlabeled.*NaN"):
        model.fit(X, y, X_unlabeled=np.full_like(X, np.nan))
    flat = _model(NoisyStudent(2), nn.Sequential(nn.Flatten(), nn.Linear(8, 4)))
    with pytest.raises(ValueError, match=r"X_unlabeled has items of shape \(4, 3\)"):
        flat.fit(X.reshape(-1, 4, 2), y, X_unlabeled=np.zeros((9, 4, 3), np.float32))


# --- noisy student --------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_noisy_student_is_that_of_plain_torch(n_classes, targets):
    X, y, a = _data(n_classes)
    U = _data(n_classes, 500)[0][300:] + np.float32(0.2)
    method = NoisyStudent(2, 0.7, targets, 0.55)
    fitted = _model(method).fit(X, y, X_unlabeled=U)
    assert fitted.best_epoch_ == SETTINGS["max_iter"]
    assert fitted.group_counts_.sum() == len(y)
    networks = [
        nn.Sequential(_backbone(), _linear(5, n_logits(n_classes), stream))
        for stream in (0, 1)
    ]
    items, labels = torch.from_numpy(np.concatenate([X, U])), torch.from_numpy(y)

    def loss(_, rows):
        known = rows < len(y)
        teacher, student = (class_logits(net(items[rows])) for net in networks)
        given = labels[rows[known]]
        said = teacher[~known].detach().softmax(1)
        sureness, classes = said.max(1)
        targets_ = classes if targets == "hard" else said
        learned = cross_entropy(student[~known], targets_, reduction="none")
        return (
            cross_entropy(teacher[known], given)
            + cross_entropy(student[known], given)
            + 0.7 * (learned * (sureness >= 0.55)).mean()
        )

    windows = [(1, 2), (3, 4)]
    _in_torch(method, X, y, a, loss, networks, windows=windows, U=U)
    _assert_close(fitted, networks[1])
    teacher = fitted.teacher_network_.state_dict().values()
    for found, wanted in zip(teacher, networks[0].state_dict().values()):
        np.testing.assert_allclose(found.detach(), wanted, atol=2e-5)


def test_the_weight_of_a_noisy_student():
    X, y, _ = _data()
    scores = [
        _model(NoisyStudent(1, strength))
        .fit(X, y, X_unlabeled=X[:50] + 1)
        .decision_function(X)
        for strength in (0.0, 1.0)
    ]
    assert not np.allclose(*scores)


def test_a_noisy_student_without_noise_is_told_of():
    X, y, _ = _data()
    with pytest.warns(UserWarning, match="augment, or a dropout"):
        _model(NoisyStudent(1)).fit(X, y, X_unlabeled=X)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="NoisyStudent lives on noise")
        _model(NoisyStudent(1), dropout=0.2).fit(X, y, X_unlabeled=X)


class Noise:
    """Noise that is far off, so that who sees it predicts something else."""

    def __call__(self, item):
        return item + torch.randn_like(item) * 3.0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_frozen_teacher_sees_items_without_noise(accumulate, monkeypatch):
    from skdebias.finetune._networks import Networks

    X, y, _ = _data()
    seen, forward = [], Networks.forward

    def noted(self, batch, clean=None):
        if self.training:
            known = torch.from_numpy(X)
            found = batch if clean is None else clean
            is_item = (found[:, None] == known).all(2).any(1).all()
            seen.append((clean is not None, bool(is_item)))
        return forward(self, batch, clean)

    monkeypatch.setattr(Networks, "forward", noted)
    model = _model(NoisyStudent(2), augment=Noise(), accumulate=accumulate)
    model.fit(X, y, X_unlabeled=X[:90])
    half = len(seen) // 2
    assert seen[:half] == [(False, False)] * half
    assert seen[half:] == [(True, True)] * half


def test_epochs_before_the_student_are_never_kept():
    X, y, a = _data()
    model = _model(NoisyStudent(3), early_stopping=True, n_iter_no_change=1, tol=2.0)
    model.fit(X, y, X_val=X, y_val=y, attributes_val=a, X_unlabeled=X)
    assert model.best_epoch_ == 4
    assert len(model.history_["validation_score"]) == 4


# --- layers and auxiliary heads -------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_feature_sieve_is_that_of_plain_torch(n_classes, every, accumulate):
    X, y, a = _data(n_classes)
    method = FeatureSieve("1", every, 0.6, (7,), rate=2.0)
    fitted = _model(method, accumulate=accumulate).fit(X, y)
    backbone = _backbone()
    n_out = n_logits(n_classes)
    network = nn.Sequential(backbone, _linear(5, n_out, 0))
    coefs, biases = initial_parameters([6, 7, n_out], SEED, 1000, from_zero=False)
    sieve = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, n_out))
    with torch.no_grad():
        for layer, coef, bias in zip((sieve[0], sieve[2]), coefs, biases):
            layer.weight.copy_(torch.from_numpy(coef))
            layer.bias.copy_(torch.from_numpy(bias))
    items, labels = torch.from_numpy(X), torch.from_numpy(y)

    def loss(number, rows):
        features = backbone[:2](items[rows])
        logits = network[1](backbone[2:](features))
        known = sieve(features.detach())
        value = cross_entropy(class_logits(logits), labels[rows])
        value = value + cross_entropy(class_logits(known), labels[rows])
        if (number + 1) % every == 0:
            sieve.requires_grad_(False)
            seen = class_logits(sieve(features))
            sieve.requires_grad_(True)
            value = value - 0.6 * seen.log_softmax(1).mean()
        return value

    _in_torch(method, X, y, a, loss, [network, sieve], rates=[1.0, 2.0])
    _assert_close(fitted, network)
    assert not any("sieve" in name for name in fitted.network_.state_dict())


def test_a_sieve_without_strength_is_erm():
    X, y, _ = _data()
    erm = _model(ERM()).fit(X, y)
    for strength, equal in ((0.0, True), (1.0, False)):
        sieve = _model(FeatureSieve("1", 1, strength)).fit(X, y)
        same = np.allclose(sieve.decision_function(X), erm.decision_function(X))
        assert same == equal


def test_a_sieve_erases_what_an_early_layer_knows():
    X, y, _ = _data(n_rows=600)
    told = []
    for strength in (0.0, 3.0):
        model = _model(FeatureSieve("1", 1, strength), max_iter=10).fit(X, y)
        with torch.no_grad():
            features = model.network_.backbone[:2](torch.from_numpy(X))
        probe = LogisticRegression(max_iter=1000).fit(features, y)
        told.append(-log_loss(y, probe.predict_proba(features)))
    assert told[1] < told[0]


class Maps(nn.Module):
    """A layer of maps, one of sequences, one of pairs, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv1d(1, 4, 3, padding=1)
        self.pair = nn.GRU(4, 3, batch_first=True)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.pair(self.maps(x[:, None]).mT)[0][:, -1]


def test_layers_that_cannot_be_taken():
    X, y, _ = _data()
    torch.manual_seed(0)
    for layer, message in (
        ("unused", "layer='unused' of FeatureSieve is not run"),
        ("map", "layer='map' is not the name of a submodule.*'maps'"),
    ):
        with pytest.raises(ValueError, match=message):
            _model(FeatureSieve(layer), Maps()).fit(X, y)
    for layer in ("maps", "pair", "embedding"):
        _model(FeatureSieve(layer, 2), Maps(), max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match=r"trains what leads to the layer '1'.*freeze"):
        _model(FeatureSieve("1"), freeze=["0"]).fit(X, y)


def test_auxiliary_heads_that_cannot_be():
    X, y, _ = _data()

    class Asking(ERM):
        auxiliaries = ()
        asked = staticmethod(lambda forward: forward.layer("embedding"))

        @classmethod
        def penalty(cls, methods, context):
            return Asked(cls.asked)

    class Asked:
        def __init__(self, ask):
            self.ask = ask

        def __call__(self, step, forward):
            self.ask(forward)
            zeros = torch.zeros_like(forward.logits).detach()
            return PenaltyTerm(forward.logits.sum((1, 3)) * 0, zeros)

    with pytest.raises(ValueError, match=r"layer 'embedding'.*Method.layers"):
        _model(Asking()).fit(X, y)
    with pytest.raises(ValueError, match=r"layer 'embedding'.*FineTuneClassifier"):
        DebiasedClassifier(Asking()).fit(X, y)
    Asking.asked = staticmethod(lambda forward: forward.auxiliary("other", None))
    with pytest.raises(ValueError, match=r"head 'other'.*Method.auxiliaries"):
        _model(Asking()).fit(X, y)
    for wrong, message in (
        (Auxiliary("a", "1", n_outputs=0), "n_outputs=0"),
        (Auxiliary("a b"), "give a name"),
        (Auxiliary("a", 1), "layer=1"),
        (Auxiliary("a", hidden_layer_sizes=(0,)), "hidden_layer_sizes"),
        (Auxiliary("a", rate=0.0), "rate=0.0"),
    ):
        Asking.auxiliaries = (wrong,)
        with pytest.raises(ValueError, match=message):
            _model(Asking()).fit(X, y)
    Asking.auxiliaries = (Auxiliary("a"), Auxiliary("a", "1"))
    with pytest.raises(ValueError, match="there twice"):
        _model(Asking()).fit(X, y)
    Asking.auxiliaries = [Auxiliary("a")]
    with pytest.raises(TypeError, match="a tuple of"):
        _model(Asking()).fit(X, y)


# --- features of two backbones --------------------------------------------------------


class _Difficulty:
    """Moving averages per row, as LfF has them."""

    def __init__(self, y, alpha):
        self.average = torch.full((len(y), 2), -1.0)
        self.y, self.alpha = torch.from_numpy(y), alpha

    def weights(self, rows, losses):
        for row, loss in zip(rows, losses.detach()):
            before = self.average[row]
            new = self.alpha * before + (1 - self.alpha) * loss
            self.average[row] = torch.where(before < 0, loss, new)
        largest = torch.stack(
            [self.average[self.y == label].amax(0) for label in self.y[rows]]
        )
        biased, debiased = (self.average[rows] / largest).T
        return biased / (biased + debiased)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("swap_after", [0, 7])
def test_dfa_is_that_of_plain_torch(n_classes, swap_after):
    X, y, a = _data(n_classes)
    method = DFA(0.6, 0.5, swap_after, 0.8, 0.3)
    fitted = _model(method).fit(X, y)
    backbones = [_backbone(), _backbone()]
    heads = [_linear(10, n_logits(n_classes), stream) for stream in (0, 1)]
    items, labels = torch.from_numpy(X), torch.from_numpy(y)
    difficulty = _Difficulty(y, 0.5)

    def each(logits, targets):
        return cross_entropy(class_logits(logits), targets, reduction="none")

    def gce(losses):
        return (1 - torch.exp(-0.6 * losses)) / 0.6

    def loss(number, rows):
        z_b, z_i = (backbone(items[rows]) for backbone in backbones)
        easy = each(heads[0](torch.cat([z_b, z_i.detach()], 1)), labels[rows])
        hard = each(heads[1](torch.cat([z_i, z_b.detach()], 1)), labels[rows])
        weights = difficulty.weights(rows, torch.stack([easy, hard], 1))
        value = gce(easy).mean() + (weights * hard).mean()
        if number >= swap_after:
            order = uniform(SEED, number, "swap", (len(rows),)).argsort()
            swapped = torch.cat([z_b[order], z_i.detach()], 1)
            easy = each(heads[0](swapped), labels[rows][order])
            swapped = torch.cat([z_i, z_b[order].detach()], 1)
            hard = each(heads[1](swapped), labels[rows])
            value = value + 0.8 * (0.3 * gce(easy).mean() + (weights * hard).mean())
        return value

    networks = [nn.Sequential(*pair) for pair in zip(backbones, heads)]
    _in_torch(method, X, y, a, loss, networks)
    for found, wanted in (
        (fitted.network_.backbone, backbones[1]),
        (fitted.network_.head, heads[1]),
        (fitted.network_.partners, backbones[0]),
        (fitted.biased_network_.backbone, backbones[0]),
        (fitted.biased_network_.head, heads[0]),
        (fitted.biased_network_.partners, backbones[1]),
    ):
        pairs = zip(found.parameters(), wanted.parameters(), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-4)
    with torch.no_grad():
        z = torch.cat([backbones[1](items), backbones[0](items)], 1)
        logits = class_logits(heads[1](z))
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities, logits.softmax(1), atol=1e-4)


def test_networks_of_two_backbones_are_kept_whole(tmp_path):
    X, y, _ = _data(3)
    fitted = _model(DFA(swap_after=3), dropout=0.2).fit(X, y)
    expected = fitted.predict_proba(X)
    assert fitted.embed(X).shape == (len(X), 10)
    fitted.save(tmp_path / "dfa")
    loaded = FineTuneClassifier.load(tmp_path / "dfa", backbone=_backbone())
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    pickled = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(pickled.predict_proba(X), expected)
    again = loaded.fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    with torch.no_grad():
        logits = fitted.to_torch()(torch.from_numpy(X))
    np.testing.assert_allclose(logits.softmax(1), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"several backbones.*embed"):
        fitted.set_params(modality="image").to_extractor()


def test_dfa_that_swaps_nothing():
    X, y, _ = _data()
    with pytest.warns(UserWarning, match="swap_after=10000.*20 steps"):
        plain = _model(DFA()).fit(X, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="swap_after")
        same = _model(DFA(swap_after=0, strength=0.0)).fit(X, y)
    np.testing.assert_allclose(
        plain.decision_function(X), same.decision_function(X), atol=1e-6
    )


# --- deep and shallow -----------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_denetdm_is_that_of_plain_torch(n_classes):
    X, y, a = _data(n_classes)
    method = DeNetDM("1", 2, 0.4, 2.0)
    fitted = _model(method).fit(X, y)
    n_out = n_logits(n_classes)
    networks = [
        nn.Sequential(_backbone(), _linear(5, n_out, 0)),
        nn.Sequential(_backbone()[:2], _linear(6, n_out, 1)),
        nn.Sequential(_backbone(), _linear(5, n_out, 2)),
    ]
    items, labels = torch.from_numpy(X), torch.from_numpy(y)

    def loss(_, rows):
        deep, shallow, result = (class_logits(n(items[rows])) for n in networks)
        said = (result / 2).log_softmax(1)
        distilled = -((shallow.detach() / 2).softmax(1) * said).sum(1).mean() * 4
        return (
            cross_entropy(deep + shallow, labels[rows])
            + cross_entropy(deep.detach() + result, labels[rows])
            + 0.4 * distilled
        )

    windows = [(1, 2), (1, 2), (3, 4)]
    _in_torch(method, X, y, a, loss, networks, windows=windows)
    _assert_close(fitted, networks[2])
    shallow = fitted.shallow_network_
    assert shallow.linear_layers[0].in_features == 6
    for found, wanted in zip(shallow.head.parameters(), networks[1][1].parameters()):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    deep = fitted.deep_network_.parameters()
    for found, wanted in zip(deep, networks[0].parameters()):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_denetdm_that_cannot_be():
    X, y, _ = _data()
    with pytest.raises(ValueError, match="layer='layer1'"):
        _model(DeNetDM(), max_iter=8).fit(X, y)


# --- adversarial autoencoder ----------------------------------------------------------


def _linear_aux(n_in, n_out, stream):
    return _linear(n_in, n_out, 1000 + stream)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("balance", [None, "class"])
def test_mmd_aae_is_that_of_plain_torch(n_classes, balance):
    X, y, a = _data(n_classes)
    method = MMDAAE(0.7, 0.3, 0.4, balance=balance)
    fitted = _model(method).fit(X, y, a)
    backbone = _backbone()
    network = nn.Sequential(backbone, _linear(5, n_logits(n_classes), 0))
    decoder, judge = _linear_aux(5, 8, 0), _linear_aux(5, 1, 1)
    items, labels, domains = map(torch.from_numpy, (X, y, a))

    def mmd(p, q):
        def kernel(u, v):
            gammas = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
            apart = (u[:, None] - v).square().sum(2)
            return sum(torch.exp(-gamma * apart) for gamma in gammas).mean()

        return kernel(p, p) + kernel(q, q) - 2 * kernel(p, q)

    def loss(number, rows):
        codes = backbone(items[rows])
        value = cross_entropy(class_logits(network[1](codes)), labels[rows])
        value = value + 0.3 * (decoder(codes) - items[rows]).square().mean()
        value = value + 0.7 * mmd(*(codes[domains[rows] == d] for d in (0, 1)))
        said = judge(codes.detach())
        drawn = judge(laplace(SEED, number, codes.shape))
        binary = nn.functional.binary_cross_entropy_with_logits
        value = value + binary(said, torch.zeros_like(said))
        value = value + binary(drawn, torch.ones_like(drawn))
        judge.requires_grad_(False)
        deceived = judge(codes)
        judge.requires_grad_(True)
        return value + 0.4 * binary(deceived, torch.ones_like(deceived))

    _in_torch(method, X, y, a, loss, [network, decoder, judge])
    _assert_close(fitted, network, 5e-5)


def test_the_prior_is_a_laplace_distribution():
    drawn = laplace(3, 5, (200, 50)).flatten()
    assert kstest(drawn.numpy(), "laplace", args=(0, 0.5**0.5)).pvalue > 0.01
    assert bool(drawn.isfinite().all())


def test_items_that_cannot_be_restored():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 4)

        def get_input_embeddings(self):
            return self.embed

        def forward(self, x):
            return self.embed(x).mean(1)

    codes = np.random.default_rng(0).integers(0, 9, (40, 3))
    y = np.arange(40) % 2
    model = _model(MMDAAE(), Words(), max_iter=1)
    with pytest.raises(ValueError, match=r"layer='input'.*codes"):
        model.fit(codes, y, y)
