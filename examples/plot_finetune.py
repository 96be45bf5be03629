"""
=============================
Unlearn in the network itself
=============================

The same coloured digits as in :ref:`sphx_glr_auto_examples_plot_quickstart.py`, but no
frozen embeddings: a small convolutional network is trained from scratch, on pixels, by
three methods. Plain training, GERNE, which is told the colours of the training rows,
and JTT, which is not. One class takes any method and any network.
"""

# %%
# The data
# --------
# Digits 0-4 against 5-9; colour and class agree in 97 % of the training rows, and are
# independent in the validation and test rows. Images are given as they are, as arrays,
# PIL images or paths.

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from torch import nn

from skdebias import ERMClassifier, GERNEClassifier, JTTClassifier
from skdebias.datasets import load_coloured_digits
from skdebias.finetune import FineTuneClassifier
from skdebias.metrics import group_summary

data = load_coloured_digits(correlation=0.97, image_size=16, random_state=0)
parts = {
    name: (data.images[rows], data.target[rows], data.attributes[rows])
    for name in ("train", "val", "test")
    for rows in [data.split == name]
}
images, y, colour = parts["train"]

# %%
# The network
# -----------
# Any module that returns one vector per image. A name such as ``"timm:resnet18"``
# would be a pretrained network with its own preprocessing. ``FineTuneClassifier`` puts
# a linear head on top, and trains both.

torch.manual_seed(0)
cnn = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 64),
    nn.ReLU(),
)

# %%
# Three methods
# -------------
# The method is an estimator of the package, with its own parameters; how the network
# is trained is the same for all. ``beta`` and ``c`` of GERNE as here take its gradient
# a little beyond that of balanced groups, ``c * (1 + beta) = 1.1``. JTT trains a first
# network for five epochs, whose errors are then drawn twenty times as often.
#
# The validation part has colours here, so the worst group on it selects the epoch.

methods = {
    "ERM": ERMClassifier(),
    "GERNE": GERNEClassifier(beta=1.2, c=0.5),
    "JTT": JTTClassifier(upweight=20, warmup_epochs=5, balance=None),
}
checkpoints = Path(tempfile.mkdtemp())


def fit(name, network):
    """Fit, with the colours for GERNE only; return the seconds it took."""
    start = time.perf_counter()
    network.fit(
        images,
        y,
        colour if name == "GERNE" else None,
        X_val=parts["val"][0],
        y_val=parts["val"][1],
        attributes_val=parts["val"][2],
    )
    return time.perf_counter() - start


networks = {}
for name, method in methods.items():
    network = FineTuneClassifier(
        method,
        cnn,
        preprocess={"size": 16},
        modality="image",
        learning_rate=0.03,
        weight_decay=1e-3,
        batch_size=64,
        max_iter=40,
        checkpoint_dir=checkpoints / name,
        random_state=0,
    )
    seconds = fit(name, network)
    print(f"{name}: {seconds:.0f} s, epoch {network.best_epoch_} is kept")
    networks[name] = network

# %%
# What came of it
# ---------------
# On the test part, of which nothing has been seen.

test, y_test, colour_test = parts["test"]
table = pd.DataFrame(
    {
        name: group_summary(y_test, network.predict(test), attributes=colour_test)
        for name, network in networks.items()
    }
).T
columns = ["accuracy", "group_balanced_accuracy", "worst_group_accuracy"]
print(table[columns].astype(float).round(3))

# %%
# Learning curves of every group
# ------------------------------
# ``history_`` has the accuracy of each validation group in each epoch. In red the
# groups in which the colour misleads.

_, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
for ax, (name, network) in zip(axes, networks.items()):
    history = network.history_
    curves = history["validation_group_accuracy"].T
    for (label, hue), curve in zip(history["validation_groups"], curves):
        ax.plot(
            range(1, len(curve) + 1),
            curve,
            color="C3" if label != hue else "C0",
            linestyle="-" if label else "--",
            label=f"{data.target_names[label]}, {data.attribute_names[hue]}",
        )
    ax.axvline(network.best_epoch_, color="grey", linewidth=0.8)
    ax.set(title=name, xlabel="epoch", ylim=(0, 1))
axes[0].set_ylabel("validation accuracy")
axes[-1].legend(fontsize="small", loc="lower right")

# %%
# Interrupted?
# ------------
# After every epoch a checkpoint is written, whole or not at all. Here the last one of
# GERNE's run is taken away, as if the process had been killed in the last epoch. The
# same call goes on from the one before, and ends with the same network.

max((checkpoints / "GERNE").glob("*/*.safetensors")).unlink()
again = clone(networks["GERNE"])
seconds = fit("GERNE", again)
same = np.array_equal(
    again.decision_function(test), networks["GERNE"].decision_function(test)
)
print(f"resumed in {seconds:.1f} s, same outputs: {same}")

# %%
# What the networks see
# ---------------------
# ``embed`` gives what the head reads; ``to_extractor`` makes of the network a backbone
# of :class:`~embeddings_cache.EmbeddingExtractor`, with its cache. The two directions
# of largest variance on the test part: plain training has sorted it by colour, which
# is that of the dots. Open dots are the digits 5 to 9.

_, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for ax, (name, network) in zip(axes, networks.items()):
    points = PCA(n_components=2).fit_transform(network.embed(test))
    edges = np.array(["tab:red", "tab:green"])[colour_test]
    faces = np.where(y_test == 0, edges, "none")
    ax.scatter(*points.T, s=12, facecolors=faces, edgecolors=edges)
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
