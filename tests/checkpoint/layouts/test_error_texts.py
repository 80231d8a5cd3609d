"""What people read when a layout or a file is not what it should be."""

import re
from pathlib import Path

import numpy as np
import pytest

from autoshard.checkpoint import TensorInfo
from autoshard.checkpoint.layouts import Known, apply, formats, get_layout, parse
from autoshard.checkpoint.layouts.convert import Request, prepare
from autoshard.errors import AutoshardError

A = np.arange(12, dtype=np.float32).reshape(3, 4)


def imported(kit, rules, arrays, **given):
    source = kit.MemorySource(arrays)
    known = Known(side="foreign", infos=source.tensors(), given=given)
    kit.contents(apply(parse(rules).layout(known), source))


def unnamed(kit, folder):
    sink = formats.SafetensorsSink(folder / "x.safetensors")
    sink.declare("odd", TensorInfo(shape=(3, 4), dtype=A.dtype))
    sink.write("odd", (slice(0, 3), slice(0, 4)), A)
    sink.commit()
    prepare(Request(source=folder / "x.safetensors", target=folder / "o"))


def damaged(kit, folder):
    (folder / "x.safetensors").write_bytes(b"\xff" * 20)
    formats.open_safetensors(folder / "x.safetensors")


def unsafe(kit, folder):
    import pickle
    import zipfile

    with zipfile.ZipFile(folder / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"f": print}, 2))
    formats.open_torch(folder / "x.pt")


def coverage(kit, folder):
    rules = (
        "layout: mine\nrules:\n- {from: 'h.{l:d}.weight', to: 'h_{l}/kernel'}\n- {from: b, to: b}"
    )
    imported(kit, rules, {"h.0.bias": A, "wte": A})


CASES = {
    "a_layout_nobody_knows": lambda kit, folder: get_layout("hf_lama"),
    "a_layout_that_does_not_fit": coverage,
    "an_op_that_does_not_fit": lambda kit, folder: imported(
        kit,
        "layout: mine\nbindings: {heads: 3}\nrules:\n"
        "- {from: w, to: w, ops: [{unflatten: {dim: 1, sizes: [heads, 2]}}]}",
        {"w": A},
    ),
    "an_op_nobody_knows": lambda kit, folder: imported(
        kit, "layout: mine\nrules:\n- {from: w, to: w, ops: [shrad]}", {"w": A}
    ),
    "a_quantity_nothing_tells": lambda kit, folder: imported(
        kit,
        "layout: mine\nbindings: {heads: {config: n_head}}\nrules: [{from: w, to: w}]",
        {"w": A},
    ),
    "two_rules_for_a_tensor": lambda kit, folder: imported(
        kit, "layout: mine\nrules:\n- {from: w, to: w}\n- {match: 'w|v', to: v}", {"w": A}
    ),
    "replicas_that_differ": lambda kit, folder: imported(
        kit,
        "layout: mine\naxes: {tp: 2}\nrules: [{from: 'r{tp:d}', op: replicated, axis: tp, to: w}]",
        {"r0": A, "r1": A + 1},
    ),
    "a_file_of_no_format": lambda kit, folder: prepare(Request(source=folder, target=folder / "o")),
    "names_of_no_layout": unnamed,
    "a_damaged_file": damaged,
    "an_unsafe_pickle": unsafe,
    "a_budget_that_is_too_small": lambda kit, folder: Request(
        source=folder, target=folder / "o", budget_bytes=1
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text(name, kit, golden, tmp_path: Path):
    with pytest.raises(AutoshardError) as info:
        CASES[name](kit, tmp_path)
    text = str(info.value).replace(str(tmp_path), "FOLDER")
    assert len(text.splitlines()) <= 20
    assert re.search(r"^Mend it: \S", text, re.MULTILINE)
    golden(f"errors/layouts/{name}", text)
