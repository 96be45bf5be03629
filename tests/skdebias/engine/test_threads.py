"""Threads: a result does not know how many there were, and they are put back."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_info, threadpool_limits

from skdebias import (
    DFRClassifier,
    ERMClassifier,
    GERNEClassifier,
    UGCClassifier,
    _thread_limits,
)
from skdebias._blas import blas_on_one_thread
from skdebias._engine import _expected_risk, _threads
from skdebias._engine._features import Features
from skdebias._engine._heads import HeadStack
from skdebias._engine._threads import (
    Workers,
    available_threads,
    one_thread,
    parallel_map,
    pieces,
    thread_pool,
    workers,
)
from skdebias.datasets import make_spurious_classification
from skdebias.model_selection import (
    BatchedGridSearchCV,
    BatchedHalvingGridSearchCV,
    BatchedRandomizedSearchCV,
)
from tests._instances import ONE_OF_EACH, PSEUDO_ATTRIBUTES

CPU = torch.device("cpu")
NUMBERS = (1, 2, 4, 8)
# Tiny data make weak clusters, and few epochs make warnings.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _settings():
    """Threads of each library, of torch, and of torch in a thread to come."""
    libraries = {lib["filepath"]: lib["num_threads"] for lib in threadpool_info()}
    to_come = _thread_limits.in_new_thread(torch.get_num_threads)
    return libraries, torch.get_num_threads(), to_come


@pytest.fixture(autouse=True)
def _restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _models():
    """Every estimator with every solver and kind of head, and what else is parallel."""
    for row, solver, hidden in itertools.product(
        ONE_OF_EACH.values(), ("sgd", "adamw", "lbfgs"), ((), (48,))
    ):
        if solver == "lbfgs" and (hidden or not row.is_deterministic):
            continue
        if row.trains_in_epochs:
            kind = "hidden" if hidden else "linear"
            settings = {"solver": solver, "hidden_layer_sizes": hidden}
            yield (
                f"{row.class_name}-{solver}-{kind}",
                row.make(max_iter=2, random_state=0, **settings),
            )
    for l1_ratio in (0.0, 0.5, 1.0):
        yield (
            f"DFRClassifier-{l1_ratio}",
            DFRClassifier((1.0, 0.1), l1_ratio=l1_ratio, n_draws=2, random_state=0)
            .set_params(max_iter=50),
        )  # fmt: skip
    for warmup in ("epochs", "logistic"):
        own = {"max_iter": 1, "random_state": 0}
        yield f"UGCClassifier-{warmup}", UGCClassifier(warmup=warmup, **own)


MODELS = dict(_models())


@pytest.fixture(scope="module")
def data():
    # Sizes whose products differ in their last bits between one thread and two.
    X, y, attributes = make_spurious_classification(
        900, n_features=67, correlation=0.85, random_state=0
    )
    return X.astype(np.float32), y, attributes


def _fit(model, data):
    """What a fit learned, and what it predicts."""
    X, y, attributes = data
    fitted = clone(model).fit(X, y, attributes)
    out = {k: v for k, v in vars(fitted).items() if k.endswith("_") and k != "history_"}
    return out | {"scores": fitted.decision_function(X)}


def _assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            _assert_same(found[name], value)
        elif isinstance(value, list):
            assert len(found[name]) == len(value)
            for own, other in zip(found[name], value):
                np.testing.assert_array_equal(own, other, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_fits_are_the_same_on_any_number_of_threads(name, data):
    fits = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        with threadpool_limits(number, user_api="blas"):
            fits.append(_fit(MODELS[name], data))
        assert torch.get_num_threads() == number
    for other in fits[1:]:
        _assert_same(other, fits[0])


@pytest.mark.parametrize(
    "name",
    [
        "DFRClassifier-1.0",
        "DFRClassifier-0.0",
        "UGCClassifier-logistic",
        "AFRClassifier-lbfgs-linear",
        "GERNEClassifier-sgd-hidden",
    ],
)
def test_fits_beside_each_other_are_those_of_one_alone(name, data):
    """The generator of liblinear and the threads of OpenBLAS are the process's."""
    torch.set_num_threads(2)
    before = _settings()
    alone = _fit(MODELS[name], data)
    together = threading.Barrier(3)

    def fit(_):
        together.wait()
        return _fit(MODELS[name], data)

    with ThreadPoolExecutor(3) as pool:
        for other in pool.map(fit, range(3)):
            _assert_same(other, alone)
    assert _settings() == before


@pytest.mark.parametrize(
    "model",
    [
        GERNEClassifier(hidden_layer_sizes=(512,), batch_size=1024, max_iter=1),
        GERNEClassifier(hidden_layer_sizes=(512,), solver="adamw", batch_size=1024)
        .set_params(max_iter=1),
        ERMClassifier(solver="lbfgs", max_iter=6),
    ],
    ids=["sgd", "adamw", "lbfgs"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:L-BFGS stopped")
def test_large_steps_are_divided_the_same_way(model, monkeypatch):
    X, y, attributes = make_spurious_classification(
        6000, n_features=300, random_state=0
    )
    if model.solver == "lbfgs":
        monkeypatch.setattr(_threads, "_PIECE_WORK", 100_000)
        monkeypatch.setattr(_expected_risk, "_DOUBLE_ENTRIES", 0)
    data, idents, fits = (X.astype(np.float32), y, attributes), {}, []
    real = Workers.map

    def spied(self, task, pieces):
        def run(piece):
            idents[number].add(threading.get_ident())
            counts[number].add(len(pieces))
            assert torch.get_num_threads() == 1
            return task(piece)

        return real(self, run, pieces)

    counts = {}
    monkeypatch.setattr(Workers, "map", spied)
    for number in NUMBERS:
        idents[number], counts[number] = set(), set()
        torch.set_num_threads(number)
        fits.append(_fit(model.set_params(random_state=0), data))
        assert counts[number] == counts[1]
    assert max(counts[1]) >= 4
    assert len(idents[1]) == 1
    for other in fits[1:]:
        _assert_same(other, fits[0])


SEARCHES = {
    "grid": (BatchedGridSearchCV, {}),
    "randomised": (BatchedRandomizedSearchCV, {"n_iter": 4, "random_state": 0}),
    "halving": (BatchedHalvingGridSearchCV, {"factor": 2}),
}


@pytest.mark.parametrize("divided", [False, True], ids=["whole", "divided"])
@pytest.mark.parametrize("kind", SEARCHES)
def test_searches_are_the_same_on_any_number_of_threads(
    kind, divided, data, monkeypatch
):
    from skdebias.model_selection import _stack_limits

    if divided:
        monkeypatch.setattr(_stack_limits, "_PART_WORK", 1)
    X, y, attributes = data
    search, options = SEARCHES[kind]
    model = make_pipeline(PCA(20, random_state=0), GERNEClassifier(1.0, random_state=0))
    model.set_params(gerneclassifier__max_iter=2)
    prefix = "gerneclassifier__"
    grid = {f"{prefix}beta": [0.0, 0.5], f"{prefix}learning_rate": [1e-3, 1e-2, 1e-1]}
    found = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        with threadpool_limits(number, user_api="blas"):
            done = search(model, grid, cv=3, scoring="neg_log_loss", **options)
            done.fit(X, y, attributes=attributes)
        results = done.cv_results_
        kept = {k: v for k, v in results.items() if "score" in k and "time" not in k}
        found.append(kept | {"coef": done.best_estimator_[-1].coef_})
    for other in found[1:]:
        _assert_same(other, found[0])


@pytest.mark.filterwarnings("ignore:L-BFGS stopped")
def test_a_deterministic_search_is_the_same_on_any_number_of_threads(data, monkeypatch):
    monkeypatch.setattr(_threads, "_PIECE_WORK", 50_000)
    X, y, attributes = data
    model = GERNEClassifier(solver="lbfgs", max_iter=8, random_state=0)
    found = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        search = BatchedGridSearchCV(
            model, {"c": [0.5, 1.0]}, cv=3, scoring="neg_log_loss", refit=False
        ).fit(X, y, attributes=attributes)
        found.append(search.cv_results_["mean_test_score"])
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("name", PSEUDO_ATTRIBUTES)
def test_pseudo_attributes_are_the_same_on_any_number_of_threads(name, data):
    X, y, _ = data
    found = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        fitted = clone(PSEUDO_ATTRIBUTES[name]).fit(X, y)
        silhouette = getattr(fitted, "silhouette_", 0.0)
        found.append((fitted.pseudo_attributes_, fitted.predict(X, y), silhouette))
    for other in found[1:]:
        for own, first in zip(other, found[0]):
            np.testing.assert_array_equal(own, first)


def test_networks_are_the_same_on_any_number_of_threads():
    pytest.importorskip("accelerate")
    from skdebias.finetune import FineTuneClassifier

    rng = np.random.default_rng(0)
    images = rng.standard_normal((64, 3, 32, 32)).astype(np.float32)
    y, attributes = rng.integers(0, 2, 64), rng.integers(0, 2, 64)
    found = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        torch.manual_seed(0)
        backbone = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, padding=1),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )
        model = FineTuneClassifier(
            GERNEClassifier(), backbone=backbone, modality="tensor", max_iter=1,
            batch_size=32, random_state=0, device="cpu",
        )  # fmt: skip
        model.fit(images, y, attributes)
        weights = [p.detach().numpy() for p in model.network_.parameters()]
        found.append([*weights, model.decision_function(images)])
        assert torch.get_num_threads() == number
    for other in found[1:]:
        for own, first in zip(other, found[0]):
            np.testing.assert_array_equal(own, first)


def test_one_thread_is_one_and_all_is_put_back():
    torch.set_num_threads(3)
    before = _settings()
    with one_thread():
        with one_thread():
            pass
        libraries, own, beginning = _settings()
        assert {number for number in libraries.values() if number is not None} == {1}
        assert own == 1
        assert beginning == 3
        assert available_threads() == 3
    assert _settings() == before


@pytest.mark.parametrize("limited", [False, True])
def test_matrix_products_have_one_thread_whatever_was_set(limited):
    """MKL has a number of its own, which need not be that of OpenMP."""
    X = torch.randn(20, 2000, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    with one_thread():
        expected = X @ X.T
    torch.set_num_threads(8)
    with threadpool_limits(1 if limited else None, user_api="openmp"), one_thread():
        assert torch.equal(X @ X.T, expected)


def test_without_a_handle_on_mkl_torch_is_asked(monkeypatch):
    monkeypatch.setattr(_thread_limits, "mkl_setter", lambda: None)
    torch.set_num_threads(3)
    before = _settings()
    with one_thread():
        assert torch.get_num_threads() == 1
        assert _thread_limits.in_new_thread(torch.get_num_threads) == 3
    assert _settings() == before


def test_blocks_in_other_threads_are_counted():
    """Whoever ends last puts OpenBLAS back, in whatever thread that is."""
    before = _settings()
    inside, leave = threading.Barrier(2), threading.Event()

    def hold():
        with blas_on_one_thread():
            inside.wait()
            leave.wait()

    with threadpool_limits(2, user_api="blas"):
        limited = _settings()
        thread = threading.Thread(target=hold)
        with blas_on_one_thread():
            thread.start()
            inside.wait()
        assert _blas_numbers() <= {1, None}
        leave.set()
        thread.join()
        assert _settings() == limited
    assert _settings() == before


def _blas_numbers():
    return {x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"}


def test_all_is_put_back_after_an_error(data):
    torch.set_num_threads(2)
    before = _settings()
    X, y, attributes = data
    with pytest.raises(FloatingPointError):
        ERMClassifier(learning_rate=1e30).fit(1e6 * X, y, attributes)
    assert _settings() == before


@pytest.mark.parametrize("work", [0, 10**6, 10**8, 10**12])
@pytest.mark.parametrize("size", [1, 3, 100, 4096])
def test_pieces_cover_all_and_are_large_enough(size, work):
    found = pieces(size, work, 32)
    rows = [row for own in found for row in range(size)[own]]
    assert rows == list(range(size))
    assert len(found) in (1, 2, 4, 8, 16)
    if len(found) > 1:
        assert size // len(found) >= 32
        assert work // len(found) >= _threads._PIECE_WORK


def test_divided_products_are_right():
    generator = torch.Generator().manual_seed(0)
    weight, X = (torch.randn(n, 300, generator=generator) for n in (640, 1024))
    stack = HeadStack([weight[:, None]], [torch.zeros(640, 1)])
    from skdebias._engine._workspace import Workspace

    with workers(CPU) as threads:
        assert len(pieces(640, X.numel() * 640, 32)) > 1
        logits, activations = stack.forward(X[None], Workspace(CPU), threads)
        alone, _ = stack.forward(X[None])
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
        (grad,), _ = stack.backward(activations, logits, Workspace(CPU), threads)
        (expected,), _ = stack.backward(activations, alone)
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-1)


def test_workers_keep_the_order_and_raise():
    with thread_pool(2) as pool:
        threads = Workers(pool, 3)
        assert threads.map(lambda n: n * n, range(50)) == [n * n for n in range(50)]

        def fail(number):
            if number == 7:
                raise KeyError("here")

        with pytest.raises(KeyError, match="here"):
            threads.map(fail, range(50))


def test_workers_do_not_wait_for_a_thread_that_never_comes():
    """On a busy machine the calling thread does all pieces by itself."""
    with thread_pool(1) as pool:
        leave = threading.Event()
        pool.submit(leave.wait)
        try:
            assert Workers(pool, 2).map(str, [1, 2, 3]) == ["1", "2", "3"]
        finally:
            leave.set()


def test_tasks_keep_their_order_and_are_made_as_threads_are_free():
    made, both = [], threading.Barrier(2)

    def tasks():
        for number in range(8):
            made.append(number)

            def task(number=number):
                both.wait()  # two run at once, or none would end
                return number, threading.get_ident(), torch.get_num_threads()

            yield task

    torch.set_num_threads(3)
    results = []
    for result in parallel_map(tasks(), 2, 8):
        results.append(result)
        assert len(made) <= len(results) + 2
    assert [number for number, _, _ in results] == list(range(8))
    idents = {ident for _, ident, _ in results}
    assert len(idents) == 2
    assert threading.get_ident() not in idents
    assert {own for _, _, own in results} == {1}


def test_one_thread_is_the_caller():
    idents = parallel_map([threading.get_ident] * 3, 1, 3)
    assert set(idents) == {threading.get_ident()}
    assert set(parallel_map([threading.get_ident], 4, 1)) == {threading.get_ident()}


def test_errors_of_tasks_are_raised():
    def fail():
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        list(parallel_map([lambda: 1, fail, lambda: 2], 2, 3))


def test_few_tasks_share_the_threads():
    assert list(parallel_map([available_threads] * 2, 6, 2)) == [3, 3]
    assert list(parallel_map([available_threads] * 6, 2, 6)) == [1] * 6


def test_rows_that_are_read_ahead_leave_the_threads_alone():
    torch.set_num_threads(2)
    before = _settings()
    features = Features(np.ones((10, 3), np.float32), CPU)
    features._streamed = True
    steps = [np.array([[1, 2]]), np.array([[3, 4]])]
    assert [rows.sum().item() for _, rows in features.gathered(steps)] == [6.0, 6.0]
    assert _settings() == before
