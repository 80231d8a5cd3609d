"""Checkpoints in as many files as there are ranks: DeepSpeed ZeRO, Megatron, Meta.

The files are made here, by slicing whole arrays the way those programs do.
"""

import collections
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from autoshard import models
from autoshard.checkpoint import open_source
from autoshard.checkpoint.layouts import Known, apply, get_layout
from autoshard.checkpoint.layouts.convert import Request, convert, prepare
from autoshard.errors import ForeignFileError, LayoutDataError, LayoutError

SHAPES = [
    {"wte.weight": (48, 8), "h.0.w": (8, 5), "h.0.b": (5,)},
    {"ln.weight": (7,), "scalar": (), "one": (1,)},
]
STATES = ["fp32", "exp_avg", "exp_avg_sq"]


def planned(source, **options):
    """A conversion whose result is read here and written nowhere."""
    return prepare(Request(source=source, target=source.parent / "nowhere", **options))


@pytest.fixture
def state(rng):
    """fp32 weights and Adam's moments by kind and name."""
    return {
        kind: {
            name: rng.normal(size=shape).astype(np.float32)
            for group in SHAPES
            for name, shape in group.items()
        }
        for kind in STATES
    }


def flat(arrays, names):
    return np.concatenate([arrays[name].reshape(-1) for name in names])


def model_states(kit, folder, state, *, stage):
    """The file of module weights in bfloat16, and the shapes of what is in the fragments."""
    weights: dict[str, Any] = collections.OrderedDict(
        (name, value.astype(ml_dtypes.bfloat16)) for name, value in state["fp32"].items()
    )
    if stage == 3:
        weights = {name: np.zeros(0, ml_dtypes.bfloat16) for name in weights}
    weights["h.0.mask"] = np.ones((2, 2), np.float32)
    shapes = [
        collections.OrderedDict((n, kit.Size(s)) for n, s in group.items()) for group in SHAPES
    ]
    name = "zero_pp_rank_0_mp_rank_00" if stage == 3 else "mp_rank_00"
    content = {"module": weights, "param_shapes": shapes, "global_steps": 20, "ds_version": "0.15"}
    kit.torch_save(folder / f"{name}_model_states.pt", content)


def zero2(kit, folder, state, ranks):
    """Each group flat, padded to twice the ranks, and cut; fp32 is stored without the padding."""
    model_states(kit, folder, state, stage=2)
    for rank in range(ranks):
        single, adam = [], {}
        for number, group in enumerate(SHAPES):
            part = {}
            for kind in STATES:
                whole = flat(state[kind], group)
                size = -(-whole.size // (2 * ranks)) * 2 * ranks // ranks
                padded = np.zeros(size * ranks, np.float32)
                padded[: whole.size] = whole
                part[kind] = padded[rank * size : (rank + 1) * size]
                if kind == "fp32":
                    end = max(0, min(size, whole.size - rank * size))
                    part[kind] = part[kind][:end]
            single.append(part.pop("fp32"))
            adam[number] = {"step": np.array(20, np.float32), **part}
        content = {
            "optimizer_state_dict": {
                "zero_stage": 2,
                "partition_count": [ranks, ranks],
                "single_partition_of_fp32_groups": single,
                "base_optimizer_state": {"state": adam, "param_groups": [{"lr": 0.1}]},
            }
        }
        kit.torch_save(folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", content)


def zero3(kit, folder, state, ranks):
    """Each parameter padded to the ranks and cut; a rank's parts lie one after another.

    DeepSpeed leaves in the padding what the memory held, and sets attributes on the flat tensors.
    """
    model_states(kit, folder, state, stage=3)
    for rank in range(ranks):
        groups = [[name for group in SHAPES for name in group][:4]]  # two sub-groups
        groups.append([name for group in SHAPES for name in group][4:])
        found = {kind: [] for kind in STATES}
        for names in groups:
            for kind in STATES:
                parts = []
                for name in names:
                    value = state[kind][name].reshape(-1)
                    size = -(-value.size // ranks)
                    padded = np.full(size * ranks, 7, np.float32)
                    padded[: value.size] = value
                    parts.append(padded[rank * size : (rank + 1) * size])
                found[kind].append(np.concatenate(parts))
        adam = {
            i: {"step": 20, "exp_avg": found["exp_avg"][i], "exp_avg_sq": found["exp_avg_sq"][i]}
            for i in range(len(groups))
        }
        content = {
            "optimizer_state_dict": {
                "zero_stage": 3,
                "fp32_flat_groups": [flat.view(kit.Marked) for flat in found["fp32"]],
                "optimizer_state_dict": {"state": adam, "param_groups": []},
            }
        }
        kit.torch_save(folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", content)


@pytest.mark.parametrize("ranks", [1, 2, 4, 12])
@pytest.mark.parametrize("write", [zero2, zero3])
def test_zero_fragments(write, ranks, kit, state, tmp_path):
    write(kit, tmp_path / "ds" / "global_step20", state, ranks)
    (tmp_path / "ds" / "latest").write_text("global_step20")
    conversion = planned(tmp_path / "ds", from_layout="deepspeed")
    found = kit.contents(conversion.result)
    wanted = {f"{kind}/{name}": v for kind in STATES for name, v in state[kind].items()}
    kit.same_bits({name: found[name] for name in wanted}, wanted)
    rest = set(found) - set(wanted)
    steps = {"step_of_group_0", "step_of_group_1"} if write is zero2 else set()
    assert rest == {"buffers/h.0.mask", *steps}
    assert conversion.result.metadata()["step"] == 20
    assert len(conversion.dropped) == 6  # the module's copies in bfloat16


def test_zero_fragments_that_are_damaged(kit, state, tmp_path):
    (tmp_path / "ds").mkdir()
    zero2(kit, tmp_path / "ds", state, 2)
    file = tmp_path / "ds" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    data = bytearray(file.read_bytes())
    data[data.index(state["exp_avg"]["wte.weight"][-1].tobytes()) + 5] ^= 4
    file.write_bytes(data)
    with pytest.raises(ForeignFileError, match="checksum") as info:
        convert(tmp_path / "ds", tmp_path / "out", from_layout="deepspeed")
    assert info.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    assert not [f.name for f in tmp_path.iterdir() if "autoshard" in f.name]


def test_a_rank_that_is_missing(kit, state, tmp_path):
    zero2(kit, tmp_path, state, 3)
    (tmp_path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(ForeignFileError, match=r"ranks dp=\[0, 2\]"):
        prepare(Request(source=tmp_path, target=tmp_path / "out", from_layout="deepspeed"))


def test_zero_fragments_of_a_known_model(kit, rng, tmp_path):
    """Two layouts in a row: fragments to torch's names, and these to the zoo's."""
    spec = models.get("gpt-tiny", hidden=16, heads=2, vocab_size=24)
    tree = kit.MemorySource(leaves(spec, rng))
    layout = get_layout("hf_gpt2").layout(Known(side="tree", infos=tree.tensors()))
    names = kit.contents(apply(layout.inverse(), tree))
    group = {name: value.shape for name, value in names.items()}
    SHAPES_BEFORE = list(SHAPES)
    SHAPES[:] = [group]
    try:
        zero2(kit, tmp_path / "ds", {kind: names for kind in STATES}, 4)
    finally:
        SHAPES[:] = SHAPES_BEFORE
    two = planned(tmp_path / "ds", from_layout="deepspeed+hf_gpt2", given={"heads": 2})
    found = kit.contents(two.result)
    for kind in STATES:
        part = {k.removeprefix(f"{kind}/"): v for k, v in found.items() if k.startswith(kind + "/")}
        kit.same_bits(part, tree.arrays)


def leaves(spec, rng):
    paths, _ = jax.tree_util.tree_flatten_with_path(spec.param_shapes())
    return {
        "/".join(key.key for key in path): rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in paths
    }


def megatron_llama(kit, folder, tree, *, tp, pp, layers, heads, kv_heads, vocab_rows):
    """Files of Megatron-Core, from the zoo's scanned tree."""
    group = heads // kv_heads
    per_stage = layers // pp
    for p in range(pp):
        for t in range(tp):
            content = {}
            if p == 0:
                padded = np.zeros((vocab_rows, tree["embed_tokens/embedding"].shape[1]), np.float32)
                padded[: tree["embed_tokens/embedding"].shape[0]] = tree["embed_tokens/embedding"]
                content["embedding.word_embeddings.weight"] = np.split(padded, tp)[t]
            if p == pp - 1:
                head = tree["lm_head/kernel"].T
                padded = np.full((vocab_rows, head.shape[1]), 7, np.float32)
                padded[: head.shape[0]] = head
                content["output_layer.weight"] = np.split(padded, tp)[t]
                content["decoder.final_layernorm.weight"] = tree["norm/scale"]
            for i in range(per_stage):
                get = lambda name, layer=p * per_stage + i: tree[f"layers/{name}"][layer]
                q, k, v = (get(f"attention/{n}/kernel") for n in ("query", "key", "value"))
                rows = []
                for g in range(t * kv_heads // tp, (t + 1) * kv_heads // tp):
                    rows += [q[:, h].T for h in range(g * group, (g + 1) * group)]
                    rows += [k[:, g].T, v[:, g].T]
                name = f"decoder.layers.{i}"
                content[f"{name}.self_attention.linear_qkv.weight"] = np.concatenate(rows)
                out = get("attention/out/kernel")
                out = out.reshape(-1, out.shape[-1]).T
                proj = f"{name}.self_attention.linear_proj.weight"
                content[proj] = np.ascontiguousarray(np.split(out, tp, 1)[t])
                gate, up, down = (get(f"mlp/{n}/kernel").T for n in ("gate", "up", "down"))
                both = [np.split(gate, tp)[t], np.split(up, tp)[t]]
                content[f"{name}.mlp.linear_fc1.weight"] = np.concatenate(both)
                fc2 = np.ascontiguousarray(np.split(down, tp, 1)[t])
                content[f"{name}.mlp.linear_fc2.weight"] = fc2
                content[f"{name}.input_layernorm.weight"] = get("input_norm/scale")
                content[f"{name}.pre_mlp_layernorm.weight"] = get("post_attention_norm/scale")
            rank = f"mp_rank_{t:02d}" if pp == 1 else f"mp_rank_{t:02d}_{p:03d}"
            file = folder / rank / "model_optim_rng.pt"
            kit.torch_save(file, {"model": content, "iteration": 5, "checkpoint_version": 3.0})


@pytest.fixture
def llama(rng):
    spec = models.get("llama-tiny", layers=4, hidden=32, intermediate=24, vocab_size=250)
    return leaves(spec, rng)


SIZES = {"layers": 4, "heads": 8, "kv_heads": 4}
GIVEN = {"heads": 8, "kv_heads": 4, "vocab": 250}


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 4)])
def test_megatron_tensor_and_pipeline_parallel(tp, pp, kit, llama, tmp_path):
    rows = -(-250 // (16 * tp)) * 16 * tp
    megatron_llama(kit, tmp_path / "in", llama, tp=tp, pp=pp, vocab_rows=rows, **SIZES)
    given = {**GIVEN, "multiple": 16}
    tree = planned(tmp_path / "in", from_layout="megatron_llama", given=given)
    kit.same_bits(kit.contents(tree.result), llama)
    assert any("padding" in loss for loss in tree.losses)


def test_megatron_on_other_ranks(kit, llama, tmp_path):
    """From 2 × 2 ranks to the tree, to 4 × 1 ranks, and back to the tree: one digest."""
    megatron_llama(kit, tmp_path / "in", llama, tp=2, pp=2, vocab_rows=256, **SIZES)
    given = {**GIVEN, "multiple": 16}
    megatron = "megatron_llama"
    convert(tmp_path / "in", tmp_path / "tree", from_layout=megatron, given=given)
    ranks = {"tp": 4, "pp": 1, "multiple": 16, "vocab": 250}
    convert(tmp_path / "tree", tmp_path / "out", to_layout=megatron, given=ranks)
    assert len(list((tmp_path / "out").rglob("*.pt"))) == 4
    convert(tmp_path / "out", tmp_path / "back", from_layout=megatron, given=given)
    first, last = open_source(tmp_path / "tree"), open_source(tmp_path / "back")
    assert first.metadata()["digest"] == last.metadata()["digest"]
    kit.same_bits(kit.contents(last), llama)


def test_replicas_of_ranks_that_differ(kit, llama, tmp_path):
    megatron_llama(kit, tmp_path / "in", llama, tp=2, pp=1, vocab_rows=256, **SIZES)
    llama["norm/scale"] = llama["norm/scale"] + np.float32(1e-3)
    other = tmp_path / "other"
    megatron_llama(kit, other, llama, tp=2, pp=1, vocab_rows=256, **SIZES)
    file = "mp_rank_01/model_optim_rng.pt"
    (other / file).replace(tmp_path / "in" / file)
    with pytest.raises(LayoutDataError, match="copies of each other, but differ at") as info:
        convert(tmp_path / "in", tmp_path / "out", from_layout="megatron_llama", given=GIVEN)
    assert "final_layernorm" in str(info.value)
    assert not (tmp_path / "out").exists()


def test_a_stage_that_is_missing(kit, llama, tmp_path):
    megatron_llama(kit, tmp_path / "in", llama, tp=2, pp=2, vocab_rows=256, **SIZES)
    (tmp_path / "in/mp_rank_01_001/model_optim_rng.pt").unlink()
    with pytest.raises(LayoutError, match="needs tp = 0, 1, found 0"):
        convert(tmp_path / "in", tmp_path / "out", from_layout="megatron_llama", given=GIVEN)


def test_megatron_gpt(kit, rng, tmp_path):
    """The weights of a rank, sliced by head."""
    tree = leaves(models.get("gpt-tiny", vocab_size=250, hidden=32), rng)
    source = kit.MemorySource(tree)
    given = {"tp": 2, "pp": 2, "multiple": 8}
    known = Known(side="tree", infos=source.tensors(), given={**given, "layers": 2})
    layout = get_layout("megatron_gpt").layout(known)
    stored = kit.contents(apply(layout.inverse(), source))
    fused = stored["mp_rank_01_001/model_optim_rng.pt/model/decoder.layers.0"
                   ".self_attention.linear_qkv.weight"]  # fmt: skip
    assert fused.shape == (48, 32)
    heads = fused.reshape(4, 3, 4, 32)
    for part, name in enumerate(["query", "key", "value"]):
        kernel = tree[f"h_1/attn/{name}/kernel"]  # hidden, heads, head size
        np.testing.assert_array_equal(heads[:, part], kernel.transpose(1, 2, 0)[4:])
    foreign = kit.MemorySource(stored)
    known = Known(side="foreign", infos=foreign.tensors(), given={"heads": 8, "vocab": 250})
    back = apply(get_layout("megatron_gpt").layout(known), foreign)
    kit.same_bits(kit.contents(back), tree)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_meta_files(tp, kit, llama, tmp_path):
    source = kit.MemorySource(llama)
    known = Known(side="tree", infos=source.tensors(), given={"tp": tp})
    if 250 % tp:
        with pytest.raises(LayoutError, match="does not divide into 4 equal parts"):
            apply(get_layout("meta_llama").layout(known).inverse(), source)
        return
    stored = kit.contents(apply(get_layout("meta_llama").layout(known).inverse(), source))
    for rank in range(tp):
        prefix = f"consolidated.{rank:02d}.pth/"
        part = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        part["rope.freqs"] = np.ones(4, np.float32)
        kit.torch_save(tmp_path / "in" / prefix.rstrip("/"), part)
    (tmp_path / "in/params.json").write_text('{"dim": 32, "n_heads": 8, "n_kv_heads": 4}')
    conversion = planned(tmp_path / "in", from_layout="meta_llama")
    kit.same_bits(kit.contents(conversion.result), llama)
    assert len(conversion.dropped) == tp
