"""Numbers that README and documentation quote are those of the rows."""

import csv
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from skdebias import ERMClassifier, JTTClassifier, LfFClassifier
from skdebias.datasets import make_spurious_classification
from skdebias.metrics import worst_group_accuracy_score

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples" / "reproduce"
NAMES = (
    "_runner",
    "_intervals",
    "_methods",
    "_embeddings",
    "coupling",
    "demo_seeds",
    "image_embeddings",
    "text_embeddings",
    "ugc_page",
    "ule_mnist",
    "ule_page",
    "untouched_blind",
    "untouched_defaults",
)


@pytest.fixture(scope="module")
def facts():
    """Numbers of the pages, "page.field" -> text, as the scripts compute them."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(SCRIPTS))
    try:
        modules = {name: importlib.import_module(name) for name in NAMES}
        found = {}
        for name in NAMES:
            if hasattr(modules[name], "facts"):
                file = SCRIPTS / "rows" / f"{name}.csv"
                given = [modules["_runner"].read(file)] if file.exists() else []
                own = modules[name].facts(*given)  # of one file, or of several
                found |= {f"{name}.{field}": str(text) for field, text in own.items()}
        return found
    finally:
        sys.path[:] = path
        own = {p.stem for folder in (SCRIPTS, SCRIPTS.parent) for p in folder.iterdir()}
        for name in own & (set(sys.modules) - before):
            del sys.modules[name]


# File, quoted text with fields, as often as it is quoted. White space is any.
QUOTES = [
    # What untouched defaults do, by what is known.
    (
        "docs/methods.rst",
        ":class:`GERNEClassifier` - {untouched_defaults.both_gerne} - "
        "{untouched_defaults.training_gerne} - "
        "{untouched_defaults.validation_gerne} - "
        "{untouched_defaults.none_gerne}",
    ),
    (
        "docs/methods.rst",
        ":class:`DFRClassifier` - {untouched_defaults.both_dfr} - - - "
        "{untouched_defaults.validation_dfr} - -",
    ),
    (
        "docs/methods.rst",
        ":class:`GroupDROClassifier` - {untouched_defaults.both_groupdro}"
        " - {untouched_defaults.training_groupdro} - "
        "{untouched_defaults.validation_groupdro} - -",
    ),
    (
        "docs/methods.rst",
        ':class:`ERMClassifier`, ``balance="group"`` - '
        "{untouched_defaults.both_ermgroupbalanced} - "
        "{untouched_defaults.training_ermgroupbalanced} - "
        "{untouched_defaults.validation_ermgroupbalanced} - -",
    ),
    (
        "docs/methods.rst",
        ':class:`ERMClassifier`, ``balance="class"`` - '
        "{untouched_defaults.both_ermclassbalanced} - "
        "{untouched_defaults.training_ermclassbalanced} - - - "
        "{untouched_defaults.none_ermclassbalanced}",
    ),
    (
        "docs/methods.rst",
        ":class:`GERNEClassifier` with ``pseudo_attributes=`` "
        ":class:`~skdebias.attributes.SSAPseudoAttributes` - - - - - "
        "{untouched_defaults.validation_gernessa} - -",
    ),
    (
        "docs/methods.rst",
        ":class:`GERNEClassifier` with ``pseudo_attributes=`` "
        ":class:`~skdebias.attributes.XRMPseudoAttributes` - - - - - - - "
        "{untouched_defaults.none_gernexrm}",
    ),
    (
        "docs/methods.rst",
        ":class:`UGCClassifier` - - - - - - - {untouched_defaults.none_ugc}",
    ),
    (
        "docs/methods.rst",
        ":class:`JTTClassifier` - - - - - - - {untouched_defaults.none_jtt}",
    ),
    (
        "docs/methods.rst",
        ":class:`LfFClassifier` - - - - - - - {untouched_defaults.none_lff}",
    ),
    (
        "docs/methods.rst",
        ":class:`AFRClassifier` - - - - - - - {untouched_defaults.none_afr}",
    ),
    (
        "docs/methods.rst",
        ":class:`ULEClassifier` - - - - - - - {untouched_defaults.none_ule}",
    ),
    (
        "docs/methods.rst",
        ":class:`ERMClassifier` - - - - - - - {untouched_defaults.none_erm}",
    ),
    (
        "docs/methods.rst",
        "validation rows, has {untouched_defaults.both_logisticregressiontuned} where",
    ),
    # End of untouched defaults.
    (
        "README.md",
        "adds {demo_seeds.tuned_mean} on average if validation rows choose, and "
        "{demo_seeds.folds_mean} if folds",
    ),
    (
        "docs/methods.rst",
        ":class:`UGCClassifier` - {untouched_blind.ugc_worst} "
        "({untouched_blind.ugc_worst_lowest}) - {untouched_blind.ugc_average} "
        "({untouched_blind.ugc_average_lowest})",
    ),
    (
        "docs/methods.rst",
        ":class:`JTTClassifier` - {untouched_blind.jtt_worst} "
        "({untouched_blind.jtt_worst_lowest}) - {untouched_blind.jtt_average} "
        "({untouched_blind.jtt_average_lowest})",
    ),
    (
        "docs/methods.rst",
        ":class:`GERNEClassifier`, unknown attributes - {untouched_blind.gerne_worst} "
        "({untouched_blind.gerne_worst_lowest}) - {untouched_blind.gerne_average} "
        "({untouched_blind.gerne_average_lowest})",
    ),
    (
        "docs/methods.rst",
        ":class:`LfFClassifier` - {untouched_blind.lff_worst} "
        "({untouched_blind.lff_worst_lowest}) - {untouched_blind.lff_average} "
        "({untouched_blind.lff_average_lowest})",
    ),
    (
        "docs/methods.rst",
        ":class:`AFRClassifier` - {untouched_blind.afr_worst} "
        "({untouched_blind.afr_worst_lowest}) - {untouched_blind.afr_average} "
        "({untouched_blind.afr_average_lowest})",
    ),
    (
        "docs/methods.rst",
        ":class:`ULEClassifier` - {untouched_blind.ule_worst} "
        "({untouched_blind.ule_worst_lowest}) - {untouched_blind.ule_average} "
        "({untouched_blind.ule_average_lowest})",
    ),
    (
        "docs/methods.rst",
        ":class:`ERMClassifier` - {untouched_blind.erm_worst} "
        "({untouched_blind.erm_worst_lowest}) - {untouched_blind.erm_average} "
        "({untouched_blind.erm_average_lowest})",
    ),
    (
        "docs/methods.rst",
        "lost up to {untouched_blind.lost_worst} in worst-group and "
        "{untouched_blind.lost_average} in average accuracy",
    ),
    (
        "docs/methods.rst",
        "GERNE's gain in worst-group accuracy, the highest, is "
        "{image_embeddings.gerne_balanced_mean} with a 95 % interval of "
        "{image_embeddings.gerne_balanced_range}.",
    ),
    (
        "docs/methods.rst",
        "UGC is {image_embeddings.ugc_faces} above ERM there and "
        "{image_embeddings.ugc_faces_balanced} above class-balanced ERM",
    ),
    (
        "docs/user_guide/gerne.rst",
        "its worst group is {image_embeddings.gerne_balanced_mean} above that of "
        "group-balanced ERM, with a 95 % interval over five overlapping splits of "
        "{image_embeddings.gerne_balanced_range}; on restaurant reviews "
        "(:doc:`/results/text`) {text_embeddings.gerne_balanced}:",
    ),
    (
        "docs/user_guide/gerne.rst",
        "lose up to {coupling.lost} points of worst-group accuracy",
    ),
    (
        "docs/user_guide/ule.rst",
        "has {text_embeddings.ule_balanced} more worst-group accuracy than "
        "class-balanced ERM without attributes, and "
        "{text_embeddings.ule_balanced_validation} with attributes in validation",
    ),
    (
        "docs/user_guide/ule.rst",
        "{ule_page.loss_balanced_mean} points over class-balanced ERM, with a 95 % "
        "interval of {ule_page.loss_balanced_range} over",
    ),
    (
        "docs/user_guide/ule.rst",
        "test accuracy is {ule_mnist.code} % without the code and "
        "{ule_mnist.code_wrong} with a wrong one, against {ule_mnist.code_erm} and "
        "{ule_mnist.code_wrong_erm} for plain training",
    ),
    (
        "docs/user_guide/ule.rst",
        "partly unlearned: {ule_mnist.grey} % accuracy on grey digits, against "
        "{ule_mnist.grey_erm} for plain training.",
    ),
    (
        "docs/user_guide/ule.rst",
        "digits without any cue have {ule_mnist.plain_one} at that setting, and "
        "{ule_mnist.plain_erm} by plain training",
    ),
    (
        "skdebias/_dfr.py",
        "the worst group has {image_embeddings.dfr} with a free intercept and "
        "{image_embeddings.dfr_penalised} with a penalised one if training rows are "
        "fitted, {image_embeddings.dfr_val} and {image_embeddings.dfr_val_penalised}",
    ),
]


def _with_parts(facts):
    """Add the mean and the interval of every "mean (low to high)"."""
    parts = {}
    for field, text in facts.items():
        found = re.fullmatch(r"(\S+) \((\S+ to \S+)\)", text)
        if found:
            parts |= {f"{field}_mean": found[1], f"{field}_range": found[2]}
    return facts | parts


# Decimals in the prose of the scripts that are no fields: settings, numbers of papers,
# and what is said to have no rows.
WRITTEN_OUT = {
    "ccifar10": "0.5 0.5 1.1",
    "cmnist": "0.5 0.5",
    "coupling": "0.5",
    "finetune_cmnist": "0.5",
    "ugc_ablations": "0.75",
    "ugc_page": "99.6 0.1 0.75 0.1 .5 .5 0.1 .014",
    "ule_mnist": "0.02 0.2 0.6 0.05 0.3 96.6 94.5 0.01 0.04",
    "ule_page": ".2 .4 .6 .8 .9 .4 .6 .8 .9 .01 .3 .01 0.67 85.3 .8 .5 .8 3.9 5.5 5.6 "
    "4.2",
    "untouched_defaults": ".003 .01",
}


@pytest.mark.parametrize(
    "script", sorted(SCRIPTS.glob("[a-z]*.py")), ids=lambda p: p.stem
)
def test_decimals_of_the_prose_are_fields(script):
    """A score that is typed in does not follow its rows."""
    text = script.read_text(encoding="utf-8")
    found = []
    for prose in re.findall(r'^[A-Z]+ = """\n(.*?)^"""', text, re.S | re.M):
        kept = re.sub(r"\{[^}]*\}|`[^`]*`|^    .*$|^\|.*$", "", prose, flags=re.M)
        found += re.findall(r"(?<![\w.])\d*\.\d+(?![\w.]*\d)", kept)
    assert found == WRITTEN_OUT.get(script.stem, "").split()


def test_generated_data_of_the_table_of_methods():
    """`docs/methods.rst`: a ranking on generated data that other data turn round."""
    text = " ".join((ROOT / "docs" / "methods.rst").read_text("utf-8").split())
    found = re.search(
        r"where ERM has (\S+), this JTT has (\S+) and this LfF (\S+), the means",
        text,
    )
    strengths = {"core_strength": 1.5, "spurious_strength": 2.0}
    heads = (
        ERMClassifier(),
        JTTClassifier(20, 5, balance=None),
        LfFClassifier(balance=None, biased_weight_decay=None),
    )
    for quoted, head in zip(found.groups(), heads):
        scores = []
        for seed in range(2):
            train = make_spurious_classification(
                3000, random_state=seed, return_X_y=False, **strengths
            )
            scaler = StandardScaler().fit(train.X)
            X, y, attributes = make_spurious_classification(
                2000,
                correlation=0.5,
                directions=train.directions,
                random_state=seed + 1,
            )
            head = clone(head).set_params(random_state=0)
            head.fit(scaler.transform(train.X), train.y)
            predicted = head.predict(scaler.transform(X))
            scores.append(
                worst_group_accuracy_score(y, predicted, attributes=attributes)
            )
        # Rounding differs between processors, and a test group has 500 rows.
        assert float(quoted) == pytest.approx(np.mean(scores), abs=0.02)


@pytest.mark.parametrize(("file", "quote"), QUOTES)
def test_quoted_numbers_are_those_of_the_rows(facts, file, quote):
    known = _with_parts(facts)
    told = re.sub(r"\{([\w.]+)\}", lambda field: known[field[1]], quote)
    text = " ".join((ROOT / file).read_text(encoding="utf-8").split())
    assert " ".join(told.split()) in text


def test_the_table_of_the_readme_is_that_of_the_demo_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "results" / "demo.md").read_text(encoding="utf-8")
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\| (ERM|GERNE)", line)
    ]
    assert len(lines) == 5
    for method, worst, balanced, gain in lines:
        quoted = [
            method.replace("c=1 ", "c=1, "),
            worst,
            balanced.partition(" ")[0],
            gain,
        ]
        told = " | ".join(cell.replace("0.", ".") for cell in quoted[1:]).strip()
        assert f"| {quoted[0]} | {told} |" in text


def test_the_excerpt_of_the_readme_is_the_first_seed_of_the_rows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    with (SCRIPTS / "rows" / "demo_seeds.csv").open(newline="") as file:
        values = {
            (row["method"], row["metric"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["seed"] == "0"
        }
    metrics = ("average", "group_balanced", "worst_group")
    lines = re.findall(r"\n  ((?:ERM|GERNE)[^%]*?)  +(\S+%.*)", text)
    assert len(lines) == 5
    for method, shares in lines:
        quoted = [float(share) for share in re.findall(r"([\d.]+)% \[", shares)]
        assert quoted == [round(100 * values[method, metric], 1) for metric in metrics]


# What the texts say of chance: these gains are none that the splits could show, ...
HOLD_ZERO = (
    "demo_seeds.tuned",
    "demo_seeds.folds",
    "image_embeddings.gerne_balanced",
    "image_embeddings.dro_balanced",
    "image_embeddings.dfr_balanced",
    "image_embeddings.gerne_dro",
    "image_embeddings.gerne_dfr",
    "image_embeddings.dfr_gain",
    "image_embeddings.dfr_val_gain",
    "image_embeddings.ugc_faces",
    "image_embeddings.ugc_faces_balanced",
    "image_embeddings.ugc_bar",
    "coupling.gain",
    "ugc_page.bar",
    "ugc_page.faces_balanced",
    "ule_page.paper_linear",
    "ule_page.paper_mlp",
    "ule_page.loss_erm",
    "ule_page.loss_balanced",
    "ule_page.bar_erm",
    "ule_page.orthogonal",
    "ule_page.strong",
)
# ... and these are.
MISS_ZERO = (
    "demo_seeds.balance",
    "image_embeddings.clusters_balanced",
    "image_embeddings.ugc_bar_balanced",
    "text_embeddings.ule_balanced",
    "ugc_page.cebab_balanced",
    "ugc_page.sentiment_balanced",
    "ule_page.bar_balanced",
)


@pytest.mark.parametrize(
    ("field", "holds"),
    [*((f, True) for f in HOLD_ZERO), *((f, False) for f in MISS_ZERO)],
)
def test_an_interval_holds_zero_where_the_text_says_so(facts, field, holds):
    low, high = re.search(r"\((\S+) to (\S+)\)", facts[field]).groups()
    assert (float(low) <= 0 <= float(high)) == holds


def test_no_untouched_default_without_attributes_does_harm():
    """No problem where it loses .02 in both scores to class-balanced ERM."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import _runner
        import untouched_blind as script

        above = script.against_baseline(_runner.read(script.OUT))
    finally:
        sys.path.remove(str(SCRIPTS))
    assert set(above.loc["JTT"].index) == set(script.PROBLEMS)
    lost = above[(above["worst"] < -0.02) & (above["average"] < -0.02)]
    assert not len(lost), lost
