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


def counts(planned, pattern: str) -> Counter:
    """How often each kind of collective stands at ops whose name matches."""
    found: Counter = Counter()
    for c in planned.collectives:
        if re.search(pattern, c.op_name):
            found[c.kind] += c.count
    return found


@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_zero1_and_zero2_send_what_data_parallelism_sends(case, strategy):
    planned = case("gpt", strategy, "8")
    kinds = {c.kind for c in planned.collectives}
    assert {"reduce-scatter", "all-gather"} <= kinds
    data_parallel = traffic(case("gpt", "dp", "8").collectives)
    assert 0.9 * data_parallel < traffic(planned.collectives) < 1.02 * data_parallel


def test_zero1_and_zero2_store_parameters_whole_and_moments_in_shards(case):
    for strategy in ("zero1", "zero2"):
        for leaf in case("gpt", strategy, "8").plan.state:
            if not leaf.shape:
                continue
            shards = leaf.spec.shards(leaf.mesh)
            assert shards == (8 if "/opt_state/" in f"/{leaf.path}" else 1), leaf.path


BLOCK = r"(?<!transpose\()jvp\(GPT2\)/h_1/"
BLOCK_BACK = r"transpose\(jvp\(GPT2\)\)/h_1/"


def test_megatron_gathers_and_scatters_where_tensor_all_reduces(case):
    """Korthikanti et al. 2022: 2 + 2 in each direction, and the inputs of columns once more."""
    planned = case("gpt", "megatron", "8")
    matrices = r"(attn|mlp_fc|mlp_proj)"
    # By block: jax 0.11 names a gather after the norm that it gathers, not after its reader.
    forward = counts(planned, BLOCK)
    assert (forward["all-gather"], forward["reduce-scatter"]) == (2, 2)
    back = counts(planned, BLOCK_BACK)
    assert back["reduce-scatter"] == 2
    assert back["all-gather"] == 2 + 2
    # What is all-reduced is small: scales and biases, statistics of the softmax, the lookup.
    reduced = [c for c in planned.collectives if c.kind == "all-reduce"]
    assert not any(re.search(matrices + r"/(dot|.*psum)", c.op_name) for c in reduced)
    one_activation = 16 * 32 * 64 * 4
    assert sum(c.operand_bytes for c in reduced) < 1.2 * one_activation


def test_megatron_keeps_no_activation_whole(case):
    assert case("gpt", "megatron", "8").temporary_bytes < case("gpt", "tensor", "8").temporary_bytes


def test_sequence_parallelism_gathers_keys_and_values_alone(case):
    planned = case("gpt", "sequence", "8")
    gathered = [c for c in planned.collectives if c.kind == "all-gather"]
    # Keys and values of 2 layers, forward and again for the gradients of the scores.
    assert sum(c.count for c in gathered) == 2 * 2 * 2
    scattered = [c for c in planned.collectives if c.kind == "reduce-scatter"]
    assert sum(c.count for c in scattered) == 2 * 2
    (gradients,) = [c for c in planned.collectives if c.kind == "all-reduce"]
    assert gradients.operand_bytes < 1.2 * gradient_bytes(planned)  # the tied table counts twice


def test_experts_are_reached_by_two_exchanges_in_each_direction(case):
    planned = case("moe", "expert", "8")
    exchanges = [c for c in planned.collectives if c.kind == "all-to-all"]
    assert [c.count for c in exchanges] == [2] * 4  # in the loops over 2 layers
    assert len({c.operand_bytes for c in exchanges}) == 1
    forward = [c for c in exchanges if "transpose(jvp" not in c.op_name]
    assert len(forward) == 2
    # No gradient of an expert is reduced: each device sees all tokens of its experts.
    experts = [
        leaf for leaf in planned.plan.state if "params" in leaf.path and "expert" in leaf.path
    ]
    assert experts
    assert all("x" in str(leaf.spec) for leaf in experts)
    reduced = sum(c.count * c.operand_bytes for c in planned.collectives if c.kind == "all-reduce")
    others = gradient_bytes(planned) - sum(leaf.nbytes for leaf in experts)
    assert reduced < 1.1 * others


def test_experts_under_data_parallelism_are_reduced_over_its_axis_alone(case):
    planned = case("moe", "dp+expert", "2x4")
    exchanges = [c for c in planned.collectives if c.kind == "all-to-all"]
    assert [(c.axes, c.count) for c in exchanges] == [(("model",), 2)] * 4
    assert any(c.kind == "all-reduce" and c.axes == ("data",) for c in planned.collectives)


def test_tables_are_not_reduced(case):
    planned = case("dlrm", "table", "8")
    assert traffic(planned.collectives) < 0.5 * traffic(case("dlrm", "dp", "8").collectives)
    cut = [
        leaf for leaf in planned.plan.state if "table" in leaf.path and not leaf.spec.is_replicated
    ]
    assert len(cut) >= 3 * 4  # tables and their two moments


def test_partial_sums_that_are_added_are_combined_once(case):
    """The gradients that query, key and value send back: one all-reduce of one activation."""
    planned = case("gpt", "tensor", "8")
    sent = [c for c in planned.collectives if re.search(BLOCK_BACK + "attn", c.op_name)]
    (only,) = [c for c in sent if not re.search("out", c.op_name)]
    assert only.count == 1
    assert only.operand_bytes < 1.1 * 16 * 32 * 64 * 4
