"""Solves IOPDDL contest instances and prints one JSON object.

    python benchmarks/iopddl.py A.json.gz [B.json.gz ...] --seconds 60

For every file: cost (null if no labelling was found), proven lower bound, relative gap, wall-clock
seconds *including reading*, peak resident memory and status. Each file is solved in a process
of its own, one after the other and single-threaded, so that peak memory is the file's own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> int:
    """Runs the benchmark; exit status 0 unless an instance could not be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE.json.gz")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit per file, with reading")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-limit-mib", type=float, default=None)
    parser.add_argument("--verbose", action="store_true", help="progress on standard error")
    parser.add_argument("--answer", type=Path, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer is not None:
        arguments.answer.write_text(json.dumps(solve_file(arguments.files[0], arguments)))
        return 0
    instances = []
    for file in arguments.files:
        instances.append(_in_own_process(file, sys.argv[1:], arguments.files))
    print(json.dumps({"instances": instances}))
    return 0 if all("error" not in i for i in instances) else 1


def _in_own_process(file: str, argv: list[str], files: list[str]) -> dict[str, Any]:
    started_s = time.monotonic()
    flags = [a for a in argv if a not in files]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        # HiGHS prints an occasional remark of its own to standard output: keep it off ours.
        done = subprocess.run(
            [sys.executable, __file__, file, "--answer", str(answer), *flags],
            stdout=sys.stderr,
            check=False,
            env={**os.environ, **threads},
        )
        if done.returncode == 0:
            return json.loads(answer.read_text())
    return {
        "file": file,
        **dict.fromkeys(("cost", "bound", "gap", "peak_rss_bytes")),
        "seconds": round(time.monotonic() - started_s, 3),
        "status": "error",
        "error": f"exit status {done.returncode}",
    }


def solve_file(file: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Reads and solves one file within the limit."""
    started_s = time.monotonic()
    from autoshard.search import Progress, SolverOptions, read_iopddl, solve

    def show(p: Progress) -> None:
        text = f"{p.seconds:8.1f} s  {p.phase:10} cost {p.cost:,.0f}  bound {p.bound:,.0f}"
        print(text, file=sys.stderr, flush=True)

    problem = read_iopddl(file)
    limit = arguments.memory_limit_mib
    options = SolverOptions(
        time_limit_s=max(0.5, arguments.seconds - (time.monotonic() - started_s) - 0.3),
        seed=arguments.seed,
        memory_limit_bytes=None if limit is None else int(limit * 2**20),
        progress=show if arguments.verbose else None,
    )
    solution = solve(problem, options)
    whole = problem.integral and solution.labels is not None
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "file": file,
        "cost": _finite(int(solution.cost) if whole else solution.cost),
        "bound": _finite(solution.bound),
        "gap": _finite(solution.gap),
        "seconds": round(time.monotonic() - started_s, 3),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "status": solution.status,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
