import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from autoshard.search import Problem, write_iopddl

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "iopddl.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_object_for_all_files(tmp_path):
    draw = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "node_costs": draw.integers(0, 9, (6, 3)).tolist(),
        "usages": [[4, 2, 1]] * 6,
        "intervals": [(t, t + 3) for t in range(6)],
        "edges": [(t, t + 1) for t in range(5)],
        "edge_costs": draw.integers(0, 9, (5, 9)).tolist(),
    }
    write_iopddl(Problem(**fields, usage_limit=7), tmp_path / "fits.json.gz")
    write_iopddl(Problem(**fields, usage_limit=2), tmp_path / "tight.json.gz")
    done = run(tmp_path / "fits.json.gz", tmp_path / "tight.json.gz", "--seconds", 20)
    assert done.returncode == 0, done.stderr
    fits, tight = json.loads(done.stdout)["instances"]
    assert list(fits) == ["file", "cost", "bound", "gap", "seconds", "peak_rss_bytes", "status"]
    assert fits["status"] == "optimal"
    assert isinstance(fits["cost"], int)
    assert (fits["bound"], fits["gap"]) == (fits["cost"], 0)
    assert 0 < fits["seconds"] < 20
    assert fits["peak_rss_bytes"] > 2**20
    assert (tight["status"], tight["cost"], tight["gap"]) == ("infeasible", None, None)


def test_a_file_that_cannot_be_read(tmp_path):
    done = run(tmp_path / "none.json", "--seconds", 5)
    assert done.returncode == 1
    assert json.loads(done.stdout)["instances"][0]["status"] == "error"
    assert "cannot be read" in done.stderr


def test_the_solver_stands_alone():
    code = (
        "import sys, autoshard.search; "
        "print([m for m in sys.modules if m.split('.')[0] in ('jax', 'flax', 'optax') or "
        "m.startswith('autoshard.') and not m.startswith('autoshard.search')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
