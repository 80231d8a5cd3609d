"""Fixtures; what tests and their child processes share is in `checkpoint_trees`."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from checkpoint_trees import every_kind


@pytest.fixture(scope="session")
def everything() -> dict[str, Any]:
    return every_kind()
