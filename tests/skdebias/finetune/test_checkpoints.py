"""Checkpoints: killed at any step, training ends with the same network."""

import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import (
    DebiasedClassifier,
    ERMClassifier,
    GERNEClassifier,
    LfFClassifier,
    ULEClassifier,
)
from skdebias._serialize import read_file, write_file
from skdebias.attributes import SSAPseudoAttributes
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import CheckpointWarning, FineTuneClassifier
from skdebias.finetune._checkpoint import _FORMAT, restore, snapshot
from skdebias.finetune._gradients import StepGradients
from skdebias.finetune._training import NetworkTraining
from skdebias.methods import DFA, MMDAAE, DeNetDM, FeatureSieve, NoisyStudent

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="needs os.fork"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::skdebias.UnusableAttributesWarning",
    "ignore::skdebias.AttributesIgnoredWarning",
)
X, Y, ATTRIBUTES = make_spurious_classification(300, random_state=0)
STEPS = 4 * 6  # epochs of ceil(300 / 50) steps


@pytest.fixture(autouse=True)
def one_thread():
    """One thread: those of a process that is forked do not come along."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network():
    torch.manual_seed(0)
    # Dropout, running statistics and momentum: all that a resumed run must have back.
    return nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU())


def _model(method, folder, **settings):
    given = {
        "modality": "tensor",
        "dropout": 0.3,
        "learning_rate": 0.05,
        "batch_size": 50,
        "max_iter": 4,
        "schedule": "cosine",
        "warmup": 0.2,
        "checkpoint_every": 4,
        "random_state": 0,
        "device": "cpu",
    }
    return FineTuneClassifier(
        method, _network(), checkpoint_dir=folder, **(given | settings)
    )


def _fit(model):
    method = getattr(model.estimator, "method", None)
    more = {}
    if method is not None and method.uses_unlabeled:
        more["X_unlabeled"] = X[:70] + 0.1
    return model.fit(
        X,
        Y,
        ATTRIBUTES,
        X_val=X[:99],
        y_val=Y[:99],
        attributes_val=ATTRIBUTES[:99],
        **more,
    )


def _weights(model):
    return {k: v.numpy().copy() for k, v in model.network_.state_dict().items()}


def _assert_same(model, other):
    mine, theirs = _weights(model), _weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert model.loss_curve_ == other.loss_curve_
    assert model.best_epoch_ == other.best_epoch_
    for name, values in other.history_.items():
        np.testing.assert_array_equal(model.history_[name], values, err_msg=name)


def _killed(run):
    """Run something in a process of its own; return the signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this process has threads, asleep
        child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _kill_after(function, calls):
    """Wrap a function such that its process is killed after so many calls of it."""
    count = iter(range(calls))

    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


METHODS = {
    "gerne": GERNEClassifier(beta=0.2),
    "unknown": GERNEClassifier(beta=0.2, t=0.2),
    "lff": LfFClassifier(),
    "ule": ULEClassifier(lam=0.6, student_epochs=2),
    "noisy student": DebiasedClassifier(NoisyStudent(2)),
    "feature sieve": DebiasedClassifier(FeatureSieve("0", 3)),
    "dfa": DebiasedClassifier(DFA(swap_after=7)),
    "denetdm": DebiasedClassifier(DeNetDM("0", 2)),
    "mmd-aae": DebiasedClassifier(MMDAAE(balance="class")),
}


@needs_fork
@pytest.mark.filterwarnings("ignore::skdebias.AntiClassifierWarning")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_killed_at_random_steps_it_ends_the_same(tmp_path, name, optimizer):
    method = METHODS[name]
    whole = _fit(_model(method, None, optimizer=optimizer))
    rng = np.random.default_rng(abs(hash_of(name, optimizer)))
    kills = 0
    for _ in range(40):
        steps = int(rng.integers(1, STEPS))

        def run(steps=steps):
            made = _kill_after(NetworkTraining._make_step, steps)
            NetworkTraining._make_step = made
            _fit(_model(method, tmp_path, optimizer=optimizer))

        if _killed(run) == 0:
            break
        kills += 1
    assert kills > 0
    _assert_same(_fit(_model(method, tmp_path, optimizer=optimizer)), whole)


def hash_of(*texts):
    return sum(ord(letter) * 31**i for i, letter in enumerate("".join(texts)))


@needs_fork
@pytest.mark.parametrize("call", ["save_file", "fsync", "rename", "unlink"])
def test_killed_while_a_checkpoint_is_written(tmp_path, call, monkeypatch):
    import safetensors.torch

    whole = _fit(_model(METHODS["gerne"], None))
    home, attribute = {
        "save_file": (safetensors.torch, "save_file"),
        "fsync": (os, "fsync"),
        "rename": (os, "replace"),
        "unlink": (Path, "unlink"),
    }[call]

    for calls in (0, 2):

        def run(calls=calls):
            setattr(home, attribute, _kill_after(getattr(home, attribute), calls))
            _fit(_model(METHODS["gerne"], tmp_path))

        assert _killed(run) == signal.SIGKILL
    _assert_same(_fit(_model(METHODS["gerne"], tmp_path)), whole)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 1  # the last one, and nothing half-written


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first = _fit(_model(METHODS["gerne"], tmp_path))

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(NetworkTraining, "_make_step", refuse)
    _assert_same(_fit(_model(METHODS["gerne"], tmp_path)), first)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01},
        {"random_state": 1},
        {"dropout": 0.2},
        {"estimator__beta": 0.1},
        {"max_iter": 5},
    ],
)
def test_another_run_has_a_folder_of_its_own(tmp_path, change):
    _fit(_model(METHODS["gerne"], tmp_path))
    other = _model(GERNEClassifier(beta=0.2), tmp_path).set_params(**change)
    fitted = _fit(other)
    alone = _model(GERNEClassifier(beta=0.2), None).set_params(**change)
    _assert_same(fitted, _fit(alone))
    assert len(list(tmp_path.iterdir())) == 2


def test_other_data_or_weights_have_a_folder_of_their_own(tmp_path):
    model = _model(ERMClassifier(), tmp_path)
    model.fit(X, Y)
    model.fit(X, 1 - Y)
    model.fit(X + 1, Y)
    model.fit(X, Y, X_val=X, y_val=Y)
    with torch.no_grad():
        model.backbone[0].weight += 1
    model.fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 5


def _last_header(folder):
    return read_file(sorted(folder.iterdir())[-1], _FORMAT, torch=True)[1]


def test_without_a_seed_the_run_goes_on_with_the_one_it_drew(tmp_path, monkeypatch):
    steps = NetworkTraining._make_step
    calls = iter(range(13))

    def interrupted(self, *args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        steps(self, *args)

    model = _model(METHODS["gerne"], tmp_path, random_state=None)
    monkeypatch.setattr(NetworkTraining, "_make_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _fit(model)
    monkeypatch.undo()
    (folder,) = tmp_path.iterdir()
    seed = read_file(sorted(folder.iterdir())[-1], _FORMAT, torch=True)[1]["seed"]
    _fit(model)
    assert (
        read_file(sorted(folder.iterdir())[-1], _FORMAT, torch=True)[1]["seed"] == seed
    )
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings("ignore:.*annotated|.*inferred")
@pytest.mark.parametrize("seed", [0, None])
def test_other_annotations_of_validation_items_are_another_run(tmp_path, seed):
    # Training attributes are whole: only the choice of the epoch can differ.
    known = ATTRIBUTES[:150].astype(object)
    known[::2] = None
    permuted = np.where(ATTRIBUTES[:150] == 0, 1, 0).astype(object)
    permuted[::2] = None

    def fit(folder, attributes_val, random_state=seed):
        method = GERNEClassifier(
            0.5,
            out_of_bounds="clip",
            pseudo_attributes=SSAPseudoAttributes(random_state=0),
        )
        return _model(method, folder, random_state=random_state).fit(
            X,
            Y,
            ATTRIBUTES,
            X_val=X[:150],
            y_val=Y[:150],
            attributes_val=attributes_val,
        )

    def runs(folder):
        # Without a seed, the one that was drawn follows the name of the run.
        return {child.name.split("-")[0] for child in folder.iterdir()}

    folder = tmp_path / "shared"
    fit(folder, known)
    fit(folder, known)
    assert len(runs(folder)) == 1
    again = fit(folder, permuted)
    assert len(runs(folder)) == 2
    if seed is not None:
        _assert_same(again, fit(tmp_path / "fresh", permuted))


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "empty", "foreign"])
def test_a_damaged_checkpoint_is_left_out(tmp_path, damage):
    whole = _fit(_model(METHODS["gerne"], tmp_path))
    (folder,) = tmp_path.iterdir()
    last = sorted(folder.iterdir())[-1]
    data = last.read_bytes()
    if damage == "foreign":
        write_file(last, {"a": torch.zeros(2)}, {"format": "other"})
    else:
        last.write_bytes(
            {
                "truncated": data[: len(data) // 2],
                "flipped header": data[:20] + b"\x00" + data[21:],
                "empty": b"",
            }[damage]
        )
    with pytest.warns(CheckpointWarning, match="older checkpoint"):
        again = _fit(_model(METHODS["gerne"], tmp_path))
    _assert_same(again, whole)


def test_flipped_weights_are_noticed(tmp_path):
    whole = _fit(_model(METHODS["gerne"], tmp_path))
    (folder,) = tmp_path.iterdir()
    last = sorted(folder.iterdir())[-1]
    data = bytearray(last.read_bytes())
    data[-40] ^= 1
    last.write_bytes(data)
    with pytest.warns(CheckpointWarning, match="older checkpoint"):
        again = _fit(_model(METHODS["gerne"], tmp_path))
    _assert_same(again, whole)


def test_a_grid_search_shares_the_folder(tmp_path, monkeypatch):
    import sklearn
    from sklearn.model_selection import GridSearchCV

    grid = GridSearchCV(
        _model(METHODS["gerne"], tmp_path, max_iter=1),
        {"estimator__beta": [0.1, 0.2]},
        cv=2,
        error_score="raise",
    )
    with sklearn.config_context(enable_metadata_routing=True):
        first = grid.fit(X, Y, attributes=ATTRIBUTES).cv_results_["mean_test_score"]
        assert len(list(tmp_path.iterdir())) == 2 * 2 + 1
        monkeypatch.setattr(NetworkTraining, "_make_step", None)
        again = grid.fit(X, Y, attributes=ATTRIBUTES).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(first, again)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    model = _model(
        GERNEClassifier(beta=0.2), tmp_path, learning_rate=0.05, schedule="constant"
    )
    steps = StepGradients.accumulate
    calls = iter(range(9))

    def broken(self, *args):
        objective = steps(self, *args)
        return objective if next(calls, None) is not None else objective * np.nan

    StepGradients.accumulate = broken
    try:
        with pytest.raises(FloatingPointError, match=r"beta=0\.2 and c=0\.5") as error:
            _fit(model)
    finally:
        StepGradients.accumulate = steps
    assert "step 10 (epoch 2)" in str(error.value)
    assert str(tmp_path) in str(error.value)
    (folder,) = tmp_path.iterdir()
    tensors, header = read_file(sorted(folder.iterdir())[-1], _FORMAT, torch=True)
    assert header["step"] == 8
    weights = [t for name, t in tensors.items() if name.startswith("model.")]
    assert weights
    assert all(torch.isfinite(weight.float()).all() for weight in weights)


def test_snapshots_have_everything_that_changes():
    from skdebias.methods._lff import RelativeDifficulty

    state = {
        "tensor": torch.arange(3),
        "array": np.array([True, False]),
        "list": [torch.ones(2), 1.5, "text", None],
        3: {"inner": torch.zeros(1, dtype=torch.bfloat16)},
    }
    tensors = {}
    described = snapshot(state, "state", tensors)
    again = restore({}, described, tensors, torch.device("cpu"))
    assert again.keys() == state.keys()
    torch.testing.assert_close(again["tensor"], state["tensor"])
    np.testing.assert_array_equal(again["array"], state["array"])
    assert again["list"][1:] == [1.5, "text", None]
    assert again[3]["inner"].dtype == torch.bfloat16
    rule = RelativeDifficulty.__new__(RelativeDifficulty)
    rule._average, rule._seen = torch.rand(2), torch.tensor([True])
    tensors = {}
    described = snapshot(rule, "rule", tensors)
    other = RelativeDifficulty.__new__(RelativeDifficulty)
    other._average, other._seen = torch.zeros(2), torch.tensor([False])
    assert restore(other, described, tensors, torch.device("cpu")) is other
    torch.testing.assert_close(other._average, rule._average)
    assert bool(other._seen)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    import safetensors.torch

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {})
    assert not list(tmp_path.iterdir())


@needs_fork
def test_two_processes_share_a_run(tmp_path):
    """Each finds what the other one has half-written, and leaves it."""
    import skdebias._atomic as files

    whole = _fit(_model(METHODS["gerne"], None))
    replace = files.os.replace

    def meanwhile(source, target):
        # In the midst of each writing, the same run is made by another process.
        files.os.replace = replace
        assert _killed(lambda: _fit(_model(METHODS["gerne"], tmp_path))) == 0
        replace(source, target)

    files.os.replace = meanwhile
    try:
        mine = _fit(_model(METHODS["gerne"], tmp_path))
    finally:
        files.os.replace = replace
    _assert_same(mine, whole)
    _assert_same(_fit(_model(METHODS["gerne"], tmp_path)), whole)
