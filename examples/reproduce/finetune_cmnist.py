"""Coloured MNIST with two engines: a head that is an MLP, and the same MLP as a network

    python examples/reproduce/finetune_cmnist.py --seeds 3

`cmnist.py` trains an MLP 100-100-16 as a head on pixels. Here `FineTuneClassifier`
trains it by the same methods, with the same data, settings and seeds. With an empty
backbone and the hidden layers in the head ("head"), rows, starting weights and updates
are those of the head engine. With two hidden layers in a `torch.nn.Sequential` backbone
and one in the head ("both") the starting weights are others of the same distribution.
With all three there ("backbone") the head is linear, and starts at random as by
default, or at zero ("backbone, from zero"). Weight decay is 0.01 in all rows. The score
is group-balanced test accuracy, in per cent, of seeds 0, 1, ..., at the epoch that is
best on the validation part.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _intervals import fixed_test, points, prose
from _runner import ROWS, Task, read, run
from cmnist import KNOWN, MINORITY, SHARED, load, score, settings
from sklearn.base import clone
from torch import nn

from skdebias.datasets import fetch_mnist
from skdebias.finetune import FineTuneClassifier

METHODS = ("ERM", "resampling", "GERNE", "GERNE unknown")
#: How many of the three hidden layers are those of the backbone, not of the head.
ENGINES = {"head": 0, "both": 2, "backbone": 3, "backbone, from zero": 3}
EPILOGUE = """
- The engines make the same steps: after two epochs at 2 % (`--rounding`) the logits of
  "head" are those of the head engine to 4e-7 of the largest (resampling) and 5e-7
  (GERNE), and to 6e-3 for ERM, whose epochs have eight times as many steps. After 50
  epochs the scores differ by {largest} points at most.
- All layers in the backbone ("backbone", the form of a network of one's own): the two
  engines are equal within noise. Over four shares and three seeds the network is above
  the head engine by {resampling} points (resampling), {gerne} (GERNE) and {unknown}
  (GERNE unknown), and over all {n_pairs} pairs by {all_pairs}, with 95 % intervals over
  seeds and shares, which have the same test digits. Starting weights and, in GERNE
  unknown, the inferred groups differ, so that single pairs differ by about two points,
  as seeds do.
- From a linear head of zeros resampling ends {zero_resampling} points lower at 0.5 %,
  GERNE {zero_gerne}. Zeros are for a backbone that already knows something, and not the
  default where it is trained.
- A fit of the network took {seconds_gerne} s (GERNE), {seconds_resampling} s
  (resampling), {seconds_unknown} s (GERNE unknown) or {seconds_erm} s (ERM) on a shared
  core, medians.
- Empty cells were not run; rows other than "backbone" have the first seed only.
  2026-11-23.
"""


def as_network(head, n_features, in_backbone, **parameters):
    """Return the same method, settings and MLP for the other engine.

    Parameters
    ----------
    head : estimator of skdebias
    n_features : int
    in_backbone : int
        How many of the hidden layers are those of the backbone, not of the head.
    **parameters : dict
        Further ones of the result.

    Returns
    -------
    FineTuneClassifier
    """
    sizes = head.hidden_layer_sizes
    shared = [name for name in SHARED if name != "hidden_layer_sizes"]
    taken = {name: getattr(head, name) for name in shared}
    plain = type(head)().get_params()
    method = clone(head).set_params(**{name: plain[name] for name in shared})
    method.set_params(random_state=None)
    backbone: nn.Module = nn.Identity()
    if in_backbone:
        method.set_params(hidden_layer_sizes=sizes[in_backbone:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head.random_state)
            own = sizes[:in_backbone]
            widths = zip((n_features, *own[:-1]), own)
            layers = [(nn.Linear(m, n), nn.ReLU()) for m, n in widths]
        backbone = nn.Sequential(*sum(layers, ()))
    reference = method.get_params(deep=False).get("reference_estimator")
    if reference is not None:
        reference = clone(reference).set_params(random_state=head.random_state)
        own = as_network(reference, n_features, in_backbone, **parameters)
        method.set_params(reference_estimator=own)
    return FineTuneClassifier(
        method,
        backbone,
        modality="tensor",
        random_state=head.random_state,
        **taken,
        **parameters,
    )


def estimator_of(dataset, name, seed):
    """Return the head that `cmnist.py` trains, at a weight decay of 0.01."""
    grid = settings(MINORITY[dataset])[name]
    setting = setting_of(name)
    return clone(grid[setting]).set_params(random_state=seed)


def setting_of(name):
    """Name the setting in the grid of `cmnist.py`."""
    return "" if name == "ERM" else "weight_decay=0.01"


def rounding(parts, seed, epochs=2):
    """Largest difference of two engines' logits, over their largest one, by method."""
    X, y, attributes = parts["train"]
    found = {}
    for name in METHODS[:3]:
        head = estimator_of("2", name, seed).set_params(max_iter=epochs)
        network = as_network(head, X.shape[1], in_backbone=0)
        known = attributes if name in KNOWN else None
        logits = [
            clf.fit(X, y, known).decision_function(parts["val"][0])
            for clf in (head, network)
        ]
        found[name] = np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()
    return found


def table(rows, heads):
    """Markdown table of both engines' scores at the epoch chosen on validation."""
    lines = [
        "| method | engine | " + " | ".join(f"{m} %" for m in MINORITY) + " |",
        "| --- | --- |" + " ---: |" * len(MINORITY),
    ]
    for name in METHODS:
        by_head = heads[
            (heads["method"] == name) & (heads["setting"] == setting_of(name))
        ]
        engines = {"head engine": by_head}
        for engine in ENGINES:
            own = rows[(rows["method"] == name) & (rows["setting"] == engine)]
            engines[f"network, {engine}"] = own
        for engine, own in engines.items():
            if len(own):
                cells = [_cell(own[own["dataset"] == dataset]) for dataset in MINORITY]
                lines.append(f"| {name} | {engine} | {' | '.join(cells)} |")
    return "\n".join(lines)


def facts(rows):
    """Return the numbers of the prose."""
    heads = read(ROWS / "cmnist.csv")
    own = heads["setting"] == heads["method"].map(setting_of)
    key = ["method", "dataset", "seed"]
    of_heads = _scores(heads[own]).set_index(key)["value"]
    scores = _scores(rows).set_index(["setting", *key])["value"]

    def less(engine):
        """Network less head, in points."""
        found = scores.xs(engine, level="setting")
        return 100 * (found - of_heads.reindex(found.index)).dropna()

    pairs = less("backbone")
    pairs = pairs[pairs.index.get_level_values("method") != "ERM"]
    zero = -less("backbone, from zero").groupby("method").mean()
    network = rows[rows["setting"] == "backbone"].groupby("method")["seconds"].median()
    short_names = dict(zip(METHODS, ("erm", "resampling", "gerne", "unknown")))
    sampling = fixed_test(10_000)

    def told(values):
        mean, low, high = (points(value) for value in sampling.interval(values))
        return f"{mean} ({low} to {high})"

    found = {f"seconds_{short_names[m]}": f"{s:.0f}" for m, s in network.items()}
    found |= {short_names[method]: told(own) for method, own in pairs.groupby("method")}
    return found | {
        "all_pairs": told(pairs),
        "n_pairs": len(pairs),
        "largest": f"{less('head').abs().max():.2f}",
        "zero_resampling": points(zero["resampling"]),
        "zero_gerne": points(zero["GERNE"]),
    }


def _scores(rows):
    return rows[rows["metric"] == "test_at_val_best"]


def _cell(rows):
    """Test scores of all seeds, at the epoch chosen on validation."""
    values = rows.loc[rows["metric"] == "test_at_val_best"].sort_values("seed")
    return ", ".join(f"{100 * value:.1f}" for value in values["value"])


def main():
    title, _, protocol = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minority", nargs="+", default=list(MINORITY))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--engines", nargs="+", default=["backbone"], choices=ENGINES)
    parser.add_argument("--rounding", action="store_true", help="compare logits only")
    parser.add_argument("--heads", type=Path, default=ROWS / "cmnist.csv")
    parser.add_argument("--out", type=Path, default=ROWS / "finetune_cmnist.csv")
    parser.add_argument("--checkpoints", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.rounding:
        for name, size in rounding(load(MINORITY["2"], 0, fetch_mnist()), 0).items():
            print(f"{name}: {size:.1e}")
        return

    tasks = [
        Task(dataset, name, engine, seed)
        for seed in range(arguments.seeds)
        for dataset in arguments.minority
        for engine in arguments.engines
        for name in arguments.methods
    ]
    cache = {}

    def fit(task):
        key = task.dataset, task.seed
        if key not in cache:
            cache.clear()
            cache[key] = load(MINORITY[task.dataset], task.seed, fetch_mnist())
        parts = cache[key]
        clf = as_network(
            estimator_of(task.dataset, task.method, task.seed),
            parts["train"][0].shape[1],
            ENGINES[task.setting],
            head_init="zero" if "zero" in task.setting else "auto",
            checkpoint_dir=arguments.checkpoints,
        )
        return score(clf, parts, task.method in KNOWN)

    rows = (
        read(arguments.out) if arguments.table_only else run(tasks, fit, arguments.out)
    )
    print(f"# {title}\n\n{protocol.rstrip()}\n\n{table(rows, read(arguments.heads))}")
    print(prose(EPILOGUE, facts, rows, arguments.out), end="")


if __name__ == "__main__":
    main()
