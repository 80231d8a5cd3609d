"""Constants and PRNG-key chains are repeated for each use; everything else is shared."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from autoshard.tracing import Program, trace
from autoshard.tracing._split import MAX_CHAIN, is_key

V = jax.ShapeDtypeStruct((4, 8), jnp.float32)
RAW = jax.ShapeDtypeStruct((2,), jnp.uint32)


@pytest.fixture
def key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))


def producers(program: Program, primitive: str) -> Counter[str]:
    """How many ops there are of a primitive, and how many readers each of their results has."""
    found = Counter()
    for op in program.ops:
        if op.primitive == primitive:
            found["ops"] += 1
            found["most readers"] = max(
                found["most readers"], *(len(program.consumers[r]) for r in op.results)
            )
    return found


@pytest.mark.parametrize(
    ("make", "primitive"),
    [
        (lambda: jnp.full((4, 8), 2.5), "broadcast_in_dim"),
        (lambda: jnp.zeros((8, 4)).T, "transpose"),
        (lambda: jax.lax.broadcasted_iota(jnp.float32, (4, 8), 1), "iota"),
        (lambda: jnp.arange(32).reshape(4, 8).astype(jnp.float32), "reshape"),
    ],
)
def test_constants_are_split(make, primitive):
    def function(a, b, c):
        constant = make()
        return a + constant, b * constant, c - constant, constant

    program = trace(function, (V, V, V))
    assert producers(program, primitive) == {"ops": 4, "most readers": 1}


def test_a_broadcast_scalar_is_split_but_the_scalar_is_shared():
    def function(scale, a, b):
        spread = jnp.broadcast_to(jnp.sin(scale), (4, 8))
        return a * spread, b * spread

    program = trace(function, (jax.ShapeDtypeStruct((), jnp.float32), V, V))
    assert producers(program, "broadcast_in_dim") == {"ops": 2, "most readers": 1}
    assert producers(program, "sin") == {"ops": 1, "most readers": 2}


def test_one_op_that_reads_a_constant_twice_gets_two():
    program = trace(lambda a: jnp.full((4, 8), 2.0) ** 2 * a, (V,))
    assert producers(program, "broadcast_in_dim")["most readers"] == 1


def test_computed_arrays_are_shared():
    def function(a):
        row = jnp.broadcast_to(a[:1], (4, 8))  # neither a constant nor a scalar
        total = jnp.zeros((4, 8)) + a
        return row + total, row * total

    program = trace(function, (V,))
    assert producers(program, "broadcast_in_dim")["most readers"] == 2
    assert producers(program, "add") == {"ops": 2, "most readers": 2}


def test_constants_in_a_loop_body_are_split_there():
    def function(x):
        def body(c, _):
            ones = jnp.full((4, 8), 3.0)
            return c * ones + ones, None

        return jax.lax.scan(body, x, None, length=3)[0]

    program = trace(function, (V,))
    assert producers(program, "broadcast_in_dim") == {"ops": 2, "most readers": 1}
    assert {op.count for op in program.ops if op.primitive == "broadcast_in_dim"} == {3}


def test_a_constant_read_by_a_loop_is_split_before_it():
    def function(x):
        ones = jnp.full((4, 8), 3.0)
        out = jax.lax.scan(lambda c, _: (c * ones + ones, None), x, None, length=3)[0]
        return out + ones

    program = trace(function, (V,))
    assert producers(program, "broadcast_in_dim")["most readers"] == 1
    assert {op.parent for op in program.ops if op.primitive == "broadcast_in_dim"} == {None}


@pytest.mark.parametrize("raw", [False, True])
def test_key_chains_are_split(raw, key):
    def function(key, a, b):
        first, second = jax.random.split(key)
        dropout = jax.random.fold_in(first, 7)
        noise = jax.random.normal(dropout, (4, 8)), jax.random.normal(dropout, (4, 8))
        return a + noise[0], b + noise[1], jax.random.uniform(second, (4, 8))

    program = trace(function, (RAW if raw else key, V, V))
    # Keys are taken apart by slices (jax 0.10) or by one op (jax 0.11).
    taken_apart = "unstack" if producers(program, "unstack") else "slice"
    for primitive in ("random_split", "random_fold_in", taken_apart):
        assert producers(program, primitive)["most readers"] == 1, primitive
    assert producers(program, "random_split")["ops"] == 3
    assert producers(program, "random_fold_in")["ops"] == 2
    # The random numbers themselves are made once for each request.
    assert producers(program, "random_bits")["ops"] == 3


def test_a_seed_is_split():
    def function(a, b):
        key = jax.random.key(3)
        return a + jax.random.normal(key, (4, 8)), b + jax.random.normal(key, (4, 8))

    program = trace(function, (V, V))
    assert producers(program, "random_seed") == {"ops": 2, "most readers": 1}


def test_keys_that_are_data_are_shared():
    """A large batch of keys is an array like others."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4096))

    def function(keys):
        rolled = keys.reshape(64, 64)
        return rolled[0], rolled.T

    program = trace(function, (keys,))
    assert producers(program, "reshape") == {"ops": 1, "most readers": 2}


@pytest.mark.parametrize("raw", [False, True])
def test_a_key_that_is_split_at_every_layer_costs_linearly(raw, key):
    def count(layers):
        def function(key, x):
            for _ in range(layers):
                key, sub = jax.random.split(key)
                x = x * jax.random.uniform(sub, (4, 8))
            return x

        program = trace(function, (RAW if raw else key, V))
        assert producers(program, "random_bits")["ops"] == layers
        return len(program.ops)

    short, long = count(40), count(160)
    assert long < 4.2 * short
    assert count(160) < 160 * (count(1) + MAX_CHAIN)


def test_a_constant_that_doubles_does_not_explode():
    def function(x):
        table = jnp.zeros((1, 8))
        for _ in range(12):
            table = jnp.concatenate([table, table])
        return x + table[:4]

    program = trace(function, (V,))
    assert len(program.ops) < 12 * MAX_CHAIN


def test_is_key(key):
    assert is_key(key)
    assert not is_key(RAW)
    assert not is_key(object())
