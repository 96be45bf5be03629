"""The code in the documentation runs and prints what it says."""

import doctest
from pathlib import Path

import pytest
from sklearn import get_config, set_config

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
    before = get_config()
    try:
        results = doctest.testfile(
            str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
        )
    finally:
        set_config(enable_metadata_routing=before["enable_metadata_routing"])
    assert results.attempted > 0
    assert results.failed == 0
