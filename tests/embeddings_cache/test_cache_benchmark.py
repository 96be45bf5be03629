"""The benchmark of the cache prints its tables, on a few items."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "cache.py"
TINY = ["--images", "3", "--rows", "500", "--features", "8", "--repeats", "1"]


@pytest.fixture(scope="module")
def output():
    pytest.importorskip("timm")
    options = [*TINY, "--tables", "1", "3", "4", "--network", "test_vit"]
    run = subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_table_is_printed(output):
    assert re.findall(r"^## (\d)\. ", output, flags=re.MULTILINE) == list("134")
    for section in output.split("\n## ")[1:]:
        assert "| target |" in section


def test_rows_have_the_cells_of_their_head(output):
    for block in re.findall(r"(?:^\|.*\n)+", output, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_all_ways_give_the_same_embeddings(output):
    section = output.split("\n## ")[1]
    cosines = re.findall(r"\| (0\.\d{6}|1\.0{6}) \|", section)
    assert len(cosines) == 5
    assert min(map(float, cosines)) > 0.999
