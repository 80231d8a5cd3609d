"""The words in which reports name software, networks, devices and recomputation."""

import re
from collections.abc import Mapping
from typing import Any

from .._constants import Stack, stack
from .._hardware import Device, load_catalog
from .._parallel import Recompute
from ..errors import CostModelError

# Words of a report -> software stack; the first that occurs decides.
_STACK_WORDS = (
    ("llm-foundry", "llm-foundry"),
    ("mosaic", "llm-foundry"),
    ("torchtitan", "torchtitan"),
    ("alpa", "alpa"),
    ("maxtext", "maxtext"),
    ("tpu-recipes", "maxtext"),
    ("trillium", "maxtext"),
    ("ironwood", "maxtext"),
    ("jax-toolbox", "pax"),
    ("palm", "pax"),
    ("megatron-bridge", "megatron-bridge"),
    ("nemo", "megatron-bridge"),
    ("megascale", "megatron-bridge"),
    ("deepspeed", "megatron-deepspeed"),
    ("bigscience", "megatron-deepspeed"),
    ("mtnlg", "megatron-deepspeed"),
    ("mt-nlg", "megatron-deepspeed"),
    ("vtrain", "megatron-deepspeed"),
    ("korthikanti", "megatron"),
    ("narayanan", "megatron"),
    ("megatron", "megatron"),
)


def network_bytes_per_s(text: str | None, devices_per_node: int) -> float | None:
    """One device's share of the node's cards, from a report's words.

    Args:
        text: e.g. "4xHDR200", "1600 Gb/s/node RoCE", "RDMA 400Gb/s/GPU".
        devices_per_node: devices of a node.

    Returns:
        Bytes/s, one direction, or None where the words name no rate.
    """
    if not text:
        return None
    per_device = re.search(r"([\d.]+)\s*Gb/s\s*(?:/|per )\s*(?:GPU|device)", text, re.I)
    if per_device:
        return float(per_device[1]) / 8 * 1e9
    per_node = re.search(r"(?:(\d+)\s*x\s*)?([\d.]+)\s*Gb(?:/s|ps|it/s)", text, re.I)
    if per_node:
        return int(per_node[1] or 1) * float(per_node[2]) / 8 * 1e9 / devices_per_node
    cards = re.search(
        r"(\d+)\s*x\s*(?:(HDR|NDR|EDR|XDR)\s*(\d*)|Omni-Path\s*(\d+)|OPA\s*(\d+))", text, re.I
    )
    if cards:
        default = {"hdr": "200", "ndr": "400", "edr": "100", "xdr": "800"}
        rate = cards[3] or cards[4] or cards[5] or default.get((cards[2] or "").lower(), "100")
        return int(cards[1]) * float(rate) / 8 * 1e9 / devices_per_node
    return None


def devices_per_card(text: str | None, devices_per_node: int) -> int:
    """Devices that share one network card, from a report's words.

    Args:
        text: e.g. "4xHDR200", "8x HDR200 IB".
        devices_per_node: devices of a node.

    Returns:
        At least 1; 1 where the words count no cards.
    """
    cards = re.search(r"(\d+)\s*x\s*(?:HDR|NDR|EDR|XDR|Omni-Path|OPA)", text or "", re.I)
    return max(1, devices_per_node // max(1, int(cards[1]))) if cards else 1


def device_of(name: str) -> Device:
    catalog = load_catalog()
    text = name.lower()
    for candidate in (text, text.split(" ")[0]):
        try:
            return catalog[candidate]
        except CostModelError:
            continue
    # Free words: the longest catalog name that occurs in them.
    known = {**{n: n for n in catalog.devices}, **catalog.aliases}
    squeezed = re.sub(r"[^a-z0-9]", "", text)
    hits = [n for n in known if re.sub(r"[^a-z0-9]", "", n) in squeezed]
    if hits:
        return catalog[max(hits, key=len)]
    return catalog[name]


def recompute_of(row: Mapping[str, Any]) -> Recompute:
    text = str(row.get("recompute") or "").lower()
    group = row["group"]
    if "full" in text or "remat" in text or text == "recompute":
        return "full"
    if "selective" in text or "minimal" in text:
        return "selective"
    # What the JAX recipes call custom keeps, mostly on the host, the layer's input and queries,
    # keys and values.
    if any(word in text for word in ("custom", "offload", "qkv")):
        return "save_qkv"
    return "full" if group.startswith("alpa") else "none"


def stack_of(row: Mapping[str, Any], device: Device) -> Stack:
    """Software stack that a report's words name; else what is usual on the hardware."""
    source = row.get("source") or {}
    words = " ".join(
        str(part).lower()
        for part in (row["group"], source.get("title"), source.get("repo"), row.get("schedule"))
    )
    scheduled = str(row.get("schedule") or "").lower()
    for word, name in _STACK_WORDS:
        # A report that compares systems names the one of a row in its schedule.
        if scheduled in ("deepspeed", "megatron") and word != scheduled:
            continue
        if word in words:
            return stack(name)
    return stack("maxtext" if device.kind == "tpu" else "generic")
