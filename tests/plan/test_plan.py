"""Looking leaves up, and what explain says."""

import jax
import jax.numpy as jnp
import pytest

from autoshard.errors import PathError, SpecError
from autoshard.plan import LeafPlan, MeshShape, Plan, Spec, human_bytes
from autoshard.recipes import plan_by_recipe

MESH = MeshShape(("data", "model"), (2, 4))


def leaf(
    path: str, shape, axes: str, *, carried=True, dtype="float32", reason="because"
) -> LeafPlan:
    names = {"-": (), "d": ("data",), "m": ("model",), "dm": ("data", "model")}
    spec = Spec(tuple(names[d] for d in axes.split(",")) if axes else ())
    size = 4
    for n in shape:
        size *= n
    return LeafPlan(
        path=path, shape=shape, dtype=dtype, nbytes=size, spec=spec, reason=reason,
        carried=carried, mesh=MESH,
    )  # fmt: skip


@pytest.fixture
def plan() -> Plan:
    return Plan(
        name="train_step",
        mesh=MESH,
        strategy="zero3+tensor",
        arguments=(
            leaf("state/params/dense/kernel", (512, 2048), "d,m", reason="model: column"),
            leaf("state/params/dense/bias", (2048,), "m"),
            leaf(
                "state/params/other/kernel", (6, 5), "-,-", reason="replicated: nothing shards it"
            ),
            leaf("state/step", (), "", dtype="int32"),
            leaf("batch/x", (16, 512), "dm,-", carried=False, reason="batch dimension"),
        ),
        results=(
            leaf("0/params/dense/kernel", (512, 2048), "d,m"),
            leaf("1/loss", (), "", carried=False),
        ),
        notes=("1 state array is not cut",),
    )


def test_leaves_by_path(plan):
    assert plan.leaf("state/params/dense/bias").shape == (2048,)
    assert plan.leaf("bias").path == "state/params/dense/bias"
    assert plan.leaf("dense/kernel").path == "state/params/dense/kernel"  # arguments first
    assert plan.leaf("0/params/dense/kernel").path == "0/params/dense/kernel"
    assert plan.leaf("loss").path == "1/loss"


@pytest.mark.parametrize("path", ["kernel", "ernel", "", "params", "state"])
def test_a_path_that_is_none(plan, path):
    with pytest.raises(PathError) as caught:
        plan.leaf(path)
    assert caught.value.several == (path == "kernel")
    assert "Mend it: plan.explain(" in str(caught.value)
    assert "state/params/dense/kernel" in caught.value.candidates


def test_data_leaves(plan):
    assert plan.data_leaf(None).path == "batch/x"
    assert plan.data_leaf("x").path == "batch/x"
    with pytest.raises(PathError):
        plan.data_leaf("step")


def test_bytes_and_state(plan):
    assert plan.leaf("dense/kernel").bytes_per_device == 512 * 2048 * 4 // 8
    assert [x.path for x in plan.state][-1] == "state/step"
    assert len(plan.state) == 4
    assert plan.bytes_per_device == sum(x.bytes_per_device for x in plan.arguments)
    assert plan.mesh_shape == {"data": 2, "model": 4}
    assert str(plan) == "Plan(train_step: zero3+tensor on data=2,model=4, 8 devices)"


def test_a_leaf_checks_its_spec():
    with pytest.raises(SpecError, match="w: dimension 0 of size 6 is not divisible by model = 4"):
        leaf("w", (6, 5), "m,-")


def test_explain_the_plan(plan, golden):
    golden("plan_explain", plan.explain())


def test_explain_leaves(plan, golden):
    paths = ["dense/kernel", "bias", "other/kernel", "step", "batch/x", "1/loss"]
    golden("plan_explain_leaf", "\n".join(plan.explain(path) for path in paths))


def test_explain_a_real_plan(ruled, golden):
    """Reasons of a two-layer network under ZeRO-3 and tensor parallelism."""

    def step(params, momentum, batch):
        def loss(p):
            hidden = jax.nn.relu(batch["x"] @ p["up"] + p["bias"][None])
            return jnp.mean((hidden @ p["down"] - batch["y"]) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        params = jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum)
        return params, momentum, value

    params = {"up": (16, 64), "bias": (64,), "down": (64, 16)}
    program = ruled(step, params, params, {"x": (32, 16), "y": (32, 16)})
    planned = plan_by_recipe(program, MESH, "zero3+tensor")
    paths = [x.path for x in (*planned.arguments, *planned.results)]
    golden(
        "plan_explain_network",
        planned.explain() + "\n" + "\n".join(planned.explain(path) for path in paths),
    )


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (3 * 2**30, "3.00 GiB"),
        (5.5 * 2**40, "5.50 TiB"),
    ],
)
def test_human_bytes(nbytes, text):
    assert human_bytes(nbytes) == text
