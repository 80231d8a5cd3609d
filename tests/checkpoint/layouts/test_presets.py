"""The layouts that come along fit the models of the zoo, in both directions, to the bit."""

import jax
import numpy as np
import pytest

from autoshard import models
from autoshard.checkpoint.layouts import Known, apply, get_layout, layout_names

FAMILIES = {
    "gpt-tiny": ["hf_gpt2", "flax_gpt2"],
    "llama-tiny": ["hf_llama", "hf_mistral", "meta_llama", "flax_llama", "flax_mistral"],
    "bert-tiny": ["hf_bert", "flax_bert"],
    "vit-tiny": ["hf_vit", "flax_vit"],
    "t5-tiny": ["hf_t5", "flax_t5"],
    "moe-tiny": ["hf_mixtral"],
}
VARIANTS = [
    {"scan_layers": True},
    {"scan_layers": False},
    {"tie_head": True},
    {"tie_head": False},
    {"gated": True},
    {"layers": 11},  # numbers of two digits sort otherwise
]


def cases():
    for model, names in FAMILIES.items():
        for options in VARIANTS:
            try:
                models.get(model, **options)
            except models.UnknownOptionError:
                continue
            for name in names:
                yield pytest.param(model, options, name, id=f"{model}-{options}-{name}")


def random_leaves(spec, rng):
    leaves, _ = jax.tree_util.tree_flatten_with_path(spec.param_shapes())
    return {
        "/".join(key.key for key in path): rng.normal(size=leaf.shape).astype(leaf.dtype)
        for path, leaf in leaves
    }


@pytest.mark.parametrize(("model", "options", "name"), [*cases()])
def test_export_and_import(model, options, name, kit, rng):
    tree = kit.MemorySource(random_leaves(models.get(model, **options), rng))
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
    spec = models.get("gpt-tiny")
    tree = kit.MemorySource(random_leaves(spec, rng))
    layout = get_layout("hf_gpt2").layout(Known(side="tree", infos=tree.tensors()))
    stored = kit.contents(apply(layout.inverse(), tree))
    stored["lm_head.weight"] = stored["transformer.wte.weight"].copy()
    foreign = kit.MemorySource(stored)
    known = Known(side="foreign", infos=foreign.tensors(), config={"n_head": 8})
    layout = get_layout("hf_gpt2").layout(known)
    kit.same_bits(kit.contents(apply(layout, foreign)), tree.arrays)
    kit.same_bits(kit.contents(apply(layout.inverse(), tree)), stored)


def test_rotary_orders(kit):
    """Meta's neighbours 0, 1 of a head are half a head apart in the zoo."""
    spec = models.get("llama-tiny")
    tree = kit.MemorySource(random_leaves(spec, np.random.default_rng(0)))
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
