"""Compare predicted with published training runs; prints one JSON object.

Without options: the runs carried with the project, each predicted with constants that were
fitted on runs of other model shapes only. With `--runs FILE.json`: that file, with the constants
that ship with the package; nothing is fitted. `--leave group` holds out whole reports, hardware
sites and all: what a report from elsewhere may expect.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from autoshard.cost_model.errors import CostModelError
from autoshard.cost_model.fit import (
    by_group,
    convolution_oom,
    held_out,
    read_rows,
    read_runs,
    read_single_node,
    summarize,
    training_subset,
    with_shipped,
)

DATA = Path(__file__).parent / "data"


def speed() -> dict[str, float]:
    """Milliseconds of one estimate and seconds of a sweep over ten thousand configurations."""
    from autoshard.cost_model import Parallelism, estimate, sweep

    plan = Parallelism(tp=8, pp=4, dp=8, zero=1)
    start = time.perf_counter()
    for _ in range(100):
        estimate("llama3-70b", "h100:32x8", plan, global_batch=1024)
    one = (time.perf_counter() - start) / 100
    start = time.perf_counter()
    tried = 0
    while tried < 10_000:
        tried += sweep("llama3-70b", "h100:32x8", global_batch=1024).tried
    whole = (time.perf_counter() - start) * 10_000 / tried
    return {"estimate_ms": round(1e3 * one, 3), "sweep_of_10000_s": round(whole, 2)}


def reasons(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Why rows could not be predicted -> their ids."""
    out: dict[str, list[str]] = {}
    for name, why in left_out.items():
        out.setdefault(why, []).append(name)
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="published runs to predict blindly (JSON[.gz])")
    parser.add_argument(
        "--leave", choices=("shape", "group"), default="shape", help="what a fold holds out"
    )
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        if options.runs:
            rows = read_rows(options.runs)
        else:
            rows = [
                *read_rows(DATA / "published_runs.json.gz"),
                *read_single_node(DATA / "vtrain_single.csv.gz"),
            ]
        runs, left_out = read_runs(rows)
    except CostModelError as error:
        print(error, file=sys.stderr)
        return 2
    if options.runs:
        predictions = with_shipped(runs)
        from autoshard.cost_model import shipped_constants

        fitted_on = list(shipped_constants().fitted_on)
        protocol = "shipped constants, nothing fitted on this file"
    else:

        def progress(done: int, folds: int) -> None:
            print(f"\rfold {done} of {folds}", end="", file=sys.stderr, flush=True)

        predictions = held_out(runs, leave=options.leave, progress=progress)
        print(file=sys.stderr)
        fitted_on = sorted({run.group for run in training_subset(runs)})
        protocol = {
            "shape": "leave one model shape out, near duplicates held out together",
            "group": "leave one report out, with what is peculiar to its site",
        }[options.leave]
    groups = {name: summarize(part) for name, part in sorted(by_group(predictions).items())}
    everything = summarize(predictions)
    for judged in convolution_oom(list(rows)):
        for oom in (groups.get(judged["group"], everything)["oom"], everything["oom"]):
            oom["published"] += 1
            oom["predicted_oom"] += not judged["fits"]
            if judged["fits"]:
                oom["predicted_to_fit"].append({"id": judged["id"], "reason": judged["reason"]})
    document = {
        "groups": groups,
        "fitted_on": fitted_on,
        "protocol": protocol,
        "all": everything,
        "rows_without_prediction": len(left_out),
        "why": reasons(left_out),
        "speed": speed(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
