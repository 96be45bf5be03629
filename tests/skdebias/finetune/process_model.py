"""A fit as several processes make it: run by ``accelerate launch``."""

import contextlib
import os
import sys
import warnings

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from skdebias import (
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    LfFClassifier,
    UGCClassifier,
    ULEClassifier,
)
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier
from skdebias.finetune._training import NetworkTraining

METHODS = {
    "gerne": GERNEClassifier(beta=0.2),
    "unknown": GERNEClassifier(beta=0.2, t=0.2),
    "reweighted": ERMClassifier(reweight="group"),
    "dro": GroupDROClassifier(step_size=0.1),
    "lff": LfFClassifier(),
    "ugc": UGCClassifier(),
    "unseeded": GERNEClassifier(beta=0.2),
    "ule": ULEClassifier(lam=0.7, normalize_over="sample", scale="none"),
    "ule at a layer": ULEClassifier(lam=0.7, normalize_over="sample", scale="none"),
}
SETTINGS = {
    "gerne": {"optimizer": "adamw"},
    "unknown": {"accumulate": 2},
    "dro": {"accumulate": 2, "freeze": ["used.weight"]},
    "unseeded": {"random_state": None},
    # Saliencies are averaged over the rows of a process: as many for each.
    "ule": {"batch_size": 52},
    "ule at a layer": {"saliency_layer": "used", "batch_size": 52},
}


noted = {}


def note(layer, inputs, output):
    """Note what a training step is made with."""
    if layer.training:
        noted["sharded"] = isinstance(layer, FSDPModule)
        noted["formats"] = [str(t.dtype) for t in (layer.weight, output)]


class Backbone(nn.Module):
    """A backbone with a layer that its embedding does not use."""

    # As a script and as a module it is the same, whatever has been noted.
    cache_description = "a layer that is used, with or without a normalisation"

    def __init__(self, n_features, *, batch_norm):
        super().__init__()
        # The weights of the first process count, whatever the others have.
        torch.manual_seed(int(os.environ.get("RANK", 0)))
        self.used = nn.Linear(n_features, 16)
        self.used.register_forward_hook(note)
        self.unused = nn.Linear(n_features, 16)
        self.norm = nn.BatchNorm1d(16) if batch_norm else nn.Identity()

    def forward(self, x):
        return self.norm(self.used(x)).relu()


def fit(folder, names=tuple(METHODS), precision="float32"):
    """Return what each method's network says of its training rows."""
    torch.set_num_threads(1)
    X, y, attributes = make_spurious_classification(303, random_state=0)
    found = {}
    for name in names:
        settings = {"random_state": 0, "batch_size": 51, **SETTINGS.get(name, {})}
        model = FineTuneClassifier(
            METHODS[name],
            # Its statistics are of a process's own rows: nothing to compare them with.
            Backbone(X.shape[1], batch_norm=name == "unseeded"),
            modality="tensor",
            learning_rate=0.05,
            max_iter=2,
            clip_norm=1.0,
            device="cpu",
            precision=precision,
            checkpoint_dir=folder,
            **settings,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(
                X,
                y,
                None if name == "unknown" else attributes,
                X_val=X[:101],
                y_val=y[:101],
                attributes_val=attributes[:101],
            )
        seen = model.history_["validation_group_accuracy"].ravel()
        found[name] = np.concatenate(
            [model.decision_function(X), model.loss_curve_, seen, [model.best_epoch_]]
        )
    return found


def interrupt(folder):
    """Make the first epoch of every run, and leave its checkpoint."""
    steps = NetworkTraining._make_step

    def interrupted(self, *args):
        if self.epoch == 1:
            raise KeyboardInterrupt
        steps(self, *args)

    NetworkTraining._make_step = interrupted
    try:
        for name in METHODS:
            with contextlib.suppress(KeyboardInterrupt):
                fit(folder, [name])
    finally:
        NetworkTraining._make_step = steps


def start():
    """Have Accelerate shard: of processes on CPUs it ignores that it was asked to."""
    from accelerate import PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state(reset_partial_state=True)
    state = PartialState(cpu=True)
    if "ACCELERATE_USE_FSDP" in os.environ:
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU


if __name__ == "__main__":
    checkpoints, target = sys.argv[1:]
    start()
    results = fit(checkpoints)
    interrupt(f"{checkpoints}, interrupted")
    interrupt(f"{checkpoints}, again")
    for name, values in fit(f"{checkpoints}, again").items():
        results[f"{name}, resumed"] = values
    results["sharded"] = np.array(noted["sharded"])
    start()
    results["bfloat16"] = fit(None, ["reweighted"], "bfloat16")["reweighted"]
    results["formats"] = np.array(noted["formats"])
    assert os.environ["WORLD_SIZE"] == "2"
    np.savez(f"{target}-{os.environ['RANK']}.npz", **results)
