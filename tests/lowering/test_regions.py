"""What lowering keeps of a program: loops, rematerialization, names, effects, donation."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autoshard import models
from autoshard.tracing import trace

STRATEGIES = ("dp", "zero3", "tensor", "zero3+tensor")


def mesh_of(strategy):
    return "data=2,model=4" if "+" in strategy else "x=8"


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def train_step(name, **options):
    spec = models.get(name, **options)
    create, step = models.make_training(spec, optax.adamw(1e-3))
    return step, (jax.eval_shape(create, jax.random.key(0)), spec.example_batch(16, 32))


def close(found, wanted, atol=1e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol, rtol=1e-5)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("strategy", ["zero3", "tensor"])
def test_constraints_stand_inside_the_loops(lower, equations, strategy, remat):
    step, args = train_step("gpt-tiny", scan_layers=True, remat=remat)
    lowered = lower(step, args, strategy)
    scans = Counter()
    for inside, eqn in equations(lowered.jaxpr):
        if "scan" in inside and str(eqn.primitive) in ("sharding_constraint", "shard_map"):
            scans[str(eqn.primitive)] += 1
    assert scans["sharding_constraint"] > 0
    if strategy == "zero3":
        assert scans["shard_map"] > 0  # gradients are scattered in the loop's body


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("policy", ["full", "dots"])
def test_rematerialized_calls_stay_calls(lower, equations, scan, policy):
    step, args = train_step("gpt-tiny", scan_layers=scan, remat=policy)

    def remats(jaxpr):
        return [
            (eqn.params["differentiated"], eqn.params["prevent_cse"], eqn.params["policy"])
            for _, eqn in equations(jaxpr)
            if str(eqn.primitive) in ("checkpoint", "remat", "remat2")
        ]

    before = remats(jax.make_jaxpr(step)(*args).jaxpr)
    after = remats(lower(step, args, "zero3").jaxpr)
    assert before
    assert before == after
    assert any(differentiated for differentiated, _, _ in after)


def test_what_is_emitted_is_what_was_traced(lower, equations):
    """Op for op, apart from constraints."""
    step, args = train_step("llama-tiny", remat="full")
    lowered = lower(step, args, "tensor")
    border = ("argument", "result", "region_tie")
    traced = Counter(op.primitive for op in lowered.program.ops if op.primitive not in border)
    emitted = Counter(
        str(eqn.primitive)
        for inside, eqn in equations(lowered.jaxpr)
        if "scatter-add" not in inside  # how it combines two numbers
    )
    assert emitted["sharding_constraint"] > traced["sharding_constraint"]
    assert {name: emitted[name] for name in traced} == traced


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_ops_keep_their_module_path(lower, scan):
    step, args = train_step("gpt-tiny", scan_layers=scan)
    text = lower(step, args, "tensor").text()
    names = set(re.findall(r'op_name="([^"]*)"', text))
    block = "h/" if scan else "h_0/"
    wanted = {
        False: [r"jit\(train_step\)/jvp\(GPT2\)/h_0/mlp_fc/dot_general"],
        True: [r"jit\(train_step\)/jvp\(GPT2\)/while/body/(\w+/)?h/mlp_fc/dot_general"],
    }[scan]
    for pattern in (*wanted, rf"transpose\(jvp\(GPT2\)\)/.*{block}attn/out"):
        assert any(re.search(pattern, name) for name in names), pattern
    for name in names:
        for one in re.split(r"[:;]", name):  # XLA joins the names of what it merged
            assert one.count("jit(train_step)") <= 1, name
            assert one.count("while/body") <= 1, name
            assert one.count("GPT2") <= 1 or "(" in one[one.index("GPT2") :], name


def test_the_names_of_a_planned_scan_are_those_of_an_unplanned_one(lower):
    step, args = train_step("gpt-tiny", scan_layers=True)

    def names(text):
        found = set()
        for name in re.findall(r'op_name="([^"]*)"', text):
            name = re.sub(r"jit\(\w+\)/", "", name)  # calls are inlined
            found.update(re.findall(r"[\w()]*jvp\(GPT2\)\)?/while/body/[\w/]*h/\w+/\w+", name))
        return found

    one = names(jax.jit(step).lower(*args).compile().as_text())
    planned = names(lower(step, args, "dp").text())
    assert len(planned) > 20
    assert planned <= one


def test_source_lines_are_kept(lower):
    def function(w, x):
        return jnp.tanh(x @ w)

    text = lower(function, (normal(0, 16, 16), normal(1, 8, 16)), "dp").text()
    assert re.search(r"test_regions\.py", text)


@pytest.mark.parametrize("donate", [False, True])
def test_donated_state_is_written_in_place(lower, donate):
    def step(params, opt, x):
        value, g = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(params["w"])
        opt = {"m": 0.9 * opt["m"] + g}
        return {"w": params["w"] - opt["m"]}, opt, value

    args = {"w": normal(0, 16, 64)}, {"m": jnp.zeros((16, 64))}, normal(1, 32, 16)
    lowered = lower(step, args, "zero3", donate=donate)
    header = lowered.text().splitlines()[0]
    aliases = set(re.findall(r"\{(\d+)\}: \((\d+), \{\}, (?:may|must)-alias\)", header))
    assert aliases == ({("0", "0"), ("1", "1")} if donate else set())
    placed = lowered.place()
    lowered.jitted(*placed)
    assert [leaf.is_deleted() for leaf in placed] == [donate, donate, False]


@pytest.mark.parametrize("strategy", ["dp", "zero3+tensor"])
def test_prints_are_kept(lower, strategy, capfd):
    def step(params, x):
        def body(w, x):
            value, g = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(w)
            jax.debug.print("inside {}", value)
            return w - g, value

        w, values = jax.lax.scan(body, params["w"], x)
        jax.debug.print("loss {}", values.sum())
        return {"w": w}, values.sum()

    args = {"w": normal(0, 16, 16) / 4}, normal(1, 3, 16, 16)
    lowered = lower(step, args, strategy, mesh_of(strategy))
    found = lowered.run()
    jax.effects_barrier()
    printed = capfd.readouterr().out
    # One program on eight devices: it prints once.
    assert len(re.findall(r"^inside ", printed, re.M)) == 3
    assert len(re.findall(r"^loss ", printed, re.M)) == 1
    close(found, jax.jit(step)(*args))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_branches(lower, strategy):
    """Branches that would be laid out differently agree on what they return."""

    def step(params, x):
        def loss(p):
            def linear(x):
                return x @ p["up"] @ p["down"]

            def curved(x):
                return jnp.tanh(x @ p["up"]) @ p["down"] + x @ p["skip"]

            return jnp.mean(jax.lax.cond(x.sum() > 0, linear, curved, x) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params = {"up": normal(0, 16, 64), "down": normal(1, 64, 16), "skip": normal(2, 16, 16)}
    for sign in (1.0, -1.0):
        args = params, sign * abs(normal(3, 32, 16))
        close(lower(step, args, strategy, mesh_of(strategy)).run(), jax.jit(step)(*args), atol=1e-2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_switch_of_three(lower, strategy):
    def function(w, i, x):
        branches = [lambda x: x @ w, lambda x: x[::-1] @ w.T, lambda x: x * 2]
        return jax.lax.switch(i, branches, x).sum(-1)

    for i in range(3):
        args = normal(0, 16, 16), jnp.int32(i), normal(1, 32, 16)
        close(lower(function, args, strategy, mesh_of(strategy)).run(), function(*args), atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_while_loops(lower, strategy):
    def function(w, x):
        def go(carry):
            i, _, norm = carry
            return (i < 5) & (norm > 1e-3)

        def body(carry):
            i, x, _ = carry
            x = jnp.tanh(x @ w)
            return i + 1, x, jnp.sqrt((x**2).mean())

        return jax.lax.while_loop(go, body, (0, x, jnp.float32(1.0)))

    args = normal(0, 16, 16) / 4, normal(1, 32, 16)
    close(lower(function, args, strategy, mesh_of(strategy)).run(), function(*args))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loops_in_loops_and_carried_layouts(lower, strategy):
    """A carry comes back in the layout in which it went in."""

    def step(params, x):
        def loss(p):
            def outer(x, w):
                def inner(x, _):
                    return jnp.tanh(x @ w) @ w.T, None

                return jax.lax.scan(inner, x, None, length=2)[0], x.sum()

            x2, sums = jax.lax.scan(outer, x, p["w"])
            return jnp.mean(x2**2) + 1e-3 * jnp.sum(sums)

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    args = {"w": normal(0, 3, 16, 32) / 8}, normal(1, 32, 16)
    lowered = lower(step, args, strategy, mesh_of(strategy))
    assert lowered.plan.leaf("w").spec.dims[0] == ()
    close(lowered.run(), jax.jit(step)(*args))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_captured_arrays(lower, strategy):
    table, scale = normal(5, 64, 16), np.float32(0.5)

    def step(params, tokens):
        value, g = jax.value_and_grad(
            lambda w: jnp.mean((jax.lax.map(lambda t: table[t], tokens) @ w * scale) ** 2)
        )(params["w"])
        return {"w": params["w"] - g}, value

    args = {"w": normal(0, 16, 16)}, jax.random.randint(jax.random.key(1), (16, 8), 0, 64)
    lowered = lower(step, args, strategy, mesh_of(strategy))
    assert [leaf.path for leaf in lowered.plan.arguments][-1] == "captured/0"
    close(lowered.run(), jax.jit(step)(*args))


def test_one_device(lower):
    step, args = train_step("gpt-tiny", layers=1)
    create = models.make_training(models.get("gpt-tiny", layers=1), optax.adamw(1e-3)).create_state
    state = jax.jit(create)(jax.random.key(0))
    batch = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in args[1].items()}
    lowered = lower(step, (state, batch), "zero3+tensor", "data=1,model=1", devices=1)
    assert lowered.plan.leaf("state/params/h_0/mlp_fc/kernel").bytes_per_device == 64 * 256 * 4
    close(lowered.run()[1], jax.jit(step)(state, batch)[1])


def test_a_shard_map_of_the_user_is_left_alone(lower):
    from autoshard.lowering import device_mesh
    from autoshard.plan import parse_mesh

    mesh = device_mesh(parse_mesh("x=8", 8))
    spec = jax.sharding.PartitionSpec("x")

    def function(w, x):
        y = jax.shard_map(lambda y: jnp.cumsum(y, 0), mesh=mesh, in_specs=spec, out_specs=spec)(
            x + 1
        )
        return (y @ w).sum(-1)

    args = normal(0, 16, 16), normal(1, 32, 16)
    lowered = lower(function, args, "dp")
    close(lowered.run(), jax.jit(function)(*args), atol=1e-4)
    assert any("shard_map" in note for note in lowered.plan.notes)


@pytest.mark.parametrize("nested", [False, True])
def test_a_planned_function_inside_jit_and_grad(lower, nested):
    """Donation and compiler options are left to whoever compiles the outer function."""

    def function(w, x):
        return jnp.tanh(x @ w).sum()

    args = normal(0, 16, 16), normal(1, 32, 16)
    lowered = lower(function, args, "dp", donate=True, nested=nested)
    if nested:
        outer = jax.jit(lambda w, x: 2 * lowered.jitted(w, x)[0])
        close(outer(*args), 2 * function(*args))
        gradient = jax.grad(lambda w, x: lowered.jitted(w, x)[0])(*args)
        close(gradient, jax.grad(function)(*args))
    else:
        close(lowered.run(), function(*args))


def test_a_program_is_traced_with_its_own_settings(lower):
    def function(w, x):
        with jax.default_matmul_precision("highest"):
            return x @ w

    lowered = lower(function, (normal(0, 16, 16), normal(1, 8, 16)), "dp")
    assert "HIGHEST" in str(lowered.jaxpr)
    assert "HIGHEST" in str(trace(function, (normal(0, 16, 16), normal(1, 8, 16))).ops[2].params)
