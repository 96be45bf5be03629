"""DebiasedClassifier is the named estimators, and takes a method of one's own."""

import copy
import pickle
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from skdebias import (
    AFRClassifier,
    DebiasedClassifier,
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    JTTClassifier,
    LfFClassifier,
    MissingAttributesWarning,
    UGCClassifier,
    ULEClassifier,
    _fitted,
    export,
)
from skdebias.attributes import (
    ConfidencePseudoAttributes,
    GradientClusterPseudoAttributes,
)
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.methods import (
    AFR,
    ERM,
    GERNE,
    JTT,
    ULE,
    Batch,
    GroupDRO,
    Head,
    LfF,
    Method,
    SamplingPlan,
)
from skdebias.model_selection import BatchedGridSearchCV, BatchedHalvingGridSearchCV

FAST = {"max_iter": 5, "random_state": 3, "device": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore:.*accuracy:UserWarning")

# The named estimator, the method, and whether it is given attributes.
PAIRS = {
    "ERM": (ERMClassifier(), ERM(), False),
    "ERM class": (ERMClassifier("class"), ERM("class"), False),
    "ERM group": (ERMClassifier("group"), ERM("group"), True),
    "ERM reweight": (
        ERMClassifier(reweight="group"),
        ERM(reweight="group"),
        True,
    ),
    "GERNE": (GERNEClassifier(0.6, 0.4), GERNE(0.6, 0.4), True),
    "GERNE shared": (
        GERNEClassifier(0.6, coupling="shared"),
        GERNE(0.6, shared=True),
        True,
    ),
    "GERNE clipped": (
        GERNEClassifier(50.0, out_of_bounds="clip"),
        GERNE(50.0, out_of_bounds="clip"),
        True,
    ),
    "GroupDRO": (GroupDROClassifier(0.1), GroupDRO(0.1), True),
    "ULE": (ULEClassifier(0.4), ULE(0.4, student_weight_decay=0.1), False),
    "ULE, frozen student": (
        ULEClassifier(0.4, student_epochs=2),
        ULE(0.4, student_weight_decay=0.1, student_epochs=2),
        False,
    ),
    "LfF": (LfFClassifier(0.5), LfF(0.5), False),
}
EXTRA = ("beta_", "beta_bounds_", "group_weights_", "cosine_", "student_coef_",
         "student_coefs_", "biased_coef_", "biased_coefs_")  # fmt: skip


@pytest.fixture(scope="module", params=[2, 3])
def data(request):
    return make_spurious_classification(
        500, n_classes=request.param, n_features=8, random_state=0
    )


def fitted(model):
    """Fitted attributes by name."""
    return {
        name: value
        for name, value in vars(model).items()
        if name.endswith("_") and name != "history_"
    }


def assert_equal(model, named):
    """All that is fitted is equal to the bit."""
    assert fitted(model).keys() == fitted(named).keys()
    for name, value in fitted(named).items():
        ours = getattr(model, name)
        values = value if isinstance(value, list) else [value]
        for a, b in zip(
            ours if isinstance(ours, list) else [ours], values, strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=name)


def pair(name, **more):
    named, method, _ = PAIRS[name]
    shared = FAST | {"learning_rate": named.learning_rate} | more
    return DebiasedClassifier(method, **shared), clone(named).set_params(**shared)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("hidden", [(), (4,)])
@pytest.mark.parametrize("validated", [False, True])
def test_is_the_named_estimator_to_the_bit(name, hidden, validated, data):
    X, y, a = data
    given = {"attributes": a} if PAIRS[name][2] else {}
    if validated:
        given |= {"X_val": X[::3], "y_val": y[::3]}
        if PAIRS[name][2]:
            given |= {"attributes_val": a[::3]}
    model, named = pair(name, hidden_layer_sizes=hidden)
    assert_equal(model.fit(X, y, **given), named.fit(X, y, **given))
    np.testing.assert_array_equal(model.predict_proba(X), named.predict_proba(X))


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
@pytest.mark.parametrize("name", ["ERM", "ERM reweight", "GERNE", "GroupDRO"])
def test_other_solvers(name, solver, data):
    X, y, a = data
    given = {"attributes": a} if PAIRS[name][2] else {}
    model, named = pair(name, solver=solver, max_iter=30, weight_decay=0.01)
    assert_equal(model.fit(X, y, **given), named.fit(X, y, **given))


def test_inferred_attributes(data):
    X, y, _ = data
    inferrers = {
        "reference": ConfidencePseudoAttributes(
            0.2, reference_estimator=ERMClassifier(**FAST)
        ),
        "clusters": GradientClusterPseudoAttributes(random_state=0),
    }
    for inferrer in inferrers.values():
        model = DebiasedClassifier(GERNE(0.5), pseudo_attributes=inferrer, **FAST)
        named = GERNEClassifier(0.5, pseudo_attributes=inferrer, **FAST)
        assert_equal(model.fit(X, y), named.fit(X, y))


def test_methods_whose_first_stage_is_the_estimators(data):
    """JTT, AFR and UGC, given what their estimators learned."""
    X, y, _ = data
    jtt = JTTClassifier(7, **FAST).fit(X, y)
    model = DebiasedClassifier(JTT(7), **FAST)
    model.fit(X, y, attributes=jtt.pseudo_attributes_)
    np.testing.assert_array_equal(model.coef_, jtt.coef_)
    afr = AFRClassifier(3.0, regularization=0.2, **FAST).fit(X, y)
    anchor = [afr.first_coef_], [afr.first_intercept_]
    model = DebiasedClassifier(AFR(afr.confidence_, 3.0, 0.2, anchor), **FAST)
    np.testing.assert_array_equal(model.fit(X, y).coef_, afr.coef_)
    assert model.effective_sample_size_ == afr.effective_sample_size_
    ugc = UGCClassifier(robust="group_dro", **FAST).fit(X, y)
    model = DebiasedClassifier(GroupDRO(0.01), **FAST)
    model.fit(X, y, attributes=ugc.pseudo_attributes_)
    np.testing.assert_array_equal(model.coef_, ugc.coef_)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_grids_over_fields_of_the_method(solver, data):
    X, y, a = data
    model, named = pair("GERNE", solver=solver, max_iter=20, weight_decay=0.01)
    grid = {"beta": [0.0, 0.5, 0.8], "c": [0.3, 0.5]}
    ours = {f"method__{key}": values for key, values in grid.items()}
    found = BatchedGridSearchCV(model, ours, cv=2).fit(X, y, attributes=a)
    expected = BatchedGridSearchCV(named, grid, cv=2).fit(X, y, attributes=a)
    for key in ("mean_test_score", "split0_test_score", "rank_test_score"):
        np.testing.assert_array_equal(found.cv_results_[key], expected.cv_results_[key])
    best = {f"method__{key}": value for key, value in expected.best_params_.items()}
    assert found.best_params_ == best
    np.testing.assert_array_equal(
        found.best_estimator_.coef_, expected.best_estimator_.coef_
    )


def test_fields_that_stack_share_a_stack(data, monkeypatch):
    from skdebias.model_selection import _stack

    X, y, a = data
    widths = []
    original = _stack.CandidateStack.__init__

    def counted(self, members, *args):
        widths.append(len(members))
        original(self, members, *args)

    monkeypatch.setattr(_stack.CandidateStack, "__init__", counted)
    model = DebiasedClassifier(GERNE(), **FAST)
    grid = {"method__beta": [0.0, 0.5], "method__shared": [False, True]}
    BatchedGridSearchCV(model, grid, cv=2, refit=False).fit(X, y, attributes=a)
    assert widths == [2] * 4  # two folds, two couplings
    widths.clear()
    grid = {"method": [GERNE(0.1), GERNE(0.2), ERM(), ERM("class"), LfF()]}
    search = BatchedGridSearchCV(model, grid, cv=2).fit(X, y, attributes=a)
    assert sorted(widths) == [1] * 6 + [2] * 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_stock_search_pipeline_and_halving(data):
    X, y, a = data
    model = make_pipeline(StandardScaler(), DebiasedClassifier(GERNE(), **FAST))
    grid = {"debiasedclassifier__method__beta": [0.0, 0.5]}
    with config_context(enable_metadata_routing=True):
        stock = GridSearchCV(model, grid, cv=2).fit(X, y, attributes=a)
        ours = BatchedGridSearchCV(model, grid, cv=2).fit(X, y, attributes=a)
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"],
        stock.cv_results_["mean_test_score"],
        atol=0.01,
    )
    grid = {"method__beta": [0.0, 0.3, 0.5, 0.8]}
    halving = BatchedHalvingGridSearchCV(
        DebiasedClassifier(GERNE(), **FAST | {"max_iter": 8}), grid, cv=2
    )
    assert (
        halving.fit(X, y, attributes=a).best_params_["method__beta"]
        in (grid["method__beta"])
    )


def test_parameters():
    model = DebiasedClassifier(GERNE(0.5))
    assert model.get_params()["method__beta"] == 0.5
    assert "method__beta" not in model.get_params(deep=False)
    model.set_params(method__c=0.3, learning_rate=0.1)
    assert (model.method, model.learning_rate) == (GERNE(0.5, 0.3), 0.1)
    model.set_params(method=ULE(), method__lam=0.2)
    assert model.method == ULE(0.2)
    assert clone(model).method == ULE(0.2)
    with pytest.raises(ValueError, match="method__beta: ULE has no field 'beta'"):
        model.set_params(method__beta=1.0)
    assert model.method == ULE(0.2)
    with pytest.raises(ValueError, match="Invalid parameter 'gamma'"):
        model.set_params(gamma=1.0)
    assert "GERNE(beta=0.5" in repr(DebiasedClassifier(GERNE(0.5)))


@pytest.mark.parametrize("method", [GERNE, "GERNE", None, GERNEClassifier()])
def test_what_is_no_method_is_refused(method, data):
    X, y, _ = data
    with pytest.raises(TypeError, match="is no method: give an instance"):
        DebiasedClassifier(method).fit(X, y)


def test_missing_attributes_are_told(data):
    X, y, _ = data
    for method in (GERNE(0.1), GroupDRO(), ERM("group"), JTT()):
        with pytest.warns(MissingAttributesWarning, match="DebiasedClassifier"):
            DebiasedClassifier(method, **FAST).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MissingAttributesWarning)
        for method in (ERM(), LfF(), ULE()):
            DebiasedClassifier(method, **FAST).fit(X, y)


def test_bounds_are_those_of_the_estimator(data):
    X, y, a = data
    with pytest.raises(
        ValueError, match=r"beta=50\.0 with c=0.5 is outside the bounds"
    ):
        DebiasedClassifier(GERNE(50.0), **FAST).fit(X, y, attributes=a)


def test_attributes_of_an_earlier_fit_go(data):
    X, y, a = data
    model = DebiasedClassifier(ULE(), **FAST).fit(X, y)
    assert hasattr(model, "student_coef_")
    model.set_params(method=GERNE(0.3)).fit(X, y, attributes=a)
    assert not hasattr(model, "student_coef_")
    assert not hasattr(model, "cosine_")
    assert model.beta_ == 0.3
    model.set_params(method=LfF(), warm_start=False).fit(X, y)
    assert not hasattr(model, "beta_")


@dataclass(frozen=True)
class Tilted(Method):
    """A method of one's own: the second attribute value counts `tilt` times."""

    tilt: float = 2.0

    stackable: ClassVar = ("tilt",)

    def plan(self, groups):
        share = groups.counts * np.where(groups.cells[:, 1] == 1, self.tilt, 1.0)
        return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),))

    def learned(self, groups, fitted):
        return {"tilted_counts_": groups.counts}


@dataclass(frozen=True)
class Twins(Tilted):
    """Two heads, the first of which is only looked at."""

    @property
    def heads(self):
        return Head("twin", weight_decay=0.5, epochs=2), Head()


class OneOfTwo(BaseEstimator):
    def fit_predict(self, X, y, **validation):
        return (X[:, 0] > 0).astype(int)


def test_a_method_of_ones_own(data, tmp_path):
    """As a head, in stacks, and as a network."""
    X, y, a = data
    model = DebiasedClassifier(Tilted(), **FAST).fit(X, y, attributes=a)
    assert model.tilted_counts_.sum() == len(y)
    grid = {"method__tilt": [1.0, 2.0, 5.0]}
    search = BatchedGridSearchCV(model, grid, cv=2).fit(X, y, attributes=a)
    alone = clone(model).set_params(**search.best_params_).fit(X, y, attributes=a)
    np.testing.assert_array_equal(search.best_estimator_.coef_, alone.coef_)
    inferred = DebiasedClassifier(Tilted(), pseudo_attributes=OneOfTwo(), **FAST)
    np.testing.assert_array_equal(
        inferred.fit(X, y).coef_, model.fit(X, y, attributes=X[:, 0] > 0).coef_
    )
    for solver in ("sgd", "lbfgs"):
        model.set_params(solver=solver, max_iter=40).fit(X, y, attributes=a)
        export.to_torch(model)


def test_heads_are_named_and_have_settings_of_their_own(data):
    X, y, a = data
    model = DebiasedClassifier(Twins(), learning_rate=0.1, **FAST)
    model.fit(X, y, attributes=a)
    assert np.abs(model.twin_coef_).sum() < 0.8 * np.abs(model.coef_).sum()
    network = FineTuneClassifier(
        DebiasedClassifier(Twins()), _tensor_network(X), modality="tensor",
        max_iter=1, random_state=0, device="cpu",
    )  # fmt: skip
    network.fit(X.astype(np.float32), y, attributes=a)
    assert hasattr(network, "twin_network_")
    assert network.estimator_.tilted_counts_.sum() == len(y)


def _tensor_network(X):
    import torch

    return torch.nn.Sequential(torch.nn.Linear(X.shape[1], 5), torch.nn.ReLU())


@pytest.mark.parametrize("name", ["GERNE", "ULE", "LfF"])
def test_networks_are_those_of_the_named_estimators(name, data):
    X, y, a = data
    named, method, _ = PAIRS[name]
    backbone = _tensor_network(X)
    networks = [
        FineTuneClassifier(
            estimator,
            backbone,
            modality="tensor",
            **FAST | {"max_iter": 2},
        )
        for estimator in (DebiasedClassifier(method), clone(named))
    ]
    given = {"attributes": a} if PAIRS[name][2] else {}
    X = X.astype(np.float32)
    first, second = (n.fit(X, y, **given).predict_proba(X) for n in networks)
    np.testing.assert_array_equal(first, second)


def test_what_is_no_method_of_networks_is_refused(data):
    X, y, _ = data
    model = FineTuneClassifier(
        DebiasedClassifier(AFR(np.full(len(y), 0.5))), _tensor_network(X),
        modality="tensor", device="cpu",
    )  # fmt: skip
    with pytest.raises(TypeError, match="does not train whole networks"):
        model.fit(X.astype(np.float32), y)


def test_a_guest_class_keeps_the_result_of_its_method(data):
    """`coef_` used to be the biased head of a method with two."""
    X, y, _ = data

    class Guest(ERMClassifier):
        def _make_method(self, data, stage):
            return LfF(0.5)

    guest = Guest(**FAST).fit(X, y)
    expected = LfFClassifier(0.5, **FAST | {"learning_rate": 1e-3}).fit(X, y)
    np.testing.assert_array_equal(guest.coef_, expected.coef_)
    np.testing.assert_array_equal(guest.biased_coef_, expected.biased_coef_)


@pytest.mark.parametrize("method", [GERNE(0.3), ULE(0.4), LfF(), ERM("group")])
def test_files(method, data, tmp_path):
    X, y, a = data
    model = DebiasedClassifier(method, **FAST).fit(X, y, attributes=a)
    export.save(model, tmp_path / "head")
    loaded = export.load(tmp_path / "head")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert repr(loaded.method) == repr(method)
    assert loaded.get_params().keys() == model.get_params().keys()
    # It can be saved, cloned and fitted again, with other fields too.
    export.save(loaded, tmp_path / "again")
    refitted = clone(export.load(tmp_path / "again")).fit(X, y, attributes=a)
    np.testing.assert_array_equal(refitted.coef_, model.coef_)
    field = next(iter(vars(method)))
    changed = clone(loaded).set_params(**{f"method__{field}": None})
    assert changed.method.fields[field] is None
    with pytest.raises(ValueError, match="has no field 'nothing'"):
        loaded.set_params(method__nothing=1)


@dataclass(frozen=True)
class Plain(Method):
    """A method that learns nothing beside its head."""

    size: int = 2

    def plan(self, groups):
        return ERM().plan(groups)


def test_files_of_a_method_of_ones_own(data, tmp_path):
    """The file holds no code: it predicts, and says what fitting again takes."""
    X, y, a = data
    model = DebiasedClassifier(Plain(), **FAST).fit(X, y, attributes=a)
    export.save(model, tmp_path / "head")
    loaded = export.load(tmp_path / "head")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    with pytest.raises(ValueError, match="method=<your Plain>"):
        loaded.fit(X, y, attributes=a)
    loaded.set_params(method=Plain(3)).fit(X, y, attributes=a)
    np.testing.assert_array_equal(loaded.coef_, model.coef_)
    for forged in ({"name": "os.system", "fields": {}}, {"name": "ERM"}, 3, "ERM"):
        with pytest.raises(ValueError, match="its method is"):
            _fitted._saved_method(forged)


def test_setting_parameters_sets_all_or_none_of_the_method():
    """In whatever order the method and its fields are named."""
    model = DebiasedClassifier(GERNE(0.5))
    model.set_params(method__tilt=3.0, method=Tilted())
    assert model.method == Tilted(3.0)
    for wrong in ({"gamma": 1.0}, {"method__gamma": 1.0}, {"method__tilt__x": 1}):
        with pytest.raises(ValueError, match=r"gamma|tilt__x"):
            model.set_params(method=ERM(), **wrong)
        assert model.method == Tilted(3.0)


def test_warm_start_goes_on_from_heads_of_the_same_names(data):
    X, y, a = data
    model = DebiasedClassifier(Tilted(), warm_start=True, **FAST)
    model.fit(X, y, attributes=a).set_params(method=LfF())
    with pytest.raises(ValueError, match="no head 'biased', which LfF trains, was"):
        model.fit(X, y)
    assert model.tilted_counts_.sum() == len(y)  # all is as it was
    model.set_params(warm_start=False).fit(X, y).set_params(warm_start=True)
    before = model.biased_coef_
    model.set_params(max_iter=1, learning_rate=1e-9).fit(X, y)
    np.testing.assert_allclose(model.biased_coef_, before, atol=1e-6)


@dataclass(frozen=True, eq=False)
class Weighted(Method):
    """A field that is an array, which is compared to nothing by `==`."""

    weights: np.ndarray

    def plan(self, groups):
        share = self.weights[groups.cells[:, 1]] * groups.counts
        return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),))


def test_fields_that_are_arrays(data):
    X, y, a = data
    values = [np.ones(3), np.array([1.0, 4.0, 4.0])]
    model = DebiasedClassifier(Weighted(values[0]), **FAST)
    grid = {"method__weights": values}
    search = BatchedGridSearchCV(model, grid, cv=2).fit(X, y, attributes=a)
    assert any(search.best_params_["method__weights"] is value for value in values)
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 2
    for value, score in zip(values, search.cv_results_["mean_test_score"]):
        alone = BatchedGridSearchCV(model, {"method__weights": [value]}, cv=2)
        assert alone.fit(X, y, attributes=a).best_score_ == score
    long = DebiasedClassifier(Weighted(np.arange(5000.0)))
    assert len(repr(long)) < 500
    assert clone(long).method.weights is not long.method.weights
    assert "method__weights" in estimator_html_repr(long)


@dataclass(frozen=True)
class Strata(Method):
    """Calls a field stackable that it should not."""

    by: str = "group"

    stackable: ClassVar = ("by",)

    def plan(self, groups):
        strata = groups.ids if self.by == "group" else groups.ids[::-1]
        share = np.bincount(strata) / len(strata)
        return SamplingPlan(strata, (Batch("all", share),))


def test_a_stack_whose_plans_do_not_go_together_is_refused(data):
    """All were drawn from the strata of the first, in silence."""
    X, y, a = data
    grid = {"method__by": ["group", "order"]}
    model = DebiasedClassifier(Strata(), **FAST)
    search = BatchedGridSearchCV(model, grid, cv=2, error_score="raise")
    with pytest.raises(ValueError, match=r"differ in their strata, .* leave it out of"):
        search.fit(X, y, attributes=a)


def test_copies_predict_the_same(data):
    X, y, a = data
    model = DebiasedClassifier(Tilted(), **FAST).fit(X, y, attributes=a)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
        assert copied.method == model.method


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: make_pipeline(StandardScaler(), model),
        lambda model: CalibratedClassifierCV(model, cv=2),
        lambda model: BaggingClassifier(model, n_estimators=2, n_jobs=2),
        lambda model: VotingClassifier([("a", model), ("b", clone(model))]),
        lambda model: StackingClassifier([("a", model), ("b", clone(model))], cv=2),
        lambda model: GridSearchCV(model, {"method__beta": [0.1, 0.5]}, cv=2, n_jobs=2),
        lambda model: GridSearchCV(model, {"method": [GERNE(0.1), ERM()]}, cv=2),
    ],
)
def test_inside_estimators_of_scikit_learn(wrap, data):
    """Which hand the attributes on, where metadata routing is enabled."""
    X, y, a = data
    model = DebiasedClassifier(GERNE(0.3), **FAST, learning_rate=0.1)
    with config_context(enable_metadata_routing=True):
        if isinstance(wrap(model), StackingClassifier):
            # Its last estimator would be handed them, and takes none.
            wrapped = wrap(model.set_params(method=ERM())).fit(X, y)
        else:
            wrapped = wrap(model).fit(X, y, attributes=a)
    assert wrapped.score(X, y) > 0.6


@pytest.mark.parametrize("field", ["max_iter", "hidden_layer_sizes", "tilt"])
def test_fields_may_have_the_names_of_parameters(field, data):
    """A stack is not mixed of estimators that differ in what it takes of the first.

    The class is defined here, where no module has it.
    """
    X, y, a = data
    members = {"__annotations__": {field: object}, field: 2.0, "stackable": (field,)}

    def plan(self, groups):
        share = groups.counts * np.where(
            groups.cells[:, 1] == 1, getattr(self, field), 1.0
        )
        return SamplingPlan(groups.ids, (Batch("all", share / share.sum()),))

    kind = dataclass(frozen=True)(type("Local", (Method,), {**members, "plan": plan}))
    model = DebiasedClassifier(kind(), **FAST)
    grid = {"max_iter": [1, 6], f"method__{field}": [1.0, 4.0]}
    search = BatchedGridSearchCV(model, grid, cv=2, refit=False).fit(X, y, attributes=a)
    for i, parameters in enumerate(search.cv_results_["params"]):
        alone = BatchedGridSearchCV(
            clone(model).set_params(**parameters), {"tol": [1e-4]}, cv=2, refit=False
        ).fit(X, y, attributes=a)
        for key in ("split0_test_score", "split1_test_score"):
            assert alone.cv_results_[key][0] == search.cv_results_[key][i]
    assert len(np.unique(search.cv_results_["mean_test_score"])) > 1


@dataclass(frozen=True)
class WithBeta(Plain):
    """A field of GERNE's name, and not of its kind."""

    beta: str = "large"


def test_networks_take_methods_with_any_fields(data):
    X, y, a = data
    network = FineTuneClassifier(
        DebiasedClassifier(WithBeta()), _tensor_network(X), modality="tensor",
        max_iter=1, random_state=0, device="cpu",
    )  # fmt: skip
    network.fit(X.astype(np.float32), y, attributes=a)
    assert network.estimator_.method.beta == "large"
