"""Command line of the fit; see `_ship`."""

import argparse
import sys
from pathlib import Path

from ..errors import CostModelError
from ._files import read_rows, read_runs, read_single_node
from ._ship import write_constants


def main(arguments: list[str] | None = None) -> int:
    """Fit the constants on the given files and write them."""
    parser = argparse.ArgumentParser(prog="python -m autoshard.cost_model.fit", description=__doc__)
    parser.add_argument("runs", type=Path, help="published runs, JSON or JSON.gz")
    parser.add_argument("single", type=Path, nargs="?", help="vTrain single-node table, CSV[.gz]")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.runs)
        if options.single:
            rows = [*rows, *read_single_node(options.single)]
        runs, left_out = read_runs(rows)
        document = write_constants(runs, options.out)
    except CostModelError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"{document['provenance']['runs']} runs of {len(document['fitted_on'])} groups, "
        f"{len(left_out)} rows left out -> {options.out}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
