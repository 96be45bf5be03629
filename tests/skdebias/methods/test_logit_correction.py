"""ULA and LC: the objective, limits, refusals, and what they are for."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from torch.nn.functional import cross_entropy

from skdebias import DebiasedClassifier, ERMClassifier, MissingAttributesWarning
from skdebias.attributes import PredictedClassPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.export import load, save
from skdebias.methods import ERM, LC, ULA
from skdebias.metrics import worst_group_accuracy_score
from skdebias.model_selection import BatchedGridSearchCV

QUICK = {"learning_rate": 0.05, "max_iter": 5, "random_state": 0, "device": "cpu"}
SOLVED = {"solver": "lbfgs", "tol": 1e-7, "max_iter": 500, "weight_decay": 0.05}
pytestmark = pytest.mark.filterwarnings("ignore:.*accuracy:UserWarning")


def _data(n_classes, **settings):
    X, y, a = make_spurious_classification(
        500, n_features=6, n_classes=n_classes, random_state=0, **settings
    )
    return X.astype(np.float32), y, a


# --- ULA -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_ula_is_the_minimum_of_its_convex_objective(n_classes):
    X, y, a = _data(n_classes)
    model = DebiasedClassifier(ULA(0.7, smoothing=2.0), **SOLVED).fit(X, y, a)
    n_attributes, n_logits = a.max() + 1, 1 if n_classes == 2 else n_classes
    shares = np.array(
        [[np.sum((a == b) & (y == k)) + 2.0 for k in range(n_classes)]
         for b in range(n_attributes)]
    )  # fmt: skip
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(model.label_shares_, shares)
    shift = torch.from_numpy(0.7 * np.log(shares)[a])
    rows, labels = torch.from_numpy(X).double(), torch.from_numpy(y)

    def objective(flat):
        w = torch.tensor(flat, requires_grad=True)
        coef, bias = w[: 6 * n_logits].view(n_logits, 6), w[6 * n_logits :]
        logits = rows @ coef.T + bias
        if n_logits == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        loss = cross_entropy(logits + shift, labels) + 0.025 * coef.square().sum()
        loss.backward()
        return loss.item(), w.grad.numpy()

    solution = minimize(objective, np.zeros(7 * n_logits), jac=True, tol=1e-10).x
    coef, bias = solution[: 6 * n_logits].reshape(n_logits, 6), solution[6 * n_logits :]
    np.testing.assert_allclose(model.coef_, coef, atol=2e-4)
    difference = model.intercept_ - bias  # of several, up to a constant
    np.testing.assert_allclose(
        difference, 0 if n_logits == 1 else difference.mean(), atol=2e-4
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_ula_without_tau_is_erm(n_classes):
    X, y, a = _data(n_classes)
    erm = DebiasedClassifier(ERM(), **SOLVED).fit(X, y)
    off = DebiasedClassifier(ULA(0.0), **SOLVED).fit(X, y, a)
    np.testing.assert_allclose(off.coef_, erm.coef_, atol=1e-5)
    with pytest.warns(MissingAttributesWarning):
        blind = DebiasedClassifier(ULA(), **SOLVED).fit(X, y)
    # One attribute value: the offsets are those of the classes, which the bias takes.
    np.testing.assert_allclose(blind.coef_, erm.coef_, atol=1e-5)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_ula_in_a_stack(solver):
    X, y, a = _data(2)
    settings = SOLVED if solver == "lbfgs" else QUICK
    base = DebiasedClassifier(ULA(), **settings)
    grid = {"method__tau": [0.0, 1.0, 1.5], "method__smoothing": [0.1, 5.0]}
    kept = {"cv": 2, "scoring": "neg_log_loss", "refit": False}
    search = BatchedGridSearchCV(base, grid, **kept).fit(X, y, attributes=a)
    results = search.cv_results_
    assert len(set(np.round(results["mean_test_score"], 6))) >= 5
    for params, score in zip(results["params"], results["mean_test_score"]):
        alone = BatchedGridSearchCV(clone(base).set_params(**params), {}, **kept)
        alone.fit(X, y, attributes=a)
        assert alone.cv_results_["mean_test_score"][0] == pytest.approx(score, rel=1e-4)


def test_ula_corrects_what_a_biased_model_knows():
    data = make_spurious_classification(
        3000, correlation=0.95, random_state=0, return_X_y=False
    )
    X, y, a = make_spurious_classification(
        3000, correlation=0.5, directions=data.directions, random_state=1
    )
    settings = {**SOLVED, "weight_decay": 1e-3}
    erm = DebiasedClassifier(ERM(), **settings).fit(data.X, data.y)
    known = DebiasedClassifier(ULA(), **settings)
    inferred = clone(known).set_params(
        pseudo_attributes=PredictedClassPseudoAttributes()
    )
    before = worst_group_accuracy_score(y, erm.predict(X), attributes=a)
    for model, given in ((known, data.attributes), (inferred, None)):
        predicted = model.fit(data.X, data.y, given).predict(X)
        after = worst_group_accuracy_score(y, predicted, attributes=a)
        assert after > before + 0.1


def test_a_file_carries_what_was_learned(tmp_path):
    X, y, _ = _data(3, correlation=0.8)
    model = DebiasedClassifier(
        ULA(), pseudo_attributes=PredictedClassPseudoAttributes(), **SOLVED
    ).fit(X, y)
    save(model, tmp_path / "head.safetensors")
    loaded = load(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(loaded.label_shares_, model.label_shares_)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(clone(loaded).fit(X, y).coef_, model.coef_)


# --- LC ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::skdebias.CollapsedHeadWarning")
@pytest.mark.parametrize("hidden", [(), (5,)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_lc_without_correction_is_erm_twice(n_classes, hidden):
    X, y, _ = _data(n_classes)
    settings = {**QUICK, "hidden_layer_sizes": hidden}
    off = LC(q=0.0, tau=0.0, biased_weight_decay=None)
    model = DebiasedClassifier(off, **settings).fit(X, y)
    erm = DebiasedClassifier(ERM(), **settings).fit(X, y)
    if hidden:
        # Heads with hidden layers start each at their own random weights.
        np.testing.assert_allclose(model.biased_coefs_[0], erm.coefs_[0], atol=1e-5)
    else:
        np.testing.assert_allclose(model.coef_, erm.coef_, atol=1e-5)
        np.testing.assert_allclose(model.biased_coef_, erm.coef_, atol=1e-5)
        np.testing.assert_allclose(model.loss_curve_, erm.loss_curve_, rtol=1e-5)


def test_the_biased_head_does_not_see_the_other():
    X, y, _ = _data(2)
    curves = [
        DebiasedClassifier(LC(tau=tau, mixup=mixup), **QUICK).fit(X, y)
        for tau, mixup in ((0.0, 0.0), (2.0, 0.0), (1.0, 4.0))
    ]
    first = curves[0].biased_coef_
    assert all(np.array_equal(c.biased_coef_, first) for c in curves)
    assert not np.allclose(curves[1].coef_, curves[2].coef_)


def test_lc_finds_what_erm_does_not():
    data = make_spurious_classification(
        3000, correlation=0.95, random_state=0, return_X_y=False
    )
    X, y, a = make_spurious_classification(
        3000, correlation=0.5, directions=data.directions, random_state=1
    )
    settings = {**QUICK, "max_iter": 20, "weight_decay": 1e-3}
    scores = []
    for method in (ERM(), LC(), LC(mixup=16.0)):
        model = DebiasedClassifier(method, **settings).fit(data.X, data.y)
        scores.append(worst_group_accuracy_score(y, model.predict(X), attributes=a))
    assert min(scores[1:]) > scores[0] + 0.1, scores


def test_lc_is_the_same_again_and_has_no_deterministic_solver():
    X, y, _ = _data(2)
    model = DebiasedClassifier(LC(mixup=2.0), **QUICK)
    first, again = (clone(model).fit(X, y).coef_ for _ in range(2))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="which LC has not"):
        model.set_params(solver="lbfgs").fit(X, y)


WRONG = {
    "tau": (ULA(-1.0), "tau=-1.0 of ULA: give a number of at least 0"),
    "smoothing": (ULA(smoothing=0), "smoothing=0 of ULA"),
    "q": (LC(q=1.5), r"q=1.5 of LC: give a number in \[0, 1\]"),
    "alpha": (LC(alpha=1), "alpha=1 of LC"),
    "mixup": (LC(mixup=None), "mixup=None of LC"),
    "decay": (LC(biased_weight_decay=-1.0), "LC.heads.*weight_decay=-1.0"),
}


@pytest.mark.filterwarnings("ignore::skdebias.AttributesIgnoredWarning")
@pytest.mark.parametrize("name", WRONG)
def test_fields_that_cannot_be(name):
    X, y, a = _data(2)
    method, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        DebiasedClassifier(method, **QUICK).fit(X, y, attributes=a)


# --- predictions as attributes -------------------------------------------------------


def test_predictions_of_several_classes_are_codes():
    X, y, _ = _data(3, correlation=0.8)
    labels = np.array(["ant", "bee", "cat"])[y]
    model = PredictedClassPseudoAttributes().fit(X, labels)
    predicted = model.reference_estimator_.predict(X)
    np.testing.assert_array_equal(
        np.array(["ant", "bee", "cat"])[model.pseudo_attributes_], predicted
    )
    np.testing.assert_array_equal(model.predict(X, labels), model.pseudo_attributes_)


def test_predictions_without_a_mistake_are_refused():
    X, y, _ = _data(2)
    X[:, 0] = 10 * y
    exact = ERMClassifier(solver="lbfgs", weight_decay=1e-4)
    inferrer = PredictedClassPseudoAttributes(reference_estimator=exact)
    with pytest.raises(ValueError, match=r"makes no mistake .*weight_decay"):
        inferrer.fit(X, y)
