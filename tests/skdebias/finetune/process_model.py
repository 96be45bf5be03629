"""A fit as several processes make it: run by ``accelerate launch``."""

import os
import sys
import warnings

import numpy as np
import torch
from torch import nn

from skdebias import (
    ERMClassifier,
    GERNEClassifier,
    GroupDROClassifier,
    LfFClassifier,
    ULEClassifier,
)
from skdebias.datasets import make_spurious_classification
from skdebias.finetune import FineTuneClassifier

METHODS = {
    "gerne": GERNEClassifier(beta=0.2),
    "unknown": GERNEClassifier(beta=0.2, t=0.2),
    "reweighted": ERMClassifier(reweight="group"),
    "dro": GroupDROClassifier(step_size=0.1),
    "lff": LfFClassifier(),
    "unseeded": GERNEClassifier(beta=0.2),
    "ule": ULEClassifier(lam=0.7, normalize_over="sample", scale="none"),
}
IN_TWO_PASSES = ("unknown", "dro")


class Backbone(nn.Module):
    """A backbone with a layer that its embedding does not use."""

    def __init__(self, n_features):
        super().__init__()
        torch.manual_seed(0)
        self.used = nn.Linear(n_features, 16)
        self.unused = nn.Linear(n_features, 16)

    def forward(self, x):
        return self.used(x).relu()


def fit(folder):
    """Return what each method's network says of its training rows."""
    torch.set_num_threads(1)
    X, y, attributes = make_spurious_classification(303, random_state=0)
    found = {}
    for name, method in METHODS.items():
        model = FineTuneClassifier(
            method,
            Backbone(X.shape[1]),
            modality="tensor",
            learning_rate=0.05,
            batch_size=51,
            max_iter=2,
            accumulate=2 if name in IN_TWO_PASSES else 1,
            clip_norm=1.0,
            random_state=None if name == "unseeded" else 0,
            device="cpu",
            checkpoint_dir=folder,
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
            [model.decision_function(X), model.loss_curve_, seen]
        )
    return found


if __name__ == "__main__":
    results = fit(sys.argv[1])
    assert os.environ["WORLD_SIZE"] == "2"
    np.savez(f"{sys.argv[2]}-{os.environ['RANK']}.npz", **results)
