"""A run is known by what determines its result, and by nothing else."""

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skdebias import ERMClassifier, GERNEClassifier, JTTClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import CheckpointError, CheckpointWarning, FineTuneClassifier
from skdebias.finetune._run_key import canonical
from skdebias.finetune._training import NetworkTraining

pytestmark = pytest.mark.filterwarnings("ignore::skdebias.UnusableAttributesWarning")
X, Y, ATTRIBUTES = make_spurious_classification(120, random_state=0)


def _network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(X.shape[1], 4), nn.ReLU())


def _model(folder, method=None, **settings):
    given = {
        "modality": "tensor",
        "learning_rate": 0.05,
        "batch_size": 40,
        "max_iter": 2,
        "random_state": 0,
        "device": "cpu",
    }
    given |= settings
    backbone = given.pop("backbone", None) or _network()
    return FineTuneClassifier(
        method or ERMClassifier(), backbone, checkpoint_dir=folder, **given
    )


class Steps:
    """Count the steps that are made."""

    def __init__(self, monkeypatch):
        self._n = 0
        make = NetworkTraining._make_step

        def counted(training, *args):
            self._n += 1
            return make(training, *args)

        monkeypatch.setattr(NetworkTraining, "_make_step", counted)

    def of(self, model, *args, **kwargs):
        """Return how many steps a fit makes."""
        before = self._n
        model.fit(*args, **kwargs)
        return self._n - before


@pytest.fixture
def steps(monkeypatch):
    return Steps(monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        {"num_workers": 1, "augment": None},
        {"memory": 0},
        {"checkpoint_every": 1},
        {"precision": "float32"},
        {"device": "auto"},
        {"learning_rate": np.float64(0.05)},
        {"batch_size": np.int64(40)},
        {"weight_decay": np.float64(1e-2)},
        {"tol": 1.0, "n_iter_no_change": 1},
        {"selection": "accuracy"},
        {"random_state": np.random.RandomState(0)},
        {"estimator__beta": np.float64(0.2)},
        {"clip_norm": None},
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="device='auto' is the CPU here")
def test_what_changes_no_number_is_not_in_the_key(tmp_path, steps, change):
    method = GERNEClassifier(beta=0.2)
    assert steps.of(_model(tmp_path, method), X, Y, ATTRIBUTES) == 6
    again = _model(tmp_path, method).set_params(**change)
    assert steps.of(again, X, Y, ATTRIBUTES) == 0


@pytest.mark.parametrize(
    "values",
    [
        ATTRIBUTES.astype(str),
        ATTRIBUTES.astype(str).astype(object),
        ATTRIBUTES.astype("U20").tolist(),
        ATTRIBUTES.astype(np.int8),
        ATTRIBUTES.astype(float),
        ATTRIBUTES[:, None],
    ],
    ids=["text", "object", "list", "int8", "float", "column"],
)
def test_equal_attributes_of_another_type_are_the_same_run(tmp_path, steps, values):
    method = GERNEClassifier(beta=0.2)
    first = _model(tmp_path, method)
    assert steps.of(first, X, Y, ATTRIBUTES) == 6
    again = _model(tmp_path, method)
    assert steps.of(again, X, np.asarray(Y).astype(np.int8), values) == 0
    assert again.attribute_values_.ravel().tolist() == sorted(
        set(np.ravel(values).tolist())
    )
    # In another order they are other groups.
    assert steps.of(_model(tmp_path, method), X, Y, 1 - ATTRIBUTES) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"random_state": 1},
        {"random_state": np.random.RandomState(1)},
        {"learning_rate": 0.04},
        {"schedule": "linear"},
        {"warmup": 0.5},
        {"clip_norm": 1e-3},
        {"batch_size": 30},
        {"accumulate": 2},
        {"dropout": 0.5},
        {"head_init": "zero"},
        {"optimizer": "adamw"},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"freeze": ["0.bias"]},
        {"precision": "bfloat16"},
        {"early_stopping": True},
        {"estimator": ERMClassifier(balance="class")},
        {"estimator": ERMClassifier(hidden_layer_sizes=(3,))},
        {"backbone": _network(1)},
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],
)
def test_what_changes_a_number_is_in_the_key(tmp_path, steps, change):
    assert steps.of(_model(tmp_path), X, Y, ATTRIBUTES) == 6
    other = _model(tmp_path).set_params(**change)
    alone = _model(None).set_params(**change)
    expected = steps.of(alone, X, Y, ATTRIBUTES)
    if isinstance(change.get("random_state"), np.random.RandomState):
        other.set_params(random_state=np.random.RandomState(1))
    assert steps.of(other, X, Y, ATTRIBUTES) == expected
    np.testing.assert_array_equal(
        other.decision_function(X), alone.decision_function(X)
    )


def test_parameters_that_are_not_trained_are_in_the_key(tmp_path, steps):
    network = _network()
    assert steps.of(_model(tmp_path, backbone=network), X, Y) == 6
    network[0].bias.requires_grad_(False)
    assert steps.of(_model(tmp_path, backbone=network), X, Y) == 6


def test_selection_counts_where_there_is_a_validation_set(tmp_path, steps):
    validation = {"X_val": X[:60], "y_val": Y[:60], "attributes_val": ATTRIBUTES[:60]}
    auto, named, other = (
        _model(tmp_path, selection=s) for s in ("auto", "worst_group", "accuracy")
    )
    assert steps.of(auto, X, Y, ATTRIBUTES, **validation) == 6
    assert steps.of(named, X, Y, ATTRIBUTES, **validation) == 0
    assert steps.of(other, X, Y, ATTRIBUTES, **validation) == 6
    flipped = validation | {"y_val": 1 - Y[:60]}
    assert steps.of(named, X, Y, ATTRIBUTES, **flipped) == 6


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(X.shape[1], 4)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.layer(x)


_SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear({n}, 4)

    def forward(self, x):
        return self.layer(x).{function}()
"""


def _edited(folder, function):
    import importlib.util
    import linecache

    file = folder / "edited_network.py"
    file.write_text(_SOURCE.format(n=X.shape[1], function=function))
    linecache.checkcache(str(file))
    spec = importlib.util.spec_from_file_location("edited_network", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["edited_network"] = module
    spec.loader.exec_module(module)
    return module.Net()


def test_an_edited_forward_or_attribute_is_another_run(tmp_path, steps):
    runs = tmp_path / "runs"
    try:
        first = _model(runs, backbone=_edited(tmp_path, "relu"))
        assert steps.of(first, X, Y) == 6
        # So that the file's time and size differ, as an editor's would.
        edited = _model(runs, backbone=_edited(tmp_path, "sigmoid"))
        assert steps.of(edited, X, Y) == 6
        assert not np.allclose(first.decision_function(X), edited.decision_function(X))
    finally:
        sys.modules.pop("edited_network", None)
    assert steps.of(_model(runs, backbone=Scaled(1.0)), X, Y) == 6
    assert steps.of(_model(runs, backbone=Scaled(5.0)), X, Y) == 6
    assert steps.of(_model(runs, backbone=Scaled(1.0)), X, Y) == 0


def test_repeats_without_a_seed_differ(tmp_path):
    scores = [
        _model(tmp_path, random_state=None, dropout=0.3).fit(X, Y).decision_function(X)
        for _ in range(3)
    ]
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])
    generator = np.random.RandomState(0)
    model = _model(tmp_path, random_state=generator, dropout=0.3)
    first = model.fit(X, Y).decision_function(X)
    assert not np.allclose(model.fit(X, Y).decision_function(X), first)


_UNSEEDED = """
import os, sys
import numpy as np
import test_run_keys as case
from skdebias.finetune._training import NetworkTraining

steps = NetworkTraining._make_step

def stop(self, *args):
    if self.epoch == 1:
        print(self._state.seed, flush=True)
        sys.stdin.readline()
        os._exit(0)
    steps(self, *args)

NetworkTraining._make_step = stop
case._model(sys.argv[1], random_state=None).fit(case.X, case.Y)
"""


@pytest.mark.skipif(os.name != "posix", reason="asks for processes as POSIX does")
def test_a_run_without_a_seed_belongs_to_one_living_process(tmp_path, steps):
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", _UNSEEDED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        seed = int(other.stdout.readline())
        # It lives, and goes on with its run itself.
        assert steps.of(_model(tmp_path, random_state=None), X, Y) == 6
        other.communicate("\n")
    # Now it is dead.
    (folder,) = tmp_path.glob(f"*-{seed}")
    assert steps.of(_model(tmp_path, random_state=None), X, Y) == 3
    assert [path.name for path in folder.iterdir()] == ["done-000000006.safetensors"]
    assert steps.of(_model(tmp_path, random_state=None), X, Y) == 6


def test_more_epochs_extend_a_finished_run(tmp_path, steps):
    def fit(folder, epochs, **validation):
        model = _model(folder, GERNEClassifier(beta=0.2), max_iter=epochs)
        return steps.of(model, X, Y, ATTRIBUTES, **validation), model

    validation = {"X_val": X[:60], "y_val": Y[:60], "attributes_val": ATTRIBUTES[:60]}
    for given in ({}, validation):
        _, whole = fit(None, 5, **given)
        assert fit(tmp_path, 2, **given)[0] == 6
        made, extended = fit(tmp_path, 5, **given)
        assert made == 9
        np.testing.assert_array_equal(
            extended.decision_function(X), whole.decision_function(X)
        )
        assert extended.loss_curve_ == whole.loss_curve_
        # Both are there, and a shorter one has to be made.
        assert [fit(tmp_path, n, **given)[0] for n in (2, 5, 1)] == [0, 0, 3]


def test_a_run_that_cannot_be_extended_says_so(tmp_path, steps):
    for change in ({"schedule": "linear"}, {"schedule": "cosine"}, {"warmup": 0.5}):
        assert steps.of(_model(tmp_path, **change), X, Y) == 6
        with pytest.warns(CheckpointWarning, match=r"max_iter=3: .*max_iter=2, but it"):
            assert steps.of(_model(tmp_path, max_iter=3, **change), X, Y) == 9
        with warnings.catch_warnings():
            warnings.simplefilter("error", CheckpointWarning)
            for epochs, made in ((2, 0), (3, 0), (1, 3)):
                model = _model(tmp_path, max_iter=epochs, **change)
                assert steps.of(model, X, Y) == made


def test_a_first_stage_of_its_own_length_does_not_hinder(tmp_path, steps):
    method = JTTClassifier(warmup_epochs=1)
    assert steps.of(_model(tmp_path, method), X, Y) == 3 + 6
    assert steps.of(_model(tmp_path, method, max_iter=3), X, Y) == 3


def test_a_run_that_stopped_early_is_over_with_more_epochs(tmp_path, steps):
    stop = {"early_stopping": True, "tol": 100.0, "n_iter_no_change": 1}
    assert steps.of(_model(tmp_path, max_iter=9, **stop), X, Y) < 27
    assert steps.of(_model(tmp_path, max_iter=20, **stop), X, Y) == 0


def test_a_finished_run_keeps_one_file_and_no_more_than_it_needs(tmp_path):
    backbone = nn.Sequential(nn.Linear(X.shape[1], 2000), nn.ReLU())
    weights = 4 * 2000 * (X.shape[1] + 1)
    validation = {"X_val": X[:60], "y_val": Y[:60]}
    for number, (change, copies) in enumerate(
        [({"schedule": "cosine"}, 1), ({"freeze": "backbone"}, 1), ({}, 3)]
    ):
        folder = tmp_path / str(number)
        model = _model(folder, backbone=backbone, optimizer="sgd", **change)
        model.fit(X, Y, **validation)
        (file,) = folder.glob("*/*")
        assert file.stat().st_size < (copies + 0.5) * weights


def _files(folder, shade=0):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 100, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels + np.uint8(shade)).save(folder / f"{number:02d}.bmp")
    return sorted(folder.iterdir())


def _images(folder, **settings):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4))
    backbone(torch.zeros(1, 3, 8, 8))
    given = {"modality": "image", "preprocess": {"size": 8}, "batch_size": 8}
    return _model(folder, backbone=backbone, **(given | settings))


def test_files_are_known_by_content(tmp_path, steps, monkeypatch):
    runs, y = tmp_path / "runs", np.arange(24) % 2
    paths = _files(tmp_path / "a")
    assert steps.of(_images(runs), paths, y) == 6
    paths[3].touch()
    os.utime(paths[4], (1, 1))
    assert steps.of(_images(runs), paths, y) == 0
    monkeypatch.chdir(tmp_path)
    assert steps.of(_images(runs), [f"a/{path.name}" for path in paths], y) == 0
    assert steps.of(_images(runs), "a", y) == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert steps.of(_images(runs), "b", y) == 0
    assert steps.of(_images(runs), [Image.open(path) for path in paths], y) in (0, 6)
    assert steps.of(_images(runs), paths[::-1], y) == 6
    # Another image with the time and size of the old one.
    other, state = _files(tmp_path / "c", shade=50)[0], paths[0].stat()
    assert other.stat().st_size == state.st_size
    shutil.copyfile(other, paths[0])
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert steps.of(_images(runs), paths, y) == 6
    assert steps.of(_images(runs), paths, y, X_val=paths[:9], y_val=y[:9]) == 6
    shutil.copyfile(paths[1], paths[0])
    assert steps.of(_images(runs), paths[5:], y[5:], X_val=paths[:9], y_val=y[:9]) == 6


@pytest.mark.parametrize(
    ("folder", "error", "match"),
    [
        (5, TypeError, "checkpoint_dir=5"),
        (b"runs", TypeError, "checkpoint_dir=b'runs'"),
        ("a\0b", ValueError, "checkpoint_dir='a"),
        ("", ValueError, "checkpoint_dir=''"),
    ],
)
def test_what_is_no_folder_is_refused(folder, error, match):
    with pytest.raises(error, match=match):
        _model(folder).fit(X, Y)


@pytest.mark.parametrize("seed", [0, None])
def test_a_file_in_place_of_the_folder_is_refused(tmp_path, steps, seed):
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below"):
        with pytest.raises(CheckpointError, match=r"checkpoint_dir=.*file") as error:
            _model(folder, random_state=seed).fit(X, Y)
        assert isinstance(error.value, OSError)
    assert file.read_text() == "mine"


class _Own(ERMClassifier):
    pass


@dataclass(frozen=True)
class _Settings:
    scale: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "shift", 0)

    def weight(self):
        return self.scale


def test_classes_are_known_by_the_code_that_runs(monkeypatch):
    """Neither a patched method nor an attribute that is no field is overlooked."""
    values = (_Own, _Settings())
    before = [canonical(value, "value") for value in values]
    assert before == [canonical(value, "value") for value in values]
    monkeypatch.setattr(_Own, "_epochs", lambda self: [1], raising=False)
    monkeypatch.setattr(_Settings, "weight", lambda self: 2.0)
    after = [canonical(value, "value") for value in values]
    assert all(new != old for new, old in zip(after, before))
    shifted = _Settings()
    object.__setattr__(shifted, "shift", 3)
    assert canonical(shifted, "value") != canonical(_Settings(), "value")


def test_numbers_are_known_by_value():
    same = [
        [1, 1.0, np.int8(1), np.float32(1), np.float64(1)],
        [0.1, np.float64(0.1)],
        [True, np.True_],
        [(1, 2), [1, 2]],
        [np.arange(3), np.arange(3, dtype=np.int8)],
        [np.ones(3), np.ones(3, dtype=np.float32)],
    ]
    said = [[repr(canonical(value, "x")) for value in values] for values in same]
    assert all(len(set(values)) == 1 for values in said)
    assert len({values[0] for values in said}) == len(same)
    assert canonical(np.inf, "x") == np.inf
    with pytest.raises(ValueError, match=r"parameter\['a'\]\[1\]=<object"):
        canonical({"a": [0, object()]}, "parameter")


def _shift(item, by=0.1):
    return item + by * torch.randn(())


def _shift_more(item, by=0.1):
    return item + 3 * by * torch.randn(())


def _closure(by):
    def shift(item):
        return item + by * torch.randn(())

    return shift


class _Shift:
    def __init__(self, by):
        self.by = by

    def __call__(self, item):
        return item + self.by * torch.randn(())


@pytest.mark.parametrize(
    ("augment", "equal", "other"),
    [
        (_shift, _shift, _shift_more),
        (partial(_shift, by=0.2), partial(_shift, by=0.2), partial(_shift, by=0.3)),
        (_closure(0.1), _closure(0.1), _closure(0.2)),
        (_Shift(0.1), _Shift(0.1), _Shift(0.2)),
        (
            lambda x: x + 0.1 * torch.randn(()),
            None,
            lambda x: x + 0.2 * torch.randn(()),
        ),
    ],
    ids=["function", "partial", "closure", "object", "lambda"],
)
def test_augment_is_known_by_what_it_does(tmp_path, steps, augment, equal, other):
    assert steps.of(_model(tmp_path, augment=augment), X, Y) == 6
    assert steps.of(_model(tmp_path, augment=equal or augment), X, Y) == 0
    assert steps.of(_model(tmp_path, augment=other), X, Y) == 6
    assert steps.of(_model(tmp_path), X, Y) == 6


def test_random_transforms_augment(tmp_path, steps):
    transforms = pytest.importorskip("torchvision.transforms.v2")

    def usual(p, *more):
        crop = transforms.RandomCrop(8, padding=1)
        return transforms.Compose([transforms.RandomHorizontalFlip(p), crop, *more])

    paths, y = _files(tmp_path / "a"), np.arange(24) % 2
    runs = tmp_path / "runs"
    for augment, made in [
        (usual(0.5), 6),
        (usual(0.5), 0),
        (usual(0.4), 6),
        (usual(0.5, transforms.RandomErasing(1.0)), 6),
        (transforms.RandomApply([transforms.GaussianNoise()], p=0.3), 6),
        (transforms.RandomApply([transforms.GaussianNoise()], p=0.6), 6),
    ]:
        assert steps.of(_images(runs, augment=augment), paths, y) == made


def test_what_cannot_be_described_is_refused_in_its_own_name(tmp_path):
    hidden = _Shift(0.1)
    hidden.source = iter(())
    with pytest.raises(ValueError, match=r"(?s)^augment.*cache_description") as error:
        _model(tmp_path, augment=hidden).fit(X, Y)
    assert "preprocess" not in str(error.value)
    assert not list(tmp_path.iterdir())
    _model(None, augment=hidden).fit(X, Y)  # nothing is to be told apart
    hidden.cache_description = "a shift, version 1"
    _model(tmp_path, augment=hidden).fit(X, Y)
