"""Steps of whole networks: the methods against ERM, and ERM against plain PyTorch.

Every comparison is between fits of as many steps on as many rows, timed in turn, ABAB,
in at least 3 rounds; seconds are medians, a ratio is the median over the rounds with
the lowest and highest.

    make bench-finetune
    make bench-finetune BENCH="--repeats 7 --threads 2"
"""

import argparse
import platform
import sys
import warnings
from pathlib import Path

import _common as common
import numpy as np
import torch
from torch import nn

from skdebias import ERMClassifier, UGCClassifier
from skdebias.finetune import FineTuneClassifier

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests._instances import HEADS

BATCH_SIZE = 200
SETTINGS = {"learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
# A step of GERNE costs at most so many steps of ERM on as many rows.
LIMIT = 1.05


def perceptron():
    """The network of coloured MNIST in the papers."""
    layers = [nn.Flatten()]
    for n_in, n_out in ((2352, 100), (100, 100), (100, 16)):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers), (3, 28, 28), 40


def convolutions():
    """The small network for MNIST of PyTorch's examples, up to its last layer."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU()),
    )
    return network, (3, 28, 28), 4


def residual():
    """ResNet-18 on images of 32 pixels."""
    import timm

    return timm.create_model("resnet18", num_classes=0), (3, 32, 32), 4


NETWORKS = {
    "MLP, 28 x 28": perceptron,
    "CNN, 28 x 28": convolutions,
    "ResNet-18, 32 x 32": residual,
}


def methods():
    """Methods of one training: estimator and layer of the saliencies, by name."""
    found = {}
    for name, row in HEADS.items():
        if row.n_trainings > 1 or not row.trains_networks:
            continue
        estimator = row.make(beta=0.5, lam=0.7)
        networks = ", two networks" if row.n_heads == 2 else ""
        if "saliency" in row.parameters:
            for layer in ("embedding", "input"):
                found[f"{name} at the {layer}{networks}"] = estimator, layer
        else:
            found[f"{name}{networks}"] = estimator, "input"
    return found


METHODS = methods()


def data(shape, n_steps):
    """Random rows, ten classes of which each has its own attribute in 95 % of them."""
    rng = np.random.default_rng(0)
    n_rows = n_steps * BATCH_SIZE
    X = rng.normal(size=(n_rows, *shape)).astype(np.float32)
    y = np.arange(n_rows) % 10
    attributes = np.where(rng.random(n_rows) < 0.05, rng.integers(0, 10, n_rows), y)
    return X, y, attributes


def plain(network, X, y, epochs):
    """ERM as one writes it, rows gathered by index."""
    with torch.no_grad():
        width = network(X[:2]).shape[1]
    model = nn.Sequential(network, nn.Linear(width, 10)).train()
    optimizer = torch.optim.SGD(
        model.parameters(), SETTINGS["learning_rate"], momentum=0.9, weight_decay=1e-4
    )
    loss = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(model(X[rows]), y[rows]).backward()
            optimizer.step()


def steps_table(arguments):
    """Print what steps of the methods cost."""
    common.head(
        *("network", "method", "milliseconds a step", "times as long (lowest to"
          " highest)", "target", "reached"),
    )  # fmt: skip
    for name, make in NETWORKS.items():
        network, shape, n_steps = make()
        X, y, attributes = data(shape, n_steps)
        rows, targets = torch.from_numpy(X), torch.from_numpy(y)

        def fit(key, network=network, X=X, y=y, attributes=attributes):
            estimator, layer = METHODS[key]
            model = FineTuneClassifier(
                estimator,
                network,
                modality="tensor",
                batch_size=BATCH_SIZE,
                max_iter=arguments.epochs,
                saliency_layer=layer,
                batch_norm="train",
                random_state=0,
                device=arguments.device,
                **SETTINGS,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(X, y, attributes)

        runs = {key: lambda key=key, fit=fit: fit(key) for key in METHODS}
        if arguments.device == "cpu":
            runs["plain PyTorch, ERM"] = lambda network=network, rows=rows, y=targets: (
                plain(network, rows, y, arguments.epochs)
            )
        for run in runs.values():
            run()  # the first calls load code
        seconds, _ = common.rounds(arguments.repeats, runs)
        steps = n_steps * arguments.epochs
        for key, took in seconds.items():
            ratios = took / seconds["ERM"]
            times = "1" if key == "ERM" else common.spread(ratios)
            judged = ("", "")
            if key == "GERNE":
                reached = common.median(ratios) <= LIMIT
                judged = (f"at most {LIMIT}", "yes" if reached else "**no**")
            milliseconds = 1000 * common.median(took) / steps
            common.say(name, key, f"{milliseconds:.3g}", times, *judged)


def gradients_table(arguments):
    """Print what UGC's last-layer gradients cost against a loop over the rows."""
    network, shape, _ = convolutions()
    X, y, _ = data(shape, 5)
    model = FineTuneClassifier(
        UGCClassifier(warmup="epochs", warmup_epochs=1),
        network,
        modality="tensor",
        batch_size=BATCH_SIZE,
        max_iter=1,
        random_state=0,
        device=arguments.device,
    )
    reference = FineTuneClassifier(
        ERMClassifier(), network, modality="tensor", batch_size=BATCH_SIZE, max_iter=1,
        random_state=0, device=arguments.device,
    ).fit(X, y)  # fmt: skip
    few = 100
    trained, rows = reference.network_.to("cpu"), torch.from_numpy(X[:few])
    loss, labels = nn.CrossEntropyLoss(), torch.from_numpy(y[:few])

    def loop():
        layer = trained.head[1].weight
        for row, label in zip(rows, labels):
            logits = trained(row[None])
            torch.autograd.grad(loss(logits, label[None]), layer)

    runs = {
        "embeddings and factored gradients": lambda: reference.embed(X),
        "a backward pass per row": loop,
    }
    seconds, _ = common.rounds(arguments.repeats, runs)
    ours = seconds["embeddings and factored gradients"] / len(X)
    theirs = seconds["a backward pass per row"] / few
    common.head("last-layer gradients", "milliseconds a row", "times as long")
    common.say("by a hook", f"{1000 * common.median(ours):.3g}", "1")
    ratio = common.spread(theirs / ours)
    common.say("a backward pass per row", f"{1000 * common.median(theirs):.3g}", ratio)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)  # the whole method runs with them


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.device}, "
          f"{arguments.threads} thread(s), steps of {BATCH_SIZE} rows, "
          f"{arguments.repeats} rounds\n")  # fmt: skip
    with common.threads(arguments.threads):
        steps_table(arguments)
        print()
        gradients_table(arguments)


if __name__ == "__main__":
    main()
