"""Every hook by a small method: against autograd, in stacks, and as a network."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from representation_methods import CASES as REPRESENTATIONS
from representation_methods import moments_apart
from scipy.stats import kstest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_methods import CASES as SMALL
from small_methods import (
    Case,
    DivDis,
    PlannedMethod,
    Remembering,
    UnlabeledDivDis,
    divdis_in_torch,
    train_in_torch,
)

from skdebias import DebiasedClassifier
from skdebias._engine._features import Features
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sampler import IndexSampler
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias._prepare import draw_seed
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._training import NetworkTraining
from skdebias.methods import ERM, uniform
from skdebias.model_selection import BatchedGridSearchCV, BatchedHalvingGridSearchCV

CASES = SMALL | REPRESENTATIONS
CPU = torch.device("cpu")
SEED = 5
SETTINGS = {
    "learning_rate": 0.05,
    "weight_decay": 0.02,
    "momentum": 0.9,
    "batch_size": 64,
    "max_iter": 4,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*accuracy:UserWarning")


def _data(n_classes):
    X, y, a = make_spurious_classification(
        300, n_features=8, n_classes=n_classes, n_attributes=2, random_state=0
    )
    groups = Groups.from_labels(y, a, n_classes, 2)
    return X.astype(np.float32), y, a, groups


def _training(methods, X, y, groups, n_classes, hidden, *, seeds=(SEED,)):
    n_heads = len(methods) * methods[0].n_heads * len(seeds)

    def per_head(name):
        return np.full(n_heads, SETTINGS[name])

    config = OptimizerConfig(
        "sgd",
        per_head("learning_rate"),
        per_head("weight_decay"),
        per_head("momentum"),
        SETTINGS["batch_size"],
        SETTINGS["max_iter"],
        hidden,
    )
    problems = [Problem(methods, groups, seed) for seed in seeds]
    return Training(Features(X, CPU), y, n_classes, problems, config)


SHAPES = [(name, hidden) for name, case in CASES.items() for hidden in case.hidden]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("name", "hidden"), SHAPES)
def test_follows_autograd(name, hidden, n_classes):
    X, y, _, groups = _data(n_classes)
    case = CASES[name]
    fitted = _training(case.methods[:1], X, y, groups, n_classes, hidden).run()
    heads, curve = train_in_torch(
        case,
        case.methods[0],
        *(X, y, groups),
        n_classes=n_classes,
        hidden=hidden,
        seed=SEED,
        **SETTINGS,
    )
    for number, layers in enumerate(heads):
        for coef, bias, layer in zip(*fitted.stack.numpy(number), layers):
            weight, intercept = (p.detach().numpy() for p in layer)
            np.testing.assert_allclose(coef, weight, atol=2e-5, rtol=1e-4)
            np.testing.assert_allclose(bias, intercept, atol=2e-5, rtol=1e-4)
    shown = np.array([loss.sum() for loss in fitted.history["loss"]])
    np.testing.assert_allclose(shown, curve, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("name", "hidden"), SHAPES)
def test_alone_in_a_stack_and_thinned(name, hidden, n_classes):
    X, y, _, groups = _data(n_classes)
    methods = CASES[name].methods
    n_heads = methods[0].n_heads
    thinned = _training(methods, X, y, groups, n_classes, hidden)
    thinned.run(2)
    thinned.select([0, 2])
    thinned = thinned.run()
    streams = _training(methods, X, y, groups, n_classes, hidden, seeds=(1, SEED)).run()
    for left, number in enumerate((0, 2)):
        alone = _training([methods[number]], X, y, groups, n_classes, hidden).run()
        for head in range(n_heads):
            expected = alone.stack.numpy(head)
            in_stream = (len(methods) + number) * n_heads + head
            for stack in (
                thinned.stack.numpy(left * n_heads + head),
                streams.stack.numpy(in_stream),
            ):
                for ours, theirs in zip(chain(*stack), chain(*expected)):
                    np.testing.assert_allclose(ours, theirs, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_batched_searches(name):
    X, y, a, _ = _data(2)
    methods, hidden = CASES[name].methods, CASES[name].hidden[0]
    base = DebiasedClassifier(
        methods[0], hidden_layer_sizes=hidden, random_state=0, device="cpu", **SETTINGS
    )
    grid = {
        f"method__{field}": sorted({getattr(m, field) for m in methods})
        for field in methods[0].stackable
    }
    search = BatchedGridSearchCV(base, grid, cv=3, scoring="neg_log_loss", refit=False)
    search.fit(X, y, attributes=a)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    halving = BatchedHalvingGridSearchCV(
        base, grid, cv=3, factor=2, min_resources=2, scoring="neg_log_loss"
    )
    halving.fit(X, y, attributes=a)
    last = halving.cv_results_["iter"] == halving.cv_results_["iter"].max()
    for params, score in zip(
        np.array(halving.cv_results_["params"])[last],
        halving.cv_results_["mean_test_score"][last],
    ):
        fields = {name: params[name] for name in grid}
        point = search.cv_results_["params"].index(fields)
        expected = search.cv_results_["mean_test_score"][point]
        assert score == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("name", "hidden"), SHAPES)
def test_a_network_without_backbone_is_the_head(name, hidden, n_classes):
    X, y, a, _ = _data(n_classes)
    head = DebiasedClassifier(CASES[name].methods[0], hidden_layer_sizes=hidden)
    settings = {**SETTINGS, "random_state": 0, "device": "cpu"}
    alone = DebiasedClassifier(head.method, hidden_layer_sizes=hidden, **settings).fit(
        X, y, attributes=a
    )
    for accumulate in (1, 3) if CASES[name].in_passes else (1,):
        network = FineTuneClassifier(
            head,
            torch.nn.Identity(),
            modality="tensor",
            accumulate=accumulate,
            **settings,
        ).fit(X, y, attributes=a)
        np.testing.assert_allclose(
            network.decision_function(X), alone.decision_function(X), atol=2e-5
        )
        np.testing.assert_allclose(network.loss_curve_, alone.loss_curve_, rtol=1e-4)


# --- what cannot be differentiated ---------------------------------------------------


@dataclass(frozen=True)
class Asked(ERM):
    """An objective that is handed over."""

    answer: Any = None

    @classmethod
    def objective(cls, methods, context):
        return Answer(methods[0].answer)


class Answer:
    def __init__(self, answer):
        self._answer = answer

    def __call__(self, step, logits):
        return self._answer(step, logits)

    def select(self, methods):
        pass


REFUSED = {
    "one value for all": (lambda s, z: z.mean(), r"shape \(\), and should .* \(1, 1\)"),
    "detached": (lambda s, z: z.detach().mean((1, 3)), "does not depend on the logits"),
    "constant losses": (lambda s, z: s.losses.mean(1), "row_losses"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("network", [False, True])
def test_objectives_that_are_none(name, network):
    X, y, a, _ = _data(2)
    answer, message = REFUSED[name]
    model = DebiasedClassifier(Asked(answer=answer))
    if network:
        model = FineTuneClassifier(model, torch.nn.Identity(), modality="tensor")
    with pytest.raises(ValueError, match=f"The objective Answer.*{message}"):
        model.fit(X, y, attributes=a)


def test_the_deterministic_solver_refuses_an_objective():
    X, y, a, _ = _data(2)
    model = DebiasedClassifier(CASES["irm"].methods[0], solver="lbfgs")
    with pytest.raises(ValueError, match="which IRM has not"):
        model.fit(X, y, attributes=a)


# --- random numbers ------------------------------------------------------------------


def test_random_numbers():
    drawn = uniform(3, 7, "mixing", (40, 50))
    assert torch.equal(drawn.flatten()[:60], uniform(3, 7, "mixing", (60,)))
    others = [(4, 7, "mixing"), (3, 8, "mixing"), (3, 7, "dropping")]
    for arguments in others:
        other = uniform(*arguments, (40, 50))
        assert abs(np.corrcoef(drawn.flatten(), other.flatten())[0, 1]) < 0.06
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > 0.01
    assert (drawn >= 0).all()
    assert (drawn < 1).all()


def test_a_resumed_network_draws_the_same_and_remembers(tmp_path, monkeypatch):
    X, y, a, _ = _data(2)

    def fitted(folder):
        model = FineTuneClassifier(
            DebiasedClassifier(Remembering()),
            torch.nn.Linear(8, 4),
            modality="tensor",
            checkpoint_dir=folder,
            random_state=0,
            device="cpu",
            checkpoint_every=None if folder is None else 2,
            **SETTINGS,
        )
        torch.manual_seed(0)
        model.backbone.reset_parameters()
        return model.fit(X, y, attributes=a).decision_function(X)

    whole = fitted(None)
    steps, make = iter(range(7)), NetworkTraining._make_step

    def interrupted(training, *arguments):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return make(training, *arguments)

    monkeypatch.setattr(NetworkTraining, "_make_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path)
    monkeypatch.undo()
    np.testing.assert_array_equal(fitted(tmp_path), whole)


# --- hidden activations --------------------------------------------------------------


def test_hidden_activations_that_there_are_not():
    X, y, a, _ = _data(2)
    model = DebiasedClassifier(CASES["coral"].methods[0])
    message = "hidden_layer_sizes=.*FineTuneClassifier"
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, attributes=a)
    # The embedding of a network is one.
    torch.manual_seed(0)
    network = FineTuneClassifier(
        model, torch.nn.Linear(8, 4), modality="tensor", random_state=0, **SETTINGS
    )
    apart = []
    for strength in (0.0, 1.0):
        fitted = clone(network).set_params(estimator__method__penalty_weight=strength)
        backbone = fitted.fit(X, y, attributes=a).network_.backbone
        with torch.no_grad():
            embedded = backbone(torch.from_numpy(X))
        environments = (embedded[torch.from_numpy(a == number)] for number in (0, 1))
        apart.append(float(moments_apart(*environments)))
    assert apart[1] < 0.8 * apart[0]


# --- several heads -------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_heads_that_disagree(size):
    X, y, a, _ = _data(2)
    model = DebiasedClassifier(
        DivDis(0.0, size), random_state=0, max_iter=40, learning_rate=0.05
    )
    agreement = []
    for strength in (0.0, 20.0):
        model.set_params(method__strength=strength).fit(X, y, attributes=a)
        signs = [
            np.sign(X @ coef[0])
            for coef in (model.coef_, *(getattr(model, f"head{i}_coef_")
                                        for i in range(1, size)))
        ]  # fmt: skip
        agreement.append(np.mean([s == signs[0] for s in signs[1:]]))
    assert agreement[1] < agreement[0] - 0.05


def test_methods_with_other_numbers_of_heads_are_other_stacks():
    X, y, a, groups = _data(2)
    base = DebiasedClassifier(DivDis(), random_state=0, device="cpu", **SETTINGS)
    grid = {"method__size": [2, 3], "method__strength": [0.5, 2.0]}
    search = BatchedGridSearchCV(base, grid, cv=3, scoring="neg_log_loss", refit=False)
    search.fit(X, y, attributes=a)
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"]
    ):
        alone = BatchedGridSearchCV(
            clone(base).set_params(**params), {}, cv=3, scoring="neg_log_loss"
        ).fit(X, y, attributes=a)
        expected = alone.cv_results_["mean_test_score"][0]
        assert score == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"train 2 and 3 heads: .* different stacks"):
        _training([DivDis(), DivDis(size=3)], X, y, groups, 2, ())


# --- rows without labels -------------------------------------------------------------


def _unlabeled(n_rows=90):
    rng = np.random.default_rng(3)
    return (rng.normal(size=(n_rows, 8)) + 0.3).astype(np.float32)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_without_labels_follow_autograd(n_classes, size):
    X, y, _, groups = _data(n_classes)
    method, U = UnlabeledDivDis(2.0, size), _unlabeled()
    settings = {**SETTINGS, "random_state": 0, "device": "cpu"}
    model = DebiasedClassifier(method, **settings).fit(X, y, X_unlabeled=U)
    assert model.group_counts_.sum() == len(y)
    # The same as rows of a stratum of their own, by hand.
    seed = draw_seed(0)
    (plan,) = Problem([method], groups, seed, n_unlabeled=len(U)).plans()
    names = [batch.name for batch in plan.batches]
    assert names[-1] == "unlabeled"
    drawn = IndexSampler([plan], SETTINGS["batch_size"], seed)
    rows = next(drawn.steps(0, 1))
    assert np.array_equal(rows >= len(y), drawn.strata == drawn.strata.max())
    assert (rows >= len(y)).sum() == SETTINGS["batch_size"] // 2
    case = Case([method], divdis_in_torch)
    heads, curve = train_in_torch(
        case,
        PlannedMethod(method, plan),
        np.concatenate([X, U]),
        np.concatenate([y, np.zeros(len(U), int)]),
        groups,
        n_classes=n_classes,
        hidden=(),
        seed=seed,
        n_labeled=len(y),
        **SETTINGS,
    )
    np.testing.assert_allclose(model.coef_, heads[-1][0][0].detach(), atol=2e-5)
    first = heads[0][0][0].detach()
    np.testing.assert_allclose(model.head1_coef_, first, atol=2e-5)
    assert len(model.loss_curve_) == len(curve)


def test_rows_without_labels_in_searches_and_pipelines():
    X, y, _, _ = _data(2)
    U = _unlabeled()
    base = DebiasedClassifier(
        UnlabeledDivDis(), random_state=0, device="cpu", **SETTINGS
    )
    pipeline = make_pipeline(StandardScaler(), base)
    prefix = "debiasedclassifier__"
    scaler = StandardScaler().fit(X)
    with config_context(enable_metadata_routing=True):
        scaled = clone(pipeline).fit(X, y, X_unlabeled=U)
    by_hand = clone(base).fit(scaler.transform(X), y, X_unlabeled=scaler.transform(U))
    np.testing.assert_allclose(scaled[-1].coef_, by_hand.coef_, atol=1e-6)
    cv = [(np.arange(200), np.arange(200, 300)), (np.arange(100, 300), np.arange(100))]
    for estimator, name in ((base, ""), (pipeline, prefix)):
        grid = {f"{name}method__strength": [0.0, 1.0, 5.0]}
        search = BatchedGridSearchCV(
            estimator, grid, cv=cv, scoring="neg_log_loss", refit=True
        ).fit(X, y, X_unlabeled=U)
        with config_context(enable_metadata_routing=True):
            plain = GridSearchCV(
                estimator, grid, cv=cv, scoring="neg_log_loss", refit=True
            ).fit(X, y, X_unlabeled=U)
        np.testing.assert_allclose(
            search.cv_results_["mean_test_score"],
            plain.cv_results_["mean_test_score"],
            rtol=1e-4,
        )
        assert len(set(search.cv_results_["mean_test_score"])) == 3
        np.testing.assert_allclose(
            search.decision_function(X), plain.decision_function(X), atol=1e-4
        )


def test_rows_without_labels_that_do_not_go_with_the_method():
    X, y, _, _ = _data(2)
    U = _unlabeled()
    with pytest.raises(ValueError, match="X_unlabeled has no effect: ERM does not use"):
        DebiasedClassifier(ERM()).fit(X, y, X_unlabeled=U)
    model = DebiasedClassifier(UnlabeledDivDis())
    with pytest.raises(ValueError, match=r"UnlabeledDivDis learns from .*X_unlabeled"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="X_unlabeled"):
        model.fit(X, y, X_unlabeled=U[:, :5])
    with pytest.raises(ValueError, match=r"X_unlabeled.*NaN"):
        model.fit(X, y, X_unlabeled=np.full_like(U, np.nan))
    network = FineTuneClassifier(model, torch.nn.Identity(), modality="tensor")
    with pytest.raises(ValueError, match=r"UnlabeledDivDis.*FineTuneClassifier"):
        network.fit(X, y)
    with pytest.raises(ValueError, match="which UnlabeledDivDis has not"):
        model.set_params(solver="lbfgs").fit(X, y, X_unlabeled=U)
