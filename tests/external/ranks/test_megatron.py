"""Checkpoints of models of Megatron-Core, and what those compute."""

from pathlib import Path

import numpy as np
import pytest

from autoshard import models
from autoshard.checkpoint import load
from autoshard.checkpoint.layouts.convert import convert

pytestmark = [pytest.mark.external, pytest.mark.filterwarnings("ignore")]
WRITER = Path(__file__).with_name("megatron_writer.py")
TOKENS = np.arange(24).reshape(2, 12) % 100
SIZES = {"hidden": 32, "heads": 4, "layers": 2}
GIVEN = {"gpt": {"heads": 4}, "llama": {"heads": 4, "kv_heads": 2}}


def logits(kind: str, vocab_size: int, params):
    if kind == "gpt":
        module = models.get("gpt-tiny", **SIZES, vocab_size=vocab_size, max_positions=16).module
    else:
        sizes = {**SIZES, "vocab_size": vocab_size, "kv_heads": 2, "intermediate": 56}
        module = models.get("llama-tiny", **sizes).module
    return module.apply({"params": params}, TOKENS)


@pytest.mark.parametrize(
    ("tensor", "pipeline", "kind"),
    [(1, 1, "gpt"), (2, 1, "gpt"), (1, 1, "llama"), (2, 1, "llama"), (2, 2, "llama")],
)
def test_megatron(tensor, pipeline, kind, run_ranks, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("megatron.core")
    run_ranks(WRITER, tensor * pipeline, tensor, pipeline, kind, tmp_path / "mg")
    layout, given = f"megatron_{kind}", GIVEN[kind]
    source = tmp_path / "mg" / "iter_0000003"
    convert(source, tmp_path / "native", from_layout=layout, given=given)
    found = logits(kind, 128 * tensor, load(tmp_path / "native"))
    wanted = torch.load(tmp_path / "mg" / "logits.pt").numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)

    # Written back for as many ranks, each file has what Megatron wrote.
    ranks = {**given, "tp": tensor, "pp": pipeline}
    convert(tmp_path / "native", tmp_path / "back", to_layout=layout, given=ranks)
    for file in sorted(source.rglob("*.pt")):
        theirs = torch.load(file, weights_only=False)["model"]
        ours = torch.load(tmp_path / "back" / file.relative_to(source))["model"]
        tensors = {name: value for name, value in theirs.items() if torch.is_tensor(value)}
        assert set(ours) == set(tensors)
        for name, value in tensors.items():
            assert torch.equal(value, ours[name]), name
