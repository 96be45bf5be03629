"""Tests of the ``skdebias`` command: what every subcommand shares."""

import subprocess
import sys

import pytest

import skdebias
from skdebias.cli import main

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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"]])
def test_help_and_version_load_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(heavy=_HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
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
        timeout=60,
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
