"""The layouts that come along fit the models of the zoo, in both directions, to the bit."""

import functools

import jax
import numpy as np
import pytest

from autoshard import models
from autoshard.checkpoint.layouts import Known, apply, get_layout, layout_names
from autoshard.errors import LayoutBindingError

FAMILIES = {
    "gpt-tiny": ["hf_gpt2", "flax_gpt2"],
    "llama-tiny": ["hf_llama", "hf_mistral", "meta_llama", "flax_llama", "flax_mistral"],
    "bert-tiny": ["hf_bert", "flax_bert"],
    "vit-tiny": ["hf_vit", "flax_vit"],
    "t5-tiny": ["hf_t5", "flax_t5"],
    "moe-tiny": ["hf_mixtral"],
}
VARIANTS = [
    {"scan_layers": True, "tie_head": True},
    {"scan_layers": False, "tie_head": False},
    {"scan_layers": True},
    {"scan_layers": False, "layers": 11},  # numbers of two digits sort otherwise
    {"gated": True},
]


def cases():
    for model, names in FAMILIES.items():
        for options in VARIANTS:
            try:
                models.get(model, **options)
            except models.UnknownOptionError:
                continue
            if "layers" in options and model != "gpt-tiny":
                continue
            for name in names:
                yield pytest.param(model, options, name, id=f"{model}-{options}-{name}")


@functools.cache
def shapes(model, options):
    leaves = models.get(model, **dict(options)).param_shapes()
    paths, _ = jax.tree_util.tree_flatten_with_path(leaves)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in paths}


def random_leaves(rng, model, **options):
    known = shapes(model, tuple(options.items()))
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in known.items()}


@pytest.mark.parametrize(("model", "options", "name"), [*cases()])
def test_export_and_import(model, options, name, kit, rng):
    tree = kit.MemorySource(random_leaves(rng, model, **options))
    layout = get_layout(name).layout(Known(side="tree", infos=tree.tensors()))
    foreign = kit.MemorySource(kit.contents(apply(layout.inverse(), tree)))

    # What a file's config.json would tell, and whether layers are to be scanned.
    wanted = {"heads", "kv_heads", "head_size", "scan", "tp"} & set(get_layout(name).bindings)
    given = {key: layout.bindings[key] for key in wanted if not is_derived(name, key)}
    if "tie" in layout.bindings:
        given["tie"] = 0
    known = Known(side="foreign", infos=foreign.tensors(), given=given)
    imported = apply(get_layout(name).layout(known), foreign)
    kit.same_bits(kit.contents(imported), tree.arrays)
    assert not imported.losses
    assert not imported.dropped


def is_derived(name, key):
    return isinstance(get_layout(name).bindings[key], str)


def test_a_tied_head_that_is_stored_twice(kit, rng):
    tree = kit.MemorySource(random_leaves(rng, "gpt-tiny", scan_layers=True))
    layout = get_layout("hf_gpt2").layout(Known(side="tree", infos=tree.tensors()))
    stored = kit.contents(apply(layout.inverse(), tree))
    stored["lm_head.weight"] = stored["transformer.wte.weight"].copy()
    foreign = kit.MemorySource(stored)
    known = Known(side="foreign", infos=foreign.tensors(), config={"n_head": 8}, given={"scan": 1})
    layout = get_layout("hf_gpt2").layout(known)
    kit.same_bits(kit.contents(apply(layout, foreign)), tree.arrays)
    kit.same_bits(kit.contents(apply(layout.inverse(), tree)), stored)


def test_rotary_orders(kit, rng):
    """Meta's neighbours 0, 1 of a head are half a head apart in the zoo."""
    tree = kit.MemorySource(random_leaves(rng, "llama-tiny", scan_layers=True))
    layout = get_layout("meta_llama").layout(Known(side="tree", infos=tree.tensors()))
    stored = kit.contents(apply(layout.inverse(), tree))
    wq = stored["consolidated.00.pth/layers.0.attention.wq.weight"]
    kernel = tree.arrays["layers/attention/query/kernel"][0]  # hidden, heads, head size
    np.testing.assert_array_equal(wq[0], kernel[:, 0, 0])
    np.testing.assert_array_equal(wq[1], kernel[:, 0, kernel.shape[2] // 2])
    np.testing.assert_array_equal(wq[2], kernel[:, 0, 1])


def test_every_layout_has_a_case():
    tested = {name for names in FAMILIES.values() for name in names}
    assert {n for n in layout_names() if n.startswith(("hf_", "flax_", "meta_"))} == tested


@pytest.mark.parametrize(("model", "name"), [("llama-tiny", "maxtext_llama"), ("t5-tiny", "t5x")])
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_layouts_of_jax_trainers(model, name, scan, stacked, kit, rng):
    """Layers scanned, on the second dimension, or one by one, on either side."""
    tree = kit.MemorySource(random_leaves(rng, model, scan_layers=scan))
    given = {"folded": 0, "interleaved": 1} if name == "maxtext_llama" else {}
    known = Known(side="tree", infos=tree.tensors(), given={**given, "stacked": int(stacked)})
    layout = get_layout(name).layout(known)
    stored = kit.contents(apply(layout.inverse(), tree))
    before, size = {
        "maxtext_llama": ("params/params/decoder", 192),
        "t5x": ("target/encoder", 128),
    }[name]
    leaf = "mlp/wi_0/kernel" if name == "maxtext_llama" else "mlp/wi/kernel"
    if stacked:
        assert stored[f"{before}/layers/{leaf}"].shape == (64, 2, size)
    else:
        assert stored[f"{before}/layers_1/{leaf}"].shape == (64, size)
    foreign = kit.MemorySource(stored)
    known = Known(side="foreign", infos=foreign.tensors(), given={**given, "scan": int(scan)})
    kit.same_bits(kit.contents(apply(get_layout(name).layout(known), foreign)), tree.arrays)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_orders_of_maxtext(interleaved, kit, rng):
    """With rope_type llama3.1 the halves of a head are dealt out in turn, else they stay."""
    tree = kit.MemorySource(random_leaves(rng, "llama-tiny", scan_layers=True))
    known = Known(side="tree", infos=tree.tensors(), given={"interleaved": interleaved})
    stored = kit.contents(apply(get_layout("maxtext_llama").layout(known).inverse(), tree))
    for name in ("query", "key"):
        head = stored[f"params/params/decoder/layers/self_attention/{name}/kernel"]
        kernel = tree.arrays[f"layers/attention/{name}/kernel"].transpose(1, 0, 2, 3)
        kernel = kernel / np.sqrt(8) if name == "query" else kernel
        halves = np.split(kernel, 2, axis=-1)
        wanted = np.stack(halves, axis=-1).reshape(kernel.shape) if interleaved else kernel
        np.testing.assert_allclose(head, wanted, rtol=1e-6)


def test_what_no_tensor_tells_is_asked_for(kit, rng):
    tree = kit.MemorySource(random_leaves(rng, "llama-tiny", scan_layers=True))
    with pytest.raises(
        LayoutBindingError, match=r"--set interleaved=… \(1 with MaxText's rope_type"
    ):
        get_layout("maxtext_llama").layout(Known(side="tree", infos=tree.tensors()))


def test_queries_that_hold_the_scale_of_attention(kit, rng):
    """MaxText folds 1 / sqrt(head size) into them: that rounds unless the root is a power of 2."""
    tree = kit.MemorySource(random_leaves(rng, "llama-tiny", scan_layers=True))
    known = Known(side="tree", infos=tree.tensors(), given={"interleaved": 0})
    exported = apply(get_layout("maxtext_llama").layout(known).inverse(), tree)
    assert [loss.loss.rounds for loss in exported.losses] == [True]
    stored = kit.contents(exported)["params/params/decoder/layers/self_attention/query/kernel"]
    kernel = tree.arrays["layers/attention/query/kernel"].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(stored, kernel / np.sqrt(8), rtol=1e-6)
