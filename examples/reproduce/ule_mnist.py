"""ULE on MNIST with a class code, and with colours: table 1 of its paper

    python examples/reproduce/ule_mnist.py --rows 5000 --epochs 8 --seeds 3

Protocol (Mitchell et al., arXiv 2409.02792, table 1): real MNIST digits; MNIST-SC, with
the class written as ten pixels into a corner; and coloured MNIST, where the colour
always tells the class. The network is the paper's CNN, trained from scratch, and ULE
takes the saliency of the largest logit in the input pixels. Test accuracy, in per cent,
on the 10,000 test digits: as in training, without the cue (no code, grey), and with a
wrong one. Seeds change which training digits are used, the colours, and the training.

The last epoch counts. lam is chosen in three ways. "fixed" is one value for all sets,
set beforehand. "validation" takes the best accuracy on 2,000 held-out training digits
whose cue says nothing: no test digit, but the knowledge of what the cue is. "test"
takes the best of the test without the cue; the paper does not say how it chose.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _runner import Task, chosen, read, run
from sklearn.base import clone
from torch import nn

from skdebias import ERMClassifier, ULEClassifier
from skdebias.datasets import colour_digits, fetch_mnist, stamp_digits
from skdebias.finetune import FineTuneClassifier

N_VALIDATION = 2000
#: What the columns of the table are: (trained on, tested on).
COLUMNS = [
    ("MNIST", "same"),
    ("MNIST-SC", "same"),
    ("MNIST-SC", "no cue"),
    ("MNIST-SC", "wrong cue"),
    ("coloured", "same"),
    ("coloured", "no cue"),
    ("coloured", "wrong cue"),
]
#: The paper has no test with a wrong cue.
PAPER = {
    "ERM": (99, 100, 85, None, 100, 21, None),
    "ULE": (97, 95, 95, None, 100, 40, None),
}
FIXED_LAM = 0.3


class ChannelsLast(nn.Module):
    """Reorder images for faster convolutions on CPUs."""

    def forward(self, images):
        """Return the same values in another order in memory."""
        return images.contiguous(memory_format=torch.channels_last)


def network(n_channels, seed):
    """Return the paper's CNN up to its last hidden layer, 128 wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            ChannelsLast(),
            nn.Conv2d(n_channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(9216, 128),
            nn.ReLU(),
        )


def with_cue(name, digits, target, minority, seed):
    """Return images (n, channels, 28, 28) in [0, 1]; minority=None is without a cue."""
    if name == "coloured":
        if minority is None:
            images = np.repeat(digits[..., None], 3, axis=-1)
        else:
            images, _ = colour_digits(
                digits, target, minority=minority, random_state=seed
            )
        images = images.transpose(0, 3, 1, 2)
    else:
        if name == "MNIST-SC" and minority is not None:
            digits, _ = stamp_digits(
                digits, target, minority=minority, random_state=seed
            )
        images = digits[:, None]
    return images / np.float32(255)


def load(name, n_rows, seed, mnist):
    """Training rows, and parts to score: {part: (images, target)}."""
    rng = np.random.default_rng(seed)
    train = rng.permutation(np.flatnonzero(mnist.split == "train"))
    val, train = train[:N_VALIDATION], train[N_VALIDATION:][:n_rows]
    test = np.flatnonzero(mnist.split == "test")
    wanted = {"train": (train, 0.0), "val same": (val, 0.0), "test same": (test, 0.0)}
    if name != "MNIST":
        wanted |= {
            "val independent": (val, 0.9),
            "test no cue": (test, None),
            "test wrong cue": (test, 1.0),
        }
    return {
        part: (
            with_cue(name, mnist.images[rows], mnist.target[rows], minority, seed),
            mnist.target[rows],
        )
        for part, (rows, minority) in wanted.items()
    }


def method(name, lam):
    """Return the estimator of a row of the table."""
    if name == "ERM":
        return ERMClassifier()
    # The paper's saliency. One maximum for a batch: with one for each image, rows of
    # which neither network is sure count as much as others.
    return ULEClassifier(
        lam,
        saliency="logit",
        normalize="max",
        normalize_over="sample" if name == "ULE, per image" else "batch",
        student_loss="ce",
        student_weight_decay=0.0,
    )


def classifier(estimator, n_channels, seed, arguments):
    """Return the unfitted network of a method."""
    return FineTuneClassifier(
        estimator,
        network(n_channels, seed),
        modality="tensor",
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        dropout=0.5,
        batch_size=128,
        max_iter=arguments.epochs,
        precision=arguments.precision,
        checkpoint_dir=arguments.checkpoints,
        random_state=seed,
    )


def scores(clf, parts):
    """Fit; accuracy on all parts but that of training."""
    X, y = parts["train"]
    clf.fit(X, y)
    return {
        ("last", part): clf.score(X, y)
        for part, (X, y) in parts.items()
        if part != "train"
    }


def key(name, arguments):
    """Name a data set in the CSV, with the size of its runs."""
    return f"{name}, {arguments.rows} digits, {arguments.epochs} epochs"


def table(rows, size):
    """Markdown table of the runs of one size beside the paper's numbers."""
    rows = rows[rows["dataset"].str.endswith(size)]
    rows = rows.assign(dataset=rows["dataset"].str.removesuffix(size))
    fixed = rows[rows["setting"].isin(["", f"lam={FIXED_LAM}"])]
    views = {
        "fixed": (fixed, None),
        "validation": (rows, "val independent"),
        "test": (rows, "test no cue"),
    }
    head = [f"{name}, {part}" for name, part in COLUMNS]
    lines = [
        f"| method | lam | {' | '.join(head)} | seeds |",
        f"| --- | --- |{' ---: |' * (len(COLUMNS) + 1)}",
    ]
    for name in rows["method"].unique():
        for how, (source, choose) in views.items():
            own = source[source["method"] == name]
            if not len(own) or (name == "ERM" and how != "fixed"):
                continue
            cells = [_cell(own, *column, choose) for column in COLUMNS]
            label = "" if name == "ERM" else how
            n_seeds = own["seed"].nunique()
            lines.append(f"| {name} | {label} | {' | '.join(cells)} | {n_seeds} |")
        if name in PAPER:
            cells = ["" if value is None else str(value) for value in PAPER[name]]
            lines.append(f"| {name}, paper | ? | {' | '.join(cells)} | ? |")
    return "\n".join(lines)


def _cell(rows, name, part, choose):
    """Mean and spread in per cent, and the lam that was chosen."""
    own = rows[rows["dataset"] == name]
    if not len(own):
        return ""
    if choose not in set(own["metric"]):
        choose = "val same"
    view = chosen(own, choose=choose, report=f"test {part}").iloc[0]
    cell = f"{100 * view['mean']:.1f}"
    if not np.isnan(view["std"]):
        cell += f" ± {100 * view['std']:.1f}"
    lam = view["setting"].removeprefix("lam=")
    return f"{cell} ({lam})" if own["setting"].nunique() > 1 else cell


def grid_table(rows, size):
    """Markdown table of all settings of the runs of one size."""
    rows = rows[rows["dataset"].str.endswith(size)]
    rows = rows.assign(dataset=rows["dataset"].str.removesuffix(size))
    parts = [
        "val same",
        "val independent",
        "test same",
        "test no cue",
        "test wrong cue",
    ]
    wide = rows.pivot_table(
        index=["dataset", "method", "setting"],
        columns="metric",
        values="value",
        aggfunc="mean",
        sort=False,
    ).reindex(columns=parts)
    lines = [
        f"| data | method | setting | {' | '.join(parts)} |",
        f"| --- | --- | --- |{' ---: |' * len(parts)}",
    ]
    for names, values in wide.iterrows():
        cells = ["" if np.isnan(v) else f"{100 * v:.1f}" for v in values]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    return "\n".join(lines)


def saliency(net, images):
    """Gradient of the largest logit in the pixels, largest over channels."""
    images = torch.from_numpy(images).requires_grad_()
    net.eval()(images).amax(1).sum().backward()
    return images.grad.abs().amax(1).numpy()


def student_of(clf, folder):
    """Return the student of a ULE fit, which only its last checkpoint holds."""
    from safetensors.torch import load_file

    last = max(folder.glob("*/step-*.safetensors"))
    prefix = "model.members.0."
    state = {
        name.removeprefix(prefix): value
        for name, value in load_file(last).items()
        if name.startswith(prefix)
    }
    student = clone(clf, safe=False).network_
    student.load_state_dict(state)
    return student


def main():
    title, _, protocol = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rows", type=int, default=5000, help="training digits")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lams", type=float, nargs="+", default=[0.2, 0.3, 0.5])
    parser.add_argument("--sets", nargs="+", default=["MNIST-SC", "coloured", "MNIST"])
    parser.add_argument("--methods", nargs="+", default=["ERM", "ULE"])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--checkpoints", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/results/ule_mnist.csv"))
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tasks = [
        Task(key(name, arguments), kind, setting, seed)
        for seed in arguments.seeds
        for name in arguments.sets
        for kind in arguments.methods
        for setting in ([""] if kind == "ERM" else map("lam={}".format, arguments.lams))
    ]
    mnist = fetch_mnist()

    def fit(task):
        name = task.dataset.partition(",")[0]
        lam = float(task.setting.removeprefix("lam=") or 1)
        parts = load(name, arguments.rows, task.seed, mnist)
        n_channels = parts["train"][0].shape[1]
        estimator = method(task.method, lam)
        return scores(classifier(estimator, n_channels, task.seed, arguments), parts)

    rows = (
        read(arguments.out) if arguments.table_only else run(tasks, fit, arguments.out)
    )
    print(f"# {title}\n\n{protocol.strip()}")
    for size in rows["dataset"].str.replace(r"^[^,]*", "", regex=True).unique():
        print(f"\n## {size.removeprefix(', ')}\n\n{table(rows, size)}")
        print(f"\nMeans over seeds of all settings:\n\n{grid_table(rows, size)}")


if __name__ == "__main__":
    main()
