"""Tables of untouched_defaults.py, and the schemes that take one of its heads.

Names of methods, of what a fit is given, and of heads are those of its rows.
"""

import pandas as pd
from _intervals import COUNTS, of_rows, short
from _problems import PROBLEMS
from untouched_blind import DEFAULT
from untouched_blind import TRAINING as TRAINING_ROWS

# What a fit is given.
BOTH = "attributes of training and validation rows"
TRAINING = "attributes of training rows"
VALIDATION = "attributes of validation rows"
NONE = "no attributes"

GERNE = "GERNEClassifier()"
SSA = "GERNEClassifier(pseudo_attributes=SSAPseudoAttributes())"
XRM = "GERNEClassifier(pseudo_attributes=XRMPseudoAttributes())"
DFR = "DFRClassifier()"
DRO = "GroupDROClassifier()"
GROUP = 'ERMClassifier(balance="group")'
CLASS = 'ERMClassifier(balance="class")'
CPU = "cpu seconds"
METRICS = ("worst_group", "group_balanced", "worst_class", "average")
HEADS, COST, ONE = "heads", "cost", "one exact fit"

# Heads of every strength and weight decay; the name of one is "strength decay".
BALANCE, FIXED = "balance", "1.3"
SHARES = (0.15, 0.3, 0.5)  # of the way from balance to the bound
WEAK_DECAYS = (3e-5, 3e-4)
PATH = (BALANCE, *map(str, SHARES))
DECAY = 0.01
HARD, SMOOTH, TEST = "validation worst_group", "smooth error", "worst_group"

LOGISTIC = "group-weighted logistic regression, tuned"
TUNED = "GERNE, tuned"
TUNED_DRO = "GroupDRO, tuned"
REFERENCES = (LOGISTIC, TUNED, TUNED_DRO)

GRID = "grid, worst group"
# Strengths and decays (None is all but the weak ones) of a scheme, and what chooses.
SCHEMES = {
    "s = 1": ((BALANCE,), (DECAY,), HARD),
    "s = 1.3": ((FIXED,), (DECAY,), HARD),
    "s = 1, decay by smooth error": ((BALANCE,), None, SMOOTH),
    "s = 1.3, decay by smooth error": ((FIXED,), None, SMOOTH),
    GRID: (PATH, None, HARD),
    "grid, smooth error": (PATH, None, SMOOTH),
    "best on test": (PATH, None, TEST),
}
AUTO = {"auto, validation rows": BOTH, "auto, folds": TRAINING}

NAMES = [name for name, problem in PROBLEMS.items() if problem.annotated]
FACES, TEXTS, GENERATED = "faces", "texts and digits", "generated"
BLOCKS = (FACES, TEXTS, GENERATED)


def block_of(problem):
    """Return of which kind a problem is; kinds differ in what a seed draws anew."""
    if problem.startswith("generated"):
        return GENERATED
    return TEXTS if problem.startswith(("C-MNIST", "CAD", "CEBaB")) else FACES


def sampling_of(rows, block=FACES):
    """Return the sampling of the problems of a block."""
    counted = rows[
        (rows["method"] == COUNTS) & (rows["dataset"].map(block_of) == block)
    ]
    counted = counted[counted["dataset"] == counted["dataset"].iloc[0]]
    return of_rows(counted, is_fixed=block != FACES)


def scores_of(rows, blind, metric=TEST):
    """Return the scores of all methods.

    Parameters
    ----------
    rows, blind : DataFrame
        Rows of untouched_defaults.py, and of untouched_blind.py.
    metric : str
        Of the test part.

    Returns
    -------
    Series
        Indexed by what a fit was given, method, problem and seed; schemes and what is
        tuned among the heads are methods of attributes of both parts.
    """
    own = rows[(rows["metric"] == metric) & ~rows["method"].isin([HEADS, COST])]
    keys = ["selection", "method", "dataset", "seed"]
    found = [own.set_index(keys)["value"]]
    own = untouched(blind)
    own = own[(own["metric"] == metric) & own["dataset"].isin(NAMES)]
    found.append(own.set_index(keys)["value"])
    found.append(_of_heads(rows, metric))
    for scheme, where in AUTO.items():
        own = rows[(rows["metric"] == metric) & (rows["method"] == GERNE)]
        own = own[own["selection"] == where].assign(selection=BOTH, method=scheme)
        found.append(own.set_index(keys)["value"])
    return (
        pd.concat(found)
        .rename_axis(["given", "method", "problem", "seed"])
        .sort_index()
    )


def untouched(blind):
    """Return the rows of defaults without attributes, as rows of this script."""
    wanted = blind["setting"] == f"{DEFAULT}, {TRAINING_ROWS}"
    return blind[wanted].assign(selection=NONE)


def _of_heads(rows, metric):
    """Return the scores of what takes one of the heads."""
    own = rows[(rows["method"] == HEADS) & (rows["selection"] != "all")]
    table = own.pivot_table(
        "value", ["dataset", "seed", "selection"], "metric", sort=False
    ).reset_index()
    names = table["selection"].str.split(" ", expand=True)
    table = table.assign(name=names[0], decay=names[1].astype(float))
    table[SMOOTH] *= -1  # all choose the largest
    weak = table["decay"].isin(WEAK_DECAYS)
    wanted = {
        **{scheme: (*how, ~weak) for scheme, how in SCHEMES.items()},
        LOGISTIC: ((BALANCE,), None, HARD, weak | True),
    }
    found = {}
    for scheme, (strengths, decays, choose, allowed) in wanted.items():
        some = table[allowed & table["name"].isin(strengths)]
        if decays is not None:
            some = some[some["decay"].isin(decays)]
        best = some.loc[some.groupby(["dataset", "seed"], sort=False)[choose].idxmax()]
        for problem, seed, value in zip(best["dataset"], best["seed"], best[metric]):
            found[BOTH, scheme, problem, seed] = value
            if scheme == GRID:
                found[BOTH, TUNED, problem, seed] = value
    return pd.Series(found)


def means(scores, given, methods, names=NAMES):
    """Return means over the seeds: a column per method, a row per problem."""
    own = scores.loc[given].groupby(["method", "problem"]).mean().unstack("method")
    return own.reindex(index=names, columns=methods)


def per_problem(scores, given, methods, titles=None):
    """Return the table of one regime, in Markdown.

    A cell of fewer splits than the first column has says how many.
    """
    table = means(scores, given, methods)
    n = scores.loc[given].groupby(["method", "problem"]).count().unstack("method")
    n = n.reindex(index=NAMES, columns=methods).fillna(0).astype(int)
    most = n.max(axis=1)
    lines = [
        f"| problem | splits | {' | '.join(titles or methods)} |",
        "| --- | ---: |" + " ---: |" * len(methods),
    ]
    for problem, row in table.iterrows():
        cells = [
            _cell(value, n.loc[problem, method], most[problem])
            for method, value in row.items()
        ]
        lines.append(f"| {problem} | {most[problem]} | {' | '.join(cells)} |")
    complete = table.notna().all()
    cells = [short(table[m].mean()) if complete[m] else "-" for m in methods]
    lines.append(f"| mean | | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value, n, most):
    if not n:
        return "-"
    return short(value) + (f" ({n})" if n < most else "")


def less(scores, one, other, names):
    """Return the scores of one method less those of another, seed by seed.

    Parameters
    ----------
    scores : Series
    one, other : tuple of str
        What the fit was given, and the method.
    names : sequence of str
        Problems. The mean over them is taken of the seeds that have all of them.

    Returns
    -------
    Series
        Indexed by seed.
    """
    both = (scores.loc[one] - scores.loc[other]).dropna().unstack("problem")
    if not names or not {*names} <= {*both}:
        return pd.Series(dtype=float)
    return both[list(names)].dropna().mean(axis=1)


def told(sampling, values):
    """Return "mean (low to high)", the mean alone of few splits, or a dash."""
    if not len(values):
        return "-"
    if len(values) < 3:
        return f"{short(values.mean())} ({len(values)})"
    return sampling.in_prose(values)


def differences(rows, scores, given, methods):
    """Return the table of how far GERNE is above others of its regime."""
    lines = [
        "| GERNE less | " + " | ".join((*BLOCKS, "all")) + " |",
        "| --- |" + " ---: |" * (len(BLOCKS) + 1),
    ]
    for method in methods:
        cells = []
        for block in (*BLOCKS, None):
            wanted = [n for n in NAMES if block in (None, block_of(n))]
            names = _often_enough(scores.loc[given, method], wanted)
            values = less(scores, (given, GERNE), (given, method), names)
            cell = told(sampling_of(rows, block or FACES), values)
            if len(names) < len(wanted):
                cell += f", {len(names)} of {len(wanted)} problems"
            cells.append(cell)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences_by_problem(rows, scores, given, methods):
    """Return the table of how far GERNE is above others, a line per problem."""
    lines = [
        f"| GERNE less | {' | '.join(methods)} |",
        "| --- |" + " ---: |" * len(methods),
    ]
    for problem in NAMES:
        sampling = sampling_of(rows, block_of(problem))
        cells = [
            told(sampling, less(scores, (given, GERNE), (given, method), [problem]))
            for method in methods
        ]
        lines.append(f"| {problem} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _often_enough(own, names):
    """Return the problems that a method has three splits of, or all it has."""
    n = own.groupby("problem").count().reindex(names).dropna()
    return [*(n[n >= 3] if (n >= 3).any() else n).index]
