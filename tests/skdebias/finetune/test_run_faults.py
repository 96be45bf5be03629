"""Checkpoints where the disk fails, files are forged, and processes share a folder."""

import errno
import multiprocessing
import os
import sys
import traceback

import numpy as np
import pytest
import torch
from torch import nn

from skdebias import GERNEClassifier, JTTClassifier, LfFClassifier
from skdebias._serialize import read_file, write_file
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import (
    CheckpointError,
    CheckpointWarning,
    FineTuneClassifier,
    _checkpoint,
)
from skdebias.finetune._checkpoint import Checkpoints
from skdebias.finetune._training import NetworkTraining

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Seconds in which another process answers, however busy the machine is.
HANGS = 1800
X, Y, ATTRIBUTES = make_spurious_classification(200, random_state=0)
VALIDATION = {"X_val": X[:60], "y_val": Y[:60], "attributes_val": ATTRIBUTES[:60]}


def _model(folder, method=None, **settings):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(X.shape[1], 8), nn.BatchNorm1d(8), nn.ReLU())
    given = {
        "modality": "tensor",
        "learning_rate": 0.05,
        "batch_size": 50,
        "max_iter": 4,
        "dropout": 0.2,
        "optimizer": "adamw",
        "random_state": 0,
        "device": "cpu",
    }
    return FineTuneClassifier(
        method or LfFClassifier(), backbone, checkpoint_dir=folder, **given | settings
    )


def _fit(folder, **settings):
    return _model(folder, **settings).fit(X, Y, ATTRIBUTES, **VALIDATION)


@pytest.fixture(scope="module")
def whole():
    return _fit(None)


def _assert_same(model, other):
    for (name, value), known in zip(
        model.network_.state_dict().items(), other.network_.state_dict().values()
    ):
        np.testing.assert_array_equal(value, known, err_msg=name)
    assert model.loss_curve_ == other.loss_curve_
    assert model.best_epoch_ == other.best_epoch_


class Interrupted(Exception):
    """Of a run that is to be gone on with."""


def _interrupt(folder, monkeypatch, epoch=3, **settings):
    make = NetworkTraining._make_step

    def step(self, *args):
        if self.epoch == epoch:
            raise Interrupted
        make(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(NetworkTraining, "_make_step", step)
        with pytest.raises(Interrupted):
            _fit(folder, **settings)
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    return run


@pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="needs os.fork"
)
def test_a_full_disk(tmp_path, whole):
    """A file that cannot grow, as on a full disk, in the third epoch."""
    import resource

    save = Checkpoints.save

    def limited(self, step, *args, **kwargs):
        if step == 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        return save(self, step, *args, **kwargs)

    child = os.fork()
    if child == 0:
        Checkpoints.save = limited
        try:
            _fit(tmp_path)
        except CheckpointError as error:
            told = str(tmp_path) in str(error) and "checkpoint_dir" in str(error)
            os._exit(7 if told and error.errno == errno.EFBIG else 1)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    (run,) = tmp_path.iterdir()
    found = sorted(path.name for path in run.iterdir())
    assert found == ["step-000000004.safetensors", "step-000000008.safetensors"]
    _assert_same(_fit(tmp_path), whole)


@pytest.mark.parametrize("call", ["make_folder", "write_file"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, whole, call, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, call, refuse)
        if call == "make_folder":  # at once
            patch.setattr(NetworkTraining, "_make_step", None)
        with pytest.raises(CheckpointError, match="checkpoint_dir=") as error:
            _fit(tmp_path)
        assert error.value.errno == number
    assert not list(tmp_path.glob("*/*"))
    _assert_same(_fit(tmp_path), whole)
    # A finished run is read where nothing can be written.
    monkeypatch.setattr(_checkpoint, call, refuse)
    _assert_same(_fit(tmp_path), whole)


def test_a_checkpoint_that_cannot_be_read_is_not_thrown_away(tmp_path, monkeypatch):
    run = _interrupt(tmp_path, monkeypatch)
    before = sorted(run.iterdir())

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(_checkpoint, "read_file", refuse)
    with pytest.raises(CheckpointError, match="checkpoint_dir="):
        _fit(tmp_path)
    assert sorted(run.iterdir()) == before


def _deep(header):
    value = {"value": 1}
    for _ in range(300):
        value = {"list": [value]}
    header["tracker"] = value


FORGERIES = {
    "step of another type": lambda t, h: h.update(step="12"),
    "negative step": lambda t, h: h.update(step=-1),
    "no step": lambda t, h: h.pop("step"),
    "another seed": lambda t, h: h.update(seed=1),
    "no model": lambda t, h: [t.pop(k) for k in list(t) if k.startswith("model.")],
    "another shape": lambda t, h: t.update({_first_model(t): torch.zeros(3)}),
    "another type": lambda t, h: t.update({_first_model(t): t[_first_model(t)].int()}),
    "no optimizer": lambda t, h: h.pop("optimizer"),
    "optimizer of none": lambda t, h: h.update(optimizer={"dict": []}),
    "optimizer of text": lambda t, h: h.update(optimizer={"value": "adam"}),
    "missing tensor": lambda t, h: h.update(objective={"tensor": "nowhere"}),
    "objective of another shape": lambda t, h: t.update(objective=torch.zeros(7)),
    "deep tracker": lambda t, h: _deep(h),
    "no tracker": lambda t, h: h.update(tracker={"dict": []}),
    "tracker is a list": lambda t, h: h.update(tracker=[]),
    "rule of another class": lambda t, h: h.update(
        rule={"object": {"__class__": {"value": 1}}}
    ),
    "rule of text": lambda t, h: h.update(rule="x"),
    "kept of another shape": lambda t, h: [
        t.update({k: torch.zeros(3)}) for k in list(t) if k.startswith("kept")
    ],
    "rule of nothing": lambda t, h: h.update(rule={}),
    "optimizer of another network": lambda t, h: h["optimizer"]["dict"].append(
        ["members.7.weight", {"dict": []}]
    ),
    "kept of nothing": lambda t, h: h.update(kept={"value": 5}),
    "header of nothing": lambda t, h: h.clear(),
}


def _first_model(tensors):
    return next(name for name in sorted(tensors) if name.startswith("model."))


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_checkpoint_is_set_aside(tmp_path, monkeypatch, whole, name):
    run = _interrupt(tmp_path, monkeypatch)
    last = sorted(run.iterdir())[-1]
    tensors, header = read_file(last, _checkpoint._FORMAT, torch=True)
    FORGERIES[name](tensors, header)
    write_file(last, tensors, {"format": _checkpoint._FORMAT, **header})
    steps = []
    make = NetworkTraining._make_step

    def step(self, *args):
        steps.append(self.step)
        make(self, *args)

    monkeypatch.setattr(NetworkTraining, "_make_step", step)
    with pytest.warns(CheckpointWarning, match="damaged-step-000000012"):
        again = _fit(tmp_path)
    assert steps == list(range(8, 16))  # from the one before
    _assert_same(again, whole)
    assert [path.name for path in run.iterdir()] == ["done-000000016.safetensors"]


def test_all_checkpoints_are_forged(tmp_path, monkeypatch, whole):
    run = _interrupt(tmp_path, monkeypatch)
    for path in run.iterdir():
        path.write_bytes(b"nothing")
    with pytest.warns(CheckpointWarning):
        _assert_same(_fit(tmp_path), whole)


def _grid(folder):
    import sklearn
    from sklearn.model_selection import GridSearchCV

    grid = GridSearchCV(
        _model(folder, JTTClassifier(warmup_epochs=1), max_iter=1, optimizer="sgd"),
        {"estimator__upweight": [2, 3, 4, 5]},
        cv=[(np.arange(150), np.arange(150, 200))],
        error_score="raise",
        n_jobs=None if folder is None else 2,
        refit=False,
    )
    with sklearn.config_context(enable_metadata_routing=True):
        return grid.fit(X, Y).cv_results_["mean_test_score"]


def test_a_grid_in_two_processes_shares_first_stages(tmp_path):
    alone = _grid(None)
    np.testing.assert_array_equal(_grid(tmp_path), alone)
    np.testing.assert_array_equal(_grid(tmp_path), alone)
    assert not list(tmp_path.rglob(".partial-*"))


def _run(folder, barrier, results):
    torch.set_num_threads(1)
    save = Checkpoints.save

    def together(self, *args, **kwargs):
        barrier.wait(HANGS)
        path = save(self, *args, **kwargs)
        barrier.wait(HANGS)
        return path

    Checkpoints.save = together
    results.put(_fit(folder, checkpoint_every=1).decision_function(X))


@pytest.mark.skipif(os.name != "posix", reason="needs processes that share this module")
def test_identical_runs_write_at_the_same_moments(tmp_path, whole):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    args = tmp_path, barrier, results
    others = [context.Process(target=_run, args=args) for _ in range(3)]
    for process in others:
        process.start()
    found = [results.get(timeout=HANGS) for _ in others]
    for process in others:
        process.join()
        assert process.exitcode == 0
    for scores in found:
        np.testing.assert_array_equal(scores, whole.decision_function(X))
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_a_gernes_folder_is_not_a_first_stages(tmp_path):
    """Stages that differ in the method alone do not meet."""
    for method in (GERNEClassifier(beta=0.2, t=0.2), JTTClassifier(warmup_epochs=1)):
        shared = _fit_alone(tmp_path, method)
        alone = _fit_alone(None, method)
        np.testing.assert_array_equal(
            shared.decision_function(X), alone.decision_function(X)
        )


def _fit_alone(folder, method):
    return _model(folder, method, max_iter=2, optimizer="sgd").fit(X, Y)
