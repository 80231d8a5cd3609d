"""Bounded search for models that are too large to prove; see docs/solver.md."""

from autoshard.search.large._messages import estimated_bytes as estimated_bytes
from autoshard.search.large._search import LargeAnswer as LargeAnswer
from autoshard.search.large._search import LargeSearch as LargeSearch
