"""Conversions: whole or not there, bounded, told, and gone on with after a kill."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest

from autoshard import models
from autoshard.checkpoint import TensorInfo, load, open_source, save
from autoshard.checkpoint._io import observed
from autoshard.checkpoint.layouts import Known, apply, formats, get_layout
from autoshard.checkpoint.layouts.convert import Request, convert, prepare, run
from autoshard.cli import main
from autoshard.errors import (
    CheckpointExistsError,
    CheckpointWriteError,
    ConversionError,
    LossyLayoutError,
    UnknownFormatError,
    UsageError,
)

WORKER = Path(__file__).with_name("kill_worker.py")


def write(sink, arrays):
    for name, array in arrays.items():
        sink.declare(name, TensorInfo(shape=array.shape, dtype=array.dtype))
    for name, array in arrays.items():
        sink.write(name, tuple(slice(0, n) for n in array.shape), array)
    sink.commit()


@functools.cache
def gpt2():
    """A model, and parameters of it."""
    spec = models.get("gpt-tiny", vocab_size=64, hidden=32, scan_layers=True)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), spec.param_shapes()
    )
    return spec, params


def hf_gpt2(folder, **sink_options):
    """A GPT-2 in Hugging Face's files, and its tree."""
    spec, params = gpt2()
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    tree = {"/".join(k.key for k in path): leaf for path, leaf in leaves}

    class Tree:
        def tensors(self):
            return {k: TensorInfo(shape=v.shape, dtype=v.dtype) for k, v in tree.items()}

        def read(self, name, index):
            return tree[name][index]

    layout = get_layout("hf_gpt2").layout(Known(side="tree", infos=Tree().tensors()))
    view = apply(layout.inverse(), cast(Any, Tree()))
    whole = {
        name: view.read(name, tuple(slice(0, n) for n in info.shape))
        for name, info in view.tensors().items()
    }
    sink = formats.SafetensorsSink(folder, **sink_options)
    sink.describe({"config": {"model_type": "gpt2", "n_head": 8, "n_embd": 32}})
    write(sink, whole)
    return spec, params, tree


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".safetensors"}


def test_into_a_model_and_back(kit, tmp_path):
    """Imported, loaded into the model's own tree, exported: the files are the same to the byte."""
    _, params, _ = hf_gpt2(tmp_path / "hf", max_shard_bytes=50_000)
    given = {"scan": 1}
    convert(tmp_path / "hf", tmp_path / "native", under="params", given=given)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    loaded = load(tmp_path / "native", {"params": shapes})["params"]
    jax.tree.map(np.testing.assert_array_equal, loaded, params)

    convert(
        tmp_path / "native",
        tmp_path / "again",
        to_layout="hf_gpt2",
        under="params",
        max_shard_bytes=50_000,
    )
    assert files(tmp_path / "again") == files(tmp_path / "hf")
    # The model's configuration has come along.
    config = json.loads((tmp_path / "again/config.json").read_text())
    assert config["model_type"] == "gpt2"


def test_one_digest_on_every_way(kit, tmp_path):
    hf_gpt2(tmp_path / "hf")
    given = {"scan": 1}
    convert(tmp_path / "hf", tmp_path / "a", given=given)
    convert(tmp_path / "a", tmp_path / "flax.msgpack", to_layout="flax_gpt2")
    convert(tmp_path / "flax.msgpack", tmp_path / "b", given=given | {"heads": 8})
    convert(tmp_path / "b", tmp_path / "x.npz", to_format="npz")
    convert(tmp_path / "x.npz", tmp_path / "c", mesh={"data": 1, "model": 8})
    digests = {open_source(tmp_path / name).metadata()["digest"] for name in "abc"}
    assert len(digests) == 1
    assert open_source(tmp_path / "c").metadata()["mesh"] == {"data": 1, "model": 8}


def test_a_training_state_is_exported_by_its_folder(kit, tmp_path):
    _, params, _ = hf_gpt2(tmp_path / "hf")
    save(tmp_path / "state", {"params": params, "opt": {"mu": params}, "step": 7})
    export = Request(
        source=tmp_path / "state", target=tmp_path / "out", to_layout="hf_gpt2", under="params"
    )
    conversion = prepare(export)
    assert set(conversion.dropped.values()) == {"outside of params"}
    run(conversion)
    assert files(tmp_path / "out") == files(tmp_path / "hf")
    with pytest.raises(UsageError, match=r"--under opt \| params"):
        prepare(
            Request(
                source=tmp_path / "state", target=tmp_path / "o", to_layout="hf_gpt2", under="p"
            )
        )


def test_a_checkpoint_keeps_its_tree(tmp_path):
    tree = {"a": [np.arange(3), np.arange(4.0)], "b": (np.ones((2, 2)), None), "n": 5}
    save(tmp_path / "a", tree)
    convert(tmp_path / "a", tmp_path / "b")
    one, two = open_source(tmp_path / "a").metadata(), open_source(tmp_path / "b").metadata()
    assert one["tree"] == two["tree"]
    assert one["digest"] == two["digest"]


def test_casts_are_asked_for(kit, tmp_path):
    hf_gpt2(tmp_path / "hf")
    conversion = prepare(
        Request(
            source=tmp_path / "hf", target=tmp_path / "x.safetensors", casts={"*kernel": "bfloat16"}
        )
    )
    types = {
        name.rpartition("/")[2]: info.dtype.name
        for name, info in conversion.result.tensors().items()
    }
    assert types["kernel"] == "bfloat16"
    assert types["scale"] == "float32"
    assert conversion.losses
    for casts, kind in [
        ({"*": "int8"}, LossyLayoutError),
        ({"nothing": "bfloat16"}, UsageError),
        ({"*": "float31"}, UsageError),
    ]:
        with pytest.raises(kind):
            prepare(Request(source=tmp_path / "hf", target=tmp_path / "o", casts=casts))


def test_rounding_layouts_ask_first(kit, tmp_path, rng):
    layout = tmp_path / "int8.yaml"
    quant = "{quant: {from: int8, scale: float32, to: float32, block: [0, 0]}}"
    layout.write_text(f"layout: int8\nrules:\n- {{from: [w, s], to: x, ops: [{quant}]}}\n")
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(4, 4)).astype(np.float32))
    request: dict[str, Any] = dict(
        source=tmp_path / "x.npz", target=tmp_path / "o.safetensors", to_layout=str(layout)
    )
    with pytest.raises(LossyLayoutError, match="precision, from float32 to int8"):
        prepare(Request(**request))
    run(prepare(Request(**request, allow_lossy=True)))
    assert set(formats.open_safetensors(tmp_path / "o.safetensors").tensors()) == {"w", "s"}


def test_what_is_not_known_is_told(tmp_path):
    (tmp_path / "x.txt").write_text("no checkpoint")
    with pytest.raises(UnknownFormatError, match=r"looked for native .*safetensors"):
        prepare(Request(source=tmp_path / "x.txt", target=tmp_path / "o"))
    write(formats.SafetensorsSink(tmp_path / "x.safetensors"), {"odd.name": np.ones(3)})
    with pytest.raises(UsageError, match=r"looked for: .*hf_gpt2.*"):
        prepare(Request(source=tmp_path / "x.safetensors", target=tmp_path / "o"))
    as_it_is = Request(
        source=tmp_path / "x.safetensors", target=tmp_path / "o.npz", from_layout="none"
    )
    assert list(prepare(as_it_is).result.tensors()) == ["odd.name"]


def test_names_tell_the_layout_where_no_config_does(tmp_path):
    hf_gpt2(tmp_path / "hf")
    (tmp_path / "hf/config.json").unlink()
    conversion = prepare(Request(source=tmp_path / "hf", target=tmp_path / "o", given={"heads": 8}))
    assert conversion.from_layout is not None
    assert conversion.from_layout.name == "hf_gpt2"


def test_a_full_disk_leaves_nothing(tmp_path):
    hf_gpt2(tmp_path / "hf")

    def full(operation, path):
        if operation == "write" and path.suffix == ".npz":
            raise OSError(28, "No space left on device")

    request = Request(source=tmp_path / "hf", target=tmp_path / "out/x.npz", from_layout="none")
    (tmp_path / "out").mkdir()
    with observed(full), pytest.raises(CheckpointWriteError, match="No space left"):
        run(prepare(request))
    assert not list((tmp_path / "out").iterdir())
    run(prepare(request))
    with pytest.raises(CheckpointExistsError):
        prepare(request)


BIG = 3 << 20  # elements: twelve megabytes, in blocks of half a megabyte


@pytest.fixture
def big(tmp_path, rng):
    arrays = {"a": rng.normal(size=(1536, 1024)), "b": rng.integers(0, 9, size=(1000, 1500))}
    np.savez(tmp_path / "big.npz", **arrays)
    return tmp_path / "big.npz", arrays


def convert_and_die(source, target, to_format, kill_at) -> Any:
    """The number of changes and of bytes resumed; None where it was killed."""
    command = [sys.executable, WORKER, source, target, to_format, str(kill_at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode == -9:
        return None
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def opened(path, to_format):
    if to_format == "native":
        return open_source(path)
    return formats.open_safetensors(path)


@pytest.mark.parametrize("to_format", ["native", "safetensors"])
@pytest.mark.parametrize(
    "sample", [pytest.param([0.6], id="one"), pytest.param(None, id="all", marks=pytest.mark.slow)]
)
def test_killed_conversions_go_on(to_format, sample, big, kit, tmp_path):
    source, arrays = big
    events, _ = convert_and_die(source, tmp_path / "whole", to_format, 0)
    wanted = kit.contents(opened(tmp_path / "whole", to_format))
    kit.same_bits(wanted, arrays)
    places = (
        [int(events * part) for part in sample]
        if sample
        else [*range(1, 8), *range(8, events - 8, max(1, events // 24)), *range(events - 8, events)]
    )
    for place in [*places, "journal"]:
        target = tmp_path / f"killed-{place}"
        assert convert_and_die(source, target, to_format, place) is None
        if target.exists():  # killed after the last step that makes it visible
            kit.same_bits(kit.contents(opened(target, to_format)), wanted)
            continue
        _, again = convert_and_die(source, target, to_format, 0)
        assert again > 0 or place != "journal"
        kit.same_bits(kit.contents(opened(target, to_format)), wanted)
        left = [p.name for p in tmp_path.iterdir() if p.name.startswith(f".{target.name}")]
        assert not left


def test_another_conversion_to_the_same_place(big, tmp_path):
    source, _ = big
    assert convert_and_die(source, tmp_path / "o", "safetensors", 30) is None
    other = tmp_path / "other.npz"
    np.savez(other, a=np.ones(3))
    with pytest.raises(ConversionError, match=r"unfinished conversion of .*big\.npz is there") as e:
        convert(other, tmp_path / "o", to_format="safetensors", from_layout="none")
    assert e.value.exit_code == 5
    convert(other, tmp_path / "o", to_format="safetensors", from_layout="none", restart=True)
    assert list(formats.open_safetensors(tmp_path / "o").tensors()) == ["a"]


def test_the_command_line(tmp_path, capsys):
    hf_gpt2(tmp_path / "hf")
    hf, native, back = (str(tmp_path / name) for name in ("hf", "native", "back"))
    assert main(["ckpt", "import", hf, native, "--set", "scan=1", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "h/attn/query/kernel: float32[2, 32, 8, 4]" in text
    assert "layout hf_gpt2" in text
    assert not Path(native).exists()
    assert main(["ckpt", "import", hf, native, "--set", "scan=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["from"]["layout"] == "hf_gpt2"
    assert told["bytes_written"] == told["bytes"] > 0
    assert main(["ckpt", "export", native, back, "--to", "hf_gpt2", "--budget", "16MiB"]) == 0
    assert "MB/s" in capsys.readouterr().out
    assert files(tmp_path / "back") == files(tmp_path / "hf")
    assert main(["ckpt", "layouts"]) == 0
    assert "hf_mixtral" in capsys.readouterr().out


def test_exit_codes(tmp_path, capsys):
    hf_gpt2(tmp_path / "hf")
    hf, out = str(tmp_path / "hf"), str(tmp_path / "out")
    for arguments, code, says in [
        ([hf, out, "--from", "hf_gpt3"], 2, "hf_gpt2"),
        ([hf, out, "--budget", "lots"], 2, "--budget 512MiB"),
        ([hf, out, "--budget", "1MiB"], 2, "too small"),
        ([hf, out, "--set", "heads"], 2, "--set heads=8"),
        ([hf, out, "--set", "haeds=8"], 2, "no layout here has haeds"),
        ([hf, out, "--mesh", "data:8"], 2, "--mesh data=1,model=8"),
        ([str(tmp_path / "none"), out], 2, "there is no"),
        ([hf, hf], 2, "never overwrites"),
        ([hf, out, "--from", "hf_llama", "--set", "heads=8"], 4, "no rule"),
    ]:
        assert main(["ckpt", "convert", *arguments]) == code, arguments
        assert says in capsys.readouterr().err
    file = tmp_path / "hf/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["ckpt", "convert", hf, out]) == 3
    assert "should have" in capsys.readouterr().err
    assert not Path(out).exists()
