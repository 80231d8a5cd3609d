"""Ops are named by structure: not by parameters, lines, literals or the order of a tree."""

import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import optax
import pytest

from autoshard.tracing import find_structure, trace

STEP = """
import jax, jax.numpy as jnp, optax

optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw({rate}))

def step(params, moments, x):
    def loss(p):
        layers = [p[name] for name in {names}]
        def layer(x, _):
            for w, b in layers:
                x = jax.nn.gelu(x @ w + b[None])
            return x, jnp.sum(x)
        y, sums = jax.lax.scan(layer, x, length=3)
        return jnp.mean(y ** 2) + jnp.mean(sums)
    value, grads = jax.value_and_grad(loss)(params)
    updates, moments = optimizer.update(grads, moments, params)
    return optax.apply_updates(params, updates), moments, value

params = {{name: (jnp.ones(({width}, {width})), jnp.ones(({width},))) for name in {names}}}
arguments = (params, optimizer.init(params), jnp.ones((8, {width})))
"""


def program(names=("a", "b", "c"), rate=1e-3, width=4):
    scope = {}
    exec(STEP.format(names=tuple(names), rate=rate, width=width), scope)
    return trace(scope["step"], scope["arguments"])


def where(traced):
    """Name of each argument → its path."""
    paths = [leaf.path for leaf in traced.arguments]
    return dict(zip(traced.structure.arguments, paths, strict=True))


def test_every_op_has_a_name_of_its_own():
    structure = program().structure
    assert len(set(structure.ops.values())) == len(structure.ops)
    # Nothing in a network is interchangeable, not even the moments of two equal layers; only in
    # the sum of a global norm it does not matter what is added first.
    alike = {name.split("/")[0] for name in structure.ops.values() if not name.endswith("/0")}
    assert alike <= {"add"}
    assert all(name.endswith("/0") for name in (*structure.arguments, *structure.results))


def test_a_new_process_finds_the_same_names():
    code = STEP.format(names=("a", "b", "c"), rate=1e-3, width=4) + (
        "from autoshard.tracing import trace\n"
        "s = trace(step, arguments).structure\n"
        "print(s.digest, hash(tuple(sorted(s.ops.values()))) and sorted(s.ops.values()))\n"
    )
    structure = program().structure
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu", "PATH": ""},
        )
        assert done.stdout.strip() == f"{structure.digest} {sorted(structure.ops.values())}"


def test_renamed_parameters_are_found_in_another_order():
    """`z` comes last in the tree where `a` came first; a global norm adds up in another order."""
    before, after = program("abc"), program("zbc")
    assert before.structure.digest == after.structure.digest
    renamed = {old: where(after)[name] for name, old in where(before).items()}
    assert renamed["params/a/0"] == "params/z/0"
    assert renamed["params/b/1"] == "params/b/1"
    moments = [path for path in renamed if "mu/a" in path]
    assert moments
    assert all(renamed[path] == path.replace("/a/", "/z/") for path in moments)


def test_permuted_names_follow_the_use_of_the_arrays():
    renamed = {old: where(program("cab"))[n] for n, old in where(program("abc")).items()}
    assert [renamed[f"params/{x}/0"] for x in "abc"] == [f"params/{x}/0" for x in "cab"]


def test_the_values_of_literals_do_not_count():
    assert program(rate=1e-3).structure.digest == program(rate=3e-4).structure.digest


@pytest.mark.parametrize(
    "other",
    [
        {"width": 8},
        {"names": "abcd"},
        {"names": "ab"},
    ],
)
def test_another_program_has_another_digest(other):
    assert program().structure.digest != program(**other).structure.digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, y: jnp.tanh(x) - x, lambda x, y: x - jnp.tanh(x)),
        (lambda x, y: jnp.tanh(x) * y, lambda x, y: jnp.sin(x) * y),
        (lambda x, y: x @ y[:, :2], lambda x, y: x @ y[:, 2:]),
        (lambda x, y: (x * y).sum(0), lambda x, y: (x * y).sum(1)),
        (lambda x, y: jax.checkpoint(lambda z: z * y)(x), lambda x, y: x * y),
        (
            lambda x, y: jax.lax.scan(lambda c, _: (c * y, None), x, length=2)[0],
            lambda x, y: jax.lax.scan(lambda c, _: (c * y, None), x, length=3)[0],
        ),
        (
            lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: y),
            lambda x, y: jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: y * 2),
        ),
    ],
)
def test_what_is_computed_counts(one, other):
    arguments = (jnp.ones((4, 4)), jnp.ones((4, 4)))
    digests = {find_structure(trace(f, arguments)).digest for f in (one, one, other)}
    assert len(digests) == 2


def test_interchangeable_arrays_are_counted():
    """Two arrays that only decay are alike in everything but their name."""
    structure = trace(
        lambda s: {k: 0.9 * v for k, v in s.items()}, ({"p": jnp.ones(4), "q": jnp.ones(4)},)
    )
    ends = Counter(name.rpartition("/")[2] for name in structure.structure.arguments)
    assert ends == {"0": 1, "1": 1}


def test_signatures_count_what_looks_alike():
    traced = trace(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w), (jnp.ones((4, 8)), jnp.ones((8, 8))))
    counts = {look.split(" #")[0]: s.count for look, s in traced.structure.signatures.items()}
    assert counts["dot_general(float32[4,8], float32[8,8]) -> float32[4,8]"] == 2
    assert sum(counts.values()) == len(traced.ops)


def test_a_planned_op_is_not_told_apart_by_the_devices_of_a_mesh():
    """A user's own constraint is named by axes: it may be planned for devices elsewhere."""

    def constrained(devices):
        mesh = jax.sharding.Mesh(jax.devices()[devices], ("x",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        return trace(lambda x: jax.lax.with_sharding_constraint(x * 2, sharding), (jnp.ones(8),))

    one, other, fewer = (constrained(slice(*s)) for s in ((0, 4), (4, 8), (0, 2)))
    assert one.structure.digest == other.structure.digest
    assert one.structure.digest != fewer.structure.digest


def test_optax_state_of_any_optimizer_is_told_apart():
    for optimizer in (optax.sgd(0.1, momentum=0.9), optax.lion(1e-3), optax.adafactor(1e-3)):
        params = {name: jnp.ones((128, 128)) for name in "abc"}

        def step(params, state, x, optimizer=optimizer):
            grads = jax.grad(lambda p: jnp.mean((x @ p["a"] @ p["b"] @ p["c"]) ** 2))(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        structure = trace(step, (params, optimizer.init(params), jnp.ones((8, 128)))).structure
        alike = [n for n in structure.arguments if not n.endswith("/0")]
        assert len(alike) <= 8, alike  # adafactor keeps placeholders that nothing reads
