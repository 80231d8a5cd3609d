"""What XLA makes of each recipe: kinds, numbers and bytes of the collectives."""

import re
from collections import Counter

import jax
import pytest


def traffic(found) -> float:
    return sum(c.count * c.traffic_bytes for c in found)


def matrices(planned) -> list:
    """Parameters that matrix multiplications read: two dimensions or more, not the state's."""
    return [leaf for leaf in planned.plan.state if "/params/" in leaf.path and len(leaf.shape) >= 2]


def gradient_bytes(planned) -> int:
    return sum(leaf.nbytes for leaf in planned.plan.state if "/params/" in leaf.path)


def test_data_parallelism_reduces_all_gradients_at_once(case):
    planned = case("gpt", "dp", "8")
    (only,) = planned.collectives
    assert only.kind == "all-reduce"
    assert only.count == 1
    whole = gradient_bytes(planned)
    # The positions that no token stands at have no gradient to send; scalars ride along.
    assert 0.9 * whole < only.operand_bytes < 1.1 * whole
    assert all(leaf.spec.is_replicated for leaf in planned.plan.state)


def test_data_parallelism_on_more_axes_is_the_same(case):
    (only,) = case("gpt", "dp", "2x4").collectives
    assert only.kind == "all-reduce"
    assert only.axes == ("data", "model")


def test_data_parallelism_in_a_loop_reduces_each_layer_where_it_is_made(case):
    """One all-reduce per iteration of the backward loop, and one for what is outside of it.

    On Auto axes a partial result cannot leave a loop, so the layers' gradients are not combined
    with each other; the bytes are those of the unrolled model.
    """
    planned = case("gpt-scan", "dp", "8")
    assert {c.kind for c in planned.collectives} == {"all-reduce"}
    inside = [c for c in planned.collectives if "/while/body/" in c.op_name]
    outside = [c for c in planned.collectives if "/while/body/" not in c.op_name]
    (loop,), (once,) = inside, outside
    assert (loop.count, once.count) == (2, 1)
    assert "transpose(jvp(GPT2))/while/body" in loop.op_name
    layers = [leaf for leaf in planned.plan.state if "/params/h/" in leaf.path]
    assert loop.operand_bytes == sum(leaf.nbytes for leaf in layers) // 2
    unrolled = case("gpt", "dp", "8")
    assert traffic(planned.collectives) == pytest.approx(traffic(unrolled.collectives), rel=0.01)


SITE = re.compile(r"(transpose\(jvp\(GPT2\)\)|jvp\(GPT2\))/h_(\d+)/(?:\(?(\w+))")


def blocks(op_name: str) -> set[tuple[str, int, str]]:
    """Direction, block and module of each of the ops that XLA combined into a collective."""
    return {
        ("backward" if match[1].startswith("transpose") else "forward", int(match[2]), match[3])
        for match in SITE.finditer(op_name)
    }


def test_tensor_parallelism_reduces_twice_forward_and_twice_backward_in_a_block(case):
    planned = case("gpt", "tensor", "8")
    assert {c.kind for c in planned.collectives} == {"all-reduce"}
    sites = Counter(
        (direction, block, module)
        for c in planned.collectives
        for direction, block, module in blocks(c.op_name)
    )
    assert sites == {
        (direction, block, module): 1
        for block in (0, 1)
        for direction, module in (
            ("forward", "attn"),
            ("forward", "mlp_proj"),
            ("backward", "attn"),
            ("backward", "mlp_fc"),
        )
    }
    # Besides the blocks: the lookup, the maximum and the sum of the softmax, what the tied head
    # sends back, the target's logit. No gradient of a matrix is reduced.
    others = [c for c in planned.collectives if not blocks(c.op_name)]
    assert len(others) <= 6
    assert not any(re.search(r"transpose.*wte/|embedding", c.op_name) for c in others)


def test_tensor_parallelism_cuts_by_column_row_and_vocabulary(case):
    planned = case("gpt", "tensor", "8")
    for path, spec in {
        "params/wte/embedding": "P(x, -)",
        "params/h_0/attn/query/kernel": "P(-, x, -)",
        "params/h_0/attn/key/kernel": "P(-, x, -)",
        "params/h_0/attn/value/kernel": "P(-, x, -)",
        "params/h_0/attn/query/bias": "P(x, -)",
        "params/h_0/attn/out/kernel": "P(x, -, -)",
        "params/h_0/attn/out/bias": "P(-)",
        "params/h_1/mlp_fc/kernel": "P(-, x)",
        "params/h_1/mlp_fc/bias": "P(x)",
        "params/h_1/mlp_proj/kernel": "P(x, -)",
        "params/h_1/mlp_proj/bias": "P(-)",
        "params/h_1/ln_1/scale": "P(-)",
        "params/ln_f/bias": "P(-)",
        "batch/inputs": "P(-, -)",
    }.items():
        assert planned.spec(path) == spec, path


def test_llama_is_cut_by_column_row_and_vocabulary(case):
    planned = case("llama", "zero3+tensor", "2x4")
    for path, spec in {
        "params/embed_tokens/embedding": "P(model, data)",
        "params/layers_0/attention/query/kernel": "P(data, model, -)",
        "params/layers_0/attention/key/kernel": "P(data, model, -)",
        "params/layers_0/mlp/gate/kernel": "P(data, model)",
        "params/layers_0/mlp/up/kernel": "P(data, model)",
        "params/layers_0/mlp/down/kernel": "P(model, data)",
        "params/layers_1/input_norm/scale": "P(data)",
        "params/lm_head/kernel": "P(data, model)",
    }.items():
        assert planned.spec(path) == spec, path


def test_zero3_gathers_twice_and_scatters_once(case):
    planned = case("gpt", "zero3", "8")
    found = planned.collectives
    whole = gradient_bytes(planned)
    assert {c.kind for c in found} <= {"all-gather", "all-reduce", "reduce-scatter"}
    scattered = [c for c in found if c.kind == "reduce-scatter"]
    # Positions are the same for every example: their lookup and its gradient stay small.
    small = [c for c in found if c.kind == "all-reduce"]
    assert sum(c.operand_bytes for c in small) < 0.05 * whole
    # The tied table is scattered twice: for the lookup and for the head.
    assert 0.9 * whole < sum(c.operand_bytes for c in scattered) < 1.1 * whole
    n_matrices = len([leaf for leaf in matrices(planned) if "/wpe/" not in leaf.path])
    gathered = [c for c in found if c.kind == "all-gather" and c.result_bytes >= 64 * 64 * 4]
    assert n_matrices <= len(gathered) <= 2 * n_matrices
    data_parallel = traffic(case("gpt", "dp", "8").collectives)
    assert 1.2 * data_parallel < traffic(found) < 1.55 * data_parallel
    assert all(not leaf.spec.is_replicated for leaf in planned.plan.state if leaf.shape)


def test_nothing_runs_between_devices_that_share_no_axis(case):
    planned = case("llama", "zero3+tensor", "2x4")
    kinds = {(c.kind, c.axes) for c in planned.collectives}
    assert all(axes for _, axes in kinds)
    assert ("reduce-scatter", ("data",)) in kinds
    assert ("all-gather", ("data",)) in kinds
    assert not {k for k in kinds if k[1] == ("data", "model")}


@pytest.mark.parametrize("strategy", ["dp", "zero3", "tensor"])
def test_one_device_needs_no_collective(strategy):
    """A mesh of one device is the program as it was."""
    from autoshard.lowering import device_mesh, lower_plan
    from autoshard.plan import parse_mesh
    from autoshard.recipes import plan_by_recipe
    from autoshard.tracing import trace

    def step(w, x):
        return w - 0.1 * jax.grad(lambda w: (x @ w).sum())(w), x.sum()

    args = (jax.numpy.ones((4, 4)), jax.numpy.ones((8, 4)))
    program = trace(step, args)
    plan = plan_by_recipe(program, parse_mesh("x=1", 1), strategy)
    mesh = device_mesh(plan.mesh, jax.devices()[:1])
    text = lower_plan(program, plan, mesh).lower(*args).compile().as_text() or ""
    assert not re.search(r"all-reduce|all-gather|reduce-scatter|all-to-all|permute", text)
