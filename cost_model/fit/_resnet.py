"""Out-of-memory runs of Wide-ResNet, of which reports give parameters and depth only.

Convolutional rows have no dimensions to price a step with. Their memory has a lower bound all the
same: the state that the plan leaves on a device, and, where nothing is sharded inside an operator,
the state of the largest convolution.
"""

from collections.abc import Mapping
from typing import Any

from .._hardware import load_catalog
from .._memory import BUDGET

# float32 weights, gradients and two moments.
STATE_BYTES = 16.0
# Bottleneck blocks per group (He et al. 2016, table 1), and Alpa's width factors by size.
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_WIDE_FROM = 5e9


def largest_convolution_share(layers: int, width: float) -> float:
    """Share of all parameters that the largest convolution holds.

    In group g the inner width is w p 2^g: the 3 x 3 convolution has 9 (w p 2^g)^2 weights and the
    two 1 x 1 convolutions 2 x 4 w (p 2^g)^2 (Zagoruyko and Komodakis, arXiv:1605.07146).

    Args:
        layers: 50 or 101.
        width: the width factor w.
    """
    inner, outer = 9.0 * width * width, 8.0 * width
    total = sum(count * 4.0**group * (inner + outer) for group, count in enumerate(_BLOCKS[layers]))
    return 4.0**3 * inner / total


def lower_bound(row: Mapping[str, Any]) -> tuple[float, str]:
    """Least bytes per device of a Wide-ResNet row, and how they come about."""
    parameters = float(row["model"]["params"])
    devices = row["n_devices"]
    zero = row["parallel"].get("zero")
    schedule = str(row.get("schedule"))
    if "data_parallel" in schedule:
        return STATE_BYTES * parameters, "every device holds the whole state"
    if zero in (2, 3):
        weights = 4.0 if zero == 2 else 4.0 / devices
        return parameters * (weights + 12.0 / devices), f"state under ZeRO-{zero}"
    if "ppdp" in schedule or "inter_only" in schedule:
        layers = 101 if row["model"].get("layers") == 101 else 50
        share = largest_convolution_share(layers, 16.0 if parameters > _WIDE_FROM else 2.0)
        return STATE_BYTES * parameters * share, "no operator is split: the largest convolution"
    return STATE_BYTES * parameters / devices, "state, fully sharded"


def _is_judged(row: Mapping[str, Any]) -> bool:
    """Whether a row is an out-of-memory Wide-ResNet with the fields that its bound needs."""
    try:
        name = str(row["model"].get("name", ""))
        known = row["model"]["params"] and row["n_devices"] and row["group"] and row["id"]
        return bool(row["measured"].get("oom") and known and name.startswith("WideResNet"))
    except (KeyError, TypeError, AttributeError):
        return False


def convolution_oom(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Judge the out-of-memory rows of convolutional networks.

    Args:
        rows: rows of the published-runs schema.

    Returns:
        Per row: group, id, whether it is predicted to fit, and why.
    """
    out: list[dict[str, Any]] = []
    for row in rows:
        if not _is_judged(row):
            continue
        needed, why = lower_bound(row)
        capacity = load_catalog()["v100-16"].hbm_bytes
        out.append(
            {
                "group": row["group"],
                "id": row["id"],
                "fits": needed <= BUDGET * capacity,
                "reason": f"{needed / 1e9:.1f} of {capacity / 1e9:.1f} GB without activations, "
                f"whose shapes are not reported: {why}",
            }
        )
    return out
