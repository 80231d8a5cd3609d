"""What the documentation shows runs.

Each page's ```python blocks run in order, as one program, in a fresh interpreter and an empty
folder, the way a reader would paste them. A block that cannot run is fenced ```py instead. Examples
in docstrings run as doctests.
"""

import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoshard

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def program(page: str) -> str:
    """The page's python blocks, each on its own lines, so that errors point into the page."""
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


def modules_with_examples() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(autoshard.__path__, "autoshard.")]
    return [name for name in names if ">>> " in source(name)]


def source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text(encoding="utf-8"))], ids=lambda p: p.name
)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    code = program(page.read_text(encoding="utf-8"))
    # The file name in the traceback is the page's, and so are the line numbers.
    run = f"exec(compile({code!r}, {str(page)!r}, 'exec'))"
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_program_keeps_line_numbers() -> None:
    page = "text\n\n```python\nx = 1\n```\n\n```py\nnot run\n```\n\n```python\nassert x == 2\n```\n"
    code = program(page)
    assert code.splitlines()[3] == "x = 1"
    assert code.splitlines()[11] == "assert x == 2"
    assert "not run" not in code


@pytest.mark.parametrize("module", modules_with_examples())
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0, f"{module} shows examples outside docstrings"
    assert result.failed == 0
