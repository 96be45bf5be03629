"""Whole networks on a GPU, after fits elsewhere."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_cuda
from torch import nn

from skdebias import GERNEClassifier, GroupDROClassifier, LfFClassifier, ULEClassifier
from skdebias.finetune import FineTuneClassifier

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RNG = np.random.default_rng(0)
Y = np.arange(48) % 2
A = np.arange(48) // 2 % 2
X = RNG.normal(size=(48, 6)).astype(np.float32) + Y[:, None]
# Device and precision of a fit.
PLACES = [("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")]
PLACES += [("cpu", "bfloat16"), ("auto", "float32"), ("auto", "auto")]


class Small(nn.Module):
    cache_description = "small network, v1"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def model(estimator=None, **settings):
    defaults = {
        "modality": "tensor",
        "batch_size": 16,
        "max_iter": 2,
        "precision": "float32",
        "random_state": 0,
    }
    estimator = GERNEClassifier() if estimator is None else estimator
    return FineTuneClassifier(estimator, Small(), **(defaults | settings))


def trained_on(fitted):
    return next(fitted.network_.parameters()).device.type


@pytest.mark.gpu
@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("second", PLACES)
def test_a_fit_is_where_it_was_asked_for(first, second):
    reference = model(device="cpu").fit(X, Y, A).decision_function(X)
    for device, precision in (first, second):
        fitted = model(device=device, precision=precision).fit(X, Y, A)
        assert trained_on(fitted) == ("cpu" if device == "cpu" else "cuda")
        atol = 1e-3 if precision == "float32" else 0.2
        np.testing.assert_allclose(fitted.decision_function(X), reference, atol=atol)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("one", "other"), list(itertools.permutations(["cpu", "cuda", "auto"], 2))
)
def test_predictions_elsewhere(one, other):
    fitted = model(device=one).fit(X, Y, A)
    expected = fitted.predict_proba(X)
    fitted.set_params(device=other)
    np.testing.assert_allclose(fitted.predict_proba(X), expected, atol=1e-5)


@pytest.mark.gpu
def test_tensors_of_the_gpu():
    Xg, yg, ag = (torch.from_numpy(x).to("cuda") for x in (X, Y, A))
    validation = {"X_val": Xg, "y_val": yg, "attributes_val": ag}
    fitted = model(device="cuda").fit(Xg, yg, ag, **validation)
    validation = {"X_val": X, "y_val": Y, "attributes_val": A}
    twin = model(device="cuda").fit(X, Y, A, **validation)
    np.testing.assert_allclose(fitted.predict_proba(Xg), twin.predict_proba(X))
    assert fitted.score(Xg, yg) == twin.score(X, Y)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "estimator",
    [GERNEClassifier(), GroupDROClassifier(), LfFClassifier(), ULEClassifier(lam=0.7)],
)
def test_methods_agree_with_the_cpu(estimator):
    """And no bit of them depends on the order in which threads end."""
    found = [
        model(estimator, device=device).fit(X, Y, A).decision_function(X)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_network_fitted_on_a_gpu_is_pickled_for_any_machine():
    with pretend_cuda():
        fitted = model(device="auto").fit(X, Y, A)
        expected = fitted.predict_proba(X)
        assert trained_on(fitted) == "cuda"
        data = pickle.dumps(fitted)
        assert trained_on(fitted) == "cuda"
    loaded = pickle.loads(data)
    assert trained_on(loaded) == "cpu"
    np.testing.assert_allclose(loaded.predict_proba(X), expected, atol=1e-6)
    again = loaded.fit(X, Y, A)  # on the CPU, although the last fit was not
    assert trained_on(again) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda():
    with pytest.raises(ValueError, match="device='cuda' cannot be used on this mach"):
        model(device="cuda").fit(X, Y, A)
