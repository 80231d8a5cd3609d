"""ZeRO checkpoints that DeepSpeed has written."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshard.checkpoint import load, metadata
from autoshard.checkpoint.layouts.convert import convert

pytestmark = [pytest.mark.external, pytest.mark.filterwarnings("ignore")]
WRITER = Path(__file__).with_name("deepspeed_writer.py")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero(stage, dtype, run_ranks, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    torch = pytest.importorskip("torch")
    pytest.importorskip("deepspeed")
    run_ranks(WRITER, 2, stage, dtype, tmp_path / "ds")
    convert(tmp_path / "ds", tmp_path / "native", from_layout="deepspeed")
    found = load(tmp_path / "native")
    assert metadata(tmp_path / "native").step == 3

    # What DeepSpeed's own program makes of the files.
    program = importlib.import_module("deepspeed.utils.zero_to_fp32")
    theirs = program.get_fp32_state_dict_from_zero_checkpoint(str(tmp_path / "ds"))
    assert set(theirs) - {"shift"} == set(found["fp32"])
    for name, value in found["fp32"].items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, theirs[name].detach().float().numpy())
    np.testing.assert_array_equal(found["buffers"]["shift"], np.arange(3, dtype=np.float32))

    if dtype == "float32":  # the same training in one process
        spec = importlib.util.spec_from_file_location("deepspeed_writer", WRITER)
        assert spec is not None and spec.loader is not None
        writer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(writer)
        torch.manual_seed(0)
        net = writer.Net()
        optimizer = torch.optim.AdamW(writer.groups(net), lr=1e-2)
        for step in range(3):
            optimizer.zero_grad()
            losses: Any = [net(writer.batch(step, rank)) for rank in range(2)]
            torch.stack(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        for name, parameter in net.named_parameters():
            state = {"fp32": parameter.detach(), **optimizer.state[parameter]}
            for kind in ("fp32", "exp_avg", "exp_avg_sq"):
                wanted = state[kind].numpy()
                np.testing.assert_allclose(found[kind][name], wanted, rtol=1e-4, atol=1e-6)
