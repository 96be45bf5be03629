"""DivDis and D-BAT: against plain torch, in stacks, and the choice of the head."""

import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_methods import Case, PlannedMethod, mutual_information, train_in_torch
from torch.nn.functional import binary_cross_entropy, one_hot

from skdebias import (
    DebiasedClassifier,
    ERMClassifier,
    UnchosenHeadWarning,
)
from skdebias._engine._features import AppendedFeatures, Features
from skdebias._engine._problem import OptimizerConfig, Problem
from skdebias._engine._sgd import Training
from skdebias._groups import Groups
from skdebias._prepare import draw_seed
from skdebias.export import load, save
from skdebias.methods import DBAT, ERM, DivDis, Head
from skdebias.model_selection import (
    BatchedGridSearchCV,
    choose_head,
    head_disagreement,
    rows_to_label,
)

CPU = torch.device("cpu")
SETTINGS = {
    "learning_rate": 0.05,
    "weight_decay": 0.02,
    "momentum": 0.9,
    "batch_size": 64,
    "max_iter": 4,
}
FITTED = {**SETTINGS, "random_state": 0, "device": "cpu"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::skdebias.UnchosenHeadWarning"),
    pytest.mark.filterwarnings("ignore:.*accuracy:UserWarning"),
]


def _rows(codes, other, seed, scale=0.2):
    """Rows in which one feature block says `codes`, a larger one `other`."""
    rng = np.random.default_rng(seed)
    n_classes = int(max(codes.max(), other.max())) + 1
    signal = np.concatenate([np.eye(n_classes)[codes], 2 * np.eye(n_classes)[other]], 1)
    noise = scale * rng.normal(size=signal.shape)
    return (signal - signal.mean(0) + noise).astype(np.float32)


def _data(n_classes, n_rows=200):
    """Labelled rows with a shortcut, and rows where it is none, with their labels."""
    rng = np.random.default_rng(5)
    y, target, other = rng.integers(0, n_classes, (3, n_rows))
    return _rows(y, y, 0), y, _rows(target, other, 1), target, other


def divdis_in_torch(method, groups, batch):
    """The objective of a step by the definitions, head by head and pair by pair."""
    each = batch.logits.chunk(method.n_heads, 1)
    labeled = batch.weights != 0
    risk = sum((batch.weights * batch.losses(logits)).sum() for logits in each)
    if each[0].shape[1] == 1:
        each = [torch.cat([torch.zeros_like(z), z], 1) for z in each]
    p = [z[~labeled].softmax(1) for z in each]
    prior = method.prior
    if prior is None:
        prior = np.bincount(groups.cells[groups.ids, 0]) / len(groups.ids)
    prior = torch.tensor(prior, dtype=torch.float32)
    away = sum((q.mean(0) * (q.mean(0) / prior).log()).sum() for q in p)
    shared = sum(mutual_information(q, r) for q, r in combinations(p, 2))
    return risk + method.diversity * shared + method.regularization * away


def dbat_in_torch(method, groups, batch):
    """The same of D-BAT, by binary cross-entropies of the class that is predicted."""
    each = batch.logits.chunk(method.n_heads, 1)
    labeled = batch.weights != 0
    total = sum((batch.weights * batch.losses(logits)).sum() for logits in each)
    if each[0].shape[1] == 1:
        each = [torch.cat([torch.zeros_like(z), z], 1) for z in each]
    p = [z[~labeled].softmax(1) for z in each]
    for after in range(1, method.n_heads):
        for before in range(after):
            q = p[before].detach()
            predicted = one_hot(q.argmax(1), q.shape[1]).bool()
            first, second = q[predicted], p[after][predicted]
            differ = first * (1 - second) + (1 - first) * second
            away = binary_cross_entropy(differ, torch.ones_like(differ))
            total = total + method.alpha / after * away
    return total


METHODS = {
    "divdis": [DivDis(2, None, *of) for of in ((3.0, 2.0), (0.0, 1.0), (1.0, 0.0))],
    "divdis, 3 heads": [DivDis(3, diversity=d) for d in (2.0, 0.5, 9.0)],
    "d-bat": [DBAT(alpha=a) for a in (0.7, 0.0, 2.0)],
    "d-bat, 3 heads": [DBAT(3, "class", alpha=a) for a in (1.0, 0.1, 3.0)],
}
IN_TORCH = {DivDis: divdis_in_torch, DBAT: dbat_in_torch}


def _layers(model, name):
    if hasattr(model, f"{name}coef_"):
        return [getattr(model, f"{name}coef_"), getattr(model, f"{name}intercept_")]
    coefs, biases = (
        getattr(model, f"{name}{kind}_") for kind in ("coefs", "intercepts")
    )
    return [array for w, b in zip(coefs, biases) for array in (w.T, b)]


@pytest.mark.parametrize(
    ("name", "n_classes", "hidden"),
    [(name, n, ()) for name in METHODS for n in (2, 3)]
    + [("divdis", 2, (6,)), ("d-bat, 3 heads", 3, (6,))],
)
def test_follows_autograd(name, n_classes, hidden):
    X, y, U, _, _ = _data(n_classes)
    method = METHODS[name][0]
    model = DebiasedClassifier(method, hidden_layer_sizes=hidden, **FITTED)
    model.fit(X, y, X_unlabeled=U)
    groups = Groups.from_labels(y, np.zeros_like(y), n_classes, 1)
    seed = draw_seed(0)
    (plan,) = Problem([method], groups, seed, n_unlabeled=len(U)).plans()
    heads, curve = train_in_torch(
        Case([method], IN_TORCH[type(method)]),
        PlannedMethod(method, plan),
        np.concatenate([X, U]),
        np.concatenate([y, np.zeros(len(U), int)]),
        groups,
        n_classes=n_classes,
        hidden=hidden,
        seed=seed,
        n_labeled=len(y),
        **SETTINGS,
    )
    for number, layers in enumerate(heads):
        expected = [p.detach().numpy() for layer in layers for p in layer]
        for ours, theirs in zip(_layers(model, f"head{number + 1}_"), expected):
            np.testing.assert_allclose(ours, theirs, atol=3e-5, rtol=1e-4)
    assert len(curve) == len(model.loss_curve_)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_alone_in_a_stack_and_thinned(name, n_classes):
    X, y, U, _, _ = _data(n_classes)
    methods = METHODS[name]
    n_heads = methods[0].n_heads

    def training(methods, *seeds):
        groups = Groups.from_labels(y, np.zeros_like(y), n_classes, 1)
        problems = [
            Problem(methods, groups, seed, n_unlabeled=len(U)) for seed in seeds
        ]
        total = n_heads * len(methods) * len(seeds)
        config = OptimizerConfig(
            "sgd",
            *(
                np.full(total, SETTINGS[name])
                for name in ("learning_rate", "weight_decay", "momentum")
            ),
            SETTINGS["batch_size"],
            SETTINGS["max_iter"],
        )
        features = AppendedFeatures(Features(X, CPU), Features(U, CPU))
        codes = np.concatenate([y, np.full(len(U), -1)])
        return Training(features, codes, n_classes, problems, config)

    thinned = training(methods, 5)
    thinned.run(2)
    thinned.select([0, 2])
    thinned = thinned.run()
    streams = training(methods, 1, 5).run()
    for left, number in enumerate((0, 2)):
        alone = training([methods[number]], 5).run()
        for head in range(n_heads):
            expected = [*alone.stack.numpy(head)]
            places = left * n_heads + head, (len(methods) + number) * n_heads + head
            for stack, place in zip((thinned.stack, streams.stack), places):
                for ours, theirs in zip(stack.numpy(place), expected):
                    np.testing.assert_allclose(ours[0], theirs[0], atol=5e-6, rtol=1e-4)


def _erm(**settings):
    """ERM on the same labelled rows: they are half of a step."""
    half = {"batch_size": SETTINGS["batch_size"] // 2, "max_iter": 2}
    return ERMClassifier(**FITTED | half | settings)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_first_head_of_dbat_is_that_of_erm(n_classes):
    X, y, U, _, _ = _data(n_classes, 256)
    erm = _erm().fit(X, y)
    two, three, none = (
        DebiasedClassifier(DBAT(n, alpha=a), **FITTED).fit(X, y, X_unlabeled=U)
        for n, a in ((2, 1.0), (3, 1.0), (2, 0.0))
    )
    for coef in (
        two.head1_coef_,
        three.head1_coef_,
        none.head1_coef_,
        none.head2_coef_,
    ):
        np.testing.assert_allclose(coef, erm.coef_, atol=1e-6)
    # No head depends on those after it.
    np.testing.assert_allclose(two.head2_coef_, three.head2_coef_, atol=1e-6)
    assert np.abs(two.head2_coef_ - erm.coef_).max() > 0.01


def test_without_its_terms_divdis_trains_every_head_by_itself():
    X, y, U, _, _ = _data(2)
    fitted = [
        DebiasedClassifier(DivDis(n, diversity=0, regularization=0), **FITTED)
        .fit(X, y, X_unlabeled=U)
        for n in (2, 3)
    ]  # fmt: skip
    for head in ("head1_coef_", "head2_coef_"):
        first, second = (getattr(model, head) for model in fitted)
        np.testing.assert_allclose(first, second, atol=1e-6)
    X_other = U[::-1] + 1.0
    other = clone(fitted[0]).fit(X, y, X_unlabeled=X_other)
    np.testing.assert_allclose(other.head2_coef_, fitted[0].head2_coef_, atol=1e-6)


def test_the_prior_is_the_share_of_the_classes():
    X, y, U, _, _ = _data(2)
    rare = (y == 0) | (np.arange(len(y)) % 4 == 0)
    X, y = X[rare], y[rare]
    share = np.bincount(y) / len(y)

    def positives(method, **weights):
        settings = {**FITTED, "max_iter": 60}
        model = DebiasedClassifier(method, **settings)
        model.fit(X, y, X_unlabeled=U, **weights)
        return [p.mean() for p in _probabilities(model, U)]

    strong = {"regularization": 100.0, "diversity": 0.0}
    np.testing.assert_allclose(positives(DivDis(**strong)), share[1], atol=0.05)
    uniform = positives(DivDis(**strong, prior=(0.5, 0.5)))
    np.testing.assert_allclose(uniform, 0.5, atol=0.05)
    balanced = np.where(y == 1, share[0] / share[1], 1.0)
    weighted = positives(DivDis(**strong), sample_weight=balanced)
    np.testing.assert_allclose(weighted, 0.5, atol=0.05)


def _probabilities(model, X):
    """Of the second class, by each of two linear heads."""
    return [
        expit(X @ coef[0] + bias[0])
        for coef, bias in (_layers(model, f"{name}_") for name in model.head_names_)
    ]


@pytest.mark.parametrize(
    ("method", "n_classes", "hidden"),
    [
        (DivDis(), 2, ()),
        (DivDis(3), 2, ()),
        (DivDis(), 2, (8,)),
        (DBAT(), 2, ()),
        (DBAT(), 3, ()),
        (DBAT(), 2, (8,)),
    ],
)
def test_a_head_finds_the_feature_that_the_shortcut_hides(method, n_classes, hidden):
    X, y, U, target, other = _data(n_classes, 400)
    settings = {**FITTED, "max_iter": 80, "hidden_layer_sizes": hidden}
    model = DebiasedClassifier(method, **settings).fit(X, y, X_unlabeled=U)
    assert model.score(X, y) > 0.97
    X_new = _rows(target, np.roll(other, 7), 2)
    erm = _erm(max_iter=40, hidden_layer_sizes=hidden).fit(X, y)
    assert erm.score(X_new, target) < 0.8
    rows = rows_to_label(model, U, 12)
    chosen = choose_head(model, U[rows], target[rows])
    assert chosen.score(X_new, target) > 0.9
    # And where the other feature is meant, that one.
    shortcut = choose_head(model, U[rows], other[rows])
    assert shortcut.score(X_new, np.roll(other, 7)) > 0.9
    assert shortcut.chosen_head_ != chosen.chosen_head_


# --- which head -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    X, y, U, target, other = _data(2, 300)
    labels = np.array(["no", "yes"])
    return X, labels[y], U, labels[target], labels[other]


@pytest.fixture(scope="module")
def fitted(problem):
    X, y, U, _, _ = problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnchosenHeadWarning)
        return DebiasedClassifier(DivDis(), **FITTED | {"max_iter": 60}).fit(
            X, y, X_unlabeled=U
        )


def test_validation_rows_choose_the_head(problem, fitted):
    X, y, U, target, other = problem
    for labels in (target, other):
        model = clone(fitted)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UnchosenHeadWarning)
            model.fit(X, y, X_unlabeled=U, X_val=U[:12], y_val=labels[:12])
        after = choose_head(fitted, U[:12], labels[:12])
        assert model.chosen_head_ == after.chosen_head_
        np.testing.assert_array_equal(model.coef_, after.coef_)
        np.testing.assert_allclose(model.head_scores_, after.head_scores_, atol=1e-12)
        assert model.head_scores_.max() == model.history_["validation_score"][-1]
        assert model.score(U, labels) > 0.9
    assert model.head_names_ == ["head1", "head2"]


def test_attributes_of_the_validation_rows_count_the_worst_group(problem, fitted):
    X, y, U, target, other = problem
    # Of the rows of one attribute the shortcut is right, of a few others it is not.
    few = np.flatnonzero(target != other)[:8]
    rows = np.concatenate([np.flatnonzero(target == other)[:80], few])
    given = (target == other).astype(int)[rows]
    in_fit = clone(fitted).fit(
        X, y, X_unlabeled=U, X_val=U[rows], y_val=target[rows], attributes_val=given
    )
    after = choose_head(fitted, U[rows], target[rows], given)
    for model in (in_fit, after):
        assert model.score(U, target) > 0.9
    # The epoch is the one in which the best head of that epoch was best.
    best = in_fit.history_["validation_score"][in_fit.best_epoch_ - 1]
    assert in_fit.head_scores_.max() == best


def test_without_labels_the_first_head_is_the_result(problem, fitted):
    X, y, U, _, _ = problem
    with pytest.warns(UnchosenHeadWarning, match="rows_to_label") as caught:
        model = clone(fitted).fit(X, y, X_unlabeled=U)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert model.chosen_head_ == "head1"
    assert not hasattr(model, "head_scores_")
    np.testing.assert_array_equal(model.coef_, model.head1_coef_)
    assert np.abs(model.head2_coef_ - model.coef_).max() > 0.1


def test_the_choice_leaves_the_model_as_it_is(problem, fitted):
    _, _, U, target, other = problem
    before = {name: np.copy(value) for name, value in vars(fitted).items()}
    for labels in (target, other):
        choose_head(fitted, U, labels)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(fitted, name), value)


def test_rows_to_label_are_those_of_the_largest_disagreement(fitted, problem):
    _, _, U, target, other = problem
    distance = head_disagreement(fitted, U)
    p, q = _probabilities(fitted, U)
    np.testing.assert_allclose(distance, np.abs(p - q), atol=1e-6)
    rows = rows_to_label(fitted, U, 20)
    assert distance[rows].min() >= np.delete(distance, rows).max()
    assert (np.diff(distance[rows]) <= 0).all()
    assert (target[rows] != other[rows]).all()


def test_saved_with_all_heads_and_chosen_after_loading(problem, fitted, tmp_path):
    _, _, U, target, _ = problem
    save(fitted, tmp_path / "heads")
    loaded = load(tmp_path / "heads")
    for head in fitted.head_names_:
        for kind in ("coef", "intercept"):
            name = f"{head}_{kind}_"
            np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    chosen = choose_head(loaded, U[:12], target[:12])
    assert chosen.score(U, target) > 0.9
    save(chosen, tmp_path / "chosen")
    again = load(tmp_path / "chosen")
    assert again.chosen_head_ == chosen.chosen_head_
    np.testing.assert_array_equal(again.head_scores_, chosen.head_scores_)
    np.testing.assert_array_equal(again.predict(U), chosen.predict(U))


def test_saved_with_hidden_layers(problem, tmp_path):
    X, y, U, _, _ = problem
    model = DebiasedClassifier(
        DivDis(3, prior=(0.4, 0.6)), hidden_layer_sizes=(5, 4), **FITTED
    ).fit(X, y, X_unlabeled=U)
    save(model, tmp_path / "heads")
    loaded = load(tmp_path / "heads")
    for ours, theirs in zip(loaded.head3_coefs_, model.head3_coefs_):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.predict_proba(U), model.predict_proba(U))
    loaded.set_params(**FITTED).fit(X, y, X_unlabeled=U)
    np.testing.assert_array_equal(loaded.head2_coefs_[0], model.head2_coefs_[0])


def test_in_pipelines_and_searches(problem):
    X, y, U, target, _ = problem
    base = DebiasedClassifier(DivDis(), **FITTED | {"max_iter": 20})
    pipeline = make_pipeline(StandardScaler(), base)
    validation = {"X_unlabeled": U, "X_val": U[:12], "y_val": target[:12]}
    grid = {
        "debiasedclassifier__method__diversity": [0.0, 10.0],
        "debiasedclassifier__method__n_heads": [2, 3],
    }
    # Scored where the shortcut is none, so that the choice shows.
    rows, labels = np.concatenate([X, U[12:]]), np.concatenate([y, target[12:]])
    cv = [(np.arange(300), np.arange(300, len(rows)))]
    with config_context(enable_metadata_routing=True):
        plain = GridSearchCV(pipeline, grid, cv=cv, scoring="accuracy", refit=False)
        plain.fit(rows, labels, **validation)
        batched = BatchedGridSearchCV(
            pipeline, grid, cv=cv, scoring="accuracy", refit=False
        ).fit(rows, labels, **validation)
        model = pipeline.fit(X, y, X_unlabeled=U)
    scores = batched.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, plain.cv_results_["mean_test_score"], atol=0.01)
    assert max(scores) > 0.9
    assert min(scores) < max(scores) - 0.1
    chosen = choose_head(model, U[:12], target[:12])
    assert chosen.score(U, target) > 0.9
    assert len(rows_to_label(model, U, 3)) == 3


def test_a_search_without_labels_warns_once(problem):
    X, y, U, _, _ = problem
    search = BatchedGridSearchCV(
        DebiasedClassifier(DBAT(), **FITTED), {"method__alpha": [0.5, 1.0]}, cv=2
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(X, y, X_unlabeled=U)
    assert sum(w.category is UnchosenHeadWarning for w in caught) == 1


def test_warm_start_goes_on_from_all_heads(problem, fitted):
    X, y, U, _, _ = problem
    model = clone(fitted).set_params(max_iter=1, warm_start=True, learning_rate=1e-9)
    vars(model).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    model.fit(X, y, X_unlabeled=U)
    np.testing.assert_allclose(model.head2_coef_, fitted.head2_coef_, atol=1e-5)


REFUSED = [
    (DivDis(1), r"n_heads=1 of DivDis must be a whole number of at least 2"),
    (DivDis(2.5), "n_heads=2.5"),
    (DBAT(True), "n_heads=True"),
    (DBAT(balance="group"), "balance='group' of DBAT"),
    (DBAT(alpha=-1), "alpha=-1 of DBAT: give a number of at least 0"),
    (DivDis(diversity=np.nan), "diversity=nan"),
    (DivDis(regularization="much"), "regularization='much'"),
    (DivDis(prior=(0.2, 0.2)), r"prior=\(0.2, 0.2\) of DivDis must hold"),
    (DivDis(prior=(1.0,)), "each of 2 classes"),
    (DivDis(prior=(0.0, 1.0)), "positive share"),
]


@pytest.mark.parametrize(("method", "message"), REFUSED)
def test_parameters_that_cannot_be(problem, method, message):
    X, y, U, _, _ = problem
    with pytest.raises(ValueError, match=message):
        DebiasedClassifier(method, **FITTED).fit(X, y, X_unlabeled=U)


def test_choices_that_cannot_be(problem, fitted):
    X, y, U, target, _ = problem
    with pytest.raises(ValueError, match="ERMClassifier has one head"):
        choose_head(ERMClassifier(max_iter=1).fit(X, y), X, y)
    with pytest.raises(ValueError, match="'maybe', which is none of the classes"):
        choose_head(fitted, U[:2], ["no", "maybe"])
    with pytest.raises(ValueError, match="X has 3 rows and y has 2"):
        choose_head(fitted, U[:3], target[:2])
    for n_rows in (0, 301, 2.0, True):
        with pytest.raises(ValueError, match=f"n_rows={n_rows}"):
            rows_to_label(fitted, U, n_rows)
    with pytest.raises(ValueError, match="DBAT learns from rows without labels"):
        DebiasedClassifier(DBAT()).fit(X, y)
    with pytest.raises(ValueError, match="which DBAT has not"):
        DebiasedClassifier(DBAT(), solver="lbfgs").fit(X, y, X_unlabeled=U)


def test_alternatives_of_ones_own(problem):
    X, y, _, _, _ = problem

    @dataclass(frozen=True)
    class Decays(ERM):
        """Heads that differ in their weight decay."""

        heads_are_alternatives = True
        names: tuple = ("weak", "strong")

        @property
        def heads(self):
            decays = (0.0, 1e2, 1.0)
            return tuple(Head(n, "zero", decay) for n, decay in zip(self.names, decays))

    model = DebiasedClassifier(Decays(), **FITTED).fit(X, y, X_val=X, y_val=y)
    assert model.chosen_head_ == "weak"
    np.testing.assert_array_equal(model.coef_, model.weak_coef_)
    for names, message in ((("weak",), "two heads or more"), (("weak", ""), "names a")):
        with pytest.raises(ValueError, match=message):
            DebiasedClassifier(Decays(names=names), **FITTED).fit(X, y)
