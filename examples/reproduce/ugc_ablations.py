"""UGC: the ablations of its paper, and what they leave out

    python examples/reproduce/ugc_ablations.py

The figures of the paper vary one choice at a time on its synthetic set, where the
shortcut holds in the test rows too and plain training has 99 per cent. Here are the
same choices on that set and on the two harder ones of `ugc_synthetic.py`, by the worst
of the four (y, s) groups on 20,000 rows in which s is independent of y.

Two forms are the centre of the variations. "Paper" is the network of hidden layers 32
and 32, an epoch of warm-up, two global clusters of the gradients and inverse
frequencies, by Adam at a learning rate of .001 and no weight decay. "Ours" is a linear
head, `UGCClassifier()` but for the optimiser (AdamW, learning rate .01, weight decay
.01). Batches of 64, 20 epochs of training, ten draws, each of data of its own; nothing
is selected. "Unscaled features" leaves out standardisation, and "unit rows" divides
every row by its norm.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from _intervals import prose
from _runner import PAGES, ROWS, Task, run
from sklearn.base import clone
from sklearn.preprocessing import normalize
from ugc_synthetic import HEAD, PAPER_FORM, VERSIONS, generate

from skdebias import ERMClassifier, UGCClassifier
from skdebias.metrics import worst_group_accuracy_score

OUT = ROWS / "ugc_ablations.csv"
NETWORK = (32, 32)
PAPER_OPTIMIZER = HEAD | {"learning_rate": 1e-3, "weight_decay": 0.0}
FORMS = {
    "paper": UGCClassifier(
        **PAPER_FORM,
        **PAPER_OPTIMIZER | {"hidden_layer_sizes": NETWORK},
        robust="inverse_frequency",
    ),
    "ours": UGCClassifier(**HEAD),
}
# The first value of a factor that is a form's own is its centre and is fitted once.
FACTORS = {
    "learning rate": ("learning_rate", [1e-4, 1e-3, 1e-2]),
    "clusters": ("n_clusters", [2, 4, 8]),
    "second stage": (
        "robust",
        ["inverse_frequency", "group_dro", "feature_magnitude"],
    ),
    "head": ("hidden_layer_sizes", [(), NETWORK]),
    "features": ("features", ["standardised", "unscaled", "unit rows"]),
    "weight decay": ("weight_decay", [0.0, 1e-4, 1e-2, 1e-1]),
}
NAMES = {
    (): "linear",
    NETWORK: "32, 32",
    "inverse_frequency": "inverse freq.",
    "group_dro": "GroupDRO",
    "feature_magnitude": "magnitude",
}
CENTRE = "centre"
COLOURS = {"paper": "#b2182b", "ours": "#2166ac"}
TITLES = {name: name.replace("ugc synthetic", "").strip(", ") for name in VERSIONS}
EPILOGUE = """
- On the published set the paper's form has {paper_low} to {paper_high} whatever is
  chosen, its network without UGC {erm_network} and plain linear training {erm}: there
  is nothing to gain.
- On the harder sets ("shift 1", "shift 0.75") the one choice of the paper that matters
  is the head. As a network its form has at most {network_best} (plain linear training
  {erm_harder}, the oracle {oracle}), as a linear head {linear}.
- Our form has {ours} there at its centre, and a wide spread over the draws (standard
  deviations of {ours_std}): where `warmup="auto"` takes the differences of the class
  means after all, it does harm. Its largest effect on the mean is that of {largest}.
"""


def centre_value(form, parameter):
    """Return the value of a form that a factor varies."""
    if parameter == "features":
        return "standardised"
    return FORMS[form].get_params()[parameter]


def variations(form):
    """Return `{setting: (parameter, value)}`, the centre first."""
    found = {CENTRE: None}
    for factor, (parameter, values) in FACTORS.items():
        for value in values:
            if value != centre_value(form, parameter):
                found[f"{factor} {NAMES.get(value, value)}"] = (parameter, value)
    return found


def parts(version, seed, features):
    """Return training rows and balanced test rows: (X, y, s) each."""
    shift, scale = VERSIONS[version]
    rng = np.random.default_rng(seed)
    core, y, s = generate(2000, shift, 0.95, rng)
    train = slice(0, 1000)
    mean, std = core[train].mean(0), core[train].std(0)
    even = generate(20000, shift, 0.5, rng)

    def part(core, y, s):
        scaled = core if features == "unscaled" else (core - mean) / std
        X = np.column_stack([scaled, scale * s])
        return normalize(X) if features == "unit rows" else X, y, s

    return part(core[train], y[train], s[train]), part(*even)


def fit(task):
    """Return the scores of one variation on one draw."""
    form, _, setting = task.setting.partition(": ")
    varied = variations(form)[setting] if form in FORMS else None
    model = clone(REFERENCES[task.method] if form not in FORMS else FORMS[form])
    features = "standardised"
    if varied is not None:
        parameter, value = varied
        if parameter == "features":
            features = value
        else:
            model.set_params(**{parameter: value})
    (X, y, s), (X_even, y_even, s_even) = parts(task.dataset, task.seed, features)
    model.set_params(random_state=task.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of weak clusters
        model.fit(X, y, s if task.method == "oracle" else None)
    predicted = model.predict(X_even)
    return {
        ("none", "worst_group"): worst_group_accuracy_score(
            y_even, predicted, attributes=s_even
        ),
        ("none", "group_balanced"): (predicted == y_even).mean(),
    }


REFERENCES = {
    "ERM": ERMClassifier(**HEAD),
    "ERM, network": ERMClassifier(**PAPER_OPTIMIZER | {"hidden_layer_sizes": NETWORK}),
    "oracle": ERMClassifier(balance="group", **HEAD),
}


def draw(rows, path):
    """Draw sets x factors, a point for every value and form."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    by = rows[rows["metric"] == "worst_group"].groupby(["dataset", "method", "setting"])
    mean, std = 100 * by["value"].mean(), 100 * by["value"].std()
    figure, axes = plt.subplots(
        len(VERSIONS),
        len(FACTORS),
        figsize=(13, 7.2),
        sharey=True,
        width_ratios=[len(values) for _, values in FACTORS.values()],
        layout="constrained",
    )
    for number, (line, version) in enumerate(zip(axes, VERSIONS)):
        for ax, (factor, (parameter, values)) in zip(line, FACTORS.items()):
            for name, style in (("ERM", ":"), ("oracle", "--")):
                level = mean[version, name, "fixed"]
                ax.axhline(level, color="0.45", linestyle=style, linewidth=1)
            for offset, form in zip((-0.1, 0.1), FORMS):
                settings = [
                    CENTRE
                    if value == centre_value(form, parameter)
                    else f"{factor} {NAMES.get(value, value)}"
                    for value in values
                ]
                keys = [(version, "UGC", f"{form}: {setting}") for setting in settings]
                ax.errorbar(
                    np.arange(len(values)) + offset,
                    [mean[key] for key in keys],
                    [std[key] for key in keys],
                    color=COLOURS[form],
                    marker="o",
                    markersize=4,
                    linestyle="none",
                    elinewidth=1,
                    capsize=2,
                    label=form,
                )
            ax.set_xlim(-0.5, len(values) - 0.5)
            ax.set_xticks(
                range(len(values)), [str(NAMES.get(v, v)) for v in values], fontsize=8
            )
            if number == 0:
                ax.set_title(factor, fontsize=10)
            if number == len(VERSIONS) - 1:
                ax.tick_params("x", rotation=40)
            else:
                ax.tick_params("x", labelbottom=False)
        line[0].set_ylabel(f"{TITLES[version] or 'published set'}\nworst group, %")
    axes[0, 0].set_ylim(0, 100)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles += [
        plt.Line2D([], [], color="0.45", linestyle=style) for style in (":", "--")
    ]
    figure.legend(
        handles,
        [f"UGC, {label}" for label in labels] + ["plain linear head", "oracle"],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(rows):
    """Return the table behind the figure."""
    rows = rows[rows["metric"] == "worst_group"].copy()
    rows["set"] = rows["dataset"].map(TITLES).replace("", "published")
    by = rows.groupby(["method", "setting", "set"], sort=False)["value"]
    text = (100 * by.mean()).map("{:.1f}".format)
    text += " ± " + (100 * by.std()).map("{:.1f}".format)
    shown = text.unstack("set").reset_index()
    shown["what"] = np.where(
        shown["method"] == "UGC", "UGC, " + shown["setting"], shown["method"]
    )
    columns = ["what", *(TITLES[name] or "published" for name in VERSIONS)]
    lines = [f"| {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) - 1)]
    lines += [
        f"| {' | '.join(row)} |" for row in shown[columns].itertuples(index=False)
    ]
    return "\n".join(lines)


def facts(rows):
    """Return the numbers of the prose."""
    by = rows[rows["metric"] == "worst_group"].groupby(["dataset", "method", "setting"])
    mean = 100 * by["value"].mean()
    published, *harder = VERSIONS

    def of_form(version, form):
        own = mean[version, "UGC"]
        return own[own.index.str.startswith(f"{form}: ")]

    effects = {}
    for version in harder:
        own = of_form(version, "ours")
        for factor in FACTORS:
            varied = own[own.index.str.startswith(f"ours: {factor} ")]
            reached = [*varied, own[f"ours: {CENTRE}"]]
            spread = max(reached) - min(reached)
            name = f"{factor} ({TITLES[version]})"
            effects[name] = spread, min(reached), max(reached)
    largest = max(effects, key=effects.get)
    _, low, high = effects[largest]
    std = 100 * by["value"].std()
    linear = "paper: head linear"

    def both(values):
        return " and ".join(f"{value:.1f}" for value in values)

    return {
        "paper_low": f"{of_form(published, 'paper').min():.1f}",
        "paper_high": f"{of_form(published, 'paper').max():.1f}",
        "erm_network": f"{mean[published, 'ERM, network', 'fixed']:.1f}",
        "erm": f"{mean[published, 'ERM', 'fixed']:.1f}",
        "network_best": both(of_form(v, "paper").drop(linear).max() for v in harder),
        "erm_harder": both(mean[v, "ERM", "fixed"] for v in harder),
        "oracle": both(mean[v, "oracle", "fixed"] for v in harder),
        "linear": both(mean[v, "UGC", linear] for v in harder),
        "ours": both(mean[v, "UGC", f"ours: {CENTRE}"] for v in harder),
        "ours_std": both(std[v, "UGC", f"ours: {CENTRE}"] for v in harder),
        "largest": f"{largest}: {low:.1f} to {high:.1f}",
    }


def main():
    """Run what is missing; print the page and draw its figure."""
    title, _, protocol = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=PAGES / "ugc_ablations.png")
    parser.add_argument("--table-only", action="store_true")
    arguments = parser.parse_args()
    tasks = [
        Task(version, method, setting, seed)
        for version in VERSIONS
        for seed in range(arguments.seeds)
        for method, settings in (
            *((name, ["fixed"]) for name in REFERENCES),
            ("UGC", [f"{form}: {name}" for form in FORMS for name in variations(form)]),
        )
        for setting in settings
    ]
    rows = run([] if arguments.table_only else tasks, fit, arguments.out)
    draw(rows, arguments.figure)
    figure = "![Worst group by choice, on three sets](ugc_ablations.png)"
    pieces = [f"# {title}", protocol.strip("\n"), figure, table(rows)]
    print("\n\n".join(pieces))
    print(prose(EPILOGUE, facts, rows, arguments.out), end="")


if __name__ == "__main__":
    main()
