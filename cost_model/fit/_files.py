"""Read files of published runs, plain or compressed."""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._constants import prior_constants
from ..errors import CostModelError, InvalidFieldError
from ._rows import Run, read_run


def _text(path: Path) -> str:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes()).decode("utf-8")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFieldError("runs", str(path), "a readable file", str(error) + ".") from error


def read_rows(path: str | Path) -> list[Mapping[str, Any]]:
    """Rows of a file in the published-runs schema: an object with "rows", or a bare list.

    Raises:
        InvalidFieldError: the file is unreadable or has another shape.
    """
    try:
        document = json.loads(_text(Path(path)))
    except json.JSONDecodeError as error:
        raise InvalidFieldError("runs", str(path), "JSON", str(error) + ".") from error
    rows = document.get("rows") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise InvalidFieldError("runs", str(path), 'an object {"rows": [...]} or a list')
    return rows


def read_single_node(path: str | Path) -> list[Mapping[str, Any]]:
    """Rows of vTrain's single-node table (MIT licence), in the published-runs schema."""
    rows: list[Mapping[str, Any]] = []
    for index, line in enumerate(csv.DictReader(io.StringIO(_text(Path(path))))):
        n = {key.strip(): float(value) for key, value in line.items()}
        hidden = int(n["hidden size"])
        layers = int(n["# layers"])
        rows.append(
            {
                "id": f"vtrain_single-{index:04d}",
                "group": "vtrain_single",
                "source": {"title": "vTrain (MICRO-57 2024) ground truth, single node"},
                "model": {
                    "name": f"GPT-h{hidden}-L{layers}",
                    "layers": layers,
                    "hidden": hidden,
                    "heads": int(n["attention heads"]),
                    "ffn": 4 * hidden,
                    "gated_ffn": False,
                    "vocab": 50257,
                    "seq": int(n["sequence length"]),
                },
                "hardware": {"accel": "A100-80GB-SXM", "devices_per_node": 8},
                "n_devices": int(n["# GPUs"]),
                "global_batch": int(n["global batch"]),
                "microbatch": int(n["micro batch"]),
                "parallel": {
                    "tp": int(n["tensor parallelism"]),
                    "pp": int(n["pipeline parallelism"]),
                    "dp": int(n["data parallelism"]),
                },
                "schedule": "1f1b",
                "recompute": "full",
                "precision": "fp16",
                "measured": {"step_time_s": n["iteration time (ms)"] / 1e3},
            }
        )
    return rows


def read_runs(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Run], dict[str, str]]:
    """Translate rows; those that cannot be predicted come back with the reason.

    Args:
        rows: rows of the published-runs schema.

    Returns:
        (runs, row id -> why it was left out).
    """
    runs: list[Run] = []
    left_out: dict[str, str] = {}
    for index, row in enumerate(rows):
        try:
            name = str(row.get("id") or f"row {index}")
        except AttributeError:
            left_out[f"row {index}"] = "the row is no object with fields"
            continue
        try:
            run = read_run({"id": name, "group": "unnamed", **row})
            # What cannot be priced, such as a type that the device does not compute in, shows here.
            device = run.topology.device
            run.predict(prior_constants(device.name, device.kind, run.stack.name))
            run.predict_memory(run.stack.memory)
        except CostModelError as error:
            left_out[name] = str(error)
        except KeyError as error:
            left_out[name] = f"the row lacks {error}"
        except (TypeError, AttributeError, ValueError, ArithmeticError) as error:
            left_out[name] = f"a field has another type than the schema's ({error})"
        else:
            runs.append(run)
    return runs, left_out
