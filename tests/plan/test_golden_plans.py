"""What every recipe decides for every small model of the zoo: a change of it is seen as a diff.

One file for each model, mesh and strategy under ``tests/golden/plans``, one array a line. A new
preset called ``…-tiny`` is included by itself; ``pytest tests/plan/test_golden_plans.py
--update-golden`` writes its files, and those of all others.
"""

import functools
import json
from collections import Counter

import jax
import optax
import pytest

from autoshard import models
from autoshard.errors import AutoshardError
from autoshard.plan import MeshShape, Plan, replay
from autoshard.recipes import plan_by_recipe
from autoshard.rules import with_rules
from autoshard.tracing import trace

TINY = [name for name in models.names() if name.endswith("-tiny")]
SINGLE = [
    *("dp", "zero1", "zero2", "zero3", "tensor", "megatron", "sequence", "expert", "table"),
]
PAIRS = ["zero3+tensor", "zero1+megatron", "dp+sequence", "dp+expert", "zero3+table"]
MESHES = {
    "data=8": (MeshShape(("data",), (8,)), SINGLE),
    "data=2,model=4": (MeshShape(("data", "model"), (2, 4)), PAIRS),
}
QUICK = {"zero3", "zero3+tensor"}
CASES = [
    pytest.param(
        model, mesh, strategy, marks=() if strategy in QUICK else (pytest.mark.slow,)
    )
    for model in TINY
    for mesh, (_, strategies) in MESHES.items()
    for strategy in strategies
]  # fmt: skip


@functools.cache
def program(name: str):
    spec = models.get(name)
    training = models.make_training(spec, optax.adamw(1e-3))
    state = jax.eval_shape(training.create_state, jax.random.key(0))
    return with_rules(trace(training.train_step, (state, spec.example_batch(16))))


@pytest.mark.parametrize(("model", "mesh", "strategy"), CASES)
def test_decisions(model, mesh, strategy, golden):
    shape = MESHES[mesh][0]
    try:
        plan = plan_by_recipe(program(model), shape, strategy)
        text = summary(plan)
        # What a file may not say, a recipe does not: reductions are held against the ops' rules.
        assert replay(plan, program(model).program, shape).reductions == plan.reductions
    except AutoshardError as error:  # a strategy that is not for this model
        text = json.dumps({"refused": str(error).splitlines()[0]}, indent=1)
    golden(f"plans/{model}/{mesh}/{strategy}.json", text)


def summary(plan: Plan) -> str:
    """Specs by array, and how often each kind of op is constrained to what."""
    specs = {leaf.path: leaf.spec for leaf in plan.arguments}
    arrays = {
        leaf.path: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}] {leaf.spec}"
        for leaf in plan.arguments
        # An optimizer's moments stand here only where they differ from what they follow.
        if not any(specs.get(path) == leaf.spec for path in leaf.follows)
    }
    results = {leaf.path: str(leaf.spec) for leaf in plan.results if not leaf.carried}
    names = plan.structure.ops
    constraints = Counter(
        f"{names[op].split('/')[0]} {side} {index}: {' > '.join(map(str, chain))}"
        + (" again" if (op, side, index) in plan.regathers else "")
        for (op, side, index), chain in plan.constraints.items()
    )
    reductions = Counter(
        f"{names[op].split('/')[0]} over {'×'.join((*r.axes, *r.reduced))} into {r.result}"
        for op, r in plan.reductions.items()
    )
    return json.dumps(
        {
            "bytes_per_device": plan.bytes_per_device,
            "notes": len(plan.notes),
            "arguments": arrays,
            "results": results,
            "constraints": dict(sorted(constraints.items())),
            "reductions": dict(sorted(reductions.items())),
        },
        indent=1,
        ensure_ascii=False,
    )


def test_no_file_is_left_over():
    """A preset or recipe that went takes its files with it."""
    from pathlib import Path

    folder = Path(__file__).parent.parent / "golden" / "plans"
    known = {f"{p.values[0]}/{p.values[1]}/{p.values[2]}.json" for p in CASES}
    assert {str(f.relative_to(folder)) for f in folder.rglob("*.json")} == known
