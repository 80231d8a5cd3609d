"""The worked numbers of docs/cost-model.md are run, so that the page cannot drift."""

import doctest
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "cost-model.md"


def test_worked_numbers():
    results = doctest.testfile(str(DOCS), module_relative=False)
    assert results.attempted > 30
    assert results.failed == 0
