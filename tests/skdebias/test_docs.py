"""The code in the documentation runs and prints what it says."""

import doctest
import re
from pathlib import Path

import pytest
from sklearn import get_config, set_config

from skdebias import methods
from tests._instances import ONE_OF_EACH, USING_ATTRIBUTES

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.rst")
    if ">>>" in page.read_text(encoding="utf-8")
    and not {"_build", "generated", "auto_examples"} & set(page.parts)
)


def test_pages_are_found():
    assert "quickstart.rst" in [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page):
    if "Display.from_" in page.read_text(encoding="utf-8"):
        pytest.importorskip("matplotlib").use("agg")
    before = get_config()
    try:
        results = doctest.testfile(
            str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
        )
    finally:
        set_config(enable_metadata_routing=before["enable_metadata_routing"])
    assert results.attempted > 0
    assert results.failed == 0


def _rows_of_the_table():
    """Class -> the second cells of its rows in the table of methods."""
    text = (DOCS / "methods.rst").read_text(encoding="utf-8")
    found = re.findall(r"\* - :class:`(\w+)`[^\n]*\n     - ([^\n]*)", text)
    return {name: [cell for other, cell in found if other == name] for name, _ in found}


def test_the_table_of_methods_has_every_estimator():
    table = _rows_of_the_table()
    assert set(table) == set(ONE_OF_EACH)
    for name, cells in table.items():
        assert any("needed" in cell for cell in cells) == (name in USING_ATTRIBUTES)


@pytest.mark.parametrize("names", [[*ONE_OF_EACH], methods.__all__])
def test_the_reference_has_every_estimator_and_all_of_the_methods(names):
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    assert [name for name in names if f"\n   {name}\n" not in text] == []
