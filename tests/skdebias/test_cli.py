"""Tests of the ``skdebias`` command: what every subcommand shares."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import skdebias
from skdebias import export
from skdebias.cli import main
from skdebias.datasets import make_spurious_classification

_HEAVY = ("torch", "sklearn", "scipy", "pandas", "timm", "matplotlib")

_PROGRAM = """
import sys
from skdebias.cli import main
try:
    main(sys.argv[1:])
finally:
    loaded = [name for name in {heavy!r} if name in sys.modules]
    print("loaded:", loaded)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["demo", "-h"], ["fit", "-h"]]
)
def test_help_and_version_load_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(heavy=_HEAVY), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_the_check_for_heavy_modules_sees_one():
    # The test above would pass for ever if its program looked in the wrong place.
    program = "import sklearn\n" + _PROGRAM.format(heavy=_HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'sklearn'" in done.stdout.splitlines()[-1]


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"skdebias {skdebias.__version__}\n"


def test_help_lists_the_demo(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "demo" in capsys.readouterr().out


def test_no_command_prints_help_and_fails(capsys):
    assert main([]) == 2
    assert "usage: skdebias" in capsys.readouterr().out


def test_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["dmeo"])
    assert "dmeo" in capsys.readouterr().err


@pytest.fixture
def files(tmp_path):
    """Embeddings and their table: the attribute is the stronger signal in train."""
    train = make_spurious_classification(600, random_state=0, return_X_y=False)
    test = make_spurious_classification(
        400,
        correlation=0.5,
        directions=train.directions,
        random_state=1,
        return_X_y=False,
    )
    np.save(tmp_path / "X.npy", np.concatenate([train.X, test.X]))
    table = pd.DataFrame(
        {
            "img_filename": [f"{row}.jpg" for row in range(1000)],
            "y": np.concatenate([train.y, test.y]),
            "place": np.concatenate([train.attributes, test.attributes]),
            "split": np.repeat([0, 2], [600, 400]),
        }
    )
    table.to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path


def _worst(files, capsys, *method):
    rows = [str(files / "X.npy"), str(files / "metadata.csv")]
    head = str(files / "head.safetensors")
    assert main(["fit", *rows, "--out", head, *method]) == 0
    assert "600 rows" in capsys.readouterr().out
    table = str(files / "groups.csv")
    assert main(["report", head, *rows, "--out", table]) == 0
    worst = pd.read_csv(table)["accuracy"].min()
    assert f"worst_group_accuracy      {worst:6.1%}" in capsys.readouterr().out
    return worst


def test_fit_and_report_every_method(files, capsys):
    worst = {
        method: _worst(files, capsys, "--method", method)
        for method in ("erm", "erm-balanced", "gerne")
    }
    assert worst["erm"] < 0.5
    assert min(worst["erm-balanced"], worst["gerne"]) > worst["erm"] + 0.2


def test_fit_passes_beta_and_c_on(files, capsys):
    # beta = -1 is class-balanced training, which follows the attribute again.
    assert _worst(files, capsys, "--beta", "-1") < 0.5
    head = export.load(files / "head.safetensors")[-1]
    assert (head.beta, head.c) == (-1.0, 0.5)


def test_fit_reads_npz(files, capsys):
    X = np.load(files / "X.npy")
    plain = _worst(files, capsys)
    np.savez(files / "X.npz", other=X[:3], X=X)
    (files / "X.npy").unlink()
    (files / "X.npz").rename(files / "X.npy")
    assert _worst(files, capsys) == plain


_BREAK = {
    "no such file": (lambda f: (f / "X.npy").unlink(), "not a readable array"),
    "not an array": (lambda f: (f / "X.npy").write_text("1 2"), "not a readable array"),
    "pickled": (
        lambda f: np.save(f / "X.npy", np.array([{}, {}]), allow_pickle=True),
        "not a readable array",
    ),
    "one column": (lambda f: np.save(f / "X.npy", np.zeros(1000)), "shape (1000,)"),
    "too few rows": (
        lambda f: np.save(f / "X.npy", np.zeros((9, 2))),
        "has 9 rows and",
    ),
    "no table": (lambda f: (f / "metadata.csv").unlink(), "there is no file"),
    "no attribute": (
        lambda f: (
            pd.read_csv(f / "metadata.csv")
            .drop(columns="place")
            .to_csv(f / "metadata.csv")
        ),
        "--attribute-column NAME",
    ),
    "NaN": (lambda f: np.save(f / "X.npy", np.r_[[[np.nan]], np.eye(999, 1)]), "NaN"),
}


@pytest.mark.parametrize("name", _BREAK)
def test_fit_names_what_cannot_be_used(files, capsys, name):
    damage, message = _BREAK[name]
    damage(files)
    rows = [str(files / "X.npy"), str(files / "metadata.csv")]
    assert main(["fit", *rows, "--out", str(files / "head.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert not (files / "head.safetensors").exists()


def test_fit_names_beta_and_its_bound(files, capsys):
    rows = [str(files / "X.npy"), str(files / "metadata.csv")]
    more = ["--out", str(files / "head.safetensors"), "--beta", "50"]
    assert main(["fit", *rows, *more]) == 2
    error = capsys.readouterr().err
    assert "beta=50" in error
    assert "c=0.5" in error


def test_a_warning_is_one_line(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "X.npy", rng.normal(size=(30, 4)).astype(np.float32))
    rare = np.repeat([0, 1], [28, 2])
    table = {"img_filename": rare, "y": np.arange(30) % 2, "place": rare, "split": 0}
    pd.DataFrame(table).to_csv(tmp_path / "metadata.csv", index=False)
    command = ["fit", tmp_path / "X.npy", tmp_path / "metadata.csv", "--out",
               tmp_path / "head.safetensors"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "skdebias.cli", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("skdebias: warning: attributes forms 2 of 4 groups")


def test_report_refuses_a_file_that_is_no_head(files, capsys):
    (files / "head.safetensors").write_text("no head")
    arguments = [files / "head.safetensors", files / "X.npy", files / "metadata.csv"]
    assert main(["report", *map(str, arguments)]) == 2
    assert "is not a file that skdebias wrote" in capsys.readouterr().err


def test_report_of_a_split_without_rows(files, capsys):
    _worst(files, capsys)
    arguments = [files / "head.safetensors", files / "X.npy", files / "metadata.csv"]
    assert main(["report", *map(str, arguments), "--split", "val"]) == 2
    assert "no row has split 'val'" in capsys.readouterr().err
