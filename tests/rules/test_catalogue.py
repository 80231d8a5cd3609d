"""Every primitive in every way it is used: its line, its proof, its page."""

from pathlib import Path

import numpy as np
import pytest

from autoshard.rules import registered
from autoshard.rules.catalogue import markdown, variants
from autoshard.rules.elementwise import POINTWISE
from autoshard.rules.linalg import MATRIX_OPS, VECTOR_OPS
from autoshard.rules.oracle import prove

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"

NOT_SHOWN = {
    # Ops of a traced program, not of jax.
    "argument",
    "result",
    "region_tie",
    # Effects and tokens: nothing to shard.
    "after_all",
    "create_token",
    "dce_sink",
    "inspect_sharding",
    "platform_index",
    # Its rule is the user's.
    "custom_partitioning",
    # Not in jax 0.10.
    "log2",
    "one_minus_square",
    # Made by jax.lax alone or inside a mesh; same rule functions as ops that are shown.
    "all_gather_invariant",
    "geqrf",
    "layout_constraint",
    "ormqr",
    "pbroadcast",
    "psum_invariant",
    "pvary",
    "reshard",
    "sharding_constraint",
    "with_memory_space_constraint",
}
SAMPLE = {
    "add",
    "bitcast_convert_type",
    "clamp",
    "complex",
    "exp",
    "mul",
    "select_n",
    "threefry2x32",
}
"""Pointwise ops that are proven in quick runs too: all share one rule function."""
SLOW = {"random_gamma", *POINTWISE, *MATRIX_OPS, *VECTOR_OPS} - SAMPLE


def test_every_rule_is_shown(golden) -> None:
    found = variants()
    assert {v.primitive for v in found} == set(registered()) - NOT_SHOWN
    assert len({v.name for v in found}) == len(found)
    golden("rules", "\n".join(f"{v.name}: {v.op().rule}" for v in found))


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(v, id=v.name, marks=[pytest.mark.slow] if v.primitive in SLOW else [])
        for v in variants()
        if v.runs
    ],
)
def test_every_rule_is_proven(variant, prove_all) -> None:
    op = variant.op()
    proofs = prove(op, np.random.default_rng(0))
    assert [p.factor for p in proofs] == list(op.rule.shardable)
    prove_all(proofs)


def test_page_is_current(pytestconfig) -> None:
    text = markdown()
    if pytestconfig.getoption("--update-golden"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "python -m autoshard.rules > docs/rules.md"
